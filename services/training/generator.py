"""The generator that networks are trained for, from ``params.yaml``."""

from __future__ import annotations

import logging
import os
from shutil import which
from typing import TYPE_CHECKING

from torch.utils._triton import has_triton

from datamodules.clips import ClipsConfig
from datamodules.types import BadInputError
from modules.generators.protocol import CompilesGradients, Generator
from services.precise_generator import generator_for
from services.settings import Params

if TYPE_CHECKING:
    from services.training.trainer import TrainerConfig

_log = logging.getLogger(__name__)


def training_generator(params: Params) -> Generator:
    """The generator of ``generator.source``, that networks are trained for, as ``params.runtime`` computes.

    Raises ``BadInputError`` for one whose pictures are smaller than the crops that networks learn from.
    """
    generator, side = generator_for(params), params.section("clips", ClipsConfig).size
    if generator.resolution < side:
        raise BadInputError(
            f"networks learn from crops of {side} px (clips.size), the generator of generator.source makes "
            f"{generator.resolution}: name a larger one"
        )
    return generator


def generator_to_train_through(params: Params, trainer: TrainerConfig) -> Generator:
    """``training_generator`` for a network that learns by thousands of renderings: compiled on a GPU if it can be.

    It stays as it is where ``trainer.compile`` says never, or where torch has no compiler to do it with.
    """
    generator = training_generator(params)
    wanted = trainer.compile == "auto" and params.runtime.torch_device() == "cuda"
    if wanted and isinstance(generator, CompilesGradients):
        if has_triton() and which(os.environ.get("CC", "cc")):
            generator.compile_gradients()
        else:
            _log.warning("renderings are not compiled: that takes triton and a C compiler; without, it is slower")
    return generator
