"""What it costs and gains that threads which wait for one another sleep soon (`services/waiting.py`).

python benchmarks/waiting.py [--steps 12]

A step is a rendering at 256 px and its gradient through LPIPS, as refinement takes them, with as many threads as
torch likes. Printed are the median seconds of a step, of one process alone and of two at the same time, with
libgomp's own spinning and with the brief one, which take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.memory import keep_freed_memory
from services.waiting import wait_briefly

ROUNDS = 2


def seconds_of_a_step(steps: int, briefly: bool) -> float:
    """In this process, which has not loaded torch yet."""
    keep_freed_memory()
    if briefly:
        wait_briefly()
    import torch

    from modules.losses.perceptual import load_lpips
    from services.settings import load_params
    from services.training.generator import training_generator

    generator, lpips = training_generator(load_params()), load_lpips("alex")
    random = torch.Generator().manual_seed(0)
    ws = generator.map(torch.randn(1, generator.z_dim, generator=random))
    target = torch.rand(1, 3, 256, 256, generator=random) * 2 - 1
    found = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        image = generator.synthesize(ws.clone().requires_grad_(True), resolution=256)
        lpips(image, target).mean().backward()
        found.append(time.perf_counter() - started)
    return median(found[1:])


def side_by_side(count: int, steps: int, briefly: bool) -> list[float]:
    """The same of ``count`` processes at once."""
    command = [sys.executable, __file__, "--steps", str(steps), "--one", "briefly" if briefly else "usual"]
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_SPIN"))}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=free) for _ in range(count)]
    return [float(process.communicate()[0]) for process in running]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="that are timed in each process and round")
    parser.add_argument("--one", choices=("usual", "briefly"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(seconds_of_a_step(asked.steps, asked.one == "briefly"))
        return
    print("| processes | spinning as usual, s | briefly, s | usual over brief |\n|--:|--:|--:|--:|")
    for count in (1, 2):
        usual, brief = [], []
        for _ in range(ROUNDS):
            usual += side_by_side(count, asked.steps, briefly=False)
            brief += side_by_side(count, asked.steps, briefly=True)
        print(f"| {count} | {median(usual):.3f} | {median(brief):.3f} | {median(usual) / median(brief):.2f} |")


if __name__ == "__main__":
    main()
