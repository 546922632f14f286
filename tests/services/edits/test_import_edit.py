"""Published directions become folders of edits, on a generator and a judge known in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import services.edits.import_edit
from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet, load_directions, save_directions
from modules.editing.latent_transformer import LatentTransformer
from modules.editing.published_edits import Part, holds_edit
from modules.generators.protocol import StyleLayer
from modules.model_folder import load_model, save_model, weights_sha256
from services.direction_settings import DirectionSettings
from services.edits.encoded_codes import EncodedFrames
from services.edits.import_edit import EditChoice, import_edit
from services.edits.instruments import Instruments
from services.progress import silent
from services.registry.gate import Evaluation
from services.settings import load_params
from services.shell.cli import run

ROWS, WIDTH = 4, 8
PARAMS = load_params(overrides=["directions.measured_codes=3"], environment={})
SETTINGS = PARAMS.section("directions", DirectionSettings)
YEARS, DEGREES = 4.0, 2.0
"""How far the toy judge's age and yaw move per unit of W's first and second number."""


class ToyGenerator:
    z_dim = w_dim = WIDTH
    num_ws, resolution, sha256 = ROWS, 32, "toy"
    layers = (StyleLayer("first", 4, WIDTH, 0, False),)
    w_mean = torch.zeros(WIDTH)

    def map(self, z: torch.Tensor, truncation_psi: float = 1.0) -> torch.Tensor:
        return truncation_psi * z[:, None].expand(-1, ROWS, -1)


def render(ws: torch.Tensor) -> torch.Tensor:
    """A grey picture whose first pixels say what the mean code is."""
    images = torch.zeros(len(ws), 3, 32, 32)
    images[:, 0, 0, :WIDTH] = 0.02 * ws.mean(1)
    return images


def judge(images: torch.Tensor) -> dict[str, np.ndarray]:
    code = 50 * images[:, 0, 0, :WIDTH].numpy()
    measures = {name: np.zeros(len(code), np.float32) for name in SETTINGS.edits}
    return measures | {"age": 30 + YEARS * code[:, 0], "yaw": DEGREES * code[:, 1]}


def embed(images: torch.Tensor) -> torch.Tensor:
    angle = 50 * images[:, 0, 0, 0] / 10
    return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    tools: Any = Instruments(ToyGenerator(), render, judge, embed)  # type: ignore[arg-type]
    frames = EncodedFrames(0.1 * codes(), ("a", "b"), (0, 1), "data")
    monkeypatch.setattr(services.edits.import_edit, "load_instruments", lambda *_: tools)
    monkeypatch.setattr(services.edits.import_edit, "frames_of_test_persons", lambda *_: frames)


@pytest.fixture
def direction(tmp_path: Path) -> Path:
    """Of length 5, against age, across yaw: InterFaceGAN's format."""
    values = np.zeros((1, WIDTH))
    values[0, :2] = -3, 4
    np.save(tmp_path / "stylegan_Age-boundary.npy", values)
    return tmp_path / "stylegan_Age-boundary.npy"


def codes() -> torch.Tensor:
    return torch.randn(2, ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


def ages(ws: torch.Tensor) -> np.ndarray:
    return judge(render(ws))["age"]


def test_an_attribute_sets_sign_size_and_bounds(tmp_path: Path, direction: Path) -> None:
    lines = import_edit(direction, tmp_path / "older", EditChoice(attribute="age"), PARAMS, silent)
    edits = load_directions(tmp_path / "older", "toy")
    (edit,) = edits.values()
    # A step of length 1 is -0.6 in the first number, so it moves age by -2.4; 5 steps reach 12 years.
    assert (edit.name, edit.unit, edit.lower, edit.upper) == ("stylegan_age_boundary", "years", -12, 12)
    assert not edit.recolours, "as the age of params.yaml"
    assert edit.attribute == "age"
    moved = edits.apply(codes(), [EditRequest(edit.name, 7.0)])
    np.testing.assert_allclose(ages(moved) - ages(codes()), 7.0, atol=1e-3)
    said = "\n".join(lines)
    assert "+1 moves age +1 years, yaw -0.67 degrees" in said and "over 3 samples" in said
    # The likeness is the cosine of a tenth of the change in the first number: 12 years are 3 of it.
    assert f"{np.cos(0.3):.2f} at -12" in said
    card = load_model(tmp_path / "older").card
    assert direction.name in card and lines[1] in card
    assert read_image(tmp_path / "older-samples.png", 10**8).shape[0] > 3 * 32


def test_without_one_the_files_own_steps_are_kept_and_reported(tmp_path: Path, direction: Path) -> None:
    choice = EditChoice(name="mine", unit="sighs", lower=-2, upper=4)
    lines = import_edit(direction, tmp_path / "d", choice, PARAMS, silent)
    edit = load_directions(tmp_path / "d", "toy")["mine"]
    assert (edit.unit, edit.lower, edit.upper) == ("sighs", -2, 4)
    wanted = torch.zeros(ROWS, WIDTH)
    wanted[:, 0], wanted[:, 1] = -0.6, 0.8
    torch.testing.assert_close(edit.vector, wanted)
    assert any("+1 moves age -2.4 years, yaw +1.6 degrees" in line for line in lines)
    assert edit.recolours and any("--keep-colours" in line for line in lines), "nobody knows what it is for"


def test_what_turns_the_head_in_steps_of_its_own_says_how_to_paste(tmp_path: Path) -> None:
    np.save(tmp_path / "yaw.npy", np.eye(WIDTH)[1:2])
    lines = import_edit(tmp_path / "yaw.npy", tmp_path / "d", EditChoice(upper=20), PARAMS, silent)
    assert any("--paste replace" in line for line in lines)
    lines = import_edit(tmp_path / "yaw.npy", tmp_path / "d", EditChoice(attribute="yaw"), PARAMS, silent)
    assert load_directions(tmp_path / "d", "toy")["yaw"].unit == "degrees"
    assert not any("--paste" in line for line in lines)


def test_a_t_net_stays_affine_in_the_codes(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(2)
    state = {f"dense.{i}.weight": torch.randn(WIDTH, WIDTH, generator=random) for i in range(ROWS)}
    state |= {f"dense.{i}.bias": torch.randn(WIDTH, generator=random) for i in range(ROWS)}
    torch.save(state, tmp_path / "tnet_15.pth.tar")
    import_edit(tmp_path / "tnet_15.pth.tar", tmp_path / "t", EditChoice(), PARAMS, silent)
    edits = load_directions(tmp_path / "t", "toy")
    wanted = LatentTransformer.from_state(state)(codes(), 0.7)
    torch.testing.assert_close(edits.apply(codes(), [EditRequest("tnet_15", 0.7)]), wanted)
    assert edits["tnet_15"].upper == 1


def test_a_component_of_a_basis_is_an_edit_on_its_layers(tmp_path: Path) -> None:
    components = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)))[0][:3]
    basis = {"mean": torch.ones(1, WIDTH), "comp": components[:, None], "std": torch.tensor([3.0, 2.0, 1.0])}
    torch.save(basis, tmp_path / "pca.pt")
    choice = EditChoice(name="hair", part=Part(1, (1, 3)))
    import_edit(tmp_path / "pca.pt", tmp_path / "d", choice, PARAMS, silent)
    edit = load_directions(tmp_path / "d", "toy")["hair"]
    wanted = torch.zeros(ROWS, WIDTH)
    wanted[1:3] = 2.0 * components[1]
    torch.testing.assert_close(edit.vector, wanted, atol=1e-5, rtol=1e-5)
    assert (edit.unit, edit.upper) == ("standard deviations", 3)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (EditChoice(attribute="smile"), "too little"),
        (EditChoice(attribute="beard"), "--attribute is age"),
        (EditChoice(name="../x"), "small letters"),
        (EditChoice(lower=1.0), "enclose 0"),
        (EditChoice(upper=float("nan")), "finite"),
        (EditChoice(part=Part(1, None)), "no GANSpace basis"),
        (EditChoice(name="age", beside=Path("base")), "already"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_leaves_nothing(
    tmp_path: Path, direction: Path, monkeypatch: pytest.MonkeyPatch, choice: EditChoice, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_directions(Path("base"), base_set(), "the base's card")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match=said) as raised:
        import_edit(direction, tmp_path / "out", choice, PARAMS, silent)
    assert "\n" not in str(raised.value) and sorted(tmp_path.rglob("*")) == before


def base_set() -> EditSet:
    """One direction for each edit of params.yaml; age and yaw are right."""
    vectors = {name: torch.zeros(ROWS, WIDTH) for name in SETTINGS.edits}
    vectors["age"][:, 0], vectors["yaw"][:, 1] = 1 / YEARS, 1 / DEGREES
    for name in vectors.keys() - {"age", "yaw"}:
        vectors[name][:, 5] = 1.0
    return EditSet(Direction(n, e.unit, vectors[n], e.lower, e.upper, "toy") for n, e in SETTINGS.edits.items())


def test_a_set_is_measured_whole_for_the_gate(tmp_path: Path, direction: Path) -> None:
    save_directions(tmp_path / "base", base_set(), "the base's card")
    choice = EditChoice(name="elder", attribute="age", beside=tmp_path / "base")
    lines = import_edit(direction, tmp_path / "all", choice, PARAMS, silent)
    edits = load_directions(tmp_path / "all", "toy")
    assert list(edits) == [*SETTINGS.edits, "elder"]
    for name in SETTINGS.edits:
        assert torch.equal(edits[name].vector, base_set()[name].vector)
    evaluation = Evaluation.from_json((tmp_path / "all.evaluation.json").read_text())
    assert evaluation.model_sha256 == weights_sha256(load_model(tmp_path / "all").tensors)
    assert evaluation.metrics["age_slope_error"] == pytest.approx(0, abs=1e-3)
    assert evaluation.metrics["yaw_slope_error"] == pytest.approx(0, abs=1e-3)
    # 20 years are 5 of the first number, and the base's age is the edit that leaves least of the person.
    assert evaluation.metrics["identity"] == pytest.approx(np.cos(0.5), abs=1e-3)
    assert (evaluation.frames, evaluation.clips) == (2, 2)
    assert "the base's card" in load_model(tmp_path / "all").card
    assert lines[-1].startswith("to serve the set: stylereel register")


def test_half_a_gates_file_is_never_there(
    tmp_path: Path, direction: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        if "evaluation" not in path.name:
            return written(path, content)
        written(path, content[:20])
        raise OSError(28, "No space left on device")

    written = Path.write_bytes
    save_directions(tmp_path / "base", base_set(), "the base's card")
    (tmp_path / "all.evaluation.json").write_bytes(b"before")
    monkeypatch.setattr(Path, "write_bytes", full)
    choice = EditChoice(name="elder", attribute="age", beside=tmp_path / "base")
    with pytest.raises(BadInputError, match="free some space"):
        import_edit(direction, tmp_path / "all", choice, PARAMS, silent)
    assert (tmp_path / "all.evaluation.json").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_a_set_that_cannot_be_measured_is_made_and_why_is_said(
    tmp_path: Path, direction: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> EncodedFrames:
        raise BadInputError("no clips here")

    monkeypatch.setattr(services.edits.import_edit, "frames_of_test_persons", missing)
    save_directions(tmp_path / "base", base_set(), "the base's card")
    choice = EditChoice(name="elder", attribute="age", beside=tmp_path / "base")
    lines = import_edit(direction, tmp_path / "all", choice, PARAMS, silent)
    assert lines[-1].startswith("no clips here; ") and "elder" in load_directions(tmp_path / "all", "toy")
    assert not (tmp_path / "all.evaluation.json").exists()


def test_files_are_told_by_their_content(tmp_path: Path, direction: Path) -> None:
    renamed = direction.rename(tmp_path / "age.pt")
    torch.save(torch.ones(1, WIDTH), tmp_path / "e4e.bin")
    torch.save({"g_ema": {"input.input": torch.ones(1, 4, 4, 4)}}, tmp_path / "generator.pt")
    assert holds_edit(renamed) and holds_edit(tmp_path / "e4e.bin")
    assert not holds_edit(tmp_path / "generator.pt")
    with pytest.raises(BadInputError):
        holds_edit(tmp_path / "none.pt")


def test_the_command_imports_and_two_folders_join(
    tmp_path: Path, direction: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import", str(direction), str(tmp_path / "a"), "--name", "elder", "--attribute", "age", "-q"]
    assert run([*words, "--set", "directions.measured_codes=3"]) == 0
    assert "written to" in capsys.readouterr().out
    for option, wanted in (("--recolour", True), ("--keep-colours", False)):
        target = tmp_path / option.strip("-")
        words = ["import", str(direction), str(target), "-q", *(["--attribute", "age"] if wanted else [])]
        assert run([*words, option, "--set", "directions.measured_codes=3"]) == 0
        (edit,) = load_directions(target, "toy").values()
        assert edit.recolours is wanted
    capsys.readouterr()
    save_directions(tmp_path / "b", EditSet([base_set()["yaw"]]), "card")
    assert run(["edits", "--directions", str(tmp_path / "a"), "--directions", str(tmp_path / "b")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][-2:] == ["elder", "yaw"]


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("generator.pt", ["--attribute", "age"], "holds no edit"),
        ("age.npy", ["--layers", "3"], "START:END"),
        ("none.npy", [], "none.npy"),
    ],
)
def test_the_commands_errors_are_one_line(
    tmp_path: Path, direction: Path, capsys: pytest.CaptureFixture[str], file: str, options: list[str], said: str
) -> None:
    direction.rename(tmp_path / "age.npy")
    torch.save({"g_ema": {"input.input": torch.ones(1, 4, 4, 4)}}, tmp_path / "generator.pt")
    assert run(["import", str(tmp_path / file), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["generator.pt", "age.npy"])
def test_a_folder_of_something_else_is_not_written_over(
    tmp_path: Path, direction: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    direction.rename(tmp_path / "age.npy")
    torch.save({"g_ema": {"input.input": torch.ones(1, 4, 4, 4)}}, tmp_path / "generator.pt")
    holiday = tmp_path / "clips" / "holiday.mp4"
    holiday.parent.mkdir()
    holiday.write_text("a clip")
    assert run(["import", str(tmp_path / file), str(holiday.parent), "-q"]) == 2
    assert "no model folder" in capsys.readouterr().err and holiday.read_text() == "a clip"


@pytest.mark.parametrize("file", ["generator.pt", "age.npy"])
def test_a_model_of_another_kind_is_not_written_over(
    tmp_path: Path, direction: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    direction.rename(tmp_path / "age.npy")
    torch.save({"g_ema": {"input.input": torch.ones(1, 4, 4, 4)}}, tmp_path / "generator.pt")
    there = save_model(tmp_path / "encoder", {"kind": "frame-encoder"}, {"weight": torch.ones(1)}, "a card")
    assert run(["import", str(tmp_path / file), str(there), "-q"]) == 2
    error = capsys.readouterr().err
    assert "holds a model of kind frame-encoder" in error and len(error.strip().splitlines()) == 1
    assert load_model(there, "frame-encoder").card == "a card"
