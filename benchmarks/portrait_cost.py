"""Seconds and peak memory of each step of an edit that learns the face and keeps the lips, by the clip's length.

python benchmarks/portrait_cost.py [--clip FILE] [--frames 100 400 1600] [--height 240]

The clip (franck.mp4 of the assets) is played to and fro until it is long enough. Each length is a process of its
own; the peak is the kernel's, begun anew with each step (Linux). Steps that are paid per iteration run a few of
them: ``--iterations`` of the adaptation, which are told in seconds each, as they do not grow with the clip, and
``--lip-iterations`` of the ``pipeline.keep_lips`` ones for each frame.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edit_memory import write_clip

from modules.assets import asset_path
from modules.editing.directions import EditRequest
from services.adaptation.learn import AdaptationSettings
from services.adaptation.models import adapted_in
from services.pipeline.models import load_models
from services.pipeline.options import EditOptions
from services.pipeline.stream import edit_video
from services.progress import Progress
from services.settings import load_params

STEPS = ("find faces", "encode", "adapt", "measure", "keep lips", "edit")
"""Stages in the order in which they come; some come twice."""


class Watch:
    """Seconds and peak resident memory of every stage that is reported."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.stage, self.since = "", time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Take note where a stage begins."""
        if progress.stage != self.stage:
            self.close()
            self.stage = progress.stage

    def close(self) -> None:
        """End the stage that runs."""
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
        now = time.monotonic()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.peak[self.stage] = max(self.peak.get(self.stage, 0.0), peak)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self.since = now


def run_one(clip: Path, iterations: int, lip_iterations: int) -> None:
    """Edit one clip and print what its stages took, as JSON."""
    params = load_params(
        overrides=[
            f"adaptation.iterations={iterations}",
            f"pipeline.keep_lips.dynamics.mesh.iterations={lip_iterations}",
        ]
    )
    base, watch = load_models(params), Watch()
    options, requests = EditOptions(keep_lips=True), [EditRequest("smile", 1.0)]
    settings = params.section("adaptation", AdaptationSettings)
    work = clip.parent / f"{clip.stem}-adaptation"
    models = adapted_in(work, clip, base, options, settings, watch)
    edit_video(clip, clip.with_suffix(".edited.mp4"), requests, models, options, watch)
    watch.close()
    print(json.dumps({"seconds": watch.seconds, "peak": watch.peak}))


def main() -> None:
    """Print a row per step and a column per length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="A clip that shows a face; franck.mp4 without.")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--height", type=int, default=240, help="Pixels to which the clip is scaled.")
    parser.add_argument("--iterations", type=int, default=20, help="Of the adaptation.")
    parser.add_argument("--lip-iterations", type=int, default=1)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.one, given.iterations, given.lip_iterations)
        return
    source = given.clip or asset_path("franck", "franck.mp4")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in given.frames:
            clip = Path(folder) / f"{count}.mp4"
            write_clip(source, clip, count, given.height)
            command = [sys.executable, __file__, "--one", str(clip), "--iterations", str(given.iterations)]
            run = subprocess.run(
                [*command, "--lip-iterations", str(given.lip_iterations)], stdout=subprocess.PIPE, check=True
            )
            found.append(json.loads(run.stdout.splitlines()[-1]))
            print(f"{count} frames: {run.stdout.splitlines()[-1].decode()}", file=sys.stderr, flush=True)
    head = " | ".join(f"{count} frames" for count in given.frames)
    print(f"{source.name}, {given.height} pixels high; seconds per 100 frames, peak MiB")
    print(f"| | {head} | peak, last to first |\n|---|{'--:|' * (len(given.frames) + 1)}")
    for step in STEPS:
        cells = []
        for one, count in zip(found, given.frames, strict=True):
            seconds = one["seconds"][step]
            told = (
                f"{seconds / given.iterations:.2f} s an iteration"
                if step == "adapt"
                else f"{100 * seconds / count:.1f} s"
            )
            cells.append(f"{told}, {one['peak'][step]:.0f} MiB")
        change = found[-1]["peak"][step] / found[0]["peak"][step] - 1
        print(f"| {step} | {' | '.join(cells)} | {change:+.1%} |")


if __name__ == "__main__":
    main()
