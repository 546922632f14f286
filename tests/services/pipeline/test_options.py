"""What the pipeline does not take from ``params.yaml``."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError
from services.pipeline.options import PipelineConfig
from services.settings import load_params


@pytest.mark.parametrize("key", ["chunk", "batch", "measure_every", "preview.every"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_of_nothing_is_refused_by_its_name(key: str, value: int) -> None:
    params = load_params(overrides=[f"pipeline.{key}={value}"])
    with pytest.raises(BadInputError, match=f"^pipeline.{key}: .* greater than 0, got {value}$"):
        params.section("pipeline", PipelineConfig)
