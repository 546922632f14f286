"""Appearance edits and the random identity on clips of persons not trained on, and a sheet on made faces.

python benchmarks/appearance.py [--frames-per-clip N] [--sheet docs/appearance.jpg]

The codes measured are the shipped encoder's answers to the test persons' crops ('stylereel train prepare').
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from datamodules.images import write_image
from datamodules.shards import to_tensor
from modules.editing.stylespace import load_stylespace
from modules.encoders.vit import load_frame_encoder
from services.edits.instruments import draw_single
from services.edits.sheets import appearance_sheet
from services.edits.stylespace import FOLDER, StylespaceSettings, as_markdown, load_tools, measure_appearance
from services.evaluation.frames import held_out_frames
from services.places import CLIPS, FRAME_ENCODER
from services.settings import load_params

SHEET_SEED, SHEET_PSI = 7, 0.7
"""Of the made faces on the sheet."""


def main() -> None:
    """Print the tables; write the sheet where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames-per-clip", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="write a sheet instead of measuring")
    parser.add_argument("--faces", type=int, default=3, help="on the sheet")
    arguments = parser.parse_args()
    params = load_params()
    settings = params.section("stylespace", StylespaceSettings)
    tools = load_tools(settings, params)
    edits = load_stylespace(FOLDER, tools.generator.sha256)
    if arguments.sheet:
        # Faces that nobody has: a picture of the clips' persons is not ours to publish.
        made = draw_single(tools.generator, arguments.faces, SHEET_SEED, SHEET_PSI)
        write_image(arguments.sheet, appearance_sheet(made, edits, tools.render))
        return
    frames = held_out_frames(read_prepared(CLIPS), arguments.frames_per_clip)
    encoder = load_frame_encoder(FRAME_ENCODER, tools.generator.sha256)
    with torch.no_grad():
        ws, _ = encoder(to_tensor(frames.pixels))
    print(f"Frames of {len(set(frames.people))} persons in {len(set(frames.clips))} clips.", end=" ")
    print("\n".join(as_markdown(measure_appearance(ws, frames.people, edits, tools, settings, lambda line: None))))


if __name__ == "__main__":
    main()
