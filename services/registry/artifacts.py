"""Artifact addresses of an embedded registry: MLflow keeps them absolute, so a moved folder is set right here."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Every column of MLflow's tables in which a run or a model has an address."""


def artifacts_of(database: Path) -> Path:
    """The folder beside an SQLite file that holds its runs' and models' files."""
    return database.resolve().parent / f"{database.stem}-artifacts"


def set_right(database: Path) -> None:
    """Point addresses in a folder of the same name elsewhere to the one beside the database, if that is there.

    A registry whose folder was moved, or was copied, then finds its own files. Call it while no other process
    makes or changes the tables. Raises ``sqlite3.Error`` where the file cannot be read or written.
    """
    folder = artifacts_of(database)
    if not folder.is_dir():
        return
    here = folder.as_uri()
    name = here.rpartition("/")[2]
    with closing(sqlite3.connect(database)) as connection, connection:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in found:
            if old == here or not str(old).endswith(f"/{name}"):
                continue
            for table, column in _ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  (names from above)
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
