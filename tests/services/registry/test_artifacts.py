"""A registry in a folder that is moved or copied finds its own files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.registry.tracking import start_run

NAME = "stylereel-frame-encoder"


def fill(folder: Path, config: RegistryConfig, model: Path) -> str:
    """A registry in a folder, with a run that has an image and a registered model; returns the run's id."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with start_run("train", {}, uri, config, folder / "unsent") as run:
        run.log_image("sheet", np.zeros((2, 2, 3), np.uint8))
        run.log_model(model)
    ModelRegistry(uri, folder / "cache", config).register_run(run.run_id, NAME)
    return run.run_id


def test_a_moved_registry_answers_from_where_it_is(
    tmp_path: Path, empty_database: Path, registry_config: RegistryConfig, toy_model: Callable[..., Path]
) -> None:
    old, new = tmp_path / "old place", tmp_path / "new place"
    old.mkdir()
    shutil.copy(empty_database, old / "mlflow.db")
    run_id = fill(old, registry_config, toy_model(1))
    old.rename(new)
    moved = ModelRegistry(f"sqlite:///{new / 'mlflow.db'}", tmp_path / "cache", registry_config)
    assert (moved.download(moved.resolve(NAME, "challenger")) / "card.md").read_text() == "# Toy 1\n"
    with moved.connection.reach() as client:
        assert [f.path for f in client.list_artifacts(run_id, "images")] == ["images/sheet.png"]
    made = moved.register(toy_model(2), NAME)
    assert made.version == "2" and moved.download(made).is_dir()
    assert not old.exists(), "nothing is written to where it was"


def test_a_copy_has_files_of_its_own(
    tmp_path: Path, empty_database: Path, registry_config: RegistryConfig, toy_model: Callable[..., Path]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    shutil.copy(empty_database, first / "mlflow.db")
    run_id = fill(first, registry_config, toy_model(1))
    shutil.copytree(first, second)
    copy = ModelRegistry(f"sqlite:///{second / 'mlflow.db'}", tmp_path / "cache", registry_config)
    with copy.connection.reach() as client:
        assert client.get_run(run_id).info.artifact_uri.startswith((second / "mlflow-artifacts").as_uri())
    original = ModelRegistry(f"sqlite:///{first / 'mlflow.db'}", tmp_path / "cache", registry_config)
    with original.connection.reach() as client:
        assert client.get_run(run_id).info.artifact_uri.startswith((first / "mlflow-artifacts").as_uri())


def test_a_database_without_its_files_is_left_as_it_is(
    tmp_path: Path, empty_database: Path, registry_config: RegistryConfig, toy_model: Callable[..., Path]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shutil.copy(empty_database, first / "mlflow.db")
    run_id = fill(first, registry_config, toy_model(1))
    shutil.copy(first / "mlflow.db", second / "mlflow.db")
    alone = ModelRegistry(f"sqlite:///{second / 'mlflow.db'}", tmp_path / "cache", registry_config)
    with alone.connection.reach() as client:
        assert [f.path for f in client.list_artifacts(run_id, "images")] == ["images/sheet.png"]
