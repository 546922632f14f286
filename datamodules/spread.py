"""Which of many frames stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.types import BadInputError


def spread(total: int, count: int) -> list[int]:
    """``count`` of ``range(total)``, evenly spread, both ends among them; all where there are fewer."""
    if count < 1:
        raise BadInputError(f"at least one frame must be taken, got {count}")
    chosen: Sequence[int] = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    return list(chosen)
