"""A person's adaptation as a server edits with it, also while the registry is down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from adapted_toys import small_models

from datamodules.types import BadInputError
from modules.generators.adaptation import adaptable, save_adaptation
from services.model_names import adaptation_of
from services.pipeline.models import Models
from services.registry.connection import Connection
from services.registry.errors import RegistryUnavailableError
from services.registry.promote import ModelRegistry
from services.serving.served_adaptations import ServedAdaptations
from services.serving.session import Session

__all__ = ["small_models"]
NAME = adaptation_of("anna")
Promote = Callable[..., None]


@pytest.fixture
def promote(registry: ModelRegistry, small_models: Models, tmp_path: Path) -> Promote:
    """Registers an adaptation that moves one parameter by ``size``, and makes it anna's champion."""
    name, parameter = next(iter(adaptable(small_models.generator).items()))

    def make(size: float, expires: str = "") -> None:
        about = {"subject": {"name": "anna", "consent": "form 17", "expires": expires}}
        moved = {name: size * parameter.detach().clone().fill_(1.0)}
        folder = save_adaptation(tmp_path / f"{size}", moved, small_models.generator.sha256, "# Toy\n", about)
        version = registry.register(folder, NAME)
        with registry.connection.reach() as client:
            client.set_registered_model_alias(NAME, "champion", version.version)

    return make


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        def connect(_: Connection) -> None:
            raise RegistryUnavailableError("the registry at here cannot be reached (gone)")

        monkeypatch.setattr(Connection, "_connect", connect)

    return go


def test_a_server_that_starts_while_the_registry_is_down_edits_with_what_answered_last(
    registry: ModelRegistry, small_models: Models, promote: Promote, down: Callable[[], None]
) -> None:
    session = Session(small_models, ())
    first = ServedAdaptations(small_models, registry, 1)
    promote(0.1)
    first.session("anna", session)
    promote(0.2)
    newer = first.session("anna", session)
    with registry.connection.reach() as client:  # rolled back: the newest in the cache is not the champion
        client.set_registered_model_alias(NAME, "champion", "1")
    older = first.session("anna", session)
    assert (newer.header, older.header) == (f"{NAME}/2", f"{NAME}/1")
    down()
    for served in (first, ServedAdaptations(small_models, registry, 1)):
        found = served.session("anna", session)
        assert found.header == f"{NAME}/1" and found.served[-1].source == "cache" and found.models.adapted
        assert found.models.versions == older.models.versions != newer.models.versions
    with pytest.raises(RegistryUnavailableError, match=r"cannot be reached .* no earlier model in the"):
        first.session("ben", session)


def test_a_registry_that_goes_away_before_the_download_is_down_too(
    registry: ModelRegistry, small_models: Models, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, session = ServedAdaptations(small_models, registry, 1), Session(small_models, ())
    promote(0.1)
    served.session("anna", session)
    promote(0.2)

    def gone(*_: object) -> Path:
        raise RegistryUnavailableError("the registry at here cannot be reached (gone)")

    monkeypatch.setattr(registry, "download", gone)
    assert served.session("anna", session).header == f"{NAME}/1"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_what_is_not_as_it_was_downloaded_is_not_edited_with(
    registry: ModelRegistry, small_models: Models, promote: Promote, down: Callable[[], None], damage: str
) -> None:
    served, session = ServedAdaptations(small_models, registry, 1), Session(small_models, ())
    promote(0.1)
    served.session("anna", session)
    (config,) = registry.cache.glob(f"{NAME}/1-*/config.json")
    if damage == "gone":
        shutil.rmtree(config.parent)
    else:
        config.write_text(config.read_text().replace("form 17", "form 18"))
    down()
    with pytest.raises(RegistryUnavailableError, match=r"the last good model in .* is damaged"):
        served.session("anna", session)


def test_a_consent_that_ran_out_ends_it_in_the_cache_too(
    registry: ModelRegistry, small_models: Models, promote: Promote, down: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    served, session = ServedAdaptations(small_models, registry, 2), Session(small_models, ())
    promote(0.1)
    served.session("anna", session)
    promote(0.2, expires="2900-12-31")
    served.session("anna", session)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2901, 1, 1, tzinfo=UTC)

    monkeypatch.setattr("services.consent.datetime", Later)
    for registry_is in ("up", "down"):
        if registry_is == "down":
            down()
        for one in (served, ServedAdaptations(small_models, registry, 2)):
            with pytest.raises(BadInputError, match="the consent for anna ran out on 2900-12-31"):
                one.session("anna", session)


def test_a_champion_whose_consent_ran_out_before_it_was_asked_for_leaves_no_older_one(
    registry: ModelRegistry, small_models: Models, promote: Promote, down: Callable[[], None]
) -> None:
    served, session = ServedAdaptations(small_models, registry, 2), Session(small_models, ())
    promote(0.1)
    served.session("anna", session)
    promote(0.2, expires="2026-01-01")
    for ask in range(2):
        if ask:
            down()
        with pytest.raises(BadInputError, match="the consent for anna ran out on 2026-01-01"):
            served.session("anna", session)


def test_who_has_no_champion_any_more_is_not_edited_with_when_the_registry_is_down(
    registry: ModelRegistry, small_models: Models, promote: Promote, down: Callable[[], None]
) -> None:
    served, session = ServedAdaptations(small_models, registry, 1), Session(small_models, ())
    promote(0.1)
    served.session("anna", session)
    with registry.connection.reach() as client:  # as another server forgets a person
        client.delete_registered_model(NAME)
    with pytest.raises(BadInputError, match="no adaptation of anna"):
        served.session("anna", session)
    down()
    with pytest.raises(RegistryUnavailableError, match="no earlier model"):
        served.session("anna", session)
