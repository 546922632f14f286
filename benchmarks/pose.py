"""The pose editor on clips of persons not trained on: slopes, likeness, drift, by the mesh and a second judge.

python benchmarks/pose.py [--folder FOLDER] [--per-clip N] [--drift | --placed | --sheet PICTURE]

Without an option the tables of docs/results.md; with ``--drift`` what yaw moves of expressions; with ``--placed``
how far heads go that are moved in the picture's plane and pasted into their frames; with ``--sheet`` a picture: a
row per made face, over yaw, pitch and expressions. The codes measured are the shipped encoder's answers to crops
of the test persons, prepared before.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from datamodules.disk import write_whole
from datamodules.images import write_image
from modules.editing.directions import EditRequest
from modules.editing.placement import PlacementConfig
from modules.editing.pose import load_pose_editor
from modules.sheet import Row, draw_sheet, to_picture
from services.edits.encoded_codes import encoded_frames, frames_of_test_persons
from services.edits.expression_drift import ExpressionJudge, drift_markdown, expression_drift
from services.edits.instruments import draw_single, load_instruments
from services.edits.pose_editor import FOLDER
from services.edits.pose_evaluation import evaluate_pose_editor
from services.edits.pose_settings import PoseEditorSettings
from services.evaluation.frames import held_out_frames
from services.evaluation.placement import markdown, measure_placements
from services.pipeline.models import load_models
from services.places import CLIPS, FRAME_ENCODER
from services.precise_generator import generator_for
from services.settings import Params, load_params

YAW = "pose.yaw"
SIDE = 160
"""Of a picture on the sheet, in pixels."""
SHEET_SEED, SHEET_PSI = 7, 0.7
"""Of the made faces on the sheet."""
COLUMNS = (
    ("pose.yaw", -20), ("pose.yaw", -10), ("pose.yaw", 0), ("pose.yaw", 10), ("pose.yaw", 20),
    ("pose.pitch", -10), ("pose.pitch", 10),
    ("expression.mouth_open", 1), ("expression.smile", 1), ("expression.eyes_open", 1), ("expression.brows_up", 1),
)  # fmt: skip


def main() -> None:
    """Print the tables, or draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--evaluation", type=Path, help="Write what the gate reads there.")
    parser.add_argument(
        "--per-clip", type=int, help="Frames of each clip, instead of the gate's measured_per_clip."
    )
    parser.add_argument(
        "--drift", action="store_true", help="What yaw moves of the expression at each strength, alone."
    )
    parser.add_argument("--placed", action="store_true", help="Heads that lean, shift and grow, in the frame.")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--faces", type=int, default=6)
    arguments = parser.parse_args()
    params = load_params()
    params.runtime.apply_threads()
    settings = params.section("pose_editor", PoseEditorSettings)
    if arguments.per_clip:
        settings = replace(settings, measured_per_clip=arguments.per_clip)
    if arguments.placed:
        print_placed(params, settings.measured_per_clip)
        return
    if arguments.sheet is None:
        tools = load_instruments(settings, params)
        frames = frames_of_test_persons(settings, tools.generator.sha256)
        if arguments.drift:
            edits = load_pose_editor(arguments.folder, tools.generator.sha256).edits()
            judge = ExpressionJudge(tools.judge.mesh, settings.least_score)
            strengths = settings.edits[YAW].measured
            drift = expression_drift(frames.ws, YAW, strengths, edits, tools, judge)
            print("\n".join(drift_markdown(YAW, drift)))
            return
        lines, evaluation = evaluate_pose_editor(
            arguments.folder, frames, settings, tools, lambda line: print(line, file=sys.stderr)
        )
        print("\n".join(lines))
        if arguments.evaluation is not None:
            write_whole(arguments.evaluation, evaluation.to_json())
        return

    generator = generator_for(params)

    def render(ws: torch.Tensor) -> torch.Tensor:
        return generator.synthesize(ws, resolution=settings.resolution)

    edits = load_pose_editor(arguments.folder, generator.sha256).edits()
    # Faces that nobody has: a picture of the clips' persons is not ours to publish.
    rows = []
    with torch.no_grad():
        for ws in draw_single(generator, arguments.faces, SHEET_SEED, SHEET_PSI).split(1):
            shown = [to_picture(render(edits.apply(ws, [EditRequest(n, s)])).clamp(-1, 1)[0]) for n, s in COLUMNS]
            rows.append(Row(shown))
    titles = [f"{name.split('.')[1]} {strength:+g}" for name, strength in COLUMNS]
    write_image(arguments.sheet, draw_sheet(rows, SIDE, titles))


def print_placed(params: Params, per_clip: int) -> None:
    """Each move at half of its bounds and at them."""
    models, frames = load_models(params), held_out_frames(read_prepared(CLIPS), per_clip)
    codes = encoded_frames(FRAME_ENCODER, CLIPS, per_clip, models.generator.sha256, "test")
    if codes is None:
        raise SystemExit(f"{CLIPS} has no test person")
    offered = params.section("placement", PlacementConfig).edits
    asked = {name: (move.lower, move.lower / 2, move.upper / 2, move.upper) for name, move in offered.items()}
    rows = list(measure_placements(frames.pixels, codes.ws, asked, models))
    print(f"{len(frames)} frames of {len(set(frames.clips))} clips, data {frames.data_hash[:12]}.\n")
    print("\n".join(markdown(rows)))


if __name__ == "__main__":
    main()
