"""``stylereel evaluate`` on a ViEN: beside its FrEN on consecutive frames, and over a long stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from datamodules.clips import Prepared
from datamodules.disk import write_whole
from datamodules.people import Split
from datamodules.types import BadInputError
from modules.encoders.video_vit import VideoEncoder
from modules.model_folder import load_model
from modules.perception.flow import FlowConfig
from modules.sheet import Image
from services.evaluation.drift import Drift, DriftConfig, measure_drift
from services.evaluation.frames import consecutive_frames
from services.evaluation.reconstruction import EvaluationConfig
from services.evaluation.sheets import video_sheet
from services.evaluation.table import VideoTable
from services.evaluation.video import LEAST, streamed
from services.pipeline.encoders import FindFrameEncoder, load_encoder, shipped_frame_encoder
from services.progress import Cancelled, Report, never, silent
from services.registry.gate import Evaluation, utc_now
from services.settings import Params
from services.stages.evaluate_table import load_table_parts

GATE, METRICS, DRIFT = "video_encoder.evaluation.json", "video_encoder.json", "video_encoder_drift.csv"
FILES = (GATE, METRICS, DRIFT)
HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "lpips": False,
    "lm": False,
    "tc": False,
    "tc_share": False,
    "psnr_gain": True,
    "drift": True,
}
"""What the gate may judge. ``tc_share`` is ViEN's TC over its FrEN's, ``psnr_gain`` its PSNR less FrEN's in dB.

``drift`` is in dB per hundred frames of a long stream, less that of its FrEN, which has no memory: below 0 errors
grow.
"""


def evaluate_video_encoder(
    params: Params,
    folder: Path,
    prepared: Prepared,
    split: Split = "test",
    find: FindFrameEncoder = shipped_frame_encoder,
    report: Report = silent,
    cancelled: Cancelled = never,
    show: Callable[[Image], None] | None = None,
) -> tuple[Evaluation, VideoTable, Drift]:
    """Measure the ViEN of a model folder and the FrEN it was trained with on the same frames.

    ``show`` gets a sheet of what both make of them. Raises ``BadInputError`` for a folder that holds no ViEN, or
    whose FrEN is not there.
    """
    parts = load_table_parts(params, prepared, split)
    encoder, _ = load_encoder(folder, parts.generator, parts.device, find)
    if not isinstance(encoder, VideoEncoder):
        raise BadInputError(f"{folder} holds no video encoder: name one, e.g. assets/video-encoder")
    video, drifting = parts.config.video, params.section("drift", DriftConfig)
    rows = [
        streamed("fren", "FrEN", encoder.first, parts.device),
        streamed("vien", "ViEN", encoder, parts.device),
    ]
    table = parts.table(parts.clips, rows, video.judge_every, report, cancelled)
    long = consecutive_frames(prepared, drifting.frames, LEAST, split)
    drift = measure_drift(
        long, {"FrEN": encoder.first, "ViEN": encoder}, parts.generator, drifting, parts.device, report, cancelled
    )
    if show is not None:
        show(video_sheet(parts.clips, rows, parts.meter(video.judge_every).render))
    by_name = {row.name: row.metrics for row in table.rows}
    model = load_model(folder)
    evaluation = Evaluation(
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=parts.generator.sha256,
        data_hash=data_hash_of(parts.clips[0].data_hash, parts.config, parts.judges.flow.config, drifting),
        metrics=beside_frame_encoder(by_name["vien"], by_name["fren"], drift),
        higher_is_better=dict(HIGHER_IS_BETTER),
        frames=sum(len(clip) for clip in parts.clips),
        clips=len(parts.clips),
        created=utc_now(),
    )
    return evaluation, table, drift


def beside_frame_encoder(ours: Mapping[str, float], theirs: Mapping[str, float], drift: Drift) -> dict[str, float]:
    """What the gate reads, from ViEN's and its FrEN's rows of the table and their long streams."""
    return {name: ours[name] for name in ("psnr", "ssim", "lpips", "lm", "tc")} | {
        "tc_share": ours["tc"] / theirs["tc"],
        "psnr_gain": ours["psnr"] - theirs["psnr"],
        "drift": drift.slope("ViEN") - drift.slope("FrEN"),
    }


def data_hash_here(params: Params, prepared: Prepared) -> str:
    """What an evaluation on the test persons would say, without measuring anything."""
    config = params.section("evaluation", EvaluationConfig)
    clips = consecutive_frames(prepared, config.video.frames_per_clip, LEAST)
    flow, drift = params.section("flow", FlowConfig), params.section("drift", DriftConfig)
    return data_hash_of(clips[0].data_hash, config, flow, drift)


def data_hash_of(clips: str, config: EvaluationConfig, flow: FlowConfig, drift: DriftConfig) -> str:
    """Of everything but the encoders that a number hangs on: clips, judges, flow, and how long a stream is."""
    judged = [config.lpips_net, config.video.judge_every, asdict(flow)]
    measured = [clips, judged, asdict(drift)]
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()


def write_video_evaluation(folder: Path, evaluation: Evaluation, table: VideoTable, drift: Drift) -> None:
    """Write ``GATE``, ``METRICS`` (both rows, for DVC) and ``DRIFT`` (for its plots) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"rows": table.numbers(), "evaluation": dict(evaluation.metrics)}
    for name, text in (
        (GATE, evaluation.to_json() + "\n"),
        (METRICS, json.dumps(numbers, indent=2) + "\n"),
        (DRIFT, drift.to_csv()),
    ):
        write_whole(folder / name, text)


def video_markdown(evaluation: Evaluation, table: VideoTable, drift: Drift, command: str) -> str:
    """ViEN beside FrEN, with the command that made it."""
    m = evaluation.metrics
    streamed_frames, names = drift.frames[-1] + 1, ", ".join(drift.clips)
    return "\n".join([
        f"`{command}`, video encoder `{evaluation.model_sha256[:12]}`, generator "
        f"`{evaluation.generator_sha256[:12]}`, data `{evaluation.data_hash[:12]}`: {table.persons} persons not "
        f"trained on, {len(table.clips)} clips, {table.frames} consecutive frames.",
        "",
        *table.lines(),
        "",
        f"ViEN's TC is {m['tc_share']:.2f} of FrEN's at {m['psnr_gain']:+.2f} dB. Over {streamed_frames} frames "
        f"of {names} (played forth and back where shorter) its PSNR moves by {drift.slope('ViEN'):+.3f} dB "
        f"per hundred frames, FrEN's by {drift.slope('FrEN'):+.3f}.",
    ])  # fmt: skip
