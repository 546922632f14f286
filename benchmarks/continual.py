"""A second clip of a person whose generator learned an earlier one (StylePortraitVideo, section 4.3).

python benchmarks/continual.py [--earlier NAME] [--clip NAME] [--split test] [--iterations 300] [--frames 60]

Both are clips of one person in ``build/clips``, or the beginning and the end of the same one; four minutes on two
cores. Measured are frames that are learned from, at 256 px.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.clips import read_prepared
from services.adaptation.evaluation import continual, table_lines
from services.adaptation.learn import AdaptationSettings
from services.evaluation.frames import HeldOutFrames, consecutive_frames
from services.pipeline.models import load_models
from services.places import CLIPS
from services.settings import load_params

LONGEST = 10_000
"""Frames of a clip that are looked at."""


def part(frames: HeldOutFrames, which: slice) -> HeldOutFrames:
    """Some of the frames."""
    return replace(frames, pixels=frames.pixels[which], clips=frames.clips[which], people=frames.people[which])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", default="WolfgangLanger_Pexels.mp4")
    parser.add_argument("--clip", default="WolfgangLanger_Pexels.mp4")
    parser.add_argument("--split", default="test", choices=("test", "val", "train"))
    parser.add_argument("--iterations", type=int, default=300, help="Of the earlier clip.")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[0, 10, 100], help="On the second clip; the paper's are 10."
    )
    parser.add_argument("--measured", type=int, default=10, help="Frames of the second clip.")
    parser.add_argument("--frames", type=int, default=60, help="Consecutive frames of each clip.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="A number of params.yaml.")
    arguments = parser.parse_args()
    stretches = consecutive_frames(read_prepared(CLIPS), LONGEST, arguments.frames, arguments.split)
    found = {frames.clips[0]: frames for frames in stretches}
    for name in (arguments.earlier, arguments.clip):
        if name not in found:
            parser.error(f"no clip of that split is called {name}; there are {', '.join(sorted(found))}")
    first = part(found[arguments.earlier], slice(None, arguments.frames))
    again = arguments.clip == arguments.earlier
    second = part(
        found[arguments.clip], slice(-arguments.frames, None) if again else slice(None, arguments.frames)
    )
    if first.people[0] != second.people[0]:
        parser.error(f"{arguments.earlier} and {arguments.clip} show two persons")
    params = load_params(overrides=arguments.set)
    settings = params.section("adaptation", AdaptationSettings)
    rows = continual(
        first, second, load_models(params), settings, arguments.iterations, arguments.steps, arguments.measured
    )
    print(f"{arguments.clip}, {len(second)} frames; the first clip is {arguments.earlier}, {len(first)} frames,")
    print(f"learned in {arguments.iterations} iterations\n")
    print("\n".join(table_lines(rows)))


if __name__ == "__main__":
    main()
