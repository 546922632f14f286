"""What an evaluation leaves behind: metrics and plots for DVC, the gate's file, and a table in docs/results.md."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np

from datamodules.disk import write_whole
from datamodules.types import BadInputError
from services.evaluation.frames import HeldOutFrames
from services.evaluation.measure import HIGHER_IS_BETTER, means
from services.evaluation.reconstruction import Row, Rows
from services.registry.gate import Evaluation

METRICS = "frame_encoder.json"
CLIPS_TABLE = "frame_encoder_clips.csv"
GATE = "frame_encoder.evaluation.json"
BLOCK = "frame-encoder"

_COLUMNS = (
    ("psnr_face", "PSNR face, dB", "{:.2f}"),
    ("psnr", "PSNR crop, dB", "{:.2f}"),
    ("ssim_face", "SSIM face", "{:.3f}"),
    ("ssim", "SSIM crop", "{:.3f}"),
    ("lpips_face", "LPIPS face", "{:.3f}"),
    ("lpips", "LPIPS crop", "{:.3f}"),
    ("identity", "identity", "{:.3f}"),
    ("identity_distance", "distance by a second net", "{:.2f}"),
    ("landmark_error_px", "landmarks, px", "{:.2f}"),
    ("landmark_error", "landmarks, % of eyes", "{:.2f}"),
    ("retrieval", "own person first", "{:.0%}"),
)


def write_evaluation(folder: Path, evaluation: Evaluation, rows: Rows, frames: HeldOutFrames) -> None:
    """Write ``METRICS`` (for DVC's metrics), ``CLIPS_TABLE`` (for its plots) and ``GATE`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / METRICS, json.dumps(metrics_of(rows, frames), indent=2, allow_nan=False) + "\n")
    write_whole(folder / CLIPS_TABLE, clips_csv(rows, frames))
    write_whole(folder / GATE, evaluation.to_json() + "\n")


def metrics_of(rows: Rows, frames: HeldOutFrames) -> dict[str, object]:
    """Nested numbers: rows on all frames, rows on the fixed list, and the closed shares of the gap."""
    table: dict[str, object] = {
        "frames": len(frames),
        "clips": len(set(frames.clips)),
        "persons": len(set(frames.people)),
        "all_frames": {row.name: _plain(row.metrics) for row in rows.all_frames},
    }
    if rows.fixed:
        table["fixed_frames"] = {row.name: _plain(row.metrics) for row in rows.fixed}
        table["closed"] = {metric: _plain(rows.closed(metric)) for metric in ("psnr", "psnr_face")}
    return table


def clips_csv(rows: Rows, frames: HeldOutFrames) -> str:
    """One line per row and clip with the means of every metric, for plots."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "clip", "person", "frames", *HIGHER_IS_BETTER])
    for row in (*rows.all_frames, *rows.fixed[2:]):
        names = np.array([frames.clips[i] for i in row.indices])
        people = np.array([frames.people[i] for i in row.indices])
        for clip in dict.fromkeys(names.tolist()):
            here = names == clip
            mean = means({name: values[here] for name, values in row.measures.items()}, people[here])
            values = [f"{mean[name]:.5g}" for name in HIGHER_IS_BETTER]
            writer.writerow([row.name, clip, people[here][0], int(here.sum()), *values])
    return text.getvalue()


def markdown(evaluation: Evaluation, rows: Rows, frames: HeldOutFrames, command: str) -> str:
    """The table with the command that made it, how much of the gap is closed, and what it was measured on."""
    people, clips = len(set(frames.people)), len(set(frames.clips))
    lines = [
        f"`{command}`, encoder `{evaluation.model_sha256[:12]}`, generator `{evaluation.generator_sha256[:12]}`, "
        f"data `{evaluation.data_hash[:12]}`: {people} persons not trained on, {clips} clips, at 256 px from the "
        "generator's full output.",
        "",
        f"All {len(frames)} frames:",
        "",
        *_table(rows.all_frames),
    ]
    if rows.fixed:
        lines += ["", f"The fixed list of {len(rows.fixed[0].indices)} frames:", "", *_table(rows.fixed)]
        lines += ["", *closed_lines(rows)]
    return "\n".join(lines)


def closed_lines(rows: Rows) -> list[str]:
    """One line per row between: how much of the gap in dB from the mean face to the optimum it closes."""
    whole, face = rows.closed("psnr"), rows.closed("psnr_face")
    labels = {row.name: row.label for row in rows.fixed}
    return [
        f"Of the way in dB from the mean face to the optimum, {labels[name]} goes {whole[name]:.0%} "
        f"on the whole crop and {face[name]:.0%} on the face."
        for name in whole
    ]


def replace_block(file: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- begin:NAME -->`` and ``<!-- end:NAME -->`` in a file.

    A file or a block that is not there is made, at the end. Raises ``BadInputError`` where marks do not match.
    """
    begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
    before = file.read_text() if file.is_file() else ""
    counts = before.count(begin), before.count(end)
    block = f"{begin}\n{text.strip()}\n{end}"
    if counts == (0, 0):
        whole = f"{before.rstrip()}\n\n{block}\n".lstrip()
    elif counts == (1, 1) and before.index(begin) < before.index(end):
        head, rest = before.split(begin)
        whole = head + block + rest.split(end)[1]
    else:
        raise BadInputError(f"{file} must hold {begin} and {end} once each, in this order; correct it by hand")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, whole)


def _table(rows: tuple[Row, ...]) -> list[str]:
    head = "| | " + " | ".join(title for _, title, _ in _COLUMNS) + " |"
    body = [
        f"| {row.label} | " + " | ".join(_cell(row.metrics[name], form) for name, _, form in _COLUMNS) + " |"
        for row in rows
    ]
    return [head, "|---" + "|--:" * len(_COLUMNS) + "|", *body]


def _cell(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "—"


def _plain(metrics: dict[str, float]) -> dict[str, float | str]:
    """JSON has no NaN."""
    return {name: round(v, 5) if math.isfinite(v) else repr(v) for name, v in metrics.items()}
