"""Reconstruction of persons not trained on: mean face, encoder, encoder + 50 steps, optimum. Prints the table.

python benchmarks/reconstruction.py [--encoder FOLDER|ALIAS] [--table]

It is 'stylereel evaluate --optimise': hours on a CPU the first time. Optimised frames are kept in the state
folder, so that it can be stopped and goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.shell.cli import main

if __name__ == "__main__":
    main(["evaluate", "--optimise", *sys.argv[1:]])
