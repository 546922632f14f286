"""A registered model deleted for good: versions, files, downloads, and what MLflow says of them elsewhere."""

from __future__ import annotations

import json

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from datamodules.disk import remove_tree
from datamodules.types import BadInputError
from modules.model_folder import CONFIG
from services.registry.errors import RegistryUnavailableError
from services.registry.store import EVALUATED_ON, ModelStore, RegisteredVersion, registering

_PAGE = 50_000
"""The most runs that MLflow lists at once."""
_FORGOTTEN = "forgotten"
"""What the run of a forgotten version is called."""
_OF_MLFLOW = "mlflow."
"""Begins the names of tags that MLflow sets itself."""


def clips_behind(store: ModelStore, name: str) -> frozenset[str]:
    """Sha256 of the clips that the versions of an adaptation were learned from; empty where none is registered.

    Raises ``RegistryUnavailableError``.
    """
    return frozenset(sha256 for version in store.versions(name) if (sha256 := _clip_behind(store, version)))


def forget_model(store: ModelStore, name: str) -> int:
    """Delete a registered model: versions, files of its runs, downloads; returns how many versions there were.

    So are runs and models of registrations that were stopped before there was a version; one that is under way
    must have ended before.

    MLflow itself keeps a deleted version's files, and the rows of its run and model: the files are deleted here,
    and the rows no longer say whose they were. Deleting what is not there is no error. Raises
    ``RegistryUnavailableError``, and ``BadInputError`` for a name that nothing can be registered under.
    """
    versions, experiments = store.versions(name), [store.connection.experiment_id()]
    with store.connection.reach() as client:
        for version in versions:
            found = client.get_model_version(name, version.version)
            _delete_files(store, str(found.source))
            if found.model_id:
                _unname_model(client, found.model_id)
                client.delete_logged_model(found.model_id)
            if found.run_id:
                _forget_run(store, client, found.run_id)
        # A registration that was stopped half-way left a run, and perhaps a model, without a version.
        left = f"attributes.run_name = '{registering(name)}'"
        for run in client.search_runs(experiments, left, ViewType.ALL, max_results=_PAGE):
            run_id = run.info.run_id
            for model in client.search_logged_models(experiments, f"source_run_id = '{run_id}'"):
                _delete_files(store, str(model.artifact_location))
                _unname_model(client, model.model_id)
                client.delete_logged_model(model.model_id)
            _forget_run(store, client, run_id)
        if client.search_registered_models(f"name = '{name}'", max_results=1):
            client.delete_registered_model(name)
    remove_tree(store.cache / name)
    for lock in store.cache.glob(f".{name}.*"):  # of its promotions: the file's name is the person's
        lock.unlink(missing_ok=True)
    return len(versions)


def _clip_behind(store: ModelStore, version: RegisteredVersion) -> str | None:
    try:
        config = json.loads((store.download(version) / CONFIG).read_text())
        return str(config["source"]["sha256"])
    except (BadInputError, RegistryUnavailableError, OSError, ValueError, KeyError, TypeError):
        # Its files are damaged or gone, or the disk is full; 'adapt' measures on the clip that it learned from.
        return version.tags.get(EVALUATED_ON)


def _delete_files(store: ModelStore, place: str) -> None:
    uri = store.connection.uri  # else the process-wide one, which is another or none
    get_artifact_repository(place, uri, uri).delete_artifacts()  # type: ignore[no-untyped-call]


def _forget_run(store: ModelStore, client: MlflowClient, run_id: str) -> None:
    info = client.get_run(run_id).info
    if info.lifecycle_stage == LifecycleStage.DELETED:  # by hand: its files and its name stayed
        client.restore_run(run_id)
    _delete_files(store, str(info.artifact_uri))
    _unname_run(client, run_id)
    client.delete_run(run_id)


def _unname_run(client: MlflowClient, run_id: str) -> None:
    """Parameters stay, as MLflow deletes none; 'register' logs none."""
    client.update_run(run_id, name=_FORGOTTEN)
    for tag in client.get_run(run_id).data.tags:
        if not tag.startswith(_OF_MLFLOW):
            client.delete_tag(run_id, tag)


def _unname_model(client: MlflowClient, model_id: str) -> None:
    """One of MLflow's own tags lists the versions that a logged model is registered as, by name."""
    for tag in client.get_logged_model(model_id).tags:
        client.delete_logged_model_tag(model_id, tag)
