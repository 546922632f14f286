"""The generator of a training is compiled where that pays and can be."""

from __future__ import annotations

import dataclasses

import pytest

from services.settings import Runtime, load_params
from services.training import generator as training_generator_module
from services.training.generator import generator_to_train_through
from services.training.trainer import FrameEncoderSettings


@pytest.mark.parametrize(("device", "compile_", "triton", "compiled"), [
    ("cuda", "auto", True, True), ("cuda", "never", True, False), ("cpu", "auto", True, False),
    ("cuda", "auto", False, False),
])  # fmt: skip
def test_renderings_are_compiled_on_a_gpu_where_that_can_be(
    monkeypatch: pytest.MonkeyPatch, device: str, compile_: str, triton: bool, compiled: bool
) -> None:
    class Toy:
        compiled = False

        def compile_gradients(self) -> None:
            self.compiled = True

    monkeypatch.setattr(training_generator_module, "training_generator", lambda params: Toy())
    monkeypatch.setattr(training_generator_module, "has_triton", lambda: triton)
    monkeypatch.setattr(training_generator_module, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(Runtime, "torch_device", lambda runtime: device)
    params = load_params(environment={})
    trainer = params.section("frame_encoder", FrameEncoderSettings).trainer
    generator = generator_to_train_through(params, dataclasses.replace(trainer, compile=compile_))
    assert generator.compiled is compiled
