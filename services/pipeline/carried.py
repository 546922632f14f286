"""The first pass's landmarks, blended with what flow carries from the frame before (StylePortraitVideo 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.landmark_flow import GreyFrame, LandmarkFlowConfig, blend, carry, grey_frame
from modules.perception.detection import FaceBox, FaceObservation
from services.pipeline.faces import Embedding, FacesConfig, overlapping


@dataclass(frozen=True)
class _Face:
    """A face of the frame before."""

    box: FaceBox
    landmarks: NDArray[np.float32]
    """``(68, 2)``, blended."""
    person: Embedding | None
    """Who it is, where somebody ever looked."""


class CarriedLandmarks:
    """Goes through a clip frame after frame; holds the frame before in grey, and its faces' landmarks.

    A face goes on from the one of the frame before whose box it overlaps, told apart as ``Tracker`` does. One that
    was not in that frame, that is another person's, or that follows a cut, begins anew with its detection.
    """

    def __init__(self, config: LandmarkFlowConfig, faces: FacesConfig) -> None:
        self.config, self._rule = config, faces
        self._before: GreyFrame | None = None
        self._faces: list[_Face] = []

    def follow(
        self,
        frame: NDArray[np.uint8],
        found: Sequence[FaceObservation],
        persons: Sequence[Embedding | None] = (),
        new_shot: bool = False,
    ) -> list[FaceObservation]:
        """The faces of the next frame ``(H, W, 3)`` uint8 RGB, in their order, with blended landmarks.

        ``persons`` is who each is, None where nobody looked; ``new_shot`` says that nothing is carried into it.
        """
        if self.config.weight == 0:
            return list(found)
        who = list(persons) or [None] * len(found)
        grey = grey_frame(frame, self.config.long_side)
        # A clip may change its size midway; flow cannot follow that.
        joined = self._before is not None and self._before.image.shape == grey.image.shape and not new_shot
        earlier = self._earlier(found, who) if joined else {}
        faces = []
        for index, face in enumerate(found):
            landmarks, person = np.asarray(face.landmarks, np.float32), who[index]
            if self._before is not None and index in earlier:
                last = earlier[index]
                carried, error = carry(self._before, grey, last.landmarks, self.config)
                landmarks = blend(landmarks, carried, error, self.config)
                person = last.person if person is None else person
            faces.append(_Face(face.box, landmarks, person))
        self._before, self._faces = grey, faces
        return [replace(one, landmarks=face.landmarks) for one, face in zip(found, faces, strict=True)]

    def _earlier(self, found: Sequence[FaceObservation], who: Sequence[Embedding | None]) -> dict[int, _Face]:
        """For the faces that were in the frame before what they were there."""
        earlier: dict[int, _Face] = {}
        gone: set[int] = set()
        boxes = [face.box for face in self._faces], [face.box for face in found]
        for before, now in overlapping(*boxes, self._rule.overlap):
            face, person = self._faces[before], who[now]
            known = face.person is not None and person is not None
            other = known and float(face.person @ person) < self._rule.same_person  # type: ignore[operator]
            if not other and before not in gone and now not in earlier:
                earlier[now] = face
                gone.add(before)
        return earlier
