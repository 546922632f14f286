"""The stage on a toy generator whose channels' places are known: they are found, set to their unit and kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.channels import ChannelIndex, style_spread
from modules.editing.directions import EditRequest, EditSet
from modules.editing.stylespace import ChannelEdit, load_stylespace, save_stylespace
from modules.generators.protocol import StyleLayer
from modules.perception.appearance import REGIONS
from modules.perception.second_identity import SAME_PERSON
from services.edits import stylespace as stage
from services.edits.appearance import NAMES, Look
from services.edits.appearance_measure import EffectOf, identity_markdown, measure_channels, measure_identity
from services.edits.random_identity import random_identity
from services.edits.stylespace import (
    StylespaceSettings,
    Tools,
    calibrate,
    combine,
    data_hash_of,
    evaluate_stylespace,
    evaluation_of,
    locate,
    measure_appearance,
    measured_codes,
    rounded,
)
from services.settings import load_params

SIDE, CHANNELS = 24, 12
BOXES = {
    "lips": (slice(16, 22), slice(8, 16)),
    "eyes": (slice(8, 12), slice(4, 20)),
    "hair": (slice(0, 6), slice(0, 24)),
}


class Painter:
    """Of layer 'a' channels 0, 1 paint the lips red, 2, 3 the eyes, 4, 5 the hair; the rest paints everywhere."""

    z_dim = w_dim = CHANNELS
    num_ws, resolution, sha256 = 2, SIDE, "toy"
    layers = (StyleLayer("a", SIDE, CHANNELS, 0, False), StyleLayer("b", SIDE, CHANNELS, 1, False))
    w_mean = torch.zeros(CHANNELS)

    def __init__(self) -> None:
        self.pictures = torch.full((2 * CHANNELS, 3, SIDE, SIDE), 0.005)
        for k, name in enumerate(("lips", "lips", "eyes", "eyes", "hair", "hair")):
            self.pictures[k] = 0
            self.pictures[k, 0, *BOXES[name]] = 0.03 * (1 + k % 2)

    def map(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        return truncation_psi * z[:, None].repeat(1, 2, 1)

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        return {"a": ws[:, 0], "b": ws[:, 1]}

    def synthesize(self, ws: Tensor, transform: None = None, resolution: int | None = None) -> Tensor:
        return self.synthesize_from_styles(self.styles(ws), resolution=resolution)

    def synthesize_from_styles(
        self, styles: dict[str, Tensor], transform: None = None, resolution: int | None = None
    ) -> Tensor:
        return torch.einsum("nk,kchw->nchw", torch.cat([styles["a"], styles["b"]], 1), self.pictures)


class ToyJudge:
    """Every measure is the mean red of a box, the head's turn is nothing; regions are the boxes."""

    calls = 0

    def __call__(self, images: Tensor) -> Look:
        self.calls += 1
        boxes = {"lip_red": "lips", "smile": "lips", "lids": "eyes", "gaze": "eyes"}
        measures = {name: images[:, 0, *BOXES[boxes.get(name, "hair")]].mean((1, 2)) for name in NAMES}
        measures["smile"] = images[:, 1].mean((1, 2))
        measures["yaw"] = images[:, 2].mean((1, 2))
        regions = {name: torch.zeros(len(images), 1, SIDE, SIDE) for name in REGIONS}
        for name, box in BOXES.items():
            regions[name][:, :, *box] = 1
        points = torch.arange(468.0)[None, :, None].expand(len(images), -1, 3)
        return Look(measures, regions, points + images.mean((1, 2, 3))[:, None, None])


class ToyIdentity:
    def embed(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1) + 1e-3, dim=1)


def second_identity(images: torch.Tensor) -> torch.Tensor:
    """How red the picture is."""
    return images[:, 0].mean((1, 2))[:, None]


@pytest.fixture
def settings() -> StylespaceSettings:
    shipped = load_params().section("stylespace", StylespaceSettings)
    lips = replace(
        shipped.edits["lip_colour"], keeps=("smile",), per_unit=0.1, channels=4, lower=-2, upper=2, probe=1
    )
    random = replace(
        shipped.random_identity,
        people=4, chosen=4, rows=(0.0, 1.0), keeps=(), lengths=(1.0, 16.0), likeness=0.97, burnt=1.0,
        detail=0.0, most_detail=0.0, seeds=(0, 1), measured=(1.0,),
    )  # fmt: skip
    return replace(
        shipped, samples=6, spread_codes=500, resolution=SIDE, least_share=0.9, sigma_cost=0.01,
        random_identity=random, edits={"lip_colour": lips},
    )  # fmt: skip


@pytest.fixture
def tools() -> Tools:
    return Tools(Painter(), ToyJudge(), ToyIdentity(), second_identity, "cpu", SIDE)  # type: ignore[arg-type]


def test_the_channels_that_paint_the_lips_are_found_and_set_to_their_unit(settings, tools, tmp_path) -> None:
    located = locate(tools, settings, lambda line: None, tmp_path / "kept")
    local = located.share[REGIONS.index("lips")] > 0.99
    assert np.flatnonzero(local).tolist() == [0, 1]
    codes = tools.generator.map(torch.randn(500, CHANNELS, generator=torch.Generator().manual_seed(0)))
    _, spread = style_spread(tools.generator, codes)
    edit = settings.edits["lip_colour"]
    # The toy is linear, so its slopes have no spread that certainty could be told from.
    made = combine(located, "lip_colour", edit, spread, tools, settings)
    assert set(made.channels) == {("a", 0), ("a", 1)}
    made = calibrate(replace(made, amounts=3 * made.amounts), edit, tools, codes[:4], 1)
    before, after = (
        tools.judge(tools.render(codes[:2], EditSet([made]), [EditRequest("lip_colour", s)])).measures["lip_red"]
        for s in (0.0, 1.0)
    )
    assert (after - before).tolist() == pytest.approx([0.1, 0.1], rel=1e-4)


def test_localisation_goes_on_where_it_was_stopped(settings, tools, tmp_path) -> None:
    first = locate(tools, replace(settings, samples=3), lambda line: None, tmp_path / "kept")
    assert tools.judge.calls == 3
    both = locate(tools, settings, lambda line: None, tmp_path / "kept")
    assert tools.judge.calls == 6
    np.testing.assert_array_equal(both.slopes[:3], first.slopes)
    whole = locate(tools, settings, lambda line: None, tmp_path / "afresh")
    np.testing.assert_array_equal(whole.share, both.share)


@pytest.mark.parametrize("other", ["code", "least_score"])
def test_what_other_judges_located_is_not_gone_on_with(
    settings, tools, tmp_path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    locate(tools, settings, lambda line: None, tmp_path / "kept")
    if other == "code":
        monkeypatch.setattr(stage, "code_sha256", lambda name: f"other code of {name}")
    else:
        settings = replace(settings, least_score=0.9)
    locate(tools, settings, lambda line: None, tmp_path / "kept")
    assert tools.judge.calls == 12


def test_an_edit_without_channels_or_without_effect_is_refused(settings, tools, tmp_path) -> None:
    located = locate(tools, settings, lambda line: None, tmp_path / "kept")
    edit = settings.edits["lip_colour"]
    with pytest.raises(BadInputError, match=r"stylespace\.least_share"):
        combine(located, "lip_colour", edit, np.ones(24), tools, replace(settings, least_share=1.1))
    made = combine(located, "lip_colour", edit, np.ones(24), tools, settings)
    with pytest.raises(BadInputError, match="it is no edit"):
        calibrate(replace(made, amounts=0 * made.amounts), edit, tools, torch.zeros(2, 2, CHANNELS), 1)


def test_measurement_says_what_the_toy_does(settings, tools, tmp_path) -> None:
    ws = torch.randn(4, 2, CHANNELS, generator=torch.Generator().manual_seed(3))
    index = ChannelIndex(tools.generator.layers)
    assert index.count == 2 * CHANNELS
    located = locate(tools, settings, lambda line: None, tmp_path / "kept")
    edit = settings.edits["lip_colour"]
    made = calibrate(combine(located, "lip_colour", edit, np.ones(24), tools, settings), edit, tools, ws, 1)
    drawn = torch.randn(99, 2, CHANNELS, generator=torch.Generator().manual_seed(4))
    judges = tools.render, tools.judge, tools.identity
    other = random_identity(settings.random_identity, tools.generator, drawn, {}, ws, *judges)
    edits = EditSet([made, other])
    table = measure_channels(ws, edits, {"lip_colour": EffectOf("lip_red", 0.1, "lips", 1.0)}, *judges)
    entry = table["lip_colour"]
    assert entry["slope"] == pytest.approx(1.0, abs=1e-4) and entry["slope_spread"] < 1e-4
    assert entry["inside"] == pytest.approx(1.0) and entry["outside_levels"] == pytest.approx(0.0, abs=1e-4)
    assert entry["moves"]["lip_red"] > 0 and entry["moves"]["lids"] == pytest.approx(0.0, abs=1e-6)
    assert set(entry["identity"]) == {"-2", "+1", "+2"}
    asked = [0, 0, 1, 2], edits, "random_identity", (1.0,), (0, 1), *judges
    hidden = measure_identity(ws, *asked, 2.0, second_identity)
    found = hidden["strengths"]["1"]
    none = measure_identity(ws, *asked, -1.0, second_identity)
    assert found["hidden"] == 1.0 and none["strengths"]["1"]["hidden"] == 0.0
    assert hidden["strangers"]["hidden"] == 1.0 and none["strangers"]["hidden"] == 0.0
    assert found["likeness"] < 0.999 and found["landmark_shift"] > 1e-4
    some = measure_identity(ws, *asked, found["likeness"], second_identity)["strengths"]["1"]["hidden"]
    assert 0 < some < 1
    by_hand = []
    for seed in (0, 1):
        pictures = (tools.render(ws, edits, asks, seed) for asks in ([], [EditRequest("random_identity", 1.0)]))
        moved = np.abs(np.subtract(*(second_identity(some)[:, 0].numpy() for some in pictures)))
        by_hand += [moved[:2].mean(), moved[2], moved[3]]
    # So that half of the six pairs of a person and a seed lie beyond 0.6.
    scale = SAME_PERSON / float(np.median(by_hand))
    told = measure_identity(ws, *asked, 0.5, lambda images: scale * second_identity(images))
    row = told["strengths"]["1"]
    assert row["hidden_second"] == 0.5 and hidden["strengths"]["1"]["hidden_second"] == 0.0
    reds = scale * second_identity(tools.render(ws, edits, []))[:, 0].numpy()
    apart = [abs(reds[i] - reds[k]) > SAME_PERSON for i in range(4) for k in range(i) if (i, k) != (1, 0)]
    assert told["strangers"]["hidden_second"] == pytest.approx(np.mean(apart))
    assert any("50%" in line and "likeness" not in line for line in identity_markdown(told))
    assert rounded({"a": [1.23456, {"b": 2}]}) == {"a": [1.2346, {"b": 2}]}


def test_the_gate_is_given_the_worst_edit(settings, tmp_path) -> None:
    made = ChannelEdit("lips", "steps", (("a", 0),), torch.ones(1), -1, 1, "toy")
    folder = save_stylespace(tmp_path / "stylespace", [made], "")
    channels = {
        "x": {"slope": 1.2, "identity": {"+1": 0.8, "-1": 0.7}, "inside": 0.6},
        "y": {"slope": 0.7, "identity": {"+1": 0.9}, "inside": 0.9},
    }
    summary = {"channels": channels, "random_identity": {"strengths": {"1": {"hidden": 0.97}}}}
    metrics = evaluation_of(summary, folder, settings).metrics
    assert metrics == pytest.approx({"slope_error": 0.3, "identity": 0.7, "inside": 0.6, "hidden": 0.97})
    channels["y"] = {"slope": np.nan, "identity": {"+1": np.nan}, "inside": np.nan}
    broken = evaluation_of(summary, folder, settings).metrics
    assert all(np.isnan(broken[name]) for name in ("slope_error", "identity", "inside")), "the gate refuses NaN"


def test_a_champion_is_measured_again_as_it_was_when_it_was_made(settings, tools, tmp_path) -> None:
    few = replace(settings, measured_codes=3)
    located = locate(tools, few, lambda line: None, tmp_path / "kept")
    made = combine(located, "lip_colour", few.edits["lip_colour"], np.ones(24), tools, few)
    ws = measured_codes(tools, few)
    drawn = torch.randn(99, 2, CHANNELS, generator=torch.Generator().manual_seed(4))
    other = random_identity(
        few.random_identity, tools.generator, drawn, {}, ws, tools.render, tools.judge, tools.identity
    )
    folder = save_stylespace(tmp_path / "stylespace", [made, other], "")
    known = load_stylespace(folder, tools.generator.sha256)
    first = evaluation_of(measure_appearance(ws, range(3), known, tools, few, lambda line: None), folder, few)
    again = evaluate_stylespace(folder, tools, few, lambda line: None)
    assert replace(again, created=first.created) == first and again.frames == 3


@pytest.mark.parametrize(
    "other",
    [
        "seed=1", "measured_codes=9", "least_score=0.4", "edits.gaze.per_unit=9", "edits.gaze.measure=lids",
        "edits.gaze.region=lips", "edits.gaze.typical=0.5", "edits.gaze.upper=1", "random_identity.seeds=[3]",
        "random_identity.same_person=0.4",
    ],
)  # fmt: skip
def test_edits_are_compared_only_where_the_same_was_measured(other: str) -> None:
    assert hash_with() == hash_with("samples=3", "edits.gaze.channels=2", "random_identity.people=99")
    assert hash_with() != hash_with(other)


def hash_with(*overrides: str) -> str:
    params = load_params(overrides=[f"stylespace.{override}" for override in overrides], environment={})
    return data_hash_of(params.section("stylespace", StylespaceSettings))
