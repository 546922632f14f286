"""``stylereel params``: every key of params.yaml is listed, with its value and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import yaml

from datamodules.types import BadInputError
from services.settings import PARAMS, load_params
from services.shell.cli import run
from services.shell.params_command import SECTIONS, attribute_docstrings, dataclass_of, keys_of, params

RAW: dict[str, dict[str, Any]] = yaml.safe_load(PARAMS.read_text())


@dataclass(frozen=True)
class Inner:
    """A part."""

    size: int
    """In pixels,
    on one line."""


@dataclass(frozen=True)
class Outer:
    """Section ``outer``: a whole."""

    part: Inner
    """One of them."""
    parts: tuple[Inner, ...]
    """Many."""
    named: dict[str, Inner]
    """By name."""
    maybe: Inner | None
    """One or none."""
    count: Annotated[int, "checked"]
    """How many."""


def test_sections_are_those_of_the_file() -> None:
    assert set(SECTIONS) == set(RAW)


def test_nested_keys_are_listed_as_set_takes_them() -> None:
    given = {"part": {"size": 3}, "parts": [{"size": 1}], "named": {"a": {"size": 2}}, "maybe": None, "count": 7}
    keys = list(keys_of(Outer, given, "outer"))
    assert [(key.name, key.value) for key in keys if key.is_leaf] == [
        ("outer.part.size", 3),
        ("outer.parts[].size", None),
        ("outer.named.*.size", None),
        ("outer.maybe.size", None),
        ("outer.count", 7),
    ]
    assert keys[1].text == "In pixels, on one line."
    assert attribute_docstrings(Inner) == {"size": "In pixels, on one line."}


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_key_of_the_file_is_listed_with_its_value_and_its_meaning(
    section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = list(keys_of(dataclass_of(section), RAW[section], section))
    assert all(key.text for key in keys), [key.name for key in keys if not key.text]
    known = {key.name: key.value for key in keys}
    for key, value in RAW[section].items():
        assert f"{section}.{key}" in known
        if not isinstance(value, dict):
            assert known[f"{section}.{key}"] == value
    params(section)
    out = capsys.readouterr().out
    assert all(f"{section}.{key}" in out for key in RAW[section])


def test_a_key_alone_and_an_override(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["params", "pipeline.follow.steps", "--set", "pipeline.follow.steps=9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pipeline.follow.steps = 9\n")
    assert "--set pipeline.follow.steps=VALUE" in out
    load_params(overrides=["pipeline.follow.steps=9"])  # what the last line says is taken


def test_runtime_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    params("runtime.threads")
    assert "STYLEREEL_THREADS=VALUE" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing", "pipeline.nothing", "pipeline.follow.step"])
def test_what_is_not_there_is_said(name: str) -> None:
    with pytest.raises(BadInputError, match=r"params\.yaml has no"):
        params(name)
