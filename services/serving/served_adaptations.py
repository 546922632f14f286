"""Adaptations that a server edits with: a subject's champion, loaded when it is asked for, the last few kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from datamodules.types import BadInputError
from services.model_names import ADAPTATION, adaptation_of
from services.pipeline.models import Models, with_adaptation
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError
from services.registry.store import CHAMPION, ModelStore
from services.serving.session import ServedModel, Session


class ServedAdaptations:
    """The least recently used makes room; an alias that moves is followed at the next request."""

    def __init__(self, base: Models, store: ModelStore, keep: int) -> None:
        """``keep`` adapted generators stay in memory."""
        self._base, self.store, self._keep = base, store, keep
        self._loaded: OrderedDict[str, tuple[Models, Path]] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, subject: str, session: Session) -> Session:
        """A session whose generator is adapted to a person.

        Raises ``BadInputError`` (404) where the person has no champion, (422) where the consent ran out or the
        adaptation is another generator's, and ``RegistryUnavailableError``.
        """
        name = adaptation_of(subject)
        try:
            version = self.store.resolve(name, CHAMPION)
        except RegistryUnavailableError:
            with self._lock:
                last = next((key for key in reversed(self._loaded) if key.startswith(f"{name} ")), None)
                if last is None:
                    raise
                found = self._read(last, self._loaded[last][1])
                return self._adapted(session, name, last.split()[1], found, "cache")
        except NoSuchVersionError as error:
            raise BadInputError(
                f"there is no adaptation of {subject}: 'stylereel adapt --subject {subject}' makes one, "
                f"'stylereel register' and 'stylereel promote {name}' have it served",
                404,
            ) from error
        key = f"{name} {version.version} {version.sha256}"
        with self._lock:
            folder = self.store.download(version)
            found = self._read(key, folder)
            self.store.prune(name, keep=folder)
        return self._adapted(session, name, version.version, found, "registry")

    def _read(self, key: str, folder: Path) -> Models:
        """The adapted models; the folder is read each time, as the day on which the consent ends may have come."""
        known = self._loaded.get(key)
        found = with_adaptation(self._base, folder, known[0].generator if known else None)
        self._loaded[key] = found, folder
        self._loaded.move_to_end(key)
        while len(self._loaded) > self._keep:
            self._loaded.popitem(last=False)
        return found

    def _adapted(self, session: Session, name: str, version: str, found: Models, source: str) -> Session:
        versions = {**session.models.versions, ADAPTATION: found.versions[ADAPTATION]}
        models = replace(
            session.models,
            generator=found.generator,
            versions=versions,
            adapted=True,
            learned_with=found.learned_with,
        )
        served = ServedModel(name, version, CHAMPION, self._base.generator.sha256, source)
        return Session(models, (*session.served, served))

    def forget(self, subject: str) -> None:
        """Let go of a person's adaptations."""
        start = f"{adaptation_of(subject)} "
        with self._lock:
            for key in [key for key in self._loaded if key.startswith(start)]:
                del self._loaded[key]
