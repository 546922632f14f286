"""Which videos are prepared, and what shards of them are known by."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from datamodules.clips import Prepared
from datamodules.types import BadInputError
from modules.assets import asset_path, manifest
from modules.perception import detection, identity, mesh
from services.settings import Params, load_params
from services.shell.cli import run
from services.stages import prepare as prepare_stage
from services.stages.prepare import video_sources
from services.training.runs import code_sha256

MP4 = b"\0\0\0\x18ftypisom"


def made(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MP4 + content)
    return path


def test_the_registry_clips_that_are_tested_on_join_a_folder_of_own_videos(tmp_path: Path) -> None:
    registry = [made(tmp_path / "registry" / f"{name}.mp4", name.encode()) for name in ("a", "b", "c")]
    tested = [hashlib.sha256(path.read_bytes()).hexdigest() for path in registry[:2]]
    assert video_sources(None, registry, tested) == registry
    own = [made(tmp_path / "own" / name, name.encode()) for name in ("one.mp4", "two.mov")]
    assert video_sources(tmp_path / "own", registry, tested) == [*own, *registry[:2]]
    assert video_sources(tmp_path / "own", registry, []) == own
    copy = made(tmp_path / "own" / "below" / "mine.mp4", b"b")
    assert video_sources(tmp_path / "own", registry, tested) == [copy, *own, registry[0]]
    with pytest.raises(BadInputError, match="not a folder"):
        video_sources(tmp_path / "none", registry, tested)


def test_a_video_that_cannot_be_read_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, own = made(tmp_path / "registry" / "a.mp4", b"a"), made(tmp_path / "own" / "a.mp4", b"a")

    def refuse(*paths: Path, shallow: bool) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepare_stage.filecmp, "cmp", refuse)
    tested = [hashlib.sha256(clip.read_bytes()).hexdigest()]
    assert video_sources(tmp_path / "own", [clip], tested) == [own, clip]


def test_a_folder_without_videos_is_said_though_registry_clips_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = made(tmp_path / "registry" / "a.mp4", b"a")
    tested = {hashlib.sha256(clip.read_bytes()).hexdigest(): "a"}
    monkeypatch.setattr(prepare_stage, "asset_path", lambda name, file: clip)
    monkeypatch.setattr(prepare_stage, "read_test_list", lambda: tested)
    (tmp_path / "own").mkdir()
    with pytest.raises(BadInputError, match="holds no videos"):
        prepare_stage.prepare(load_params(overrides=[f"data.root={tmp_path / 'own'}"], environment={}))


def test_prepare_says_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(params: Params, report: Callable[[int, int, str], None]) -> Prepared:
        report(2, 2, "b.mp4")
        return Prepared(tmp_path, (), (("a.mp4", "it is empty"), ("b.mp4", "the same file is there twice")))

    monkeypatch.setattr(prepare_stage, "prepare", prepare)
    assert run(["train", "prepare"]) == 0
    expected = "left out a.mp4: it is empty\nleft out b.mp4: the same file is there twice\n"
    assert capsys.readouterr().out == expected


def test_shards_are_known_by_all_that_finds_faces_and_by_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nets whose hashes count are those that are opened; the rest of what is given is what is there."""
    opened: dict[str, str] = {}
    given: dict[str, Any] = {}

    def path(name: str, file: str) -> Path:
        opened[name] = file
        return asset_path(name, file)

    def prepare_clips(*args: object, **how: object) -> Prepared:
        given.update(how)
        raise BadInputError("enough")

    for module in (detection, identity, mesh):
        monkeypatch.setattr(module, "asset_path", path)
    monkeypatch.setattr(prepare_stage, "asset_path", lambda name, file: made(tmp_path / "a.mp4", b"a"))
    monkeypatch.setattr(prepare_stage, "prepare_clips", prepare_clips)
    monkeypatch.setattr(prepare_stage, "stage_run", lambda stage, params: nullcontext())

    def named(**changed: float) -> tuple[str, str]:
        with pytest.raises(BadInputError, match="enough"):
            overrides = [f"detection.{key}={value}" for key, value in changed.items()]
            prepare_stage.prepare(load_params(overrides=["runtime.device=cpu", *overrides], environment={}))
        return given["made_by"], given["code"]

    first = made_by, code = named()
    assert opened == prepare_stage.CLIP_NETS
    assert all(manifest()[name].files[file].sha256 in made_by for name, file in opened.items())
    assert code == code_sha256("prepare") and code not in made_by
    assert named() == named(batch=1) == first, "how many faces are looked at at once changes none"
    assert len({first, named(mesh_score=0.9), named(min_score=0.9), named(long_side=320)}) == 4
