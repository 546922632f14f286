"""Adaptations that a server edits with: a subject's champion, loaded when it is asked for, the last few kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from services.model_names import ADAPTATION, adaptation_of
from services.pipeline.models import Models, with_adaptation
from services.registry.errors import NoSuchVersionError, RegistryUnavailableError
from services.registry.store import CHAMPION, ModelStore
from services.serving.last_good import Cached, NothingGoodError, forget_last, last_good, remember
from services.serving.session import ServedModel, Session


class ServedAdaptations:
    """The least recently used makes room; an alias that moves is followed at the next request."""

    def __init__(self, base: Models, store: ModelStore, keep: int) -> None:
        """``keep`` adapted generators stay in memory."""
        self._base, self.store, self._keep = base, store, keep
        self._loaded: OrderedDict[str, Generator] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, subject: str, session: Session) -> Session:
        """A session whose generator is adapted to a person.

        Where the registry is down the version that it named last answers, from the local cache. Raises
        ``BadInputError`` (404) where the person has no champion, (422) where the consent ran out or the
        adaptation is another generator's, and ``RegistryUnavailableError`` where the cache has none either.
        """
        name = adaptation_of(subject)
        try:
            version = self.store.resolve(name, CHAMPION)
            with self._lock:
                # Noted before it is looked into: whose consent ran out is not edited with the version before.
                champion = remember(version, self.store.download(version))
                found = self._read(name, champion)
                self.store.prune(name, keep=champion.folder)
            return self._adapted(session, name, champion, found, "registry")
        except RegistryUnavailableError as down:
            with self._lock:
                try:
                    last = last_good(self.store.cache / name)
                except NothingGoodError as none:
                    raise RegistryUnavailableError(f"{down}; {none}") from down
                found = self._read(name, last)
            return self._adapted(session, name, last, found, "cache")
        except NoSuchVersionError as error:
            forget_last(self.store.cache / name)  # who was forgotten elsewhere is not edited with later
            raise BadInputError(
                f"there is no adaptation of {subject}: 'stylereel adapt --subject {subject}' makes one, "
                f"'stylereel register' and 'stylereel promote {name}' have it served",
                404,
            ) from error

    def _read(self, name: str, cached: Cached) -> Models:
        """The adapted models; the folder is read each time, as the day on which the consent ends may have come."""
        key = f"{name} {cached.version} {cached.identity}"
        found = with_adaptation(self._base, cached.folder, self._loaded.get(key))
        self._loaded[key] = found.generator
        self._loaded.move_to_end(key)
        while len(self._loaded) > self._keep:
            self._loaded.popitem(last=False)
        return found

    def _adapted(self, session: Session, name: str, cached: Cached, found: Models, source: str) -> Session:
        versions = {**session.models.versions, ADAPTATION: found.versions[ADAPTATION]}
        models = replace(
            session.models,
            generator=found.generator,
            versions=versions,
            adapted=True,
            learned_with=found.learned_with,
        )
        served = ServedModel(name, cached.version, CHAMPION, self._base.generator.sha256, source)
        return Session(models, (*session.served, served))

    def forget(self, subject: str) -> None:
        """Let go of a person's adaptations."""
        start = f"{adaptation_of(subject)} "
        with self._lock:
            for key in [key for key in self._loaded if key.startswith(start)]:
                del self._loaded[key]
