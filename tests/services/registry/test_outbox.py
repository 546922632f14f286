"""A registry that goes away while a stage computes: the stage keeps its result, and the registry gets its run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run as Kept

from services.registry.connection import RegistryConfig
from services.registry.errors import RegistryUnavailableError
from services.registry.outbox import Outbox, Record
from services.registry.promote import ModelRegistry
from services.registry.tracking import Run, SilentRun, start_run

IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@dataclass
class Away:
    """An embedded registry whose database can be taken away and brought back."""

    uri: str
    config: RegistryConfig
    unsent: Path
    registry: ModelRegistry

    @property
    def database(self) -> Path:
        return Path(self.uri.removeprefix("sqlite:///"))

    def go(self) -> None:
        self.database.rename(self.database.with_suffix(".away"))

    def come_back(self) -> None:
        self.database.with_suffix(".away").rename(self.database)

    def start(self, **more: Any) -> Any:
        return start_run("train", {"steps": 10}, self.uri, self.config, self.unsent, **more)

    def kept(self, run: Run) -> Kept:
        with self.registry.connection.reach() as client:
            return client.get_run(run.run_id)

    def waiting(self) -> list[Path]:
        return sorted(self.unsent.rglob("record.json"))


@pytest.fixture
def away(tracking_uri: str, registry_config: RegistryConfig, unsent: Path, tmp_path: Path) -> Away:
    registry = ModelRegistry(tracking_uri, tmp_path / "cache", registry_config)
    return Away(tracking_uri, registry_config, unsent, registry)


def test_a_registry_that_comes_back_before_the_end_has_everything(
    away: Away, toy_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), away.start() as run:
        run.log_metrics({"loss": 3.0}, 0)
        away.go()
        run.log_metrics({"loss": 2.0}, 1)
        run.log_image("sheet", IMAGE, 1)
        run.log_model(toy_model(1))
        assert len(away.waiting()) == 3
        away.come_back()
        run.log_metrics({"loss": 1.0}, 2)  # within the pause: it waits behind the others
    kept = away.kept(run)
    assert kept.info.status == "FINISHED" and away.waiting() == []
    with away.registry.connection.reach() as client:
        points = client.get_metric_history(run.run_id, "loss")
        assert sorted((p.step, p.value) for p in points) == [(0, 3.0), (1, 2.0), (2, 1.0)]
        assert [f.path for f in client.list_artifacts(run.run_id, "images")] == ["images/sheet-0000001.png"]
    made = away.registry.register_run(run.run_id, "stylereel-frame-encoder")
    assert (away.registry.download(made) / "card.md").read_text() == "# Toy 1\n"
    said = [record.message for record in caplog.records if record.name.startswith("services")]
    assert len(said) == 1 and "is gone" in said[0] and str(away.unsent) in said[0]


def test_a_registry_that_stays_away_loses_no_result_and_is_told_by_the_next_run(
    away: Away, tmp_path: Path
) -> None:
    with away.start() as run:
        file = tmp_path / "result.json"
        away.go()
        run.log_metrics({"loss": 2.0})
        file.write_text("one")
        run.log_file(file, "tables")
        result = "an hour's work"
    assert result, "the stage ended without an error"
    file.write_text("changed since")
    with pytest.raises(RegistryUnavailableError, match="cannot be reached"), away.start():
        pytest.fail("a stage must not begin where its run cannot be opened")
    away.come_back()
    assert away.kept(run).info.status == "RUNNING"
    with away.start() as after:
        kept = away.kept(run)
        assert kept.info.status == "FINISHED" and kept.data.metrics == {"loss": 2.0}
    assert kept.info.end_time <= away.kept(after).info.end_time
    with away.registry.connection.reach() as client:
        stored = Path(client.download_artifacts(run.run_id, "tables/result.json", str(tmp_path / "stored.d")))
    assert stored.read_text() == "one", "what was logged then, not what lies there now"
    assert away.waiting() == []


def test_a_run_that_failed_is_told_as_failed(away: Away) -> None:
    with pytest.raises(ZeroDivisionError), away.start() as run:
        away.go()
        raise ZeroDivisionError
    away.come_back()
    with away.start():
        pass
    assert away.kept(run).info.status == "FAILED"


def test_what_waits_for_another_registry_stays(
    away: Away, registry_config: RegistryConfig, empty_database: Path, tmp_path: Path
) -> None:
    with away.start() as run:
        away.go()
    other = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'other.db')}"
    with start_run("train", {}, other, registry_config, away.unsent) as elsewhere:
        assert elsewhere.run_id != run.run_id
    assert len(away.waiting()) == 1


def test_a_run_deleted_meanwhile_stops_nothing(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), away.start() as run:
        with away.registry.connection.reach() as client:
            client.delete_run(run.run_id)
        run.log_metrics({"loss": 1.0})
    assert "did not take a record (metrics)" in caplog.text and away.waiting() == []
    with away.start(run_id=run.run_id) as again:
        assert again.run_id != run.run_id, "a deleted run is begun anew"


def test_a_full_disk_stops_nothing(
    away: Away, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Outbox, run_id: str, record: Record) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING), away.start() as run:
        away.go()
        monkeypatch.setattr(Outbox, "put", full)
        run.log_metrics({"loss": 1.0})
    assert "is lost" in caplog.text and "No space left" in caplog.text


def test_a_killed_write_leaves_nothing_to_send(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "unsent")
    outbox.put("run", Record("metrics", [["loss", float("nan"), 1, 0]]))
    outbox.put("run", Record("end", ["FINISHED", 2]))
    (tmp_path / "unsent" / "run" / ".part-killed").mkdir()
    sent: list[tuple[str, str]] = []
    outbox.deliver(lambda run_id, record: sent.append((run_id, record.kind)))
    assert sent == [("run", "metrics"), ("run", "end")]
    assert not outbox.waits("run") and not (tmp_path / "unsent" / "run").exists()


def test_a_damaged_record_does_not_hold_up_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(tmp_path / "unsent")
    for step in range(3):
        outbox.put("run", Record("metrics", [["loss", 1.0, 1, step]]))
    (tmp_path / "unsent" / "run" / "00000000" / "record.json").write_text("")
    (tmp_path / "unsent" / "run" / "00000001" / "record.json").unlink()
    sent: list[Record] = []
    with caplog.at_level(logging.WARNING):
        outbox.deliver(lambda run_id, record: sent.append(record))
    assert [record.data[0][3] for record in sent] == [2] and caplog.text.count("is damaged") == 2
    assert not outbox.waits("run")


def test_a_removal_that_is_killed_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path / "unsent")
    outbox.put("run", Record("end", ["FINISHED", 2]))
    sent: list[Record] = []

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            outbox.deliver(lambda run_id, record: sent.append(record))
    assert len(sent) == 1 and not outbox.waits("run")
    outbox.deliver(lambda run_id, record: sent.append(record))
    assert len(sent) == 1 and not (tmp_path / "unsent" / "run").exists()


def test_a_silent_run_says_nothing(tmp_path: Path) -> None:
    run = SilentRun()
    run.log_metrics({"loss": 1.0})
    run.log_image("sheet", IMAGE)
    run.log_file(tmp_path / "not there")
    run.lightning_logger().log_metrics({"loss": 1.0}, 3)
    assert list(tmp_path.iterdir()) == []
