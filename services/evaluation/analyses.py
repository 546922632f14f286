"""What StylePortraitVideo draws of a clip and of its codes: a line over time (figs. 6, 8), groups (fig. 7)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from datamodules.types import BadInputError

Image = NDArray[np.uint8]


def profile(frames: Iterable[Image], *, row: float | None = None, column: float | None = None) -> Image:
    """``(L, T, 3)`` uint8: one line of each of T frames ``(H, W, 3)``, side by side; time runs to the right.

    Either ``row`` or ``column`` says where the line lies, as a share of the frame from its top or left in [0, 1];
    L is the frame's width for a row, and its height for a column. Raises ``BadInputError`` for any other share,
    for both or neither, and where there is no frame.
    """
    share = row if column is None else column
    if share is None or (row is not None and column is not None):
        raise BadInputError("give a row or a column, as a share of the frame from 0 to 1")
    if not 0 <= share <= 1:
        raise BadInputError(f"a line lies at a share of the frame from 0 to 1, got {share:g}")
    lines = [line_of(frame, share, across=row is not None) for frame in frames]
    if not lines:
        raise BadInputError("there is no frame to draw; choose another section")
    return np.stack(lines, axis=1)


def line_of(frame: Image, share: float, across: bool) -> Image:
    """``(L, 3)``: the row (``across``) or the column at that share of ``(H, W, 3)``."""
    side = frame.shape[0] if across else frame.shape[1]
    at = round(share * (side - 1))
    return (frame[at] if across else frame[:, at]).copy()


def clusters(ws: NDArray[np.floating], k: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Codes ``(N, num_ws, w_dim)`` as points ``(N, 2)`` and labels ``(N,)`` in [0, k): who lies beside whom.

    Points are the first two principal components of the codes, labels are of k-means on the codes themselves;
    labels count from 0 in order of appearance. Raises ``BadInputError`` where there are fewer codes than groups.
    """
    from sklearn.cluster import KMeans  # a second that no other command should wait for
    from sklearn.decomposition import PCA

    if ws.ndim != 3:
        raise ValueError(f"codes must be (N, num_ws, w_dim), got {ws.shape}")
    if not 1 <= k <= len(ws) or len(ws) < 2:
        raise BadInputError(f"{len(ws)} codes do not make {k} groups; give more frames or fewer groups")
    flat = np.asarray(ws, np.float64).reshape(len(ws), -1)
    points = PCA(2, svd_solver="full").fit_transform(flat)
    found = KMeans(k, n_init=10, random_state=seed).fit_predict(flat)
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.asarray(points, np.float64), np.asarray(order[inverse], np.int64)
