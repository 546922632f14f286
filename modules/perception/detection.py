"""Faces in frames: YuNet boxes, then MediaPipe's mesh in an upright crop of each, in frame pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.types import BadInputError, Frames, Landmarks
from modules.assets import asset_path
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import POINTS, FaceMesh, load_face_mesh

_RIGHT_EYE, _LEFT_EYE = 33, 263
"""Outer corners of the eyes among the 468 points; 'right' is the person's, left in the picture."""


@dataclass(frozen=True)
class DetectionConfig:
    """How faces are looked for."""

    long_side: int
    """Pixels: larger frames are first searched at this size of their longer side."""
    largest_side: int
    """Pixels: where that finds nothing, they are searched again at up to this size; 8K comes down to it."""
    min_score: float
    """YuNet's score, 0 to 1, below which a box is dropped."""
    overlap: float
    """Intersection over union above which the weaker of two boxes is dropped."""
    min_face: float
    """Pixels of the frame: boxes with a shorter longer side are dropped."""
    mesh_score: float
    """The mesh's own score, 0 to 1, below which a box counts as no face."""
    batch: int
    """Faces that go through the mesh at once."""
    follow_overlap: float
    """Intersection over union, with its last place, from which a box counts as the followed face."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be 1 or more, got {self.batch}")


@dataclass(frozen=True)
class FaceBox:
    """One detected face, in pixels of the frame."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    """In [0, 1]."""
    points: NDArray[np.float32]
    """``(5, 2)``: the person's right eye, left eye, nose tip, right and left corner of the mouth."""

    @property
    def side(self) -> float:
        """Pixels of the longer side."""
        return max(self.x1 - self.x0, self.y1 - self.y0)

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union, 0 to 1."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        common = max(width, 0.0) * max(height, 0.0)
        union = (self.x1 - self.x0) * (self.y1 - self.y0) + (other.x1 - other.x0) * (other.y1 - other.y0) - common
        return common / union if union > 0 else 0.0


@dataclass(frozen=True)
class FaceObservation:
    """One face of one frame, in pixels of the frame (centres on integers)."""

    box: FaceBox
    landmarks: NDArray[np.float32]
    """``(68, 2)``, the usual 68 points."""
    mesh: NDArray[np.float32]
    """``(468, 3)``, MediaPipe's points; z in pixels, smaller nearer to the camera."""
    score: float
    """The mesh's score, in [0, 1]."""


class FaceDetector:
    """YuNet through OpenCV, on frames of any size."""

    def __init__(self, config: DetectionConfig, path: Path | None = None) -> None:
        self.config = config
        model = path or asset_path("yunet", "face_detection_yunet_2023mar.onnx")
        self._net = cv2.FaceDetectorYN.create(
            str(model), "", (320, 320), config.min_score, config.overlap, top_k=1000
        )

    def detect(self, frame: NDArray[np.uint8]) -> list[FaceBox]:
        """Faces of one ``(H, W, 3)`` uint8 RGB frame, largest first; raises ``BadInputError`` for other arrays."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise BadInputError(f"a frame must be (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
        longer = max(frame.shape[:2])
        # Small frames are searched enlarged when nothing is found: YuNet sees faces from about ten pixels on.
        sizes = [min(longer, self.config.long_side), self.config.largest_side]
        if longer < self.config.largest_side:
            sizes[1] = min(2 * longer, self.config.largest_side)
        for size in dict.fromkeys(sizes):
            if boxes := self._detect_at(frame, size / longer):
                return sorted(boxes, key=lambda box: box.side, reverse=True)
        return []

    def _detect_at(self, frame: NDArray[Any], scale: float) -> list[FaceBox]:
        height, width = (max(round(n * scale), 1) for n in frame.shape[:2])
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if (height, width) != frame.shape[:2]:
            image = cv2.resize(
                image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            )
        self._net.setInputSize((width, height))
        # OpenCV answers None where it finds nothing, whatever its stubs say.
        rows: Any = self._net.detect(image)[1]
        found = np.zeros((0, 15)) if rows is None else np.asarray(rows, np.float64)
        stretch = np.array([frame.shape[1] / width, frame.shape[0] / height])
        boxes = []
        for row in found:
            # Scaling about the image's edge, then back to centres on integers.
            corner, extent = row[0:2] * stretch, row[2:4] * stretch
            points = (row[4:14].reshape(5, 2) + 0.5) * stretch - 0.5
            box = FaceBox(
                float(corner[0]),
                float(corner[1]),
                float(corner[0] + extent[0]),
                float(corner[1] + extent[1]),
                float(row[14]),
                points.astype(np.float32),
            )
            if np.isfinite(row).all() and box.side >= self.config.min_face:
                boxes.append(box)
        return boxes


@dataclass(frozen=True)
class _Roi:
    """A square of the frame, turned so that the face in it is upright."""

    x: float
    y: float
    side: float
    angle: float
    """Radians by which the face leans, clockwise in the picture."""

    def to_frame(self, size: int) -> NDArray[np.float64]:
        """``(2, 3)``: pixels of a ``size`` crop to pixels of the frame, centres on integers in both."""
        scale = self.side / size
        turn = scale * np.array(
            [[math.cos(self.angle), -math.sin(self.angle)], [math.sin(self.angle), math.cos(self.angle)]]
        )
        middle = np.array([(size - 1) / 2, (size - 1) / 2])
        return np.column_stack([turn, np.array([self.x, self.y]) - turn @ middle])


_BOX_MARGIN = 1.5
"""MediaPipe's: the square is this many times as large as the face's box."""


def _roi_of_box(box: FaceBox) -> _Roi:
    """From the five points: YuNet's boxes reach higher than the ones MediaPipe's mesh was trained after."""
    eyes, mouth = box.points[:2].astype(np.float64), box.points[3:5].astype(np.float64)
    across = eyes[1] - eyes[0]
    down = mouth.mean(0) - eyes.mean(0)
    # The angle comes from both directions, so that a profile (eyes nearly in one place) is turned right too.
    upright = across + np.array([down[1], -down[0]])
    angle = math.atan2(upright[1], upright[0])
    centre = (eyes.mean(0) + mouth.mean(0)) / 2
    return _Roi(float(centre[0]), float(centre[1]), _BOX_MARGIN * box.side, angle)


def _roi_of_mesh(mesh: NDArray[np.float32]) -> _Roi:
    """MediaPipe's rule for the next frame: the square around all points, upright by the eyes' outer corners."""
    points = mesh[:, :2].astype(np.float64)
    across = points[_LEFT_EYE] - points[_RIGHT_EYE]
    angle = math.atan2(across[1], across[0])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    upright = points @ turn.T
    low, high = upright.min(0), upright.max(0)
    centre = turn.T @ ((low + high) / 2)
    return _Roi(float(centre[0]), float(centre[1]), _BOX_MARGIN * float((high - low).max()), angle)


def _cut(frame: NDArray[Any], roi: _Roi, size: int) -> NDArray[np.uint8]:
    """The square as a ``(size, size, 3)`` image; black outside of the frame; without aliasing when it shrinks."""
    matrix = np.vstack([roi.to_frame(size), [0.0, 0.0, 1.0]])
    shrink = int(roi.side / size)
    if shrink > 1:
        corners = matrix @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]], dtype=np.float64)
        limit = np.array(frame.shape[1::-1])
        low = np.clip(np.floor(corners[:2].min(1)) - shrink, 0, limit - 1).astype(int)
        high = np.clip(np.ceil(corners[:2].max(1)) + shrink, low + 1, limit).astype(int)
        part = frame[low[1] : high[1], low[0] : high[0]]
        width, height = max(part.shape[1] // shrink, 1), max(part.shape[0] // shrink, 1)
        x, y = width / part.shape[1], height / part.shape[0]
        frame = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        to_small = np.array([[x, 0, x * (0.5 - low[0]) - 0.5], [0, y, y * (0.5 - low[1]) - 0.5], [0, 0, 1]])
        matrix = to_small @ matrix
    crop = cv2.warpAffine(frame, matrix[:2], (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(crop, np.uint8)


class FaceFinder:
    """All faces of frames: YuNet, then the mesh twice, the second time in the square that the first one gives."""

    def __init__(self, detector: FaceDetector, mesh: FaceMesh) -> None:
        self.detector = detector
        self.mesh = mesh

    def find(self, frames: Frames) -> list[list[FaceObservation]]:
        """For each of ``(T, H, W, 3)`` uint8 RGB frames its faces, largest first; empty where there is none."""
        boxes = [self.detector.detect(frame) for frame in frames]
        return self.refine(frames, boxes)

    def refine(self, frames: Frames, boxes: Sequence[Sequence[FaceBox]]) -> list[list[FaceObservation]]:
        """The mesh of each box; boxes in which the mesh sees no face are left out."""
        owners = [(t, box) for t, row in enumerate(boxes) for box in row]
        rois = [_roi_of_box(box) for _, box in owners]
        picked = [frames[t] for t, _ in owners]
        first, _ = self._meshes(picked, rois)
        meshes, scores = self._meshes(picked, [_roi_of_mesh(mesh) for mesh in first])
        found: list[list[FaceObservation]] = [[] for _ in boxes]
        if len(owners):
            points_68 = landmarks_68(torch.from_numpy(meshes)).numpy()
            for (t, box), mesh, points, score in zip(owners, meshes, points_68, scores, strict=True):
                if score >= self.detector.config.mesh_score:
                    found[t].append(FaceObservation(box, points, mesh, float(score)))
        return found

    def _meshes(
        self, frames: Sequence[NDArray[np.uint8]], rois: Sequence[_Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        size = self.mesh.side
        meshes = np.zeros((len(rois), POINTS, 3), np.float32)
        scores = np.zeros(len(rois), np.float32)
        device = next(self.mesh.buffers()).device
        step = self.detector.config.batch
        for start in range(0, len(rois), step):
            part = slice(start, start + step)
            crops = np.stack([_cut(f, r, size) for f, r in zip(frames[part], rois[part], strict=True)])
            images: Tensor = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                out = self.mesh(images)
            points = out.points.double().cpu().numpy()
            for k, roi in enumerate(rois[part]):
                matrix = roi.to_frame(size)
                meshes[start + k, :, :2] = points[k, :, :2] @ matrix[:, :2].T + matrix[:, 2]
                meshes[start + k, :, 2] = points[k, :, 2] * roi.side / size
            scores[part] = out.score.cpu().numpy()
        return meshes, scores


class FaceTracker:
    """Follows one face through a clip, chunk after chunk: the state is where it was last seen."""

    def __init__(self, finder: FaceFinder, pick: int = 0) -> None:
        self.finder = finder
        self.pick = pick
        """Which face of the first frame that has enough of them, counted from 0, largest first."""
        self._last: FaceBox | None = None

    def follow(self, frames: Frames) -> list[FaceObservation | None]:
        """For each of ``(T, H, W, 3)`` uint8 RGB frames the followed face, or None where it is not seen."""
        return [self._choose(faces) for faces in self.finder.find(frames)]

    def _choose(self, faces: list[FaceObservation]) -> FaceObservation | None:
        if self._last is None:
            chosen = faces[self.pick] if len(faces) > self.pick else None
        else:
            last = self._last
            near = [f for f in faces if f.box.overlap(last) >= self.finder.detector.config.follow_overlap]
            # A face alone in the frame is taken wherever it is: it came back, or a cut moved it.
            alone = faces if len(faces) == 1 or self.pick == 0 else []
            chosen = max(near, key=lambda f: f.box.overlap(last)) if near else (alone[0] if alone else None)
        if chosen is not None:
            self._last = chosen.box
        return chosen


def load_face_finder(config: DetectionConfig, device: str | torch.device = "cpu") -> FaceFinder:
    """YuNet and the mesh from the assets."""
    return FaceFinder(FaceDetector(config), load_face_mesh(device))


def to_landmarks(faces: Sequence[FaceObservation | None]) -> Landmarks:
    """The 68 points per frame, NaN with score 0 where there is no face."""
    points = np.full((len(faces), 68, 2), np.nan, np.float32)
    score = np.zeros(len(faces), np.float32)
    for t, face in enumerate(faces):
        if face is not None:
            points[t], score[t] = face.landmarks, face.score
    return Landmarks(points, score)
