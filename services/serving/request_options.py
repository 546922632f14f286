"""Options of a request, which are all text, as the pipeline takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datamodules.types import BadInputError
from services.console import seconds
from services.pipeline.options import EditOptions
from services.serving.bodies import read_flag
from services.serving.limits import one_line


def edit_options(given: Mapping[str, str]) -> EditOptions:
    """Options of a request, all text, as the pipeline takes them; raises ``BadInputError``.

    The names are those that ``read_body`` let through.
    """
    readers: dict[str, Callable[[str], Any]] = {
        "refine": int,
        "seed": int,
        "start": seconds,
        "end": seconds,
        "preview": read_flag,
        "adapt": read_flag,
        "keep_lips": read_flag,
        "stitch": read_flag,
        "balance": read_flag,
        "paste": _one_of("auto", "difference", "mixed", "replace"),
        "region": _one_of("auto", "face", "head"),
    }
    options: dict[str, Any] = {}
    for name, text in given.items():
        try:
            options[name] = readers.get(name, str)(text.strip())
        except ValueError as error:
            raise BadInputError(f"cannot use {name}={text[:64]!r}: {one_line(error)}") from error
    return EditOptions(**options)


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"it must be {' or '.join(choices)}")
        return text

    return read
