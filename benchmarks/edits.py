"""The directions on persons not trained on, by the first and a second judge, and on generator samples.

python benchmarks/edits.py [--folder FOLDER] [--samples | --as-they-are | --age-drift] [--per-clip N]
                           [--sheet docs/edits.jpg]
python benchmarks/edits.py --record

The persons' codes are the shipped encoder's answers to their prepared crops ('stylereel train prepare').
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.images import write_image
from modules.editing.directions import load_directions
from modules.perception.second_judges import SecondJudges
from services.attributes import SecondAttributeJudge
from services.balancing import balancing_of
from services.direction_settings import DirectionSettings
from services.edits.directions import measure_again
from services.edits.directions_evaluation import evaluate_directions, standard_strengths, summary_of
from services.edits.encoded_codes import frames_of_test_persons
from services.edits.evaluation import as_markdown, measure_edits
from services.edits.expression_drift import ExpressionJudge, age_drift, drift_markdown
from services.edits.instruments import draw_single, load_instruments
from services.edits.sheets import edits_sheet
from services.places import DIRECTIONS
from services.settings import load_params

FACES = 3
"""Made ones, on the sheet."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DIRECTIONS)
    parser.add_argument("--samples", action="store_true", help="On generator samples, by the first judge alone.")
    parser.add_argument(
        "--as-they-are",
        action="store_true",
        help="Without balancing, and on all frames.",
    )
    parser.add_argument(
        "--age-drift", action="store_true", help="What age moves of the expression, and the judge's noise, alone."
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="Write what is measured into the shipped folder's card and metrics.json and metrics/.",
    )
    parser.add_argument(
        "--per-clip", type=int, help="Frames of each clip, instead of the gate's measured_per_clip."
    )
    parser.add_argument("--sheet", type=Path, help="Write a picture of all edits on made faces instead.")
    arguments = parser.parse_args()
    if arguments.samples + arguments.as_they_are + arguments.age_drift + arguments.record > 1:
        parser.error("one of --samples, --as-they-are, --age-drift and --record")
    params = load_params()
    if arguments.record:
        if arguments.folder != DIRECTIONS or arguments.per_clip:
            parser.error("--record measures what is shipped as the stage does: without --folder and --per-clip")
        print("\n".join(as_markdown(measure_again(params))))
        return
    settings = params.section("directions", DirectionSettings)
    if arguments.per_clip:
        settings = replace(settings, measured_per_clip=arguments.per_clip)
    tools = load_instruments(settings, params)
    if arguments.sheet is not None:
        edits = load_directions(arguments.folder, tools.generator.sha256)
        made = draw_single(tools.generator, FACES, settings.calibration_seed + 2, settings.truncation)
        write_image(arguments.sheet, edits_sheet(made, edits, tools.render))
        return
    if arguments.samples:
        seed = settings.calibration_seed + 1
        ws = draw_single(tools.generator, settings.measured_codes, seed, settings.truncation)
        edits = load_directions(arguments.folder, tools.generator.sha256)
        asked = standard_strengths(settings)
        readings = measure_edits(
            ws, edits, asked, tools.render, tools.judge, tools.embed, second_embed=tools.second_embed
        )
        print("\n".join(as_markdown(summary_of(readings, settings))))
        return
    second = SecondAttributeJudge(SecondJudges(), tools.judge.mesh, settings.least_score)
    frames = frames_of_test_persons(settings, tools.generator.sha256)
    if arguments.as_they_are:
        edits, asked = load_directions(arguments.folder, tools.generator.sha256), standard_strengths(settings)
        readings = measure_edits(
            frames.ws, edits, asked, tools.render, tools.judge, tools.embed, second,
            second_embed=tools.second_embed,
        )  # fmt: skip
        print("\n".join(as_markdown(summary_of(readings, settings))))
        return
    balancing = balancing_of(params)
    if arguments.age_drift:
        edits = load_directions(arguments.folder, tools.generator.sha256)
        judge = ExpressionJudge(tools.judge.mesh, settings.least_score)
        drift = age_drift(frames, edits, settings, balancing, tools, judge)
        print("\n".join(drift_markdown("age", drift)))
        return
    summary, evaluation = evaluate_directions(arguments.folder, frames, settings, balancing, tools, second=second)
    print(f"{evaluation.clips} clips, data {evaluation.data_hash[:12]}.", end=" ")
    print("\n".join(as_markdown(summary)))


if __name__ == "__main__":
    main()
