"""Table 1 of StylePortraitVideo on persons not trained on: encoder, refinement, adaptation; and edits after it.

python benchmarks/adaptation.py [--iterations 100 1000] [--frames 60] [--clips NAME...]

One clip of each test person; 9 minutes each on two cores with 1,000 iterations. Finished clips are kept in
``runtime.state``, and the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from services.adaptation.evaluation import AS_SERVED, TableSettings, as_markdown, kept_table, table_of_clip
from services.adaptation.learn import AdaptationSettings
from services.code_hash import code_sha256
from services.direction_settings import DirectionSettings
from services.evaluation.frames import consecutive_frames
from services.pipeline.models import load_models
from services.places import CLIPS
from services.settings import ROOT, load_params

EDITS = {"age": (-10.0, 10.0, 20.0), "smile": (-1.0, 1.0)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--frames", type=int, default=60, help="Consecutive frames of each clip.")
    parser.add_argument("--clips", nargs="+", help="Only these, by name.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="A number of params.yaml.")
    arguments = parser.parse_args()
    params = load_params(overrides=arguments.set)
    models = load_models(params)
    settings = params.section("adaptation", AdaptationSettings)
    table = TableSettings(tuple(sorted(arguments.iterations)), 10, 25, EDITS, 6)
    stretches = consecutive_frames(read_prepared(CLIPS), arguments.frames, 20)
    first_of = {
        stretch.people[0]: stretch
        for stretch in reversed(stretches)
        if not arguments.clips or stretch.clips[0] in arguments.clips
    }
    if not first_of:
        parser.error(f"there are {', '.join(stretch.clips[0] for stretch in stretches)}")
    about = json.dumps(
        [
            stretches[0].data_hash,
            models.versions,
            models.numbers(),
            code_sha256(ROOT),
            dataclasses.asdict(settings),
            dataclasses.asdict(table),
            AS_SERVED,
        ]
    )
    folder = params.runtime.state / f"adaptation-table-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    clips = []
    for person, frames in sorted(first_of.items()):
        clips.append(
            kept_table(
                folder / f"{person}.json",
                lambda frames=frames: table_of_clip(
                    frames, models, settings, table, models.judges.attributes,
                    lambda line: print(line, file=sys.stderr, flush=True),
                ),
            )
        )  # fmt: skip
    directions = params.section("directions", DirectionSettings)
    print("\n".join(as_markdown(clips, {name: directions.edits[name].per_unit for name in EDITS})))


if __name__ == "__main__":
    main()
