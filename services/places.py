"""Where the stages leave what they make; ``dvc.yaml`` names the same places."""

from __future__ import annotations

from services.settings import ROOT

CLIPS, SAMPLES, RUNS = (ROOT / "build" / name for name in ("clips", "samples", "runs"))
"""Shards of ``prepare``, of ``samples``, and the checkpoints of trainings."""
FRAME_ENCODER = ROOT / "assets" / "frame-encoder"
"""The shipped encoder, which the stage ``encoder`` makes."""
DIRECTIONS = ROOT / "assets" / "directions"
"""The shipped edits, which the stage ``directions`` makes."""
METRICS_FOLDER = ROOT / "metrics"
"""What the gate and DVC's metrics read."""
RESULTS = ROOT / "docs" / "results.md"
"""What was measured, for people."""
