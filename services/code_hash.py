"""Hashes of code and of networks: what others made is made again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from modules.assets import manifest

PACKAGES = ("datamodules", "modules", "services")
JUDGES = ("modules/perception", "services/attributes.py")
"""The code that asks frozen networks about faces."""


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


def nets_sha256(*assets: str) -> str:
    """Of all files of some assets, as ``assets.toml`` has them."""
    files = sorted(file.sha256 for name in assets for file in manifest()[name].files.values())
    return hashlib.sha256(" ".join(files).encode()).hexdigest()


def judges_sha256(root: Path, *assets: str) -> str:
    """Of the networks in some assets and of ``JUDGES`` below ``root``: others see something else in a face."""
    code = python_sha256([root / path for path in JUDGES], root)
    return hashlib.sha256(f"{code} {nets_sha256(*assets)}".encode()).hexdigest()


def named_sha256(path: Path) -> str:
    """Of a file, or of all files below a folder, that ``params.yaml`` names; empty where nothing is there."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if found else ""
