"""What an output says beside itself: one line for each thing that a user should look at, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from services.pipeline.models import Models
from services.pipeline.options import EditOptions, WarningsConfig


def poor_reconstruction(
    identity_distance: Sequence[float] | NDArray[np.float64],
    landmark_error: Sequence[float] | NDArray[np.float64],
    config: WarningsConfig,
    advice: str,
    numbers: Sequence[int] = (),
) -> tuple[str, ...]:
    """One line per stretch of frames whose reconstruction is poor: "identity distance 0.65 on frames 4-7: ADVICE".

    Values are per frame, NaN where not measured; such frames take after their neighbours. ``advice`` is from
    ``advice_for``. ``numbers`` are the frames' numbers in the clip; without them the values are of one image, and
    no frame is named.
    """
    judged: tuple[tuple[str, Sequence[float] | NDArray[np.float64], Callable[[float], bool]], ...] = (
        ("identity distance {:.2f}", identity_distance, lambda value: value > config.identity_distance),
        ("landmark error {:.1f} %", landmark_error, lambda value: value > config.landmark_error),
    )
    lines = []
    for text, values, is_poor in judged:
        measured = [(frame, float(value)) for frame, value in enumerate(values) if not np.isnan(value)]
        for poor, group in groupby(((frame, value, is_poor(value)) for frame, value in measured), itemgetter(2)):
            if poor:
                stretch = list(group)
                mean = float(np.mean([value for _, value, _ in stretch]))
                where = _named([numbers[frame] for frame, _, _ in stretch]) if numbers else ""
                lines.append(f"{text.format(mean)}{where}: {advice}")
    return tuple(lines)


def advice_for(models: Models, options: EditOptions, clip: bool, inverts: bool = False) -> str:
    """What ``poor_reconstruction`` advises of a ``clip``, or of an image, reconstructed with ``options``.

    Nothing is advised that was done, or that what only ``inverts`` cannot do. The codes of a task are not refined,
    and its input lacks the truth.
    """
    if models.task:
        return "what is added may be another person's"
    if clip and options.preview:
        return "a preview is not refined, the finished clip is"
    config, ways = models.config, []
    if clip and not inverts and not models.adapted and options.face != "all":
        ways.append("--adapt")
    if options.steps(config.follow if clip else config.refine, models.adapted) < config.warnings.try_refine:
        ways.append(f"--refine {config.warnings.try_refine}")
    if not ways:
        return f"choose another {'section' if clip else 'picture'}"
    return f"try {', or '.join(ways)}"


def changed_persons(
    numbers: Sequence[int], models: Models, options: EditOptions, inverts: bool = False
) -> tuple[str, ...]:
    """One line where others take the place of an edited face inside a shot, from frames ``numbers`` on."""
    if not numbers or options.face == "all":
        return ()
    # A generator that learned one face draws nobody else, codes and stitching are of one face.
    one_face = models.adapted or inverts or options.stitch
    advice = "choose a section that shows one person" if one_face else "--face all edits everybody"
    where = ", ".join(map(str, numbers))
    return (f"another person takes the face's place at frame {where}: {advice}",)


def not_hidden(found: NDArray[np.bool_], numbers: Sequence[int]) -> tuple[str, ...]:
    """One line for each stretch of frames in which the face that is to be hidden was not found.

    ``found`` ``(T,)`` says where it was: an edit that is held lies where the face was before, not where it is.
    """
    runs = groupby(zip(found, numbers, strict=True), itemgetter(0))
    stretches = [_named([number for _, number in group]) for hidden, group in runs if not hidden]
    return tuple(f"no face was found to hide{where}: look at them, or leave them out" for where in stretches)


def _named(frames: Sequence[int]) -> str:
    return f" on frame {frames[0]}" if len(frames) == 1 else f" on frames {frames[0]}-{frames[-1]}"
