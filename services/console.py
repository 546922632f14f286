"""How the shell talks: bars with an estimate, one-line errors, and times as people write them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.types import BadInputError
from services.progress import Progress

INTERRUPTED = 130
_CLOCK = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d{1,99})?)s?", re.ASCII)
"""More digits are no time, and could be more than a float holds."""


def seconds(text: str | None) -> float | None:
    """``2``, ``2.5s``, ``1:30`` and ``1:02:03.5`` in seconds; raises ``BadInputError`` for anything else."""
    if text is None:
        return None
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise BadInputError(f"cannot read the time {text!r}; write seconds like 2.5s or minutes like 1:30")
    hours, minutes, rest = match.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(rest)


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A bar per stage on stderr, with the time that is left; nothing where ``quiet`` or where nobody looks on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = Console(stderr=True)
    shown = Bars(*columns, console=console, disable=quiet or not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def report(progress: Progress) -> None:
        shown.start()  # not before there is something to show: errors of the first moment stay one line
        if progress.stage not in tasks:
            tasks[progress.stage] = shown.add_task(progress.stage, total=progress.total or None, left="")
        shown.update(
            tasks[progress.stage],
            completed=progress.done,
            total=progress.total or None,
            left=_spoken(progress.eta),
        )

    try:
        yield report
    finally:
        if tasks:
            shown.stop()


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"stylereel: {' '.join(message.split())}", file=sys.stderr)


def tell(target: Path, warnings: Iterable[str]) -> None:
    """What was written, after a line on stderr for each warning."""
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(target)


def _spoken(eta: float | None) -> str:
    if eta is None:
        return ""
    whole = round(eta)
    return f"{whole} s left" if whole < 100 else f"{whole // 60} min {whole % 60} s left"
