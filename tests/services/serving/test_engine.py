"""What the engine says of its slots, and which jobs it does not take."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError
from services.pipeline.models import Models
from services.serving.engine import Engine, notes_of
from services.serving.session import Session
from services.serving.slots import ServedVersion, SlotState
from services.serving.turns import Turns
from services.settings import load_params

DOWN = "the registry cannot be reached"


def state(name: str, error: str, serving: bool = False) -> SlotState:
    version = ServedVersion(name, "2", "w c", None, "cache") if serving else None
    return SlotState(name, version, "down", error, "")


def test_what_is_said_of_several_models_is_one_line() -> None:
    shipped = "the shipped one serves"
    notes = notes_of([
        (state("a", DOWN), shipped), (state("b", ""), shipped), (state("c", DOWN), shipped),
        (state("d", DOWN), "there is none"), (state("e", DOWN, serving=True), shipped),
        (state("f", "f has no champion"), shipped), (state("g", "g has no champion"), shipped),
    ])  # fmt: skip
    assert notes == [
        f"a, c: {DOWN}; {shipped}", f"d: {DOWN}; there is none", f"e: {DOWN}", f"f, g: has no champion; {shipped}"
    ]  # fmt: skip
    assert notes_of([]) == []


def test_minutes_are_not_spent_on_an_output_that_is_the_input(
    toy_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(load_params(), Turns())
    monkeypatch.setattr(engine, "session", lambda: Session(toy_models, ()))
    nothing = {"edits": [{"name": "age", "strength": 0.0}], "options": {"adapt": "true"}}
    with pytest.raises(BadInputError, match="no edit was asked") as refused:
        engine.check(nothing)
    assert refused.value.status == 422
    engine.check({"edits": [{"name": "age", "strength": 1.0}], "options": {"adapt": "true"}})
    engine.check(nothing | {"options": {"adapt": "true", "paste": "replace"}})
    engine.check({"edits": [], "options": {"adapt": "true"}, "factor": 2})
