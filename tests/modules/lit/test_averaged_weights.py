"""The averaged weights lie where the module is trained, from the first step on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from modules.lit.averaged_weights import AveragedWeights

STEPS, DECAY, RATE = 6, 0.5, 0.1


class Toy(L.LightningModule):
    """A weight that falls by ``RATE`` a step, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.zeros(()))
        self.validated: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.count += 1
        return self.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(float(self.weight[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


def devices_of(callback: AveragedWeights) -> set[torch.device]:
    average = callback._average_model
    assert average is not None
    return {value.device for value in average.state_dict().values()}


def averages() -> Iterator[float]:
    """After each step; the first weights are taken as they are."""
    average, weight = 0.0, 1.0
    for step in range(STEPS):
        weight -= RATE
        average = DECAY * average + (1 - DECAY) * weight if step else weight
        yield average


def fit(lit: Toy, steps: int, *callbacks: L.Callback, start: Path | None = None) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0,
    )  # fmt: skip
    data = DataLoader(torch.zeros(STEPS, 1))
    trainer.fit(lit, data, DataLoader(torch.zeros(1, 1)), ckpt_path=start, weights_only=True)
    return trainer


def test_the_average_is_made_on_the_strategys_device_while_the_module_is_still_elsewhere() -> None:
    lit, callback = Toy(), AveragedWeights(DECAY)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    callback.setup(trainer, lit, "fit")  # type: ignore[arg-type]
    assert devices_of(callback) == {torch.device("meta")}
    assert lit.weight.device == lit.count.device == torch.device("cpu"), "the strategy moves it later"


def test_it_is_beside_the_module_in_training_and_shown_at_validation_and_in_checkpoints(tmp_path: Path) -> None:
    lit, callback = Toy(), AveragedWeights(DECAY)
    expected = list(averages())
    found: set[torch.device] = set()

    class Look(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Toy, *_: object) -> None:  # type: ignore[override]
            found.update(devices_of(callback) | {module.device})

    trainer = fit(lit, 4, callback, Look())
    assert len(found) == 1
    assert lit.validated == pytest.approx([expected[1], expected[3]])
    assert lit.weight.tolist() == pytest.approx([expected[3]] * 2), "the training ends in the average"
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["state_dict"]["weight"].tolist() == pytest.approx([expected[3]] * 2)
    assert kept["averaging_state"]["n_averaged"] == 4


def test_a_training_that_goes_on_goes_on_with_its_average(tmp_path: Path) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "last.ckpt")
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(Toy(), STEPS, AveragedWeights(DECAY), Stop())
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["current_model_state"]["weight"].tolist() == pytest.approx([1 - 3 * RATE] * 2)
    lit = Toy()
    fit(lit, STEPS, AveragedWeights(DECAY), start=tmp_path / "last.ckpt")
    assert lit.weight.tolist() == pytest.approx([list(averages())[-1]] * 2)
