"""Model folders in and out of the registry: registered with an evaluation, resolved, downloaded, verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model

from datamodules.types import BadInputError
from modules.model_folder import ModelFolder, load_model
from services.model_names import ADAPTATION, NAMES, is_adaptation, require_kind
from services.registry.connection import Connection, RegistryConfig
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError
from services.registry.gate import Evaluation

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ROLLED_BACK = "rolled_back"
EVALUATED_ON = "evaluated_on"
"""Tag of a version: the data of its latest evaluation."""
_RESERVED = {"sha256", "config_sha256", "kind", "generator_sha256", ROLLED_BACK, EVALUATED_ON}
_ARTIFACT = "model"
_PART = ".part-"


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model, as its tags describe it."""

    name: str
    version: str
    sha256: str
    """Of the weights."""
    config_sha256: str
    """Of the bytes of ``config.json``."""
    kind: str
    """What architecture the folder holds."""
    generator_sha256: str | None
    """The generator it belongs to, None where it belongs to none."""
    created: str
    """UTC, ISO 8601."""
    tags: Mapping[str, str]
    """All tags, the caller's own among them."""

    @property
    def identity(self) -> str:
        """As ``ModelFolder.identity``."""
        return f"{self.sha256} {self.config_sha256}"

    def evaluation(self, data_hash: str | None = None) -> Evaluation | None:
        """The evaluation on ``data_hash``, or the latest one; None where there is none that can be read."""
        text = self.tags.get(_evaluation_tag(data_hash or self.tags.get(EVALUATED_ON, "")))
        try:
            return None if text is None else Evaluation.from_json(text)
        except BadInputError:  # of a version of before that said less: as good as not measured
            return None


class ModelStore:
    """The registry as a shelf of model folders. Making one connects to nothing.

    ``tracking_uri`` is any MLflow address; ``sqlite:///FILE`` is an embedded registry whose files lie in a
    folder beside it. ``cache`` is the local folder that versions are downloaded to. Every method may raise
    ``RegistryUnavailableError``, and ``BadInputError`` for names that are not in ``NAMES``.
    """

    def __init__(self, tracking_uri: str, cache: Path, config: RegistryConfig) -> None:
        self.connection = Connection(tracking_uri, config)
        self.cache = cache
        self.config = config

    def register(
        self,
        folder: Path,
        name: str,
        evaluation: Evaluation | None = None,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> RegisteredVersion:
        """Put a model folder into the registry and make it the challenger; returns its version.

        A folder that is already there keeps its version and has its evaluation renewed; it becomes
        challenger again unless it was rolled back. ``run_id`` is the run that made it, a new run without one.
        Raises ``BadInputError`` for a damaged folder and for an evaluation of other weights.
        """
        return self._enter(folder, name, evaluation, dict(tags or {}), run_id, None)

    def register_run(
        self, run_id: str, name: str, evaluation: Evaluation | None = None, tags: Mapping[str, str] | None = None
    ) -> RegisteredVersion:
        """Register the model folder that a run logged, the last one where it logged several.

        Raises ``BadInputError`` where the run logged none; nothing is left behind in the registry then.
        """
        check_name(name)
        with self.connection.reach() as client:
            outputs = client.get_run(run_id).outputs
            logged = [client.get_logged_model(o.model_id) for o in outputs.model_outputs] if outputs else []
        if not logged:
            raise BadInputError(f"run {run_id} logged no model: log a model folder in it, or register the folder")
        last = max(logged, key=lambda model: model.creation_timestamp)
        with tempfile.TemporaryDirectory() as scratch:
            folder = self._fetch(last.artifact_location, Path(scratch))
            return self._enter(folder, name, evaluation, dict(tags or {}), run_id, last.model_id)

    def resolve(self, name: str, alias: str = CHAMPION) -> RegisteredVersion:
        """The version that an alias points to; raises ``NoSuchVersionError`` where it points to none."""
        check_name(name)
        try:
            with self.connection.reach() as client:
                return _version(client.get_model_version_by_alias(name, alias))
        except BadInputError as error:
            raise NoSuchVersionError(
                f"{name} has no {alias}; 'stylereel status' shows what there is, "
                "'stylereel register' and 'stylereel promote' make one"
            ) from error

    def version(self, name: str, version: str) -> RegisteredVersion:
        """A version by its number; raises ``NoSuchVersionError``."""
        check_name(name)
        try:
            with self.connection.reach() as client:
                return _version(client.get_model_version(name, version))
        except BadInputError as error:
            raise NoSuchVersionError(f"{name} has no version {version}; 'stylereel status' shows them") from error

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions, the newest first; empty where the model is not registered."""
        check_name(name)
        with self.connection.reach() as client:
            found = client.search_model_versions(f"name = '{name}'")
        return sorted((_version(v) for v in found), key=lambda v: int(v.version), reverse=True)

    def download_weights(self, name: str, sha256: str) -> Path | None:
        """The folder of the newest version that has these weights, as ``download`` gives it; None for none.

        Where the registry is down, one in the local cache is taken.
        """
        try:
            known = [version for version in self.versions(name) if version.sha256 == sha256]
        except RegistryUnavailableError:
            for folder in (self.cache / name).glob(f"*-{sha256[:12]}"):
                with suppress(BadInputError):
                    if load_model(folder).weights_sha256 == sha256:
                        return folder
            raise
        return self.download(known[0]) if known else None

    def subjects(self) -> list[str]:
        """The registered names of all subjects' adaptations."""
        with self.connection.reach() as client:
            found = client.search_registered_models(f"name LIKE '{ADAPTATION}-%'", max_results=1000)
        return sorted(model.name for model in found)

    def evaluate(self, version: RegisteredVersion, evaluation: Evaluation) -> RegisteredVersion:
        """Keep an evaluation with a version, beside those on other data; returns the version with it."""
        _check_evaluation(evaluation, version.tags, version.name)
        with self.connection.reach() as client:
            _tag(client, version, _evaluation_tag(evaluation.data_hash), evaluation.to_json())
            _tag(client, version, EVALUATED_ON, evaluation.data_hash)
        return self.version(version.name, version.version)

    def download(self, version: RegisteredVersion) -> Path:
        """The version's model folder in the local cache, verified; fetched only where it is not there yet.

        Raises ``BadInputError`` where what the registry holds is not what was registered.
        """
        place = self.cached_folder(version)
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.parent / ".lock"):
            if is_intact(place, version.sha256, version.config_sha256):
                os.utime(place)  # 'prune' drops the versions that were longest not asked for
                return place
            for left in place.parent.glob(f"{_PART}*"):  # of a download that was killed: the lock is ours
                shutil.rmtree(left)
            scratch = Path(tempfile.mkdtemp(prefix=_PART, dir=place.parent))
            try:
                with self.connection.reach() as client:
                    source = client.get_model_version_download_uri(version.name, version.version)
                folder = self._fetch(source, scratch)
                if not is_intact(folder, version.sha256, version.config_sha256):
                    raise BadInputError(
                        f"{version.name} version {version.version} in the registry is not what was registered "
                        f"(weights {version.sha256[:12]}): register the model again"
                    )
                if place.exists():
                    shutil.rmtree(place)
                folder.rename(place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return place

    def prune(self, name: str, keep: Path) -> None:
        """Drop all but the last used ``keep_versions`` downloads of a model; ``keep`` stays in any case."""
        with FileLock(self.cache / name / ".lock"):
            folders = [f for f in (self.cache / name).iterdir() if f.is_dir() and not f.name.startswith(".")]
            by_use = sorted((f for f in folders if f != keep), key=lambda f: f.stat().st_mtime, reverse=True)
            for old in by_use[self.config.keep_versions - 1 :]:
                shutil.rmtree(old)

    def cached_folder(self, version: RegisteredVersion) -> Path:
        """Where ``download`` puts a version; the hash keeps two registries' version 1 apart."""
        return self.cache / version.name / f"{version.version}-{version.sha256[:12]}"

    def _enter(
        self,
        folder: Path,
        name: str,
        evaluation: Evaluation | None,
        own: Mapping[str, str],
        run_id: str | None,
        model_id: str | None,
    ) -> RegisteredVersion:
        check_name(name)
        model = load_model(folder)
        require_kind(model.config, name)
        described = _describe(model)
        if reserved := own.keys() & _RESERVED:
            raise BadInputError(
                f"the tags {', '.join(sorted(reserved))} are the registry's own: name yours otherwise"
            )
        _check_evaluation(evaluation, described, name)
        found = self._same(name, described)
        if found is None:
            if run_id is None or model_id is None:
                model_id, run_id = self._log(folder, name, model, evaluation, run_id)
            found = self._create_version(name, model_id, run_id, {**own, **described})
        return self._challenge(found, evaluation, own)

    def _fetch(self, source: str, scratch: Path) -> Path:
        uri = self.connection.uri
        with self.connection.reach():
            whole = Path(download_artifacts(source, dst_path=str(scratch), tracking_uri=uri, registry_uri=uri))
        try:
            carried = Model.load(str(whole)).flavors["python_function"]["artifacts"][_ARTIFACT]["path"]
        except (KeyError, TypeError) as error:
            raise BadInputError(f"{source} was not registered by stylereel: it carries no model folder") from error
        return whole / str(carried)

    def _log(
        self, folder: Path, name: str, model: ModelFolder, evaluation: Evaluation | None, run_id: str | None
    ) -> tuple[str, str]:
        experiment = self.connection.experiment_id()
        with self.connection.reach() as client:
            if run_id is not None:
                return log_model_folder(client, experiment, run_id, folder), run_id
            run_id = client.create_run(
                experiment, run_name=registering(name), tags={"stage": "register"}
            ).info.run_id
            state = "FAILED"
            try:
                if evaluation is not None:
                    client.log_text(run_id, evaluation.to_json(), "evaluation.json")
                    for metric, value in evaluation.metrics.items():
                        client.log_metric(run_id, metric, value)
                client.log_text(run_id, model.card, "card.md")
                model_id = log_model_folder(client, experiment, run_id, folder)
                state = "FINISHED"
            finally:
                client.set_terminated(run_id, state)
            return model_id, run_id

    def _create_version(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> RegisteredVersion:
        with self.connection.reach() as client:
            fresh = not client.search_registered_models(f"name = '{name}'", max_results=1)
            if fresh:
                client.create_registered_model(name)
            try:
                # Not 'models:/ID': MLflow would look that up at its process-wide address, not at this one.
                source = client.get_logged_model(model_id).artifact_location
                made = client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id)
            except BaseException:
                if fresh:
                    client.delete_registered_model(name)
                raise
            return _version(made)

    def _same(self, name: str, described: Mapping[str, str]) -> RegisteredVersion | None:
        wanted = (described["sha256"], described["config_sha256"])
        return next((v for v in self.versions(name) if (v.sha256, v.config_sha256) == wanted), None)

    def _challenge(
        self, version: RegisteredVersion, evaluation: Evaluation | None, own: Mapping[str, str]
    ) -> RegisteredVersion:
        with self.connection.reach() as client:
            for key, value in own.items():
                _tag(client, version, key, value)
            aliases = {alias: str(v) for alias, v in client.get_registered_model(version.name).aliases.items()}
            # A champion that is measured anew takes no challenger's place.
            settled = aliases.get(CHAMPION) == version.version and CHALLENGER in aliases
            if ROLLED_BACK not in version.tags and not settled:
                client.set_registered_model_alias(version.name, CHALLENGER, version.version)
        if evaluation is not None:
            return self.evaluate(version, evaluation)
        return self.version(version.name, version.version)


def registering(name: str) -> str:
    """What the runs are called that only carry a model into the registry."""
    return f"register {name}"


def log_model_folder(client: MlflowClient, experiment_id: str, run_id: str, folder: Path) -> str:
    """Log a model folder as an output of a run, carried by ``pyfunc_model.py``; returns the logged model's id."""
    logged = client.create_logged_model(experiment_id, name=_ARTIFACT, source_run_id=run_id)
    state = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "pyfunc"
            mlflow.pyfunc.save_model(
                path=str(whole),
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={_ARTIFACT: str(folder)},
                pip_requirements=[f"mlflow=={mlflow.__version__}"],
                mlflow_model=Model(model_id=logged.model_id, run_id=run_id),
            )
            client.log_model_artifacts(logged.model_id, str(whole))
        state = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(logged.model_id, state)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def is_intact(folder: Path, sha256: str, config_sha256: str) -> bool:
    """Whether a model folder is there, can be read, and has these hashes."""
    try:
        described = _describe(load_model(folder))
    except BadInputError:
        return False
    return (described["sha256"], described["config_sha256"]) == (sha256, config_sha256)


def _describe(model: ModelFolder) -> dict[str, str]:
    described = {
        "sha256": model.weights_sha256,
        "config_sha256": model.config_sha256,
        "kind": str(model.config["kind"]),
    }
    generator = model.config.get("generator_sha256")
    return described if generator is None else {**described, "generator_sha256": str(generator)}


def _version(found: Any) -> RegisteredVersion:
    tags = dict(found.tags)
    return RegisteredVersion(
        name=found.name,
        version=str(found.version),
        sha256=tags.get("sha256", ""),
        config_sha256=tags.get("config_sha256", ""),
        kind=tags.get("kind", ""),
        generator_sha256=tags.get("generator_sha256"),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(),
        tags=tags,
    )


def _evaluation_tag(data_hash: str) -> str:
    return f"evaluation.{hashlib.sha256(data_hash.encode()).hexdigest()[:16]}"


def _tag(client: MlflowClient, version: RegisteredVersion, key: str, value: str) -> None:
    client.set_model_version_tag(version.name, version.version, key, value)


def check_name(name: str) -> None:
    """Raise ``BadInputError`` for a name that nothing can be registered under."""
    if name not in NAMES and not is_adaptation(name):
        raise BadInputError(f"no registered model is called {name!r}; there are {', '.join(NAMES)}")


def _check_evaluation(evaluation: Evaluation | None, described: Mapping[str, str], name: str) -> None:
    if evaluation is None:
        return
    if evaluation.model_sha256 != described["sha256"]:
        raise BadInputError(
            f"the evaluation is of weights {evaluation.model_sha256}, not of {name}'s {described['sha256']}: "
            "run 'stylereel evaluate' on this model"
        )
    if evaluation.config_sha256 != described["config_sha256"]:
        raise BadInputError(
            f"the evaluation is of these weights with another config ({evaluation.config_sha256[:12]}), where "
            f"{name} has {described['config_sha256'][:12]}: units or bounds are others, so measure this model"
        )
    generator = described.get("generator_sha256")
    if generator is not None and evaluation.generator_sha256 != generator:
        raise BadInputError(
            f"the evaluation was made with generator {evaluation.generator_sha256}, "
            f"but {name} belongs to {generator}: run 'stylereel evaluate' with that one"
        )
