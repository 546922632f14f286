from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_toys import ToyIdentity

from datamodules.alignment import crop_frame
from datamodules.images import read_image
from datamodules.shards import to_tensor
from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.perception.identity import FaceSight
from services.evaluation.optimise import ChosenNets
from services.pipeline.crops import crop_synthesis_size
from services.pipeline.edit import edit_image
from services.pipeline.invert import (
    CodesState,
    invert_crops,
    invert_faces,
    invert_image,
    measure,
)
from services.pipeline.options import EditOptions
from services.pipeline.refine import refine
from services.pipeline.said import poor_reconstruction
from services.pipeline.stream import invert_video


@pytest.fixture(scope="module")
def image(picture) -> np.ndarray:
    return read_image(picture, 10**8)


def test_refine_reaches_the_least_squares_optimum(toy_models) -> None:
    generator = toy_models.generator
    random = torch.Generator().manual_seed(1)
    target = 0.3 * torch.randn(2, 3, 16, 16, generator=random)
    solution = torch.linalg.lstsq(generator.basis.T, target.flatten(1).T).solution.T.view(2, 4, 8)
    best = (generator.synthesize(solution, resolution=16) - target).square().flatten(1).mean(1)
    config = replace(
        toy_models.config.refine,
        lpips_weight=0.0,
        identity_weight=0.0,
        anchor_weight=0.0,
        l2_weight=1.0,
        learning_rate=0.1,
    )
    found = refine(torch.zeros(2, 4, 8), target, generator, toy_models.judges, config, 300)
    torch.testing.assert_close(found.after, best, rtol=1e-2, atol=1e-5)
    assert (found.after < found.before).all()


def test_refine_comes_nearer_to_the_person_as_well(toy_models) -> None:
    """The loss is the weighted sum that the settings say, and a net without weight is not asked."""
    generator, judges = toy_models.generator, toy_models.judges
    random = torch.Generator().manual_seed(6)
    target = (0.3 * torch.randn(2, 3, 16, 16, generator=random)).clamp(-1, 1)
    begin = 0.3 * torch.randn(2, 4, 8, generator=random)
    config = replace(toy_models.config.refine, identity_weight=0.3, learning_rate=0.01)

    def likeness(ws: torch.Tensor) -> torch.Tensor:
        shown = generator.synthesize(ws, resolution=16).clamp(-1, 1)
        return (judges.identity.embed(shown) * judges.identity.embed(target)).sum(1)

    found = refine(begin, target, generator, judges, config, 40)
    shown = generator.synthesize(found.ws, resolution=16)
    expected = (
        config.l2_weight * (shown - target).square().flatten(1).mean(1)
        + config.lpips_weight * judges.perceptual(shown.clamp(-1, 1), target)
        + 0.3 * (1 - likeness(found.ws))
        + config.anchor_weight * (found.ws - begin).square().flatten(1).mean(1)
    )
    torch.testing.assert_close(found.after, expected)

    class Blind:
        perceptual = judges.perceptual

        @property
        def identity(self) -> None:
            raise AssertionError("has no weight")

    without = refine(begin, target, generator, Blind(), replace(config, identity_weight=0.0), 40)
    assert (likeness(found.ws) > likeness(without.ws) + 0.01).all()

    class FirstHidden(ToyIdentity):
        def look(self, images: torch.Tensor) -> FaceSight:
            return super().look(images)._replace(seen=torch.tensor([False, True]))

    hidden = refine(begin, target, generator, ChosenNets(judges.perceptual, FirstHidden()), config, 40)
    torch.testing.assert_close(hidden.ws, torch.stack([without.ws[0], found.ws[1]]))


def test_refine_never_makes_it_worse(toy_models) -> None:
    config = replace(toy_models.config.refine, learning_rate=50.0)
    target = torch.zeros(1, 3, 16, 16)
    found = refine(torch.full((1, 4, 8), 0.01), target, toy_models.generator, toy_models.judges, config, 5)
    assert found.after <= found.before


def test_the_anchor_keeps_the_codes_near(toy_models) -> None:
    target = torch.ones(1, 3, 16, 16) * 0.5

    def moved(weight: float) -> float:
        config = replace(toy_models.config.refine, anchor_weight=weight)
        begin = torch.zeros(1, 4, 8)
        return float(refine(begin, target, toy_models.generator, toy_models.judges, config, 40).ws.norm())

    assert moved(1.0) < 0.5 * moved(0.0)


def test_a_frame_that_follows_goes_on_with_what_was_remembered(toy_models) -> None:
    """Two frames of two steps are one of four where the target stays: the same rate, the same moments."""
    target = torch.ones(1, 3, 16, 16) * 0.5
    config = replace(toy_models.config.refine, anchor_weight=0.0)
    follow = replace(toy_models.config.follow, learning_rate=0.01)
    parts = toy_models.generator, toy_models.judges, config
    begin = torch.zeros(1, 4, 8)
    whole = refine(begin, target, *parts, 4, follow=follow)
    first = refine(begin, target, *parts, 2, follow=follow)
    second = refine(first.ws, target, *parts, 2, follow=follow, moments=first.moments)
    torch.testing.assert_close(second.ws, whole.ws)
    assert second.moments is not None and whole.moments is not None and int(second.moments.steps) == 4
    torch.testing.assert_close(second.moments.square, whole.moments.square)
    afresh = refine(first.ws, target, *parts, 2, follow=follow)
    assert not torch.allclose(afresh.ws, whole.ws)
    assert refine(begin, target, *parts, 2).moments is None


def test_the_last_step_of_a_frame_that_follows_counts_only_while_the_loss_falls(toy_models) -> None:
    target = torch.ones(2, 3, 16, 16) * torch.tensor([0.5, 0.0])[:, None, None, None]
    config = replace(toy_models.config.refine, anchor_weight=0.0, identity_weight=0.0)
    parts = toy_models.generator, toy_models.judges, config
    begin = torch.zeros(2, 4, 8)
    begin[1] = 0.01  # so near that a large step makes it worse
    follow = replace(toy_models.config.follow, learning_rate=0.05)
    found = refine(begin, target, *parts, 2, follow=follow)
    assert not torch.allclose(found.ws[0], begin[0]) and found.after[0] < found.before[0]
    torch.testing.assert_close(found.ws[1], begin[1], rtol=0, atol=0)

    def loss(ws: torch.Tensor) -> torch.Tensor:
        shown = toy_models.generator.synthesize(ws, resolution=16)
        return (shown - target[:1]).square().mean()

    assert loss(found.ws[:1]) < loss(refine(begin[:1], target[:1], *parts, 1, follow=follow).ws)


def test_refinement_goes_on_where_the_last_frame_ended(toy_models, image) -> None:
    crop = np.ascontiguousarray(image[:256, :256])[None]
    calls = toy_models.generator
    whole, _ = invert_crops(crop.repeat(3, 0), toy_models, 2, CodesState())
    first, state = invert_crops(crop, toy_models, 2, CodesState())
    calls.calls = 0
    rest, _ = invert_crops(crop.repeat(2, 0), toy_models, 2, state)
    assert calls.calls == 2 * 2, "the last step of frames that follow is taken unseen"
    torch.testing.assert_close(torch.cat([first, rest]), whole)


def test_a_refined_frame_is_told_what_the_one_before_remembers(toy_models, image) -> None:
    crops = np.ascontiguousarray(image[:256, :256])[None].repeat(4, 0)
    crops[2:] //= 2
    targets, config = to_tensor(crops), toy_models.config.refine
    start = toy_models.encoder(targets, None)[0] if toy_models.encoder else toy_models.mean_codes(4)
    expected, offset, moments = [], torch.zeros_like(start[:1]), None
    for k, (ws, target) in enumerate(zip(start.split(1), targets.split(1), strict=True)):
        parts = (toy_models.generator, toy_models.judges, config, 2)
        better = refine(
            ws + offset, target, *parts,
            follow=toy_models.config.follow if k else None, moments=moments, encoded=ws,
        )  # fmt: skip
        offset, moments = better.ws - ws, better.moments
        expected.append(better.ws)
    first, state = invert_crops(crops[:2], toy_models, 2, CodesState())
    assert state.moments is not None and moments is not None
    rest, _ = invert_crops(crops[2:], toy_models, 2, state)
    torch.testing.assert_close(torch.cat([first, rest]), torch.cat(expected))


def test_frames_that_follow_stay_where_the_anchor_and_the_frame_agree(toy_models) -> None:
    """The same frame over and over comes to the ridge regression's solution, not to the plain least squares'."""
    generator = toy_models.generator
    random = torch.Generator().manual_seed(2)
    target = 0.3 * torch.randn(1, 3, 16, 16, generator=random)
    weight, pixels, numbers = 0.06, target.numel(), 4 * 8
    config = replace(
        toy_models.config.refine, lpips_weight=0.0, identity_weight=0.0, l2_weight=1.0, anchor_weight=weight
    )
    basis = generator.basis.double()
    ridge = basis @ basis.T / pixels + weight / numbers * torch.eye(numbers, dtype=torch.float64)
    anchored = torch.linalg.solve(ridge, basis @ target.flatten().double() / pixels)
    free = torch.linalg.lstsq(basis.T, target.flatten().double()[:, None]).solution[:, 0]
    assert anchored.norm() < 0.7 * free.norm()  # else the test would say nothing
    encoded = torch.zeros(1, 4, 8)
    follow = replace(toy_models.config.follow, learning_rate=0.01)
    ws, moments = encoded, None
    for _ in range(150):
        found = refine(
            ws, target, generator, toy_models.judges, config, 3,
            follow=follow, moments=moments, encoded=encoded,
        )  # fmt: skip
        ws, moments = found.ws, found.moments
    torch.testing.assert_close(ws.flatten().double(), anchored, rtol=0.05, atol=0.02 * float(free.norm()))


def test_the_state_of_the_encoder_is_carried(toy_models) -> None:
    def counting(frames, state=None):
        start = state or 0
        ws = torch.arange(start, start + len(frames)).float().view(-1, 1, 1).expand(-1, 4, 8)
        return ws, start + len(frames)

    models = replace(toy_models, encoder=counting)
    crops = np.zeros((3, 256, 256, 3), np.uint8)
    first, state = invert_crops(crops, models, 0, CodesState())
    second, _ = invert_crops(crops, models, 0, state)
    assert torch.cat([first, second])[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_image_without_edits_is_returned(toy_models, image) -> None:
    for requests in ([], [EditRequest("age", 0)]):
        np.testing.assert_array_equal(edit_image(image, requests, toy_models, EditOptions()).image, image)


def test_codes_that_were_kept_give_the_same_edit(toy_models, image) -> None:
    inversion = invert_image(image, toy_models, EditOptions(refine=2))
    again = edit_image(inversion, [EditRequest("age", 10)], toy_models, EditOptions())
    direct = edit_image(image, [EditRequest("age", 10)], toy_models, EditOptions(refine=2))
    np.testing.assert_array_equal(again.image, direct.image)
    assert (direct.image != image).any() and direct.image.shape == image.shape
    assert set(inversion.metrics) == {"psnr", "lpips", "identity", "identity_distance", "landmark_error"}


def test_metrics_are_those_of_the_reconstruction(toy_models, image) -> None:
    inversion = invert_image(image, toy_models, EditOptions())
    crop = crop_frame(image, inversion.crop_to_frame, inversion.size)
    shown = toy_models.generator.synthesize(inversion.ws, resolution=256)[0].permute(1, 2, 0).clamp(-1, 1).numpy()
    error = np.mean((crop / 127.5 - 1 - shown) ** 2)
    assert inversion.metrics["psnr"] == pytest.approx(10 * np.log10(4 / error), abs=1e-3)
    same = measure(to_tensor(crop[None]), to_tensor(crop[None]), toy_models)
    assert same["identity"][0] == pytest.approx(1, abs=1e-5) and same["landmark_error"][0] == 0
    assert same["identity_distance"][0] == 0


def test_a_face_behind_a_hand_is_not_compared_and_not_warned_of(toy_models, image) -> None:
    inversion = invert_image(image, toy_models, EditOptions())
    crop = crop_frame(image, inversion.crop_to_frame, inversion.size)
    covered = crop.copy()
    covered[60:250, 40:216] = covered[128, 128]
    found = measure(to_tensor(np.stack([crop, covered])), to_tensor(np.stack([crop, crop])), toy_models)
    assert np.isfinite(found["psnr"]).all()
    for name in ("identity", "identity_distance", "landmark_error"):
        assert np.isnan(found[name]).tolist() == [False, True], name
    judged = [found[name][1:] for name in ("identity_distance", "landmark_error")]
    assert poor_reconstruction(*judged, toy_models.config.warnings, "look") == ()


def test_faces_of_a_group_are_counted_from_the_left(toy_models) -> None:
    group = read_image(asset_path("clips", "multi_face.jpg"), 10**8)
    everyone = invert_faces(group, toy_models, EditOptions(face="all"))
    assert len(everyone) > 2
    places = [
        invert_image(group, toy_models, EditOptions(face=str(i))).crop_to_frame[0, 2] for i in range(len(everyone))
    ]
    assert places == sorted(places)
    with pytest.raises(BadInputError, match="one face"):
        invert_image(group, toy_models, EditOptions(face="all"))


def test_no_face_in_an_image(toy_models) -> None:
    with pytest.raises(BadInputError, match="no face was found"):
        invert_image(np.zeros((64, 64, 3), np.uint8), toy_models, EditOptions())


def test_codes_of_a_clip(toy_models, clip) -> None:
    ws, report = invert_video(clip, toy_models, EditOptions(start=0.5, end=0.9))
    assert ws.shape == (12, 4, 8)
    assert [frame.frame for frame in report.faces[0].frames] == list(range(15, 27))
    # Of the section, every second frame from its first on is measured.
    measured = [frame.frame for frame in report.faces[0].frames if frame.identity is not None]
    assert measured == list(range(15, 27, 2))


def test_directions_of_another_generator_are_refused(toy_models) -> None:
    other = EditSet([Direction("age", "years", torch.zeros(4, 8), -1, 1, "other")])
    with pytest.raises(BadInputError, match=r"other.*toy"):
        replace(toy_models, edits=other)


def test_preview_is_drawn_small(toy_models) -> None:
    toy_models.generator.resolution = 1024
    large = np.diag([3.0, 3.0, 1.0]), 256, toy_models
    assert crop_synthesis_size(*large, EditOptions(preview=True)) == toy_models.config.preview.size
    assert crop_synthesis_size(*large, EditOptions()) > toy_models.config.preview.size


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_a_poor_reconstruction_is_told_by_the_second_net(toy_models, image, clip, apart: float) -> None:
    """The first is what encoder and refinement look through; of it both are told the same here."""
    seen = 0

    def second(images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return torch.full((len(images), 1), apart * (seen % 2))

    judges = type("Told", (type(toy_models.judges),), {"second_identity": staticmethod(second)})
    told = judges(toy_models.judges.detection, "alex", "cpu")
    told.finder = toy_models.judges.finder
    models = replace(toy_models, judges=told)
    _, report = invert_video(clip, models, EditOptions(end=0.1))
    frames = [frame for frame in report.faces[0].frames if frame.identity_distance is not None]
    assert frames and {frame.identity_distance for frame in frames} == {apart}
    for warnings in (invert_image(image, models, EditOptions()).warnings, report.warnings):
        assert any(line.startswith("identity distance 1.00") for line in warnings) == bool(apart)
        assert apart or not any(line.startswith("identity") for line in warnings)
