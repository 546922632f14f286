"""Edits as they are served: balanced on the face, once per face, by what the pictures show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pipeline_toys import NUM_WS, SIDE, W_DIM, ToyJudges
from torch import Tensor

import services.media
import services.pipeline.balance
from datamodules.alignment import crop_frame
from datamodules.images import read_image
from datamodules.video import VideoWriter, probe, read_frames
from modules.editing.directions import EditRequest, EditSet
from modules.generators.codes_file import save_codes
from modules.perception.detection import FaceObservation
from modules.perception.parsing import Regions
from services.balancing import balancing_of
from services.pipeline.balance import Requests, balanced
from services.pipeline.edit import edit_image
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.stream import VideoReport, edit_video
from services.settings import load_params
from services.shell.cli import run

OLDER = [EditRequest("age", 5.0)]
SECTION = EditOptions(start=0.5, end=0.9)
AS_DIFFERENCE = EditOptions(paste="difference", region="face")
"""A turn that is asked would be pasted another way than one that takes a turn back."""
FACTOR, TURNS = 0.8, 0.1
"""How much of an asked year this judge sees, and how many degrees it sees a year turn the head."""


class SeeingJudges(ToyJudges):
    """Reads the codes back from the middle of the toy's pictures, whatever they are added to."""

    basis: Tensor
    asked = 0

    def attributes(self, images: Tensor) -> dict[str, np.ndarray]:  # type: ignore[override]
        self.asked += 1
        small = middle(images)
        codes = torch.linalg.lstsq(self.basis.T, small.T).solution.T.view(-1, NUM_WS, W_DIM)
        age, yaw = codes[:, 1, 2], codes[:, 0, 0] / 0.1
        nothing = torch.zeros_like(age)
        measures = dict.fromkeys(balancing_of(load_params()).units, nothing)
        return {n: v.numpy() for n, v in (measures | {"age": FACTOR * age, "yaw": yaw + TURNS * age}).items()}


def middle(images: Tensor) -> Tensor:
    """Of pictures at ``SIDE``, the part that every mask covers whole."""
    inner = slice(SIDE // 2 - 3, SIDE // 2 + 3)
    return F.adaptive_avg_pool2d(images, SIDE)[:, :, inner, inner].flatten(1)


def named(strengths: dict[str, float]) -> list[EditRequest]:
    return [EditRequest(name, strength) for name, strength in strengths.items()]


def edited(
    clip: Path, folder: Path, requests: list[EditRequest], models: Models, options: EditOptions
) -> tuple[VideoReport, list[np.ndarray]]:
    """The report, and the frames as they went to the file."""
    shown = list[np.ndarray]()
    report = edit_video(
        clip, folder / "out.mp4", requests, models, options, observe=lambda number, a, b: shown.append(b.copy())
    )
    return report, shown


@pytest.fixture
def models(toy_models: Models) -> Models:
    judges = SeeingJudges(toy_models.judges.detection, "alex", "cpu")
    judges.finder = toy_models.judges.finder
    # What the pictures are made by, drawn as large as they are looked at and averaged again.
    generator = toy_models.generator
    shown = generator.synthesize(torch.eye(NUM_WS * W_DIM).view(-1, NUM_WS, W_DIM))  # type: ignore[call-arg]
    judges.basis = middle(shown)
    return replace(toy_models, judges=judges, balancing=balancing_of(load_params()))


@pytest.fixture
def frame(clip) -> np.ndarray:
    return next(iter(read_frames(clip))).frames[0]


def test_an_image_gets_the_years_that_were_asked_and_no_turn(models: Models, frame: np.ndarray) -> None:
    (strengths,) = edit_image(frame, OLDER, models, AS_DIFFERENCE).strengths
    assert strengths["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    assert strengths["yaw"] == pytest.approx(-TURNS * strengths["age"], abs=0.1)


def test_an_edit_of_one_part_is_measured_on_whole_faces(models: Models, frame: np.ndarray) -> None:
    """The judge reads the middle of the face, most of which stays; and what stays is not turned back."""
    parts = replace(models.config.parts, lower=("age",), upper=("yaw",))
    of_part = replace(models, config=replace(models.config, parts=parts))
    (strengths,) = edit_image(frame, OLDER, of_part, EditOptions(paste="difference")).strengths
    assert strengths == {"age": pytest.approx(5.0 / FACTOR, abs=0.25)}
    (strengths,) = edit_image(frame, OLDER, of_part, AS_DIFFERENCE).strengths
    assert strengths["yaw"] == pytest.approx(-TURNS * strengths["age"], abs=0.1), "all of this face may change"


def test_an_edit_that_goes_one_way_only_can_be_weakened(
    models: Models, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.FACTOR", 1.25)
    one_way = replace(models, edits=EditSet(replace(edit, lower=0.0) for edit in models.edits.values()))
    (strengths,) = edit_image(frame, OLDER, one_way, AS_DIFFERENCE).strengths
    assert strengths == {"age": pytest.approx(5.0 / 1.25, abs=0.25)}


def test_the_face_before_the_edit_is_drawn_in_the_first_round_alone(models: Models, monkeypatch) -> None:
    """Once for the first look, at which nothing has moved yet, then once for each round."""
    drawn = list[Tensor]()
    drawing = type(models.generator).synthesize

    def synthesize(self, ws, *args, **more):
        drawn.append(ws)
        return drawing(self, ws, *args, **more)

    monkeypatch.setattr(type(models.generator), "synthesize", synthesize)
    ws, target = models.mean_codes(1), torch.zeros(1, 3, 256, 256)
    balanced(ws, OLDER, models, AS_DIFFERENCE, target)
    assert models.balancing is not None
    assert len(drawn) == 1 + models.balancing.config.rounds
    assert sum(torch.equal(one, ws) for one in drawn) == 1


def test_what_is_lost_on_the_way_into_the_frame_is_asked_for_too(models: Models, frame: np.ndarray) -> None:
    """Half of the change is pasted; codes without a frame lose nothing."""

    class Half(SeeingJudges):
        def regions(self, images: Tensor) -> Regions:
            return Regions(*(0.5 * mask for mask in super().regions(images)))

    half = Half(models.judges.detection, "alex", "cpu")
    half.finder, half.basis = models.judges.finder, models.judges.basis  # type: ignore[attr-defined]
    models = replace(models, judges=half)
    (strengths,) = edit_image(frame, OLDER, models, AS_DIFFERENCE).strengths
    # Three looks, each asks for 0.8 of what is missing: 5, 7.4 and 9 of the 12.5 years that it would take.
    assert strengths["age"] == pytest.approx(9.03, abs=0.3)
    rendered = balanced(torch.zeros(1, NUM_WS, W_DIM), OLDER, models, AS_DIFFERENCE)
    assert sum(r.strength for r in rendered if r.name == "age") == pytest.approx(5.0 / FACTOR, abs=0.25)


@pytest.mark.parametrize("options", [EditOptions(balance=False), EditOptions(preview=True)])
def test_edits_stay_as_they_are_where_that_is_asked(
    models: Models, frame: np.ndarray, options: EditOptions
) -> None:
    assert edit_image(frame, OLDER, models, options).strengths == ({"age": 5.0},)
    assert models.judges.asked == 0  # type: ignore[attr-defined]


def test_what_is_taken_back_does_not_say_how_it_is_pasted(models: Models, frame: np.ndarray) -> None:
    """A turn that takes one back is no turned head, which would be replaced with all its hair."""
    areas = []
    for options in (EditOptions(balance=False), EditOptions()):
        made = edit_image(frame, OLDER, models, options)
        areas.append(int((made.image != frame).any(axis=2).sum()))
    assert 0 < areas[1] < 1.05 * areas[0]


def test_an_image_shows_what_its_strengths_say(models: Models, frame: np.ndarray) -> None:
    made = edit_image(frame, OLDER, models, AS_DIFFERENCE)
    same = edit_image(frame, named(made.strengths[0]), models, replace(AS_DIFFERENCE, balance=False))
    other = edit_image(frame, OLDER, models, replace(AS_DIFFERENCE, balance=False))
    assert np.abs(made.image.astype(int) - same.image).max() <= 1
    assert (made.image != other.image).any()


def test_a_clip_is_balanced_once_and_shows_it_in_all_its_frames(models: Models, clip, tmp_path) -> None:
    models = replace(models, config=replace(models.config, chunk=4))
    report, made = edited(clip, tmp_path, OLDER, models, replace(SECTION, paste="difference", region="face"))
    assert len(made) == report.frames > 8
    found = report.faces[0].strengths
    assert found["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    assert models.judges.asked == 1 + balancing_of(load_params()).config.rounds  # type: ignore[attr-defined]
    as_they_are = replace(SECTION, paste="difference", region="face", balance=False)
    _, same = edited(clip, tmp_path, named(found), models, as_they_are)
    _, other = edited(clip, tmp_path, OLDER, models, as_they_are)
    for frame, wanted, plain in zip(made, same, other, strict=True):
        assert np.abs(frame.astype(int) - wanted).max() <= 1
        assert (frame != plain).any()


def test_of_a_clip_whose_first_face_is_not_seen_the_others_are_balanced_and_it_says_so(
    models: Models, clip, tmp_path
) -> None:
    class Blind(SeeingJudges):
        def attributes(self, images: Tensor) -> dict[str, np.ndarray]:  # type: ignore[override]
            found = super().attributes(images)
            for values in found.values():
                values[0] = np.nan
            return found

    blind = Blind(models.judges.detection, "alex", "cpu")
    blind.finder, blind.basis = models.judges.finder, models.judges.basis  # type: ignore[attr-defined]
    options = replace(SECTION, paste="difference", region="face")
    report, _ = edited(clip, tmp_path, OLDER, replace(models, judges=blind), options)
    assert report.faces[0].strengths["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    (line,) = [warning for warning in report.warnings if "balanced" in warning]
    assert "on 2 of 3 frames" in line


def test_it_looks_at_frames_all_over_the_clip(
    models: Models, clip, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them: the first, the middle and the last of 12, which come in batches of 4."""
    frames = np.concatenate([batch.frames for batch in read_frames(clip, 4, SECTION.start, SECTION.end)])
    looked_at = list[int]()

    def cut(frame: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
        looked_at.append(next(k for k, other in enumerate(frames) if (frame == other).all()))
        return crop_frame(frame, matrix, size)

    monkeypatch.setattr(services.pipeline.balance, "crop_frame", cut)
    models = replace(models, config=replace(models.config, chunk=4))
    report, _ = edited(clip, tmp_path, OLDER, models, SECTION)
    assert report.frames == len(frames) == 12
    assert looked_at == [0, 6, 11]


def test_of_many_codes_those_are_looked_at_that_lie_all_over_them(models: Models) -> None:
    ws = torch.zeros(9, NUM_WS, W_DIM)
    ws[:, 2, 3] = torch.arange(9.0)
    seen = list[Tensor]()

    class Watched(type(models.generator)):  # type: ignore[misc]
        def synthesize(self, codes: Tensor, **options: object) -> Tensor:
            seen.append(codes[0, 2, 3])
            return super().synthesize(codes, **options)

    balanced(ws, OLDER, replace(models, generator=Watched()), EditOptions())
    assert sorted({int(value) for value in seen}) == [0, 4, 8]


def test_an_edit_that_nobody_measures_is_not_taken_back(models: Models, frame: np.ndarray) -> None:
    """A surprise that turns the head by 3 degrees by itself: beside age it leaves age's extras as they are."""
    turn = models.edits["yaw"]
    edits = EditSet([*models.edits.values(), replace(turn, name="surprise", vector=3 * turn.vector)])
    models = replace(models, edits=edits)

    def extras(*requests: EditRequest) -> dict[str, float]:
        (strengths,) = edit_image(frame, requests, models, AS_DIFFERENCE).strengths
        return {name: value for name, value in strengths.items() if name != "surprise"}

    alone, both = extras(*OLDER), extras(*OLDER, EditRequest("surprise", 1.0))
    assert alone["yaw"] < -0.3
    assert both == {name: pytest.approx(value, abs=0.1) for name, value in alone.items()}


def test_what_codes_miss_of_the_face_is_no_change_that_was_not_asked(models: Models, frame: np.ndarray) -> None:
    """A face that replaces the frame's is compared with the one that replaces it unedited."""
    whole = EditOptions(paste="replace", region="face")
    turned = EditRequest("yaw", 0.5)
    (strengths,) = edit_image(frame, [turned], models, whole).strengths
    assert abs(strengths["yaw"] - 0.5) < 0.3 and abs(strengths.get("age", 0.0)) < 0.3


def test_edits_are_balanced_on_the_codes_that_are_edited(models: Models, clip, tmp_path) -> None:
    """As the demo plays codes back: each frame is asked for once, in order."""
    played, seen = Counted(), list[Tensor]()

    class Watched(type(models.generator)):  # type: ignore[misc]
        def synthesize(self, codes: Tensor, **options: object) -> Tensor:
            seen.append(codes[:, 2, 3])
            return super().synthesize(codes, **options)

    watched = replace(models, encoder=played, generator=Watched())
    report, _ = edited(clip, tmp_path, OLDER, watched, SECTION)
    assert played.count == report.frames == 12
    looks = torch.cat(seen[: -report.frames])
    first_look = torch.round(10 * looks).int().tolist()[:6]
    assert set(first_look) == {0, 6, 11}


class Counted:
    """An encoder that numbers the pictures it is shown, in row 2 of their codes: 0, 0.1, 0.2 and so on."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frames: Tensor, state: object = None) -> tuple[Tensor, object]:
        ws = torch.zeros(len(frames), NUM_WS, W_DIM)
        ws[:, 2, 3] = torch.arange(self.count, self.count + len(frames)) / 10
        self.count += len(frames)
        return ws, None


def test_where_no_face_is_seen_at_first_the_codes_are_still_those_of_their_frames(
    models: Models, clip, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 4
    frames = np.concatenate([batch.frames for batch in read_frames(clip, 4, SECTION.start, SECTION.end)])

    class Late(SeeingJudges):
        def find(self, batch: np.ndarray) -> list[list[FaceObservation]]:
            seen = super().find(batch)
            hidden = [any((frame == other).all() for other in frames[:lost]) for frame in batch]
            return [[] if gone else faces for gone, faces in zip(hidden, seen, strict=True)]

    late = Late(models.judges.detection, "alex", "cpu")
    late.finder, late.basis = models.judges.finder, models.judges.basis  # type: ignore[attr-defined]
    cut, looked_at = list[int](), list[list[int]]()

    def cut_out(frame: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
        cut.append(next(k for k, other in enumerate(frames) if (frame == other).all()))
        return crop_frame(frame, matrix, size)

    def watched(ws: Tensor, *rest: Any) -> Requests:
        looked_at.append(torch.round(10 * ws[:, 2, 3]).int().tolist())
        return balanced(ws, *rest)

    monkeypatch.setattr(services.pipeline.balance, "crop_frame", cut_out)
    monkeypatch.setattr(services.pipeline.balance, "balanced", watched)
    config = replace(models.config, chunk=5)
    report, _ = edited(
        clip, tmp_path, OLDER, replace(models, judges=late, encoder=Counted(), config=config), SECTION
    )
    assert report.frames == len(frames) == 12
    assert cut[0] == lost and cut[-1] == len(frames) - 1 and len(cut) == 3
    assert looked_at == [[number - lost for number in cut]]


def test_each_of_several_faces_is_balanced_by_itself(models: Models, clip, tmp_path) -> None:
    batches = list(read_frames(clip, 4, SECTION.start, SECTION.start + 0.2))
    pair = tmp_path / "pair.mp4"
    with VideoWriter(
        pair, replace(probe(clip), width=2 * batches[0].frames.shape[2]), codec="h264", crf=12
    ) as writer:
        for batch in batches:
            frames = np.concatenate([batch.frames, batch.frames[:, :, ::-1]], axis=2)
            writer.write(replace(batch, frames=frames))

    class Unequal(SeeingJudges):
        """Sees fewer years on the second face."""

        seen = 1.0

        def attributes(self, images: Tensor) -> dict[str, np.ndarray]:  # type: ignore[override]
            measures = super().attributes(images)
            return measures | {"age": measures["age"] * self.seen}

    judges = Unequal(models.judges.detection, "alex", "cpu")
    judges.finder, judges.basis = models.judges.finder, models.judges.basis  # type: ignore[attr-defined]
    found = []

    def one_by_one(ws: Tensor, *rest: Any) -> Requests:
        judges.seen = 0.7 if found else 1.0
        found.append(balanced(ws, *rest))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.pipeline.balance, "balanced", one_by_one)
        report, _ = edited(
            pair, tmp_path, OLDER, replace(models, judges=judges), replace(AS_DIFFERENCE, face="all")
        )
    first, second = (face.strengths["age"] for face in report.faces)
    assert first == pytest.approx(5.0 / FACTOR, abs=0.25)
    assert second > first + 1


def test_codes_are_balanced_and_their_sidecar_says_how(
    models: Models, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.media, "load_models", lambda *_: models)
    codes = save_codes(tmp_path / "me.safetensors", torch.zeros(2, NUM_WS, W_DIM), models.generator)

    def edit(*more: str) -> tuple[np.ndarray, dict[str, float]]:
        assert run(["edit", str(codes), str(tmp_path / "out.png"), "-q", *more]) == 0
        sidecar = json.loads((tmp_path / "out.png.json").read_text())
        return read_image(tmp_path / "out.png", 10**8), sidecar["report"]["faces"][0]["strengths"]

    made, found = edit("-e", "age=5")
    assert found["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    same, _ = edit("--no-balance", *(part for n, s in found.items() for part in ("-e", f"{n}={s}")))
    other, as_asked = edit("--no-balance", "-e", "age=5")
    assert as_asked == {"age": 5.0}
    assert np.abs(made.astype(int) - same).max() <= 1 and (made != other).any()
