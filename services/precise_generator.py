"""The generator of ``params.yaml``, on the device and in the precision that ``params.runtime`` asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modules.generators import Generator, load_generator
from modules.generators.load import DEFAULT_GENERATOR, DEFAULT_SHA256
from modules.generators.protocol import HasPrecision
from services.settings import ROOT, Params


@dataclass(frozen=True)
class GeneratorSettings:
    """Section ``generator``: which generator everything is trained, measured and edited with."""

    source: str
    """Whose codes everything is trained, measured and edited in: ``mobilestylegan-ffhq-1024``, which the shipped
    models are made for, or what ``load_generator`` takes. Relative paths are taken from the checkout."""

    def path(self) -> str | None:
        """What is not the default, for ``load_generator``."""
        return None if self.source == DEFAULT_GENERATOR else str(ROOT / self.source)


def exact_generator(params: Params, source: str | None = None) -> Generator:
    """The generator of the section ``generator``, or what ``load_generator`` takes, in float32: what measures.

    Raises ``BadInputError``.
    """
    runtime = params.runtime
    runtime.apply_threads()
    chosen = source or params.section("generator", GeneratorSettings).path() or DEFAULT_GENERATOR
    return load_generator(chosen, runtime.torch_device())


def generator_sha256(params: Params) -> str:
    """Of the generator of the section ``generator``, which is loaded only where it is not the default."""
    path = params.section("generator", GeneratorSettings).path()
    return DEFAULT_SHA256 if path is None else load_generator(path).sha256


def generator_for(params: Params, source: str | None = None) -> Generator:
    """``exact_generator``, ready to compute as ``params.runtime`` says."""
    generator = exact_generator(params, source)
    if params.runtime.bfloat16() and isinstance(generator, HasPrecision):
        generator.compute_dtype = torch.bfloat16
    return generator
