"""The small real nets that are tuned in more than one file."""

from __future__ import annotations

import pytest
from conformance_cases import FOLDER

from modules.generators.load import load_generator
from modules.generators.protocol import Generator
from modules.losses.perceptual import PerceptualLoss, load_lpips


@pytest.fixture(scope="module")
def base() -> Generator:
    return load_generator(FOLDER / "stylegan2-64-small.pkl")


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return load_lpips("alex")
