"""Faces synthesised before and after the edits, at the size of the face in the frame, ready to be pasted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_scale
from modules.editing.directions import EditRequest, purpose_of
from modules.generators.protocol import Generator
from modules.ops import move_image
from modules.out_of_memory import BatchSize
from modules.perception.parsing import Regions
from services.pipeline.behind import Surroundings, frames_background
from services.pipeline.canvas import kept_of
from services.pipeline.composite import Floats, Image, Paste, feathered_mask, synthesis_size
from services.pipeline.light import at_size, complexion, smooth_change
from services.pipeline.models import Models
from services.pipeline.moved import MovedConfig, moved_share
from services.pipeline.options import EditOptions, PipelineConfig
from services.pipeline.parts import part_of
from services.pipeline.seam import SeamCorrector, averaged, corrected


@dataclass(frozen=True)
class EditedCrop:
    """One face before and after the edit, ready to be pasted."""

    reconstruction: Floats
    """``(S, S, 3)`` in [-1, 1]."""
    edit: Floats
    """``(S, S, 3)`` in [-1, 1]; a little beyond where colours were corrected."""
    mask: Floats
    """``(S, S)`` in [0, 1], feathered."""
    taken: Floats | None = None
    """``(s, s, 3)`` in levels of 255: what was taken from the edit's colours; None where a change is pasted."""
    moved: Floats | None = None
    """``(S, S)`` in [0, 1]: where the edit itself stands in for the frame; None unless it is mixed."""


def changes_nothing(requests: Sequence[EditRequest], options: EditOptions) -> bool:
    """Whether the output is the input: no strength, and no face replaces the frame's."""
    return options.paste != "replace" and all(request.strength == 0 for request in requests)


def crop_synthesis_size(matrix: NDArray[np.float64], size: int, models: Models, options: EditOptions) -> int:
    """Side of the synthesis for crops ``(..., 3, 3)`` of side ``size``: follows the largest one in the frame."""
    if options.preview:
        return models.config.preview.size
    return synthesis_size(
        float(np.max(crop_scale(matrix))) * size, models.config.sizes, models.generator.resolution
    )


def edit_crops(
    ws: Tensor,
    targets: Tensor,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    size: int,
    applied: Sequence[EditRequest] | None = None,
    sides: Sequence[float] = (),
    offsets: Tensor | None = None,
    corrector: SeamCorrector | None = None,
    batch: BatchSize | None = None,
) -> Iterator[EditedCrop]:
    """Synthesise codes ``(N, num_ws, w_dim)`` before and after the edits, with the masks; one by one in order.

    What was asked, ``requests``, says how the edit is pasted; ``applied`` is how the codes are moved where that is
    not the same (``balanced``).
    ``targets`` ``(N, 3, s, s)`` in [-1, 1] are the crops that the codes stand for. An edit may change the face
    that is really there; one that moves the outline, or that a generator draws which learned this face, also where
    the moved one comes to lie. The reconstruction has no say: where it is weak, its hair and ears lie beside the
    person's. Behind a head that is pasted whole stands the frame's background, and below it the frame's neck and
    clothes, unless it was stitched. A task's edit is the reconstruction itself, and what its input has of it
    stands before; ``sides`` are those of the crops in the input, in pixels.
    ``offsets`` ``(N, num_ws, w_dim)`` are how far the lips' keeping moves the edited codes.
    An edit that is pasted whole has the drift of its colours at the seam taken out, by a ``corrector`` that
    remembers the frames before; without one the N are frames of one shot.
    Edits of mouth or eyes alone leave the rest of the face to the frame.
    Edits of which none is for colours leave light and complexion as they are.
    ``batch`` is from ``faces_at_once``: handed in, it remembers what the memory did not hold. Raises
    ``BadInputError`` (507) where that is one face.
    """
    moves = requests if applied is None else applied
    corrector = corrector or SeamCorrector(models.config.seam)
    batch = batch or faces_at_once(models, size)
    still = offsets is None and not any(move.strength for move in moves)
    manner, transform = _manner(requests, still, models, options), models.edits.transform(moves)

    def rendered(part: slice) -> list[_Rendered]:
        offset = None if offsets is None else offsets[part]
        draw = partial(
            models.edits.synthesize,
            ws=ws[part], requests=moves, seed=options.seed, resolution=size, offsets=offset,
        )  # fmt: skip
        with torch.no_grad():
            return _rendered(ws[part], targets[part], draw, manner, models, size, sides[part])

    for faces in batch.over(len(ws), rendered):
        for face in faces:
            yield _pasted(face, manner, transform, models.config, corrector)


@dataclass(frozen=True)
class _Manner:
    """How what was asked comes into the frame."""

    same: bool
    """Whether nothing was: the edit is the reconstruction."""
    still: bool
    """Whether the codes do not move, whatever was asked: the edit is drawn as the reconstruction is."""
    head: bool
    """Whether the whole head may change, or the face alone."""
    paste: Paste
    parts: tuple[str, ...]
    """The edits, by what they are for, if they may leave a part of the face to the frame."""
    recoloured: bool
    """Whether colours stay as they are drawn."""
    stitched: bool
    """Whether the face that is pasted was tuned to meet the frame at its border."""
    follows: bool
    """Whether the face may also change where the edited one comes to lie."""

    frames_background: bool
    """Whether the frame's background stands behind a head. One that is stitched keeps what the tuning saw."""


class _Rendered(NamedTuple):
    """One face, as arrays ``(S, S, 3)`` in [-1, 1]."""

    before: Floats
    after: Floats
    there: Floats
    """``(s, s, 3)``: the crop that the codes stand for."""
    region: Floats
    """``(S, S)`` in [0, 1]: where the face may change."""
    around: Surroundings | None
    """The heads and what lies around them, where a whole head changes."""


def _manner(requests: Sequence[EditRequest], still: bool, models: Models, options: EditOptions) -> _Manner:
    asked = [request for request in requests if request.strength]
    head, paste = _whole_head(requests, models, options), way_to_paste(requests, models, options)
    stitched = models.stitched is not None
    return _Manner(
        same=not asked,
        still=still or not asked,
        head=head,
        paste=paste,
        parts=edits_by_part(asked, models, options),
        # A stitched face has the frame's light along its border already.
        recoloured=stitched or any(models.edits[request.name].recolours for request in asked),
        stitched=stitched,
        follows=bool(asked) and (head or paste == "replace" or models.adapted),
        frames_background=head and paste == "replace" and not (stitched or options.stitch),
    )


def _rendered(
    ws: Tensor,
    seen: Tensor,
    draw: Callable[[Generator], Tensor],
    manner: _Manner,
    models: Models,
    size: int,
    sides: Sequence[float],
) -> list[_Rendered]:
    """Codes before and after the edits, which ``draw`` applies, with what the judges see of N faces."""
    before = after = models.unedited.shown(ws, size, models.generator)
    before = kept_of(models.task, before, sides)
    was = models.unedited.regions(seen, models.judges.regions)
    region = at_side(was.head if manner.head else was.face, size)
    around: Sequence[Surroundings | None] = [None] * len(seen)
    if not manner.still:
        after = draw(models.generator).clamp(-1, 1)
    if manner.follows or manner.head:
        now = models.judges.regions(after)
        if manner.follows:
            region = torch.maximum(region, now.head if manner.head else now.face)
        if manner.head:
            around = surroundings(was, now)
    if (part := part_of(manner.parts, size, models.config.parts)) is not None:
        region = region * torch.from_numpy(part).to(region)
    if models.stitched is not None:  # the mask stays the one that the stitching was tuned with
        after = draw(models.stitched).clamp(-1, 1)
    arrays = (to_arrays(before), to_arrays(after), to_arrays(seen), region[:, 0].float().cpu().numpy(), around)
    return [_Rendered(*of_one) for of_one in zip(*arrays, strict=True)]


def _pasted(
    face: _Rendered, manner: _Manner, transform: Tensor | None, config: PipelineConfig, corrector: SeamCorrector
) -> EditedCrop:
    """A rendered face with its mask, its colours as they belong into the frame."""
    before, after, there, region, around = face
    # Around a head there is hair to cover; around a face a wider mask would paste the generator's background.
    mask = feathered_mask(region, config.composite, manner.paste if manner.head else "difference")
    if not (manner.same or manner.recoloured):
        # Older skin is paler in what a generator has seen; that is not what was asked. A head that stands
        # elsewhere is compared with the one that it was, there.
        still = before if transform is None else _placed(before, transform)
        # A head that turned comes before what was wall: darker hair there is no other light.
        within = mask if around is None else mask * at_size(np.minimum(around.head, around.head_after), len(mask))
        after = after - at_size(complexion(still, after, config.complexion, within), len(after))
    if manner.paste == "mixed" and manner.same:
        return EditedCrop(before, after, mask, moved=np.zeros_like(mask))
    if manner.paste == "mixed":
        return _mixed(before, after, there, mask, config.moved)
    if manner.paste != "replace":
        return EditedCrop(before, after, mask)
    # Hair that is to be another colour, or elsewhere, is no drift: only what the generator misses is. A face that
    # was stitched meets the frame at its border, hair and all.
    shown = before if manner.head and not manner.stitched else after
    taken = corrector.correction(shown, there, mask)
    after = corrected(after, taken)
    if around is not None and manner.frames_background:
        after, mask, share = frames_background(after, mask, there, around, config.behind)
        taken = taken * (1.0 - averaged(share, len(taken))[..., None])
    return EditedCrop(before, after, mask, taken)


def edits_by_part(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> tuple[str, ...]:
    """What the edits are for, where they may leave a part of a face to the frame; empty where all may change."""
    asked = [request for request in requests if request.strength]
    head, paste = _whole_head(asked, models, options), way_to_paste(asked, models, options)
    # A face that replaces the frame's does so whole: half of it would meet the other half at the nose.
    if head or paste == "replace" or options.region != "auto":
        return ()
    return tuple(purpose_of(models.edits[request.name]) for request in asked)


def at_side(mask: Tensor, side: int) -> Tensor:
    """``(N, 1, s, s)`` at another side."""
    return F.interpolate(mask, side, mode="bilinear", align_corners=False)


def surroundings(was: Regions, now: Regions) -> list[Surroundings]:
    """What lies around each of N heads in the frame and in the edited picture, at the size of the frame's crop."""
    side = was.head.shape[-1]
    masks = (was.head, was.background, at_side(now.head, side), at_side(now.background, side))
    arrays = (mask[:, 0].float().cpu().numpy() for mask in masks)
    return [Surroundings(*of_one) for of_one in zip(*arrays, strict=True)]


def _placed(picture: Floats, transform: Tensor) -> Floats:
    """``(S, S, 3)`` by a ``(3, 3)`` similarity, see ``move_image``."""
    placed: Floats = to_arrays(move_image(torch.from_numpy(picture).permute(2, 0, 1)[None], transform))[0]
    return placed


def _mixed(one: Floats, other: Floats, there: Floats, mask: Floats, config: MovedConfig) -> EditedCrop:
    """Where the edit moved something it stands in for the frame, in the frame's light."""
    share = moved_share(one, other, there, config)
    light = at_size(smooth_change(one, there, config.light), len(share))
    shift = at_size(share[..., None] * light, len(other))
    return EditedCrop(one, other + shift, mask, moved=at_size(share, len(other)))


def faces_at_once(models: Models, size: int) -> BatchSize:
    """How many faces of ``size`` pixels are rendered in a batch."""
    return BatchSize(
        models.at_once,
        f"faces of {size} px at once",
        f"one face of {size} px; leave the larger of pipeline.sizes out",
    )


def way_to_paste(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> Paste:
    """What ``options.paste`` comes to for these edits; colours that a task adds have no other way."""
    if models.task == "colourise":
        return "colours"
    if options.paste == "auto":
        # What a generator that learned this face draws is the person, all of it.
        whole = [r for r in requests if r.strength and (models.adapted or models.edits[r.name].replaces)]
        return "replace" if whole else "mixed"
    return options.paste


def _whole_head(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> bool:
    if options.region == "auto":
        return any(models.edits[request.name].whole_head and request.strength for request in requests)
    return options.region == "head"


def to_arrays(images: Tensor) -> Floats:
    """``(N, 3, S, S)`` to ``(N, S, S, 3)`` float32 on the CPU."""
    return np.ascontiguousarray(images.float().permute(0, 2, 3, 1).cpu().numpy())


def to_pixels(images: Floats) -> Image:
    """Values in [-1, 1] to uint8."""
    return np.asarray(np.clip(np.rint((images + 1) * 127.5), 0, 255), np.uint8)
