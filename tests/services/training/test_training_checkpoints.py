"""A checkpoint is whole, or the one before, whatever comes while it is written; what is none is said to be."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from datamodules.disk import NotWrittenError
from datamodules.types import BadInputError
from services.settings import ROOT
from services.training.checkpoints import WholeCheckpoints, progress_of, read_checkpoint
from services.training.trainer import LAST, fit_steps

OLD = {"global_step": 3, "state_dict": {"weight": torch.ones(2000)}}
NEW = {"global_step": 4, "state_dict": {"weight": torch.zeros(2000)}}


def step_in(folder: Path) -> int:
    """Of the one file that is there."""
    assert [path.name for path in folder.iterdir()] == [LAST]
    return int(torch.load(folder / LAST, weights_only=True)["global_step"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("torn"), OSError(errno.EIO, "torn")])
@pytest.mark.parametrize("where", ["save", "write", "replace"])
def test_an_interrupted_checkpoint_leaves_the_one_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    kept, save, write = WholeCheckpoints(), torch.save, Path.write_bytes
    kept.save_checkpoint(OLD, tmp_path / LAST)

    def torn_save(what: object, place: Any) -> None:
        save({"half": torch.ones(10)}, place)
        raise error

    def torn_write(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise error

    def torn_replace(*paths: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*{
            "save": (torch, "save", torn_save),
            "write": (Path, "write_bytes", torn_write),
            "replace": (os, "replace", torn_replace),
        }[where])  # fmt: skip
        with pytest.raises((type(error), NotWrittenError)):
            kept.save_checkpoint(NEW, tmp_path / LAST)
    assert step_in(tmp_path) == 3
    kept.save_checkpoint(NEW, str(tmp_path / LAST))
    assert step_in(tmp_path) == 4


def test_a_disk_that_does_not_take_it_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        NotWrittenError, match=rf"^cannot write {tmp_path / LAST} \(.*\); free some space$"
    ) as said:
        WholeCheckpoints().save_checkpoint(NEW, tmp_path / LAST)
    assert said.value.status == 507


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from services.training.checkpoints import WholeCheckpoints
write = Path.write_bytes
def killed(path, content):
    write(path, content[:len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = killed
WholeCheckpoints().save_checkpoint({"global_step": 4, "state_dict": {}}, sys.argv[1])
"""


def test_a_process_that_is_killed_while_it_writes_leaves_what_the_next_one_clears_away(tmp_path: Path) -> None:
    """Nothing of it lies in the folder for temporary files."""
    runs, scratch = tmp_path / "runs", tmp_path / "scratch"
    scratch.mkdir()
    WholeCheckpoints().save_checkpoint(OLD, runs / LAST)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    command = [sys.executable, "-c", KILLED, str(runs / LAST)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert progress_of(runs / LAST) == (3, False)
    assert len(list(runs.iterdir())) == 2 and not list(scratch.iterdir())
    WholeCheckpoints().save_checkpoint(NEW, runs / LAST)
    assert step_in(runs) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", b"hello world" * 100, bytes(5000), pickle.dumps({"global_step": 3}, 2), "cut off",
        "without its head", "of no training", "a list",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named_with_what_to_do(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / LAST
    torch.save({"of no training": {"a": 1}, "a list": [1]}.get(str(content), OLD), file)
    whole = file.read_bytes()
    if content == "cut off":
        file.write_bytes(whole[: len(whole) // 2])
    elif content == "without its head":
        file.write_bytes(whole[100:])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    for read in (progress_of, read_checkpoint):
        with pytest.raises(
            BadInputError, match=rf"^the checkpoint {file} cannot be read.*: delete it to begin anew$"
        ):
            read(file)


def test_a_checkpoint_that_the_memory_does_not_hold_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WholeCheckpoints().save_checkpoint(OLD, tmp_path / LAST)
    assert progress_of(tmp_path / LAST) == (3, False) and progress_of(tmp_path / "none") == (0, False)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        read_checkpoint(tmp_path / LAST)
    monkeypatch.setattr(torch, "load", forbidden)
    with pytest.raises(BadInputError, match=r"cannot be read \(Permission denied\): delete"):
        read_checkpoint(tmp_path / LAST)


class Batches(IterableDataset[dict[str, Tensor]]):
    """What is left of eight."""

    def __init__(self, first: int) -> None:
        self.left = 8 - first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter([{"nothing": torch.zeros(1)}] * self.left)


class Toy(L.LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.weight.square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_training_writes_nothing_to_the_folder_for_temporary_files_and_loads_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    loaded: list[object] = []
    load = torch.load

    def watched(place: Any, **how: Any) -> Any:
        loaded.append(how["weights_only"])
        return load(place, **how)

    monkeypatch.setattr(torch, "load", watched)
    seen: list[int] = []

    def look(step: int) -> None:
        seen.append(step)
        assert not list(scratch.iterdir())
        if step == 5 and len(seen) == 5:
            raise RuntimeError("killed")

    def fit() -> None:
        fit_steps(
            Toy(), 8, Batches, 2, tmp_path / "runs", accelerator="cpu", after_step=look
        )  # fmt: skip

    with pytest.raises(RuntimeError, match="killed"):
        fit()
    assert step_in(tmp_path / "runs") == 4
    fit()
    assert seen == [1, 2, 3, 4, 5, 5, 6, 7, 8] and step_in(tmp_path / "runs") == 8
    assert loaded and all(only is True for only in loaded)
