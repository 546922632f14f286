"""What the pipeline does not take from ``params.yaml``."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError
from services.pipeline.options import LEAST_SIDE, PipelineConfig
from services.settings import load_params


@pytest.mark.parametrize("key", ["chunk", "batch", "measure_every", "preview.every"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_of_nothing_is_refused_by_its_name(key: str, value: int) -> None:
    params = load_params(overrides=[f"pipeline.{key}={value}"])
    with pytest.raises(BadInputError, match=f"^pipeline.{key}: .* greater than 0, got {value}$"):
        params.section("pipeline", PipelineConfig)


@pytest.mark.parametrize("key", ["crop_size", "preview.size"])
def test_crops_too_small_to_be_compared_are_refused_by_their_name(key: str) -> None:
    params = load_params(overrides=[f"pipeline.{key}=32"])
    with pytest.raises(BadInputError, match=f"^pipeline.{key}: .* or equal to {LEAST_SIDE}, got 32$"):
        params.section("pipeline", PipelineConfig)


def test_a_side_of_nothing_is_refused() -> None:
    params = load_params(overrides=["pipeline.sizes=[256, 0]"])
    with pytest.raises(BadInputError, match=r"^pipeline\.sizes\.1: .* greater than 0, got 0$"):
        params.section("pipeline", PipelineConfig)


def test_crops_are_no_larger_than_what_the_generator_draws() -> None:
    config = load_params(environment={}).section("pipeline", PipelineConfig)
    assert config.within(1024) == config
    small = config.within(128)
    assert (small.crop_size, small.preview.size) == (128, 128)
    with pytest.raises(BadInputError, match=r"draws faces of 32 px.*name a larger one"):
        config.within(32)
