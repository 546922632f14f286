"""Directions from labelled codes: fit boundaries, part them from each other and by layers, set their units.

InterFaceGAN's way (Shen et al. 2020, sections 3.2 and 3.3) with three changes: attributes with a number are
regressed, codes may differ between groups of rows, and each direction is parted from all others at once along what
the codes themselves do, and then once more by what renderings were measured to do.

Codes are ``ws`` ``(N, num_ws, w_dim)``; features are the means over groups of rows, ``(N, groups * w_dim)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RowGroups:
    """Rows of ``ws`` that are fitted and moved together."""

    starts: tuple[int, ...]
    """First row of each group, rising, the first of them 0."""
    num_ws: int
    """Number of rows in all."""

    def __post_init__(self) -> None:
        ends = (*self.starts[1:], self.num_ws)
        if not self.starts or self.starts[0] != 0 or any(a >= b for a, b in zip(self.starts, ends, strict=True)):
            raise ValueError(f"groups must start at 0 and rise below {self.num_ws}, got {self.starts}")

    def features(self, ws: NDArray[np.floating]) -> Array:
        """``(N, num_ws, w_dim)`` to ``(N, groups * w_dim)``: the mean code of each group."""
        if ws.ndim != 3 or ws.shape[1] != self.num_ws:
            raise ValueError(f"codes must be (N, {self.num_ws}, w_dim), got {ws.shape}")
        ends = (*self.starts[1:], self.num_ws)
        means = [ws[:, a:b].astype(np.float64).mean(1) for a, b in zip(self.starts, ends, strict=True)]
        return np.concatenate(means, axis=1)

    def rows(self, feature: Array) -> Array:
        """A direction over features ``(groups * w_dim,)`` to one over codes ``(num_ws, w_dim)``."""
        counts = np.diff((*self.starts, self.num_ws))
        return np.repeat(feature.reshape(len(self.starts), -1), counts, axis=0)

    def allowed(self, rows: tuple[int, int], w_dim: int) -> NDArray[np.bool_]:
        """``(groups * w_dim,)``: the features of the groups that lie whole in rows ``[first, last)``."""
        ends = (*self.starts[1:], self.num_ws)
        inside = [a >= rows[0] and b <= rows[1] for a, b in zip(self.starts, ends, strict=True)]
        if not any(inside):
            raise ValueError(f"no group of rows {self.starts} lies in {rows}")
        return np.repeat(inside, w_dim)


@dataclass(frozen=True)
class Boundary:
    """How an attribute depends on the features."""

    normal: Array
    """``(D,)``: change of the attribute per change of the features; of the log odds where it is a yes or no."""
    score: float
    """On codes that were not fitted: share of the variance that is explained, or of right answers."""


def fit_regression(features: Array, values: Array, ridge: float, held_out: int) -> Boundary:
    """Ridge regression of an attribute ``(N,)`` on features ``(N, D)``; the last ``held_out`` are only scored.

    ``ridge`` is in units of the mean variance of a feature, per sample.
    """
    from sklearn.linear_model import Ridge  # a second and a half, which only fits need

    train, test = _parts(len(features), held_out)
    model = Ridge(alpha=ridge * len(features[train]) * float(features[train].var(axis=0).mean()))
    model.fit(features[train], values[train])
    return Boundary(np.asarray(model.coef_, np.float64), float(model.score(features[test], values[test])))


def fit_classes(features: Array, positive: NDArray[np.bool_], ridge: float, held_out: int) -> Boundary:
    """Logistic regression of a yes or no ``(N,)``; raises ``ValueError`` where only one of them occurs."""
    from sklearn.linear_model import LogisticRegression

    train, test = _parts(len(features), held_out)
    if positive[train].all() or not positive[train].any():
        raise ValueError("one of the two classes does not occur among the samples")
    # One scale for all features keeps the directions of W as they are and the penalty free of its units.
    scale = float(np.sqrt(features[train].var(axis=0).mean()))
    model = LogisticRegression(C=1.0 / (ridge * len(features[train])), class_weight="balanced", max_iter=500)
    model.fit(features[train] / scale, positive[train])
    score = float(model.score(features[test] / scale, positive[test]))
    return Boundary(np.asarray(model.coef_[0], np.float64) / scale, score)


def part(normals: Array, target: int, covariance: Array, allowed: NDArray[np.bool_], kept: Sequence[int]) -> Array:
    """The most likely change ``(D,)`` that raises one attribute by 1 and leaves the ``kept`` ones where they are.

    Minimises ``d' C^-1 d`` over the ``allowed`` features for the normals B ``(K, D)``: ``d = C B (B' C B)^-1 e``.
    With the identity as covariance this is orthogonalisation against all others at once. Raises ``ValueError``
    where the attribute cannot move without the others.
    """
    others = [k for k in kept if k != target]
    b = normals[[target, *others]][:, allowed].T
    along = covariance[np.ix_(allowed, allowed)] @ b
    inner = b.T @ along
    scale = np.sqrt(np.diag(inner))
    if not (scale > 0).all() or np.linalg.cond(inner / np.outer(scale, scale)) > 1e6:
        raise ValueError("the attributes cannot be told apart in these rows")
    wanted = np.zeros(len(others) + 1)
    wanted[0] = 1.0
    direction = np.zeros(normals.shape[1])
    direction[allowed] = along @ np.linalg.solve(inner, wanted)
    return direction


def block_covariance(w: Array, groups: int, shrink: float) -> Array:
    """Covariance of W repeated for each group of rows, groups taken as independent: ``(groups * w_dim,) * 2``.

    ``w`` is ``(N, w_dim)``, codes of one z each. ``shrink`` 0 takes the covariance as it is, 1 the identity times
    the mean variance.
    """
    covariance = np.cov(w, rowvar=False)
    mean = np.trace(covariance) / len(covariance)
    return np.kron(np.eye(groups), (1 - shrink) * covariance + shrink * mean * np.eye(len(covariance)))


def symmetric_root(covariance: Array) -> Array:
    """``(D, D)``, symmetric, whose square is the covariance; what is below 0 by rounding counts as 0."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def unmix(directions: Array, response: Array, per_unit: Array, held: NDArray[np.bool_]) -> Array:
    """Recombine directions ``(K, ...)`` so that, to first order, each moves its own attribute only, by its unit.

    ``response[k, j]`` is the measured change of attribute ``j`` per step of direction ``k``; ``held[k, j]`` says
    whether direction ``k`` has to leave attribute ``j`` where it is (others may move with it). Raises
    ``ValueError`` where the measured changes cannot be told apart.
    """
    mixed = np.empty_like(directions)
    for k in range(len(directions)):
        used = np.flatnonzero(held[k] | (np.arange(len(directions)) == k))
        block = response[np.ix_(used, used)] / per_unit[used]
        if np.linalg.cond(block / np.abs(block).max(axis=1, keepdims=True)) > 1e4:
            raise ValueError(f"what direction {k} does cannot be told apart from what the others do")
        weights = np.linalg.solve(block.T, (used == k).astype(float))
        mixed[k] = np.tensordot(weights, directions[used], axes=1)
    return mixed


def slope(asked: Array, got: Array) -> float:
    """Least-squares slope of ``got`` over ``asked``; both ``(N,)``."""
    centred = asked - asked.mean()
    if not np.abs(centred).max() > 0:
        raise ValueError("a slope needs at least two strengths")
    return float((centred * (got - got.mean())).sum() / (centred**2).sum())


def _parts(count: int, held_out: int) -> tuple[slice, slice]:
    if not 2 <= held_out <= count - 2:
        raise ValueError(f"{held_out} of {count} samples cannot be held out")
    return slice(0, count - held_out), slice(count - held_out, count)
