"""The demo's numbers as a table that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def markdown(numbers: Mapping[str, Any]) -> str:
    """The content of ``metrics.md`` from that of ``metrics.json``."""
    clip = numbers["clip"]
    lines = [
        "# What the demo made",
        "",
        f"`{clip['name']}`: {clip['frames']} frames, {clip['width']}x{clip['height']}, {clip['rate']} per second, "
        f"audio {clip['audio'] or 'none'}; the face is synthesised at {clip['synthesis_size']} px. "
        f"Measured on {clip['measured']} frames, at 256 px.",
        "",
        "| row | PSNR, dB | LPIPS | identity | distance by a second net | landmarks, % of eyes |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {name} | {_n(row['psnr'], 2)} | {_n(row['lpips'], 3)} | {_n(row['identity'], 3)} "
            f"| {_n(row['identity_distance'], 2)} | {_n(row['landmark_error'], 2)} |"
            for name, row in numbers["rows"].items()
        ),
        "",
        "Every row is compared with the input's crop: the first two as the generator draws them, the edits as "
        "they stand in the finished clips. LPIPS is lower where nearer; an edit that changes much is far from the "
        "input, and rightly so. Refinement looks through the net of *identity* (`pipeline.refine`); the second "
        "net is in no loss, and takes two pictures for one person's where they are within 0.6.",
        "",
        "| edit | asked | got, face | got, clip | identity kept |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {name} | {row['asked']:+g} {row['unit']} | {_n(row['size_face'], 2, '+')} "
            f"| {_n(row['size_clip'], 2, '+')} | {_n(row['identity_kept'], 3)} |"
            for name, row in numbers["edits"].items()
        ),
        "",
        "*Got, face* is measured on the generator's pictures before and after; *got, clip* on the finished clip "
        "against the input, where edits are balanced on three frames; *identity kept* is the likeness of the two "
        "pictures of the generator.",
        "",
        "| model | champion | gate |",
        "|---|---|---|",
        *(
            f"| {s['name']} | {_champion(s)} | {s['why']} |"
            for s in numbers["registry"]
        ),
        "",
        "| over HTTP | answered by | mean difference to the shell, of 255 | largest |",
        "|---|---|--:|--:|",
        *(
            f"| {name} | {row['models']} | {_n(row['mean'], 3)} | {row['largest']} |"
            for name, row in numbers["served"]["answers"].items()
        ),
        "",
        "The first edit again, of one frame and of a short section as a job. The section's codes are refined by "
        "`demo.served_steps` a frame.",
        "",
        "| step | seconds | this run |",
        "|---|--:|---|",
        *(
            f"| {name} | {_n(row['seconds'], 1)} | {'done' if row['redone'] else 'as before'} |"
            for name, row in numbers["steps"].items()
        ),
        "",
        f"{numbers['machine']}. Precision {numbers['precision']}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def finite(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _n(value: float | None, digits: int, sign: str = "") -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def _champion(standing: Mapping[str, Any]) -> str:
    return "none" if standing["champion"] is None else f"version {standing['champion']}"
