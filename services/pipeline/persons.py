"""Who the faces of a clip are, looked at sparsely: often enough to notice that one person took another's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.alignment import SmoothingConfig, align, crop_frame
from datamodules.types import Frames, Landmarks
from modules.perception.detection import FaceBox, FaceObservation
from services.pipeline.faces import Embedding

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Crops ``(N, s, s, 3)`` uint8 to unit embeddings ``(N, D)``."""


class PersonSampler:
    """Looks at the last frame of each batch, and at all frames of a batch at whose end somebody else is there."""

    def __init__(self, embed: Embed, size: int, smoothing: SmoothingConfig, same_person: float) -> None:
        """``size`` is the side of the crops in pixels, ``same_person`` the least likeness of one person."""
        self._embed, self._size, self._smoothing, self._same = embed, size, smoothing, same_person
        self._before: list[tuple[FaceBox, Embedding]] = []

    def look(self, frames: Frames, found: Sequence[Sequence[FaceObservation]]) -> list[list[Embedding | None]]:
        """Who is who in the next frames ``(T, H, W, 3)`` uint8; None for the faces that were not looked at.

        ``found`` are the faces of each frame; the answer is in their order.
        """
        who: list[list[Embedding | None]] = [[None] * len(faces) for faces in found]
        last = self._embeddings(frames[-1], found[-1])
        who[-1] = list(last)
        if self._before and any(
            self._is_other(face.box, person) for face, person in zip(found[-1], last, strict=True)
        ):
            for index in range(len(frames) - 1):
                who[index] = list(self._embeddings(frames[index], found[index]))
        if last:
            self._before = [(face.box, person) for face, person in zip(found[-1], last, strict=True)]
        return who

    def _is_other(self, box: FaceBox, person: Embedding) -> bool:
        """Whether nobody who was hereabouts at the last look is this person."""
        near = [known for place, known in self._before if place.overlap(box) > 0]
        return all(float(known @ person) < self._same for known in near)

    def _embeddings(self, frame: NDArray[np.uint8], faces: Sequence[FaceObservation]) -> list[Embedding]:
        if not faces:
            return []
        crops = []
        for face in faces:
            landmarks = Landmarks(np.asarray(face.landmarks, np.float32)[None], np.array([face.score], np.float32))
            matrix = align(landmarks, self._size, self._smoothing).crop_to_frame[0]
            crops.append(crop_frame(frame, matrix, self._size))
        return list(self._embed(np.stack(crops)))
