"""An embedded registry per test, from one database whose tables are made once, and small real model folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pipeline_toys import clip, finder, picture, toy_models

from modules.model_folder import load_model, save_model
from services.registry.connection import Connection, RegistryConfig
from services.registry.gate import Evaluation, GateConfig
from services.registry.promote import ModelRegistry

GENERATOR = "a" * 64
__all__ = ["clip", "finder", "picture", "toy_models"]


@pytest.fixture(scope="session")
def registry_config() -> RegistryConfig:
    return RegistryConfig(experiment="test", timeout_seconds=2, retries=0, keep_versions=2)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, registry_config: RegistryConfig) -> Path:
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with Connection(f"sqlite:///{database}", registry_config).reach():
        pass
    return database


@pytest.fixture
def tracking_uri(tmp_path: Path, empty_database: Path) -> str:
    database = tmp_path / "var" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    return f"sqlite:///{database}"


@pytest.fixture
def unsent(tmp_path: Path) -> Path:
    """Where runs put what the registry cannot take."""
    return tmp_path / "unsent"


@pytest.fixture
def registry(tmp_path: Path, tracking_uri: str, registry_config: RegistryConfig) -> ModelRegistry:
    return ModelRegistry(tracking_uri, tmp_path / "cache", registry_config)


@pytest.fixture
def toy_model(tmp_path: Path) -> Callable[..., Path]:
    """A model folder whose one tensor holds ``value``."""

    def make(value: float, generator: str | None = GENERATOR, kind: str = "frame-encoder") -> Path:
        config = {"kind": kind} | ({"generator_sha256": generator} if generator else {})
        folder = tmp_path / "made" / f"{value}-{generator}-{kind}"
        return save_model(folder, config, {"weight": torch.full((4,), float(value))}, f"# Toy {value}\n")

    return make


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """An evaluation of a model folder with one metric, psnr."""

    def make(folder: Path, psnr: float, data: str = "clips-1") -> Evaluation:
        model = load_model(folder)
        return Evaluation(
            model_sha256=model.weights_sha256,
            config_sha256=model.config_sha256,
            generator_sha256=model.config.get("generator_sha256", GENERATOR),
            data_hash=data,
            metrics={"psnr": psnr},
            higher_is_better={"psnr": True},
            frames=10,
            clips=2,
            created="2026-01-01T00:00:00+00:00",
        )

    return make


@pytest.fixture
def gate() -> GateConfig:
    return GateConfig(floors={"psnr": 10.0}, tolerances={"psnr": 0.5}, min_frames=5, min_clips=1)
