"""What the input has stays, what it lacks comes from the generator, and only where a face is."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.images import read_image
from datamodules.types import BadInputError
from datamodules.video import probe, read_frames
from modules.assets import asset_path
from modules.encoders.restoring import Task, degrade
from services.pipeline.canvas import canvas_of, kept_of, on_canvas, read_by
from services.pipeline.invert import invert_faces
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.restore import restore_image, restore_video, restoring_options
from services.pipeline.restorers import restoring

PLENTY = 10**9
LUMA = np.array([0.299, 0.587, 0.114])
SHORT = restoring_options(start=0.5, end=0.7)


class Told:
    """Answers the same codes for every crop and keeps the crops."""

    def __init__(self) -> None:
        self.ws = 2 * torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(7))
        self.seen: list[Tensor] = []

    def __call__(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        self.seen.append(frames)
        return self.ws.expand(len(frames), -1, -1), None


def restoring_toys(models: Models, task: Task) -> Models:
    return restoring(models, task, Told(), {"toy": "1"})  # type: ignore[arg-type]


@pytest.fixture
def colours(toy_models: Models) -> Models:
    return restoring_toys(toy_models, "colourise")


class Fine:
    """A generator whose picture is all fine lines."""

    num_ws, w_dim, resolution, sha256 = 4, 8, 256, "toy"
    w_mean = torch.zeros(8)

    def synthesize(self, ws: Tensor, resolution: int = 256, **_: object) -> Tensor:
        noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)) - 0.5
        return F.interpolate(noise, resolution, mode="bilinear").expand(len(ws), -1, -1, -1)


@pytest.fixture
def lines(toy_models: Models) -> Models:
    return restoring_toys(replace(toy_models, generator=Fine()), "enlarge")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photo(picture: Path) -> np.ndarray:
    return cv2.resize(read_image(picture, 10**8), (480, 480), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def little(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, (120, 120), interpolation=cv2.INTER_AREA)


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(image @ LUMA).astype(np.uint8)[..., None], 3, axis=-1)


def reach(models: Models, image: np.ndarray) -> np.ndarray:
    """``(H, W)``: where on the canvas the disc that the toys call a head can be, feather and all."""
    (inversion,) = invert_faces(read_by(models.task, image), models, restoring_options())
    matrix = on_canvas(models.task, inversion.crop_to_frame)
    centre = (matrix @ [(inversion.size - 1) / 2, (inversion.size - 1) / 2, 1])[:2]
    side = np.hypot(matrix[0, 0], matrix[1, 0]) * inversion.size
    height, width = canvas_of(models.task, image).shape[:2]
    y, x = np.mgrid[:height, :width]
    return np.hypot(x - centre[0], y - centre[1]) <= side * (0.4 + 4.5 * models.config.composite.feather)


def test_colours_keep_the_luma_and_come_where_the_face_is(colours, photo) -> None:
    done = restore_image(photo, colours, restoring_options(), PLENTY)
    assert done.image.shape == photo.shape
    assert np.abs(done.image @ LUMA - photo @ LUMA).max() <= 1.01
    coloured = np.ptp(done.image.astype(int), axis=2)
    inside = reach(colours, photo)
    assert coloured[~inside].max() == 0
    assert np.array_equal(done.image[~inside], read_by("colourise", photo)[~inside])
    assert coloured[inside].max() > 40


def test_what_is_white_or_black_takes_no_colour_and_keeps_its_luma(colours, photo) -> None:
    """A channel that were clipped would change the luma: of two thirds of the pixels here there is little room."""
    stark = np.where(photo > 128, 245, 12).astype(np.uint8)
    found = colours.judges.find(grey(photo)[None])
    colours.judges.find = lambda frames: found  # type: ignore[method-assign]
    done = restore_image(stark, colours, restoring_options(), PLENTY)
    assert np.abs(done.image @ LUMA - grey(stark) @ LUMA).max() <= 1.01
    assert np.ptp(done.image.astype(int), axis=2).max() > 5


def test_colours_that_are_there_are_not_looked_at(colours, photo) -> None:
    a = restore_image(photo, colours, restoring_options(), PLENTY)
    b = restore_image(read_by("colourise", photo), colours, restoring_options(), PLENTY)
    assert np.array_equal(a.image, b.image)
    assert np.abs(read_by("colourise", photo).astype(int) - grey(photo)).max() <= 1
    first, second = colours.encoder.seen
    assert torch.equal(first, second) and torch.equal(first[:, 0], first[:, 2])


def test_an_enlarged_picture_made_small_again_is_the_picture(lines, little) -> None:
    done = restore_image(little, lines, restoring_options(), PLENTY)
    assert done.image.shape == (480, 480, 3)
    plain = canvas_of("enlarge", little)
    inside = reach(lines, little)
    assert np.array_equal(done.image[~inside], plain[~inside])
    added = np.abs(done.image.astype(int) - plain)[inside]
    assert added.mean() > 5

    def small(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        return F.interpolate(pixels, 120, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()

    away = np.abs(small(done.image) - small(plain))[inside[::4, ::4]]
    assert away.mean() < 0.4 * added.mean()  # what is added is noise, of which bicubic kernels let some through
    # Enlarging alone does not come back to the bit either.
    assert np.abs(small(done.image) - little).mean() < np.abs(small(plain) - little).mean() + 1


def test_the_lines_of_the_true_face_come_where_they_were(lines, photo, little, monkeypatch) -> None:
    """Drawn two pixels beside their place they would be further off than no lines at all."""
    (inversion,) = invert_faces(little, lines, restoring_options())
    matrix = on_canvas("enlarge", inversion.crop_to_frame)
    truth = torch.from_numpy(crop_frame(photo, matrix, 256)).permute(2, 0, 1)[None] / 127.5 - 1
    monkeypatch.setattr(lines.generator, "synthesize", lambda ws, resolution: truth)
    core = cv2.erode(reach(lines, little).astype(np.uint8), np.ones((61, 61), np.uint8)) > 0

    def off(image: np.ndarray) -> float:
        return float(np.abs(image.astype(int) - photo)[core].mean())

    done = restore_image(little, lines, restoring_options(), PLENTY).image
    plain = canvas_of("enlarge", little)
    assert off(done) < 0.6 * off(plain)
    monkeypatch.setattr(lines.generator, "synthesize", lambda ws, resolution: truth.roll((2, 2), (2, 3)))
    assert off(restore_image(little, lines, restoring_options(), PLENTY).image) > off(plain)


def test_a_face_that_is_large_already_is_left_alone(lines, photo) -> None:
    """At the generator's full size there is nothing that a crop of 300 pixels does not have."""
    done = restore_image(photo, lines, restoring_options(), PLENTY)
    assert np.array_equal(done.image, canvas_of("enlarge", photo)) and len(done.inversions) == 1


def test_what_the_input_resolves_is_not_taken_from_it() -> None:
    shown = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = kept_of("enlarge", shown, [64.0, 500.0])
    torch.testing.assert_close(kept, shown, rtol=0, atol=1e-5)
    kept = kept_of("enlarge", shown, [32.0, 16.0])
    expected = torch.cat([degrade(shown[:1], "enlarge", 2.0), degrade(shown[1:], "enlarge", 4.0)]).clamp(-1, 1)
    torch.testing.assert_close(kept, expected)
    assert kept_of(None, shown, []) is shown


def test_pixel_centres_go_where_the_larger_picture_has_them() -> None:
    small = np.zeros((9, 11, 3), np.uint8)
    small[4, 7] = 255
    large = canvas_of("enlarge", small).astype(float)[..., 0].clip(64)
    large -= large.min()
    y, x = np.mgrid[: large.shape[0], : large.shape[1]]
    centre = [(large * x).sum() / large.sum(), (large * y).sum() / large.sum()]
    crop_to_frame = np.array([[1.0, 0, 7], [0, 1, 4], [0, 0, 1]])
    assert on_canvas("enlarge", crop_to_frame)[:2, 2] == pytest.approx(centre, abs=1e-6)
    assert on_canvas("colourise", crop_to_frame) is crop_to_frame


@pytest.mark.parametrize("task", ["colourise", "enlarge"])
def test_a_picture_without_a_face_is_made_grey_or_large_and_no_more(toy_models, photo, task) -> None:
    models = restoring_toys(toy_models, task)
    nobody = np.ascontiguousarray(photo[:60, :80])
    done = restore_image(nobody, models, restoring_options(), PLENTY)
    assert np.array_equal(done.image, canvas_of(task, read_by(task, nobody)))
    assert done.inversions == () and "no face was found" in done.warnings[0]
    assert models.generator.calls == 0


def test_a_result_that_is_too_large_is_refused_before_anything_is_computed(lines, photo, monkeypatch) -> None:
    monkeypatch.setattr(lines.judges, "find", None)
    pixels = 16 * photo.shape[0] * photo.shape[1]
    with pytest.raises(BadInputError, match=r"1920x1920, and at most \d+ pixels are made") as caught:
        restore_image(photo, lines, restoring_options(), pixels - 1)
    assert caught.value.status == 413
    with pytest.raises(TypeError):  # the limit itself is taken, so that a face is looked for
        restore_image(photo, lines, restoring_options(), pixels)


def test_a_face_that_is_not_there_is_an_error(colours, photo) -> None:
    with pytest.raises(BadInputError, match="at most 1 can be seen"):
        restore_image(photo, colours, restoring_options(face="4"), PLENTY)


def test_a_poor_reconstruction_is_said_without_an_advice_that_does_not_help(colours, photo) -> None:
    done = restore_image(photo, colours, restoring_options(), PLENTY)
    assert done.warnings and all("may be another person's" in w and "refine" not in w for w in done.warnings)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def test_a_clip_is_coloured_and_its_sound_copied(colours, tmp_path, clip) -> None:
    target, seen = tmp_path / "out.mp4", {}
    report = restore_video(
        clip, target, colours, SHORT, PLENTY, observe=lambda i, a, b: seen.update({i: (a.copy(), b.copy())})
    )
    assert sorted(seen) == list(range(15, 21)) and report.frames == probe(target).frames == 6
    for before, after in seen.values():
        assert np.array_equal(before[..., 0], before[..., 2])
        assert np.abs(after @ LUMA - before @ LUMA).max() <= 1.01
        assert np.ptp(after.astype(int), axis=2).max() > 40
    assert packets(target) and packets(target)[0] in packets(clip)
    assert (probe(target).width, probe(target).height) == (probe(clip).width, probe(clip).height)


def test_a_clip_is_enlarged(lines, tmp_path, clip) -> None:
    small = tmp_path / "small.mp4"
    with av.open(str(clip)) as source, av.open(str(small), "w") as made:
        stream = made.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for number, frame in zip(range(4), source.decode(video=0), strict=False):
            picture = frame.reformat(160, 90, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 10)
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    report = restore_video(
        small, tmp_path / "out.mp4", lines, restoring_options(), PLENTY,
        observe=lambda i, a, b: seen.update({i: (a.copy(), b.copy())}),
    )  # fmt: skip
    made_of = probe(tmp_path / "out.mp4")
    assert (made_of.width, made_of.height, made_of.frames) == (640, 360, 4)
    assert len(report.faces) == 1 and report.faces[0].synthesis_size == 256
    before, after = seen[1]
    assert before.shape == (90, 160, 3) and after.shape == (360, 640, 3)
    changed = np.nonzero((after != canvas_of("enlarge", before)).any(axis=2))
    a, b, x, y = report.faces[0].frames[1].crop
    inverse = np.linalg.inv(on_canvas("enlarge", np.array([[a, -b, x], [b, a, y], [0, 0, 1]])))
    at = inverse @ np.stack([changed[1], changed[0], np.ones(len(changed[0]))])
    assert len(changed[0]) > 200
    assert at[:2].min() >= -1 and at[:2].max() <= report.faces[0].crop_size
    with pytest.raises(BadInputError, match="640x360"):
        restore_video(small, tmp_path / "no.mp4", lines, restoring_options(), 640 * 360 - 1)
    assert not (tmp_path / "no.mp4").exists()


def test_a_clip_without_a_face_is_grey(colours, tmp_path) -> None:
    source, target = asset_path("clips", "no_face.mp4"), tmp_path / "out.mkv"
    config = replace(colours.config, video=replace(colours.config.video, codec="ffv1"))
    options = replace(SHORT, start=0.0, end=0.2)
    report = restore_video(source, target, replace(colours, config=config), options, PLENTY)
    assert report.faces == () and "no face was found" in report.warnings[-1]
    frames = next(read_frames(target, 2)).frames
    assert np.ptp(frames.astype(int), axis=3).max() <= 3  # as near to grey as yuv420 holds it


def test_edits_know_nothing_of_it(toy_models, photo) -> None:
    with pytest.raises(BadInputError, match="no face was found"):
        invert_faces(np.ascontiguousarray(photo[:60, :80]), toy_models, EditOptions())
    with pytest.raises(ValueError, match="restore nothing"):
        restore_image(photo, toy_models, restoring_options(), PLENTY)
