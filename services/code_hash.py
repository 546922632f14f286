"""A hash of code: what other code made is made again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("datamodules", "modules", "services")


def python_sha256(paths: Iterable[Path], root: Path) -> str:
    """Of files, and of the Python files below folders: their paths under ``root`` and what is in them."""
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    digest = hashlib.sha256()
    for file in sorted(files):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def code_sha256(root: Path) -> str:
    """Of all code below ``root`` that what is found may depend on: other code does not go on with it."""
    return python_sha256([root / package for package in PACKAGES], root)
