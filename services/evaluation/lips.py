"""What keeping the lips keeps of a clip and costs the edit (StylePortraitVideo, section 4.2)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from modules.editing.directions import EditRequest
from modules.editing.expression_dynamics import Eyes, Mouth, point_distance
from modules.losses.perceptual import load_lpips
from modules.perception.emotion import EMOTIONS, load_emotion_net
from modules.perception.landmarks import eye_distance
from modules.perception.second_judges import SecondJudges
from services.attributes import as_frames
from services.pipeline.balance import balanced_in_clip
from services.pipeline.lips import by_mesh, keep_lips
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, plan_clip, taken_frames
from services.pipeline.track import encoded_tracks


@dataclass(frozen=True)
class KeptLips:
    """Means over the frames of a clip: of the plain edit, and of the one whose lips were led back."""

    frames: int
    """That show the face."""
    noise: float
    """Error of the lips that the mesh finds in the unedited rendering moved by one pixel, down and right."""
    plain: float
    """Error of the lips to the unedited rendering after the plain edit: eq. 3, in distances of the eyes."""
    kept: float
    """The same after lips were kept."""
    plain_to_clip: float
    """Error of the lips to the clip's own frame after the plain edit."""
    kept_to_clip: float
    """The same after lips were kept."""
    label: tuple[float, float, float]
    """Score of the edit's label, in [0, 1]: unedited, after the plain edit, after lips were kept."""
    second_label: tuple[float, float, float]
    """The same by a second net, which no loss asks and no edit was learned from."""
    eyes: tuple[float, float]
    """LPIPS under the eye mask to the plain edit: of the unedited rendering, and after lips were kept."""

    @property
    def fall(self) -> float:
        """Share of the plain edit's error that is gone."""
        return 1 - self.kept / self.plain

    @property
    def fall_to_clip(self) -> float:
        """The same against the clip's own frames."""
        return 1 - self.kept_to_clip / self.plain_to_clip

    @property
    def gain_kept(self) -> float:
        """Share of the label's gain that is left."""
        before, plain, kept = self.label
        return (kept - before) / (plain - before)

    @property
    def eyes_moved(self) -> float:
        """The eyes' LPIPS to the plain edit over that of the unedited rendering."""
        return self.eyes[1] / self.eyes[0]


def kept_lips(clip: Path, request: EditRequest, label: str, models: Models, options: EditOptions) -> KeptLips:
    """Edit the largest face of a clip, keep its lips, and look at all of its frames.

    ``label`` is one of ``EMOTIONS``. All frames are in memory at once.
    """
    plan = plan_clip(clip, models, options)
    with tempfile.TemporaryDirectory() as work:
        tracks = encoded_tracks(clip, plan, models, options, Path(work))
        applied = balanced_in_clip(clip, plan, tracks, [request], models, options, lambda: None)
        (track,), _ = keep_lips(clip, plan, [request], applied, models, options, Path(work))
        ws, offsets = (
            torch.from_numpy(rows.read(0, len(rows))).to(models.device) for rows in (track.codes, track.offsets)
        )
    side = models.config.crop_size

    def show(edits: Sequence[EditRequest], moved: Tensor) -> Tensor:
        shown = [
            models.edits.synthesize(models.generator, one, edits, options.seed, side, offset)
            for one, offset in zip(torch.split(ws, 1), torch.split(moved, 1), strict=True)
        ]
        return torch.cat(shown).float().clamp(-1, 1)

    with torch.no_grad():
        still = torch.zeros_like(offsets)
        return compared(
            crops_of(clip, plan, models, options),
            show((), still),
            show(applied[0], still),
            show(applied[0], offsets),
            label,
            models,
        )


def crops_of(clip: Path, plan: ClipPlan, models: Models, options: EditOptions) -> Tensor:
    """The plan's first face in all frames that show it, ``(N, 3, S, S)`` in [-1, 1]."""
    alignment, crops = plan.faces[0].alignment, []
    for place, batch in taken_frames(clip, models, options):
        for index, frame in enumerate(batch.frames, place):
            if alignment.valid[index]:
                crops.append(crop_frame(frame, alignment.crop_to_frame[index], models.config.crop_size))
    return to_tensor(np.stack(crops), models.device)


def compared(
    frames: Tensor, unedited: Tensor, plain: Tensor, kept: Tensor, label: str, models: Models
) -> KeptLips:
    """What the pictures of the same N frames say, each ``(N, 3, S, S)`` in [-1, 1]."""
    unit = eye_distance(models.judges.mesh(unedited).points).mean()

    def lips(images: Tensor) -> Mouth:
        return by_mesh(models.judges.mesh, images, unit)

    def apart(one: Tensor, other: Tensor, wanted: Tensor) -> tuple[float, float]:
        of = lips(wanted).lips
        first, second = (float(point_distance(lips(images).lips, of).mean()) for images in (one, other))
        return first, second

    def mean_of(measure: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> list[float]:
        return [float(measure(one).mean()) for one in images]

    to_unedited, to_frames = (apart(plain, kept, wanted=wanted) for wanted in (unedited, frames))
    config = models.config.keep_lips
    eyes = Eyes(load_lpips(config.lpips_net, models.device), config.eye_box)
    wanted = eyes.features(plain)
    emotion, which = load_emotion_net(models.device), EMOTIONS.index(label)
    before, after, led = mean_of(lambda one: emotion(one).softmax(1)[:, which], (unedited, plain, kept))
    nets = SecondJudges()

    def by_second(images: Tensor) -> Tensor:
        seen = as_frames(images, models.judges.mesh(images).points)
        return torch.from_numpy(nets.expression(*seen)[:, which])

    before2, after2, led2 = mean_of(by_second, (unedited, plain, kept))
    return KeptLips(
        len(frames),
        float(np.mean(apart(torch.roll(unedited, 1, 2), torch.roll(unedited, 1, 3), wanted=unedited))),
        *to_unedited,
        *to_frames,
        (before, after, led),
        (before2, after2, led2),
        (float(eyes(unedited, wanted).mean()), float(eyes(kept, wanted).mean())),
    )
