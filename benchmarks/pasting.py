"""What pasted edits show of what was asked, and what each way to paste costs, on persons not trained on.

python benchmarks/pasting.py [--per-clip 6] [--split test] [--way mixed] [--edit smile=1] [--set KEY=VALUE]

Codes are the shipped encoder's answers to prepared crops ('stylereel train prepare'), not refined; each edit is at
its usual strength, balanced on half of each clip's frames, three at most, and measured on the others. "rendered"
is the generator's picture of the edit against its own of the frame; the other rows are the frame with the edit
pasted in against the frame.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from modules.editing.directions import EditRequest, parse_edit
from services.direction_settings import DirectionSettings
from services.edits.encoded_codes import encoded_frames
from services.evaluation.frames import held_out_frames
from services.evaluation.pasting import WAYS, markdown, measure_pasting
from services.pipeline.models import load_models
from services.places import CLIPS, FRAME_ENCODER
from services.settings import load_params


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-clip", type=int, default=6)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("--way", action="append", choices=WAYS, help="may be given several times; else all")
    parser.add_argument("--edit", action="append", type=parse_edit, help="may be given several times; else all")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    params = load_params(overrides=arguments.overrides)
    settings, models = params.section("directions", DirectionSettings), load_models(params)
    frames = held_out_frames(read_prepared(CLIPS), arguments.per_clip, arguments.split)
    codes = encoded_frames(FRAME_ENCODER, CLIPS, arguments.per_clip, models.generator.sha256, arguments.split)
    if codes is None:
        parser.error(f"{CLIPS} has no person of the split {arguments.split}")
    usual = [EditRequest(name, edit.typical) for name, edit in settings.edits.items()]
    usual += [EditRequest("age", -settings.edits["age"].typical), EditRequest("eyes_open", -1.0)]
    ways = list(dict.fromkeys(arguments.way or WAYS))
    units = {name: edit.per_unit for name, edit in settings.edits.items()}
    asked = arguments.edit or usual
    rows = list(measure_pasting(frames.pixels, frames.clips, codes.ws, asked, models, units, ways=ways))
    clips, held = len(set(frames.clips)), frames.data_hash[:12]
    print(f"{len(frames)} frames of {clips} clips, half of them to balance on, data {held}.\n")
    print("\n".join(markdown(rows)))


if __name__ == "__main__":
    main()
