"""A generator on the device and in the precision that ``params.runtime`` asks for."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from modules.generators import Generator, load_generator
from services.settings import Params


@runtime_checkable
class HasPrecision(Protocol):
    """A generator whose features can be computed in another precision than float32."""

    compute_dtype: torch.dtype


def generator_for(params: Params, source: str | None = None) -> Generator:
    """The default generator, or what ``load_generator`` takes, ready to compute as ``params.runtime`` says."""
    runtime = params.runtime
    runtime.apply_threads()
    device = runtime.torch_device()
    generator = load_generator(source, device) if source else load_generator(device=device)
    if runtime.bfloat16() and isinstance(generator, HasPrecision):
        generator.compute_dtype = torch.bfloat16
    return generator
