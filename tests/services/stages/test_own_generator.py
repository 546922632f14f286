"""A generator of one's own, a StyleGAN2 in a model folder, named in ``params.yaml``: everything learns from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkout import Checkout
from conformance_cases import case, tensors
from drawing_stylegan2 import drawing_stylegan2

from modules.assets import asset_path
from modules.encoders.vit import load_frame_encoder
from modules.generators import Generator, load_generator
from modules.generators.load import DEFAULT_SHA256, save_generator
from modules.generators.stylegan2 import StyleGAN2
from modules.model_folder import load_model
from services.edits.instruments import draw_single
from services.precise_generator import exact_generator, generator_for
from services.settings import load_params
from services.shell.cli import run
from services.training.generator_terms import terms_of

MAN, WOMAN = 1, 4
"""Of the faces that ``draw_single`` gives for this seed."""
MADE = {
    "train prepare": (),
    "train samples": (),
    "train encoder": ("frame-encoder",),
    "train video-encoder": ("video-encoder",),
    "train pose-editor": ("pose-editor",),
    "train directions": ("directions",),
    "train stylespace": ("stylespace",),
    "evaluate --quiet": (),
    "evaluate --encoder video --quiet": (),
}
"""The commands, and what each leaves in ``assets/``."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    """A small StyleGAN2 between two faces that the default generator made, and its folder."""
    made = load_generator()
    ws = draw_single(made, 8, 5, 0.7)[[MAN, WOMAN]]
    with torch.no_grad():
        faces = torch.cat([made.synthesize(one[None], resolution=256) for one in ws]).clamp(-1, 1)
    generator = drawing_stylegan2(faces)
    return generator, save_generator(generator, tmp_path_factory.mktemp("own") / "stylegan2", "# Two faces\n")


@pytest.fixture(scope="module")
def checkout(own: tuple[Generator, Path], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Everything done once, with one clip to learn from and one to test on."""
    folder = tmp_path_factory.mktemp("checkout")
    raw = load_params(environment={}).raw
    edits, local = raw["directions"]["edits"], raw["stylespace"]["edits"]["smile_local"]
    alone = raw["directions"]["alone"]["age"]
    alone["training"]["steps"] = 1
    others = {
        "generator.source": str(own[1]),
        "data.root": "data/clips",
        "frame_encoder.start_from": "",
        "frame_encoder.training.linear_start": 24,
        "frame_encoder.training.told_start": 24,
        "pose_editor.measured_per_clip": 2,
        "directions.start_from": "",
        "directions.held_out": 6,
        "directions.controls": [],
        "directions.edits": {"age": {**edits["age"], "keeps": ["yaw"]}, "yaw": {**edits["yaw"], "keeps": ["age"]}},
        "directions.alone": {"age": alone},
        # Of two faces there are no channels for the lips alone: what is found is not set to a unit.
        "directions.calibration_rounds": 0,
        "stylespace.least_share": 0.0,
        "stylespace.least_certainty": 0.0,
        "stylespace.calibration_rounds": 0,
        "stylespace.edits": {"smile_local": {**local, "keeps": [], "per_unit": 0.01}},
        "stylespace.random_identity.keeps": ["yaw"],
        "stylespace.random_identity.detail": 0.0,
    }
    made = Checkout(folder, **others)
    (folder / "data" / "clips").mkdir()
    shutil.copy(asset_path("franck", "franck.mp4"), folder / "data" / "clips")
    made.test_on(asset_path("clips", "single_face.mp4"))
    made.stylereel(*MADE)
    return made


@pytest.mark.timeout(1500)
def test_every_network_learns_from_it(own: tuple[Generator, Path], checkout: Checkout) -> None:
    generator, _ = own
    for name in (name for made in MADE.values() for name in made):
        model = load_model(checkout.folder / "assets" / name)
        sha256 = model.config["generator_sha256"]
        assert sha256 == generator.sha256 and sha256 in model.card and "MobileStyleGAN" not in model.card, name
        assert all(bool(value.isfinite().all()) for value in model.tensors.values()), name
    rows = load_frame_encoder(checkout.folder / "assets" / "frame-encoder", generator.sha256).num_ws
    assert rows == generator.num_ws == 14
    age = load_model(checkout.folder / "assets" / "directions").tensors
    assert all(value.shape[0] == rows and value.abs().sum() > 0 for value in age.values() if value.ndim == 2)


@pytest.mark.parametrize("name", ["frame_encoder", "video_encoder", "pose_editor", "directions", "stylespace"])
def test_what_the_gate_reads_was_measured_with_it(
    own: tuple[Generator, Path], checkout: Checkout, name: str
) -> None:
    found = json.loads((checkout.folder / "metrics" / f"{name}.evaluation.json").read_text())
    assert found["generator_sha256"] == own[0].sha256 and found["metrics"]


def test_all_that_loads_a_generator_takes_the_one_that_is_named(own: tuple[Generator, Path]) -> None:
    params = load_params(overrides=[f"generator.source={own[1]}"], environment={"STYLEREEL_DEVICE": "cpu"})
    assert exact_generator(params).sha256 == generator_for(params).sha256 == own[0].sha256
    assert generator_for(params, "mobilestylegan-ffhq-1024").sha256 == DEFAULT_SHA256
    plain = load_params(environment={"STYLEREEL_DEVICE": "cpu"})
    assert exact_generator(plain).sha256 == DEFAULT_SHA256 == load_generator().sha256


@pytest.mark.parametrize(
    "stage", ["samples", "encoder", "video-encoder", "pose-editor", "directions", "stylespace"]
)
def test_a_source_that_is_none_is_said_in_a_line(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none"
    assert run(["train", stage, "--quiet", "--set", f"generator.source={missing}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no generator {missing}" in line


def test_pictures_smaller_than_crops_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = case("stylegan2-64-small")
    made = StyleGAN2.from_state(tensors(small), small.json["init"])
    folder = save_generator(made, tmp_path / "small", "# Small\n")
    assert run(["train", "samples", "--quiet", "--set", f"generator.source={folder}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "crops of 256 px (clips.size)" in line and "makes 64" in line


def test_a_card_tells_the_terms_of_its_own_generator() -> None:
    assert "MobileStyleGAN" in terms_of(DEFAULT_SHA256) and "non-commercial" in terms_of(DEFAULT_SHA256)
    assert "MobileStyleGAN" not in terms_of("a" * 64)
