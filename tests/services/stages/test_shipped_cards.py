"""The cards of the shipped models: what they say, and that it is what the settings and the metrics say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from services.places import METRICS_FOLDER, RESULTS
from services.settings import ROOT, build, load_params
from services.stages import encoder, restorers, video_encoder
from services.stages.restorers import RestoringSettings
from services.training.trainer import FrameEncoderSettings, VideoEncoderSettings
from services.training.validation import metrics_section

CARDS = sorted((ROOT / "assets").glob("*/card.md"))
PARAMS = load_params(environment={})
PREPARED: Any = SimpleNamespace(of=lambda split: [SimpleNamespace(name="a.mp4")])
REACHED = metrics_section(18.25, "24 crops", PREPARED, "stylereel evaluate", "metrics/frame_encoder.json")


def sections(card: str) -> dict[str, str]:
    """Heading to what stands below it."""
    _, *parts = re.split(r"^## (.+)\n", card, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def require_whole(card: str) -> None:
    found = sections(card)
    assert all(text.strip() for text in found.values())
    assert found.keys() & {"Data", "Trained"}, "what it learned from"
    assert found.keys() & {"Licence", "Terms"}
    assert re.search(r"\d", found["Metrics"])


def test_every_shipped_model_has_a_card() -> None:
    assert {path.parent for path in CARDS} == {path.parent for path in (ROOT / "assets").glob("*/config.json")}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_card_says_data_metrics_and_licence(path: Path) -> None:
    require_whole(path.read_text())


def frame_encoder_card() -> str:
    settings = PARAMS.section("frame_encoder", FrameEncoderSettings)
    return encoder._card(settings, PREPARED, 9, "f" * 64, REACHED)


def video_encoder_card() -> str:
    settings = PARAMS.section("video_encoder", VideoEncoderSettings)
    return video_encoder._card(settings, PREPARED, 8, 16, "f" * 64, "e" * 64, REACHED)


def colouriser_card() -> str:
    settings = PARAMS.section("restoring", RestoringSettings)
    return restorers._card("colourise", settings, PREPARED, 9, "f" * 64, "e" * 64)


@pytest.mark.parametrize("made", [frame_encoder_card, video_encoder_card])
def test_a_training_writes_what_it_measured_and_where_the_rest_is(made: Any) -> None:
    require_whole(made())
    said = sections(made())["Metrics"]
    assert said.startswith("\nOn 24 crops of validation persons, after its training: PSNR 18.25 dB.\n")
    assert "`stylereel evaluate`" in said and "`metrics/frame_encoder.json`" in said


def phases(card: str) -> list[str]:
    return [line for line in sections(card)["Trained"].split("\n") if line.startswith("- ")]


@pytest.mark.parametrize(
    ("made", "shipped"),
    [(video_encoder_card, "video-encoder"), (colouriser_card, "colouriser"), (colouriser_card, "enlarger")],
)
def test_the_settings_are_those_that_the_shipped_model_was_trained_with(made: Any, shipped: str) -> None:
    assert phases(made()) == phases((ROOT / "assets" / shipped / "card.md").read_text()) != []


def test_frens_schedules_are_those_that_are_written_down() -> None:
    """In steps: that of two cores in docs/decisions.md, that of a GPU in docs/results.md and on the card."""
    settings = PARAMS.section("frame_encoder", FrameEncoderSettings)
    assert settings.training.phase_steps == (300, 1000, 100)
    blocks = re.findall(r"^```yaml\n(frame_encoder:.*?)^```", RESULTS.read_text(), re.MULTILINE | re.DOTALL)
    (given,) = (yaml.safe_load(block)["frame_encoder"] for block in blocks)
    raw: Any = PARAMS.raw["frame_encoder"]
    merged = {**raw, **{key: {**raw[key], **of} for key, of in given.items() if isinstance(of, dict)}}
    on_a_gpu = build(FrameEncoderSettings, merged, "frame_encoder")
    assert on_a_gpu.training.phase_steps == (1460, 470)
    asked = replace(settings, training=on_a_gpu.training, trainer=on_a_gpu.trainer)
    assert asked == on_a_gpu, "the example changes nothing else"
    shipped = phases((ROOT / "assets" / "frame-encoder" / "card.md").read_text())
    for phase, line in zip(on_a_gpu.training.phases, shipped, strict=True):
        assert line.startswith(f"- {phase.name}: ") and line.endswith(str(dict(phase.weights)))


def cells(name: str, row: int) -> list[str]:
    """Of a row of the table of metrics, without its label."""
    text = sections((ROOT / "assets" / name / "card.md").read_text())["Metrics"]
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    found = [cell.strip() for cell in lines[1 + row].strip("|").split("|")]
    return [cell for cell in found if re.match(r"\d", cell)]


def test_the_cards_numbers_are_the_measured_ones() -> None:
    found = json.loads((METRICS_FOLDER / "frame_encoder.json").read_text())["all_frames"]["encoder"]
    shown = {"psnr": 2, "psnr_face": 2, "lpips": 3, "lpips_face": 3, "identity": 3, "identity_distance": 2,
             "landmark_error": 2}  # fmt: skip
    expected = [f"{found[name]:.{digits}f}" for name, digits in shown.items()]
    assert cells("frame-encoder", 0) == [*expected, f"{found['retrieval']:.0%}"]
    found = json.loads((METRICS_FOLDER / "video_encoder.json").read_text())
    shown = {"psnr": 2, "lpips": 3, "lm": 2, "lm_second": 2, "identity_distance": 2, "fd_vgg": 2, "tc": 4}
    for number, row in enumerate(("vien", "fren")):
        numbers = found["rows"]["rows"][row]
        assert cells("video-encoder", number) == [f"{numbers[name]:.{digits}f}" for name, digits in shown.items()]
    said = (ROOT / "assets" / "video-encoder" / "card.md").read_text()
    assert f"falls by {-found['evaluation']['drift']:.2f} dB per hundred frames more than" in said
    for name in ("frame", "video"):
        measured = json.loads((METRICS_FOLDER / f"{name}_encoder.evaluation.json").read_text())
        card = (ROOT / "assets" / f"{name}-encoder" / "card.md").read_text()
        assert f"(data `{measured['data_hash'][:12]}`)" in card and f"on {measured['frames']} " in card
