import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from datamodules.disk import NotWrittenError, beside, is_disk_full, not_written, require_other, write_whole
from datamodules.shards import save_shard
from datamodules.types import BadInputError

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_known_through_what_wraps_it(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE rows (row BLOB)"))
        with pytest.raises(SQLAlchemyError) as full:
            connection.execute(text("INSERT INTO rows VALUES (zeroblob(100000))"))
    assert is_disk_full(full.value)
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as other:
        connection.execute(text("SELECT * FROM columns"))
    assert not is_disk_full(other.value)
    assert is_disk_full(FULL) and not is_disk_full(OSError(2, "No such file"))


def test_errors_that_stand_behind_themselves_come_to_an_end() -> None:
    alone, one, two = ValueError("a"), ValueError("b"), ValueError("c")
    alone.__cause__ = alone
    one.__cause__, two.__cause__ = two, one
    assert not is_disk_full(alone) and not is_disk_full(one)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (FULL, 507, "(No space left on device); free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507, "(Disk quota exceeded); free some space"),
        (RuntimeError("I/O error: full (os error 28)"), 507, "(I/O error: full (os error 28)); free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), 422, "(Permission denied); check the folder"),
        (RuntimeError("I/O error: gone (os error 2)"), 422, "(I/O error: gone (os error 2)); check the folder"),
    ],
)
def test_what_is_said_tells_a_full_disk_from_the_rest(error: Exception, status: int, words: str) -> None:
    said = not_written(Path("a/b.json"), error)
    assert isinstance(said, BadInputError) and said.status == status
    assert str(said) == f"cannot write a/b.json {words}"


@pytest.mark.parametrize("error", [FULL, PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for content in (b"before", "before"):
        write_whole(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_text() == "before"

    def half(path: Path, _: bytes) -> None:
        path.open("wb").write(b"half")
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(NotWrittenError if isinstance(error, OSError) else KeyboardInterrupt):
        write_whole(tmp_path / "a.json", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"


def test_two_processes_do_not_write_into_each_others_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with beside(tmp_path / "a") as mine:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with beside(tmp_path / "a") as theirs:
            mine.write_text("mine")
            theirs.write_text("theirs")
        assert (tmp_path / "a").read_text() == "theirs"
    assert (tmp_path / "a").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_safetensors_says_in_words_alone_that_the_disk_is_full(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses the write as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NotWrittenError, match="free some space") as caught:
            save_shard(tmp_path / "a.safetensors", {"x": np.zeros(1_000_000)}, [b"jpeg"], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.status == 507 and not list(tmp_path.iterdir())


def test_an_output_is_another_file_than_its_input_under_any_name(tmp_path: Path) -> None:
    clip, link = tmp_path / "a.mp4", tmp_path / "b.mp4"
    require_other(clip, clip)  # neither is there
    clip.write_bytes(b"a clip")
    require_other(link, clip)
    link.symlink_to(clip)
    for one, other in ((clip, clip), (link, clip), (clip, link)):
        with pytest.raises(BadInputError, match="is the input itself; give the output another name"):
            require_other(one, other)
