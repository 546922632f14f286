import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.types import BadInputError
from services.model_names import NAMES
from services.registry.errors import GateRefusedError, NoSuchVersionError, exit_code
from services.registry.gate import Evaluation, GateConfig
from services.registry.promote import ModelRegistry
from services.registry.store import CHALLENGER, CHAMPION, PREVIOUS, ROLLED_BACK, RegisteredVersion

NAME = "stylereel-frame-encoder"
Toy = Callable[..., Path]
Evaluate = Callable[..., Evaluation]


class Shelf:
    """A registry with a way to put in toy models of a given quality."""

    def __init__(self, registry: ModelRegistry, gate: GateConfig, toy_model: Toy, evaluation: Evaluate) -> None:
        self.registry, self.gate, self.toy_model, self.evaluation = registry, gate, toy_model, evaluation

    def add(self, value: float, psnr: float, data: str = "clips-1") -> RegisteredVersion:
        folder = self.toy_model(value)
        return self.registry.register(folder, NAME, self.evaluation(folder, psnr, data))

    def promote(self, version: str | None = None, **more: object) -> str:
        return self.registry.promote(NAME, self.gate, version, **more).champion.version  # type: ignore[arg-type]

    def aliases(self) -> dict[str, str]:
        return dict(self.registry._aliases(NAME))

    def history(self) -> list[tuple[str, str, str | None]]:
        return [(e.action, e.version, e.champion_before) for e in self.registry.history(NAME)]


@pytest.fixture
def shelf(registry: ModelRegistry, gate: GateConfig, toy_model: Toy, evaluation: Evaluate) -> Shelf:
    return Shelf(registry, gate, toy_model, evaluation)


def test_the_champion_registered_again_leaves_the_challenger_its_place(shelf: Shelf) -> None:
    one = shelf.add(1, 12.0)
    assert shelf.promote() == "1"
    assert shelf.add(2, 13.0).version == "2"
    assert shelf.add(1, 12.5).version == one.version
    assert shelf.aliases() == {CHALLENGER: "2", CHAMPION: "1"}
    assert shelf.promote() == "2"


def test_history_knows_its_models(shelf: Shelf) -> None:
    with pytest.raises(BadInputError, match="no registered model is called 'stylereel-frame'"):
        shelf.registry.history("stylereel-frame")


def test_the_whole_life(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    assert shelf.promote() == "1"
    shelf.add(2, 13.0)
    assert shelf.promote(user="night shift") == "2"
    assert shelf.aliases() == {CHALLENGER: "2", CHAMPION: "2", PREVIOUS: "1"}
    [row, *_] = shelf.registry.status()
    assert (row.champion, row.challenger, row.previous) == ("2", None, "1"), "nobody challenges any more"

    shelf.add(3, 12.0)
    with pytest.raises(GateRefusedError, match="psnr 12 < the champion's 13") as caught:
        shelf.promote()
    assert exit_code(caught.value) == 3
    assert shelf.aliases() == {CHALLENGER: "3", CHAMPION: "2", PREVIOUS: "1"}

    assert shelf.registry.rollback(NAME, why="it flickers").champion.version == "1"
    assert shelf.aliases() == {CHALLENGER: "3", CHAMPION: "1", PREVIOUS: "2"}
    assert shelf.history() == [
        ("promoted", "1", None),
        ("promoted", "2", "1"),
        ("refused", "3", "2"),
        ("rolled back", "1", "2"),
    ]
    events = shelf.registry.history()
    assert events[1].user == "night shift"
    assert "13 >= floor 10" in events[1].why
    assert events[3].why == "it flickers"
    assert [event.time for event in events] == sorted(event.time for event in events)

    [row, *others] = shelf.registry.status()
    assert (row.champion, row.challenger, row.previous, row.versions, row.note) == ("1", "3", "2", 3, "")
    assert [row.name for row in (row, *others)] == list(NAMES)
    assert all(other.versions == 0 and other.champion is None for other in others)


def test_below_the_floor_is_refused_without_a_champion(shelf: Shelf) -> None:
    shelf.add(1, 9.9)
    with pytest.raises(GateRefusedError, match="floor 10"):
        shelf.promote()
    assert CHAMPION not in shelf.aliases()


def test_nan_and_no_evaluation_are_refused(shelf: Shelf) -> None:
    shelf.add(1, float("nan"))
    with pytest.raises(GateRefusedError, match="psnr is nan"):
        shelf.promote()
    shelf.registry.register(shelf.toy_model(2), NAME)
    with pytest.raises(GateRefusedError, match="no evaluation"):
        shelf.promote()
    assert CHAMPION not in shelf.aliases()


def test_the_champion_is_measured_again_on_new_data(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    shelf.add(2, 11.0, "clips-2")
    with pytest.raises(GateRefusedError, match="was not measured on data clips-2"):
        shelf.promote()

    asked: list[tuple[str, str]] = []

    def measure(version: RegisteredVersion, folder: Path, like: Evaluation) -> Evaluation:
        asked.append((version.version, like.data_hash))
        return shelf.evaluation(folder, 10.5, like.data_hash)

    assert shelf.promote(re_evaluate=measure) == "2"
    assert asked == [("1", "clips-2")]
    again = shelf.registry.version(NAME, "1").evaluation("clips-2")
    assert again is not None
    assert again.metrics == {"psnr": 10.5}


def test_what_an_earlier_version_noted_of_the_champion_counts_as_not_measured(shelf: Shelf) -> None:
    first = shelf.add(1, 12.0)
    shelf.promote()
    [key] = [key for key in first.tags if key.startswith("evaluation.")]
    noted = json.loads(first.tags[key])
    del noted["config_sha256"]
    with shelf.registry.connection.reach() as client:
        client.set_model_version_tag(NAME, "1", key, json.dumps(noted))
    shelf.add(2, 13.0)
    with pytest.raises(GateRefusedError, match="was not measured on data clips-1"):
        shelf.promote()
    assert shelf.promote(re_evaluate=lambda version, folder, like: shelf.evaluation(folder, 12.0)) == "2"


def test_the_champion_is_not_measured_for_a_hopeless_challenger(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    shelf.add(2, 3.0, "clips-2")
    with pytest.raises(GateRefusedError, match="floor"):
        shelf.promote(re_evaluate=lambda *_: pytest.fail("measured for nothing"))


def test_measuring_other_data_than_asked_does_not_pass(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    shelf.add(2, 14.0, "clips-2")
    with pytest.raises(GateRefusedError, match="clips-3"):
        shelf.promote(re_evaluate=lambda _version, folder, _like: shelf.evaluation(folder, 10.5, "clips-3"))


def test_promoting_twice_changes_nothing(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    before = shelf.aliases(), shelf.history()
    again = shelf.registry.promote(NAME, shelf.gate)
    assert not again.changed
    assert (shelf.aliases(), shelf.history()) == before


def test_a_rolled_back_version_does_not_come_back_by_itself(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    shelf.add(2, 13.0)
    shelf.promote()
    shelf.registry.rollback(NAME)
    with pytest.raises(NoSuchVersionError, match="no challenger"):
        shelf.promote()
    shelf.add(2, 13.0)  # the schedule makes the very same model again
    with pytest.raises(NoSuchVersionError, match="no challenger"):
        shelf.promote()
    assert shelf.promote("2") == "2"
    assert shelf.add(2, 13.0).version == shelf.aliases()[CHALLENGER] == "2", "named once, it is as good as others"


def test_rollback_goes_there_and_back(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    shelf.promote()
    with pytest.raises(NoSuchVersionError, match="no previous"):
        shelf.registry.rollback(NAME)
    shelf.add(2, 13.0)
    shelf.promote()
    for champion, previous in (("1", "2"), ("2", "1")):
        shelf.registry.rollback(NAME)
        aliases = shelf.aliases()
        assert (aliases[CHAMPION], aliases[PREVIOUS]) == (champion, previous)
        assert ROLLED_BACK not in shelf.registry.version(NAME, champion).tags, "who serves is not called back"
        assert ROLLED_BACK in shelf.registry.version(NAME, previous).tags


def test_a_model_of_another_generator_is_turned_away(shelf: Shelf) -> None:
    shelf.add(1, 12.0)
    with pytest.raises(BadInputError, match="b" * 64) as caught:
        shelf.promote(generator_sha256="b" * 64)
    assert "a" * 64 in str(caught.value)
    assert shelf.promote(generator_sha256="a" * 64) == "1"


@pytest.mark.parametrize("action", ["promote", "rollback"])
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_crash_between_the_writes_is_told_and_repaired(
    shelf: Shelf, action: str, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after the plan and ``writes`` of: previous, champion, history, before the plan is struck out."""
    for value, psnr in ((1, 12.0), (2, 13.0)):
        shelf.add(value, psnr)
        shelf.promote()
    shelf.add(3, 14.0)
    left = [writes]

    def cut(name: str) -> None:
        real = getattr(shelf.registry.connection._connect(), name)

        def once(client: object, *args: object) -> None:
            if name != "set_registered_model_tag" or args[1] != "pending":
                if left[0] == 0:
                    raise SystemExit("cut")
                left[0] -= 1
            real(*args)

        monkeypatch.setattr(f"mlflow.MlflowClient.{name}", once)

    cut("set_registered_model_alias")
    cut("set_registered_model_tag")
    cut("delete_registered_model_tag")
    with pytest.raises(SystemExit):
        if action == "promote":
            shelf.promote()
        else:
            shelf.registry.rollback(NAME)
    monkeypatch.undo()

    assert "cut off" in shelf.registry.status()[0].note
    assert shelf.aliases()[CHAMPION] in {"1", "2", "3"}, "there is a champion at every moment"
    if action == "promote":
        assert shelf.registry.repair(NAME) is not None
    else:  # asked again it is completed: not swapped once more, back to the bad one
        assert shelf.registry.rollback(NAME).champion.version == "1"
        assert ROLLED_BACK in shelf.registry.version(NAME, "2").tags
    new = "3" if action == "promote" else "1"
    aliases = shelf.aliases()
    assert (aliases[CHAMPION], aliases[PREVIOUS]) == (new, "2")
    assert shelf.history()[2:] == [("promoted" if action == "promote" else "rolled back", new, "2")]
    assert shelf.registry.status()[0].note == ""
    assert shelf.registry.repair(NAME) is None


def test_the_evaluation_that_was_read_is_the_registered_one(shelf: Shelf) -> None:
    """The gate reads what lies in the registry, not what a caller hands to it."""
    made = shelf.add(1, 12.0)
    stored = made.evaluation()
    assert stored is not None
    worse = replace(stored, metrics={"psnr": 3.0})
    shelf.registry.evaluate(made, worse)
    with pytest.raises(GateRefusedError):
        shelf.promote()
    assert json.loads(shelf.registry.version(NAME, "1").evaluation().to_json())["metrics"] == {"psnr": 3.0}  # type: ignore[union-attr]
