"""What a killed process leaves beside a file goes at the next run, and nothing else does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clip_maker import make_clip

from datamodules.scratch import scratch_beside
from datamodules.video import VideoWriter, probe, read_frames

ROOT = Path(__file__).resolve().parents[2]
WRITING = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from datamodules.scratch import scratch_beside
from datamodules.video import VideoWriter, probe, read_frames

clip, target = Path(sys.argv[1]), Path(sys.argv[2])
with scratch_beside(target) as folder, VideoWriter(target, probe(clip), codec="h264", crf=18) as writer:
    (folder / "codes").write_bytes(b"a face")
    for batch in read_frames(clip, chunk=4):
        writer.write(batch)
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("source") / "in.mp4", frames=8)


@contextmanager
def writing(clip: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to write ``target``, until its input ends."""
    script = [sys.executable, "-c", WRITING.format(root=str(ROOT)), str(clip), str(target)]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        yield process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_run_takes_away_what_a_killed_one_left_and_lets_a_living_one_be(
    clip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    with writing(clip, target) as killed:
        killed.send_signal(signal.SIGKILL)
    dead = set(names(tmp_path))
    assert len(dead) == 2, "the folder that is worked in, and the clip's"
    with writing(clip, tmp_path / "other.mp4") as other:
        other.send_signal(signal.SIGKILL)
    of_another = set(names(tmp_path)) - dead
    with writing(clip, target) as alive:
        living = set(names(tmp_path)) - of_another
        assert len(living) == 2 and not living & dead
        with VideoWriter(target, probe(clip), codec="h264", crf=18) as writer:
            for batch in read_frames(clip, chunk=4):
                writer.write(batch)
            assert len(names(tmp_path)) == 5
        assert set(names(tmp_path)) == {*living, *of_another, "out.mp4"}
        alive.communicate("")
    assert alive.returncode == 0 and set(names(tmp_path)) == {*of_another, "out.mp4"}


def test_nothing_goes_that_is_not_ours(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "out.mp4", tmp_path / "elsewhere"
    with scratch_beside(target) as folder:
        (folder / "codes").write_bytes(b"a face")
        assert folder.parent == tmp_path and folder.name.startswith(".out.mp4.stylereel-")
        left = tmp_path / folder.name[:-8]
    assert names(tmp_path) == []
    for mine in (
        tmp_path / ".out-notes",
        left.with_name(left.name + "notes"),
        tmp_path / "out.mp4.notes",
        elsewhere,
    ):
        mine.mkdir()
        (mine / "text").write_text("mine")
    left.with_name(left.name + "abcdefgh").symlink_to(elsewhere)
    left.with_name(left.name + "ijklmnop").write_text("a file")
    before = names(tmp_path)
    with scratch_beside(target):
        pass
    assert names(tmp_path) == before and (elsewhere / "text").read_text() == "mine"


def test_a_folder_that_is_not_there_is_said_and_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), scratch_beside(tmp_path / "none" / "out.mp4"):
        pass
    with pytest.raises(KeyError), scratch_beside(tmp_path / "out.mp4") as folder:
        (folder / "codes").write_bytes(b"a face")
        raise KeyError
    with scratch_beside(tmp_path / "out.mp4") as folder:
        shutil.rmtree(folder)  # by whoever else
    assert names(tmp_path) == []


def test_an_interrupt_that_comes_as_the_folder_is_made_leaves_none(tmp_path, monkeypatch) -> None:
    making = os.mkdir

    def interrupted(*arguments, **more) -> None:
        making(*arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_beside(tmp_path / "out.mp4"):
        raise AssertionError("the block began")
    assert list(tmp_path.iterdir()) == []
