"""Encoders on video: frames that follow each other, so that jitter and time are told too (FrEN/ViEN, Table 1)."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from datamodules.shards import to_tensor
from modules.generators.protocol import Generator
from modules.generators.rows import coarse_rows
from modules.losses.perceptual import PerceptualLoss
from modules.metrics.distribution import frechet_distance, kernel_distance_interval
from modules.metrics.face import landmark_mse
from modules.metrics.fidelity import lpips_distance, psnr, ssim
from modules.metrics.temporal import (
    REACH,
    Alignment,
    NeighbourFlows,
    accumulated_errors,
    temporal_consistency,
)
from modules.perception.flow import DenseFlow
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import FaceMesh
from services.evaluation.frames import SIDE, HeldOutFrames
from services.progress import Cancelled, Meter, Report, never, silent

LEAST = 2 * REACH + 1
"""Frames that a clip must have for one TC."""
COARSE = 32
"""Pixels: rows that modulate features up to this side are coarse, the same as ViEN's in ``params.yaml``."""


METRICS = (
    "psnr", "ssim", "lpips", "frechet", "kernel", "kernel_low", "kernel_high", "lm", "lm_second",
    "identity_distance", "tc", "ms_per_frame",
)  # fmt: skip
"""Of a row; only the first two are better the higher they are."""


@dataclass(frozen=True)
class VideoEvaluationConfig:
    """Section ``evaluation.video``: which rows the table has, and how much video each is measured on."""

    encoders: Mapping[str, str]
    """Label of a row to its model folder; rows of folders that are not there are left out."""
    frames_per_clip: int
    """Frames of each test clip, one after the other."""
    judge_every: int
    """TC takes every frame; of the others it is every so manieth, since neighbours are nearly the same."""
    smoothing_sigma: float
    """Frames; of the Gaussian over the fine codes of the first encoder (Fig. 3, third column). 0: no such row."""
    optimised_clips: int
    """Clips of the row that optimises every frame for itself."""
    optimised_frames: int
    """Frames of each of them, at least 7."""
    inception: str
    """Weights of FID's Inception; empty takes VGG's features, and the distances are named for them."""


class VideoEncoding(NamedTuple):
    """Codes of the frames of a clip."""

    ws: Tensor
    """``(T, num_ws, w_dim)``."""
    seconds: tuple[float, ...] = ()
    """What frames took that were measured; none where time means nothing."""


@dataclass(frozen=True)
class CodeSource:
    """One way from a clip to codes: a row of the table."""

    name: str
    """For files."""
    label: str
    """For people."""
    encode: Callable[[HeldOutFrames], VideoEncoding]
    """The frames of one clip, in order."""


class StreamingEncoder(Protocol):
    """Takes frames in order and hands on its state."""

    def __call__(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """``(N, 3, 256, 256)`` in [-1, 1] to ``(N, num_ws, w_dim)`` and the state for what follows."""
        ...


@dataclass(frozen=True)
class VideoJudges:
    """The frozen networks that are asked, and the flow that all rows share."""

    mesh: FaceMesh
    """Landmarks."""
    second_landmarks: Callable[[Tensor], Tensor]
    """``(N, 3, 256, 256)`` to ``(N, 68, 2)`` by a net that is in no loss."""
    second_identity: Callable[[Tensor], Tensor]
    """The same to embeddings ``(N, D)`` whose distance parts persons, by a net that is in no loss."""
    perceptual: PerceptualLoss
    """LPIPS."""
    features: Callable[[Tensor], Tensor]
    """``(N, 3, 256, 256)`` to ``(N, D)``: what the distances of distributions compare."""
    features_name: str
    """``inception`` or ``vgg``."""
    flow: DenseFlow
    """Of the input video."""


@dataclass(frozen=True)
class VideoRow:
    """What one way to codes reaches."""

    name: str
    label: str
    metrics: dict[str, float]
    """``psnr`` dB, ``ssim``, ``lpips``, ``frechet``, ``kernel`` with ``kernel_low`` and ``kernel_high``, ``lm``
    square pixels at 256 and ``lm_second`` the same by the second landmark net, ``identity_distance`` of the second
    identity net, ``tc``, ``ms_per_frame`` of finding the codes (NaN where there is nothing to find)."""


class _Looked(NamedTuple):
    """What the nets say of frames or of their reconstructions, ``(n, ...)``."""

    points: Tensor
    second_points: Tensor
    embeddings: Tensor


@dataclass
class _Seen:
    """What was measured of one row so far."""

    values: defaultdict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    features: list[Tensor] = field(default_factory=list)
    tc: dict[str, Tensor] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


class VideoMeter:
    """Measures ways to codes on clips, every one on the same frames and by the same flow."""

    def __init__(
        self,
        generator: Generator,
        judges: VideoJudges,
        judge_every: int,
        batch: int,
        device: str = "cpu",
        report: Report = silent,
        cancelled: Cancelled = never,
    ) -> None:
        """``batch`` frames are rendered and looked at together."""
        self.generator, self.judges, self.device = generator, judges, device
        self.judge_every, self.batch = judge_every, batch
        self.report, self.cancelled = report, cancelled

    @torch.no_grad()
    def measure(self, clips: Sequence[HeldOutFrames], sources: Sequence[CodeSource]) -> tuple[VideoRow, ...]:
        """The input itself, which has a TC alone, and a row per source. Raises ``CancelledError`` if asked to."""
        total = len(sources) * sum(len(clip) for clip in clips)
        progress = Meter("measure video", total, self.report, self.cancelled)
        seen = {source.name: _Seen() for source in sources}
        real, groups, still = [], [], {}
        for number, clip in enumerate(clips):
            images = to_tensor(clip.pixels).to(self.device)
            judged = images[:: self.judge_every]
            wanted, features = self._looked(judged), self._features(judged)
            # Held, 3 MB a frame of 256 px: every row of the table goes through them.
            alignment = list(NeighbourFlows(clip.pixels, self.judges.flow))
            name = f"{number}: {clip.clips[0]}"
            still[name] = temporal_consistency(images, alignment).cpu()
            real.append(features)
            groups.append(torch.full((len(judged),), number))
            for source in sources:
                encoding = source.encode(clip)
                shown = self.render(encoding.ws)
                self._add(seen[source.name], name, shown, judged, wanted, alignment)
                seen[source.name].seconds += encoding.seconds
                progress.advance(len(clip))
        reference, clip_of = torch.cat(real), torch.cat(groups)
        rows = [_row(source, seen[source.name], reference, clip_of) for source in sources]
        return (_input_row(still), *rows)

    @torch.no_grad()
    def render(self, ws: Tensor) -> Tensor:
        """``(T, num_ws, w_dim)`` to frames ``(T, 3, 256, 256)``, clamped; a code that stays is rendered once."""
        different, place = torch.unique_consecutive(ws, dim=0, return_inverse=True)
        parts = [self.generator.synthesize(part, resolution=SIDE) for part in torch.split(different, self.batch)]
        return torch.cat(parts).float().clamp(-1, 1)[place]

    @torch.no_grad()
    def error_maps(self, clip: HeldOutFrames, source: CodeSource) -> tuple[Tensor, Tensor]:
        """Of one clip, frames ``(T, 3, 256, 256)`` and the error maps of Fig. 3 ``(T - 6, 256, 256)``."""
        shown = self.render(source.encode(clip).ws)
        return shown, accumulated_errors(shown, NeighbourFlows(clip.pixels, self.judges.flow))

    def _add(
        self, seen: _Seen, clip: str, shown: Tensor, targets: Tensor, wanted: _Looked, alignment: Alignment
    ) -> None:
        seen.tc[clip] = temporal_consistency(shown, alignment).cpu()
        judged = shown[:: self.judge_every]
        for ours, theirs in zip(torch.split(judged, self.batch), torch.split(targets, self.batch), strict=True):
            seen.values["psnr"].append(psnr(ours, theirs))
            seen.values["ssim"].append(ssim(ours, theirs))
            seen.values["lpips"].append(lpips_distance(self.judges.perceptual, ours, theirs))
        found = self._looked(judged)
        seen.values["lm"].append(landmark_mse(found.points, wanted.points))
        seen.values["lm_second"].append(landmark_mse(found.second_points, wanted.second_points))
        seen.values["identity_distance"].append((found.embeddings - wanted.embeddings).norm(dim=1))
        seen.features.append(self._features(judged))

    def _looked(self, images: Tensor) -> _Looked:
        judges = self.judges
        nets = (
            lambda part: landmarks_68(judges.mesh(part).points),
            judges.second_landmarks,
            judges.second_identity,
        )
        return _Looked(*(torch.cat([net(part) for part in torch.split(images, self.batch)]) for net in nets))

    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self.judges.features(part).cpu() for part in torch.split(images, self.batch)])


def mean_face(generator: Generator, device: str = "cpu") -> CodeSource:
    """The answer that looks at nothing."""
    mean = generator.w_mean.to(device)
    return CodeSource(
        "mean_face",
        "mean face",
        lambda clip: VideoEncoding(mean.expand(len(clip), generator.num_ws, -1).contiguous()),
    )


def streamed(name: str, label: str, encoder: StreamingEncoder, device: str = "cpu") -> CodeSource:
    """An encoder, one frame at a time with its state, timed; a clip's first frame warms it up and is not."""

    @torch.no_grad()
    def encode(clip: HeldOutFrames) -> VideoEncoding:
        images = to_tensor(clip.pixels).to(device)
        codes, seconds, state = [], [], None
        for frame in images:
            began = time.perf_counter()
            ws, state = encoder(frame[None], state)
            if images.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            codes.append(ws)
        return VideoEncoding(torch.cat(codes), tuple(seconds[1:]))

    return CodeSource(name, label, encode)


def smoothed(source: CodeSource, sigma: float, generator: Generator) -> CodeSource:
    """The fine rows of another source's codes, averaged over time by a Gaussian of ``sigma`` frames.

    FrEN/ViEN, section 3.2 and Fig. 3, third column. It looks at frames to come, so it has no time per frame.
    """
    fine = fine_rows(generator)

    def encode(clip: HeldOutFrames) -> VideoEncoding:
        ws = source.encode(clip).ws.clone()
        averaged = gaussian_filter1d(ws[:, fine].cpu().numpy(), sigma, axis=0, mode="nearest")
        ws[:, fine] = torch.from_numpy(averaged).to(ws)
        return VideoEncoding(ws)

    return CodeSource(f"{source.name}_smoothed", f"{source.label}, fine codes smoothed", encode)


def fine_rows(generator: Generator) -> list[int]:
    """Rows of the codes that are not coarse: 8 to 15 of MobileStyleGAN's 16, 8 to 17 of StyleGAN2's 18."""
    return list(range(coarse_rows(generator.layers, COARSE), generator.num_ws))


def _input_row(tc: Mapping[str, Tensor]) -> VideoRow:
    """What the flow does not explain of the input itself: no reconstruction can be expected to lie below."""
    metrics = dict.fromkeys(METRICS, math.nan) | {"tc": float(torch.cat(list(tc.values())).double().mean())}
    return VideoRow("input", "the input itself", metrics)


def _row(source: CodeSource, seen: _Seen, reference: Tensor, clip_of: Tensor) -> VideoRow:
    metrics = {name: float(torch.cat(parts).double().mean()) for name, parts in seen.values.items()}
    features = torch.cat(seen.features)
    kernel = kernel_distance_interval(features, reference, clip_of, clip_of)
    metrics |= {
        "frechet": float(frechet_distance(features, reference)),
        "kernel": float(kernel.value),
        "kernel_low": float(kernel.low),
        "kernel_high": float(kernel.high),
        "tc": float(torch.cat(list(seen.tc.values())).double().mean()),
        "ms_per_frame": 1000 * float(np.median(seen.seconds)) if seen.seconds else math.nan,
    }
    return VideoRow(source.name, source.label, metrics)
