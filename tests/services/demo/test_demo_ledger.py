import json
from pathlib import Path

import pytest

from services.demo.ledger import Ledger


class Steps:
    """Counts how often a step is done."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.ledger = Ledger(folder / "ledger", self.said.append)
        self.out = folder / "out.txt"
        self.times = 0

    def go(self, stands=lambda result: True, **inputs: object):
        def make() -> dict[str, object]:
            self.times += 1
            self.out.write_text(json.dumps(inputs))
            return {"times": self.times, "share": float("nan"), "where": self.out}

        return self.ledger.step("write", inputs, [self.out], make, stands)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


def test_the_same_inputs_are_not_done_twice(steps: Steps) -> None:
    first, second = steps.go(a=1, b="x"), steps.go(b="x", a=1)
    assert steps.times == 1 and first.redone and not second.redone
    assert second.result == first.result == {"times": 1, "share": None, "where": str(steps.out)}
    assert second.seconds == first.seconds
    assert steps.said == ["write …", "write: as before"]


def test_a_changed_input_is_done_again(steps: Steps) -> None:
    steps.go(a=1)
    assert steps.go(a=2).redone and steps.go(a=1).redone and steps.times == 3


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_an_output_that_is_not_as_it_was_is_made_again(steps: Steps, damage: str) -> None:
    steps.go(a=1)
    steps.out.unlink() if damage == "gone" else steps.out.write_text("else")
    assert steps.go(a=1).redone
    assert json.loads(steps.out.read_text()) == {"a": 1}


def test_a_damaged_record_counts_as_none(steps: Steps) -> None:
    steps.go(a=1)
    (steps.ledger.folder / "write.json").write_text("{")
    assert steps.go(a=1).redone


def test_a_step_that_fails_leaves_no_record(steps: Steps, tmp_path: Path) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        steps.ledger.step("write", {"a": 1}, [], fail)
    assert list(steps.ledger.folder.iterdir()) == []
    assert steps.go(a=1).redone


def test_a_result_that_no_longer_stands_is_done_again(steps: Steps) -> None:
    steps.go(a=1)
    seen: list[object] = []

    def stands(result: object) -> bool:
        seen.append(result)
        return len(seen) > 1

    redone = [steps.go(stands, a=1).redone for _ in "12"]
    assert redone == [True, False] and steps.times == 2
    assert seen == [{"times": times, "share": None, "where": str(steps.out)} for times in (1, 2)]
