"""How far a judge's own readings scatter, and what an edit moves beside that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from services.edits.evaluation import ImageJudge, Reading

_MIRRORED = -1.0


def judge_noise(judge: ImageJudge, images: Tensor, turning: Collection[str] = ()) -> dict[str, float]:
    """Root mean square error of a reading of each measure, from ``(N, 3, H, W)`` pictures and their mirror images.

    A mirrored face has the same expression, pitch and size, and the opposite of what is ``turning`` (yaw, roll,
    place): what differs is the judge's. The mean difference is taken off where the sign flips, since a crop's own
    offset is no noise; of one picture alone nothing is left then, and the noise is 0.
    """
    plain, mirrored = judge(images), judge(images.flip(3))
    noise = {}
    for name in plain:
        flips = name in turning
        difference = plain[name] - (_MIRRORED if flips else 1.0) * mirrored[name]
        difference = difference - (np.nanmean(difference) if flips else 0.0)
        noise[name] = float(np.sqrt(np.nanmean(np.square(difference)) / 2))
    return noise


def moved(
    start: Reading, rows: Sequence[Reading], noise: Mapping[str, float], names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """What readings of an edit have moved of each of ``names``, and the noise of that, in the judge's numbers.

    ``{"name": {"mean": ..., "rms": ..., "noise": ...}}``; ``rms`` is over codes and rows, ``noise`` that of a
    difference of two readings. Nothing for no rows.
    """
    if not rows:
        return {}
    changes = {name: np.concatenate([r.measures[name] - start.measures[name] for r in rows]) for name in names}
    return {
        name: {
            "mean": float(np.nanmean(change)),
            "rms": float(np.sqrt(np.nanmean(np.square(change)))),
            "noise": float(np.sqrt(2) * noise[name]),
        }
        for name, change in changes.items()
    }
