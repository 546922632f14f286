"""Whether errors grow: an encoder with a memory over hundreds of frames, beside one without."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.shards import to_tensor
from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.metrics.fidelity import psnr
from services.evaluation.frames import SIDE, HeldOutFrames
from services.evaluation.video import StreamingEncoder
from services.progress import Cancelled, Meter, Report, never, silent


@dataclass(frozen=True)
class DriftConfig:
    """Section ``drift``: how long, and how closely it is looked at."""

    frames: int
    """Length of the stream; shorter clips are played forth and back until it is reached."""
    every: int
    """One frame in this many is rendered and measured."""
    clips: int
    """The longest test clips that are streamed."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.every <= self.frames or self.clips < 1:
            raise BadInputError(
                "drift: frames must be twice every or more, clips 1 or more: a line needs two points"
            )


@dataclass(frozen=True)
class Drift:
    """Error over time of several encoders on the same streams."""

    frames: tuple[int, ...]
    """Numbers of the frames that were measured."""
    curves: Mapping[str, NDArray[np.float64]]
    """Label of an encoder to PSNR in dB, ``(clips, len(frames))``."""
    clips: tuple[str, ...]
    """What was streamed."""

    def slope(self, label: str) -> float:
        """Decibels per hundred frames of the line through an encoder's mean curve; below 0 it gets worse."""
        return float(100 * np.polyfit(self.frames, self.curves[label].mean(0), 1)[0])

    def to_csv(self) -> str:
        """A line per frame: its number and the mean over clips of each encoder."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["frame", *self.curves])
        for place, frame in enumerate(self.frames):
            writer.writerow([frame, *(f"{curve[:, place].mean():.4f}" for curve in self.curves.values())])
        return text.getvalue()


def forth_and_back(length: int, frames: int) -> list[int]:
    """Rows of a clip of ``length`` frames, played forth and back until ``frames`` are reached: 0 1 2 1 0 1 …"""
    if length < 2:
        raise ValueError(f"a clip of {length} frames cannot be played back")
    rows = np.arange(frames) % (2 * length - 2)
    return np.minimum(rows, 2 * length - 2 - rows).tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def measure_drift(
    clips: Sequence[HeldOutFrames],
    encoders: Mapping[str, StreamingEncoder],
    generator: Generator,
    config: DriftConfig,
    device: str = "cpu",
    report: Report = silent,
    cancelled: Cancelled = never,
) -> Drift:
    """Stream the longest clips through every encoder, frame by frame with its state, and look at some frames."""
    chosen = sorted(clips, key=len, reverse=True)[: config.clips]
    looked = tuple(range(config.every - 1, config.frames, config.every))
    progress = Meter("measure drift", config.frames * len(chosen) * len(encoders), report, cancelled)
    curves = {label: np.zeros((len(chosen), len(looked))) for label in encoders}
    for number, clip in enumerate(chosen):
        rows = forth_and_back(len(clip), config.frames)
        for label, encoder in encoders.items():
            state = None
            for frame, row in enumerate(rows):
                image = to_tensor(clip.pixels[row : row + 1]).to(device)
                ws, state = encoder(image, state)
                if frame in looked:
                    curves[label][number, frame // config.every] = float(_psnr(ws, image, generator))
                progress.advance()
    return Drift(looked, curves, tuple(clip.clips[0] for clip in chosen))


def _psnr(ws: Tensor, image: Tensor, generator: Generator) -> Tensor:
    shown = generator.synthesize(ws, resolution=SIDE).float().clamp(-1, 1)
    return psnr(shown, image)[0]
