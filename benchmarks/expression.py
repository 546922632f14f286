"""Expression dynamics on real clips: lips, label and eyes of the plain edit and of the one whose lips are kept.

python benchmarks/expression.py CLIP [CLIP ...] [--edit smile=1] [--label happy] [--end 1s] [--set KEY=VALUE]

Each clip is learned first (kept in ``runtime.state``), then edited; 4 s a frame on two free cores. The lips' error
is eq. 3 against the unedited rendering and against the clip's own frame, and its noise that of the unedited one
moved by one pixel, down and to the right; the label is face-api's, and again that of a second net, which no loss
asks; the eyes' LPIPS is that to the plain edit, over
that between unedited and plain edit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.editing.directions import parse_edit
from modules.perception.emotion import EMOTIONS
from services.adaptation.models import adapted_models
from services.console import seconds
from services.evaluation.lips import KeptLips, kept_lips
from services.pipeline.models import load_models
from services.pipeline.options import EditOptions
from services.settings import load_params

COLUMNS = (
    "noise",
    "lips, plain",
    "lips, kept",
    "fall",
    "of the frame",
    "label before",
    "plain",
    "kept",
    "gain kept",
    "before by a second net",
    "plain by it",
    "kept by it",
    "eyes",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--edit", default="smile=1")
    parser.add_argument("--label", default="happy", choices=EMOTIONS)
    parser.add_argument("--start")
    parser.add_argument("--end", default="1s")
    parser.add_argument("--iterations", type=int, default=100, help="Of the adaptation.")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    params = load_params(overrides=[f"adaptation.iterations={arguments.iterations}", *arguments.overrides])
    base = load_models(params)
    options = EditOptions(start=seconds(arguments.start), end=seconds(arguments.end), keep_lips=True)
    print(f"| {arguments.edit}, {arguments.label} | frames | {' | '.join(COLUMNS)} |")
    print(f"|---|--:|{'--:|' * len(COLUMNS)}")
    for clip in arguments.clips:
        models = adapted_models(clip, base, options, params)
        found = kept_lips(clip, parse_edit(arguments.edit), arguments.label, models, options)
        print(f"| {clip.name} | {found.frames} | {' | '.join(f'{v:.3f}' for v in cells(found))} |", flush=True)


def cells(found: KeptLips) -> tuple[float, ...]:
    """Those of ``COLUMNS``."""
    lips = found.noise, found.plain, found.kept, found.fall, found.fall_to_clip
    return *lips, *found.label, found.gain_kept, *found.second_label, found.eyes_moved


if __name__ == "__main__":
    main()
