"""How steady the crops of clips are with and without flow between frames, on the same detections.

python benchmarks/steadiness.py CLIP... [--frames N] [--weights W...] [--set KEY=VALUE]

A row per clip and weight; weight 0 is without flow. Of the clip itself, in pixels of a crop of 256: how much the
steadied crop jitters, and how far it lies from where it lies without flow. Of a made clip, the first frame with a
face moved by a known smooth similarity, with noise: how far landmarks (RMS, % of the eyes' distance) and steadied
crop (RMS, the same pixels) lie from where they truly are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.alignment import SmoothingConfig, align, crop_scale, invert, transform_points
from datamodules.landmark_flow import LandmarkFlowConfig, eye_distance
from datamodules.types import BadInputError, Frames, Landmarks
from datamodules.video import ShotConfig, ShotDetector, read_frames
from modules.perception.detection import DetectionConfig, FaceFinder, FaceObservation, load_face_finder
from services.pipeline.carried import CarriedLandmarks
from services.pipeline.faces import FacesConfig, track
from services.pipeline.options import PipelineConfig
from services.settings import load_params

SIZE = 256
"""Side of the crop whose pixels everything is told in."""
SHIFT, ROLL, GROWTH = 0.3, np.radians(6), 0.05
"""Of the made motion, to either side: shares of the eyes' distance, radians, share of the size."""
PERIODS = np.array([23.0, 31.0, 41.0, 53.0])
"""Frames in which x, y, roll and size of the made motion come back."""
NOISE = 4.0
"""Standard deviation, of 255, of what is added to each made frame: that of a dim room's camera."""


@dataclass(frozen=True)
class Watched:
    """Frames and what was found in them."""

    frames: Frames
    """``(T, H, W, 3)`` uint8 RGB."""
    faces: list[list[FaceObservation]]
    """Of each frame, largest first."""
    suspects: tuple[int, ...]
    """Frames that looked like the first of a shot when they came."""
    cuts: tuple[int, ...]
    """Those of them that were."""


@dataclass(frozen=True)
class Rules:
    """What a measurement depends on beside the weight."""

    flow: LandmarkFlowConfig
    """Its weight is replaced."""
    faces: FacesConfig
    """How faces are followed."""
    smoothing: SmoothingConfig
    """What follows the blending."""
    shots: ShotConfig
    """What a cut is."""


def watch(frames: Frames, finder: FaceFinder, shots: ShotConfig) -> Watched:
    """Find all faces and cuts of ``(T, H, W, 3)`` frames."""
    detector, suspects = ShotDetector(shots), []
    for index, frame in enumerate(frames):
        detector.feed(frame[None])
        suspects += [index] if detector.suspects else []
    return Watched(frames, finder.find(frames), tuple(suspects), tuple(detector.cuts))


def largest(seen: Watched, weight: float, rules: Rules) -> Landmarks:
    """The largest face's landmarks as the first pass over a clip finds them."""
    carried = CarriedLandmarks(replace(rules.flow, weight=weight), rules.faces)
    found = [
        carried.follow(frame, faces, new_shot=index in seen.suspects)
        for index, (frame, faces) in enumerate(zip(seen.frames, seen.faces, strict=True))
    ]
    return track(found, seen.cuts, rules.faces).choose("largest")[0]


def jitter(crops: NDArray[np.float64], whole: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean absolute second differences of the crop's centre, and of its side, in pixels of the crop.

    ``crops`` ``(T, 3, 3)``; ``whole`` ``(T - 2,)`` says which triples of frames lie in one shot and show the face.
    """
    centre = _centres(crops)
    scale = crop_scale(crops)
    jumps = np.linalg.norm(np.diff(centre, 2, axis=0), axis=1) / scale[1:-1]
    grown = np.abs(np.diff(scale, 2)) / scale[1:-1] * SIZE
    return float(jumps[whole].mean()), float(grown[whole].mean())


def made_motion(frame: NDArray[np.uint8], face: FaceObservation, count: int) -> tuple[Frames, NDArray[np.float64]]:
    """``count`` frames moved by smooth similarities about the face, noisy, and the ``(T, 3, 3)`` similarities."""
    eyes, middle = eye_distance(face.landmarks), face.landmarks.mean(axis=0).astype(np.float64)
    phase = np.sin(2 * np.pi * np.arange(count)[:, None] / PERIODS)
    random = np.random.default_rng(0)
    frames, matrices = np.empty((count, *frame.shape), np.uint8), np.tile(np.eye(3), (count, 1, 1))
    for index, (x, y, roll, growth) in enumerate(phase):
        angle, size = ROLL * roll, 1 + GROWTH * growth
        turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrices[index, :2, :2] = turn
        matrices[index, :2, 2] = middle - turn @ middle + SHIFT * eyes * np.array([x, y])
        moved = cv2.warpAffine(
            frame,
            matrices[index, :2],
            frame.shape[1::-1],
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        noisy = moved + random.normal(0, NOISE, frame.shape)
        frames[index] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return frames, matrices


def true_points(detected: Landmarks, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(T, 68, 2)``: what moves along and is nearest to all detections, so that no frame's error is the truth."""
    still = transform_points(invert(matrices), detected.points.astype(np.float64)).mean(axis=0)
    return transform_points(matrices, np.tile(still, (len(matrices), 1, 1)))


def of_clip(seen: Watched, weights: Sequence[float], rules: Rules) -> list[str]:
    """Per weight, cells of the table: jitter of the centre, of the side, distance from where no flow puts it."""
    plain = largest(seen, 0.0, rules)
    starts = np.isin(np.arange(len(seen.frames)), seen.cuts)
    whole = plain.valid[:-2] & plain.valid[1:-1] & plain.valid[2:] & ~starts[1:-1] & ~starts[2:]
    without = align(plain, SIZE, rules.smoothing, seen.cuts).crop_to_frame
    cells = []
    for weight in weights:
        crops = align(largest(seen, weight, rules), SIZE, rules.smoothing, seen.cuts).crop_to_frame
        apart = np.linalg.norm(_centres(crops) - _centres(without), axis=1) / crop_scale(without)
        centre, side = jitter(crops, whole)
        cells.append(f"{centre:.3f} | {side:.3f} | {apart[plain.valid].mean():.3f}")
    return cells


def of_made(made: Watched, matrices: NDArray[np.float64], weights: Sequence[float], rules: Rules) -> list[str]:
    """Per weight, cells of the table: RMS errors of landmarks, and of the steadied crop's centre and side."""
    truth = true_points(largest(made, 0.0, rules), matrices)
    eyes = np.array([eye_distance(points) for points in truth])
    # Smoothing lags behind the motion whatever the landmarks are, so the truth is smoothed alike.
    right = align(
        Landmarks(truth.astype(np.float32), np.ones(len(truth), np.float32)), SIZE, rules.smoothing
    ).crop_to_frame
    cells = []
    for weight in weights:
        found = largest(made, weight, rules)
        missed = np.linalg.norm(found.points - truth, axis=2) / eyes[:, None]
        crops = align(found, SIZE, rules.smoothing).crop_to_frame
        centre = np.linalg.norm(_centres(crops) - _centres(right), axis=1) / crop_scale(right)
        side = (crop_scale(crops) / crop_scale(right) - 1) * SIZE
        rms = [100 * _rms(missed), _rms(centre), _rms(side)]
        cells.append(" | ".join(f"{value:.3f}" for value in rms))
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--frames", type=int, default=60, help="Taken of each clip, from its start.")
    parser.add_argument("--weights", type=float, nargs="+", help="Instead of 0 and landmark_flow.weight.")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="As in params.yaml.")
    arguments = parser.parse_args()
    params = load_params(overrides=arguments.set)
    params.runtime.apply_threads()
    rules = Rules(
        params.section("landmark_flow", LandmarkFlowConfig),
        params.section("pipeline", PipelineConfig).faces,
        params.section("smoothing", SmoothingConfig),
        params.section("shots", ShotConfig),
    )
    finder = load_face_finder(params.section("detection", DetectionConfig), params.runtime.torch_device())
    weights = arguments.weights or [0.0, rules.flow.weight]
    print("| clip | weight | jitter, centre | jitter, side | moved | made: landmarks | centre | side |")
    print("|---|---|---|---|---|---|---|---|")
    for clip in arguments.clips:
        seen, made, matrices = prepare(clip, arguments.frames, finder, rules.shots)
        rows = zip(weights, of_clip(seen, weights, rules), of_made(made, matrices, weights, rules), strict=True)
        for weight, own, true in rows:
            print(f"| {clip.stem} | {weight:g} | {own} | {true} |", flush=True)


def prepare(
    clip: Path, count: int, finder: FaceFinder, shots: ShotConfig
) -> tuple[Watched, Watched, NDArray[np.float64]]:
    """The first frames of a clip, the made ones, and how those were moved; raises ``BadInputError``."""
    batch = next(islice(read_frames(clip, count), 1), None)
    if batch is None:
        raise BadInputError(f"{clip} holds no frames; give a clip that shows a face")
    seen = watch(batch.frames, finder, shots)
    first = next((index for index, faces in enumerate(seen.faces) if faces), None)
    if first is None:
        raise BadInputError(f"{clip.name} shows no face in its first {count} frames; give one that does")
    frames, matrices = made_motion(batch.frames[first], seen.faces[first][0], count)
    return seen, watch(frames, finder, shots), matrices


def _centres(crops: NDArray[np.float64]) -> NDArray[np.float64]:
    return transform_points(crops, np.full((len(crops), 1, 2), (SIZE - 1) / 2))[:, 0]


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


if __name__ == "__main__":
    main()
