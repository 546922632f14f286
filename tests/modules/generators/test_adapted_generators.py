"""Adaptations of small real generators: what is kept of them, what they leave, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from conformance_cases import FOLDER
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.adaptation import (
    adaptable,
    adapted,
    difference_of,
    load_adaptation,
    quantised,
    restored,
    save_adaptation,
)
from modules.generators.load import load_generator
from modules.generators.protocol import Generator

SMALL = ("stylegan2-64-small", "stylegan3-r-64-small")


@pytest.fixture(scope="module", params=SMALL)
def base(request: pytest.FixtureRequest) -> Generator:
    return load_generator(FOLDER / f"{request.param}.pkl")


def moved_by(base: Generator, size: float = 0.01) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        name: size * torch.randn(value.shape, generator=random) * value.square().mean().sqrt()
        for name, value in adaptable(base).items()
    }


def codes(base: Generator) -> Tensor:
    return base.map(torch.randn(2, base.z_dim, generator=torch.Generator().manual_seed(1)))


def test_what_draws_the_picture_may_move_and_what_makes_codes_may_not(base: Generator) -> None:
    names = {name for name, _ in cast(nn.Module, base).named_parameters()}
    assert {name for name in names if name.startswith("mapping.")} == names - set(adaptable(base))
    assert adaptable(base)


def test_an_adapted_generator_draws_otherwise_at_the_same_codes_and_the_base_stays(base: Generator) -> None:
    ws = codes(base)
    before = base.synthesize(ws)
    difference = moved_by(base)
    after = adapted(base, difference)
    assert after.sha256 == base.sha256
    assert after.map(torch.ones(1, base.z_dim)).equal(base.map(torch.ones(1, base.z_dim)))
    assert (after.synthesize(ws) - before).abs().mean() > 1e-3
    assert base.synthesize(ws).equal(before)
    found = difference_of(after, base)
    assert found.keys() == difference.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, difference[name], rtol=1e-3, atol=1e-6)


def test_a_folder_keeps_an_adaptation_in_a_fifth_of_the_size(base: Generator, tmp_path: Path) -> None:
    difference = moved_by(base)
    folder = save_adaptation(tmp_path / "anna", difference, base.sha256, "# card\n", {"subject": {"name": "anna"}})
    kept = load_adaptation(folder, base.sha256)
    assert kept.config["subject"] == {"name": "anna"}
    ws = codes(base)
    exact, after = adapted(base, difference).synthesize(ws), adapted(base, kept.difference).synthesize(ws)
    change = exact - base.synthesize(ws)
    assert (after - exact).square().mean() < 1e-3 * change.square().mean()
    values = sum(value.numel() for value in difference.values())
    assert (folder / "weights.safetensors").stat().st_size < 1.5 * values + 40_000


def test_another_base_a_foreign_parameter_and_numbers_that_are_none_are_refused(
    base: Generator, tmp_path: Path
) -> None:
    difference = moved_by(base)
    folder = save_adaptation(tmp_path / "anna", difference, "f" * 64, "# card\n", {})
    with pytest.raises(BadInputError, match=f"{'f' * 64}.*{base.sha256}"):
        load_adaptation(folder, base.sha256)
    name = next(iter(difference))
    with pytest.raises(BadInputError, match="which this generator lacks"):
        adapted(base, {"synthesis.nothing": torch.zeros(1)})
    with pytest.raises(BadInputError, match="which this generator lacks"):
        adapted(base, {name: torch.zeros(1, 2, 3, 4, 5)})
    with pytest.raises(BadInputError, match="not finite; adapt again"):
        adapted(base, {name: torch.full_like(difference[name], torch.nan)})


def test_a_folder_whose_scales_are_gone_is_damaged(base: Generator, tmp_path: Path) -> None:
    from modules.model_folder import load_model, save_model

    folder = save_adaptation(tmp_path / "anna", moved_by(base), base.sha256, "# card\n", {})
    model = load_model(folder)
    left = {name: value for name, value in model.tensors.items() if not name.endswith(".scale")}
    save_model(folder, model.config, left, model.card)
    with pytest.raises(BadInputError, match=r"is damaged: .* adapt again"):
        load_adaptation(folder, base.sha256)


@given(st.integers(1, 5), st.integers(1, 7), st.floats(1e-12, 1e3), st.integers(0, 10))
def test_a_value_is_kept_to_half_a_step_of_its_row(rows: int, width: int, size: float, seed: int) -> None:
    value = size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    value[0] = 0
    whole, scale = quantised(value)
    assert whole.dtype == torch.int8 and scale.shape == (rows,)
    bound = value.abs().amax(1, keepdim=True) / 254
    assert ((restored(whole, scale) - value).abs() <= bound * 1.001 + 1e-30).all()
