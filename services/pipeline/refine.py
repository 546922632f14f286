"""W+ optimisation: codes moved until the generator shows the crop itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from modules.generators.protocol import Generator
from modules.perception.identity import FaceSight


class Perceptual(Protocol):
    """LPIPS, or what stands for it."""

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What is compared of ``(N, 3, H, W)`` in [-1, 1]."""
        ...

    def __call__(self, images: Tensor, target: tuple[Tensor, ...]) -> Tensor:
        """Distances ``(N,)`` of images to what ``features`` gave for others."""
        ...


class Embeds(Protocol):
    """A net that tells who a face is; ``IdentityNet`` is one. Crops are ``(N, 3, H, W)`` in [-1, 1]."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of length 1."""
        ...

    def look(self, images: Tensor) -> FaceSight:
        """The same without a gradient, and whether there is a face."""
        ...


class LossNets(Protocol):
    """What a reconstruction is compared through; ``services.pipeline.models.Judges`` are some."""

    @property
    def perceptual(self) -> Perceptual:
        """LPIPS."""
        ...

    @property
    def identity(self) -> Embeds:
        """Who it is; not asked for where its weight is 0."""
        ...


@dataclass(frozen=True)
class RefineConfig:
    """How codes are optimised."""

    steps: int
    """Per frame, where the user does not say."""
    learning_rate: float
    """Of Adam: of what a shot shares, and, falling to 0 along half a cosine, of frames that follow no other."""
    l2_weight: float
    """Of the mean squared error."""
    lpips_weight: float
    """Of LPIPS."""
    lpips_net: Literal["vgg", "alex"]
    """Backbone of LPIPS."""
    identity_weight: float
    """Of 1 less the identity similarity, as in the encoder's losses, where the frame's face is seen: few steps
    bring colours and edges nearer, not the person."""
    anchor_weight: float
    """Of the mean squared distance to the encoder's codes, in units of W: keeps them editable."""


@dataclass(frozen=True)
class FollowConfig:
    """How the codes of frames that follow one another are optimised.

    First that by which all frames of a shot lie beside the encoder's codes, on some of them; then each frame, from
    where the one before ended.
    """

    steps: int
    """Per frame, where the user does not say; 0 takes the encoder's codes as they are."""
    shared_frames: int
    """What all frames of a shot share is optimised on at most so many, spread over it."""
    shared_steps: int
    """Of that, for each shot that shows the face; 0 begins at the encoder's codes, without ``first_steps``."""
    first_steps: int
    """The first frame of a shot that begins there takes at least so many."""
    learning_rate: float
    """Of Adam, of later frames: constant."""
    betas: tuple[float, float]
    """How long it remembers the gradients and their squares, of the frames before as well."""


@dataclass(frozen=True)
class Moments:
    """What Adam remembers of a frame, for the frame that follows it."""

    mean: Tensor
    """``(N, num_ws, w_dim)``: of the gradients."""
    square: Tensor
    """The same of their squares."""
    steps: Tensor
    """``()``: how many there were."""


@dataclass(frozen=True)
class Refined:
    """Codes after optimisation."""

    ws: Tensor
    """``(N, num_ws, w_dim)``."""
    before: Tensor
    """``(N,)``: the loss of the codes at the start."""
    after: Tensor
    """``(N,)``: the loss of these codes; of a frame that follows another, of those that were last looked at."""
    moments: Moments | None = None
    """For the frame after a frame that followed another."""


def refine(
    ws: Tensor,
    targets: Tensor,
    generator: Generator,
    nets: LossNets,
    config: RefineConfig,
    steps: int,
    check: Callable[[], None] = lambda: None,
    follow: FollowConfig | None = None,
    moments: Moments | None = None,
    encoded: Tensor | None = None,
) -> Refined:
    """Minimise L2 + LPIPS + identity + anchor over ``ws`` ``(N, num_ws, w_dim)`` with Adam, each frame for itself.

    ``targets`` are crops ``(N, 3, r, r)`` in [-1, 1]; the generator's output is compared at their size. The
    best codes seen are returned, so the loss never rises. ``check`` is called in every step and may raise.

    A frame that follows another, as ``follow`` says, begins near its end and has few steps: Adam goes on with the
    ``moments`` of that frame, for its own first steps would go equally far along every coordinate, whatever the
    gradient. It is anchored at ``encoded``, the encoder's codes of the frame itself: anchored at where it begins,
    the frames of a long clip would leave the encoder's codes step by step. Its last step is taken unseen where
    the loss was still falling: another look costs half a step.
    """
    start = ws.detach()
    losses = _losses(start if encoded is None else encoded.detach(), targets, generator, nets, config)
    with torch.enable_grad():
        codes = start.clone().requires_grad_()
        optimizer = _optimizer(codes, config, follow, moments)
        best, best_loss, first = start.clone(), torch.full((len(ws),), torch.inf, device=ws.device), None
        seen_to_the_end = follow is None or not steps
        falling = torch.zeros(len(ws), dtype=torch.bool, device=ws.device)
        for step in range(steps + seen_to_the_end):
            check()
            last = step == steps
            with torch.set_grad_enabled(not last):
                loss = losses(codes)
            value = loss.detach()
            first = value if first is None else first
            falling = better = value < best_loss
            best = torch.where(better[:, None, None], codes.detach(), best)
            best_loss = torch.where(better, value, best_loss)
            if last:
                break
            if follow is None:
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert first is not None
    if not seen_to_the_end:
        unseen = falling & codes.detach().isfinite().flatten(1).all(1)
        best = torch.where(unseen[:, None, None], codes.detach(), best)
    kept = optimizer.state.get(codes) if follow else None
    left = Moments(kept["exp_avg"], kept["exp_avg_sq"], kept["step"]) if kept else None
    return Refined(best, first, best_loss, left)


def refine_shared(
    encoded: Tensor,
    targets: Tensor,
    generator: Generator,
    nets: LossNets,
    config: RefineConfig,
    follow: FollowConfig,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """One offset ``(1, num_ws, w_dim)`` that brings the encoder's codes of K frames nearest to all of them.

    ``encoded`` ``(K, num_ws, w_dim)`` and ``targets`` ``(K, 3, r, r)`` in [-1, 1] are frames of one face in one
    shot. Each of ``follow.shared_steps`` of Adam looks at one of them, in turn, for the loss of ``refine``: one is
    rendered at a time. A loss that is no number ends it, with the offset of the last that was one. The frame that
    begins there has an Adam of its own: with the moments of these steps its few would be too small.
    """
    losses = [
        _losses(ws, target, generator, nets, config)
        for ws, target in zip(torch.split(encoded.detach(), 1), torch.split(targets, 1), strict=True)
    ]
    with torch.enable_grad():
        offset = torch.zeros_like(encoded[:1], requires_grad=True)
        good = offset.detach().clone()
        optimizer = torch.optim.Adam([offset], lr=config.learning_rate, betas=follow.betas)
        for step in range(follow.shared_steps):
            check()
            frame = step % len(encoded)
            optimizer.zero_grad(set_to_none=True)
            loss = losses[frame](encoded[frame, None] + offset).sum()
            if not bool(torch.isfinite(loss)):
                return good
            good = offset.detach().clone()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return offset.detach() if bool(torch.isfinite(offset).all()) else good


def _losses(
    anchored: Tensor, targets: Tensor, generator: Generator, nets: LossNets, config: RefineConfig
) -> Callable[[Tensor], Tensor]:
    """From codes ``(N, num_ws, w_dim)`` to how far ``(N,)`` they are from what is wanted."""
    if targets.ndim != 4 or len(targets) != len(anchored) or targets.shape[2] != targets.shape[3]:
        raise ValueError(f"targets must be ({len(anchored)}, 3, r, r), got {tuple(targets.shape)}")
    with torch.no_grad():
        wanted = nets.perceptual.features(targets) if config.lpips_weight else ()
        person = nets.identity.look(targets) if config.identity_weight else None

    def losses(codes: Tensor) -> Tensor:
        shown = generator.synthesize(codes, resolution=targets.shape[-1])
        l2 = (shown - targets).square().flatten(1).mean(1)
        anchor = (codes - anchored).square().flatten(1).mean(1)
        seen = shown.clamp(-1, 1)
        loss = config.l2_weight * l2 + config.anchor_weight * anchor
        if config.lpips_weight:
            loss = loss + config.lpips_weight * nets.perceptual(seen, wanted)
        if person is not None:
            apart = 1.0 - (nets.identity.embed(seen) * person.embedding).sum(1)
            loss = loss + config.identity_weight * person.seen * apart
        return loss

    return losses


def _optimizer(
    codes: Tensor, config: RefineConfig, follow: FollowConfig | None, moments: Moments | None
) -> torch.optim.Adam:
    if follow is None:
        return torch.optim.Adam([codes], lr=config.learning_rate)
    optimizer = torch.optim.Adam([codes], lr=follow.learning_rate, betas=follow.betas)
    if moments is not None:
        kept = {"step": moments.steps, "exp_avg": moments.mean, "exp_avg_sq": moments.square}
        optimizer.state[codes] = {name: value.clone() for name, value in kept.items()}
    return optimizer
