"""What the engine says of its slots."""

from __future__ import annotations

from services.serving.engine import notes_of
from services.serving.slots import ServedVersion, SlotState

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
