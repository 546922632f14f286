"""What edits are balanced by: what is made of other edits is not among it."""

from __future__ import annotations

import numpy as np
import torch

from services.balancing import balancing_of
from services.direction_settings import DirectionSettings
from services.settings import load_params


def test_what_is_not_balanced_is_neither_measured_nor_held() -> None:
    params = load_params()
    edits = params.section("directions", DirectionSettings).edits
    balancing = balancing_of(params)
    assert list(balancing.units) == [name for name, edit in edits.items() if edit.balanced]
    assert {"surprise", "anger"} == edits.keys() - balancing.units.keys()
    assert list(balancing.typical) == list(balancing.units)


def test_it_measures_in_units_of_the_edits() -> None:
    balancing = balancing_of(load_params())
    measure = balancing.measure(
        lambda _: torch.zeros(2, 3, 4, 4),
        lambda _: {name: np.full(2, 3.0, np.float32) for name in balancing.units},
    )
    units = [unit.per_unit for unit in balancing.units.values()]
    np.testing.assert_allclose(measure([]), [[3.0 / unit for unit in units]] * 2)
