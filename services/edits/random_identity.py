"""The edit ``random_identity``: made persons, as strong as it takes to hide others, landmarks moved the least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.random_identity import RandomIdentity, beside
from modules.generators import Generator
from modules.perception.identity import IdentityNet
from services.edits.appearance import AppearanceJudge
from services.edits.appearance_measure import Render, Seen, landmark_shift

NAME = "random_identity"
WHOLE = 1.0
"""Strength at which it is to hide who someone is."""
_END = 0.99
"""Of the range of a picture's values, from which on they are black or full."""


@dataclass(frozen=True)
class RandomIdentitySettings:
    """The edit ``random_identity``."""

    unit: str
    """What a user reads."""
    people: int
    """Made persons to choose from."""
    chosen: int
    """Of these, how many are kept: those under which landmarks move the least."""
    tried_on: int
    """Generator samples on which each is tried."""
    tried_on_per_clip: int
    """Frames of each validation person's clip on whose codes each is tried as well: there fog shows."""
    rows: tuple[float, ...]
    """Share of δw for each row of the codes; rows after these stay."""
    keeps: tuple[str, ...]
    """Edits of ``assets/directions``: what their vectors do, the made persons do not."""
    least_share: float
    """Of the span of these edits' unit vectors, all rows together, the singular values from which it counts."""
    lengths: tuple[float, ...]
    """Of δw, in lengths of the mean person: each is tried at all of them, rising, and none goes further."""
    likeness: float
    """Mean likeness to the samples, tried on, that is left of each at the length it is given."""
    upper: float
    """Largest strength."""
    burnt: float
    """Share of a picture's values that may be driven to black or full colour: beyond it a person is not kept."""
    detail: float
    """Share of its fine detail that each face tried on is to keep, or a person is fog, not kept; 0 asks none."""
    most_detail: float
    """Share of its fine detail that no face tried on may go beyond, or a person is torn, not kept; 0 asks none."""
    measured: tuple[float, ...]
    """Strengths at which it is measured."""
    seeds: tuple[int, ...]
    """Seeds that it is measured with."""
    same_person: float
    """Likeness from which two pictures count as one person's."""

    def __post_init__(self) -> None:
        if WHOLE not in self.measured:
            raise BadInputError(f"stylespace.random_identity.measured must name {WHOLE:g}, which the gate reads")
        if not 0 < self.chosen <= self.people:
            raise BadInputError(
                f"stylespace.random_identity.chosen must be 1 to people ({self.people}), got {self.chosen}"
            )
        if self.tried_on < 1 or not -1 < self.likeness < 1:
            raise BadInputError(
                "stylespace.random_identity needs tried_on of 1 or more and a likeness between -1 and 1, got "
                f"{self.tried_on} and {self.likeness}"
            )
        if not self.lengths or list(self.lengths) != sorted({*self.lengths} - {0.0}) or self.lengths[0] < 0:
            raise BadInputError(
                f"stylespace.random_identity.lengths must rise from above 0, got {list(self.lengths)}"
            )


def random_identity(
    settings: RandomIdentitySettings,
    generator: Generator,
    codes: Tensor,
    directions: Mapping[str, Direction],
    tried_on: Tensor,
    render: Render,
    judge: AppearanceJudge,
    identity: IdentityNet,
    say: Callable[[str], None] = lambda line: None,
) -> RandomIdentity:
    """The edit, from ``codes`` ``(N, num_ws, w_dim)`` of one z each, tried on codes of other samples.

    Raises ``BadInputError`` where ``rows`` do not fit the generator, ``directions`` lack what is kept, or too few
    of the made persons hide those that they are tried on and leave them faces.
    """
    if len(settings.rows) > generator.num_ws:
        raise BadInputError(
            f"stylespace.random_identity.rows has {len(settings.rows)} numbers, "
            f"the generator {generator.num_ws} rows"
        )
    if len(codes) < settings.people:
        raise BadInputError(
            f"stylespace.random_identity.people are {settings.people} of spread_codes, which are {len(codes)}"
        )
    missing = [name for name in settings.keeps if name not in directions]
    if missing:
        raise BadInputError(
            f"stylespace.random_identity.keeps names {', '.join(missing)}, which assets/directions lacks; "
            "train them with 'stylereel train directions', or leave them out"
        )
    rows = torch.tensor((*settings.rows, *[0.0] * (generator.num_ws - len(settings.rows))))
    moved = rows != 0
    vectors = [directions[name].vector[moved] for name in settings.keeps]
    apart = codes[:, 0].cpu() - generator.w_mean.cpu()
    people = apart[: settings.people]
    if vectors:
        people = beside(people, torch.cat(vectors), settings.least_share)
    people = people * (apart.norm(dim=1).mean() / people.norm(dim=1, keepdim=True).clamp_min(1e-9))
    whole = RandomIdentity(NAME, settings.unit, people, rows, max(settings.lengths), generator.sha256)
    tries = _tries(whole, settings, tried_on, render, judge, identity, say)
    fits = [_Fit.of(settings.lengths, *one, settings.likeness) for one in tries]
    # In the order of the draw, so that the seeds that are measured are not those of the least moved.
    order = sorted(np.argsort([fit.shift for fit in fits], kind="stable")[: settings.chosen].tolist())
    found = sum(np.isfinite(fit.shift) for fit in fits)
    if found < settings.chosen:
        raise BadInputError(
            f"only {found} of {len(fits)} made persons hide a face and leave it one, {settings.chosen} are asked: "
            "raise stylespace.random_identity.people, likeness, lengths or most_detail, or lower detail"
        )
    lengths = [fits[number].length for number in order]
    shifts = [fits[number].shift for number in order]
    say(
        f"{NAME}: {found} of {len(fits)} made persons hide a face and leave it one; of those kept lengths are "
        f"{min(lengths):.2f} to {max(lengths):.2f}, landmarks move by {min(shifts):.1f} to {max(shifts):.1f} %"
    )
    people = (people[order] * torch.tensor(lengths)[:, None]).half().float()
    return RandomIdentity(NAME, settings.unit, people, rows, settings.upper, generator.sha256)


class _Fit(NamedTuple):
    """How far a made person is moved to, and what that does."""

    length: float
    shift: float
    """Of the landmarks, in % of the eyes; NaN where no length hides, or a face is lost by then."""

    @classmethod
    def of(
        cls, lengths: Sequence[float], likeness: Sequence[float], shifts: Sequence[float], wanted: float
    ) -> _Fit:
        """Where the likeness has fallen to what is wanted, straight lines between what was tried and nothing."""
        at, alike, moved = [0.0, *lengths], [1.0, *likeness], [0.0, *shifts]
        steps = zip(pairwise(at), pairwise(alike), pairwise(moved), strict=False)
        for (a, b), (high, low), (less, more) in steps:
            if low <= wanted:
                share = (high - wanted) / (high - low)
                return cls(a + share * (b - a), less + share * (more - less))
        return cls(np.nan, np.nan)


def _tries(
    edit: RandomIdentity,
    settings: RandomIdentitySettings,
    tried_on: Tensor,
    render: Render,
    judge: AppearanceJudge,
    identity: IdentityNet,
    say: Callable[[str], None],
) -> list[tuple[list[float], list[float]]]:
    """Of each person the mean likeness and shift of landmarks, length by length until it hides or spoils a face.

    The shift is NaN where the face is not one any more, its colours are driven out of their range, or it is fog.
    """
    edits, tries = EditSet([edit]), []
    start = Seen.of(render(tried_on, edits, [], 0), judge, identity)
    if not torch.isfinite(start.look.measures["yaw"]).all():
        raise BadInputError(
            "what made persons are tried on shows no face: take another stylespace.seed, or tried_on_per_clip 0"
        )
    for number in range(len(edit.people)):
        likeness, shifts = [], []
        for length in settings.lengths:
            pictures = render(tried_on, edits, [EditRequest(NAME, length)], number)
            with torch.no_grad():
                look = judge(pictures)
                alike = (identity.embed(pictures) * start.embedding).sum(1)
            # No face is seen where a measure is NaN; the points are numbers even then.
            whole = bool(torch.isfinite(look.measures["yaw"]).all())
            whole &= float((_burnt(pictures) - _burnt(start.pictures)).mean()) <= settings.burnt
            if settings.detail or settings.most_detail:
                share = fine_detail(pictures) / fine_detail(start.pictures)
                whole &= bool((share >= settings.detail).all())
                whole &= bool((share <= (settings.most_detail or math.inf)).all())
            likeness.append(float(alike.mean()))
            shifts.append(float(landmark_shift(start.look, look).mean()) if whole else np.nan)
            if not whole or likeness[-1] <= settings.likeness:
                break
        tries.append((likeness, shifts))
        if (number + 1) % 32 == 0:
            say(f"tried {number + 1} of {len(edit.people)} made persons")
    return tries


def fine_detail(pictures: Tensor) -> Tensor:
    """``(N,)`` root mean square of the Laplacian in the middle of ``(N, 3, r, r)``, where a crop has its face."""
    side = pictures.shape[-1]
    grey = pictures.mean(1)[:, side // 4 : 13 * side // 16, side // 4 : 3 * side // 4]
    across = grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2] + grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1]
    return (across - 4 * grey[:, 1:-1, 1:-1]).square().mean((1, 2)).sqrt()


def _burnt(pictures: Tensor) -> Tensor:
    """``(N,)`` share of the values of ``(N, 3, r, r)`` in [-1, 1] that lie at an end of the range."""
    return (pictures.abs() >= _END).float().mean((1, 2, 3))
