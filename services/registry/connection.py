"""The way to MLflow: one client per address, made when first needed, with errors that say what to do."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from datamodules.types import BadInputError
from services.registry.artifacts import artifacts_of, set_right
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError

SQLITE = "sqlite:///"
_SQLITE_MAGIC = b"SQLite format 3\x00"
_BAD_INPUT = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}


@dataclass(frozen=True)
class RegistryConfig:
    """Section ``registry``: how long the registry is waited for, and what is cached."""

    experiment: str
    """MLflow experiment that holds the runs and the registered models' files."""
    timeout_seconds: int
    """How long one request to a registry on the network may take."""
    retries: int
    """How often such a request is tried again before the registry counts as down."""
    keep_versions: int
    """How many downloaded versions of each model stay in the local cache."""

    def __post_init__(self) -> None:
        if self.timeout_seconds < 1 or self.retries < 0 or self.keep_versions < 1:
            raise BadInputError("registry: timeout_seconds and keep_versions must be 1 or more, retries 0 or more")


class Connection:
    """A client of one MLflow address; making one connects to nothing, so a registry may be down at start."""

    def __init__(self, tracking_uri: str, config: RegistryConfig) -> None:
        self.uri = tracking_uri
        self.config = config
        self.database = Path(tracking_uri.removeprefix(SQLITE)) if tracking_uri.startswith(SQLITE) else None
        self._client: MlflowClient | None = None
        self._experiment: str | None = None
        self._lock = threading.RLock()
        self._down_until = 0.0
        self._down_why = ""

    @property
    def address(self) -> str:
        """The address without user and password, for messages."""
        return self._without_credentials(self.uri)

    @contextmanager
    def reach(self) -> Iterator[MlflowClient]:
        """A client, and MLflow's errors as ours.

        Raises ``NoSuchVersionError`` for what the registry does not have, ``BadInputError`` for what it will
        not take, and ``RegistryUnavailableError`` for everything that means that it cannot be used now. One on the
        network that could not be reached is left alone for ``timeout_seconds``: whoever asks meanwhile hears so at
        once, and several models of one that hangs do not wait one after the other.
        """
        try:
            yield self._connect()
        except MlflowException as error:
            message = " ".join(str(error).split())
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise NoSuchVersionError(message) from error
            if error.error_code in _BAD_INPUT:
                raise BadInputError(message) from error
            raise self._unavailable(message) from error
        except (requests.RequestException, SQLAlchemyError, sqlite3.Error) as error:
            raise self._unavailable(" ".join(str(error).split())) from error

    def experiment_id(self) -> str:
        """The experiment's id; the experiment is made on first use, its files beside the database."""
        with self.reach() as client, self._lock, self._exclusive():
            if self._experiment is None:
                found = client.get_experiment_by_name(self.config.experiment)
                if found is not None:
                    self._experiment = found.experiment_id
                else:
                    self._experiment = client.create_experiment(self.config.experiment, self._artifacts())
            return str(self._experiment)

    def _artifacts(self) -> str | None:
        """Beside an SQLite file; a server on the network knows its own place."""
        return None if self.database is None else artifacts_of(self.database).as_uri()

    def _connect(self) -> MlflowClient:
        with self._lock:
            if time.monotonic() < self._down_until:
                raise RegistryUnavailableError(self._down_why)
            if self.database is not None:
                self._check_database(self.database)
            if self._client is None:
                os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(self.config.timeout_seconds)
                os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(self.config.retries)
                for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
                    logging.getLogger(chatty).setLevel(logging.WARNING)
                with self._exclusive():  # two processes must not both create the tables
                    client = MlflowClient(self.uri, registry_uri=self.uri)
                    client.search_registered_models(max_results=1)
                    if self.database is not None:
                        set_right(self.database)
                self._client = client
            return self._client

    def _check_database(self, database: Path) -> None:
        # MLflow keeps trying for minutes on a file it cannot open, and makes an empty one where it is gone.
        try:
            if database.is_file():
                with database.open("rb") as stream:
                    magic = stream.read(len(_SQLITE_MAGIC))
                if magic not in (b"", _SQLITE_MAGIC):
                    raise self._unavailable(f"{database} is not an SQLite file")
            elif self._client is not None:
                raise self._unavailable(f"{database} is gone")
            else:
                database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(str(error)) from error

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self.database is None:
            yield
        else:
            lock = FileLock(f"{self.database}.lock")
            try:
                lock.acquire()
            except OSError as error:
                raise self._unavailable(str(error)) from error
            try:
                yield
            finally:
                lock.release()

    def _unavailable(self, why: str) -> RegistryUnavailableError:
        reason = self._without_credentials(why)[:300]
        text = f"the registry at {self.address} cannot be reached ({reason})"
        if self.database is None:
            self._down_why, self._down_until = text, time.monotonic() + self.config.timeout_seconds
        return RegistryUnavailableError(text)

    def _without_credentials(self, text: str) -> str:
        credentials, at, _ = urlsplit(self.uri).netloc.rpartition("@")
        return text.replace(credentials + at, "") if at else text
