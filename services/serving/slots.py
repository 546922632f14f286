"""The served models: an alias is watched, its version loaded beside the old one, warmed, and swapped in."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

from datamodules.types import BadInputError
from modules.model_folder import CONFIG, require_generator
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError
from services.registry.gate import utc_now
from services.registry.store import CHAMPION, ModelStore, RegisteredVersion
from services.serving.last_good import NothingGoodError, last_good, remember

T = TypeVar("T")
Source = Literal["registry", "cache"]
_MAX_DOUBLINGS = 6
"""A version that does not load is tried again after up to ``2**6 - 1`` polls."""
_log = logging.getLogger(__name__)


class ModelNotReadyError(RuntimeError):
    """A slot has no model to serve; the message is one line that says why."""


@dataclass(frozen=True)
class ServedVersion:
    """Which model answers."""

    name: str
    version: str
    """The registry's number."""
    identity: str
    """Hashes of its weights and of its config."""
    generator_sha256: str | None
    """The generator it belongs to, None where it belongs to none."""
    source: Source
    """``registry``, or ``cache``: the registry was down, the last good model serves."""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class SlotState:
    """How a slot stands, for readiness and status pages."""

    name: str
    serving: ServedVersion | None
    """None where there is nothing to serve."""
    registry: Literal["up", "down"]
    error: str
    """Why the alias's version does not serve, one line, or empty."""
    checked: str
    """When the alias was last asked for, UTC, or empty."""

    @property
    def ready(self) -> bool:
        """Whether there is a model to serve, be it an older one."""
        return self.serving is not None


@dataclass(frozen=True)
class _Failure:
    """Why a version did not load, and when it is tried again (``time.monotonic``)."""

    key: str
    error: str
    times: int
    retry_at: float


class Slot(Generic[T]):
    """One served model that follows an alias of the registry.

    ``load`` makes the model from its folder, ``warm`` uses it once before anybody waits for it. Both run
    beside the old model, so for that time there are two in memory. ``generator_sha256`` refuses models of
    another generator.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[Path], T],
        *,
        registry: ModelStore,
        poll_seconds: float,
        alias: str = CHAMPION,
        warm: Callable[[T], object] | None = None,
        generator_sha256: str | None = None,
    ) -> None:
        self.name = name
        self._load, self._warm, self._generator = load, warm, generator_sha256
        self._registry, self._alias = registry, alias
        self._poll_seconds = poll_seconds
        self._current: tuple[T, ServedVersion] | None = None
        self._state = SlotState(name, None, "down", "not started", "")
        self._failed: _Failure | None = None
        self._noted = ""  # what the last good model was last written down as
        self._checking = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the model and watch the alias from a thread; never raises, ``state`` says how it went."""
        self.check()
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._watch, name=f"slot {self.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop watching; the model stays."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def use(self) -> Iterator[tuple[T, ServedVersion]]:
        """The model and its version; a swap meanwhile does not touch them. Raises ``ModelNotReadyError``."""
        current = self._current
        if current is None:
            raise ModelNotReadyError(f"{self.name} has no model to serve: {self._state.error}")
        yield current

    def state(self) -> SlotState:
        """How the slot stands now."""
        return self._state

    def check(self) -> bool:
        """Ask for the alias once and swap where it moved; returns whether another model serves now.

        What serves is only ever replaced by a model that was loaded and warmed; every failure is kept in
        ``state`` and logged.
        """
        with self._checking:
            before, none_there = self._current, False
            try:
                error = self._follow()
                registry: Literal["up", "down"] = "up"
            except NoSuchVersionError as none:  # the cache may hold the champion of another registry
                error, registry, none_there = str(none), "up", True
            except RegistryUnavailableError as down:
                error, registry = str(down), "down"
            except Exception as failure:  # whatever a model's code raises, the old model goes on serving
                error, registry = _one_line(failure), "up"
            if self._current is None:
                error = error if none_there else self._fall_back(error)
            elif error and self._current[1].source == "cache":
                error = f"{error}; {_from_cache(self._current[1].version)}"
            if error and error != self._state.error:
                _log.warning("%s: %s", self.name, error)
            serving = None if self._current is None else self._current[1]
            self._state = SlotState(self.name, serving, registry, error, utc_now())
            return self._current is not before

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self.check()

    def _follow(self) -> str:
        """Serve what the alias points to; returns why not, or an empty string."""
        wanted = self._registry.resolve(self.name, self._alias)
        serving = None if self._current is None else self._current[1]
        if self._current is not None and serving is not None and _is(serving, wanted):
            if serving.source != "registry":
                self._current = (self._current[0], replace(serving, source="registry"))
            if self._noted != _key(wanted):
                self._remember(wanted, self._registry.download(wanted))
            return ""
        if self._failed is not None and self._failed.key != _key(wanted):
            self._failed = None
        if self._failed is not None and time.monotonic() < self._failed.retry_at:
            return self._failed.error
        try:
            folder = self._registry.download(wanted)
            self._install(folder, wanted.version, wanted.identity, "registry")
        except RegistryUnavailableError:
            raise
        except BadInputError as error:  # most would be refused again; but a missing part may come, memory be freed
            later = time.monotonic() + self._poll_seconds * (2**_MAX_DOUBLINGS - 1)
            self._failed = _Failure(_key(wanted), f"version {wanted.version} is refused: {error}", 0, later)
            return self._failed.error
        except Exception as error:  # out of memory, a full disk: may pass, so try again, but ever more rarely
            times = 0 if self._failed is None else min(self._failed.times + 1, _MAX_DOUBLINGS)
            pause = self._poll_seconds * (2**times - 1)
            text = f"version {wanted.version} does not load: {_one_line(error)}"
            self._failed = _Failure(_key(wanted), text, times, time.monotonic() + pause)
            return text
        self._failed = None
        self._remember(wanted, folder)
        return ""

    def _install(self, folder: Path, version: str, identity: str, source: Source) -> None:
        config = json.loads((folder / CONFIG).read_text())
        if self._generator is not None:
            require_generator(config, self._generator, f"{self.name} version {version}")
        model = self._load(folder)
        if self._warm is not None:
            self._warm(model)
        served = ServedVersion(self.name, version, identity, config.get("generator_sha256"), source)
        self._current = (model, served)  # one assignment: a user sees the old pair or the new one

    def _remember(self, version: RegisteredVersion, folder: Path) -> None:
        """Note the version that serves, for a start without the registry, and drop old ones."""
        remember(version, folder)
        self._noted = _key(version)
        self._registry.prune(self.name, keep=folder)

    def _fall_back(self, error: str) -> str:
        """Serve the last good model of the local cache; returns what there is to say."""
        try:
            last = last_good(self._registry.cache / self.name)
            self._install(last.folder, last.version, last.identity, "cache")
        except NothingGoodError as none:
            return f"{error}; {none}"
        except Exception as failure:  # as in check: nothing a model's code raises may stop the service
            return f"{error}; the last good model does not load: {_one_line(failure)}"
        return f"{error}; {_from_cache(last.version)}"


def _is(serving: ServedVersion, wanted: RegisteredVersion) -> bool:
    return (serving.version, serving.identity) == (wanted.version, wanted.identity)


def _key(version: RegisteredVersion) -> str:
    return f"{version.version} {version.identity}"


def _from_cache(version: str) -> str:
    return f"the last good model, version {version}, serves from the local cache"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, BadInputError) else f"{type(error).__name__}: {text}"
