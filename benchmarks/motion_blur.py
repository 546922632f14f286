"""Motion blur under an adapted generator: a clip blurred along its own flow, learned, and shown again.

python benchmarks/motion_blur.py [--clips NAME...] [--shutter 3] [--iterations 300 1000] [--frames 60]

Each frame is the mean of itself carried along DIS flow over ``--shutter`` frames' time. Told is the variance of
the Laplacian of grey at 256 px, in levels of 255, in the face as the parser sees it and in the whole crop: of the
blurred clip and of what a generator shows that learned it in so many steps. A ratio of 1 keeps what there was
(within 10 % is asked). Clips of test persons in ``build/clips``; 8 minutes each on two cores with 1,000 steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import Frames
from modules.generators.protocol import Generator
from modules.perception.flow import DenseFlow, FlowConfig, warp
from services.adaptation.evaluation import codes_of, learned, rendered
from services.adaptation.learn import AdaptationSettings
from services.evaluation.frames import consecutive_frames
from services.pipeline.crops import to_pixels
from services.pipeline.models import Models, load_models
from services.places import CLIPS
from services.settings import load_params

SAMPLES = 13
"""Pictures that a blurred frame is the mean of."""
MEASURED = 12


def blurred(frames: Frames, flow: DenseFlow, shutter: float) -> Frames:
    """``(T, H, W, 3)`` frames, each averaged along the flow to its neighbour over ``shutter`` frames' time."""
    made = []
    for index, frame in enumerate(frames):
        ahead = index + 1 < len(frames)
        motion = flow(frame, frames[index + 1 if ahead else index - 1])[None] * (1 if ahead else -1)
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        times = np.linspace(-shutter / 2, shutter / 2, SAMPLES)
        mean = torch.stack([warp(image, motion * -float(time)) for time in times]).mean(0)
        made.append(mean[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
    return np.stack(made)


def sharpness(frames: Frames, places: NDArray[np.bool_]) -> float:
    """Mean over the frames of the variance of the Laplacian of grey, at those places ``(T, H, W)`` of them."""
    values = [
        cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_64F)[at].var()
        for frame, at in zip(frames, places, strict=True)
    ]
    return float(np.mean(values))


def face_of(frames: Frames, models: Models) -> NDArray[np.bool_]:
    """``(T, H, W)``: where the parser sees the face without its hair."""
    with torch.no_grad():
        region = models.judges.regions(to_tensor(frames, models.device)).face
    region = F.interpolate(region, frames.shape[1:3], mode="bilinear", align_corners=False)
    return np.asarray((region[:, 0] > 0.5).cpu().numpy())


def main() -> None:
    """Print a line per clip and number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", default=["lia-driving2.mp4"])
    parser.add_argument("--shutter", type=float, default=3.0, help="Frames' time over which each one is blurred.")
    parser.add_argument("--iterations", type=int, nargs="+", default=[0, 300, 1000])
    parser.add_argument("--frames", type=int, default=60, help="Consecutive frames of each clip.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="A number of params.yaml.")
    arguments = parser.parse_args()
    params = load_params(overrides=arguments.set)
    models = load_models(params)
    settings = params.section("adaptation", AdaptationSettings)
    flow = DenseFlow(params.section("flow", FlowConfig))
    found = {frames.clips[0]: frames for frames in consecutive_frames(read_prepared(CLIPS), arguments.frames, 10)}
    print("| clip | iterations | face, clip | adapted | ratio | crop, clip | adapted | ratio |")
    print(f"|---|{'--:|' * 7}")
    for name in arguments.clips:
        frames = blurred(found[name].pixels, flow, arguments.shutter)
        ws = codes_of(frames, models)
        look = told(name, frames, ws, models, arguments.iterations)
        learned(frames, ws, models, settings, max(arguments.iterations), look=look)


def told(
    label: str, frames: Frames, ws: Tensor, models: Models, iterations: list[int]
) -> Callable[[int, Generator], None]:
    """What prints a row where a generator has learned the frames for one of so many iterations."""
    chosen = spread(len(frames), MEASURED)
    face = face_of(frames[chosen], models)
    places = face, np.ones_like(face)
    was = [sharpness(frames[chosen], at) for at in places]

    def look(step: int, generator: Generator) -> None:
        if step in iterations:
            shown = to_pixels(rendered(generator, ws[chosen]).permute(0, 2, 3, 1).cpu().numpy())
            now = [sharpness(shown, at) for at in places]
            cells = [
                f"{before:.1f} | {after:.1f} | {after / before:.3f}"
                for before, after in zip(was, now, strict=True)
            ]
            print(f"| {label} | {step} | {' | '.join(cells)} |", flush=True)

    return look


if __name__ == "__main__":
    main()
