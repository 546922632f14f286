"""The loss ablation: every row on the same budget, one loss more each time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from datamodules.types import BadInputError
from services.ablation import AblationSettings, with_phase
from services.settings import load_params
from services.training import FrameEncoderSettings

PARAMS = load_params(environment={})
SETTINGS = PARAMS.section("ablation", AblationSettings)


def test_each_row_has_the_losses_of_the_one_before_and_more() -> None:
    rows = [dict(weights) for weights in SETTINGS.losses.values()]
    assert list(SETTINGS.losses) == ["L2", "+ Lp", "+ Lf", "+ Lv"] and rows[0] == {"l2": 1.0}
    for fewer, more in pairwise(rows):
        assert fewer.items() < more.items()


def test_a_row_is_one_phase_of_the_encoders_own_training() -> None:
    base = PARAMS.section("frame_encoder", FrameEncoderSettings)
    phase = replace(base.training.phases[-1], name="L2", steps=7, weights={"l2": 1.0})
    whole = with_phase(base, phase, 0.9)
    assert whole.training.phases == (phase,) and whole.training.ends == (7,) and whole.training.ema_decay == 0.9
    assert whole.trainer.validate_every == 7 and whole.trainer.seed == base.trainer.seed
    assert whole.network == base.network and whole.softening == base.softening


@pytest.mark.parametrize("override", ["ablation.losses={}", "ablation.losses={L2: {}}"])
def test_a_row_without_losses_is_refused(override: str) -> None:
    with pytest.raises(BadInputError, match="at least one loss"):
        load_params(overrides=[override], environment={}).section("ablation", AblationSettings)
