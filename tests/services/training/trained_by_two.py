"""A training on two processes, as a command: ``python trained_by_two.py SAMPLES RUN MODELS``."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_training import conformance_generator, new_encoder, settings

from datamodules.samples import SampleDataset
from modules.lit.frame_encoder import FrozenParts
from services.training.trainer import fit_frame_encoder

if __name__ == "__main__":
    folder, run_folder, models = map(Path, sys.argv[1:])
    generator, samples = conformance_generator(), SampleDataset(folder)
    frames = [samples[i].image for i in range(20)]
    asked = settings(3, 2)
    asked = replace(asked, trainer=replace(asked.trainer, devices=2))
    trained = fit_frame_encoder(
        new_encoder(generator), FrozenParts(generator, {}), samples, frames, torch.stack(frames[:4]), asked,
        run_folder, accelerator="cpu",
    )  # fmt: skip
    torch.save(trained.state_dict(), models / f"{os.getpid()}.pt")
