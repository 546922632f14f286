"""The stage ``directions``: label samples, fit and part boundaries, set units on renderings, write the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.clips import read_prepared
from datamodules.disk import write_whole
from datamodules.latents import AttributeDataset, label_samples
from datamodules.samples import SampleDataset
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.editing.boundaries import (
    Boundary,
    RowGroups,
    block_covariance,
    fit_classes,
    fit_regression,
    part,
    symmetric_root,
    unmix,
)
from modules.editing.directions import Direction, EditSet, load_directions, save_directions
from modules.generators import Generator
from modules.lit.direction_training import DirectionTraining
from modules.losses.edits import EditTerm, FaceKept
from modules.model_folder import load_model
from modules.perception.face_judge import FaceJudgeConfig
from modules.perception.second_judges import SecondJudges
from services.attributes import NAMES, SecondAttributeJudge
from services.balancing import Balancing, balancing_of
from services.code_hash import judges_sha256
from services.direction_settings import DirectionSettings, EditSettings
from services.edits.directions_card import card
from services.edits.directions_evaluation import (
    evaluate_directions,
    evaluation_of,
    measure_as_served,
    standard_strengths,
    summary_of,
)
from services.edits.encoded_codes import EncodedFrames, codes_for_units, frames_of_test_persons, training_codes
from services.edits.evaluation import as_markdown, measure_edits, numbers_of, rounded, slopes_between
from services.edits.instruments import Instruments, draw_single, instruments_for, load_instruments
from services.edits.refinement import Goal, Pool, refine, render_pool
from services.edits.sheets import edits_sheet
from services.places import CLIPS, DIRECTIONS, FRAME_ENCODER, METRICS_FOLDER, RUNS, SAMPLES
from services.registry.gate import Evaluation
from services.registry.tracking import Run
from services.settings import ROOT, Params
from services.training.generator import training_generator
from services.training.parts import face_seen, image_losses, seen_by
from services.training.runs import code_sha256, training_run

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

LABELS = ROOT / "build" / "labels"
JUDGED_BY = "face-api age and expression, mediapipe mesh, smile over the upper lip"
POOL = RUNS / "direction-codes.safetensors"
METRICS = "metrics.json"
EVALUATION = METRICS_FOLDER / "directions.evaluation.json"
_COVARIANCE_CODES = 8_000
"""Codes of one z each, from which the covariance of W is taken; mapping them takes seconds."""

Say = Callable[[str], None]


def labelled_by(least_score: float) -> str:
    """What labels of samples say of where they come from: other judges, or a stricter one, label anew."""
    judges = judges_sha256(ROOT, "face-api", "mediapipe")[:12]
    return f"{JUDGED_BY} ({judges}); faces from a score of {least_score:g}"


def train_directions(params: Params, say: Say = lambda line: None) -> Path:
    """Learn the edits from the samples and write them as a model folder; returns ``assets/directions``.

    Beside weights and card it holds ``metrics.json``. Reads ``build/samples``, keeps labels in ``build/labels``.
    Raises ``BadInputError`` where there are no samples.
    """
    settings = params.section("directions", DirectionSettings)
    tools = instruments_for(training_generator(params), settings, params)
    faces, more = kept_faces(params, settings), {"generator_sha256": tools.generator.sha256}
    with training_run("directions", params, more, _run_folder(settings, tools, faces)) as run:
        return _learn(settings, balancing_of(params), tools, faces, run, say)


@dataclass(frozen=True)
class KeptFaces:
    """L_f and L_v of eq. S2, as far as weights name them."""

    terms: Mapping[str, EditTerm]
    judged_by: str
    """The networks behind them, as text for a fingerprint."""

    def of(self, training: DirectionTraining) -> KeptFaces:
        """What one training uses of them."""
        named = {name: term for name, term in self.terms.items() if name in training.weights}
        return KeptFaces(named, self.judged_by if named else "")


def kept_faces(params: Params, settings: DirectionSettings) -> KeptFaces:
    """Those that the weights of ``settings`` name, by the judge of the section ``face_judge``."""
    plans = [settings.refine.training, *(own.training for own in settings.alone.values())]
    named = {name for plan in plans for name in plan.weights} & {"landmark_features", "mesh"}
    if not named:
        return KeptFaces({}, "")
    losses, seen, terms = image_losses(params, named), face_seen(params), {}
    for name in sorted(named):
        loss = losses[name]
        if isinstance(loss, torch.nn.Module):
            loss.to(params.runtime.torch_device())
        terms[name] = FaceKept(loss, seen)
    return KeptFaces(terms, repr(params.section("face_judge", FaceJudgeConfig)))


def _run_folder(settings: DirectionSettings, tools: Instruments, faces: KeptFaces) -> Path:
    """Where the run is noted until it is done; checkpoints are in folders of their own, named after more."""
    counts = replace(settings, refine=replace(settings.refine, checkpoint_every=0))
    what = [
        repr(counts), tools.generator.sha256, faces.judged_by, load_model(FRAME_ENCODER).weights_sha256,
        read_prepared(CLIPS).data_hash("train"), *SampleDataset(SAMPLES).fingerprints, code_sha256("directions"),
    ]  # fmt: skip
    return RUNS / f"directions-run-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def _learn(
    settings: DirectionSettings, balancing: Balancing, tools: Instruments, faces: KeptFaces, run: Run, say: Say
) -> Path:
    # Said to be missing, or to be too few, now, not after an hour.
    fits = settings.learned or not settings.start_from
    most = len(SampleDataset(SAMPLES, settings.samples, tools.generator.sha256))
    if fits and most < settings.held_out + 2:
        raise BadInputError(
            f"{most} samples are labelled and directions.held_out is {settings.held_out}: nothing is left to fit; "
            "raise directions.samples and samples.count"
        )
    frames = frames_of_test_persons(settings, tools.generator.sha256)
    labels = label_samples(
        SAMPLES, LABELS, tools.judge, settings.samples,
        judged_by=labelled_by(settings.least_score),
        progress=lambda done, total: say(f"labelled {done} of {total} samples"),
    )  # fmt: skip
    pairs = AttributeDataset(SAMPLES, labels, NAMES)
    pool = training_pool(pairs, tools, settings, say)
    single = draw_single(
        tools.generator, settings.calibration_codes, settings.calibration_seed, settings.truncation
    )
    scores: dict[str, float] = {}
    if settings.start_from:
        scores = _scores_in(ROOT / settings.start_from)
        edits = edits_to_go_on_from(ROOT / settings.start_from, tools.generator.sha256, settings, say)
    if fits:
        start, found = fit_directions(pairs, tools.generator, settings)
        scores |= {name: score for name, score in found.items() if name in settings.learned or name not in scores}
        if settings.learned:
            start = EditSet((start if name in settings.learned else edits)[name] for name in settings.edits)
        edits = calibrate(start, single, tools, settings, 0.0, say)
    if not settings.start_from:
        edits = refine_on(pool, edits, tools, settings, faces, run.lightning_logger(), say)
    alone = [name for name in settings.alone if name in (settings.learned or settings.edits)]
    for name in alone:
        edits = refine_on(pool, edits, tools, settings, faces, False, say, name)
    real = codes_for_units(
        FRAME_ENCODER, CLIPS, settings.calibration_frames, tools.generator.sha256, settings.calibration_codes
    )
    units_on = "validation and training persons' codes" if len(real) else "samples"
    known = real if len(real) else single
    edits = calibrate(edits, known, tools, settings, settings.unmixed, say)
    second = SecondAttributeJudge(SecondJudges(), tools.judge.mesh, settings.least_score)
    readings = measure_as_served(
        frames, edits, standard_strengths(settings), balancing, tools, _progress(say), second
    )
    summary = {
        **summary_of(readings, settings), "fit": scores, "samples": len(pairs),
        "refined_on": len(pool.ws),
        "units_on": units_on, "went_on_from": settings.start_from, "alone": alone,
        "learned": list(settings.learned),
        "persons": len(set(frames.people)), "clips": len(set(frames.clips)),
    }  # fmt: skip
    folder, evaluation = write_measured(edits, summary, settings, frames, balancing)
    say("\n".join(as_markdown(summary)))
    run.log_metrics({**numbers_of(summary), **evaluation.metrics})
    run.log_file(folder / METRICS)
    run.log_model(folder)
    shown = draw_single(tools.generator, settings.sheet_codes, settings.calibration_seed + 1, settings.truncation)
    run.log_image("edits", edits_sheet(shown, edits, tools.render))
    return folder


def write_measured(
    edits: EditSet,
    summary: Mapping[str, Any],
    settings: DirectionSettings,
    frames: EncodedFrames,
    balancing: Balancing,
) -> tuple[Path, Evaluation]:
    """Write ``assets/directions``, its card and ``metrics.json``, and what the gate reads, of one measurement."""
    sha256 = next(iter(edits.values())).generator_sha256
    folder = save_directions(DIRECTIONS, edits, card(summary, sha256))
    write_whole(folder / METRICS, json.dumps(rounded(summary), indent=2) + "\n")
    evaluation = evaluation_of(summary, folder, settings, frames, balancing)
    EVALUATION.parent.mkdir(exist_ok=True)
    write_whole(EVALUATION, evaluation.to_json())
    return folder, evaluation


def measure_again(params: Params, say: Say = lambda line: None) -> dict[str, Any]:
    """Measure the edits in ``assets/directions`` as the stage does and write it where the stage does.

    What the folder says of how they were learned stays. Returns what ``metrics.json`` then holds.
    """
    settings = params.section("directions", DirectionSettings)
    tools = load_instruments(settings, params)
    edits = load_directions(DIRECTIONS, tools.generator.sha256)
    learned = json.loads((DIRECTIONS / METRICS).read_text())
    frames, balancing = frames_of_test_persons(settings, tools.generator.sha256), balancing_of(params)
    second = SecondAttributeJudge(SecondJudges(), tools.judge.mesh, settings.least_score)
    found, _ = evaluate_directions(DIRECTIONS, frames, settings, balancing, tools, _progress(say), second)
    summary = {**learned, **found}
    write_measured(edits, summary, settings, frames, balancing)
    return summary


def edits_to_go_on_from(folder: Path, generator_sha256: str, settings: DirectionSettings, say: Say) -> EditSet:
    """The edits of a folder that ``params.yaml`` names, with its units and bounds; raises ``BadInputError``.

    Without those of ``directions.learned``, whatever the folder holds of them.
    """
    found = load_directions(folder, generator_sha256)
    wanted = {name: edit for name, edit in settings.edits.items() if name not in settings.learned}
    if missing := wanted.keys() - found.keys():
        raise BadInputError(
            f"{folder} lacks {', '.join(sorted(missing))}, which directions.edits names: learn without "
            "directions.start_from, or name a folder that has them"
        )
    if others := found.keys() - settings.edits.keys():
        say(f"left out: {', '.join(sorted(others))} of {folder}, which directions.edits does not name")
    return EditSet(
        replace(found[name], unit=edit.unit, lower=edit.lower, upper=edit.upper, recolours=edit.recolours)
        for name, edit in wanted.items()
    )


def fit_directions(
    pairs: AttributeDataset, generator: Generator, settings: DirectionSettings
) -> tuple[EditSet, dict[str, float]]:
    """Boundaries in the codes, parted from each other: the edits before calibration, and held-out scores."""
    groups = RowGroups(settings.groups, generator.num_ws)
    features = groups.features(pairs.ws.numpy())
    attributes = pairs.attributes.double().numpy()
    classes = {name for name, edit in settings.edits.items() if edit.kind == "class"}
    fitted = {
        name: _fit(features, attributes[:, pairs.names.index(name)], name in classes, settings)
        for name in (*settings.edits, *settings.controls)
    }
    names = list(fitted)
    normals = np.stack([fitted[name].normal for name in names])
    covariance = block_covariance(_single_codes(generator), len(settings.groups), settings.shrink)
    directions = []
    for k, (name, edit) in enumerate(settings.edits.items()):
        allowed = groups.allowed(edit.rows, generator.w_dim)
        kept = [names.index(other) for other in edit.keeps]
        feature = part(normals, k, covariance, allowed, kept) * edit.per_unit
        directions.append(_direction(name, edit, groups.rows(feature), generator))
    return EditSet(directions), {name: boundary.score for name, boundary in fitted.items()}


def calibrate(
    edits: EditSet, codes: Tensor, tools: Instruments, settings: DirectionSettings, unmixed: float, say: Say
) -> EditSet:
    """Make one unit of each edit one unit of its own attribute, as measured on ``codes`` ``(N, num_ws, w_dim)``.

    ``unmixed`` is the share of what each was measured to do to what it keeps that is taken out with it. Where
    ``directions.learned`` names edits, the others stay as they are, and are only measured to be taken out.
    """
    learned = settings.learned or tuple(edits)
    kept = {other for name in learned for other in settings.edits[name].keeps}
    names = [name for name in edits if name in learned or name in kept]
    per_unit = np.array([settings.edits[name].per_unit for name in names])
    own = np.eye(len(names), dtype=bool)
    held = np.array([[other in settings.edits[name].keeps for other in names] for name in names])
    probes = {name: _probes(settings.edits[name]) for name in names}
    for turn in range(settings.calibration_rounds):
        readings = measure_edits(
            codes, edits, probes, tools.render, tools.judge, tools.embed, progress=_progress(say)
        )
        response = np.stack([slopes_between(readings, name, names) for name in names])
        lost = [name for name, row in zip(names, response, strict=True) if not np.isfinite(row).all()]
        if lost:
            raise BadInputError(
                f"no face is left at the probes of {', '.join(lost)}: make directions.edits.*.probe smaller, "
                "or label more samples (directions.samples)"
            )
        response = np.where(own, response, unmixed * response)
        vectors = np.stack([edits[name].vector.double().numpy() for name in names])
        mixed = dict(zip(names, unmix(vectors, response, per_unit, held & ~own), strict=True))
        edits = EditSet(
            replace(edit, vector=torch.from_numpy(mixed[name]).float()) if name in learned else edit
            for name, edit in edits.items()
        )
        found = ", ".join(f"{name} {response[k, k] / per_unit[k]:.2f}" for k, name in enumerate(names))
        say(f"round {turn + 1}: slopes were {found}")
    return edits


def training_pool(pairs: AttributeDataset, tools: Instruments, settings: DirectionSettings, say: Say) -> Pool:
    """What directions are refined on: made codes, of one z and mixed, and codes of training persons' frames.

    Their renderings are kept in ``build/runs``.
    """
    config, generator = settings.refine, tools.generator
    single = draw_single(generator, config.singles, config.seed, settings.truncation)
    mixed = torch.stack([pairs[i][0] for i in spread(len(pairs), config.mixed)])
    real = training_codes(FRAME_ENCODER, CLIPS, config.per_clip, generator.sha256)
    return render_pool(
        torch.cat([single, mixed, real]), tools.render, POOL, f"{generator.sha256} {settings.resolution}",
        progress=lambda done, total: say(f"rendered {done} of {total} codes"),
    )  # fmt: skip


def refine_on(
    pool: Pool,
    edits: EditSet,
    tools: Instruments,
    settings: DirectionSettings,
    faces: KeptFaces,
    logger: Logger | bool,
    say: Say,
    alone: str = "",
) -> EditSet:
    """Refine all edits, or ``alone`` the one so named, as its settings say; checkpoints are in ``build/runs``."""
    goals = {
        name: Goal(edit.rows, edit.per_unit, edit.typical, frozenset(settings.edits) - {name, *edit.keeps})
        for name, edit in settings.edits.items()
    }
    config, only = settings.refine, None
    if alone:
        own = settings.alone[alone]
        goals[alone] = replace(goals[alone], rows=_with_moved(own.rows, edits[alone].vector))
        config, only = replace(config, training=own.training, identity=own.identity), (alone, own.reach)
    root = symmetric_root(block_covariance(_single_codes(tools.generator), 1, settings.shrink))
    made_of = [tools.generator.sha256, settings.resolution, settings.least_score, settings.shrink]
    faces = faces.of(config.training)
    made_of.append(faces.judged_by)
    say(f"refining {alone or 'all edits'} on {len(pool.ws)} codes")
    seen = seen_by(tools.judge.mesh, settings.least_score)
    return refine(
        edits, goals, pool, root, tools.render, tools.judge, tools.embed, seen, config,
        json.dumps([code_sha256("directions"), *made_of]), RUNS, logger,
        tools.generator.w_mean.device.type, only, faces.terms,
    )  # fmt: skip


def _with_moved(rows: tuple[int, int], vector: Tensor) -> tuple[int, int]:
    """The rows ``[first, last)`` and those that ``vector`` moves: taking others out of an edit moves those."""
    moved = vector.ne(0).any(1).nonzero().flatten().tolist()
    return min([rows[0], *moved]), max([rows[1], *(row + 1 for row in moved)])


def _scores_in(folder: Path) -> dict[str, float]:
    """The held-out scores of the fits that a folder of edits goes back to; none where it does not say."""
    try:
        fit = json.loads((folder / METRICS).read_text())["fit"]
        return {str(name): float(score) for name, score in fit.items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _probes(edit: EditSettings) -> tuple[float, float]:
    """Strengths that an edit is set to its unit between; not below what it offers."""
    return max(-edit.probe, edit.lower), min(edit.probe, edit.upper)


def _progress(say: Say) -> Callable[[int, int], None]:
    return lambda done, total: say(f"measured {done} of {total} edits")


def _single_codes(generator: Generator) -> NDArray[np.float64]:
    return draw_single(generator, _COVARIANCE_CODES, 0, 1.0)[:, 0].double().numpy()


def _fit(
    features: NDArray[np.float64], values: NDArray[np.float64], is_class: bool, settings: DirectionSettings
) -> Boundary:
    if is_class:
        try:
            return fit_classes(features, values > 0, settings.ridge, settings.held_out)
        except ValueError as error:
            raise BadInputError(f"{error}; raise directions.samples and samples.count") from error
    return fit_regression(features, values, settings.ridge, settings.held_out)


def _direction(name: str, edit: EditSettings, vector: NDArray[np.float64], generator: Generator) -> Direction:
    tensor = torch.from_numpy(vector).float()
    return Direction(name, edit.unit, tensor, edit.lower, edit.upper, generator.sha256, recolours=edit.recolours)
