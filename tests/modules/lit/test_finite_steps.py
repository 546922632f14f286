"""A training that turns NaN stops in one line, and nothing of the lost step is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from datamodules.types import BadInputError
from modules.lit import finite_steps
from modules.lit.finite_steps import FiniteSteps
from services.training.trainer import LAST, fit_steps


class Batches(IterableDataset[dict[str, Tensor]]):
    """What is left of ten batches."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.first, 10):
            yield {"step": torch.tensor(float(step))}


class Toy(L.LightningModule):
    """One weight; from ``lost`` on its loss, or its gradient alone, is no number."""

    def __init__(self, lost: int, gradient_alone: bool = False) -> None:
        super().__init__()
        self.lost, self.gradient_alone = lost, gradient_alone
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        pull = self.weight.square().sum()
        mesh = self.weight.sum() * 0.1
        if batch["step"] >= self.lost:
            # The root of zero has a value and no gradient.
            mesh = mesh + ((self.weight - self.weight).sqrt().sum() if self.gradient_alone else torch.nan)
        self.log_dict({"train/pull": pull, "train/mesh": mesh})
        return pull + mesh

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(lit: Toy, folder: Path) -> None:
    fit_steps(lit, 10, Batches, 2, folder, accelerator="cpu", gradient_clip=1.0)


@pytest.mark.parametrize(("gradient_alone", "which"), [(False, "mesh is"), (True, "the loss or its gradient is")])
def test_it_stops_before_the_step_and_the_checkpoint_before_it_is_good(
    tmp_path: Path, gradient_alone: bool, which: str
) -> None:
    lit = Toy(5, gradient_alone)
    with pytest.raises(BadInputError) as error:
        fit(lit, tmp_path)
    said = str(error.value)
    assert said.startswith(f"{which} no number at step 5: lower the learning rate") and "\n" not in said
    assert lit.weight.isfinite().all()
    kept = torch.load(tmp_path / LAST, weights_only=True)
    assert kept["global_step"] == 4 and kept["state_dict"]["weight"].isfinite().all()
    # The same command goes on from there.
    well = Toy(100)
    fit(well, tmp_path)
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 10
    straight = Toy(100)
    fit(straight, tmp_path / "straight")
    torch.testing.assert_close(well.weight, straight.weight)


def test_where_the_host_seldom_asks_no_lost_weights_are_written_and_the_first_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: steps are noted, and the host asks before a checkpoint."""
    monkeypatch.setattr(finite_steps, "_waits", lambda finite: True)
    lit = Toy(4, gradient_alone=True)
    with pytest.raises(BadInputError, match="no number at step 4:"):
        fit(lit, tmp_path)
    assert lit.weight.isnan().all(), "the step was made"
    kept = torch.load(tmp_path / LAST, weights_only=True)
    assert kept["global_step"] == 4 and kept["state_dict"]["weight"].isfinite().all()


def test_a_long_wait_for_a_checkpoint_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_steps, "_waits", lambda finite: True)
    monkeypatch.setattr(finite_steps, "LOOK_EVERY", 4)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=10, callbacks=[FiniteSteps()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(BadInputError, match="no number at step 5:"):
        trainer.fit(Toy(5), torch.utils.data.DataLoader(Batches(0), batch_size=None))
    assert trainer.global_step == 7
