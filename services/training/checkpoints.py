"""Checkpoints that a training goes on from: written whole or not at all, and read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from datamodules.disk import write_whole
from datamodules.types import BadInputError
from modules.lit.tuned_generator import STOPPED_AT
from modules.out_of_memory import is_out_of_memory


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the checkpoint of before, which stays as it is until the next one is whole.

    Lightning's own writes to the folder for temporary files, and where that is another file system it then copies
    over the checkpoint of before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Raises ``NotWrittenError`` where the disk does not take it."""
        place, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f".{place.name}.*.part"):
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
        write_whole(place, content.getvalue())


def every_steps(run_folder: Path, steps: int) -> ModelCheckpoint:
    """Lightning's callback that keeps the last checkpoint alone, one in so many steps."""
    return ModelCheckpoint(
        dirpath=run_folder, filename="step", save_last=True, save_top_k=0,
        every_n_train_steps=steps, enable_version_counter=False,
    )  # fmt: skip


def progress_of(path: Path) -> tuple[int, bool]:
    """Steps that were made, and whether they ended since the loss was no number; raises ``BadInputError``."""
    if not path.is_file():
        return 0, False
    known = read_checkpoint(path)
    return known["global_step"], known.get(STOPPED_AT) is not None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; raises ``BadInputError`` for a file that is none."""
    try:
        known: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(known["global_step"], int):
            raise TypeError("global_step is no number")
    except Exception as error:  # torch has many for what is cut off, overwritten or no checkpoint at all
        if is_out_of_memory(error):
            raise
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise BadInputError(f"the checkpoint {path} cannot be read{why}: delete it to begin anew") from error
    return known
