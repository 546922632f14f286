"""Measure a frame encoder on persons it never saw: beside the mean face, a short refinement and the optimum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.model_folder import weights_sha256
from services.evaluation.frames import SIDE, HeldOutFrames
from services.evaluation.measure import (
    HIGHER_IS_BETTER,
    EvaluationJudges,
    FrameMeter,
    Measures,
    joined,
    means,
)
from services.evaluation.optimise import ChosenNets, Precision, optimised_codes
from services.evaluation.video import VideoEvaluationConfig
from services.pipeline.refine import Perceptual, RefineConfig
from services.progress import Cancelled, Meter, Report, never, silent
from services.registry.gate import Evaluation, utc_now


@dataclass(frozen=True)
class EvaluationConfig:
    """Section ``evaluation``: on what, and how far codes are optimised beside the encoder."""

    frames_per_clip: int
    """Frames of each test clip that the mean face and the encoder are measured on."""
    optimised_frames: int
    """How many of them, evenly spread, are optimised too: the fixed list."""
    steps: int
    """Steps that begin at the encoder's codes, with the settings of ``pipeline.refine``."""
    optimum: RefineConfig
    """The optimum: a long optimisation that begins at the mean face, so that it is the same for every encoder."""
    precision: Precision
    """Of the generator's features, where it has a choice, while it is optimised; what is measured is float32."""
    lpips_net: Literal["vgg", "alex"]
    """Backbone of the LPIPS that is reported."""
    batch: int
    """Frames that are looked at together."""
    optimise_batch: int
    """Frames that are optimised together; a CPU is fastest with 1."""
    video: VideoEvaluationConfig
    """Table 1: the same on frames that follow each other."""


class FrameEncoderNet(Protocol):
    """What is measured: an ``nn.Module`` that sends crops to codes."""

    def __call__(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """``(N, 3, 256, 256)`` in [-1, 1] to ``(N, num_ws, w_dim)``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights by name."""
        ...


Codes = Callable[[Sequence[int]], Tensor]
"""Numbers of frames to their codes ``(n, num_ws, w_dim)``."""
See = Callable[[str, Sequence[int], Tensor], None]
"""``see(row, indices, shown)`` is handed what is rendered, a row's frames ``(n, 3, 256, 256)`` batch by batch."""


@dataclass(frozen=True)
class Row:
    """One way to codes, measured on some of the held-out frames."""

    name: str
    """``mean_face``, ``encoder``, ``encoder_<N>_steps`` or ``optimum``."""
    label: str
    """For people."""
    indices: tuple[int, ...]
    """The frames it was measured on."""
    measures: Measures
    """``(n,)`` per metric, in the order of ``indices``."""
    metrics: dict[str, float]
    """Name to mean."""

    def at(self, indices: Sequence[int], frames: HeldOutFrames) -> Row:
        """The same on some of its frames."""
        places = [self.indices.index(i) for i in indices]
        return make_row(self.name, self.label, indices, {n: v[places] for n, v in self.measures.items()}, frames)


@dataclass(frozen=True)
class Rows:
    """The table: the encoder and the mean face on all frames, and every row on the fixed list."""

    all_frames: tuple[Row, ...]
    fixed: tuple[Row, ...]
    """Empty where nothing was optimised."""

    def closed(self, metric: str = "psnr") -> dict[str, float]:
        """By row, how much of the way from the mean face to the optimum it goes; empty without an optimum."""
        if not self.fixed:
            return {}
        low, high = self.fixed[0].metrics[metric], self.fixed[-1].metrics[metric]
        return {row.name: (row.metrics[metric] - low) / (high - low) for row in self.fixed[1:-1]}


def make_row(name: str, label: str, indices: Sequence[int], measures: Measures, frames: HeldOutFrames) -> Row:
    """A row with its means."""
    people = [frames.people[i] for i in indices]
    return Row(name, label, tuple(indices), measures, means(measures, people))


@dataclass(frozen=True)
class Optimise:
    """What the rows with optimised codes need."""

    refine: RefineConfig
    """Settings of the refinement that begins at the encoder's codes."""
    perceptual: Callable[[Literal["vgg", "alex"]], Perceptual]
    """LPIPS for the loss, by its backbone."""
    folder: Path
    """Where optimised frames are kept."""


def evaluate_frame_encoder(
    encoder: FrameEncoderNet,
    config_sha256: str,
    generator: Generator,
    frames: HeldOutFrames,
    judges: EvaluationJudges,
    config: EvaluationConfig,
    optimise: Optimise | None = None,
    device: str = "cpu",
    report: Report = silent,
    cancelled: Cancelled = never,
    see: See = lambda row, indices, shown: None,
) -> tuple[Evaluation, Rows]:
    """Measure ``encoder`` on ``frames``, from the generator's full output shrunk to 256 px.

    ``config_sha256`` is of the config of its model folder, by which the gate knows it besides its weights.
    The evaluation is what the gate judges: the encoder alone, on all frames. ``optimise`` adds the rows that
    take long. Raises ``CancelledError`` when asked to stop; optimised frames are kept.
    """
    run = _Run(encoder, generator, frames, FrameMeter(frames, judges, device, config.batch), config,
               device, report, cancelled, see)  # fmt: skip
    everything = range(len(frames))
    rows = (
        run.measured("mean_face", "mean face", everything, run.mean_codes),
        run.measured("encoder", "encoder", everything, run.encode),
    )
    evaluation = Evaluation(
        model_sha256=run.encoder_sha256,
        config_sha256=config_sha256,
        generator_sha256=generator.sha256,
        data_hash=data_hash_of(frames, config.lpips_net),
        metrics=rows[1].metrics,
        higher_is_better=dict(HIGHER_IS_BETTER),
        frames=len(frames),
        clips=len(set(frames.clips)),
        created=utc_now(),
    )
    if optimise is None:
        return evaluation, Rows(rows, ())
    chosen = frames.spread(config.optimised_frames)
    short = replace(optimise.refine, steps=config.steps)
    optimised = (
        run.optimised(f"encoder_{config.steps}_steps", f"encoder + {config.steps} steps", chosen,
                      run.encode, run.encoder_sha256, short, optimise),
        run.optimised("optimum", f"optimum ({config.optimum.steps} steps)", chosen,
                      run.mean_codes, "mean", config.optimum, optimise),
    )  # fmt: skip
    return evaluation, Rows(rows, (*(row.at(chosen, frames) for row in rows), *optimised))


def data_hash_of(frames: HeldOutFrames, lpips_net: str, *more: str) -> str:
    """Of the frames and of what judges them: values of another net do not compare."""
    return hashlib.sha256(" ".join([frames.data_hash, lpips_net, *more]).encode()).hexdigest()


class _Run:
    """One evaluation: what its rows share."""

    def __init__(
        self,
        encoder: FrameEncoderNet,
        generator: Generator,
        frames: HeldOutFrames,
        meter: FrameMeter,
        config: EvaluationConfig,
        device: str,
        report: Report,
        cancelled: Cancelled,
        see: See,
    ) -> None:
        self.see = see
        self.encoder, self.generator, self.frames, self.meter = encoder, generator, frames, meter
        self.config, self.device, self.report, self.cancelled = config, device, report, cancelled
        self.encoder_sha256 = weights_sha256(encoder.state_dict())

    def mean_codes(self, indices: Sequence[int]) -> Tensor:
        mean = self.generator.w_mean.to(self.device)
        return mean.expand(len(indices), self.generator.num_ws, -1)

    @torch.no_grad()
    def encode(self, indices: Sequence[int]) -> Tensor:
        batch = self.config.batch
        parts = [self.encoder(self.meter.targets(some))[0] for some in _batches(indices, batch)]
        codes = torch.cat(parts)
        wanted = (self.generator.num_ws, self.generator.w_dim)
        if codes.shape[1:] != wanted:
            raise BadInputError(
                f"the encoder answers codes {tuple(codes.shape[1:])}, the generator takes {wanted}; "
                "evaluate it with the generator it belongs to"
            )
        return codes

    def measured(self, name: str, label: str, indices: Sequence[int], codes: Codes) -> Row:
        """Render the codes of all frames, batch by batch, and measure what is shown."""
        progress = Meter(f"measure {label}", len(indices), self.report, self.cancelled)
        parts = []
        for some in _batches(indices, self.config.batch):
            with torch.no_grad():
                shown = self.generator.synthesize(codes(some), resolution=SIDE)
            self.see(name, some, shown)
            parts.append(self.meter.measure(some, shown))
            progress.advance(len(some))
        return make_row(name, label, indices, joined(parts), self.frames)

    def optimised(
        self,
        name: str,
        label: str,
        indices: Sequence[int],
        start: Codes,
        start_name: str,
        refine: RefineConfig,
        optimise: Optimise,
    ) -> Row:
        """Optimise the codes of all frames, or take them from where they are kept, and measure them."""
        progress = Meter(f"optimise {label}", len(indices), self.report, self.cancelled)
        nets = ChosenNets(optimise.perceptual(refine.lpips_net), self.meter.judges.identity)
        found = optimised_codes(
            self.frames, indices, start(indices), start_name, self.generator,
            nets, refine, self.config.precision, optimise.folder,
            self.config.optimise_batch, progress.advance,
        ).ws  # fmt: skip
        place = {index: number for number, index in enumerate(indices)}
        return self.measured(name, label, indices, lambda some: found[[place[i] for i in some]])


def _batches(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]
