import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.types import BadInputError
from modules.model_folder import load_model, weights_sha256
from services.registry import forgetting
from services.registry.connection import Connection, RegistryConfig
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError, exit_code
from services.registry.forgetting import forget_model
from services.registry.gate import Evaluation
from services.registry.promote import ModelRegistry
from services.registry.store import CHALLENGER

NAME = "stylereel-frame-encoder"
Toy = Callable[..., Path]
Evaluate = Callable[..., Evaluation]


def test_a_registered_folder_comes_back_the_same(
    registry: ModelRegistry, toy_model: Toy, evaluation: Evaluate
) -> None:
    folder = toy_model(1)
    made = registry.register(folder, NAME, evaluation(folder, 12.5), {"made_by": "a test"})
    assert made == registry.resolve(NAME, CHALLENGER) == registry.version(NAME, "1")
    assert (made.kind, made.generator_sha256, made.tags["made_by"]) == ("frame-encoder", "a" * 64, "a test")
    assert made.evaluation() == evaluation(folder, 12.5)
    assert made.evaluation("other clips") is None

    got = registry.download(made)
    for file in ("config.json", "weights.safetensors", "card.md"):
        assert (got / file).read_bytes() == (folder / file).read_bytes()
    assert weights_sha256(load_model(got).tensors) == made.sha256


def test_weights_are_found_by_their_hash(registry: ModelRegistry, toy_model: Toy) -> None:
    folders = {value: toy_model(value) for value in (1, 2)}
    made = {value: registry.register(folder, NAME) for value, folder in folders.items()}
    found = registry.download_weights(NAME, made[1].sha256)
    assert found is not None and (found / "card.md").read_text() == (folders[1] / "card.md").read_text()
    assert registry.download_weights(NAME, "0" * 64) is None


def test_the_same_folder_keeps_its_version(registry: ModelRegistry, toy_model: Toy, evaluation: Evaluate) -> None:
    folder = toy_model(1)
    first = registry.register(folder, NAME)
    assert first.evaluation() is None
    again = registry.register(folder, NAME, evaluation(folder, 12.0, "clips-2"))
    assert again.version == first.version
    assert again.evaluation() == evaluation(folder, 12.0, "clips-2")
    other = registry.register(toy_model(1, "b" * 64), NAME)
    assert other.version == "2", "the same weights for another generator are another model"


def test_the_first_evaluation_stays_beside_the_second(
    registry: ModelRegistry, toy_model: Toy, evaluation: Evaluate
) -> None:
    folder = toy_model(1)
    registry.register(folder, NAME, evaluation(folder, 12.0, "clips-1"))
    both = registry.register(folder, NAME, evaluation(folder, 13.0, "clips-2"))
    assert both.evaluation("clips-1") == evaluation(folder, 12.0, "clips-1")
    assert both.evaluation() == both.evaluation("clips-2") == evaluation(folder, 13.0, "clips-2")


def test_mlflow_itself_reads_the_model(registry: ModelRegistry, toy_model: Toy) -> None:
    made = registry.register(toy_model(1), NAME)
    with registry.connection.reach() as client:
        place = client.get_model_version_download_uri(NAME, made.version)
    [answer] = mlflow.pyfunc.load_model(place).predict(["describe"])
    assert answer["card"] == "# Toy 1\n"
    assert load_model(Path(answer["folder"])).config["kind"] == "frame-encoder"
    assert not list(registry.connection.database.parent.rglob("*.pkl"))  # type: ignore[union-attr]


def test_an_evaluation_of_other_weights_config_or_generator_is_refused(
    registry: ModelRegistry, toy_model: Toy, evaluation: Evaluate
) -> None:
    one, two = toy_model(1), toy_model(2)
    with pytest.raises(BadInputError, match="evaluation is of weights"):
        registry.register(one, NAME, evaluation(two, 12.0))
    with pytest.raises(BadInputError, match="another config"):
        registry.register(one, NAME, replace(evaluation(one, 12.0), config_sha256="b" * 64))
    with pytest.raises(BadInputError, match="generator"):
        registry.register(one, NAME, replace(evaluation(one, 12.0), generator_sha256="b" * 64))
    assert registry.versions(NAME) == []


def test_bad_names_tags_and_folders_are_refused(registry: ModelRegistry, toy_model: Toy, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no registered model is called"):
        registry.register(toy_model(1), "encoder")
    with pytest.raises(BadInputError, match="registered as stylereel-directions; under stylereel-frame-"):
        registry.register(toy_model(1, kind="directions"), NAME)
    with pytest.raises(BadInputError, match="frame-encoder; under stylereel-adaptation-anna no"):
        registry.register(toy_model(1), "stylereel-adaptation-anna")
    with pytest.raises(BadInputError, match="registry's own"):
        registry.register(toy_model(1), NAME, tags={"sha256": "mine"})
    with pytest.raises(BadInputError, match="not a model folder"):
        registry.register(tmp_path, NAME)
    assert registry.versions(NAME) == []


def test_a_run_without_a_model_leaves_nothing_behind(registry: ModelRegistry) -> None:
    experiment = registry.connection.experiment_id()
    with registry.connection.reach() as client:
        run_id = client.create_run(experiment).info.run_id
    with pytest.raises(BadInputError, match="logged no model"):
        registry.register_run(run_id, NAME)
    with registry.connection.reach() as client:
        assert list(client.search_registered_models()) == []


def test_a_version_that_cannot_be_made_leaves_nothing_behind(
    registry: ModelRegistry, toy_model: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.create_model_version", fail)
        with pytest.raises(KeyboardInterrupt):
            registry.register(toy_model(1), NAME)
    with registry.connection.reach() as client:
        assert list(client.search_registered_models()) == []
    assert registry.register(toy_model(1), NAME).version == "1"


def test_what_is_not_there_is_said(registry: ModelRegistry, toy_model: Toy) -> None:
    with pytest.raises(NoSuchVersionError, match="has no champion"):
        registry.resolve(NAME)
    registry.register(toy_model(1), NAME)
    with pytest.raises(NoSuchVersionError, match="has no champion"):
        registry.resolve(NAME)
    with pytest.raises(NoSuchVersionError, match="no version 7") as caught:
        registry.version(NAME, "7")
    assert exit_code(caught.value) == 2


def test_a_damaged_cache_is_fetched_again(registry: ModelRegistry, toy_model: Toy) -> None:
    made = registry.register(toy_model(1), NAME)
    folder = registry.download(made)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3])
    assert registry.download(made) == folder
    assert weights.read_bytes() == whole


def test_a_model_changed_in_the_registry_is_refused(registry: ModelRegistry, toy_model: Toy) -> None:
    made = registry.register(toy_model(1), NAME)
    [stored] = (registry.connection.database.parent / "mlflow-artifacts").rglob("weights.safetensors")  # type: ignore[union-attr]
    tensors = load_file(stored)
    save_file({name: value + 1 for name, value in tensors.items()}, stored)
    with pytest.raises(BadInputError, match="not what was registered"):
        registry.download(made)
    assert [p.name for p in (registry.cache / NAME).iterdir()] == [".lock"]


def test_weights_in_the_cache_need_no_registry(
    registry: ModelRegistry, toy_model: Toy, registry_config: RegistryConfig
) -> None:
    made = registry.register(toy_model(1), NAME)
    registry.download(made)
    away = ModelRegistry("http://127.0.0.1:9", registry.cache, registry_config)
    found = away.download_weights(NAME, made.sha256)
    assert found is not None and weights_sha256(load_model(found).tensors) == made.sha256
    (found / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(RegistryUnavailableError):
        away.download_weights(NAME, made.sha256)


def test_two_registries_share_a_cache(
    registry: ModelRegistry, toy_model: Toy, tmp_path: Path, empty_database: Path, registry_config: RegistryConfig
) -> None:
    (tmp_path / "second").mkdir()
    shutil.copy(empty_database, tmp_path / "second" / "mlflow.db")
    second = ModelRegistry(f"sqlite:///{tmp_path / 'second' / 'mlflow.db'}", registry.cache, registry_config)
    one, two = registry.register(toy_model(1), NAME), second.register(toy_model(2), NAME)
    assert one.version == two.version
    assert torch.equal(load_model(registry.download(one)).tensors["weight"], torch.full((4,), 1.0))
    assert torch.equal(load_model(second.download(two)).tensors["weight"], torch.full((4,), 2.0))


def test_old_downloads_are_dropped(registry: ModelRegistry, toy_model: Toy) -> None:
    folders = [registry.download(registry.register(toy_model(i), NAME)) for i in range(4)]
    registry.prune(NAME, keep=folders[0])
    assert [folder.exists() for folder in folders] == [True, False, False, True]


@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:9", "text", "folder"])
def test_a_registry_that_is_down_is_said(
    uri: str, tmp_path: Path, toy_model: Toy, registry_config: RegistryConfig
) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be one")
    (tmp_path / "folder" / "mlflow.db").mkdir(parents=True)
    address = {
        "text": f"sqlite:///{tmp_path / 'text'}",
        "folder": f"sqlite:///{tmp_path / 'text' / 'mlflow.db'}",
    }.get(uri, uri)
    registry = ModelRegistry(address, tmp_path / "cache", registry_config)
    for call in (
        lambda: registry.register(toy_model(1), NAME),
        lambda: registry.resolve(NAME),
        lambda: registry.rollback(NAME),
        registry.status,
        registry.history,
    ):
        with pytest.raises(RegistryUnavailableError, match="cannot be reached") as caught:
            call()
        assert exit_code(caught.value) == 4
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_database_that_is_taken_away_is_said(tracking_uri: str, registry_config: RegistryConfig) -> None:
    connection = Connection(tracking_uri, registry_config)
    with connection.reach():
        pass
    assert connection.database is not None
    connection.database.unlink()
    with pytest.raises(RegistryUnavailableError, match="is gone"), connection.reach():
        pass


def test_files_are_forgotten_where_the_registry_keeps_them(
    registry: ModelRegistry, toy_model: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that keeps files itself is found by its address, not by the one that MLflow has for the process."""
    asked: list[tuple[str | None, ...]] = []
    found = forgetting.get_artifact_repository

    def noted(place: str, tracking: str | None = None, registered: str | None = None) -> object:
        asked.append((tracking, registered))
        return found(place, tracking, registered)

    monkeypatch.setattr(forgetting, "get_artifact_repository", noted)
    registry.register(toy_model(1), NAME)
    assert forget_model(registry, NAME) == 1
    assert asked and set(asked) == {(registry.connection.uri, registry.connection.uri)}


@pytest.mark.parametrize("deleted", [False, True])
def test_what_a_stopped_registration_left_is_forgotten_too(
    registry: ModelRegistry, toy_model: Toy, evaluation: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    deleted: bool,
) -> None:  # fmt: skip
    """Stopped after the files were logged, before there was a version; runs of other models stay."""
    folder = toy_model(1)
    kept = registry.register(toy_model(2, kind="video-encoder"), "stylereel-video-encoder")
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(registry, "_create_version", lambda *all: (_ for _ in ()).throw(KeyboardInterrupt))
        registry.register(folder, NAME, evaluation(folder, 12.5))
    whole = (folder / "weights.safetensors").read_bytes()

    def copies() -> list[Path]:
        found = tmp_path.rglob("weights.safetensors")
        return [path for path in found if folder not in path.parents and path.read_bytes() == whole]

    assert copies() and not registry.versions(NAME)
    if deleted:  # by hand, which keeps the files
        with registry.connection.reach() as client:
            (left,) = client.search_runs([registry.connection.experiment_id()], f"run_name = 'register {NAME}'")
            client.delete_run(left.info.run_id)
    assert forget_model(registry, NAME) == 0
    assert not copies()
    with registry.connection.reach() as client:
        runs = client.search_runs([registry.connection.experiment_id()], "")
    assert [run.info.run_name for run in runs] == ["register stylereel-video-encoder"]
    assert registry.download(kept).is_dir()
