"""Which stylereel this is."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@functools.cache
def version() -> str:
    """The version in ``pyproject.toml``: the checkout is what runs, whatever was installed before."""
    return str(tomllib.loads(_PROJECT.read_text())["project"]["version"])
