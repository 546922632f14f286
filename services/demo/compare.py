"""The served edits beside the shell's: the same request, the same models, two ways."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.images import read_image, write_image
from datamodules.types import Frames
from datamodules.video import read_frames
from modules.editing.directions import EditRequest
from services.demo.measure import frames_at
from services.demo.options import DemoConfig
from services.demo.served import edited_image, edited_video, serving
from services.media import edit_file
from services.pipeline.options import EditOptions
from services.progress import Report
from services.settings import Params


def compare_served(
    clip: Path,
    folder: Path,
    request: EditRequest,
    frame: int,
    config: DemoConfig,
    params: Params,
    models: tuple[Path | None, Path | None],
    log: Path,
    report: Report,
) -> dict[str, Any]:
    """Edit one frame and a short section through HTTP and as the shell does; how far the answers are apart.

    The pictures go into ``folder``: ``served-*`` and ``shell-*``. ``models`` are the folders of the encoder and
    the directions that the server is to answer with, by way of the registry. Raises ``ServerFailedError``.
    """
    runtime = params.runtime
    environment = os.environ | {
        f"STYLEREEL_{name}": str(getattr(runtime, name.lower()))
        for name in ("STATE", "PRECISION", "DEVICE", "THREADS")
    }
    image = folder / "frame.png"
    write_image(image, frames_at(clip, [frame])[0])
    answers: dict[str, Any] = {}
    with serving(environment, [f"pipeline.encoder={config.encoder}"], log, config.start_seconds) as server:
        picture, by = edited_image(server, image.read_bytes(), request)
        (folder / "served-frame.png").write_bytes(picture)
        section = edited_video(
            server, clip, request, config.job_seconds, config.served_steps, config.start_seconds
        )
        (folder / "served-section.mp4").write_bytes(section)
    chosen = (*models, None)
    edit_file(image, folder / "shell-frame.png", [request], params, EditOptions(), chosen, report)
    options = EditOptions(end=config.job_seconds, refine=config.served_steps)
    edit_file(clip, folder / "shell-section.mp4", [request], params, options, chosen, report)
    for name, frames in (
        ("frame.png", lambda path: read_image(path, runtime.max_pixels)[None]),
        ("section.mp4", lambda path: np.concatenate([batch.frames for batch in read_frames(path)])),
    ):
        served, shell = (frames(folder / f"{who}-{name}") for who in ("served", "shell"))
        answers[name] = {"models": by, **difference(served, shell)}
    agrees = all(row["mean"] <= config.tolerance for row in answers.values())
    return {"answers": answers, "agrees": agrees, "ready_seconds": server.ready_seconds, "models": server.models}


def difference(one: Frames, other: Frames) -> dict[str, float]:
    """Mean and largest difference of two stacks of frames, in steps of 8 bits; infinite for other shapes."""
    if one.shape != other.shape:
        return {"mean": float("inf"), "largest": 255}
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
    return {"mean": float(apart.mean()), "largest": int(apart.max())}
