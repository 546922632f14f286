"""``stylereel evaluate``: measure an encoder on the test persons, leave the files that DVC and the gate read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datamodules.clips import read_prepared
from datamodules.people import Split
from datamodules.types import BadInputError
from modules.model_folder import load_model
from services.balancing import balancing_of
from services.direction_settings import DirectionSettings
from services.edits.directions_evaluation import (
    data_hash_of,
    evaluate_directions,
    standard_strengths,
)
from services.edits.encoded_codes import frames_of_test_persons
from services.edits.instruments import load_instruments
from services.edits.pose_evaluation import data_hash_of as pose_data_hash_of
from services.edits.pose_evaluation import evaluate_pose_editor
from services.edits.pose_settings import PoseEditorSettings
from services.evaluation.frames import HeldOutFrames, held_out_frames
from services.evaluation.reconstruction import EvaluationConfig, Optimise, Rows, See, evaluate_frame_encoder
from services.evaluation.reconstruction import data_hash_of as frames_data_hash_of
from services.evaluation.report import (
    BLOCK,
    CLIPS_TABLE,
    GATE,
    METRICS,
    markdown,
    metrics_of,
    replace_block,
    write_evaluation,
)
from services.evaluation.restoring import evaluate_restoring_encoder
from services.evaluation.sheets import Shown
from services.evaluation.table import BLOCK as VIDEO_BLOCK
from services.evaluation.table import TABLE, write_table
from services.evaluation.table import markdown as video_markdown
from services.model_names import DIRECTIONS, FRAME_ENCODER, POSE_EDITOR, RESTORERS, STYLESPACE
from services.opened_registry import open_registry
from services.pipeline.encoders import (
    NAMES,
    SHIPPED,
    asked_for,
    find_frame_encoder,
    name_of,
    trained_with,
)
from services.pipeline.models import Judges
from services.pipeline.options import PipelineConfig
from services.places import CLIPS, METRICS_FOLDER, RESULTS
from services.precise_generator import exact_generator
from services.progress import Cancelled, Meter, Report, never, silent
from services.registry.gate import Evaluation
from services.registry.promote import ReEvaluate
from services.registry.store import CHALLENGER, CHAMPION, PREVIOUS, RegisteredVersion
from services.settings import Params
from services.stages.evaluate_table import evaluate_table
from services.stages.evaluate_video import FILES as VIDEO_FILES
from services.stages.evaluate_video import data_hash_here, evaluate_video_encoder, write_video_evaluation
from services.stages.evaluate_video import video_markdown as video_encoder_markdown
from services.training.runs import stage_run

VIDEO_ENCODER_BLOCK = "video-encoder"


@dataclass(frozen=True)
class EvaluateOptions:
    """What the user of ``stylereel evaluate`` chooses."""

    encoder: str = ""
    """``frame``, ``video``, a model folder, an alias or a version; empty is the shipped frame encoder."""
    clips: Path | None = None
    """Prepared clips; None takes those that ``dvc repro prepare`` makes."""
    split: Split = "test"
    """Persons to measure on."""
    optimise: bool = False
    """Whether the rows that take minutes per frame are measured too."""
    table: bool = False
    """Whether Table 1 is measured too, on consecutive frames."""
    published: bool = False
    """Whether the tables take the places of those in ``docs/results.md``, where Table 1 is measured."""
    metrics: Path = METRICS_FOLDER
    """Folder that the files are written to."""
    command: str = "stylereel evaluate"
    """What the table says that made it."""


def evaluate(
    params: Params, options: EvaluateOptions, report: Report = silent, cancelled: Cancelled = never
) -> str:
    """Measure, write the files and, where asked for, Table 1 and both tables in the docs.

    Returns what was measured as Markdown. Raises ``BadInputError``.
    """
    folder = encoder_folder(params, options.encoder)
    if name_of(folder) == NAMES["video"]:
        return _evaluate_video(params, folder, options, report, cancelled)
    frames = _frames(params, options.clips, options.split)
    fixed = frames.spread(params.section("evaluation", EvaluationConfig).optimised_frames)
    looked = Shown(frames, fixed)
    with stage_run("evaluate", params, {"command": options.command, "data": frames.data_hash}) as run:
        evaluation, rows = evaluate_folder(params, folder, frames, options.optimise, report, cancelled, looked.see)
        write_evaluation(options.metrics, evaluation, rows, frames)
        text = markdown(evaluation, rows, frames, options.command)
        run.log_params({"encoder": evaluation.model_sha256, "generator_sha256": evaluation.generator_sha256})
        run.log_metrics(metrics_of(rows, frames))
        for name in (METRICS, CLIPS_TABLE, GATE):
            run.log_file(options.metrics / name)
        labels = {row.name: row.label for row in (rows.fixed or rows.all_frames)[1:]}
        run.log_image("reconstructions", looked.sheet(labels))
        if options.table:
            if options.published:
                replace_block(RESULTS, BLOCK, text)
            prepared = read_prepared(options.clips or CLIPS)
            tables, notes = evaluate_table(
                params, prepared, options.split, folder, options.optimise, report, cancelled
            )
            write_table(options.metrics, tables)
            names = ("video", "video_optimised")
            run.log_metrics({name: table.numbers() for name, table in zip(names, tables, strict=False)})
            run.log_file(options.metrics / TABLE)
            video = video_markdown(tables, options.command, notes)
            if options.published:
                replace_block(RESULTS, VIDEO_BLOCK, video)
            text = f"{text}\n\n{video}"
    return text


def _evaluate_video(
    params: Params, folder: Path, options: EvaluateOptions, report: Report, cancelled: Cancelled
) -> str:
    if options.optimise:
        raise BadInputError("--optimise measures codes of single frames: leave it out for a video encoder")
    prepared = read_prepared(options.clips or CLIPS)
    with stage_run("evaluate-video", params, {"command": options.command}) as run:
        evaluation, table, drift = evaluate_video_encoder(
            params, folder, prepared, options.split, report=report, cancelled=cancelled,
            show=partial(run.log_image, "reconstructions"),
        )  # fmt: skip
        write_video_evaluation(options.metrics, evaluation, table, drift)
        run.log_params({"encoder": evaluation.model_sha256, "generator_sha256": evaluation.generator_sha256})
        run.log_metrics({**evaluation.metrics, "video": table.numbers()})
        for name in VIDEO_FILES:
            run.log_file(options.metrics / name)
        text = video_encoder_markdown(evaluation, table, drift, options.command)
        if options.table and options.published:
            replace_block(RESULTS, VIDEO_ENCODER_BLOCK, text)
    return text


def evaluate_folder(
    params: Params,
    folder: Path,
    frames: HeldOutFrames,
    optimise: bool,
    report: Report = silent,
    cancelled: Cancelled = never,
    see: See = lambda row, indices, shown: None,
) -> tuple[Evaluation, Rows]:
    """Measure the encoder in a model folder on ``frames``; the judges and the generator are loaded for it."""
    from modules.encoders.vit import load_frame_encoder
    from modules.losses.perceptual import load_lpips
    from modules.perception.detection import DetectionConfig

    runtime = params.runtime
    device = runtime.torch_device()
    config = params.section("evaluation", EvaluationConfig)
    generator = exact_generator(params)
    encoder = load_frame_encoder(folder, generator.sha256).to(device)
    judges = Judges(params.section("detection", DetectionConfig), config.lpips_net, device)
    refine = params.section("pipeline", PipelineConfig).refine
    longer = Optimise(refine, lambda net: load_lpips(net, device), runtime.state / "evaluation")
    return evaluate_frame_encoder(
        encoder, load_model(folder).config_sha256, generator, frames, judges, config, longer if optimise else None,
        device, report, cancelled, see,
    )  # fmt: skip


def encoder_folder(params: Params, encoder: str) -> Path:
    """The model folder that ``encoder`` names: a folder, an alias or a version of the registry's frame encoder.

    ``frame`` and ``video`` are the shipped ones, as is nothing: the frame encoder.
    """
    folder, kind = asked_for(Path(encoder) if encoder else None, "frame")
    if folder is None:
        if not SHIPPED[kind].is_dir():
            raise BadInputError(f"no encoder is shipped in assets/{SHIPPED[kind].name}: name one with --encoder")
        return SHIPPED[kind]
    if folder.is_dir():
        return folder
    names = ("frame", "video", CHALLENGER, CHAMPION, PREVIOUS)
    if encoder not in names and not encoder.isdecimal():
        raise BadInputError(f"{encoder!r} is neither a model folder nor a version nor one of {', '.join(names)}")
    registry = open_registry(params)
    find = registry.version if encoder.isdecimal() else registry.resolve
    return registry.download(find(FRAME_ENCODER, encoder))


def re_evaluation(params: Params, name: str, report: Report = silent) -> ReEvaluate | None:
    """What ``ModelRegistry.promote`` asks to measure the champion where the challenger was measured.

    None for models of other kinds: they are measured by what made them.
    """
    if name == NAMES["video"]:
        return _video_re_evaluation(params, report)
    if name == POSE_EDITOR:
        return _pose_re_evaluation(params)
    if name == DIRECTIONS:
        return _directions_re_evaluation(params, report)
    if name == STYLESPACE:
        return _stylespace_re_evaluation(params)
    for task, restorer in RESTORERS.items():
        if name == restorer:
            return _restoring_re_evaluation(params, task)
    if name != FRAME_ENCODER:
        return None

    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        frames = _frames(params, None, "test")
        net = params.section("evaluation", EvaluationConfig).lpips_net
        _same_data(challenger, frames_data_hash_of(frames, net))
        return evaluate_folder(params, folder, frames, False, report)[0]

    return measure


def _video_re_evaluation(params: Params, report: Report) -> ReEvaluate:
    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        prepared = read_prepared(CLIPS)
        _same_data(challenger, data_hash_here(params, prepared))
        find = find_frame_encoder(open_registry(params).download_weights)
        return evaluate_video_encoder(params, folder, prepared, "test", find, report)[0]

    return measure


def _restoring_re_evaluation(params: Params, task: str) -> ReEvaluate:
    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        from modules.encoders.vit import load_frame_encoder

        net = params.section("evaluation", EvaluationConfig).lpips_net
        _same_data(challenger, frames_data_hash_of(_frames(params, None, "test"), net, task))
        generator = exact_generator(params)
        place = trained_with(
            folder,
            find_frame_encoder(open_registry(params).download_weights),
            "register it under stylereel-frame-encoder",
        )
        first = load_frame_encoder(place, generator.sha256)
        return evaluate_restoring_encoder(folder, first, generator, params)[0]

    return measure


def _pose_re_evaluation(params: Params) -> ReEvaluate:
    settings = params.section("pose_editor", PoseEditorSettings)

    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        tools = load_instruments(settings, params)
        frames = frames_of_test_persons(settings, tools.generator.sha256)
        _same_data(challenger, pose_data_hash_of(frames, settings))
        return evaluate_pose_editor(folder, frames, settings, tools)[1]

    return measure


def _stylespace_re_evaluation(params: Params) -> ReEvaluate:
    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        from services.edits.stylespace import StylespaceSettings, evaluate_stylespace, load_tools
        from services.edits.stylespace import data_hash_of as stylespace_data_hash_of

        settings = params.section("stylespace", StylespaceSettings)
        _same_data(challenger, stylespace_data_hash_of(settings))
        return evaluate_stylespace(folder, load_tools(settings, params), settings, lambda line: None)

    return measure


def _directions_re_evaluation(params: Params, report: Report) -> ReEvaluate:
    settings = params.section("directions", DirectionSettings)

    def measure(version: RegisteredVersion, folder: Path, challenger: Evaluation) -> Evaluation:
        tools = load_instruments(settings, params)
        frames = frames_of_test_persons(settings, tools.generator.sha256)
        balancing = balancing_of(params)
        _same_data(challenger, data_hash_of(frames, settings, balancing))
        strengths = sum(len(asked) for asked in standard_strengths(settings).values())
        meter = Meter("measure the champion", 1 + strengths, report, never)
        return evaluate_directions(
            folder, frames, settings, balancing, tools, lambda done, total: meter.advance()
        )[1]

    return measure


def _same_data(challenger: Evaluation, here: str) -> None:
    if here != challenger.data_hash:
        raise BadInputError(
            f"the challenger was measured on data {challenger.data_hash[:12]}, the test clips, the encoder and "
            f"params.yaml here give {here[:12]}: measure the challenger here and register it again"
        )


def _frames(params: Params, clips: Path | None, split: Split) -> HeldOutFrames:
    config = params.section("evaluation", EvaluationConfig)
    return held_out_frames(read_prepared(clips or CLIPS), config.frames_per_clip, split)
