"""The life of a registered model: promotion through the gate, rollback, repair, status and history.

An alias moves in three writes (what is about to happen, ``previous``, ``champion``). The first one is kept on
the model until the last is done, so a crash in between leaves a record that ``repair`` completes; every
promotion and rollback completes such a record first.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from datamodules.types import BadInputError
from modules.model_folder import require_generator
from services.model_names import NAMES
from services.registry.errors import GateRefusedError, NoSuchVersionError
from services.registry.gate import Check, Evaluation, GateConfig, Verdict, judge, utc_now
from services.registry.store import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ROLLED_BACK,
    ModelStore,
    RegisteredVersion,
    check_name,
)

ReEvaluate = Callable[[RegisteredVersion, Path, Evaluation], Evaluation]
"""Measures a version, lying in the given folder, on the data that the given evaluation was made on."""

_PENDING = "pending"
_HISTORY = "history."


@dataclass(frozen=True)
class Event:
    """Something that happened to a registered model, and why."""

    name: str
    time: str
    """UTC, ISO 8601."""
    action: str
    """``promoted``, ``refused`` or ``rolled back``."""
    version: str
    """The version that became champion, or was refused."""
    champion_before: str | None
    user: str
    why: str
    """The verdict, or the reason given for the rollback."""


@dataclass(frozen=True)
class Promotion:
    """What a promotion or a rollback did."""

    champion: RegisteredVersion
    previous: str | None
    """Version that ``previous`` points to now."""
    changed: bool
    """False where the version was champion already."""
    verdict: Verdict | None
    """None for a rollback."""


@dataclass(frozen=True)
class ModelStatus:
    """Where one registered model stands."""

    name: str
    champion: str | None
    challenger: str | None
    """None too where it has become the champion."""
    previous: str | None
    versions: int
    note: str
    """What is wrong and what to do, or empty."""


class ModelRegistry(ModelStore):
    """The registry with its aliases: ``challenger``, ``champion`` and ``previous``."""

    def promote(
        self,
        name: str,
        gate: GateConfig,
        version: str | None = None,
        *,
        re_evaluate: ReEvaluate | None = None,
        generator_sha256: str | None = None,
        user: str | None = None,
    ) -> Promotion:
        """Make a version (the challenger, unless one is named) champion if it passes the gate.

        The champion is compared on the challenger's data: where it was not measured there, ``re_evaluate``
        measures it and the result is kept. With ``generator_sha256`` a model of another generator is turned
        away. Raises ``GateRefusedError`` with all reasons, ``NoSuchVersionError``, ``BadInputError``.
        """
        with self._alone(name):
            self.repair(name)
            candidate = self._candidate(name, version)
            champion = self._at(name, CHAMPION)
            if champion is not None and champion.version == candidate.version:
                already = Verdict((Check(True, f"version {candidate.version} is the champion already"),))
                return Promotion(champion, self._aliases(name).get(PREVIOUS), changed=False, verdict=already)
            if generator_sha256 is not None and candidate.generator_sha256 is not None:
                made_for = {"generator_sha256": candidate.generator_sha256}
                require_generator(made_for, generator_sha256, f"{name} version {candidate.version}")
            verdict = self._judge(candidate, champion, gate, re_evaluate)
            event = Event(
                name=name,
                time=utc_now(),
                action="promoted" if verdict.passed else "refused",
                version=candidate.version,
                champion_before=None if champion is None else champion.version,
                user=user or _user(),
                why=verdict.text,
            )
            if not verdict.passed:
                self._record(event)
                raise GateRefusedError(f"{name} version {candidate.version} {verdict.text}", verdict)
            self._move(event, previous=event.champion_before)
            return self._promotion(name, verdict)

    def rollback(self, name: str, why: str = "asked for", user: str | None = None) -> Promotion:
        """Swap champion and previous. The version that leaves is not promoted again unless it is named.

        Where a rollback was cut off, this completes it and goes no further: who asks again wants the same. Raises
        ``NoSuchVersionError`` where there is no previous champion.
        """
        with self._alone(name):
            done = self.repair(name)
            if done is not None and done.action == "rolled back":
                return self._promotion(name, None)
            bad, good = self.resolve(name, CHAMPION), self.resolve(name, PREVIOUS)
            event = Event(
                name=name,
                time=utc_now(),
                action="rolled back",
                version=good.version,
                champion_before=bad.version,
                user=user or _user(),
                why=why,
            )
            self._move(event, previous=bad.version)
            return self._promotion(name, None)

    def repair(self, name: str) -> Event | None:
        """Complete a promotion or rollback that was cut off; returns it, or None where nothing was cut off."""
        pending = self._tags(name).get(_PENDING)
        if pending is None:
            return None
        plan = json.loads(pending)
        event = Event(**plan["event"])
        self._apply(event, plan["previous"])
        return event

    def status(self) -> list[ModelStatus]:
        """One row per registry name, those without a version included, and one per subject."""
        return [self._status(name) for name in (*NAMES, *self.subjects())]

    def history(self, name: str | None = None) -> list[Event]:
        """Who became champion when and why, refusals included, the oldest first; of all models without a name."""
        if name is not None:
            check_name(name)
        events = [
            Event(**json.loads(text))
            for each in ([name] if name else (*NAMES, *self.subjects()))
            for key, text in self._tags(each).items()
            if key.startswith(_HISTORY)
        ]
        return sorted(events, key=lambda event: event.time)

    def _candidate(self, name: str, version: str | None) -> RegisteredVersion:
        candidate = self.resolve(name, CHALLENGER) if version is None else self.version(name, version)
        if version is None and ROLLED_BACK in candidate.tags:
            raise BadInputError(
                f"the challenger of {name}, version {candidate.version}, was rolled back on "
                f"{candidate.tags[ROLLED_BACK]}: '--version {candidate.version}' promotes it all the same"
            )
        return candidate

    def _judge(
        self,
        candidate: RegisteredVersion,
        champion: RegisteredVersion | None,
        gate: GateConfig,
        re_evaluate: ReEvaluate | None,
    ) -> Verdict:
        mine = candidate.evaluation()
        if mine is None:
            return Verdict(
                (Check(False, "it has no evaluation: run 'stylereel evaluate' and register it with that"),)
            )
        if champion is None or gate.alone:
            return judge(mine, None, gate)
        # A challenger below the floors needs no champion measured; judging costs nothing, measuring does.
        alone = judge(mine, None, gate)
        theirs = champion.evaluation(mine.data_hash)
        if theirs is None and alone.passed and re_evaluate is not None:
            theirs = re_evaluate(champion, self.download(champion), mine)
            self.evaluate(champion, theirs)
        if theirs is not None:
            return judge(mine, theirs, gate)
        if not alone.passed:
            return alone
        unmeasured = f"champion version {champion.version} was not measured on data {mine.data_hash}"
        return Verdict((*alone.checks, Check(False, f"{unmeasured}: measure it there, then promote again")))

    def _move(self, event: Event, previous: str | None) -> None:
        plan = json.dumps({"event": asdict(event), "previous": previous})
        with self.connection.reach() as client:
            client.set_registered_model_tag(event.name, _PENDING, plan)
        self._apply(event, previous)

    def _apply(self, event: Event, previous: str | None) -> None:
        """Every write can be done twice, so that ``repair`` may start over."""
        aliases = self._aliases(event.name)
        with self.connection.reach() as client:
            if previous is not None:
                client.set_registered_model_alias(event.name, PREVIOUS, previous)
            client.set_registered_model_alias(event.name, CHAMPION, event.version)
            client.delete_model_version_tag(event.name, event.version, ROLLED_BACK)
            if event.action != "promoted" and event.champion_before is not None:
                client.set_model_version_tag(event.name, event.champion_before, ROLLED_BACK, event.time)
                if aliases.get(CHALLENGER) == event.champion_before:
                    client.delete_registered_model_alias(event.name, CHALLENGER)
        self._record(event)
        with self.connection.reach() as client:
            client.delete_registered_model_tag(event.name, _PENDING)

    def _record(self, event: Event) -> None:
        key = _HISTORY + event.time.replace("+00:00", "Z").replace(":", "-")
        with self.connection.reach() as client:
            client.set_registered_model_tag(event.name, key, json.dumps(asdict(event)))

    def _promotion(self, name: str, verdict: Verdict | None) -> Promotion:
        return Promotion(self.resolve(name, CHAMPION), self._aliases(name).get(PREVIOUS), True, verdict)

    def _status(self, name: str) -> ModelStatus:
        aliases, tags = self._aliases(name), self._tags(name)
        note = ""
        if _PENDING in tags:
            event = Event(**json.loads(tags[_PENDING])["event"])
            note = (
                f"a change to version {event.version} ({event.action}, {event.time}) was cut off: "
                f"'stylereel promote {name}' and 'stylereel rollback {name}' complete it first"
            )
        champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
        return ModelStatus(
            name=name,
            champion=champion,
            challenger=None if challenger == champion else challenger,
            previous=aliases.get(PREVIOUS),
            versions=len(self.versions(name)),
            note=note,
        )

    def _at(self, name: str, alias: str) -> RegisteredVersion | None:
        version = self._aliases(name).get(alias)
        return None if version is None else self.version(name, version)

    def _aliases(self, name: str) -> Mapping[str, str]:
        try:
            with self.connection.reach() as client:
                return {alias: str(v) for alias, v in client.get_registered_model(name).aliases.items()}
        except NoSuchVersionError:
            return {}

    def _tags(self, name: str) -> Mapping[str, str]:
        try:
            with self.connection.reach() as client:
                return dict(client.get_registered_model(name).tags)
        except NoSuchVersionError:
            return {}

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One promotion at a time per model on this machine; between machines the last writer wins."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / f".{name}.promotion.lock"):
            yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
