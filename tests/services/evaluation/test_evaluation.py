"""The evaluation's arithmetic, its fixed frames, its kept optimisations and its files."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.clips import Prepared, PreparedClip
from datamodules.shards import encode_jpeg, save_shard
from datamodules.types import BadInputError
from modules.perception.identity import FaceSight
from modules.perception.parsing import Regions
from services.evaluation.frames import HeldOutFrames, held_out_frames
from services.evaluation.measure import HIGHER_IS_BETTER, FrameMeter, means
from services.evaluation.optimise import ChosenNets, optimised_codes
from services.evaluation.reconstruction import EvaluationConfig, Row, Rows, make_row
from services.evaluation.report import (
    GATE,
    clips_csv,
    markdown,
    metrics_of,
    replace_block,
    write_evaluation,
)
from services.model_names import ADAPTATION
from services.pipeline.encoders import SHIPPED
from services.registry.gate import Evaluation, Gates
from services.settings import load_params
from services.stages.evaluate import encoder_folder, re_evaluation

PARAMS = load_params()
REFINE = PARAMS.section("evaluation", EvaluationConfig).optimum


def frames_of(colours: list[int], people: tuple[int, ...]) -> HeldOutFrames:
    pixels = np.stack([np.full((256, 256, 3), value, np.uint8) for value in colours])
    return HeldOutFrames(pixels, tuple(f"clip-{p}" for p in people), people, "data")


class ToyGenerator:
    """Codes are the grey value of the picture."""

    num_ws, w_dim, sha256, resolution = 1, 1, "toy", 256

    def __init__(self) -> None:
        self.w_mean = torch.zeros(1)
        self.calls = 0

    def synthesize(self, ws: Tensor, resolution: int = 256) -> Tensor:
        self.calls += 1
        return ws[:, :, :, None].expand(-1, 3, resolution, resolution)


class ToyPerceptual:
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images.mean((2, 3)),)

    def __call__(self, images: Tensor, target, mask: Tensor | None = None) -> Tensor:
        wanted = self.features(target) if isinstance(target, Tensor) else target
        return (self.features(images)[0] - wanted[0]).square().mean(1)


class ToyMesh:
    """Points that move with the brightness, 2 px for the whole range."""

    def __call__(self, images: Tensor):
        points = torch.arange(468.0)[None, :, None].expand(len(images), -1, 3).clone()
        points[..., 0] += images.mean((1, 2, 3))[:, None]
        return type("Seen", (), {"points": points, "score": torch.ones(len(images))})


class ToyIdentity:
    """Who it is depends on how bright it is."""

    def look(self, images: Tensor) -> FaceSight:
        count = len(images)
        return FaceSight(self.embed(images), torch.zeros(count, 68, 3), torch.ones(count, dtype=torch.bool))

    def embed(self, images: Tensor) -> Tensor:
        angle = images.mean((1, 2, 3)) * math.pi / 2
        return torch.stack([angle.cos(), angle.sin()], 1)


NETS = ChosenNets(ToyPerceptual(), ToyIdentity())


class ToyJudges:
    mesh, identity, perceptual = ToyMesh(), ToyIdentity(), ToyPerceptual()

    @staticmethod
    def second_identity(images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def regions(self, images: Tensor) -> Regions:
        mask = torch.zeros(len(images), 1, *images.shape[2:])
        mask[..., :128] = 1
        return Regions(mask, mask, 1 - mask)


def test_measures_by_hand() -> None:
    frames = frames_of([64, 64, 192], (0, 0, 1))
    meter = FrameMeter(frames, ToyJudges())
    targets = meter.targets([0, 1, 2])
    shown = targets.clone()
    shown[0, :, :, :128] += 0.2  # only the face
    shown[1] = targets[2]  # the other person
    found = meter.measure([0, 1, 2], shown)
    assert found["psnr_face"][0] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-3)
    assert found["psnr"][0] == pytest.approx(10 * math.log10(4 / 0.02), abs=1e-3)
    assert found["retrieval"].tolist() == [1, 0, 1]
    gap = float(targets[2].mean() - targets[1].mean())
    assert found["landmark_error_px"][1] == pytest.approx(gap, abs=1e-4)
    assert found["identity"][1] == pytest.approx(math.cos(gap * math.pi / 2), abs=1e-5)
    assert found["identity_distance"][1] == pytest.approx(gap * math.sqrt(3), abs=1e-5)
    again = meter.measure([2, 0], shown[[2, 0]])
    for name in HIGHER_IS_BETTER:
        np.testing.assert_allclose(again[name], found[name][[2, 0]], atol=1e-5)


def test_retrieval_weighs_persons_not_frames_and_one_person_is_no_test() -> None:
    measures = {name: np.ones(4) for name in HIGHER_IS_BETTER}
    measures["retrieval"] = np.array([1.0, 1.0, 1.0, 0.0])
    assert means(measures, [0, 0, 0, 1])["retrieval"] == 0.5
    alone = FrameMeter(frames_of([10, 20], (0, 0)), ToyJudges())
    assert np.isnan(alone.measure([0, 1], alone.targets([0, 1]))["retrieval"]).all()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Two test clips and a training clip, of different brightness."""
    clips = []
    for number, (split, brightness) in enumerate([("test", 40), ("train", 90), ("test", 140)]):
        shard = tmp_path / f"{number}.safetensors"
        pictures = [np.full((256, 256, 3), brightness + i, np.uint8) for i in range(5)]
        save_shard(shard, {}, [encode_jpeg(p, 95) for p in pictures], {"fingerprint": str(number)})
        sha = f"{9 - number}" * 64
        clips.append(PreparedClip(f"{number}.mp4", sha, shard.name, 5, number, split))  # type: ignore[arg-type]
    return Prepared(tmp_path, tuple(clips), ())


def test_the_held_out_frames_are_the_same_however_the_clips_are_listed(prepared: Prepared) -> None:
    frames = held_out_frames(prepared, 2)
    assert set(frames.clips) == {"0.mp4", "2.mp4"}
    assert frames.people == (0, 0, 1, 1), "persons are numbered anew"
    assert abs(int(frames.pixels[1].mean()) - int(frames.pixels[0].mean())) == 4, "first and last frame"
    shuffled = replace(prepared, clips=prepared.clips[::-1])
    again = held_out_frames(shuffled, 2)
    assert again.data_hash == frames.data_hash
    np.testing.assert_array_equal(again.pixels, frames.pixels)
    assert held_out_frames(prepared, 3).data_hash != frames.data_hash
    assert held_out_frames(prepared, 2, "train").data_hash != frames.data_hash
    with pytest.raises(BadInputError, match="no clip of a val person"):
        held_out_frames(prepared, 2, "val")


class KilledError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(errno.ENOSPC, 507, "free some space"), (errno.EACCES, 422, "check the folder")],
)
def test_codes_that_cannot_be_kept_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("services.evaluation.optimise.save_file", refuse)
    with pytest.raises(BadInputError, match=words) as caught:
        optimised_codes(
            frames_of([200], (0,)), [0], torch.zeros(1, 1, 1), "mean", ToyGenerator(), NETS,
            replace(REFINE, steps=1), "float32", tmp_path,
        )  # fmt: skip
    assert caught.value.status == status


def test_optimised_frames_are_kept_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    frames, generator = frames_of([0, 255, 180], (0, 0, 1)), ToyGenerator()
    refine = replace(REFINE, steps=30, learning_rate=0.2)
    start = torch.zeros(3, 1, 1)

    def optimise(advance=lambda n: None, config=refine, name="mean") -> Tensor:
        return optimised_codes(
            frames, [0, 1, 2], start, name, generator, NETS, config, "float32", tmp_path, 1, advance
        ).ws

    done = 0

    def kill(count: int) -> None:
        nonlocal done
        done += count
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        optimise(kill)
    before = generator.calls
    codes = optimise()
    assert generator.calls - before == 31, "one frame was left, 30 steps and a last look"
    torch.testing.assert_close(codes.flatten(), torch.tensor([-1.0, 1.0, 180 / 127.5 - 1]), atol=0.1, rtol=0)
    before = generator.calls
    assert torch.equal(optimise(), codes)
    assert generator.calls == before
    optimise(name="another model")
    optimise(config=replace(refine, steps=1))
    assert generator.calls > before, "another start and other settings are other results"


def test_frames_kept_before_there_was_an_identity_term_are_found_where_it_has_no_weight(tmp_path: Path) -> None:
    frames, generator, config = frames_of([200], (0,)), ToyGenerator(), replace(REFINE, steps=1)
    assert config.identity_weight == 0
    settings = {name: value for name, value in asdict(config).items() if name != "identity_weight"}
    digest = hashlib.sha256(frames.pixels[0].tobytes())
    digest.update(json.dumps(["mean", "toy", settings | {"precision": "float32"}], sort_keys=True).encode())
    kept = torch.full((1, 1), 0.25)
    save_file({"ws": kept}, tmp_path / f"{digest.hexdigest()[:32]}.safetensors")

    def optimise(weight: float) -> Tensor:
        asked = replace(config, identity_weight=weight)
        return optimised_codes(
            frames, [0], torch.zeros(1, 1, 1), "mean", generator, NETS, asked, "float32", tmp_path
        ).ws

    assert torch.equal(optimise(0.0)[0], kept) and generator.calls == 0
    assert not torch.equal(optimise(0.5)[0], kept) and generator.calls > 0


def test_a_damaged_kept_frame_is_made_anew(tmp_path: Path) -> None:
    frames, generator = frames_of([200], (0,)), ToyGenerator()

    def optimise() -> Tensor:
        return optimised_codes(
            frames, [0], torch.zeros(1, 1, 1), "mean", generator, NETS, replace(REFINE, steps=2),
            "float32", tmp_path,
        ).ws  # fmt: skip

    codes = optimise()
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    assert torch.equal(optimise(), codes)


def test_what_a_frame_took_is_kept_with_it(tmp_path: Path) -> None:
    frames, generator, refine = frames_of([200, 90], (0, 0)), ToyGenerator(), replace(REFINE, steps=2)

    def optimise() -> tuple[float, ...]:
        return optimised_codes(
            frames, [0, 1], torch.zeros(2, 1, 1), "mean", generator, NETS, refine, "float32", tmp_path
        ).seconds

    first = optimise()
    assert all(0 < seconds < 60 for seconds in first)
    assert optimise() == pytest.approx(first), "not the time that reading it takes"
    older = next(tmp_path.iterdir())
    save_file({"ws": load_file(older)["ws"]}, older)
    assert sorted(math.isnan(seconds) for seconds in optimise()) == [False, True]


def row(name: str, psnr: float, frames: HeldOutFrames) -> Row:
    measures = {metric: np.full(len(frames), psnr) for metric in HIGHER_IS_BETTER}
    return make_row(name, name.replace("_", " "), range(len(frames)), measures, frames)


@pytest.fixture
def table() -> tuple[Evaluation, Rows, HeldOutFrames]:
    frames = frames_of([10, 20, 30], (0, 0, 1))
    rows = [row(n, p, frames) for n, p in
            [("mean_face", 10.0), ("encoder", 14.0), ("encoder_50_steps", 16.0), ("optimum", 18.0)]]  # fmt: skip
    evaluation = Evaluation(
        "m" * 64,
        "c" * 64,
        "g" * 64,
        "d" * 64,
        rows[1].metrics,
        dict(HIGHER_IS_BETTER),
        3,
        2,
        "2026-01-01T00:00:00+00:00",
    )
    return evaluation, Rows(tuple(rows[:2]), tuple(rows)), frames


def test_the_share_of_the_gap(table) -> None:
    _, rows, _ = table
    assert rows.closed() == {"encoder": 0.5, "encoder_50_steps": 0.75}
    assert Rows(rows.all_frames, ()).closed() == {}


def test_the_files(table, tmp_path: Path) -> None:
    evaluation, rows, frames = table
    write_evaluation(tmp_path, evaluation, rows, frames)
    assert Evaluation.from_json((tmp_path / GATE).read_text()) == evaluation
    read = json.loads((tmp_path / "frame_encoder.json").read_text())
    assert read["fixed_frames"]["optimum"]["psnr"] == 18.0
    assert read["closed"]["psnr"]["encoder"] == 0.5
    lines = list(csv.DictReader(io.StringIO(clips_csv(rows, frames))))
    assert [(line["row"], line["clip"]) for line in lines[:2]] == [
        ("mean_face", "clip-0"),
        ("mean_face", "clip-1"),
    ]
    assert {line["row"] for line in lines} == {r.name for r in rows.fixed}
    assert all(float(line["psnr"]) == 14.0 for line in lines if line["row"] == "encoder")


def test_a_metric_that_is_no_number_stays_visible(table) -> None:
    _, rows, frames = table
    lost = replace(rows.all_frames[0], metrics=rows.all_frames[0].metrics | {"retrieval": math.nan})
    broken = Rows((lost, rows.all_frames[1]), ())
    assert (
        json.loads(json.dumps(metrics_of(broken, frames), allow_nan=False))["all_frames"]["mean_face"]["retrieval"]
        == "nan"
    )


def test_the_table_names_its_command_and_every_row(table) -> None:
    evaluation, rows, frames = table
    text = markdown(evaluation, rows, frames, "stylereel evaluate --optimise")
    assert "`stylereel evaluate --optimise`" in text
    assert all(f"| {r.label} |" in text for r in rows.fixed)
    assert "encoder 50 steps goes 75%" in text
    assert "optimum" not in markdown(evaluation, Rows(rows.all_frames, ()), frames, "x")


@settings(max_examples=50)
@given(st.text("abc \n|é", max_size=40), st.text("abc \n|é", max_size=40), st.text("xyz\n", max_size=20))
def test_a_block_is_replaced_and_nothing_else(tmp_path_factory, before: str, after: str, text: str) -> None:
    file = tmp_path_factory.mktemp("docs") / "results.md"
    marks = "<!-- begin:numbers -->", "<!-- end:numbers -->"
    file.write_text(f"{before}{marks[0]}\nold\n{marks[1]}{after}")
    replace_block(file, "numbers", text)
    assert file.read_text() == f"{before}{marks[0]}\n{text.strip()}\n{marks[1]}{after}"


def test_a_missing_block_is_added_and_a_broken_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "docs" / "results.md"
    replace_block(file, "a", "one")
    replace_block(file, "b", "two")
    replace_block(file, "a", "three")
    assert file.read_text() == (
        "<!-- begin:a -->\nthree\n<!-- end:a -->\n\n<!-- begin:b -->\ntwo\n<!-- end:b -->\n"
    )
    file.write_text("<!-- end:a --> <!-- begin:a -->")
    with pytest.raises(BadInputError, match="once each"):
        replace_block(file, "a", "four")


def test_an_encoder_is_a_folder_an_alias_or_a_version(tmp_path: Path) -> None:
    assert encoder_folder(PARAMS, str(tmp_path)) == tmp_path
    with pytest.raises(BadInputError, match="champion"):
        encoder_folder(PARAMS, "no-such-thing")


def test_frame_and_video_are_the_shipped_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, video = tmp_path / "frame-encoder", tmp_path / "video-encoder"
    monkeypatch.setitem(SHIPPED, "frame", frame)
    monkeypatch.setitem(SHIPPED, "video", video)
    frame.mkdir()
    assert encoder_folder(PARAMS, "") == encoder_folder(PARAMS, "frame") == frame
    with pytest.raises(BadInputError, match="shipped in assets/video-encoder"):
        encoder_folder(PARAMS, "video")
    video.mkdir()
    assert encoder_folder(PARAMS, "video") == video


def test_what_is_measured_on_clips_can_be_measured_again() -> None:
    gates = PARAMS.section("gate", Gates).models
    again = {name for name in gates if re_evaluation(PARAMS, name) is not None}
    # What an adaptation is measured on is its own clip, so that its gate has floors alone.
    assert gates.keys() - again == {ADAPTATION}


def test_the_gate_judges_what_is_measured() -> None:
    config = PARAMS.section("gate", Gates).of("stylereel-frame-encoder")
    assert set(config.floors) | set(config.tolerances) <= set(HIGHER_IS_BETTER)
