"""The pose editor on clips of persons not trained on: slopes, likeness, drift, by the mesh and a second judge.

python benchmarks/pose.py [--folder FOLDER] [--per-clip N] [--drift | --sheet PICTURE]

Without ``--sheet`` the tables of docs/results.md; with it a picture instead: a row per made face, over yaw, pitch
and expressions. The codes measured are the shipped encoder's answers to the test persons' prepared crops.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.disk import write_whole
from modules.editing.directions import EditRequest
from modules.editing.pose import load_pose_editor
from modules.sheet import Row, draw_sheet, to_picture
from services.encoded_codes import frames_of_test_persons
from services.expression_drift import ExpressionJudge, drift_markdown, expression_drift
from services.instruments import draw_single, load_instruments
from services.media import write_image
from services.pose_editor import FOLDER
from services.pose_evaluation import evaluate_pose_editor
from services.pose_settings import PoseEditorSettings
from services.precise_generator import generator_for
from services.settings import load_params

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
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--faces", type=int, default=6)
    arguments = parser.parse_args()
    params = load_params()
    params.runtime.apply_threads()
    settings = params.section("pose_editor", PoseEditorSettings)
    if arguments.per_clip:
        settings = replace(settings, measured_per_clip=arguments.per_clip)
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


if __name__ == "__main__":
    main()
