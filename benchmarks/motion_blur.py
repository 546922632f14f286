"""Motion blur under an adapted generator: a clip blurred along its own flow, learned, and shown again.

python benchmarks/motion_blur.py [--clips NAME...] [--shutter 3] [--iterations 300 1000] [--frames 60]

Each frame is the mean of itself carried along DIS flow over ``--shutter`` frames' time. Told is the variance of
the Laplacian of the grey crop at 256 px, in levels of 255, of the blurred clip and of what a generator shows that
learned it, and the same of the clip as it is; a ratio of 1 keeps what there was (within 10 % is asked). Clips of
test persons in ``build/clips``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from datamodules.spread import spread
from datamodules.types import Frames
from modules.generators.protocol import Generator
from modules.perception.flow import DenseFlow, FlowConfig, warp
from services.adaptation import AdaptationSettings
from services.adaptation_evaluation import codes_of, learned, rendered
from services.evaluation_frames import consecutive_frames
from services.pipeline.edit import to_pixels
from services.pipeline.models import load_models
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


def sharpness(frames: Frames) -> float:
    """Mean over the frames of the variance of the Laplacian of grey."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return float(np.mean([cv2.Laplacian(one, cv2.CV_64F).var() for one in grey]))


def main() -> None:
    """Print a line per clip, kind and number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", default=["lia-driving2.mp4"])
    parser.add_argument("--shutter", type=float, default=3.0, help="Frames' time over which each one is blurred.")
    parser.add_argument("--iterations", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--frames", type=int, default=60, help="Consecutive frames of each clip.")
    arguments = parser.parse_args()
    params = load_params()
    models = load_models(params)
    settings = params.section("adaptation", AdaptationSettings)
    flow = DenseFlow(params.section("flow", FlowConfig))
    found = {frames.clips[0]: frames for frames in consecutive_frames(read_prepared(CLIPS), arguments.frames, 10)}
    print("| clip | its Laplacian's variance | iterations | of the adapted | ratio |\n|---|--:|--:|--:|--:|")
    for name in arguments.clips:
        sharp = found[name].pixels
        for kind, frames in (("blurred", blurred(sharp, flow, arguments.shutter)), ("as it is", sharp)):
            chosen = spread(len(frames), MEASURED)
            ws, was = codes_of(frames, models), sharpness(frames[chosen])

            def look(step: int, generator: Generator) -> None:
                if step in arguments.iterations:
                    shown = rendered(generator, ws[chosen]).permute(0, 2, 3, 1).cpu().numpy()  # noqa: B023
                    value = sharpness(to_pixels(shown))
                    print(
                        f"| {name}, {kind} | {was:.1f} | {step} | {value:.1f} | {value / was:.3f} |",  # noqa: B023
                        flush=True,
                    )

            learned(frames, ws, models, settings, max(arguments.iterations), look=look)


if __name__ == "__main__":
    main()
