"""A clip edited in few passes, few frames in memory: find faces, invert, balance edits, edit and paste back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_scale
from datamodules.disk import require_other
from datamodules.scratch import scratch_beside
from datamodules.shards import to_tensor
from datamodules.types import BadInputError, ClipInfo, FrameBatch
from datamodules.video import VideoWriter, probe
from datamodules.video_write import kept_depth, loses_fields
from modules.editing.directions import EditRequest
from services.pipeline.balance import balanced_in_clip, balancing_for
from services.pipeline.canvas import canvas_info, canvas_of, on_canvas
from services.pipeline.composite import Floats, Image, composite, resized_transform
from services.pipeline.crops import (
    EditedCrop,
    changes_nothing,
    crop_synthesis_size,
    edit_crops,
    faces_at_once,
    to_arrays,
    to_pixels,
    way_to_paste,
)
from services.pipeline.edit import hides, hiding, strengths
from services.pipeline.faces import FaceState
from services.pipeline.follow import Follower, Seen, Starts, Stretch
from services.pipeline.invert import MEASURED, measure
from services.pipeline.lips import keep_lips, moves_lips
from services.pipeline.models import Models
from services.pipeline.options import EditOptions, VideoConfig
from services.pipeline.plan import ClipPlan, FacePlan, plan_clip, taken_frames
from services.pipeline.said import advice_for, changed_persons, not_hidden, poor_reconstruction
from services.pipeline.seam import SeamCorrector, SeamMeter, SeamReport, averaged
from services.pipeline.shot_starts import shot_starts
from services.pipeline.stitch import EditedFace, Stitching, is_stitched, stitched
from services.pipeline.track import Track, begun_tracks, codes_of, encoded_tracks
from services.progress import Cancelled, Meter, Report, never, silent


@dataclass(frozen=True)
class FrameReport:
    """One face in one frame."""

    frame: int
    """Number of the frame in the clip, from 0."""
    state: FaceState
    """``face`` seen, ``held`` from before, ``faded`` on its way to the original, ``none`` left as it was."""
    weight: float
    """How much of the edit the frame shows, in [0, 1]."""
    identity: float | None
    """Similarity of the reconstruction to the crop, at most 1; None where it was not measured, as the others."""
    identity_distance: float | None
    """By a second net, which is in no loss: two pictures of one person are within 0.6."""
    landmark_error: float | None
    """Of the reconstruction, in % of the distance of the eyes."""
    crop: tuple[float, float, float, float]
    """``a, b, x, y`` of ``crop_to_frame = [[a, -b, x], [b, a, y], [0, 0, 1]]``."""


@dataclass(frozen=True)
class FaceReport:
    """One face over the clip."""

    crop_size: int
    """Side of the crop that ``FrameReport.crop`` speaks of."""
    synthesis_size: int
    """Side at which the face was synthesised, in pixels."""
    strengths: dict[str, float]
    """What the face was edited by, by edit: what was asked, balanced on the face."""
    seam: SeamReport | None
    """Drift of colours where the face itself is pasted; None where a change is added."""
    frames: tuple[FrameReport, ...]


@dataclass(frozen=True)
class VideoReport:
    """What was done to a clip."""

    frames: int
    """Frames written."""
    seconds: float
    """Time that it took."""
    cuts: tuple[int, ...]
    """Numbers of the frames that begin a new shot, or where another person takes the face's place."""
    faces: tuple[FaceReport, ...]
    warnings: tuple[str, ...]
    """One line each: where bits are lost, persons change places, memory runs out, or a reconstruction is poor."""
    stitching: Stitching | None = None
    """What was tuned to the border of the face; None where that was not asked for."""


def edit_video(
    source: Path,
    target: Path,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
    observe: Callable[[int, Image, Image], None] | None = None,
    work: Path | None = None,
) -> VideoReport:
    """Edit the faces of a clip and write it with its audio; ``target`` appears whole or not at all.

    With a task, faces are restored and the frames are those of its canvas. ``observe`` is given the number of each
    frame, the frame as it was read and the edited frame. ``work`` is a folder that keeps what is found on the way,
    so that a stopped call goes on; without it that lies beside ``target`` and is removed. Raises ``BadInputError``
    for clips and requests that cannot be used, and ``CancelledError`` soon after ``cancelled`` says so. What the
    output cannot hold is said before faces are looked for.
    """
    started = time.monotonic()
    models.edits.check(requests)
    options = hiding(requests, models, options)
    stitch = is_stitched(requests, models, options)
    writer = check_output(source, target, models, options)
    plan = plan_clip(source, models, options, report, cancelled)
    with place_for(work, target) as place_of_work, writer:
        tracks: Sequence[Track | None] = [None] * len(plan.faces)
        tuning, said = None, tuple[str, ...]()
        keeps_lips = options.keep_lips and moves_lips(requests, models, options)
        if stitch or keeps_lips or balancing_for(requests, models, options):
            tracks = encoded_tracks(source, plan, models, options, place_of_work, report, cancelled)
        elif work is not None:
            tracks = begun_tracks(plan, models, work)
        starts = shot_starts(source, plan, models, options, codes_of(tracks), report, cancelled)
        meter = Meter(models.task or "edit", len(plan.numbers), report, cancelled)
        unseen = dict[str, None]()  # each line once, however many faces it is said of
        applied = balanced_in_clip(source, plan, tracks, requests, models, options, meter.check, unseen.setdefault)
        if keeps_lips:
            tracks, said = keep_lips(
                source, plan, requests, applied, models, options, place_of_work, report, cancelled
            )
        if stitch and (track := tracks[0]) is not None:
            folder = place_of_work / "stitch"
            edited_face = EditedFace(source, plan, requests, applied[0], track, models, options)
            models, tuning, more = stitched(edited_face, folder, report, cancelled)
            said += more
        lanes = [
            Lane(face, plan, requests, models, options, applied=moves, track=track, starts=begun)
            for face, moves, track, begun in zip(plan.faces, applied, tracks, starts, strict=True)
        ]
        for place, batch in taken_frames(source, models, options):
            edited = np.stack([canvas_of(models.task, frame) for frame in batch.frames])
            for lane in lanes:
                lane.paint(batch.frames, edited, place, meter.check)
            writer.write(FrameBatch(edited, batch.pts, batch.first))
            if observe is not None:
                for number, before, after in zip(plan.numbers[place:], batch.frames, edited, strict=False):
                    observe(number, before, after)
            meter.advance(len(edited))
    done = _report(plan, lanes, started)
    kept = lost(plan.info, canvas_info(models.task, plan.info), models.config.video)
    warnings = (*kept, *models.learned_with, *unseen, *said, *done.warnings)
    return replace(done, warnings=warnings, stitching=tuning)


@contextmanager
def place_for(work: Path | None, target: Path) -> Iterator[Path]:
    """A folder to work in: the one given, which stays, or one beside the target, which goes."""
    if work is not None:
        yield work
        return
    with scratch_beside(target) as scratch:
        yield scratch


def check_output(source: Path, target: Path, models: Models, options: EditOptions) -> VideoWriter:
    """What writes the edited clip; raises ``BadInputError`` where it could not, before anything is computed."""
    require_other(target, source)
    writer = clip_writer(target, canvas_info(models.task, probe(source)), models.config.video, options)
    writer.check()
    return writer


def clip_writer(target: Path, info: ClipInfo, video: VideoConfig, options: EditOptions) -> VideoWriter:
    """What writes the edited clip with its audio; raises ``BadInputError`` for a wrong name or codec."""
    return VideoWriter(
        target,
        info,
        codec=video.codec,
        crf=video.crf,
        bit_depth=kept_depth(info, video.codec),
        audio_from=info.path if info.audio_codec else None,
        start=options.start,
        end=options.end,
    )


def invert_video(
    source: Path,
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> tuple[Tensor, VideoReport]:
    """Codes ``(N, num_ws, w_dim)`` of the N frames whose state is ``face``, and the report of all frames.

    ``options.face`` must name one face. Raises like ``edit_video``.
    """
    if options.face == "all":
        raise BadInputError("an inversion is of one face; choose 'largest' or a number from the left, from 0")
    started = time.monotonic()
    plan = plan_clip(source, models, options, report, cancelled)
    (starts,) = shot_starts(source, plan, models, options, [None], report, cancelled)
    lane = Lane(plan.faces[0], plan, (), models, options, starts=starts, inverts=True)
    meter = Meter("invert", len(plan.numbers), report, cancelled)
    codes: list[Tensor] = []
    for place, batch in taken_frames(source, models, options):
        codes += lane.codes(batch.frames, place, meter.check)
        meter.advance(len(batch.frames))
    return torch.cat(codes), _report(plan, [lane], started)


def _report(plan: ClipPlan, lanes: Sequence[Lane], started: float) -> VideoReport:
    return VideoReport(
        frames=len(plan.numbers),
        seconds=time.monotonic() - started,
        cuts=tuple(plan.numbers[cut] for cut in plan.cuts),
        faces=tuple(lane.report() for lane in lanes),
        warnings=tuple(line for lane in lanes for line in lane.warnings()),
    )


def lost(info: ClipInfo, written: ClipInfo, video: VideoConfig) -> tuple[str, ...]:
    """A line for each thing of a clip that is not kept in what is written of it: its colours' bits, its fields."""
    said = []
    if info.bit_depth > 8:
        depth = kept_depth(info, video.codec)
        said.append(
            f"the clip has {info.bit_depth} bits per colour; its frames are edited at 8 and written as {depth}"
        )
    if info.interlaced and (not written.interlaced or loses_fields(info, video.codec)):
        said.append(
            "the clip is interlaced and is written as whole frames, where players show combs; deinterlace it first"
        )
    return tuple(said)


class Lane:
    """One face on its way through the clip; carries codes and the last edit from batch to batch."""

    def __init__(
        self,
        face: FacePlan,
        plan: ClipPlan,
        requests: Sequence[EditRequest],
        models: Models,
        options: EditOptions,
        applied: Sequence[EditRequest] | None = None,
        track: Track | None = None,
        starts: Starts | None = None,
        inverts: bool = False,
    ) -> None:
        """For ``applied`` see ``edit_crops``; ``track`` has what was found before, ``starts`` are for the rest.

        ``inverts`` says that codes are all that is wanted.
        """
        self.face, self.plan, self.requests, self.models, self.options = face, plan, requests, models, options
        self.track, self.inverts = track, inverts
        steps = options.steps(models.config.follow, models.adapted)
        self.follower = Follower(face, plan.cuts, models, steps, track.codes if track else None, starts)
        self.idle = models.task is None and changes_nothing(requests, options)
        self.hides = hides(requests, models, options)
        self.way = way_to_paste(requests, models, options)
        alignment = face.alignment
        # Who is to be hidden is not faded in.
        self.weight = np.maximum(face.presence.weight, alignment.valid if self.hides else 0.0)
        seen = on_canvas(models.task, alignment.crop_to_frame[alignment.valid])
        self.size = crop_synthesis_size(seen, alignment.size, models, options)
        self.batch = faces_at_once(models, self.size)
        self.near = {name: np.full(len(plan.numbers), np.nan) for name in MEASURED}
        self._last: EditedCrop | None = None
        self._seam, self._corrector = SeamMeter(models.config.seam), SeamCorrector(models.config.seam)
        self.applied = requests if applied is None else applied

    def paint(
        self, frames: NDArray[np.uint8], into: NDArray[np.uint8], place: int, check: Callable[[], None]
    ) -> None:
        """Edit this face of ``frames`` in their canvases ``into``, both ``(n, H, W, 3)`` of the same n.

        ``place`` is the plan's index of the first frame.
        """
        size = self.face.alignment.size
        for stretch in self.follower.stretches(frames, place, check):
            start, seen = stretch.start, stretch.seen
            if stretch.begins_shot:
                self._last = None
                self._corrector.restart()
            if seen is None:
                for index in range(start, stretch.stop):
                    if self._last is not None:
                        self._paste(into, index, place, self._last)
                continue
            shown = []
            targets = to_tensor(seen.crops, self.models.device)
            sides = (crop_scale(self.face.alignment.crop_to_frame[start : stretch.stop]) * size).tolist()
            offsets = self._offsets(seen.row, len(seen.ws))
            edited = edit_crops(
                seen.ws, targets, self.requests, self.models, self.options, self.size, self.applied, sides,
                offsets, self._corrector, self.batch,
            )  # fmt: skip
            measured = self.measured(stretch)
            for index, crop in enumerate(edited):
                check()
                if index in measured:
                    shown.append(averaged(crop.reconstruction, size))
                self._last = crop
                self._paste(into, start + index, place, crop)
            self.measure(stretch, seen, shown)

    def codes(self, frames: NDArray[np.uint8], place: int, check: Callable[[], None]) -> Iterator[Tensor]:
        """Codes ``(n, num_ws, w_dim)`` on the CPU, of the stretches of ``frames`` that show the face.

        For ``place`` see ``paint``. Only what is measured is rendered.
        """
        for stretch in self.follower.stretches(frames, place, check):
            seen = stretch.seen
            if seen is None:
                continue
            ws, shown = seen.ws[self.measured(stretch)], list[Floats]()

            def rendered(part: slice, ws: Tensor = ws) -> Floats:
                check()
                return to_arrays(self.models.unedited.shown(ws[part], self.size, self.models.generator))

            for some in self.batch.over(len(ws), rendered):
                shown += [averaged(one, self.face.alignment.size) for one in some]
            self.measure(stretch, seen, shown)
            yield seen.ws.cpu()

    def _offsets(self, row: int, count: int) -> Tensor | None:
        return None if self.track is None else self.track.offsets_of(row, count, self.models.device)

    def report(self) -> FaceReport:
        """What happened in each frame."""
        alignment, presence = self.face.alignment, self.face.presence
        return FaceReport(
            alignment.size,
            self.size,
            strengths(self.applied),
            self._seam.report(),
            tuple(
                FrameReport(
                    number,
                    presence.state[i],
                    round(float(self.weight[i]), 4),
                    _rounded(self.near["identity"][i]),
                    _rounded(self.near["identity_distance"][i]),
                    _rounded(self.near["landmark_error"][i]),
                    (m[0, 0], m[1, 0], m[0, 2], m[1, 2]),
                )
                for i, (number, m) in enumerate(
                    zip(self.plan.numbers, alignment.crop_to_frame.round(4), strict=True)
                )
            ),
        )

    def warnings(self) -> tuple[str, ...]:
        """One line each: persons change places, memory ran out, the reconstruction is poor, nobody is hidden."""
        numbers = self.plan.numbers
        changes = changed_persons(
            [numbers[at] for at in self.plan.changes], self.models, self.options, self.inverts
        )
        if self.hides:  # the less the codes have of the person the better
            return (*changes, *self.batch.said, *not_hidden(self.face.alignment.valid, numbers))
        judged = self.near["identity_distance"], self.near["landmark_error"], self.models.config.warnings
        advice = advice_for(self.models, self.options, True, self.inverts)
        return (*changes, *self.batch.said, *poor_reconstruction(*judged, advice, numbers))

    def _paste(self, into: NDArray[np.uint8], index: int, place: int, crop: EditedCrop) -> None:
        weight = float(self.weight[index])
        if weight == 0 or self.idle:
            return
        alignment = self.face.alignment
        matrix = on_canvas(self.models.task, alignment.crop_to_frame[index])
        matrix = resized_transform(matrix, alignment.size, self.size)
        below = into[index - place]
        above = composite(below, crop.reconstruction, crop.edit, crop.mask, matrix, weight, self.way, crop.moved)
        if crop.taken is not None and weight == 1:
            self._seam.add(below, above, crop.taken, crop.mask, matrix)
        into[index - place] = above

    def measured(self, stretch: Stretch) -> list[int]:
        """Which frames of a stretch are measured."""
        every = self.models.config.measure_every
        return [index - stretch.start for index in range(stretch.start, stretch.stop) if index % every == 0]

    def measure(self, stretch: Stretch, seen: Seen, shown: Sequence[Floats]) -> None:
        """Note how near renderings come to the crops of the frames that are measured, both of the crops' side.

        ``shown`` are ``(s, s, 3)`` in [-1, 1].
        """
        chosen = self.measured(stretch)
        if not chosen:
            return
        images = to_tensor(to_pixels(np.stack(shown)), self.models.device)
        values = measure(to_tensor(seen.crops[chosen], self.models.device), images, self.models)
        at = [stretch.start + index for index in chosen]
        for name, found in self.near.items():
            found[at] = values[name]


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
