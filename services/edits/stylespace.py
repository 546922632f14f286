"""The stage ``stylespace``: find channels, combine and calibrate them, add the random identity, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from datamodules.disk import beside, write_whole
from datamodules.types import BadInputError
from modules.editing.channels import ChannelIndex, certainty, region_energy, sparse_combination, style_spread
from modules.editing.directions import EditRequest, EditSet, load_directions
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import ChannelEdit, load_stylespace, save_stylespace
from modules.generators import Generator
from modules.model_folder import load_model
from modules.perception.appearance import REGIONS
from modules.perception.identity import IdentityNet, load_identity
from modules.perception.second_identity import load_second_identity
from services.edits.appearance import NAMES, AppearanceJudge, load_appearance_judge
from services.edits.appearance_card import card
from services.edits.appearance_measure import (
    EffectOf,
    channels_markdown,
    identity_markdown,
    measure_channels,
    measure_identity,
)
from services.edits.encoded_codes import unseen_codes
from services.edits.evaluation import rounded
from services.edits.instruments import draw_single
from services.edits.random_identity import WHOLE, RandomIdentitySettings, random_identity
from services.edits.sheets import appearance_sheet
from services.places import CLIPS, DIRECTIONS, FRAME_ENCODER
from services.registry.gate import Evaluation, utc_now
from services.registry.tracking import Run
from services.settings import ROOT, Params
from services.training.generator import training_generator
from services.training.runs import code_sha256, stage_run

FOLDER = ROOT / "assets" / "stylespace"
FOUND = ROOT / "build" / "stylespace"
METRICS = "metrics.json"
EVALUATION = ROOT / "metrics" / "stylespace.evaluation.json"

Array = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class ChannelEditSettings:
    """One edit: what it changes, where, and what one unit of it is."""

    unit: str
    """What a user reads."""
    measure: str
    """One of ``appearance.NAMES``: what is raised."""
    per_unit: float
    """How much of the measure one unit is."""
    region: str
    """One of the regions: where the edit's channels have to act."""
    keeps: tuple[str, ...]
    """Measures that it must leave where they are."""
    channels: int
    """Channels that it may move."""
    recolours: bool
    """Whether it is for colours of whole regions; where not, a pasted edit leaves light and complexion alone."""
    whole_head: bool
    """Whether hair changes too, and what is pasted has to reach that far."""
    lower: float
    """Smallest strength offered."""
    upper: float
    """Largest strength offered."""
    typical: float
    """Strength at which its effects on others are read."""
    probe: float
    """It is set to its unit between minus and plus this strength."""


@dataclass(frozen=True)
class StylespaceSettings:
    """Section ``stylespace``: how channels of S space become appearance edits, and made persons are kept."""

    samples: int
    """Generator samples on which channels are located."""
    seed: int
    """Of these samples; those of calibration and measurement follow it."""
    truncation: float
    """Psi of all these codes."""
    spread_codes: int
    """Codes over which a channel's standard deviation is taken."""
    resolution: int
    """Side of the pictures, in pixels."""
    least_score: float
    """Of the mesh, below which a picture shows no face."""
    least_share: float
    """Share of a channel's energy that must fall into the region."""
    least_certainty: float
    """How many standard errors a channel's effect on the measure must lie from 0."""
    sigma_cost: float
    """What moving a channel by its standard deviation costs, in the energy (sum over pixels, picture in [-1, 1])
    that falls outside the region: keeps few channels from being moved far beyond what they ever are."""
    calibration_codes: int
    """Codes on which the units are set."""
    calibration_rounds: int
    """Times that slopes are measured and taken out."""
    measured_codes: int
    """Other codes, on which the finished edits are measured."""
    sheet_codes: int
    """The first of these, on which the run's sheet shows every edit."""
    random_identity: RandomIdentitySettings
    """Another person from a seed."""
    edits: dict[str, ChannelEditSettings]
    """By name, in the order in which they are listed."""


@dataclass(frozen=True)
class Located:
    """What every channel does, in units of its own standard deviation."""

    share: Array
    """``(len(REGIONS), C)``: share of the energy that falls into the region."""
    outside: Array
    """``(len(REGIONS), C)``: mean energy that falls outside it."""
    slopes: Array
    """``(N, len(NAMES), C)``: slope of every measure on every sample."""


@dataclass(frozen=True)
class Tools:
    """What renders and judges."""

    generator: Generator
    judge: AppearanceJudge
    identity: IdentityNet
    second_identity: Callable[[Tensor], Tensor]
    """Embeddings ``(N, D)`` whose distance parts persons, by a net that nothing is made or chosen with."""
    device: str
    resolution: int

    def render(self, ws: Tensor, edits: EditSet[Any], requests: Sequence[EditRequest], seed: int = 0) -> Tensor:
        """Pictures ``(N, 3, r, r)`` in [-1, 1] of codes, one at a time."""
        with torch.no_grad():
            pictures = [
                edits.synthesize(self.generator, one.to(self.device), requests, seed, self.resolution)
                for one in torch.split(ws, 1)
            ]
        return torch.cat(pictures).clamp(-1, 1)


def load_tools(settings: StylespaceSettings, params: Params) -> Tools:
    """The generator of ``generator.source``, in the precision of ``params.runtime``, and the judges."""
    generator, device = training_generator(params), params.runtime.torch_device()
    judge = load_appearance_judge(settings.least_score, device)
    nets = load_identity(device, judge.mesh), load_second_identity(device, judge.mesh)
    return Tools(generator, judge, *nets, device, settings.resolution)


def locate(tools: Tools, settings: StylespaceSettings, say: Say, kept: Path = FOUND) -> Located:
    """Energies and slopes of all channels; kept in a folder of ``kept``, sample by sample, and gone on with."""
    index = ChannelIndex(tools.generator.layers)
    _, spread = style_spread(
        tools.generator, draw_single(tools.generator, settings.spread_codes, settings.seed, 1.0).to(tools.device)
    )
    ws = draw_single(tools.generator, settings.samples, settings.seed + 1, settings.truncation)
    drawn = [tools.generator.sha256, settings.seed, settings.truncation, settings.resolution]
    judged = [settings.least_score, *NAMES, *REGIONS, code_sha256("stylespace")]
    key = hashlib.sha256(json.dumps([drawn, judged]).encode()).hexdigest()[:12]
    folder = kept / f"localisation-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, one in enumerate(torch.split(ws, 1)):
        file = folder / f"{number:04}.safetensors"
        if not file.is_file():
            with beside(file) as part:
                save_file(_locate_one(tools, index, one.to(tools.device), number), part)
        rows.append(load_file(file))
        say(f"located on {number + 1} of {len(ws)} samples")
    seen = [row for row in rows if np.isfinite(row["slopes"]).all()]
    if len(seen) < 2:
        raise BadInputError("the samples show no faces; check the generator and stylespace.truncation")
    inside, outside = (np.mean([row[name] for row in seen], axis=0) * spread**2 for name in ("inside", "outside"))
    slopes = np.stack([row["slopes"] for row in seen]) * spread
    return Located(inside / np.maximum(inside + outside, 1e-12), outside, slopes)


def _locate_one(tools: Tools, index: ChannelIndex, ws: Tensor, number: int) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        row = index.joined(tools.generator.styles(ws))
    styles = row.detach().requires_grad_()
    picture = tools.generator.synthesize_from_styles(index.parted(styles), resolution=tools.resolution)
    look = tools.judge(picture)
    random = torch.Generator().manual_seed(number)
    energies = region_energy(picture, styles, [look.regions[name] for name in REGIONS], random)
    slopes = [torch.autograd.grad(look.measures[name].sum(), styles, retain_graph=True)[0][0] for name in NAMES]
    values = {"inside": energies[0], "outside": energies[1], "slopes": torch.stack(slopes)}
    return {name: value.float().cpu().numpy() for name, value in values.items()}


def combine(located: Located, name: str, edit: ChannelEditSettings, spread: Array, tools: Tools,
            settings: StylespaceSettings) -> ChannelEdit:  # fmt: skip
    """The few most local channels that together raise the edit's measure, before calibration."""
    region = REGIONS.index(edit.region)
    wanted = [NAMES.index(measure) for measure in (edit.measure, *edit.keeps)]
    slopes = located.slopes[:, wanted]
    sure = certainty(slopes[:, 0]) >= settings.least_certainty
    allowed = sure & (located.share[region] >= settings.least_share)
    cost = located.outside[region] + settings.sigma_cost
    try:
        change = sparse_combination(slopes.mean(0), cost, allowed, edit.channels)
    except ValueError as error:
        raise BadInputError(f"no channels for {name!r}: {error}; lower stylespace.least_share") from error
    index = ChannelIndex(tools.generator.layers)
    chosen = np.flatnonzero(change)
    chosen = chosen[np.argsort(-np.abs(change[chosen] * slopes.mean(0)[0, chosen]))]
    amounts = torch.from_numpy(edit.per_unit * (change * spread)[chosen]).float()
    channels = tuple(index.place(int(position)) for position in chosen)
    sha256 = tools.generator.sha256
    return ChannelEdit(
        name,
        edit.unit,
        channels,
        amounts,
        edit.lower,
        edit.upper,
        sha256,
        edit.whole_head,
        recolours=edit.recolours,
    )


def calibrate(made: ChannelEdit, edit: ChannelEditSettings, tools: Tools, ws: Tensor, rounds: int) -> ChannelEdit:
    """Scale the amounts so that one unit asked is one unit got, in the mean over codes ``(N, num_ws, w_dim)``.

    Raises ``BadInputError`` where the edit does not move its measure.
    """
    for _ in range(rounds):
        readings = []
        for side in (-edit.probe, edit.probe):
            look = tools.judge(tools.render(ws, EditSet([made]), [EditRequest(made.name, side)]))
            readings.append(look.measures[edit.measure].double().cpu().numpy())
        got = float(np.nanmean(readings[1] - readings[0])) / (2 * edit.probe * edit.per_unit)
        if not got > 0.1:
            raise BadInputError(f"{made.name!r} moves its measure by {got:.2f} of what is asked; it is no edit")
        made = replace(made, amounts=made.amounts / got)
    return made


def train_stylespace(params: Params, say: Say = lambda line: None) -> Path:
    """Find the channels, set the units, measure, and write ``assets/stylespace``; returns the folder."""
    settings = params.section("stylespace", StylespaceSettings)
    tools = load_tools(settings, params)
    # Before the channels, which take minutes.
    directions = load_directions(DIRECTIONS, tools.generator.sha256)
    made_of = {
        "generator_sha256": tools.generator.sha256,
        "directions": load_model(DIRECTIONS).identity,
    }
    with stage_run("stylespace", params, made_of) as run:
        return _find(settings, tools, directions, run, say)


def _find(settings: StylespaceSettings, tools: Tools, directions: EditSet, run: Run, say: Say) -> Path:
    located = locate(tools, settings, say)
    codes = draw_single(tools.generator, settings.spread_codes, settings.seed, 1.0).to(tools.device)
    _, spread = style_spread(tools.generator, codes)
    calibration = draw_single(tools.generator, settings.calibration_codes, settings.seed + 2, settings.truncation)
    edits: list[ChannelEdit | RandomIdentity] = []
    for name, edit in settings.edits.items():
        made = combine(located, name, edit, spread, tools, settings)
        made = calibrate(made, edit, tools, calibration, settings.calibration_rounds)
        say(f"{name}: {', '.join(f'{layer} {number}' for layer, number in made.channels)}")
        edits.append(made)
    random = settings.random_identity
    drawn = draw_single(tools.generator, random.tried_on, settings.seed + 4, settings.truncation)
    real = unseen_codes(FRAME_ENCODER, CLIPS, random.tried_on_per_clip, tools.generator.sha256)
    tried_on = torch.cat([drawn, *([real.to(drawn)] if len(real) else [])])
    edits.append(
        random_identity(
            random, tools.generator, codes, directions, tried_on, tools.render, tools.judge, tools.identity, say
        )
    )
    everything = EditSet(edits)
    ws = measured_codes(tools, settings)
    summary = measure_appearance(ws, range(len(ws)), everything, tools, settings, say)
    tables = "\n".join(as_markdown(summary))
    folder = save_stylespace(FOLDER, edits, card(edits, len(located.slopes), len(ws), tables))
    write_whole(folder / METRICS, json.dumps(rounded(summary), indent=2) + "\n")
    evaluation = evaluation_of(summary, folder, settings)
    EVALUATION.parent.mkdir(exist_ok=True)
    write_whole(EVALUATION, evaluation.to_json())
    say("\n".join(as_markdown(summary)))
    run.log_metrics(dict(evaluation.metrics))
    run.log_file(folder / METRICS)
    run.log_model(folder)
    run.log_image("edits", appearance_sheet(ws[: settings.sheet_codes], everything, tools.render))
    return folder


def measured_codes(tools: Tools, settings: StylespaceSettings) -> Tensor:
    """``(N, num_ws, w_dim)``: samples that no unit was set on, which the gate's numbers are measured on."""
    return draw_single(tools.generator, settings.measured_codes, settings.seed + 3, settings.truncation)


def evaluate_stylespace(folder: Path, tools: Tools, settings: StylespaceSettings, say: Say) -> Evaluation:
    """What the gate reads, measured anew on the edits of a model folder; raises ``BadInputError``."""
    edits = load_stylespace(folder, tools.generator.sha256)
    ws = measured_codes(tools, settings)
    return evaluation_of(measure_appearance(ws, range(len(ws)), edits, tools, settings, say), folder, settings)


def data_hash_of(settings: StylespaceSettings) -> str:
    """Of everything but the edits that a number hangs on: codes, what is asked of them, and what the judges take.

    Bounds are in it, since slopes and likeness are read at them.
    """
    random = settings.random_identity
    drawn = [settings.seed, settings.measured_codes, settings.truncation, settings.resolution]
    asked = {
        name: [settings.edits[name].lower, settings.edits[name].upper, asdict(effect)]
        for name, effect in effects_of(settings).items()
    }
    judged = [settings.least_score, WHOLE, random.seeds, random.same_person]
    return hashlib.sha256(json.dumps([drawn, asked, judged]).encode()).hexdigest()


def effects_of(settings: StylespaceSettings) -> dict[str, EffectOf]:
    """What each channel edit is measured by."""
    return {
        name: EffectOf(edit.measure, edit.per_unit, edit.region, edit.typical)
        for name, edit in settings.edits.items()
    }


def evaluation_of(summary: Mapping[str, Any], folder: Path, settings: StylespaceSettings) -> Evaluation:
    """What the gate reads: the worst slope, the least identity and share inside, and how often a person is hidden.

    Measured on generator samples: ``frames`` counts codes, each a person of its own.
    """
    model = load_model(folder)
    channels = summary["channels"].values()
    metrics = {
        # Not max() and min(): they leave a NaN out wherever it does not stand first.
        "slope_error": float(np.max([abs(entry["slope"] - 1) for entry in channels])),
        "identity": float(np.min([value for entry in channels for value in entry["identity"].values()])),
        "inside": float(np.min([entry["inside"] for entry in channels])),
        "hidden": summary["random_identity"]["strengths"][f"{WHOLE:g}"]["hidden"],
    }
    return Evaluation(
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=model.config["generator_sha256"],
        data_hash=data_hash_of(settings),
        metrics=metrics,
        higher_is_better={"slope_error": False, "identity": True, "inside": True, "hidden": True},
        frames=settings.measured_codes,
        clips=settings.measured_codes,
        created=utc_now(),
    )


def measure_appearance(
    ws: Tensor, people: Sequence[int], edits: EditSet[Any], tools: Tools, settings: StylespaceSettings, say: Say
) -> dict[str, Any]:
    """All edits on codes ``(N, num_ws, w_dim)`` of ``people`` ``(N,)``, as plain numbers."""
    random = settings.random_identity
    effects = {name: effect for name, effect in effects_of(settings).items() if name in edits}
    judges = tools.render, tools.judge, tools.identity
    identity = measure_identity(
        ws, people, edits, "random_identity", random.measured, random.seeds, *judges, random.same_person,
        tools.second_identity,
    )  # fmt: skip
    channels = measure_channels(ws, edits, effects, *judges, say)
    return {"codes": len(ws), "channels": channels, "random_identity": identity}


def as_markdown(summary: Mapping[str, Any]) -> list[str]:
    """The summary's tables."""
    channels, identity = summary["channels"], summary["random_identity"]
    head = f"Measured on {summary['codes']} codes."
    return [head, "", *channels_markdown(channels), "", *identity_markdown(identity)]
