"""The stage ``pose-editor``: fit the face model, solve the linear part, train, set the units, measure, write."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.clips import Prepared, read_prepared
from datamodules.disk import write_whole
from datamodules.latents import label_samples, read_labels
from datamodules.pose_batches import FramePairs, KeptSamples, Movements, PoseBatches, frame_pairs
from datamodules.samples import REMAKE, SampleDataset
from datamodules.shards import Shard
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.editing.directions import EditSet
from modules.editing.expression import QUANTITIES, fit_expressions
from modules.editing.pose import (
    EXPRESSIONS,
    Held,
    PoseEdit,
    PoseEditor,
    pose_edits,
    request,
    save_pose_editor,
)
from modules.encoders.vit import FrameEncoder, load_frame_encoder
from modules.lit.frame_encoder import FrozenParts
from modules.lit.pose_editor import LitPoseEditor
from modules.losses.edits import EditTerm, IdentityFloor
from modules.losses.pose import AskedMesh
from modules.model_folder import weights_sha256
from modules.perception.face_shape import FaceBasis, FaceParameters, difference, fit_face_basis
from modules.perception.mesh import FaceMesh
from services.attributes import load_attribute_judge
from services.edits.directions import LABELS, labelled_by
from services.edits.encoded_codes import codes_for_units, frames_of_test_persons, training_codes
from services.edits.evaluation import Readings, Render, measure_edits, slopes_between
from services.edits.face_meshes import ShardMeshes, clip_meshes, sample_meshes
from services.edits.instruments import Instruments, instruments_for
from services.edits.pose_card import card
from services.edits.pose_evaluation import PoseJudge, evaluate_pose_editor
from services.edits.pose_settings import PoseEditorSettings
from services.edits.refinement import render_pool
from services.edits.sheets import edits_sheet
from services.places import CLIPS, FRAME_ENCODER, METRICS_FOLDER, RUNS, SAMPLES
from services.registry.gate import Evaluation
from services.registry.tracking import Run
from services.settings import ROOT, Params
from services.training.generator import training_generator
from services.training.parts import OF_FACES, face_seen, image_losses, judged_by, seen_by
from services.training.runs import code_sha256, training_run
from services.training.trainer import fit_steps

FOLDER = ROOT / "assets" / "pose-editor"
MESHES, POOL = ROOT / "build" / "meshes", ROOT / "build" / "pose" / "pool.safetensors"
FIGURES = "metrics.json"
EVALUATION = METRICS_FOLDER / "pose_editor.evaluation.json"
SHEET_CODES = 3
"""Frames that the run's sheet shows each edit on."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class FaceModel:
    """What the editor's input is told in."""

    basis: FaceBasis
    expressions: Tensor
    """``(4, E)``, see ``expression.fit_expressions``."""


def train_pose_editor(params: Params, say: Say = lambda line: None) -> Path:
    """Train the editor, or go on from its last checkpoint, and write it to ``assets/pose-editor``; returns that.

    Beside weights and card the folder holds ``metrics.json``; the evaluation that the gate reads goes to
    ``metrics/``. Raises ``BadInputError`` where clips or samples are missing.
    """
    settings = params.section("pose_editor", PoseEditorSettings)
    generator, prepared = training_generator(params), read_prepared(CLIPS)
    device, tools = params.runtime.torch_device(), instruments_for(generator, settings, params)
    # Said to be missing now, not after an hour.
    samples = SampleDataset(SAMPLES, made_by=generator.sha256)
    frames = frames_of_test_persons(settings, generator.sha256)
    encoder, mesh = load_frame_encoder(FRAME_ENCODER, generator.sha256), tools.judge.mesh
    run_folder = RUNS / f"pose-editor-{_fingerprint(params, settings, prepared, encoder, samples)}"
    # Before the meshes, which take long of many samples: a registry that is down is said to be so now.
    with training_run("pose-editor", params, {"generator_sha256": generator.sha256}, run_folder) as run:
        clips = clip_meshes(
            prepared, "train", mesh, MESHES, lambda done, total: say(f"meshes of {done} of {total} clips")
        )
        check_filmed(clips, settings)
        shards = sample_meshes(
            sorted(SAMPLES.glob("samples-*.safetensors")), mesh, MESHES,
            lambda done, total: say(f"meshes of {done} of {total} shards"),
        )  # fmt: skip
        model = fit_face_model(clips, shards, settings)
        torch.manual_seed(settings.seed)
        labels = _labels(settings, mesh, device, say)
        editor = solved_editor(model, shards, labels, encoder, settings)
        encoded = training_codes(FRAME_ENCODER, CLIPS, settings.encoded_per_clip, generator.sha256)
        sources: list[SampleDataset | KeptSamples] = [samples]
        if len(encoded):
            made_from = f"{generator.sha256} {settings.resolution}"
            pool = render_pool(encoded, tools.render, POOL, made_from, _every(50, "codes rendered", say))
            sources.append(KeptSamples(pool.ws, pool.pictures))
        lit = LitPoseEditor(
            editor, encoder, settings.training,
            FrozenParts(generator, image_losses(params, settings.training.weights), face_seen(params), OF_FACES),
            asked_terms(model, tools, settings),
        )  # fmt: skip
        batches = pose_batches(clips, sources, model, settings)
        plan = settings.training
        fit_steps(
            lit,
            plan.steps,
            batches,
            settings.checkpoint_every,
            run_folder,
            run.lightning_logger(),
            plan.gradient_clip,
            device,
        )
        editor = lit.editor.eval().requires_grad_(False)
        known = codes_for_units(
            FRAME_ENCODER, CLIPS, settings.encoded_per_clip, generator.sha256, settings.calibration_codes
        )
        gains, held = calibrate(editor, model, tools, samples, known, generator.sha256, settings, say)
        # Measured as it will be loaded, before it takes the place of the shipped one.
        made = (editor, model.basis, model.expressions, settings.edits, gains, generator.sha256, held)
        trial = save_pose_editor(run_folder / "model", *made, "# Pose and expression editor, not measured yet\n")
        lines, evaluation = evaluate_pose_editor(trial, frames, settings, tools, say)
        trained_on = sorted({clip.name for clip in prepared.of("train") if clip.person >= 0})
        text = card(generator.sha256, len(samples), plan.steps, trained_on, lines)
        folder = save_pose_editor(FOLDER, *made, text)
        write_whole(folder / FIGURES, json.dumps(dict(evaluation.metrics), indent=2, sort_keys=True) + "\n")
        EVALUATION.parent.mkdir(exist_ok=True)
        write_whole(EVALUATION, evaluation.to_json())
        keep_with(run, folder, evaluation, pose_edits(*made), frames.ws, tools.render)
    say("\n".join(lines))
    return folder


def keep_with(
    run: Run, folder: Path, evaluation: Evaluation, edits: EditSet[PoseEdit], ws: Tensor, render: Render
) -> None:
    """Log what came out: numbers, the model, and every edit at its bounds on some of the codes ``ws``."""
    run.log_metrics(dict(evaluation.metrics))
    run.log_model(folder)
    run.log_image("edits", edits_sheet(ws[spread(len(ws), SHEET_CODES)], edits, render))


def check_filmed(clips: Sequence[ShardMeshes], settings: PoseEditorSettings) -> None:
    """Raise ``BadInputError`` where too few filmed frames show how a face moves: now, not after the samples."""
    filmed = sum(int((meshes.score >= settings.least_score).sum()) for meshes in clips)
    if filmed <= settings.expression_components:
        raise BadInputError(
            f"{filmed} frames of training persons show how a face moves, more than "
            f"{settings.expression_components} are needed: add clips of them, or lower "
            "pose_editor.expression_components"
        )


def fit_face_model(
    clips: Sequence[ShardMeshes], samples: Sequence[ShardMeshes], settings: PoseEditorSettings
) -> FaceModel:
    """The face model of the training persons' clips and the samples, each of which is a person of its own."""
    points, people = [], []
    for meshes in clips:
        seen = torch.from_numpy(meshes.score >= settings.least_score)
        points.append(meshes.points[seen])
        people.append(torch.full((int(seen.sum()),), meshes.person))
    filmed = torch.cat(points) if points else torch.empty(0, 468, 3)
    who = torch.cat(people) if people else torch.empty(0, dtype=torch.long)
    drawn = torch.cat([m.points[torch.from_numpy(m.score >= settings.least_score)] for m in samples])
    everyone = torch.cat([who, -1 - torch.arange(len(drawn))])
    basis = fit_face_basis(
        torch.cat([filmed, drawn]), everyone, torch.arange(len(everyone)) < len(filmed),
        (settings.identity_components, settings.expression_components),
    )  # fmt: skip
    return FaceModel(basis, fit_expressions(basis, filmed, who, settings.expression_ridge))


def solved_editor(
    model: FaceModel,
    samples: Sequence[ShardMeshes],
    labels: Sequence[Tensor],
    encoder: FrameEncoder,
    settings: PoseEditorSettings,
) -> PoseEditor:
    """An editor whose linear part is solved from the samples' codes, and whose MLP answers 0 yet.

    ``labels`` are ``(N, K)`` per shard: what is kept.
    """
    seen = [
        torch.from_numpy(meshes.score >= settings.least_score) & found.isfinite().all(1)
        for meshes, found in zip(samples, labels, strict=True)
    ]
    kept = torch.cat([found[rows] for found, rows in zip(labels, seen, strict=True)])
    points = torch.cat([meshes.points[kept] for meshes, kept in zip(samples, seen, strict=True)])
    codes = [torch.from_numpy(meshes.shard.array("ws"))[kept] for meshes, kept in zip(samples, seen, strict=True)]
    found = model.basis.parameters(points)
    neutral = FaceParameters(
        torch.zeros_like(found.identity), torch.zeros_like(found.expression),
        torch.eye(3).expand(len(points), 3, 3), torch.zeros_like(found.translation),
    )  # fmt: skip
    change = difference(neutral, found)
    editor = PoseEditor(settings.network, encoder.num_ws, change.std(0), encoder.w_basis)
    editor.solve(change, torch.cat(codes), settings.linear_ridge, kept if settings.kept else None)
    return editor


def asked_terms(model: FaceModel, tools: Instruments, settings: PoseEditorSettings) -> dict[str, EditTerm]:
    """The terms on what is asked of codes, by name."""
    units = [
        settings.named_units * (offered.per_unit if (offered := settings.edits.get(f"expression.{name}")) else 1.0)
        for name in QUANTITIES
    ]
    mesh, least = tools.judge.mesh, settings.least_score
    return {
        "mesh": AskedMesh(mesh, model.basis, settings.mesh_pixels, torch.tensor(units), least),
        "identity": IdentityFloor(tools.embed, settings.identity, seen_by(mesh, least)),
    }


def pose_batches(
    clips: Sequence[ShardMeshes],
    sources: Sequence[SampleDataset | KeptSamples],
    model: FaceModel,
    settings: PoseEditorSettings,
) -> Callable[[int], PoseBatches]:
    """What is left to train on after a number of steps. Pairs are drawn the more often the more the head turns."""
    pairs = [found for meshes in clips if (found := _pairs(meshes, model.basis, settings)) is not None]
    changes = torch.stack([
        request(name, edit.per_unit, model.basis, model.expressions) for name, edit in settings.edits.items()
    ])  # fmt: skip
    movements = Movements(changes, [(edit.lower, edit.upper) for edit in settings.edits.values()], settings.active)
    plan = settings.training

    def after(first_step: int) -> PoseBatches:
        count = plan.pairs if plan.weights else 0
        return PoseBatches(pairs, sources, movements, count, plan.codes, plan.steps, settings.seed, first_step)

    return after


def calibrate(
    editor: PoseEditor, model: FaceModel, tools: Instruments, samples: SampleDataset, encoded: Tensor,
    generator_sha256: str, settings: PoseEditorSettings, say: Say,
) -> tuple[dict[str, float], Mapping[str, Held]]:  # fmt: skip
    """What to ask of the editor per unit that a user asks, so that the mean slope on ``encoded`` codes is 1.

    The slope is that over all strengths that the finished editor is measured at. And what of the expression to ask
    along with the edits that hold it, so that in the mean it stays: to each side by itself.
    """
    gains, held = dict.fromkeys(settings.edits, 1.0), dict[str, dict[str, tuple[float, float]]]()
    count = settings.calibration_codes
    if not count:
        return gains, held
    # Frames are what is edited; where no clips are prepared, samples have to do.
    known = encoded if len(encoded) else torch.stack([samples[i].ws for i in spread(len(samples), count)])
    chosen = known[spread(len(known), count)]
    judge = PoseJudge(tools.judge.mesh, model.basis, settings.least_score)
    probes = {name: edit.measured for name, edit in settings.edits.items()}

    def measured(probes: Mapping[str, Sequence[float]]) -> Readings:
        edits = pose_edits(editor, model.basis, model.expressions, settings.edits, gains, generator_sha256, held)
        return measure_edits(chosen, edits, probes, tools.render, judge, tools.embed)

    for turn in range(settings.calibration_rounds):
        readings = measured(probes)
        slopes = {
            name: float(slopes_between(readings, name, [name])[0]) / edit.per_unit
            for name, edit in settings.edits.items()
        }
        say(f"round {turn + 1}: slopes were " + ", ".join(f"{name} {slope:.2f}" for name, slope in slopes.items()))
        if lost := [name for name, slope in slopes.items() if not math.isfinite(slope)]:
            raise BadInputError(
                f"no face is left under {', '.join(lost)}: make pose_editor.edits.*.typical smaller, or train on "
                "more samples and steps"
            )
        # An edit that hardly answers is not made to by asking ten times as much.
        gains = {name: gain / min(max(slopes[name], 0.5), 2.0) for name, gain in gains.items()}
    named = [name for name in EXPRESSIONS if name in settings.edits]
    for _ in range(settings.calibration_rounds if settings.holding else 0):
        readings = measured({name: probes[name] for name in settings.holding})
        for name in settings.holding:
            for other, left in drifts(readings, name, [one for one in named if one != name]).items():
                below, above = held.setdefault(name, {}).get(other, (0.0, 0.0))
                held[name][other] = (below - gains[other] * left[0], above - gains[other] * left[1])
    return gains, held


def drifts(readings: Readings, name: str, others: Collection[str]) -> dict[str, tuple[float, float]]:
    """By how much an edit moves other measures per unit of its strength, below 0 and above: slopes through 0."""
    found = {}
    for other in others:
        sides = []
        for sign in (-1, 1):
            rows = [row for row in readings.of(name) if row.strength * sign > 0]
            moved = [float(np.nanmean(row.measures[other] - readings.start.measures[other])) for row in rows]
            asked = [abs(row.strength) for row in rows]
            sides.append(float(np.dot(asked, moved) / np.dot(asked, asked)) if rows else 0.0)
        found[other] = (sides[0], sides[1])
    return found


def _labels(settings: PoseEditorSettings, mesh: FaceMesh, device: str, say: Say) -> list[Tensor]:
    """``(N, K)`` per shard of samples: the attributes that are kept, as the stage ``directions`` labels them."""
    if not settings.kept:
        return [torch.zeros(len(Shard(path, REMAKE)), 0) for path in sorted(SAMPLES.glob("samples-*.safetensors"))]
    judge = load_attribute_judge(settings.least_score, device, mesh)
    paths = label_samples(
        SAMPLES, LABELS, judge, len(SampleDataset(SAMPLES)), judged_by=labelled_by(settings.least_score),
        progress=_every(400, "samples labelled", say),
    )  # fmt: skip
    return [torch.from_numpy(read_labels(path, settings.kept)) for path in paths]


def _every(count: int, what: str, say: Say) -> Callable[[int, int], None]:
    """Tell of every so many."""

    def tell(done: int, total: int) -> None:
        if done % count == 0 or done == total:
            say(f"{done} of {total} {what}")

    return tell


def _pairs(meshes: ShardMeshes, basis: FaceBasis, settings: PoseEditorSettings) -> FramePairs | None:
    shard = meshes.shard
    rate = Fraction(shard.metadata["rate"])
    rows = frame_pairs(shard.array("frame"), shard.array("shot"), rate, settings.seconds)
    seen = meshes.score >= settings.least_score
    rows = rows[seen[rows].all(axis=1)]
    if not len(rows):
        return None
    found = basis.parameters(meshes.points)
    first, second = (FaceParameters(*(part[rows[:, side]] for part in found)) for side in (0, 1))
    change = difference(first, second)
    start = sum(basis.sizes)
    degrees = torch.rad2deg(change[:, start : start + 3].norm(dim=1)).double().numpy()
    return FramePairs(shard, rows, change, 1 + degrees)


def _fingerprint(
    params: Params, settings: PoseEditorSettings, prepared: Prepared, encoder: FrameEncoder, samples: SampleDataset
) -> str:
    """Runs resume only onto the settings, the networks and the data that they began with."""
    trained = replace(
        settings, checkpoint_every=0, measured_per_clip=0, calibration_codes=0, calibration_rounds=0, holding=()
    )
    what = [json.dumps(asdict(trained)), prepared.data_hash("train"), weights_sha256(dict(encoder.state_dict()))]
    what += [*judged_by(params), *samples.fingerprints, code_sha256("pose-editor")]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
