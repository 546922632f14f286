"""Channel edits against arithmetic by hand on a small generator; the random identity's seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import ChannelEdit, joined, load_stylespace, save_stylespace

SHA = "a" * 64


class Small:
    """Two layers of styles, affine in the codes; the picture lists the styles."""

    sha256 = SHA

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        return {"first": ws[:, 0] * 2, "second": ws[:, 1, :3] - 1}

    def synthesize(self, ws: Tensor, transform: None = None, resolution: int | None = None) -> Tensor:
        return self.synthesize_from_styles(self.styles(ws), resolution=resolution)

    def synthesize_from_styles(
        self, styles: dict[str, Tensor], transform: None = None, resolution: int | None = None
    ) -> Tensor:
        return torch.cat(list(styles.values()), 1)


def channels(name: str = "lips") -> ChannelEdit:
    return ChannelEdit(name, "steps", (("second", 2), ("first", 0)), torch.tensor([0.5, -3.0]), -2, 3, SHA)


def identity() -> RandomIdentity:
    basis = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32))
    return RandomIdentity("random_identity", "identities", basis, torch.tensor([0.0, 1.0]), 1.5, SHA)


def codes() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((3, 2, 4)).astype(np.float32))


def test_synthesis_is_that_of_styles_moved_by_hand() -> None:
    older = Direction("age", "years", torch.ones(2, 4), -20, 30, SHA)
    edits = joined({"lips": channels()}, {"age": older}, {"random_identity": identity()})
    requests = [EditRequest("lips", 2.0), EditRequest("age", 5.0), EditRequest("random_identity", 1.0)]
    got = edits.synthesize(Small(), codes(), requests, seed=4)  # type: ignore[arg-type]
    ws = codes() + 5.0 + identity().change(4)
    wanted = torch.cat([ws[:, 0] * 2, ws[:, 1, :3] - 1], 1)
    wanted[:, 0] += 2 * -3.0
    wanted[:, 4 + 2] += 2 * 0.5
    torch.testing.assert_close(got, wanted)


def test_strength_zero_changes_no_bit_and_given_styles_are_not_touched() -> None:
    edits = EditSet([channels(), identity()])
    still = [EditRequest("lips", 0.0), EditRequest("random_identity", 0.0)]
    ws = codes()
    assert torch.equal(edits.synthesize(Small(), ws, still), Small().synthesize(ws))  # type: ignore[arg-type]
    assert torch.equal(edits.apply(ws, [EditRequest("lips", 2.0)]), ws)
    styles = Small().styles(ws)
    before = {name: value.clone() for name, value in styles.items()}
    moved = channels().restyle(styles, 1.0)
    assert all(torch.equal(styles[name], before[name]) for name in styles)
    assert not torch.equal(moved["first"], styles["first"])


def test_whether_channels_are_for_colours_is_kept_and_unknown_of_older_folders(tmp_path: Path) -> None:
    lips, lids = channels("lips"), replace(channels("lids"), recolours=False)
    folder = save_stylespace(tmp_path / "edits", [lips, lids, identity()], "# card\n")
    assert [edit.recolours for edit in load_stylespace(folder, SHA).values()] == [True, False, True]
    config = json.loads((folder / "config.json").read_text())
    for row in config["edits"]:
        row.pop("recolours", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert all(edit.recolours for edit in load_stylespace(folder, SHA).values())


def test_two_edits_of_one_channel_add_up() -> None:
    edits = EditSet([channels("a"), channels("b")])
    both = edits.synthesize(Small(), codes(), [EditRequest("a", 1.0), EditRequest("b", 0.5)])  # type: ignore[arg-type]
    once = edits.synthesize(Small(), codes(), [EditRequest("a", 1.5)])  # type: ignore[arg-type]
    torch.testing.assert_close(both, once)


@pytest.mark.parametrize(
    ("name", "strength", "said"),
    [
        ("lips", 3.1, "'lips' goes from -2 to .3 steps"),
        ("random_identity", -0.1, "from .0 to"),
        ("hat", 1, "'hat'"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, strength: float, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        EditSet([channels(), identity()]).synthesize(
            Small(),  # type: ignore[arg-type]
            codes(),
            [EditRequest(name, strength)],
        )


def test_styles_that_lack_the_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="'second'"):
        channels().restyle({"first": torch.zeros(1, 4)}, 1.0)
    with pytest.raises(ValueError, match="channel 2"):
        channels().restyle({"first": torch.zeros(1, 4), "second": torch.zeros(1, 2)}, 1.0)
    with pytest.raises(ValueError, match="twice"):
        ChannelEdit("x", "", (("a", 0), ("a", 0)), torch.ones(2), -1, 1, SHA)
    with pytest.raises(ValueError, match="one finite amount"):
        ChannelEdit("x", "", (("a", 0),), torch.tensor([torch.nan]), -1, 1, SHA)


def test_a_seed_is_one_change_on_every_frame() -> None:
    edit, ws = identity(), codes()
    change = edit(ws, 1.0, seed=7) - ws
    torch.testing.assert_close(change[0], change[2])
    torch.testing.assert_close(change[1], edit.change(7))
    assert torch.equal(edit(ws, 1.0, seed=7), edit(ws, 1.0, seed=7))
    assert (edit(ws, 1.0, seed=8) - edit(ws, 1.0, seed=7)).abs().max() > 0.1
    assert torch.equal(change[:, 0], torch.zeros(3, 4))
    torch.testing.assert_close(edit(ws, 0.5, seed=7) - ws, change / 2)


def test_people_that_are_none_or_no_numbers_are_refused() -> None:
    rows = torch.ones(2)
    for people, upper in ((torch.zeros(0, 4), 1.0), (torch.zeros(4), 1.0), (torch.ones(1, 4), float("inf"))):
        with pytest.raises(ValueError, match="bounds from 0"):
            RandomIdentity("r", "", people, rows, upper, SHA)
    with pytest.raises(ValueError, match="finite"):
        RandomIdentity("r", "", torch.full((1, 4), torch.nan), rows, 1.0, SHA)
    with pytest.raises(ValueError, match="moves codes"):
        identity()(torch.zeros(1, 3, 4), 1.0)


def test_seeds_choose_among_the_people_in_turn() -> None:
    people = identity().people
    for seed in (0, 1, 2, 5):
        torch.testing.assert_close(identity().change(seed)[1], people[seed % 3])


def test_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    hair = ChannelEdit("hair", "L*", (("first", 1),), torch.ones(1), -1, 1, SHA, whole_head=True)
    folder = save_stylespace(tmp_path / "stylespace", [channels(), hair, identity()], "# Card\n")
    loaded = load_stylespace(folder, SHA)
    assert loaded.describe() == EditSet([channels(), hair, identity()]).describe()
    lips, back = loaded["lips"], loaded["random_identity"]
    assert isinstance(lips, ChannelEdit) and isinstance(back, RandomIdentity)
    assert lips.channels == channels().channels and torch.equal(lips.amounts, channels().amounts)
    assert loaded["hair"].whole_head and not lips.whole_head
    torch.testing.assert_close(back.change(3), identity().change(3), rtol=1e-3, atol=1e-3)


def test_another_generators_channels_are_refused_with_both_hashes(tmp_path: Path) -> None:
    folder = save_stylespace(tmp_path / "stylespace", [channels()], "")
    with pytest.raises(BadInputError, match=f"{SHA}.*{'b' * 64}"):
        load_stylespace(folder, "b" * 64)
    (folder / "weights.safetensors").write_bytes(
        save_stylespace(tmp_path / "other", [channels("x")], "").joinpath("weights.safetensors").read_bytes()
    )
    with pytest.raises(BadInputError, match="damaged"):
        load_stylespace(folder, SHA)
    with pytest.raises(ValueError, match="no edits"):
        save_stylespace(tmp_path / "none", [], "")
