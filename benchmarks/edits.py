"""Edits on clips of persons not trained on: slopes, identity and cross-effects, by the first and a second judge.

python benchmarks/edits.py [--frames-per-clip N]

The codes are the shipped encoder's answers to the test persons' prepared crops ('stylereel train prepare').
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from datamodules.shards import to_tensor
from modules.editing.directions import load_directions
from modules.encoders.vit import load_frame_encoder
from modules.perception.mesh import load_face_mesh
from modules.perception.second_judges import SecondJudges
from services.attributes import SecondAttributeJudge
from services.directions import FOLDER, DirectionSettings, load_instruments
from services.evaluation_edits import as_markdown, measure_edits, summarise
from services.evaluation_frames import held_out_frames
from services.settings import load_params
from services.stages import CLIPS, FRAME_ENCODER


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames-per-clip", type=int, default=2)
    arguments = parser.parse_args()
    params = load_params()
    settings = params.section("directions", DirectionSettings)
    tools = load_instruments(settings, params)
    frames = held_out_frames(read_prepared(CLIPS), arguments.frames_per_clip)
    encoder = load_frame_encoder(FRAME_ENCODER, tools.generator.sha256)
    with torch.no_grad():
        ws, _ = encoder(to_tensor(frames.pixels))
    edits = load_directions(FOLDER, tools.generator.sha256)
    asked = {name: edit.measured for name, edit in settings.edits.items()}
    second = SecondAttributeJudge(SecondJudges(), load_face_mesh(), settings.least_score)
    readings = measure_edits(ws, edits, asked, tools.render, tools.judge, tools.embed, second)
    typical = {name: edit.typical for name, edit in settings.edits.items()}
    units = {name: edit.per_unit for name, edit in settings.edits.items()}
    print(f"Frames of {len(set(frames.people))} persons in {len(set(frames.clips))} clips.", end=" ")
    print("\n".join(as_markdown(summarise(readings, typical, units, settings.age_bands))))


if __name__ == "__main__":
    main()
