import hashlib
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.registry.store import CHALLENGER
from services.registry.tracking import flatten, provenance, start_run


@dataclass(frozen=True)
class Section:
    rate: float
    layers: tuple[int, ...]


def test_a_run_holds_parameters_curves_images_and_files(
    registry: ModelRegistry, tracking_uri: str, registry_config: RegistryConfig, unsent: Path, tmp_path: Path
) -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    (tmp_path / "table.csv").write_text("a,b\n")
    many = {f"p{i:03}": i for i in range(150)}  # more than one request takes
    with start_run(
        "train", {"encoder": Section(1e-4, (1, 2)), **many}, tracking_uri, registry_config, unsent
    ) as run:
        run.log_metrics({"loss": 2.0, "psnr": 10.0}, step=0)
        run.log_metrics({"loss": 1.0}, step=7)
        run.log_metrics({"rate": {"slow": 0.1, "fast": float("nan")}})
        run.log_image("sheet", image, step=7)
        run.log_file(tmp_path / "table.csv", "tables")
    with registry.connection.reach() as client:
        kept = client.get_run(run.run_id)
        assert kept.info.status == "FINISHED"
        assert kept.data.tags["stage"] == "train"
        assert kept.data.params["encoder.rate"] == "0.0001"
        assert kept.data.params["encoder.layers"] == "(1, 2)"
        assert len(kept.data.params) == 152
        assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(0, 2.0), (7, 1.0)]
        assert kept.data.metrics["rate.slow"] == 0.1
        assert math.isnan(kept.data.metrics["rate.fast"])
        stored = client.download_artifacts(run.run_id, "images/sheet-0000007.png", str(tmp_path))
        assert np.array_equal(np.asarray(Image.open(stored)), image)
        assert [f.path for f in client.list_artifacts(run.run_id, "tables")] == ["tables/table.csv"]
    with pytest.raises(TypeError, match="uint8"):
        run.log_image("floats", image.astype(np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "state"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_off_says_so_and_goes_on(
    error: type[BaseException],
    state: str,
    registry: ModelRegistry,
    tracking_uri: str,
    registry_config: RegistryConfig,
    unsent: Path,
) -> None:
    with pytest.raises(error), start_run("train", {"steps": 10}, tracking_uri, registry_config, unsent) as run:
        raise error
    with registry.connection.reach() as client:
        assert client.get_run(run.run_id).info.status == state
    more = {"steps": 20, "new": 1}
    with start_run("train", more, tracking_uri, registry_config, unsent, run_id=run.run_id) as again:
        assert again.run_id == run.run_id
    with registry.connection.reach() as client:
        kept = client.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"steps": "10", "new": "1"}


def test_the_model_of_a_run_is_registered(
    registry: ModelRegistry,
    tracking_uri: str,
    registry_config: RegistryConfig,
    unsent: Path,
    toy_model,
    evaluation,
) -> None:
    first, last = toy_model(1), toy_model(2)
    with start_run("train", {}, tracking_uri, registry_config, unsent) as run:
        run.log_model(first)
        run.log_model(last)
    made = registry.register_run(run.run_id, "stylereel-frame-encoder", evaluation(last, 12.0))
    assert registry.resolve("stylereel-frame-encoder", CHALLENGER) == made
    assert (registry.download(made) / "card.md").read_text() == "# Toy 2\n"


def test_lightning_writes_to_the_same_run(
    registry: ModelRegistry, tracking_uri: str, registry_config: RegistryConfig, unsent: Path
) -> None:
    with start_run("train", {}, tracking_uri, registry_config, unsent) as run:
        logger = run.lightning_logger()
        logger.log_metrics({"loss": 3.0}, step=4)
        logger.save()
        logger.finalize("success")
        run.lightning_logger("second/").log_metrics({"loss": 2.0}, step=5)
    with registry.connection.reach() as client:
        [point] = client.get_metric_history(run.run_id, "loss")
        assert (point.step, point.value) == (4, 3.0)
        [point] = client.get_metric_history(run.run_id, "second/loss")
        assert (point.step, point.value) == (5, 2.0)
        assert len(client.search_runs([registry.connection.experiment_id()])) == 1


def test_provenance_is_read_off_the_checkout(tmp_path: Path) -> None:
    assert provenance(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    lock = tmp_path / "dvc.lock"
    lock.write_text("schema: '2.0'\n")
    for command in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    assert provenance(tmp_path) == {"git_commit": commit, "git_dirty": "false", "dvc_lock_sha256": digest}
    lock.write_text("changed")
    assert provenance(tmp_path)["git_dirty"] == "true"


def test_nothing_fails_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.lock").write_text("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(provenance(tmp_path)) == {"dvc_lock_sha256"}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": Section(2.0, ())}, "d": None}) == {
        "a.b": 1,
        "a.c.rate": 2.0,
        "a.c.layers": (),
        "d": None,
    }
