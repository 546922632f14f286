"""What an edit may change, and how it is pasted, by what it is and what the user says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.placement import RIGHT, ROLL, Placement
from modules.ops import move_image
from modules.out_of_memory import BatchSize
from modules.perception.parsing import Regions
from services.pipeline.crops import changes_nothing, edit_crops, way_to_paste
from services.pipeline.models import Models
from services.pipeline.options import EditOptions


@pytest.fixture
def models(toy_models: Models) -> Models:
    """The toys with one edit that stays in place and one that turns the head."""
    made = toy_models.generator
    step = torch.full((made.num_ws, made.w_dim), 0.1)
    older = Direction("older", "years", step, -20, 20, made.sha256)
    turn = Direction("turn", "degrees", step, -20, 20, made.sha256)
    return replace(toy_models, edits=EditSet([older, turn]))


OLDER, TURN, NOT_AT_ALL = EditRequest("older", 5.0), EditRequest("turn", 5.0), EditRequest("turn", 0.0)


@pytest.mark.parametrize(
    ("requests", "paste", "expected"),
    [
        ([OLDER], "auto", "mixed"),
        ([TURN], "auto", "replace"),
        ([OLDER, TURN], "auto", "replace"),
        ([NOT_AT_ALL, OLDER], "auto", "mixed"),
        ([TURN], "difference", "difference"),
        ([OLDER], "replace", "replace"),
        ([TURN], "mixed", "mixed"),
    ],
)
def test_a_turned_head_replaces_and_all_else_is_mixed(models, requests, paste, expected) -> None:
    assert way_to_paste(requests, models, EditOptions(paste=paste)) == expected


def test_a_generator_that_learned_the_face_replaces_it(models) -> None:
    adapted = replace(models, adapted=True)
    assert way_to_paste([OLDER], adapted, EditOptions()) == "replace"
    assert way_to_paste([OLDER], adapted, EditOptions(paste="difference")) == "difference"
    assert way_to_paste([NOT_AT_ALL], adapted, EditOptions()) == "mixed"
    assert changes_nothing([NOT_AT_ALL], EditOptions())


def test_no_strength_changes_nothing_unless_the_face_is_to_be_replaced() -> None:
    assert changes_nothing([NOT_AT_ALL], EditOptions())
    assert changes_nothing([], EditOptions(paste="difference"))
    assert not changes_nothing([NOT_AT_ALL], EditOptions(paste="replace"))
    assert not changes_nothing([OLDER], EditOptions())


class Disc:
    """Judges whose head, all of it face, is a disc; nothing is background."""

    def regions(self, images: torch.Tensor) -> Regions:
        at = torch.linspace(-1, 1, images.shape[-1])
        disc = (at[:, None] ** 2 + at[None] ** 2 < 0.4).float().expand(len(images), 1, -1, -1)
        return Regions(disc, disc, torch.zeros_like(disc))


class BeforeWall(Disc):
    """The same before a background."""

    def regions(self, images: torch.Tensor) -> Regions:
        found = super().regions(images)
        return found._replace(background=1 - found.head)


class HalfFaces:
    """Judges whose head is everything and whose face is the left half; they keep how bright what they saw was."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def regions(self, images: torch.Tensor) -> Regions:
        self.asked.append(float(images.mean()))
        head = torch.ones(len(images), 1, *images.shape[2:])
        face = head.clone()
        face[..., images.shape[3] // 2 :] = 0
        return Regions(face, head, 1 - head)


@pytest.mark.parametrize(
    ("request_", "adapted", "looks", "head"),
    [(OLDER, False, 1, False), (TURN, False, 2, True), (OLDER, True, 2, False)],
)
def test_the_mask_follows_the_face_that_is_there(models, request_, adapted, looks, head) -> None:
    """The input is always asked, the edited picture where its outline counts, the reconstruction never."""
    judges = HalfFaces()
    models = replace(models, judges=judges, adapted=adapted)
    target = torch.full((1, 3, 64, 64), 0.75)
    (crop,) = edit_crops(models.mean_codes(1), target, [request_], models, EditOptions(), 64)
    assert crop.mask.shape == (64, 64)
    assert len(judges.asked) == looks
    assert judges.asked[0] == pytest.approx(0.75)
    assert crop.mask[32, 16] == 1 and crop.mask[32, 48] == float(head)
    if looks == 2:
        assert judges.asked[1] == pytest.approx(float(crop.edit.mean()), abs=1e-3)


def test_only_what_is_pasted_whole_has_its_colours_corrected(models) -> None:
    """What an edit makes of the head's hair is no drift: there the unedited picture is compared."""
    models = replace(models, judges=Disc())
    target = torch.full((1, 3, 64, 64), 0.1)

    def crop(request: EditRequest, **options):
        return next(edit_crops(models.mean_codes(1), target, [request], models, EditOptions(**options), 64))

    added, whole, turned = crop(OLDER), crop(OLDER, paste="replace"), crop(TURN)
    assert added.taken is None
    assert whole.taken is not None and np.abs(whole.taken).max() > 1
    np.testing.assert_array_equal(whole.reconstruction, added.reconstruction)
    assert (whole.edit != added.edit).any()
    # The mean code's picture is grey all over, 0.1 below the target.
    assert turned.taken is not None
    np.testing.assert_allclose(turned.taken, -12.75, atol=0.05)


def test_around_a_head_that_is_pasted_whole_the_frame_shows_itself(models) -> None:
    """A face before the same background, and a head that was stitched to it, are pasted as before."""
    target = torch.full((1, 3, 64, 64), 0.1)

    def mask(judges: Disc, request: EditRequest, stitch: bool = False, **more) -> np.ndarray:
        seeing, options = replace(models, judges=judges, **more), EditOptions(stitch=stitch)
        return next(edit_crops(models.mean_codes(1), target, [request], seeing, options, 64)).mask

    without = mask(BeforeWall(), TURN, stitch=True)
    before, body = mask(BeforeWall(), TURN), mask(Disc(), TURN)
    at = np.linspace(-1, 1, 64)
    apart = np.hypot(at[:, None], at[None])
    ring = (apart > 0.76) & (apart < 0.8)
    assert without[ring].mean() > 0.05 > 0.005 > before[ring].max()
    assert body[ring].max() < 0.005 and min(one[apart < 0.55].min() for one in (before, body)) > 0.95
    # What the stitching is tuned with is what it is pasted with.
    np.testing.assert_array_equal(mask(BeforeWall(), TURN, stitch=True, stitched=models.generator), without)
    np.testing.assert_array_equal(mask(Disc(), TURN, stitch=True), without)
    np.testing.assert_array_equal(mask(Disc(), OLDER), mask(BeforeWall(), OLDER))


def test_colours_that_the_frames_background_covers_are_not_reported_as_taken(models) -> None:
    """The mean code's picture is 0.1 below the target all over; the background that is drawn is the frame's."""
    seeing, target = replace(models, judges=BeforeWall()), torch.full((1, 3, 64, 64), 0.1)
    (crop,) = edit_crops(models.mean_codes(1), target, [TURN], seeing, EditOptions(), 64)
    assert crop.taken is not None
    middle = len(crop.taken) // 2
    np.testing.assert_allclose(crop.taken[middle, middle], -12.75, atol=0.05)
    np.testing.assert_allclose(crop.taken[:3, :3], 0, atol=0.05)


class Shading:
    """A generator of waves in the light that the codes' first number says."""

    def __init__(self, generator) -> None:
        self.generator = generator

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, ws: torch.Tensor, resolution: int, **how) -> torch.Tensor:
        waves = 0.2 * torch.sin(2 * torch.pi * torch.arange(resolution) / 4 + ws[0, 0, 1])
        return (waves + ws[:, 0, 0, None]).expand(len(ws), 3, resolution, resolution)


@pytest.mark.parametrize("paste", ["difference", "mixed", "replace"])
def test_light_and_complexion_stay_unless_an_edit_is_for_colours(models, paste) -> None:
    """What is fine comes through in either way; over a stitched face the light was tuned to the frame's."""
    step = torch.zeros_like(models.edits["older"].vector)
    step[0, 0], step[0, 1] = 0.1, 0.4
    plain = replace(models.edits["older"], name="plain", vector=step, recolours=False)
    made = Shading(models.generator)
    edits = EditSet([plain, replace(plain, name="tan", recolours=True)])
    # Without the seam's correction, which would even out all light.
    config = replace(models.config, seam=replace(models.config.seam, strength=0))
    models = replace(models, generator=made, judges=Disc(), edits=edits, config=config)
    target = torch.zeros(1, 3, 64, 64)

    def change(*names: str, **more) -> np.ndarray:
        asked = [EditRequest(name, 1.0) for name in names]
        crop = next(
            edit_crops(models.mean_codes(1), target, asked, replace(models, **more), EditOptions(paste=paste), 64)
        )
        return (crop.edit - crop.reconstruction)[24:40, 24:40]

    kept, tanned, both, stitched = (
        change("plain"),
        change("tan"),
        change("plain", "tan"),
        change("plain", stitched=made),
    )
    assert np.abs(kept).max() > 0.05, "waves that moved"
    assert kept.mean() == pytest.approx(0.0, abs=0.01) and tanned.mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(kept + 0.1, tanned, atol=0.02)
    np.testing.assert_allclose(stitched, tanned, atol=1e-6)
    assert both.mean() == pytest.approx(0.2, abs=0.01)


class Lit:
    """A generator that draws a head lit from one side, brighter by one number of the codes."""

    def __init__(self, generator) -> None:
        self.generator = generator

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, ws: torch.Tensor, resolution: int, transform=None, **how) -> torch.Tensor:
        across = torch.linspace(-0.7, 0.7, resolution)
        head = 0.2 - 0.6 * across[:, None] - 0.5 * across.abs() + ws[:, 0, 0, None, None]
        shown = head[:, None].expand(len(ws), 3, resolution, resolution)
        return shown if transform is None else move_image(shown, transform)


def test_a_head_that_is_moved_takes_its_light_along(models) -> None:
    """Only what an edit beside the move does to light is taken out, and it is seen where the head then stands."""
    step = torch.zeros_like(models.edits["older"].vector)
    step[0, 0] = 0.1
    paler = replace(models.edits["older"], name="paler", vector=step, recolours=False)
    moves = [Placement(name, "steps", -15, 15, paler.generator_sha256) for name in (ROLL, RIGHT)]
    config = replace(models.config, seam=replace(models.config.seam, strength=0))
    edits = EditSet([paler, *moves])
    models = replace(models, generator=Lit(models.generator), judges=Disc(), edits=edits, config=config)
    target, ws = torch.zeros(1, 3, 64, 64), models.mean_codes(1)

    def shown(*requests: EditRequest) -> np.ndarray:
        (crop,) = edit_crops(ws, target, requests, models, EditOptions(paste="replace"), 64)
        return crop.edit[16:48, 16:48]

    moved = [EditRequest(ROLL, 15.0), EditRequest(RIGHT, 6.0)]
    transform = edits.transform(moved)
    wanted = models.generator.synthesize(ws, 64, transform)[0].permute(1, 2, 0)[16:48, 16:48]
    np.testing.assert_allclose(shown(*moved), wanted, atol=1e-5)
    assert np.abs(shown(*moved) - shown(EditRequest("paler", 0.0))).max() > 0.1
    np.testing.assert_allclose(shown(EditRequest("paler", 1.0), *moved), wanted, atol=0.02)


class Turning:
    """A generator whose head comes to cover the left half too, darker than what was behind it by one number."""

    def __init__(self, generator) -> None:
        self.generator = generator

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, ws: torch.Tensor, resolution: int, **how) -> torch.Tensor:
        left = (torch.arange(resolution) < resolution // 2).float()
        return (0.1 - ws[:, 0, 0, None] * left).expand(len(ws), 3, resolution, -1).clone()

    def regions(self, images: torch.Tensor) -> Regions:
        head = torch.ones_like(images[:, :1])
        if images[..., 0].mean() > 0:
            head[..., : images.shape[3] // 2] = 0
        return Regions(head, head, 1 - head)


@pytest.mark.parametrize("options", [EditOptions(), EditOptions(stitch=True), EditOptions(paste="mixed")])
def test_a_head_that_comes_before_a_wall_keeps_its_hair_dark(models, options: EditOptions) -> None:
    """What changed from wall to hair is no light that the edit must leave, nor any of the face beside it."""
    step = torch.zeros_like(models.edits["turn"].vector)
    step[0, 0] = 0.25  # 32 levels: as little as light could be
    turn = replace(models.edits["turn"], name="turn", vector=step, recolours=False)
    made = Turning(models.generator)
    config = replace(models.config, seam=replace(models.config.seam, strength=0))
    models = replace(models, generator=made, judges=made, edits=EditSet([turn]), config=config)
    ws, target = models.mean_codes(1), torch.full((1, 3, 64, 64), 0.1)
    (crop,) = edit_crops(ws, target, [EditRequest("turn", 1.0)], models, options, 64)
    np.testing.assert_allclose(crop.edit[16:48, 8:24], crop.reconstruction[16:48, 8:24] - 0.25, atol=0.01)
    np.testing.assert_allclose(crop.edit[16:48, 40:56], crop.reconstruction[16:48, 40:56], atol=0.01)


class Little:
    """A generator on a machine whose memory holds one picture of so many pixels in all, or none."""

    def __init__(self, generator, holds: int) -> None:
        self.generator, self.holds, self.tried = generator, holds, list[int]()

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, ws: torch.Tensor, **how) -> torch.Tensor:
        self.tried.append(len(ws))
        if len(ws) > self.holds:
            raise torch.OutOfMemoryError("tried to allocate")
        return self.generator.synthesize(ws, **how)


def test_faces_that_the_memory_does_not_hold_at_once_are_rendered_in_smaller_batches(models) -> None:
    ws = models.mean_codes(5) + torch.linspace(0, 1, 5)[:, None, None]
    targets = torch.full((5, 3, 64, 64), 0.1)
    models = replace(models, judges=Disc())
    plain = list(edit_crops(ws, targets, [OLDER], models, EditOptions(), 64))
    little = Little(models.generator, 2)
    batch = BatchSize(4, "faces at once", "one face")
    found = list(
        edit_crops(ws, targets, [OLDER], replace(models, generator=little), EditOptions(), 64, batch=batch)
    )
    assert little.tried == [4, 2, 2, 2, 2, 1, 1] and batch.said == ["out of memory: went on with 2 faces at once"]
    for one, other in zip(found, plain, strict=True):
        for name in ("reconstruction", "edit", "mask"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


def test_one_face_that_the_memory_does_not_hold_is_refused_with_what_to_lower(models) -> None:
    models = replace(models, generator=Little(models.generator, 0), judges=Disc())
    target = torch.zeros(1, 3, 64, 64)
    with pytest.raises(
        BadInputError, match=r"one face of 64 px; leave the larger of pipeline.sizes out"
    ) as refused:
        list(edit_crops(models.mean_codes(1), target, [OLDER], models, EditOptions(), 64))
    assert refused.value.status == 507
