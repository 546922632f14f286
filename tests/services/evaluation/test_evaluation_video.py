"""Table 1: which frames, what each row is fed, the numbers by hand, and what is written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from datamodules.clips import Prepared, PreparedClip
from datamodules.shards import encode_jpeg, save_shard, to_tensor
from datamodules.types import BadInputError
from modules.encoders.video_vit import VideoEncoderConfig, save_video_encoder, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, save_frame_encoder
from modules.generators.protocol import StyleLayer
from modules.metrics.distribution import frechet_distance, kernel_distance_interval
from modules.perception.flow import DenseFlow, FlowConfig
from services.evaluation.drift import Drift, DriftConfig
from services.evaluation.frames import HeldOutFrames, consecutive_frames, stretch
from services.evaluation.reconstruction import EvaluationConfig
from services.evaluation.table import TABLE, VideoTable, markdown, write_table
from services.evaluation.video import (
    CodeSource,
    VideoEncoding,
    VideoJudges,
    VideoMeter,
    fine_rows,
    mean_face,
    smoothed,
    streamed,
)
from services.progress import CancelledError
from services.settings import ROOT, load_params
from services.stages.evaluate_table import TableParts, encoder_folders, encoder_rows, shortened
from services.stages.evaluate_video import HIGHER_IS_BETTER, beside_frame_encoder, data_hash_of

CONFIG = load_params().section("evaluation", EvaluationConfig)
LAYERS = (
    StyleLayer("a", 32, 4, 0, False), StyleLayer("b", 64, 4, 1, False), StyleLayer("rgb", 64, 4, 2, True)
)  # fmt: skip


class ToyGenerator:
    """The first row of the codes is the grey value of the picture, the second that of its left half alone."""

    num_ws, w_dim, sha256, resolution, layers = 3, 1, "toy", 256, LAYERS

    def __init__(self) -> None:
        self.w_mean = torch.zeros(1)
        self.rendered = 0

    def synthesize(self, ws: Tensor, resolution: int = 256) -> Tensor:
        self.rendered += len(ws)
        images = ws[:, 0, :, None, None].expand(-1, 3, resolution, resolution).clone()
        images[..., : resolution // 2] += ws[:, 1, :, None, None]
        return images


class ToyPerceptual:
    def __call__(self, images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return (images - target).abs().mean((1, 2, 3))


class ToyMesh:
    """Points that move with the brightness, 2 px for the whole range."""

    def __call__(self, images: Tensor):
        points = torch.arange(468.0)[None, :, None].expand(len(images), -1, 3).clone()
        points[..., 0] += images.mean((1, 2, 3))[:, None]
        return SimpleNamespace(points=points)


class GreyEncoder:
    """The brightness of the frame, and a state that counts frames."""

    def __init__(self) -> None:
        self.states: list[int | None] = []

    def __call__(self, frames: Tensor, state: int | None = None) -> tuple[Tensor, int]:
        assert len(frames) == 1
        self.states.append(state)
        ws = torch.zeros(1, 3, 1)
        ws[:, 0] = frames.mean()
        return ws, (state or 0) + 1


JUDGES = VideoJudges(
    ToyMesh(),  # type: ignore[arg-type]
    lambda images: torch.zeros(len(images), 68, 2) + 3 * images.mean((1, 2, 3))[:, None, None],
    lambda images: torch.stack([images.mean((1, 2, 3)), -images.mean((1, 2, 3))], 1),
    ToyPerceptual(),  # type: ignore[arg-type]
    lambda images: torch.nn.functional.adaptive_avg_pool2d(images, (1, 2)).flatten(1),
    "vgg",
    DenseFlow(FlowConfig("fast", 0.01, 0.5)),
)


def clip_of(greys: list[int], name: str = "clip", person: int = 0) -> HeldOutFrames:
    pixels = np.stack([np.full((256, 256, 3), grey, np.uint8) for grey in greys])
    return HeldOutFrames(pixels, (name,) * len(greys), (person,) * len(greys), "d" * 64)


def meter(generator: ToyGenerator | None = None, judge_every: int = 1, **more) -> VideoMeter:
    return VideoMeter(generator or ToyGenerator(), JUDGES, judge_every, 4, **more)  # type: ignore[arg-type]


def codes(values: list[float]) -> Tensor:
    ws = torch.zeros(len(values), 3, 1)
    ws[:, 0, 0] = torch.tensor(values)
    return ws


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=40), st.integers(1, 12)
)  # fmt: skip
def test_a_stretch_is_the_first_that_is_long_enough_or_the_longest(steps, count) -> None:
    frame = np.cumsum([step for step, _ in steps])
    shot = np.cumsum([cut for _, cut in steps]).astype(np.int32)
    rows = stretch(frame, shot, count)
    assert 1 <= len(rows) <= count and rows[-1] < len(frame)
    assert (np.diff(frame[list(rows)]) == 1).all() and len(set(shot[list(rows)])) == 1

    def run_from(first: int) -> int:
        end = first + 1
        while end < len(frame) and frame[end] == frame[end - 1] + 1 and shot[end] == shot[end - 1]:
            end += 1
        return end - first

    longest = max(run_from(i) for i in range(len(frame)))
    assert len(rows) == min(count, longest)
    assert all(run_from(i) < len(rows) for i in range(rows[0])), "an earlier one would have done"


def test_clips_without_enough_frames_in_a_row_are_left_out(tmp_path: Path) -> None:
    clips = []
    for number, frame in enumerate([range(12), [*range(5), *range(20, 26)], [*range(3), *range(10, 18)]]):
        pictures = [np.full((256, 256, 3), 10 * i, np.uint8) for i in range(len(frame))]
        arrays = {"frame": np.array(frame), "shot": np.zeros(len(pictures), np.int32)}
        save_shard(tmp_path / f"{number}", arrays, [encode_jpeg(p, 95) for p in pictures], {"fingerprint": "x"})
        clips.append(PreparedClip(f"{number}.mp4", f"{number}" * 64, f"{number}", len(pictures), number, "test"))
    prepared = Prepared(tmp_path, tuple(clips), ())
    found = consecutive_frames(prepared, 8, 7)
    assert [(clip.clips[0], len(clip)) for clip in found] == [("0.mp4", 8), ("2.mp4", 8)]
    assert abs(int(found[1].pixels[0].mean()) - 30) <= 1, "after the gap"
    again = consecutive_frames(replace(prepared, clips=prepared.clips[::-1]), 8, 7)
    assert again[0].data_hash == found[0].data_hash != consecutive_frames(prepared, 9, 7)[0].data_hash
    with pytest.raises(BadInputError, match="frames in a row"):
        consecutive_frames(prepared, 20, 20)
    with pytest.raises(BadInputError, match="at least 7"):
        consecutive_frames(prepared, 6, 7)


def test_a_row_by_hand() -> None:
    greys = [100, 110, 120, 130, 140, 150, 160, 170, 180]
    clip = clip_of(greys)
    truth = to_tensor(clip.pixels)[:, 0, 0, 0].tolist()
    wrong = [value + 0.1 * (index % 2) for index, value in enumerate(truth)]
    source = CodeSource("wrong", "Wrong", lambda clip: VideoEncoding(codes(wrong), (0.2, 0.4, 9.0)))
    _, row = meter(judge_every=2).measure([clip, clip], [source])
    assert math.isinf(row.metrics["psnr"]), "every second frame is right"
    assert row.metrics["lm"] == pytest.approx(0, abs=1e-9) and row.metrics["ms_per_frame"] == pytest.approx(400)
    _, row = meter().measure([clip, clip_of(greys, "other", 1)], [source])
    assert row.metrics["lpips"] == pytest.approx(0.1 * 4 / 9, abs=1e-5)
    # x moves by half as many pixels as values, of 4 in 9 frames; y stays.
    assert row.metrics["lm"] == pytest.approx(0.5 * 0.1**2 * 4 / 9, rel=1e-3)
    # The other nets: both coordinates by three times the change, both numbers of an embedding by the change.
    assert row.metrics["lm_second"] == pytest.approx((3 * 0.1) ** 2 * 4 / 9, rel=1e-3)
    assert row.metrics["identity_distance"] == pytest.approx(2**0.5 * 0.1 * 4 / 9, rel=1e-3)
    shown = np.array(wrong) / 2
    expected = [sum(abs(shown[t + k] - shown[t]) for k in (-3, -2, -1, 1, 2, 3)) for t in (3, 4, 5)]
    assert row.metrics["tc"] == pytest.approx(np.mean(expected), rel=1e-4), "a flat picture has no flow"
    given, _ = meter().measure([clip], [source])
    assert given.name == "input" and math.isnan(given.metrics["psnr"]), "there is nothing to compare it with"
    steps = [sum(abs(truth[t + k] - truth[t]) / 2 for k in (-3, -2, -1, 1, 2, 3)) for t in (3, 4, 5)]
    assert given.metrics["tc"] == pytest.approx(np.mean(steps), rel=1e-4)
    two = torch.tensor([[w] * 6 for w in wrong] * 2), torch.tensor([[t] * 6 for t in truth] * 2)
    assert row.metrics["frechet"] == pytest.approx(frechet_distance(*two).item(), rel=1e-3)
    groups = torch.arange(2).repeat_interleave(9)
    kernel = kernel_distance_interval(*two, groups, groups)
    assert row.metrics["kernel"] == pytest.approx(kernel.value.item(), rel=1e-3)
    assert row.metrics["kernel_low"] <= row.metrics["kernel"] <= row.metrics["kernel_high"]


def test_an_encoder_streams_each_clip_from_its_start_and_is_timed() -> None:
    encoder = GreyEncoder()
    clips = [clip_of(list(range(100, 107))), clip_of(list(range(50, 58)), "other", 1)]
    _, row = meter().measure(clips, [streamed("grey", "Grey", encoder)])
    assert encoder.states == [None, 1, 2, 3, 4, 5, 6, None, 1, 2, 3, 4, 5, 6, 7]
    assert row.metrics["psnr"] > 100 and 0 < row.metrics["ms_per_frame"] < 1000


def test_the_mean_face_is_rendered_once_and_has_no_time() -> None:
    generator = ToyGenerator()
    source = mean_face(generator)  # type: ignore[arg-type]
    _, row = meter(generator).measure([clip_of([128] * 9)], [source])
    assert generator.rendered == 1 and math.isnan(row.metrics["ms_per_frame"])
    assert row.metrics["tc"] == pytest.approx(0, abs=1e-6)


def test_smoothing_averages_the_fine_rows_alone() -> None:
    generator = ToyGenerator()
    assert fine_rows(generator) == [2], "row 1 modulates 32 px, though 64 are written"  # type: ignore[arg-type]
    ws = torch.randn(9, 3, 1, generator=torch.Generator().manual_seed(0))
    source = smoothed(CodeSource("e", "E", lambda clip: VideoEncoding(ws, (1.0,))), 2.0, generator)  # type: ignore[arg-type]
    found = source.encode(clip_of([0] * 9))
    assert torch.equal(found.ws[:, :2], ws[:, :2]) and found.seconds == ()
    np.testing.assert_allclose(
        found.ws[:, 2:], gaussian_filter1d(ws[:, 2:].numpy(), 2.0, axis=0, mode="nearest"), rtol=1e-5
    )
    assert not torch.equal(ws[:, 2], found.ws[:, 2])


def test_error_maps_show_where() -> None:
    def encode(clip: HeldOutFrames) -> VideoEncoding:
        ws = codes([0.0] * 7)
        ws[3, 1] = 0.4  # the left half of the centre flashes
        return VideoEncoding(ws)

    shown, maps = meter().error_maps(clip_of([128] * 7), CodeSource("f", "F", encode))
    assert shown.shape == (7, 3, 256, 256) and maps.shape == (1, 256, 256)
    assert maps[0, :, :120].mean().item() == pytest.approx(6 * 0.2, rel=1e-3)
    assert maps[0, :, 136:].abs().max() < 1e-3


def test_it_stops_when_asked_to() -> None:
    with pytest.raises(CancelledError):
        meter(cancelled=lambda: True).measure([clip_of([1] * 7)], [])


@pytest.fixture
def parts() -> TableParts:
    clips = (clip_of(list(range(60, 69))), clip_of(list(range(80, 89)), "other", 1))
    return TableParts(ToyGenerator(), clips, JUDGES, CONFIG, "cpu")  # type: ignore[arg-type]


def test_what_a_frame_encoder_loses_on_a_long_stream_is_not_its_video_encoders_fault() -> None:
    row = {"psnr": 20.0, "ssim": 0.5, "lpips": 0.3, "lm": 2.0, "tc": 0.04, "ms_per_frame": 9.0}
    curves = {"FrEN": np.array([[30.0, 28.0, 26.0]]), "ViEN": np.array([[30.0, 27.5, 25.0]])}
    found = beside_frame_encoder(row, {**row, "psnr": 20.5, "tc": 0.05}, Drift((0, 100, 200), curves, ("a",)))
    assert set(found) == set(HIGHER_IS_BETTER)
    assert (found["psnr"], found["psnr_gain"]) == (20.0, -0.5)
    assert (found["tc_share"], found["drift"]) == (pytest.approx(0.8), pytest.approx(-0.5))


def test_video_encoders_are_compared_only_where_the_same_was_measured(parts: TableParts) -> None:
    drift = load_params().section("drift", DriftConfig)
    flow = replace(JUDGES, flow=DenseFlow(replace(JUDGES.flow.config, absolute=0.7)))
    clip = replace(parts.clips[0], data_hash="e" * 64)
    others = [
        replace(parts, judges=flow),
        replace(parts, clips=(clip,)),
        replace(parts, config=replace(CONFIG, lpips_net="vgg")),
        replace(parts, config=replace(CONFIG, video=replace(CONFIG.video, judge_every=1))),
    ]
    budget = replace(parts, config=replace(CONFIG, batch=99, steps=1))

    def hash_of(parts: TableParts, drift: DriftConfig) -> str:
        return data_hash_of(parts.clips[0].data_hash, parts.config, parts.judges.flow.config, drift)

    assert hash_of(budget, drift) == hash_of(parts, drift)
    found = [hash_of(other, drift) for other in (parts, *others)]
    found += [hash_of(parts, replace(drift, **{name: 4})) for name in ("every", "clips")]
    assert len(set(found)) == len(found)


def small_encoder(seed: int) -> FrameEncoder:
    torch.manual_seed(seed)
    return FrameEncoder(FrameEncoderConfig(256, (4, 4, 4, 4, 4), 8, 1, 2, 4, 0), 3, torch.zeros(1), torch.eye(1))


def test_rows_come_from_model_folders_and_what_does_not_fit_is_told(parts: TableParts, tmp_path: Path) -> None:
    first, other = small_encoder(0), small_encoder(1)
    save_frame_encoder(tmp_path / "first", first, "toy", "card")
    shipped = save_and_read(first, tmp_path)
    for name, frame_encoder in (("video", shipped), ("stranger", other)):
        video = start_from_frame_encoder(frame_encoder, 1, VideoEncoderConfig(32, 4))
        save_video_encoder(tmp_path / name, video, frame_encoder, "toy", "card")
    save_frame_encoder(tmp_path / "foreign", first, "another generator", "card")
    folders = {
        "FrEN": tmp_path / "first", "ViEN": tmp_path / "video", "Stranger": tmp_path / "stranger",
        "Foreign": tmp_path / "foreign",
    }  # fmt: skip
    rows, notes = encoder_rows(parts, folders)
    assert [row.label for row in rows] == ["mean face", "FrEN", "FrEN, fine codes smoothed", "ViEN"]
    assert len(notes) == 2 and notes[0].startswith("No row Stranger") and "another generator" in notes[1]
    clip = parts.clips[0]
    fren, vien = (rows[i].encode(clip).ws for i in (1, 3))
    torch.testing.assert_close(vien[:, :1], fren[:, :1], atol=1e-3, rtol=0)  # untrained, it answers like FrEN
    assert torch.equal(vien[5, 1:], vien[0, 1:]) and not torch.equal(fren[5, 1:], fren[0, 1:])
    with pytest.raises(BadInputError, match="another generator"):
        encoder_rows(parts, {"FrEN": tmp_path / "foreign"})


def save_and_read(encoder: FrameEncoder, folder: Path) -> FrameEncoder:
    """Weights are kept in float16, and ViEN names those."""
    from modules.encoders.vit import load_frame_encoder

    return load_frame_encoder(folder / "first", "toy")


def test_folders_that_are_not_there_and_one_that_is_named(tmp_path: Path) -> None:
    video = replace(CONFIG.video, encoders={"FrEN": "assets/frame-encoder", "ViEN": "assets/no-such-folder"})
    there, missing = encoder_folders(video)
    assert there == {"FrEN": ROOT / "assets/frame-encoder"} and missing == {"ViEN": "assets/no-such-folder"}
    assert encoder_folders(video, tmp_path)[0] == {"FrEN": tmp_path}


def test_the_files_name_the_features(parts: TableParts, tmp_path: Path) -> None:
    sources = [mean_face(parts.generator), streamed("fren", "FrEN", GreyEncoder())]
    table = parts.table(parts.clips, sources, 3)
    few = parts.table(tuple(shortened(clip, 7) for clip in parts.clips[:1]), sources, 1)
    write_table(tmp_path, [table, few])
    read = json.loads((tmp_path / TABLE).read_text())
    assert read["all"]["frames"] == 18 and read["all"]["persons"] == 2 and read["optimised"]["frames"] == 7
    assert {"fd_vgg", "kd_vgg", "kd_vgg_low", "tc", "lm", "lm_second", "identity_distance", "psnr"} <= set(
        read["all"]["rows"]["fren"]
    )
    assert read["all"]["rows"]["mean_face"]["ms_per_frame"] == "nan"
    text = markdown([table, few], "stylereel evaluate --table", ["No row ViEN: x is not there."])
    assert (
        "| mean face |" in text
        and "| the input itself | — |" in text
        and "fd_vgg" in text
        and "FID" not in text.replace("FID's Inception", "")
    )
    assert "2 persons" in text and "1 person not" in text and "every third" in text and "No row ViEN" in text
    named = markdown([VideoTable(table.rows, table.clips, 3, "inception", "g")], "x")
    assert "| FID ↓ |" in named and "fd_vgg" not in named
    with pytest.raises(BadInputError, match="ask for fewer"):
        shortened(parts.clips[0], 10)
