"""What sources are called: their file names, with as much of their path as tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def told_apart(paths: Sequence[Path]) -> list[str]:
    """A name for each path: that of its file, with the folders above it as far as another has the same one.

    Evaluations count clips and tell persons apart by these names, and ``anna/cam0.mp4`` is not ``ben/cam0.mp4``.
    """
    parts = [path.absolute().parts[1:] for path in paths]
    length = [1] * len(parts)
    while True:
        names = ["/".join(of[-kept:]) for of, kept in zip(parts, length, strict=True)]
        count = Counter(names)
        longer = [n for n, name in enumerate(names) if count[name] > 1 and length[n] < len(parts[n])]
        if not longer:
            return names
        for number in longer:
            length[number] += 1
