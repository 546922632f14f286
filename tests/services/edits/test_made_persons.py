"""Made persons, chosen by how far they move the points of a judge whose faces are a function of the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.random_identity import RandomIdentity
from services.edits.appearance import Look
from services.edits.random_identity import RandomIdentitySettings, fine_detail, random_identity
from services.edits.stylespace import StylespaceSettings
from services.settings import load_params

DIM, ROWS = 8, 3
GENERATOR: Any = SimpleNamespace(num_ws=ROWS, w_mean=torch.full((DIM,), 0.5), sha256="toy")


def render(ws: Tensor, edits: EditSet[Any], requests: Sequence[EditRequest], seed: int = 0) -> Tensor:
    """The last row of the codes is the picture."""
    return edits.apply(ws, requests, seed)[:, None, -1:]


def judge(pictures: Tensor) -> Look:
    """The first number of the last row moves all points but the eyes; below -4 in the second no face is seen."""
    points = torch.arange(468.0)[None, :, None].repeat(len(pictures), 1, 3)
    points[:, :10] += pictures[:, 0, :, :1]
    seen = pictures[:, 0, 0, 1] > -4
    return Look({"yaw": torch.where(seen, 0.0, torch.nan)}, {}, points)


class Embedding:
    """Likeness falls with the first six numbers of the last row, 3 / sqrt(9 + their square)."""

    def embed(self, pictures: Tensor) -> Tensor:
        told = torch.nn.functional.pad(pictures[:, 0, 0, :6], (0, 1), value=3.0)
        return torch.nn.functional.normalize(told, dim=1)


JUDGE: Any = judge
IDENTITY: Any = Embedding()


@pytest.fixture
def settings() -> RandomIdentitySettings:
    shipped = load_params().section("stylespace", StylespaceSettings).random_identity
    return replace(
        shipped,
        people=40, chosen=5, rows=(0.0, 1.0, 1.0), keeps=("yaw",), lengths=(0.5, 1.0, 1.5), likeness=0.3,
        burnt=1.0, detail=0.0, most_detail=0.0, upper=1.0,
    )  # fmt: skip


@pytest.fixture
def codes() -> Tensor:
    z = torch.randn(40, 1, DIM, generator=torch.Generator().manual_seed(0))
    return 0.5 + 3 * z.repeat(1, ROWS, 1)


def turn() -> dict[str, Direction]:
    """Turns by the third number in the rows that are moved; the first row, which is not, has another one."""
    vector = torch.zeros(ROWS, DIM)
    vector[0, 3] = vector[1, 2] = vector[2, 2] = 0.1
    return {"yaw": Direction("yaw", "degrees", vector, -20, 20, "toy")}


def made(settings: RandomIdentitySettings, codes: Tensor, **others: Any) -> RandomIdentity:
    tried_on = torch.zeros(2, ROWS, DIM)
    directions = others.get("directions", turn())
    return random_identity(settings, GENERATOR, codes, directions, tried_on, render, JUDGE, IDENTITY)


def test_the_persons_that_move_landmarks_least_are_kept_without_what_turns_the_head(settings, codes) -> None:
    edit, more = made(settings, codes), made(replace(settings, chosen=12), codes).people
    assert edit.people.shape == (5, DIM)
    kept = [bool((person == edit.people).all(1).any()) for person in more]
    shifts = more[:, 0].abs()
    assert sum(kept) == 5 and shifts[kept].max() < shifts[[not one for one in kept]].min()
    assert not torch.equal(shifts, shifts.sort().values)  # but in the order of the draw
    drawn = torch.nn.functional.normalize(codes[:, 0] - 0.5, dim=1)
    places = (torch.nn.functional.normalize(more, dim=1) @ drawn.T).argmax(1)
    assert torch.equal(places, places.sort().values)
    assert edit.people[:, 2].abs().max() < 1e-2 and edit.people[:, 3].abs().max() > 0.5


def test_each_goes_as_far_as_it_takes_to_hide(settings, codes) -> None:
    people = made(settings, codes).people
    alike = 3 / (9 + people[:, :6].square().sum(1)).sqrt()
    # Straight lines between the lengths tried lie above the hyperbola, by this much at most.
    assert float(alike.max()) <= 0.3 + 1e-3 and float(alike.min()) > 0.22
    lengths = people.norm(dim=1) / float((codes[:, 0] - 0.5).norm(dim=1).mean())
    assert float(lengths.max()) <= 1.5 + 1e-3 and float(lengths.max() - lengths.min()) > 0.05


def test_a_person_who_hides_nobody_or_under_whom_no_face_is_seen_is_not_kept(settings, codes) -> None:
    with pytest.raises(BadInputError, match=r"only \d+ of 40 made persons hide a face and leave it one, 40 are"):
        made(replace(settings, chosen=40), codes)
    with pytest.raises(BadInputError, match="only 0 of 40"):
        made(replace(settings, likeness=0.01), codes)
    with pytest.raises(BadInputError, match="only 0 of 40"):
        made(replace(settings, burnt=0.0), codes)
    for person in made(replace(settings, chosen=12), codes).people:
        assert float(person[1]) > -4


def test_fine_detail_is_what_a_blur_takes() -> None:
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    assert (fine_detail(blurred) < 0.3 * fine_detail(noise)).all()
    torch.testing.assert_close(fine_detail(3 * noise + 0.5), 3 * fine_detail(noise))
    assert fine_detail(torch.arange(32.0).expand(1, 3, 32, 32)).item() == 0.0
    curved = torch.arange(32.0).square().expand(1, 3, 32, 32)
    assert fine_detail(curved).item() == pytest.approx(2.0)


def test_who_leaves_fog_of_a_face_or_tears_it_is_not_kept(settings, codes) -> None:
    board = (torch.arange(DIM)[:, None] + torch.arange(DIM)) % 2 * 2.0 - 1

    def foggy(ws: Tensor, edits: EditSet[Any], requests: Sequence[EditRequest], seed: int = 0) -> Tensor:
        """Below the code, the first line: a board, faint where its seventh number is above 0.1, harsh below."""
        code = render(ws, edits, requests, seed)
        strength = torch.where(code[:, 0, 0, 6] > 0.1, 0.5, torch.where(code[:, 0, 0, 6] < -0.1, 2.0, 1.0))
        return torch.cat([code, strength[:, None, None, None] * board[None, None, 1:]], 2)

    def seen(pictures: Tensor) -> Look:
        return judge(pictures[:, :, :1])

    def kept(least: float, most: float = 0.0) -> Tensor:
        asked: Any = replace(settings, detail=least, most_detail=most, chosen=5), GENERATOR, codes, turn()
        return random_identity(*asked, torch.zeros(2, ROWS, DIM), foggy, seen, IDENTITY).people

    assert (kept(0.4)[:, 6] > 0.2).any() and (kept(0.4)[:, 6] < -0.2).any()
    assert kept(0.6)[:, 6].max() <= 0.1
    assert kept(0.4, 1.9)[:, 6].min() >= -0.1 and (kept(0.4, 2.1)[:, 6] < -0.2).any()


def test_what_does_not_fit_is_refused(settings, codes) -> None:
    with pytest.raises(BadInputError, match="rows has 4 numbers, the generator 3"):
        made(replace(settings, rows=(0.0, 1.0, 1.0, 0.0)), codes)
    with pytest.raises(BadInputError, match="keeps names smile, which assets/directions lacks"):
        made(replace(settings, keeps=("yaw", "smile")), codes)
    with pytest.raises(BadInputError, match="must name 1"):
        replace(settings, measured=(0.5,))
    with pytest.raises(BadInputError, match=r"chosen must be 1 to people \(40\), got 41"):
        replace(settings, chosen=41)
    for likeness in (-1.0, 1.0):
        with pytest.raises(BadInputError, match="a likeness between -1 and 1"):
            replace(settings, likeness=likeness)
    with pytest.raises(BadInputError, match="people are 40 of spread_codes, which are 39"):
        made(settings, codes[:39])
    for lengths in ((), (1.0, 0.5), (0.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(BadInputError, match="lengths must rise from above 0"):
            replace(settings, lengths=lengths)
