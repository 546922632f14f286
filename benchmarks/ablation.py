"""FrEN's losses, one more each time, at equal and short budget: the lower part of Table 1. Prints the table.

python benchmarks/ablation.py [--set ablation.steps=20] [--table]

The cost is that of the renderings, 0.4 s forward and backward on two idle cores: the 480 steps of four frames that
params.yaml asks for are some half an hour, and measuring five encoders on 270 frames each is ten minutes more. It
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.ablation import ablate
from services.console import bars
from services.evaluate import RESULTS
from services.evaluation_report import replace_block
from services.evaluation_table import markdown
from services.settings import load_params


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--table", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args()
    with bars() as report:
        found = ablate(load_params(overrides=arguments.overrides), report)
    command = " ".join(["python benchmarks/ablation.py", *(f"--set {o}" for o in arguments.overrides)])
    text = markdown([found.table], command, found.notes)
    if arguments.table:
        replace_block(RESULTS, "ablation", text)
    print(text)


if __name__ == "__main__":
    main()
