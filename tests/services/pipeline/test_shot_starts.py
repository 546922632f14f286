"""Where refinement begins in each shot, on a real clip with toy networks and against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_toys import ToyPerceptual
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from datamodules.spread import spread
from modules.editing.directions import EditRequest
from modules.perception.flow import DenseFlow, FlowConfig
from services.evaluation.optimise import ChosenNets
from services.pipeline.follow import Follower
from services.pipeline.interpolate import interpolate_video
from services.pipeline.invert import CodesState, invert_crops
from services.pipeline.kept_codes import KeptCodes
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, plan_clip, taken_frames
from services.pipeline.refine import refine, refine_shared
from services.pipeline.shot_starts import shot_starts, start_of
from services.pipeline.stream import edit_video, invert_video
from services.pipeline.track import encoded_tracks
from services.progress import CancelledError, Progress
from services.settings import load_params

OPTIONS = EditOptions(start=0.5, end=0.9, refine=2)
FRAMES, CUT = 12, 7


@pytest.fixture
def models(toy_models: Models) -> Models:
    follow = replace(toy_models.config.follow, shared_frames=3, shared_steps=5, first_steps=4)
    return replace(toy_models, config=replace(toy_models.config, chunk=4, follow=follow))


@pytest.fixture
def plan(clip: Path, models: Models) -> ClipPlan:
    """As if another shot began in the middle."""
    found = plan_clip(clip, models, OPTIONS)
    assert len(found.numbers) == FRAMES and found.cuts == ()
    return replace(found, cuts=(CUT,))


def crops_of(clip: Path, plan: ClipPlan, models: Models) -> np.ndarray:
    alignment = plan.faces[0].alignment
    frames = np.concatenate([batch.frames for _, batch in taken_frames(clip, models, OPTIONS)])
    return np.stack(
        [crop_frame(*both, alignment.size) for both in zip(frames, alignment.crop_to_frame, strict=True)]
    )


def test_what_frames_share_is_the_least_squares_of_what_all_of_them_lack(models: Models) -> None:
    generator = models.generator
    random = torch.Generator().manual_seed(3)
    encoded = 0.1 * torch.randn(3, 4, 8, generator=random)
    shared = 0.2 * torch.randn(1, 4, 8, generator=random)
    targets = generator.synthesize(encoded + shared, resolution=16)
    targets = targets + 0.05 * torch.randn(targets.shape, generator=random)
    lacks = (targets - generator.synthesize(encoded, resolution=16)).flatten(1).mean(0)
    expected = torch.linalg.lstsq(generator.basis.T, lacks[:, None]).solution.view(1, 4, 8)
    config = replace(
        models.config.refine,
        lpips_weight=0.0, identity_weight=0.0, l2_weight=1.0, anchor_weight=0.0, learning_rate=0.001,
    )  # fmt: skip
    follow = replace(models.config.follow, shared_steps=1800)
    offset = refine_shared(encoded, targets, generator, models.judges, config, follow)
    torch.testing.assert_close(offset, expected, rtol=0.1, atol=0.02)
    assert not offset.requires_grad


def test_one_step_on_one_frame_is_the_first_of_that_frame_by_itself(models: Models) -> None:
    """The same loss and the same rate."""
    target = torch.ones(1, 3, 16, 16) * 0.5
    encoded = 0.1 * torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(4))
    parts = models.generator, models.judges, models.config.refine
    offset = refine_shared(encoded, target, *parts, replace(models.config.follow, shared_steps=1))
    torch.testing.assert_close(encoded + offset, refine(encoded, target, *parts, 1).ws)


@pytest.mark.parametrize("broken", [1, 3])
def test_a_loss_that_is_no_number_leaves_the_offset_before_it(models: Models, broken: int) -> None:
    looked = 0

    class Breaks(ToyPerceptual):
        def __call__(self, images: Tensor, target: Tensor | tuple[Tensor, ...]) -> Tensor:
            nonlocal looked
            looked += 1
            return super().__call__(images, target) * (float("nan") if looked == broken else 1.0)

    def nets(perceptual: ToyPerceptual) -> ChosenNets:
        return ChosenNets(perceptual, models.judges.identity)

    target = torch.ones(1, 3, 16, 16) * 0.5
    encoded = torch.zeros(1, 4, 8)
    config = models.config
    offset = refine_shared(encoded, target, models.generator, nets(Breaks()), config.refine, config.follow)
    expected = torch.zeros(1, 4, 8)
    if broken > 2:  # the third look was at what two steps made; what the second saw was the last that is sound
        follow = replace(config.follow, shared_steps=broken - 2)
        expected = refine_shared(encoded, target, models.generator, nets(ToyPerceptual()), config.refine, follow)
    assert looked == broken
    torch.testing.assert_close(offset, expected, rtol=0, atol=0)


def test_each_shot_begins_at_what_its_own_frames_share(clip: Path, plan: ClipPlan, models: Models) -> None:
    crops = crops_of(clip, plan, models)
    told: list[Progress] = []
    (starts,) = shot_starts(clip, plan, models, OPTIONS, [None], told.append)
    assert list(starts) == [0, CUT]
    assert (told[0].stage, told[0].done, told[-1].done, told[-1].total) == ("fit shots", 0, 10, 10)
    for begins, ends in ((0, CUT), (CUT, FRAMES)):
        rows = [begins + place for place in spread(ends - begins, 3)]
        expected = start_of(crops[rows], models)
        state = starts[begins]
        assert state.encoder is None and state.begins and state.offset is not None and expected.offset is not None
        torch.testing.assert_close(state.offset, expected.offset, rtol=0, atol=0)
    assert starts[0].offset is not None and starts[CUT].offset is not None
    assert not torch.allclose(starts[0].offset, starts[CUT].offset)


def test_the_follower_goes_on_from_there_in_each_shot(clip: Path, plan: ClipPlan, models: Models) -> None:
    crops = crops_of(clip, plan, models)
    (starts,) = shot_starts(clip, plan, models, OPTIONS, [None])
    follower = Follower(plan.faces[0], plan.cuts, models, 2, None, starts)
    found = [
        stretch.seen.ws
        for place, batch in taken_frames(clip, models, OPTIONS)
        for stretch in follower.stretches(batch.frames, place)
        if stretch.seen is not None
    ]
    expected = [
        invert_crops(crops[begins:ends], models, 2, starts[begins])[0]
        for begins, ends in ((0, CUT), (CUT, FRAMES))
    ]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=0)
    # The same steps without a start end farther from all frames.
    lost, _ = invert_crops(crops[:CUT], models, 2, CodesState())
    wanted = to_tensor(crops[:CUT])
    near, far = (
        (models.generator.synthesize(ws) - wanted).square().flatten(1).mean(1) for ws in (expected[0], lost)
    )
    assert (near[:3] < far[:3]).all()


def test_the_first_frame_of_a_shot_takes_more_steps_and_the_others_follow_it(
    clip: Path, plan: ClipPlan, models: Models
) -> None:
    targets = to_tensor(crops_of(clip, plan, models)[:3])
    offset = 0.1 * torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(5))
    encoded = models.mean_codes(1)
    parts = models.generator, models.judges, models.config.refine
    for steps, first in ((2, 4), (7, 7)):
        one = refine(encoded + offset, targets[:1], *parts, first, encoded=encoded)
        follow = models.config.follow
        two = refine(one.ws, targets[1:2], *parts, steps, follow=follow, encoded=encoded)
        three = refine(two.ws, targets[2:], *parts, steps, follow=follow, moments=two.moments, encoded=encoded)
        crops = crops_of(clip, plan, models)[:3]
        found, state = invert_crops(crops, models, steps, CodesState(offset=offset, begins=True))
        torch.testing.assert_close(found, torch.cat([one.ws, two.ws, three.ws]))
        assert not state.begins and state.moments is not None


def test_shots_whose_codes_are_all_there_are_left_out(
    clip: Path, plan: ClipPlan, models: Models, tmp_path: Path
) -> None:
    kept = KeptCodes.of(tmp_path / "codes", models)
    for known, expected in ((0, [0, CUT]), (CUT - 1, [0, CUT]), (CUT, [CUT]), (FRAMES - 1, [CUT]), (FRAMES, [])):
        kept.cut(0)
        if known:
            kept.add(models.mean_codes(known), CodesState())
        (starts,) = shot_starts(clip, plan, models, OPTIONS, [kept])
        assert list(starts) == expected


def test_what_was_found_is_kept_beside_the_codes(
    clip: Path, plan: ClipPlan, models: Models, tmp_path: Path
) -> None:
    kept, generator = KeptCodes.of(tmp_path / "codes", models), models.generator
    (first,) = shot_starts(clip, plan, models, OPTIONS, [kept])
    calls = generator.calls
    (again,) = shot_starts(Path("nowhere.mp4"), plan, models, OPTIONS, [kept])
    assert generator.calls == calls and list(again) == [0, CUT]
    damaged = tmp_path / f"codes-shot-{CUT}.safetensors"
    damaged.unlink()  # what was read of it is still mapped
    damaged.write_bytes(b"cut short")
    (mended,) = shot_starts(clip, plan, models, OPTIONS, [kept])
    assert generator.calls == calls + 5  # one shot's steps
    for one in (again, mended):
        for begins, state in one.items():
            expected = first[begins].offset
            assert state.begins and state.offset is not None and expected is not None
            torch.testing.assert_close(state.offset, expected, rtol=0, atol=0)


def test_all_ways_through_a_clip_begin_there(clip: Path, models: Models, tmp_path: Path) -> None:
    plan = plan_clip(clip, models, OPTIONS)
    (starts,) = shot_starts(clip, plan, models, OPTIONS, [None])
    # Chunk by chunk, as the passes are.
    expected, state, crops = [], starts[0], crops_of(clip, plan, models)
    for first in range(0, FRAMES, models.config.chunk):
        ws, state = invert_crops(crops[first : first + models.config.chunk], models, 2, state)
        expected.append(ws)
    asked = [EditRequest("age", 10.0)]
    found, _ = invert_video(clip, models, OPTIONS)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=0)
    encoded_tracks(clip, plan, models, OPTIONS, tmp_path / "encoded")
    edit_video(clip, tmp_path / "a.mp4", asked, models, replace(OPTIONS, balance=False), work=tmp_path / "edited")
    flow = DenseFlow(load_params().section("flow", FlowConfig))
    interpolate_video(clip, tmp_path / "b.mp4", 2, models, flow, OPTIONS, work=tmp_path / "interpolated")
    for way in ("encoded", "edited", "interpolated"):
        rows = KeptCodes.of(tmp_path / way / "codes-0", models).read(0, FRAMES)
        np.testing.assert_array_equal(rows, torch.cat(expected).numpy())


def test_a_shot_that_does_not_show_the_face_has_no_start(clip: Path, plan: ClipPlan, models: Models) -> None:
    face = plan.faces[0]
    valid = face.alignment.valid.copy()
    valid[:CUT] = False
    hidden = replace(face, alignment=replace(face.alignment, valid=valid))
    first, second = shot_starts(clip, replace(plan, faces=(hidden, face)), models, OPTIONS, [None, None])
    assert list(first) == [CUT] and list(second) == [0, CUT]


@pytest.mark.parametrize(
    ("options", "shared"),
    [(EditOptions(refine=0), 5), (EditOptions(preview=True), 5), (EditOptions(), 5), (OPTIONS, 0)],
)
def test_nothing_is_read_where_nothing_is_refined(
    plan: ClipPlan, models: Models, options: EditOptions, shared: int
) -> None:
    told: list[Progress] = []
    follow = replace(models.config.follow, shared_steps=shared)
    models = replace(models, config=replace(models.config, follow=follow))
    assert shot_starts(Path("nowhere.mp4"), plan, models, options, [None], told.append) == [{}]
    assert told == []


def test_a_generator_that_learned_the_clip_has_no_starts(plan: ClipPlan, models: Models) -> None:
    """It learned the encoder's codes as they are."""
    follow = replace(models.config.follow, steps=3)
    learned = replace(models, adapted=True, config=replace(models.config, follow=follow))
    assert shot_starts(Path("nowhere.mp4"), plan, learned, EditOptions(), [None]) == [{}]


def test_it_stops_when_it_is_told_to(clip: Path, plan: ClipPlan, models: Models) -> None:
    told: list[Progress] = []
    with pytest.raises(CancelledError):
        shot_starts(clip, plan, models, OPTIONS, [None], told.append, lambda: bool(told) and told[-1].done >= 4)
    assert told[-1].done == 4


def test_it_stops_while_it_reads(clip: Path, plan: ClipPlan, models: Models) -> None:
    """Before the last frame that is looked at was read, no step is taken."""
    told: list[Progress] = []
    asked = iter((False, False, True))  # as it begins, at the first batch, and at the second
    whole = replace(plan, cuts=())
    with pytest.raises(CancelledError):
        shot_starts(clip, whole, models, OPTIONS, [None], told.append, lambda: next(asked))
    assert [progress.done for progress in told] == [0]
