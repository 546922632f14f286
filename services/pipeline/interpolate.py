"""A clip at a multiple of its frame rate (StylePortraitVideo, section 4.3): faces between from codes between.

The first pass is that of an edit. The second one holds two frames at a time: their faces are encoded and rendered,
and the frames between them made from both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, groupby, repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.disk import require_other
from datamodules.shards import to_tensor
from datamodules.types import PROGRESSIVE, BadInputError, ClipInfo, FrameBatch
from datamodules.video import VideoWriter, probe
from modules.perception.flow import DenseFlow
from services.pipeline.between import Motion, Standing, add_face, codes_between, laid_between
from services.pipeline.composite import Floats, Image, resized_transform
from services.pipeline.crops import edit_crops, to_arrays
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, plan_clip, taken_frames
from services.pipeline.seam import averaged
from services.pipeline.shot_starts import shot_starts
from services.pipeline.stream import FaceReport, Lane, clip_writer, lost
from services.pipeline.track import Track, begun_tracks, codes_of
from services.progress import Cancelled, Meter, Report, never, silent

FEWEST, MOST = 2, 8
"""How many times as many frames can be asked for."""


@dataclass(frozen=True)
class InterpolationReport:
    """What was done to a clip."""

    factor: int
    """Frames that were written for each one that was read."""
    rate: Fraction
    """Frames per second of the result; the average where the rate varies."""
    frames: int
    """Frames written."""
    seconds: float
    """Time that it took."""
    cuts: tuple[int, ...]
    """Numbers of the frames that begin a new shot, or where another person takes the face's place."""
    repeated: tuple[int, ...]
    """Numbers of the frames that are shown ``factor`` times, as nothing lies between them and the next."""
    faces: tuple[FaceReport, ...]
    """Per face the frames that were read: where it is seen, and how near its rendering comes."""
    warnings: tuple[str, ...]
    """One line each: where frames are repeated, bits are lost, or a reconstruction is poor."""


@dataclass(frozen=True)
class _Frame:
    """One frame that was read."""

    pixels: Image
    """``(H, W, 3)`` RGB."""
    pts: int
    """In ticks of the clip."""
    begins_shot: bool
    """Whether nothing lies between it and the frame before."""
    faces: tuple[Standing | None, ...]
    """Per face of the plan; None where it is not seen."""


def interpolate_video(
    source: Path,
    target: Path,
    factor: int,
    models: Models,
    flow: DenseFlow,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
    observe: Callable[[int, Image], None] | None = None,
    work: Path | None = None,
) -> InterpolationReport:
    """Write a clip with ``factor`` times its frames at ``factor`` times its rate; it appears whole or not at all.

    The frames that were read are each ``factor``-th one, unchanged; the audio is copied and the duration kept.
    Between two frames of a shot that both show a chosen face come ``factor - 1`` new ones; elsewhere, and after
    the last one, the frame before is repeated. ``observe`` is given the number of each frame of the result, from
    0, and the frame before it is encoded. ``work`` keeps the codes as they are found, so that a stopped call goes
    on with them. Of ``options`` face, refine, start and end count. Raises
    ``BadInputError`` for a factor beyond ``FEWEST`` and ``MOST`` and for clips that cannot be used, and
    ``CancelledError`` soon after ``cancelled`` says so.
    """
    started = time.monotonic()
    writer = check_interpolation(source, target, factor, models, options)
    plan = plan_clip(source, models, options, report, cancelled)
    tracks: Sequence[Track | None] = [None] * len(plan.faces)
    if work is not None:
        tracks = begun_tracks(plan, models, work)
    starts = shot_starts(source, plan, models, options, codes_of(tracks), report, cancelled)
    lanes = [
        Lane(face, plan, (), models, options, track=track, starts=begun)
        for face, track, begun in zip(plan.faces, tracks, starts, strict=True)
    ]
    meter = Meter("interpolate", len(plan.numbers), report, cancelled)
    repeated: list[int] = []
    written, first = 0, None
    with writer:
        read = _pairs(_read(source, plan, lanes, models, options, meter))
        for number, (frame, following) in zip(plan.numbers, read, strict=False):
            first = frame.pts if first is None else first
            between = _between(frame, following, factor, lanes, flow)
            if between is None and following is not None:
                repeated.append(number)
            ticks = stamps(plan.info, factor, first, frame.pts, following.pts if following is not None else None)
            for tick, picture in zip(ticks, chain([frame.pixels], between or repeat(frame.pixels)), strict=False):
                meter.check()
                writer.write(FrameBatch(picture[None], (tick,), written))
                if observe is not None:
                    observe(written, picture)
                written += 1
            meter.advance()
    cuts = tuple(plan.numbers[cut] for cut in plan.cuts)
    said = (
        *lost(plan.info, finer(plan.info, factor), models.config.video),
        *_standing_still(repeated, cuts, factor),
    )
    return InterpolationReport(
        factor=factor,
        rate=plan.info.rate * factor,
        frames=written,
        seconds=time.monotonic() - started,
        cuts=cuts,
        repeated=tuple(repeated),
        faces=tuple(lane.report() for lane in lanes),
        warnings=(*models.learned_with, *said, *(line for lane in lanes for line in lane.warnings())),
    )


def check_interpolation(
    source: Path, target: Path, factor: int, models: Models, options: EditOptions
) -> VideoWriter:
    """What writes the result; raises ``BadInputError`` where it could not, before anything is computed."""
    check_factor(factor)
    require_other(target, source)
    writer = clip_writer(target, finer(probe(source), factor), models.config.video, options)
    writer.check()
    return writer


def check_factor(factor: int) -> int:
    """The factor itself where it can be met; raises ``BadInputError``."""
    if not FEWEST <= factor <= MOST:
        raise BadInputError(f"factor must be {FEWEST} to {MOST} times the frame rate, got {factor}")
    return factor


def finer(info: ClipInfo, factor: int) -> ClipInfo:
    """The clip with ``factor`` times its frames, each at a whole number of ticks; those between have no fields."""
    return replace(info, rate=info.rate * factor, time_base=info.time_base / factor, field_order=PROGRESSIVE)


def check_finer(info: ClipInfo, factor: int, options: EditOptions, most: float) -> None:
    """Raise ``BadInputError`` (413) for more frames than ``most`` seconds have at the rate that came in."""
    length = min(options.end or info.duration, info.duration) - (options.start or 0.0)
    if length * factor > most:
        raise BadInputError(
            f"{factor} times the frames of {length:.1f} s are those of {length * factor:.1f} s, and at most "
            f"{most:g} s are made; choose a section by start and end, or a smaller factor",
            413,
        )


def stamps(info: ClipInfo, factor: int, first: int, pts: int, following: int | None) -> tuple[int, ...]:
    """Time stamps of a frame and of those up to the ``following`` one, in ticks of ``time_base / factor``.

    ``first`` is the stamp of the first frame that is written; all are in the clip's own ticks, and None is for the
    last frame. A steady clip is counted, so that its rate stays exact where the ticks are coarse; where the rate
    varies, the time between two frames is divided evenly.
    """
    step = 1 / (info.rate * info.time_base)
    if not info.variable_rate:
        place = round((pts - first) / step) * factor
        return tuple(first * factor + round((place + k) * step) for k in range(factor))
    gap = following - pts if following is not None else max(1, round(step))
    return tuple(pts * factor + k * gap for k in range(factor))


def _read(
    source: Path, plan: ClipPlan, lanes: Sequence[Lane], models: Models, options: EditOptions, meter: Meter
) -> Iterator[_Frame]:
    """The frames of the section one by one, with their faces."""
    cuts = frozenset(plan.cuts)
    for place, batch in taken_frames(source, models, options):
        faces = [_faces(lane, batch.frames, place, meter.check) for lane in lanes]
        for offset, (pixels, pts) in enumerate(zip(batch.frames, batch.pts, strict=True)):
            standing = tuple(one[offset] for one in faces)
            yield _Frame(pixels, pts, place + offset in cuts, standing)


def _faces(lane: Lane, frames: NDArray[np.uint8], place: int, check: Callable[[], None]) -> list[Standing | None]:
    """One face in each of ``(n, H, W, 3)`` consecutive frames; ``place`` is the plan's index of the first."""
    found: list[Standing | None] = []
    alignment = lane.face.alignment
    for stretch in lane.follower.stretches(frames, place, check):
        if stretch.seen is None:
            found += [None] * (stretch.stop - stretch.start)
            continue
        ws, targets = stretch.seen.ws, to_tensor(stretch.seen.crops, lane.models.device)
        matrices = resized_transform(
            alignment.crop_to_frame[stretch.start : stretch.stop], alignment.size, lane.size
        )
        shown = []
        rendered = edit_crops(ws, targets, (), lane.models, lane.options, lane.size, batch=lane.batch)
        for one, crop, matrix in zip(torch.split(ws, 1), rendered, matrices, strict=True):
            check()
            found.append(Standing(one, crop.reconstruction, crop.mask, matrix))
            shown.append(averaged(crop.reconstruction, alignment.size))
        lane.measure(stretch, stretch.seen, [shown[index] for index in lane.measured(stretch)])
    return found


def _pairs(frames: Iterator[_Frame]) -> Iterator[tuple[_Frame, _Frame | None]]:
    """Each frame with the one after it; None after the last."""
    before: _Frame | None = None
    for frame in frames:
        if before is not None:
            yield before, frame
        before = frame
    if before is not None:
        yield before, None


def _between(
    first: _Frame, second: _Frame | None, factor: int, lanes: Sequence[Lane], flow: DenseFlow
) -> Iterator[Image] | None:
    """The ``factor - 1`` pictures between two frames, one by one; None where nothing lies between them."""
    if second is None or second.begins_shot:
        return None
    lined_up = zip(lanes, first.faces, second.faces, strict=True)
    both = [(lane, a, b) for lane, a, b in lined_up if a is not None and b is not None]
    if not both:
        return None
    motion = Motion(flow(first.pixels, second.pixels), flow(second.pixels, first.pixels))
    times = [k / factor for k in range(1, factor)]
    rendered = [_rendered([codes_between(a, b, t) for t in times], lane) for lane, a, b in both]
    pixels = [frame.pixels.astype(np.float32) for frame in (first, second)]

    def pictures() -> Iterator[Image]:
        for t in times:
            canvas = laid_between(pixels[0], pixels[1], motion, t)
            for (_, a, b), shown in zip(both, rendered, strict=True):
                add_face(canvas, a, b, next(shown), motion, t)
            yield np.clip(np.rint(canvas), 0, 255).astype(np.uint8)

    return pictures()


def _rendered(codes: Sequence[Tensor], lane: Lane) -> Iterator[Floats]:
    """``(S, S, 3)`` in [-1, 1] of each ``(1, num_ws, w_dim)``, S the side at which the lane's face is made."""
    ws = torch.cat(list(codes))

    def shown(part: slice) -> Floats:
        with torch.no_grad():
            return to_arrays(lane.models.generator.synthesize(ws[part], resolution=lane.size).clamp(-1, 1))

    for made in lane.batch.over(len(ws), shown):
        yield from made


def _standing_still(repeated: Sequence[int], cuts: Sequence[int], factor: int) -> tuple[str, ...]:
    """One line for each stretch of frames after which there is nothing new, and one for all cuts."""
    at_cuts = [number for number in repeated if number + 1 in set(cuts)]
    lines = []
    if at_cuts:
        where = ", ".join(str(number + 1) for number in at_cuts)
        lines.append(f"a shot or another person begins at frame {where}: the frame before is shown {factor} times")
    alone = [number for number in repeated if number + 1 not in set(cuts)]
    for _, group in groupby(enumerate(alone), lambda entry: entry[1] - entry[0]):
        numbers = [number for _, number in group]
        where = f"frame {numbers[0]}" if len(numbers) == 1 else f"frames {numbers[0]}-{numbers[-1]}"
        lines.append(f"no face is seen in or after {where}: shown {factor} times, nothing is made between")
    return tuple(lines)
