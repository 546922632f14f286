from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import services.media
from datamodules.clips import find_videos
from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditSet, save_directions
from modules.editing.placement import NAMES
from modules.generators.codes_file import read_codes, save_codes
from modules.perception.detection import DetectionConfig
from services.console import seconds
from services.registry.errors import RegistryUnavailableError
from services.settings import ROOT
from services.shell.cli import run
from services.shell.data import add_videos

import torch  # isort: skip


@pytest.fixture
def shell(monkeypatch, toy_models):
    monkeypatch.setattr(services.media, "load_models", lambda *_: toy_models)
    return run


def test_help_is_fast_and_teaches() -> None:
    code = (
        "import sys\nfrom services.shell.cli import run\n"
        "assert run(['edit', '--help']) == 0\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'cv2', 'av')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stylereel edit clip.mp4 older.mp4 --edit age=+20 --edit smile=1" in done.stdout


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"stylereel {project['version']}\n"


def test_an_error_does_not_wait_for_the_web_framework() -> None:
    code = (
        "import sys\nfrom services.shell.cli import run\n"
        "assert run(['assets', 'verify', 'none']) == 2\n"
        "sys.exit('starlette' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "no asset 'none'" in done.stderr, done.stderr


MODELS = ["register", "promote", "rollback", "status", "history"]
COMMANDS = [
    "edit",
    "adapt",
    "forget",
    "invert",
    "edits",
    "colourise",
    "enlarge",
    "interpolate",
    "import",
    "serve",
    "assets",
    "data",
    "train",
    "evaluate",
    *MODELS,
]


@pytest.mark.parametrize("command", ["", *COMMANDS, "assets fetch", "data add"])
def test_every_command_has_help(command, capsys) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["", "assets", "data"])
def test_a_group_by_itself_shows_its_help_and_complains_of_nothing(group, capsys) -> None:
    assert run(group.split()) == 0
    shown = capsys.readouterr()
    assert "Usage" in shown.out and not shown.err
    assert run([*group.split(), "nothing"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_editing_an_image(shell, tmp_path, picture, capsys) -> None:
    target = tmp_path / "out.png"
    assert shell(["edit", str(picture), str(target), "--edit", "age=+20", "-q"]) == 0
    before, after = read_image(picture, 10**8), read_image(target, 10**8)
    assert before.shape == after.shape and (before != after).any()
    sidecar = json.loads((tmp_path / "out.png.json").read_text())
    assert sidecar["edits"] == [{"name": "age", "strength": 20.0}]
    assert sidecar["params"]["pipeline"]["crop_size"] == 256
    said = capsys.readouterr()
    assert said.out.strip() == str(target)
    assert said.err.startswith("warning: identity") and "--refine 50" in said.err


def test_the_sidecar_keeps_what_was_set(monkeypatch, toy_models, tmp_path, picture) -> None:
    def load(params, *_):
        judges, generator = copy(toy_models.judges), copy(toy_models.generator)
        judges.detection = params.section("detection", DetectionConfig)
        generator.compute_dtype = torch.bfloat16 if params.runtime.bfloat16() else torch.float32
        return replace(toy_models, judges=judges, generator=generator)

    monkeypatch.setattr(services.media, "load_models", load)
    monkeypatch.setenv("STYLEREEL_PRECISION", "bfloat16")
    files = [str(picture), str(tmp_path / "out.png")]
    assert run(["edit", *files, "-e", "age=1", "--set", "detection.min_score=0.55", "-q"]) == 0
    params = json.loads((tmp_path / "out.png.json").read_text())["params"]
    assert params["detection"]["min_score"] == 0.55
    assert params["runtime"] == {"device": "cpu", "precision": "bfloat16"}
    assert set(params) == {
        "runtime",
        "detection",
        "parsing",
        "smoothing",
        "landmark_flow",
        "shots",
        "pipeline",
        "balancing",
    }


def test_no_strength_gives_the_image_back(shell, tmp_path, picture) -> None:
    assert shell(["edit", str(picture), str(tmp_path / "out.png"), "--edit", "age=0", "-q"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png", 10**8), read_image(picture, 10**8))


def test_editing_a_clip_and_its_sidecar(shell, tmp_path, clip) -> None:
    target = tmp_path / "out.mp4"
    arguments = ["edit", str(clip), str(target), "-e", "age=5", "--start", "0.5s", "--end", "0:00.7", "-q"]
    assert shell(arguments) == 0
    sidecar = json.loads((tmp_path / "out.mp4.json").read_text())
    assert [frame["frame"] for frame in sidecar["report"]["faces"][0]["frames"]] == list(range(15, 21))
    assert sidecar["models"] == {"toy": "1"} and sidecar["options"]["start"] == 0.5
    assert sidecar["options"]["balance"] is True and sidecar["report"]["faces"][0]["strengths"] == {"age": 5.0}


def test_edits_are_left_as_they_are_where_that_is_asked(shell, tmp_path, picture) -> None:
    target = tmp_path / "out.png"
    assert shell(["edit", str(picture), str(target), "-e", "age=5", "--no-balance", "-q"]) == 0
    sidecar = json.loads((tmp_path / "out.png.json").read_text())
    assert sidecar["options"]["balance"] is False
    assert sidecar["report"]["faces"][0]["strengths"] == {"age": 5.0}


def test_codes_go_out_and_come_in(shell, tmp_path, picture, toy_models, capsys) -> None:
    codes, shown = tmp_path / "me.safetensors", tmp_path / "me.png"
    assert shell(["invert", str(picture), str(codes), "--refine", "2", "-q"]) == 0
    assert read_codes(codes, toy_models.generator).shape == (1, 4, 8)
    assert shell(["edit", str(codes), str(shown), "--edit", "age=3", "-q"]) == 0
    assert read_image(shown, 10**8).shape == (256, 256, 3)
    toy_models.generator.sha256 = "another"
    object.__setattr__(toy_models, "edits", EditSet([]))
    assert shell(["edit", str(codes), str(tmp_path / "x.png"), "-q"]) == 2
    capsys.readouterr()
    for unused in (["--refine", "5"], ["--face", "3"], ["--paste", "replace"], ["--region", "head"]):
        assert shell(["edit", str(codes), str(tmp_path / "x.png"), "--edit", "age=3", *unused]) == 2
        said = capsys.readouterr().err
        assert f"me.safetensors holds codes; {unused[0][2:]} can be asked" in said and said.count("\n") == 1


def test_faces_side_by_side_that_no_jpeg_holds_are_refused_before_they_are_made(
    shell, tmp_path, toy_models, capsys, monkeypatch
) -> None:
    many = save_codes(tmp_path / "many.safetensors", torch.zeros(300, 4, 8), toy_models.generator)
    monkeypatch.setattr(toy_models.generator, "synthesize", None)
    assert shell(["edit", str(many), str(tmp_path / "wide.jpg"), "--edit", "age=3", "-q"]) == 2
    said = capsys.readouterr().err
    assert "76800 px wide" in said and "write a .png" in said and said.count("\n") == 1
    assert not (tmp_path / "wide.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", "none.mp4", "out.mp4"], "does not exist"),
        (["edit", "IN", "out.png", "--edit", "age"], "NAME=STRENGTH"),
        (["edit", "IN", "out.png", "--edit", "age=nan"], "finite"),
        (["edit", "IN", "out.png", "--edit", "age=99"], "goes from"),
        (["edit", "IN", "out.png", "--edit", "beard=1"], "no edit 'beard'"),
        (["edit", "IN", "out.mp4"], "must end in"),
        (["edit", "IN", "out.png", "--start", "1s"], "no video"),
        (["edit", "IN", "out.png", "--start", "soon"], "cannot read the time"),
        (["edit", "IN", "IN"], "input itself"),
        (["edit", "IN", "none/out.png"], "make it first"),
        (["edit", "IN", "/proc/out.png"], "cannot write /proc/out.png"),
        (["edit", "IN", "out.png", "--face", "9"], "at most"),
        (["edit", "IN", "out.png", "--paste", "glue"], "glue"),
        (["edit", "IN", "out.png", "--set", "pipeline.x=1"], "pipeline.x"),
        (["invert", "IN", "codes.npy"], ".safetensors"),
        (["invert", "IN", "codes.safetensors", "--start", "3s"], "no video"),
        (["edits", "--directions", "none"], "not a model folder"),
        (["assets", "verify", "none"], "no asset"),
        (["data", "add", "none"], "not a folder"),
        (["register", "none"], "not a model folder"),
        (["dance"], "dance"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_leave_nothing(shell, tmp_path, monkeypatch, picture, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jpg").write_bytes(picture.read_bytes())
    assert shell([argument.replace("IN", "in.jpg") for argument in arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err and len(said.err.strip().splitlines()) == 1
    assert said.out == "" and [path.name for path in tmp_path.iterdir()] == ["in.jpg"]


def test_interrupting_exits_130_and_leaves_nothing(shell, tmp_path, monkeypatch, clip, capsys) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("services.pipeline.stream.measure", interrupt)
    assert shell(["edit", str(clip), str(tmp_path / "out.mp4"), "-e", "age=1", "--end", "0.3", "-q"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_an_edit_as_an_interrupt_does(tmp_path, clip) -> None:
    command = [
        sys.executable,
        "-m",
        "services.shell.cli",
        "edit",
        str(clip),
        str(tmp_path / "out.mp4"),
        "-e",
        "age=1",
    ]
    with subprocess.Popen([*command, "-q"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.iterdir()):
            time.sleep(0.01)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_is_down_exits_4(monkeypatch, capsys) -> None:
    def down() -> None:
        raise RegistryUnavailableError("the registry at http://x does not answer; start it")

    monkeypatch.setattr("services.shell.registry_commands._registry", down)
    assert run(["status"]) == 4
    assert capsys.readouterr().err == "stylereel: the registry at http://x does not answer; start it\n"


def test_faults_of_ours_are_not_hidden(shell, monkeypatch, tmp_path, picture) -> None:
    def broken(*_: object) -> None:
        raise ValueError("shapes do not fit")

    monkeypatch.setattr(services.media, "edit_image", broken)
    with pytest.raises(ValueError, match="shapes do not fit"):
        shell(["edit", str(picture), str(tmp_path / "out.png"), "-q"])


def test_edits_lists_names_units_and_bounds(tmp_path, capsys) -> None:
    edits = EditSet([Direction("age", "years", torch.ones(4, 8), -20, 30, "toy")])
    save_directions(tmp_path / "d", edits, "card")
    assert run(["edits", "--directions", str(tmp_path / "d")]) == 0
    *places, age = capsys.readouterr().out.splitlines()
    assert age.split() == ["age", "-20", "…", "+30", "years"]
    assert [place.split()[0] for place in places] == list(NAMES), "heads are moved in any generator's pictures"
    longer = Direction("expression.brows_up", "steps", torch.ones(4, 8), -1, 1, "toy")
    save_directions(tmp_path / "d", EditSet([*edits.values(), longer]), "card")
    assert run(["edits", "--directions", str(tmp_path / "d")]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.index("-20") == second.index("-1"), "strengths stand in a column"


@pytest.mark.parametrize(
    ("text", "expected"), [("2", 2), ("2.5s", 2.5), ("1:30", 90), ("1:02:03.5", 3723.5), (None, None)]
)
def test_times(text, expected) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1:", "2m", "nan", "1e3"])
def test_bad_times(text) -> None:
    with pytest.raises(BadInputError):
        seconds(text)


def test_videos_are_copied_and_versioned(tmp_path: Path, clip: Path) -> None:
    root, mine = tmp_path / "repo", tmp_path / "clips"
    root.mkdir()
    mine.mkdir()
    (mine / "a.mp4").write_bytes(clip.read_bytes())
    (mine / "notes.txt").write_text("x")
    for name in ("2024/a.mp4", "2024/nameless", "2024/b.mpg", ".half/c.mp4", ".d.mp4"):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_bytes(clip.read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    assert add_videos(mine, None, root) == Path("data/clips")
    added = root / "data" / "clips"
    files = sorted(path.relative_to(added).as_posix() for path in added.rglob("*") if path.is_file())
    assert files == ["2024/a.mp4", "2024/b.mpg", "2024/nameless", "a.mp4"]
    assert len(find_videos(added)) == len(find_videos(mine)) == 4
    assert "md5" in (root / "data" / "clips.dvc").read_text()
    with pytest.raises(BadInputError, match="exists already"):
        add_videos(mine, None, root)
    with pytest.raises(BadInputError, match="no name"):
        add_videos(mine, "../x", root)


def test_folders_without_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for folder, words in ((tmp_path, "holds no videos"), (tmp_path / "none", "not a folder")):
        with pytest.raises(BadInputError, match=words):
            add_videos(folder, None, tmp_path)


def test_where_dvc_refuses_nothing_is_left(tmp_path: Path, clip: Path) -> None:
    root, mine = tmp_path / "repo", tmp_path / "clips"
    root.mkdir()
    mine.mkdir()
    (mine / "a.mp4").write_bytes(clip.read_bytes())
    with pytest.raises(BadInputError, match="dvc add"):
        add_videos(mine, None, root)
    assert not (root / "data" / "clips").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(shell, monkeypatch, capsys, tmp_path, picture, wrapped) -> None:
    def full(*_) -> None:
        error = OSError(28, "No space left on device")
        if not wrapped:
            raise error
        raise BadInputError("cannot be kept") from error

    monkeypatch.setattr(services.media, "write_image", full)
    assert shell(["edit", str(picture), str(tmp_path / "out.png"), "--edit", "age=5", "-q"]) == 2
    assert capsys.readouterr().err.startswith("stylereel: the disk is full: free some space")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [lambda: torch.empty(2**58), lambda: np.empty(2**58)])
def test_a_full_memory_is_one_line_that_says_what_to_lower(tmp_path, monkeypatch, capsys, picture, make) -> None:
    monkeypatch.setattr(services.media, "edit_file", lambda *_, **__: make())
    assert run(["edit", str(picture), str(tmp_path / "out.png"), "--edit", "age=5", "-q"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("stylereel: out of memory: free some, or lower") and len(said.splitlines()) == 1


def test_adapting_to_what_cannot_be_learned_from(tmp_path, picture, clip, capsys) -> None:
    text = tmp_path / "letter.mp4"
    text.write_text("no video")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    for arguments, said in (
        (["nothing.mp4", "out"], "does not exist"),
        ([str(text), str(tmp_path / "out")], "letter.mp4"),
        ([str(clip), str(tmp_path / "mine")], "is there and no model folder"),
        ([str(clip), str(tmp_path / "out"), "--expires", "soon"], "a day like 2027-12-31"),
        ([str(clip), str(tmp_path / "out"), "--from", str(tmp_path / "none")], "is not a model folder"),
        ([str(clip), str(tmp_path / "out"), "--face", "all"], "an adaptation is of one face"),
    ):
        assert run(["adapt", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / "out").exists()


def test_an_image_has_no_lips_to_keep_and_nothing_to_adapt_to(shell, tmp_path, picture, capsys) -> None:
    for option in ("--adapt", "--keep-lips", "--stitch"):
        assert shell(["edit", str(picture), str(tmp_path / "out.png"), "-e", "age=5", option]) == 2
        assert "adapt, keep-lips and stitch are for videos" in capsys.readouterr().err


def test_an_adaptation_is_learned_or_given(shell, tmp_path, clip, capsys) -> None:
    both = ["--adapt", "--adapted", str(tmp_path / "anna")]
    assert shell(["edit", str(clip), str(tmp_path / "out.mp4"), "-e", "age=5", *both]) == 2
    assert "give one" in capsys.readouterr().err
