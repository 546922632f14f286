"""How near reconstructions come to their crops, frame by frame, by frozen judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.shards import to_tensor
from modules.losses.perceptual import PerceptualLoss
from modules.metrics.face import landmark_error, landmark_error_percent
from modules.metrics.fidelity import lpips_distance, psnr, ssim
from modules.perception.identity import IdentityNet
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import FaceMesh
from modules.perception.parsing import Regions
from services.evaluation.frames import HeldOutFrames

HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "lpips": False,
    "psnr_face": True,
    "ssim_face": True,
    "lpips_face": False,
    "identity": True,
    "identity_distance": False,
    "landmark_error": False,
    "landmark_error_px": False,
    "retrieval": True,
}
"""Every metric: of the whole crop, of the face region (``_face``), and of the face itself.

``psnr`` in dB (per image, then the mean); ``identity`` the likeness of the embeddings; ``identity_distance`` that
of a second net, which nothing is trained with or encoded by: one person's lie within 0.6; ``landmark_error`` in
percent of the distance of the eyes, ``landmark_error_px`` in pixels at 256; ``retrieval`` the share of frames
whose own person comes first among the test persons, averaged over persons: a constant answer scores 1 / persons.
"""
Measures = dict[str, NDArray[np.float64]]
"""``(N,)`` per metric; ``retrieval`` is 1 or 0 per frame, NaN where there is but one person."""


class EvaluationJudges(Protocol):
    """The frozen networks that the measurement asks; ``services.pipeline.models.Judges`` are some."""

    @property
    def mesh(self) -> FaceMesh:
        """Points of a face."""
        ...

    @property
    def identity(self) -> IdentityNet:
        """Who it is."""
        ...

    @property
    def second_identity(self) -> Callable[[Tensor], Tensor]:
        """The same by another net: crops to embeddings ``(N, D)``."""
        ...

    @property
    def perceptual(self) -> PerceptualLoss:
        """LPIPS."""
        ...

    def regions(self, images: Tensor) -> Regions:
        """Where the face is, ``(N, 1, S, S)`` in [0, 1]."""
        ...


class FrameMeter:
    """Measures reconstructions of held-out frames; what the judges say of the frames is asked once."""

    def __init__(
        self, frames: HeldOutFrames, judges: EvaluationJudges, device: str = "cpu", batch: int = 8
    ) -> None:
        """Look at all frames, ``batch`` at a time."""
        self.frames, self.judges, self.device = frames, judges, device
        landmarks, embeddings, seconds, masks = [], [], [], []
        for first in range(0, len(frames), batch):
            images = self.targets(range(first, min(first + batch, len(frames))))
            with torch.no_grad():
                landmarks.append(landmarks_68(judges.mesh(images).points))
                embeddings.append(judges.identity.embed(images))
                seconds.append(judges.second_identity(images))
                masks.append(judges.regions(images).face)
        self._landmarks, self._embeddings = torch.cat(landmarks), torch.cat(embeddings)
        self._seconds, self._masks = torch.cat(seconds), torch.cat(masks)
        self._people = torch.tensor(frames.people, device=device)
        self.persons = sorted(set(frames.people))
        means = [self._embeddings[self._people == person].mean(0) for person in self.persons]
        self._gallery = F.normalize(torch.stack(means), dim=1)

    def targets(self, indices: Sequence[int]) -> Tensor:
        """The frames themselves, ``(n, 3, 256, 256)`` in [-1, 1]."""
        return to_tensor(self.frames.pixels[list(indices)]).to(self.device)

    @torch.no_grad()
    def measure(self, indices: Sequence[int], shown: Tensor) -> Measures:
        """``shown`` ``(n, 3, 256, 256)`` are reconstructions of the frames at ``indices``."""
        at = list(indices)
        targets, masks, wanted = self.targets(at), self._masks[at], self._landmarks[at]
        shown = shown.float().clamp(-1, 1)
        embeddings = self.judges.identity.embed(shown)
        points = landmarks_68(self.judges.mesh(shown).points)
        nearest = (embeddings @ self._gallery.T).argmax(1)
        own = torch.tensor([self.persons.index(self.frames.people[i]) for i in at], device=self.device)
        hit = (nearest == own).double()
        values = {
            "psnr": psnr(shown, targets),
            "ssim": ssim(shown, targets),
            "lpips": lpips_distance(self.judges.perceptual, shown, targets),
            "psnr_face": psnr(shown, targets, masks),
            "ssim_face": ssim(shown, targets, masks),
            "lpips_face": lpips_distance(self.judges.perceptual, shown, targets, masks),
            "identity": (embeddings * self._embeddings[at]).sum(1),
            "identity_distance": (self.judges.second_identity(shown) - self._seconds[at]).norm(dim=1),
            "landmark_error": landmark_error_percent(points, wanted),
            "landmark_error_px": landmark_error(points, wanted),
            "retrieval": hit if len(self.persons) > 1 else torch.full_like(hit, torch.nan),
        }
        return {name: value.double().cpu().numpy() for name, value in values.items()}


def joined(parts: Sequence[Measures]) -> Measures:
    """Measures of consecutive frames as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in HIGHER_IS_BETTER}


def means(measures: Mapping[str, NDArray[np.float64]], people: Sequence[int]) -> dict[str, float]:
    """One number per metric: the mean over frames, for ``retrieval`` the mean over persons of theirs.

    A value that is no number makes the mean none, so that nothing is hidden.
    """
    table = {name: float(values.mean()) for name, values in measures.items()}
    who = np.asarray(people)
    shares = [measures["retrieval"][who == person].mean() for person in np.unique(who)]
    table["retrieval"] = float(np.mean(shares))
    return table
