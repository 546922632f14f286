"""The callback that hands on what a validation saw, in Lightning's own loop."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules.lit.reconstructions import Reconstructions
from modules.sheet import Image


class Halves(L.LightningModule):
    """Its reconstruction is half as bright; or nothing, where it is told to return none."""

    def __init__(self, returns: bool = True) -> None:
        super().__init__()
        self.returns, self.validated = returns, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        self.validated += 1
        return batch["targets"] / 2 - 0.5 if self.returns else None


def validate(module: Halves, callback: Reconstructions, folder: Path) -> None:
    greys = torch.tensor([-1.0, 0.2, 1.0])[:, None, None, None].expand(-1, 3, 4, 6)
    loader = DataLoader([{"targets": grey} for grey in greys], batch_size=2)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.validate(module, loader, verbose=False)


def test_all_frames_of_a_validation_come_in_order_and_the_next_begins_anew(tmp_path: Path) -> None:
    shown: list[tuple[int, list[Image], list[Image]]] = []
    callback = Reconstructions(lambda step, inputs, made: shown.append((step, inputs, made)))
    for _ in range(2):
        validate(Halves(), callback, tmp_path)
    assert len(shown) == 2
    for step, inputs, made in shown:
        assert step == 0 and all(picture.shape == (4, 6, 3) for picture in (*inputs, *made))
        assert [int(picture[0, 0, 0]) for picture in inputs] == [0, 153, 255]
        assert [int(picture.mean()) for picture in made] == [0, 76, 128]
        assert all(picture.dtype == np.uint8 for picture in made)


def test_a_module_that_returns_no_pictures_shows_none(tmp_path: Path) -> None:
    def show(step: int, inputs: list[Image], made: list[Image]) -> None:
        raise AssertionError("there is nothing to show")

    module = Halves(returns=False)
    validate(module, Reconstructions(show), tmp_path)
    assert module.validated == 2
