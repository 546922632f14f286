"""What directions are trained on: every edit of every code, both ways, the same again after a resume."""

import numpy as np
import pytest
import torch

from datamodules.edit_batches import EditBatches

WS = torch.arange(5.0)[:, None, None].expand(5, 2, 3)
PICTURES = np.broadcast_to((np.arange(5, dtype=np.uint8) * 51)[:, None, None, None], (5, 4, 4, 3)).copy()
BOUNDS = [(-20.0, 30.0), (-1.0, 1.5), (-2.0, 0.0)]


def batches(**changes) -> EditBatches:
    given = {"codes": 2, "steps": 40, "seed": 7, "least": 0.4, **changes}
    return EditBatches(WS, PICTURES, BOUNDS, **given)


def test_every_edit_is_asked_of_every_code_and_pictures_belong_to_them() -> None:
    for batch in batches():
        pairs = list(zip(batch["code"].tolist(), batch["edit"].tolist(), strict=True))
        assert sorted(pairs) == [(code, edit) for code in range(2) for edit in range(3)]
        shown = (batch["images"].mean((1, 2, 3)) + 1) / 2 * 5
        torch.testing.assert_close(shown, batch["ws"][:, 0, 0], atol=1e-5, rtol=0)


def test_strengths_go_both_ways_from_a_share_of_the_bound_to_the_whole() -> None:
    drawn = list(batches())
    edit = torch.cat([batch["edit"] for batch in drawn])
    strength = torch.cat([batch["strength"] for batch in drawn])
    for number, (lower, upper) in enumerate(BOUNDS):
        own = strength[edit == number]
        up, down = own[own > 0], own[own < 0]
        assert len(up) == (0 if upper == 0 else len(own) / 2)
        assert (down >= lower).all() and (down <= 0.4 * lower).all() and down.std() > 0
        assert (up <= upper).all() and (up >= 0.4 * upper).all()


def test_a_batch_is_a_function_of_its_number() -> None:
    whole, rest = list(batches()), list(batches(first_step=33))
    assert len(rest) == 7
    for one, other in zip(whole[33:], rest, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(whole[0]["strength"], whole[2]["strength"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="as many pictures"):
        EditBatches(WS[:4], PICTURES, BOUNDS, 1, 1, 0, 0.3)
    for bounds, least in ([(0.0, 0.0)], 0.3), ([(1.0, 2.0)], 0.3), ([(-1.0, 1.0)], 1.0):
        with pytest.raises(ValueError, match="around 0"):
            EditBatches(WS, PICTURES, bounds, 1, 1, 0, least)
