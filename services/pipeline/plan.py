"""The first pass over a clip: which faces are where in which frame, found while few frames are held."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.alignment import SmoothingConfig, align, natural_crop_size
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import Alignment, BadInputError, ClipInfo, FrameBatch
from datamodules.video import ShotDetector, probe, read_frames
from modules.perception.detection import FaceObservation
from services.pipeline.canvas import read_by
from services.pipeline.carried import CarriedLandmarks
from services.pipeline.faces import Embedding, FacesConfig, Presence, presence, track
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.persons import PersonSampler
from services.progress import Cancelled, Meter, Report, never, silent
from services.settings import Runtime


@dataclass(frozen=True)
class FacePlan:
    """One face that is edited, over all frames that are taken."""

    alignment: Alignment
    """Its crop in each frame."""
    presence: Presence
    """How much of the edit each frame shows."""
    crop_side: int
    """Side of the crop in frame pixels, at its largest."""

    def spread(self, count: int) -> list[int]:
        """At most ``count`` of the plan's frames that show the face, spread over all of them."""
        seen = np.flatnonzero(self.alignment.valid)
        return [int(seen[place]) for place in spread(len(seen), count)] if len(seen) else []


@dataclass(frozen=True)
class ClipPlan:
    """What the first pass found."""

    info: ClipInfo
    numbers: tuple[int, ...]
    """Number in the clip of each frame that is taken, from 0."""
    cuts: tuple[int, ...]
    """Indices into ``numbers`` of frames that begin a new shot, or where another person takes a face's place."""
    changes: tuple[int, ...]
    """Those of ``cuts`` that are a change of person inside a shot, of a face that is edited."""
    faces: tuple[FacePlan, ...]
    strangers: tuple[int, ...] = ()
    """Indices into ``numbers`` from which a chosen face is another person's than before, over shots too."""


def check_clip(path: Path, runtime: Runtime) -> ClipInfo:
    """What the clip is; raises ``BadInputError`` for one that cannot be read or that is beyond the limits."""
    size = path.stat().st_size if path.is_file() else 0
    if size > runtime.max_bytes:
        raise BadInputError(f"{path.name} has {size} bytes, at most {runtime.max_bytes} are taken", 413)
    info = probe(path, runtime.max_pixels)
    if info.duration > runtime.max_seconds:
        raise BadInputError(
            f"{path.name} lasts {info.duration:.1f} s, at most {runtime.max_seconds:g} s are taken; cut it", 413
        )
    # Work goes with the frames, and a second can hold any number of them.
    most = runtime.max_seconds * runtime.max_rate
    if info.frames > most:
        raise BadInputError(
            f"{path.name} has {info.frames} frames, at most {most:.0f} are taken ({runtime.max_seconds:g} s at "
            f"{runtime.max_rate:g} per second); cut it or lower its frame rate",
            413,
        )
    return info


def taken_frames(source: Path, models: Models, options: EditOptions) -> Iterator[tuple[int, FrameBatch]]:
    """The frames of the section as the task reads them, in batches, each after the plan's index of its first.

    ``preview`` takes one in ``preview.every``, so that index is not the batch's ``first``.
    """
    every = models.config.preview.every if options.preview else 1
    seen = place = 0
    for batch in read_frames(source, models.config.chunk, options.start, options.end):
        skip = -seen % every
        seen += len(batch.frames)
        if skip < len(batch.frames):
            frames = np.stack([read_by(models.task, frame) for frame in batch.frames[skip::every]])
            yield place, FrameBatch(frames, batch.pts[skip::every], batch.first + skip)
            place += len(frames)


def plan_clip(
    source: Path,
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> ClipPlan:
    """Find the faces of every frame, follow them, choose, and steady their landmarks and crops.

    Raises ``BadInputError`` for clips that cannot be read, and where no face is found to be edited.
    """
    info = probe(source)
    every = models.config.preview.every if options.preview else 1
    begin, end = options.start or 0.0, min(options.end or info.duration, info.duration)
    meter = Meter("find faces", max(1, round((end - begin) * float(info.rate) / every)), report, cancelled)
    shots = ShotDetector(models.shots)
    config = models.config
    found: list[list[FaceObservation]] = []
    persons: list[list[Embedding | None]] = []
    sampler = PersonSampler(
        partial(_embed, models), config.crop_size, models.smoothing, config.faces.same_person
    )  # fmt: skip
    numbers: list[int] = []
    carried = CarriedLandmarks(models.landmark_flow, config.faces)
    for _, batch in taken_frames(source, models, options):
        faces_of = models.judges.find(batch.frames)
        who = sampler.look(batch.frames, faces_of)
        for frame, faces, known in zip(batch.frames, faces_of, who, strict=True):
            shots.feed(frame[None])
            # Whether it is a cut is sure one frame later: what may be one ends what flow carries already.
            blended = carried.follow(frame, faces, known, new_shot=shots.suspects)
            found.append([_without_mesh(face) for face in blended])
        persons += who
        numbers += [batch.first + every * k for k in range(len(batch.frames))]
        meter.advance(len(batch.frames))
    rule, smoothing = per_taken_frame(every, config.faces, models.smoothing)
    tracker = track(found, shots.cuts, rule, persons)
    changes = tracker.changes(options.face)
    cuts = tuple(sorted({*shots.cuts, *changes}))
    plans = []
    for landmarks in tracker.choose(options.face, required=models.task is None):
        alignment = align(landmarks, config.crop_size, smoothing, cuts)
        shown = presence(alignment.valid, cuts, rule)
        plans.append(FacePlan(alignment, shown, natural_crop_size(alignment)))
    strangers = tracker.strangers(options.face)
    return ClipPlan(info, tuple(numbers), cuts, changes, tuple(plans), strangers)


def per_taken_frame(
    every: int, faces: FacesConfig, smoothing: SmoothingConfig
) -> tuple[FacesConfig, SmoothingConfig]:
    """Both over the same times where one frame in ``every`` is taken; what comes in counts all of the clip's."""

    def taken(frames: int) -> int:
        return round(frames / every)

    return (
        dataclasses.replace(
            faces,
            gap=taken(faces.gap),
            shortest=max(1, taken(faces.shortest)),
            hold=taken(faces.hold),
            fade=max(1, taken(faces.fade)),
        ),
        SmoothingConfig(smoothing.center_sigma / every, smoothing.shape_sigma / every),
    )


def _embed(models: Models, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        embeddings = models.judges.identity.embed(to_tensor(crops, models.device))
    return np.asarray(embeddings.float().cpu().numpy(), np.float32)


def _without_mesh(face: FaceObservation) -> FaceObservation:
    # A thousand meshes are megabytes, and only the landmarks are needed later.
    return dataclasses.replace(face, mesh=np.empty((0, 3), np.float32))
