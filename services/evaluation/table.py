"""Table 1 as files: numbers for DVC, and Markdown that says how each column was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.disk import write_whole
from services.evaluation.frames import HeldOutFrames
from services.evaluation.video import VideoRow

TABLE = "video_table.json"
BLOCK = "table-1"
_NAMES = {"inception": ("FID", "KID"), "vgg": ("fd_vgg", "kd_vgg")}


@dataclass(frozen=True)
class VideoTable:
    """Rows, and what they were measured on."""

    rows: tuple[VideoRow, ...]
    clips: tuple[HeldOutFrames, ...]
    judge_every: int
    """Which frames all but TC were measured on."""
    features: str
    """``inception`` or ``vgg``: what the distances compare."""
    generator_sha256: str

    @property
    def frames(self) -> int:
        """Of all clips."""
        return sum(len(clip) for clip in self.clips)

    @property
    def persons(self) -> int:
        """Told apart."""
        return len({clip.people[0] for clip in self.clips})

    def numbers(self) -> dict[str, object]:
        """For JSON: what it was measured on and the rows' metrics, the distances by their own names."""
        frechet, kernel = (name.lower() for name in _NAMES[self.features])
        renamed = {
            "frechet": frechet,
            "kernel": kernel,
            "kernel_low": f"{kernel}_low",
            "kernel_high": f"{kernel}_high",
        }
        rows = {
            row.name: {renamed.get(k, k): _plain(v) for k, v in row.metrics.items()} for row in self.rows
        }  # fmt: skip
        return {"frames": self.frames, "clips": len(self.clips), "persons": self.persons, "rows": rows}

    def lines(self) -> list[str]:
        """The rows as a Markdown table."""
        frechet, kernel = _NAMES[self.features]
        columns = ("PSNR ↑", "SSIM ↑", "LPIPS ↓", f"{frechet} ↓", f"{kernel} × 1000 (95 %) ↓", "LM, px² ↓",
                   "LM by a second net ↓", "distance by a second net ↓", "TC ↓", "ms/frame ↓")  # fmt: skip
        head = "| | " + " | ".join(columns) + " |"
        return [head, "|---" + "|--:" * len(columns) + "|", *(self._line(row) for row in self.rows)]

    def _line(self, row: VideoRow) -> str:
        m = row.metrics
        kernel, low, high = (_cell(1000 * m[name], "{:.1f}") for name in ("kernel", "kernel_low", "kernel_high"))
        cells = (
            _cell(m["psnr"], "{:.2f}"), _cell(m["ssim"], "{:.3f}"), _cell(m["lpips"], "{:.3f}"),
            _cell(m["frechet"], "{:.3g}"), f"{kernel} ({low} to {high})" if math.isfinite(m["kernel"]) else "—",
            _cell(m["lm"], "{:.2f}"), _cell(m["lm_second"], "{:.2f}"), _cell(m["identity_distance"], "{:.2f}"),
            _cell(m["tc"], "{:.4f}"), _cell(m["ms_per_frame"], "{:.0f}"),
        )  # fmt: skip
        return f"| {row.label} | " + " | ".join(cells) + " |"


def markdown(tables: Sequence[VideoTable], command: str, notes: Sequence[str] = ()) -> str:
    """Tables one below the other, with the command that made them, the notes and how the columns are measured."""
    first = tables[0]
    parts = [
        f"`{command}`, generator `{first.generator_sha256[:12]}`, data `{first.clips[0].data_hash[:12]}`, at "
        "256 px from the generator's full output."
    ]
    for table in tables:
        people = "person" if table.persons == 1 else "persons"
        parts.append(
            f"{table.persons} {people} not trained on, {len(table.clips)} clips, {table.frames} frames that "
            f"follow each other, at most {max(len(clip) for clip in table.clips)} of a clip"
            + (
                f"; all but TC and the time of every {_ordinal(table.judge_every)}:"
                if table.judge_every > 1
                else ":"
            )
        )
        parts.append("\n".join(table.lines()))
    parts += [*notes, explanation(first.features)]
    return "\n\n".join(parts)


def explanation(features: str) -> str:
    """What the columns are, where the paper leaves it open."""
    frechet, kernel = _NAMES[features]
    net = (
        "FID's Inception" if features == "inception"
        else "LPIPS's VGG-16 (relu5_3, averaged over the picture), since Inception's weights are in no registry; "
        "a net that some encoders were trained with"
    )  # fmt: skip
    return (
        "TC: six neighbours of each frame are aligned to it by the optical flow of the input video (DIS, the same "
        "for every row, without the places whose way there and back do not meet), the root mean square over the "
        "channels, in [0, 1], is summed over them and averaged over the picture. The input's own TC is what the "
        "flow leaves over; a still picture scores above that, since it does not move. "
        f"{frechet} and {kernel}: Fréchet and unbiased cubic kernel distance in the features of "
        f"{net}; the interval is a jackknife over clips. LM: mean squared error of the mesh's 68 points, "
        "which is in losses; by a second net, fr_landmark, which is in none. Distance by a second net: of the "
        "embeddings of dlib's ResNet, in no loss either; one person's pictures lie within 0.6. "
        "ms/frame: finding the codes of one frame, without rendering it."
    )


def write_table(folder: Path, tables: Sequence[VideoTable]) -> None:
    """Write ``TABLE`` for DVC's metrics: all rows under ``all``, the few optimised frames under ``optimised``."""
    names = ("all", "optimised")
    numbers = {name: table.numbers() for name, table in zip(names, tables, strict=False)}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TABLE, json.dumps(numbers, indent=2, allow_nan=False) + "\n")


def _ordinal(count: int) -> str:
    return {2: "second", 3: "third"}.get(count, f"{count}th")


def _cell(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "—"


def _plain(value: float) -> float | str:
    """JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else repr(value)
