"""A copy of this checkout whose stages take seconds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from services.settings import ROOT

_PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
_EDITS = _PARAMS["directions"]["edits"]
ALL_STEPS = {"share": 1.0, "learning_rate": 1e-5}
SMALL = {
    "clips.max_frames": 12,
    "samples.count": 24,
    "samples.shard_size": 12,
    "frame_encoder.start_from": "assets/frame-encoder",
    "frame_encoder.training.linear_start": 0,
    "frame_encoder.training.steps": 1,
    "frame_encoder.training.phases": [
        {"name": "landmarks", **ALL_STEPS, "batch_size": 2, "sample_share": 0.5, "rendered": 1,
         "weights": {"codes": 1.0, "l2": 1.0, "landmark_features": 0.01}},
    ],
    "frame_encoder.trainer.validation_frames": 2,
    "video_encoder.training.steps": 1,
    "video_encoder.training.phases": [
        {"name": "pairs", **ALL_STEPS, "episodes": 1, "length": 2, "rendered": 1, "long_memory": 0.0,
         "still_share": 0.0, "smoothing": 0.0, "weights": {"codes": 1.0, "l2": 1.0}},
    ],
    "video_encoder.validation_clips": 1,
    "video_encoder.trainer.validation_frames": 3,
    "restoring.training.steps": 1,
    "restoring.training.phases": [
        {"name": "images", **ALL_STEPS, "batch_size": 2, "sample_share": 0.5, "rendered": 1,
         "weights": {"codes": 1.0, "l2": 1.0}},
    ],
    "restoring.trainer.validation_frames": 2,
    "balance.rounds": 1,
    "directions.start_from": "assets/directions",
    "directions.samples": 24,
    "directions.calibration_codes": 2,
    "directions.measured_per_clip": 1,
    "directions.sheet_codes": 1,
    **{f"directions.edits.{name}.measured": [1] for name in _EDITS},
    "directions.edits.age.measured": [20],
    "directions.edits.yaw.measured": [15],
    "directions.edits.pitch.measured": [10],
    "directions.refine.training.steps": 1,
    "directions.alone.age.training.steps": 1,
    "directions.alone.surprise.training.steps": 1,
    "directions.alone.anger.training.steps": 1,
    "directions.refine.singles": 1,
    "directions.refine.mixed": 1,
    "directions.refine.per_clip": 1,
    "stylespace.samples": 2,
    "stylespace.spread_codes": 100,
    "stylespace.calibration_codes": 1,
    "stylespace.calibration_rounds": 1,
    "stylespace.measured_codes": 2,
    "stylespace.sheet_codes": 1,
    "stylespace.edits": {name: _PARAMS["stylespace"]["edits"][name] for name in ("lip_colour", "hair_style")},
    "stylespace.random_identity.people": 4,
    "stylespace.random_identity.chosen": 2,
    "stylespace.random_identity.tried_on": 1,
    "stylespace.random_identity.likeness": 0.9,
    "stylespace.random_identity.burnt": 0.5,
    "stylespace.random_identity.seeds": [0],
    "pose_editor.training.steps": 1,
    "pose_editor.identity_components": 2,
    "pose_editor.expression_components": 4,
    "pose_editor.encoded_per_clip": 1,
    "pose_editor.calibration_codes": 0,  # of an editor that learned nothing no unit can be told
    "pose_editor.measured_per_clip": 1,
    "ablation.steps": 1,
    "ablation.batch_size": 1,
    "ablation.losses": {"L2": {"l2": 1.0}, "and Lf": {"l2": 1.0, "landmark_features": 0.01}},
    "ablation.frames_per_clip": 7,
    "evaluation.frames_per_clip": 1,
    "evaluation.video.frames_per_clip": 7,
    "drift.frames": 8,
    "drift.every": 4,
    "drift.clips": 1,
}  # fmt: skip

_COMMANDS = """
import shlex, sys
from services.shell.cli import run
for command in sys.argv[1:]:
    if code := run(shlex.split(command)):
        sys.exit(f"stylereel {command}: {code}")
"""


class Checkout:
    """A copy of this one without what git leaves out, and the command beside it."""

    def __init__(self, folder: Path, **others: Any) -> None:
        """``others`` are values in the place of those of ``SMALL``, or beside them, by section and key."""
        self.folder = folder
        for name in self._git("ls-files", "-z", "-co", "--exclude-standard", folder=ROOT).split("\0"):
            if name and (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        self._git("init", "--quiet")
        command = folder / "bin" / "stylereel"
        command.parent.mkdir()
        command.write_text(f"#!{sys.executable}\nfrom services.shell.cli import main\nmain()\n")
        command.chmod(0o755)
        raw = yaml.safe_load((folder / "params.yaml").read_text())
        for key, value in (SMALL | others).items():
            *parents, last = key.split(".")
            node: Any = raw
            for parent in parents:
                node = node[parent]
            assert last in node, f"params.yaml has no {key}"
            node[last] = value
        (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))

    def test_on(self, clip: Path) -> None:
        """Have the person of one clip tested on, and all others trained on."""
        sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
        (self.folder / "datamodules" / "test_people.toml").write_text(f'[clips]\n{sha256} = "one"\n')

    def repro(self) -> str:
        """What ``dvc repro`` says; it has to succeed."""
        return self._python("-m", "dvc", "repro")

    def stylereel(self, *commands: str) -> str:
        """What the commands say, run one after the other by one process; each has to succeed."""
        return self._python("-c", _COMMANDS, *commands)

    def _python(self, *words: str) -> str:
        path = f"{self.folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder)}
        environment |= {"STYLEREEL_DEVICE": "cpu", "STYLEREEL_STATE": str(self.folder / "var")}
        # Users' Python writes compiled files beside the code, which must not make a stage run again.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def _git(self, *words: str, folder: Path | None = None) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder or self.folder, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
