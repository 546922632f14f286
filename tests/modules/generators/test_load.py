"""One door to every generator, one hash for its forms; imports and codes files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance_cases import FOLDER, assert_close, case
from PIL import Image
from published import STYLEGAN2, encoder_checkpoint, rosinality_state, save_whole, small_network
from safetensors.torch import save_file

from datamodules.types import BadInputError
from modules.generators import Generator, load_generator
from modules.generators.codes_file import read_codes, save_codes
from modules.generators.import_checkpoint import import_checkpoint
from modules.generators.load import save_generator
from modules.model_folder import load_model
from modules.sheet import GAP

SMALL = (STYLEGAN2, "stylegan3-t-64-small", "stylegan3-r-64-small")


@pytest.mark.parametrize("name", SMALL)
def test_pickle_and_model_folder_are_one_generator(name: str, tmp_path: Path) -> None:
    opened = case(name)
    first = load_generator(FOLDER / f"{name}.pkl")
    second = load_generator(save_generator(first, tmp_path / "model", "# card\n"))
    assert first.sha256 == second.sha256
    ws = opened.tensor("w_plus")
    for generator in (first, second):
        assert_close(generator.map(opened.normal("z"), 0.7)[:, 0], opened.tensor("w_truncated_psi07"))
        assert_close(generator.synthesize(ws), opened.tensor("image_from_w_plus"))
    torch.testing.assert_close(first.w_mean, second.w_mean, rtol=0, atol=0)


def test_every_form_of_one_network_has_one_hash(tmp_path: Path) -> None:
    network = small_network()
    state, mean = rosinality_state(network.tensors()), network.tensors()["mapping.w_avg"]
    torch.save({"g_ema": state, "latent_avg": mean}, tmp_path / "rosinality.pt")
    torch.save({"g_ema": state}, tmp_path / "without-mean.pt")
    torch.save(encoder_checkpoint(state, mean[None]), tmp_path / "e4e.pt")
    save_whole(network, tmp_path / "pti.pt", lambda made: made, True)
    hashes = {load_generator(path).sha256 for path in tmp_path.glob("*.pt")}
    assert hashes == {load_generator(FOLDER / f"{STYLEGAN2}.pkl").sha256}
    opened = case(STYLEGAN2)
    image = load_generator(tmp_path / "e4e.pt").synthesize(opened.tensor("w_plus"))
    assert_close(image, opened.tensor("image_from_w_plus"))


def test_the_default_generator_survives_its_model_folder(tmp_path: Path) -> None:
    first = load_generator()
    second = load_generator(save_generator(first, tmp_path / "model", "# card\n"))
    assert (first.sha256, first.num_ws, first.resolution) == (second.sha256, 16, 1024)
    torch.testing.assert_close(first.w_mean, second.w_mean, rtol=0, atol=0)
    z = torch.randn(3, first.z_dim)
    torch.testing.assert_close(first.map(z), second.map(z))


def test_unusable_sources_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="mobilestylegan-ffhq-1024"):
        load_generator("no-such-generator")
    with pytest.raises(BadInputError, match="not a model folder"):
        load_generator(tmp_path / "empty")
    folder = save_generator(load_generator(FOLDER / f"{STYLEGAN2}.pkl"), tmp_path / "model", "# card\n")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(BadInputError, match="says its weights are"):
        load_generator(folder)
    (folder / "config.json").write_text(config.replace("stylegan2", "stylegan9"))
    with pytest.raises(BadInputError, match="stylegan9"):
        load_generator(folder)


def test_an_import_reports_what_it_took_and_what_it_left(tmp_path: Path) -> None:
    network = small_network()
    mean = network.tensors()["mapping.w_avg"]
    torch.save(encoder_checkpoint(rosinality_state(network.tensors()), mean.repeat(10, 1)), tmp_path / "e4e.pt")
    report = import_checkpoint(tmp_path / "e4e.pt", tmp_path / "imported", samples=5)
    assert (report.num_ws, report.resolution, report.architecture) == (10, 64, "stylegan2")
    assert report.encoder == {"state_dict.encoder.input_layer.0.weight": (64, 3, 3, 3)} == report.unused
    assert report.used["state_dict.decoder.input.input"] == (1, 32, 4, 4)
    assert report.used["latent_avg"] == (10, 32)
    assert report.mean_from_file
    generator = load_generator(report.folder)
    assert generator.sha256 == report.sha256
    assert load_model(report.folder).config["kind"] == "generator"
    torch.testing.assert_close(generator.w_mean, mean)
    sheet = np.asarray(Image.open(report.sheet))
    assert sheet.shape == (2 * 64 + GAP, 4 * 64 + 3 * GAP, 3)
    assert sheet[:64, :64].std() > 10
    assert (sheet[64:, 64:] == 255).all()
    card = (report.folder / "card.md").read_text()
    used, unused = card.split("## Keys unused")
    assert "- `state_dict.decoder.input.input` (1, 32, 4, 4)\n" in used and used.count("- `") == len(report.used)
    assert "- `state_dict.encoder.input_layer.0.weight` (64, 3, 3, 3)\n" in unused
    for part in ("e4e", report.sha256, "encoder's: 1"):
        assert part in str(report)


def test_an_import_of_a_pickle_uses_every_key(tmp_path: Path) -> None:
    report = import_checkpoint(FOLDER / "stylegan3-t-64-small.pkl", tmp_path / "imported", samples=1)
    assert set(report.used) == {f"G_ema.{name}" for name in case("stylegan3-t-64-small").json["tensors"]}
    assert not report.unused


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "broken.pkl", tmp_path / "out" / "imported"
    source.write_bytes((FOLDER / f"{STYLEGAN2}.pkl").read_bytes()[:200_000])
    with pytest.raises(BadInputError, match="damaged or truncated"):
        import_checkpoint(source, target)
    assert not target.parent.exists()


@pytest.fixture(scope="module")
def small() -> Generator:
    return load_generator(FOLDER / f"{STYLEGAN2}.pkl")


def test_a_full_disk_is_the_system_s_error(small: Generator) -> None:
    with pytest.raises(OSError, match="No space left"):
        save_codes(Path("/dev/full"), torch.zeros(1, 10, 32), small)


def test_codes_are_read_from_every_format(small: Generator, tmp_path: Path) -> None:
    ws = torch.randn(2, 10, 32)
    np.save(tmp_path / "ws.npy", ws.numpy())
    torch.save(ws, tmp_path / "tensor.pt")
    torch.save(
        {"latents": ws, "quads": torch.zeros(2, 8)}, tmp_path / "dict.pt", _use_new_zipfile_serialization=False
    )
    save_codes(tmp_path / "ws.safetensors", ws, small)
    for path in tmp_path.iterdir():
        torch.testing.assert_close(read_codes(path, small), ws, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "count"), [((32,), 1), ((1, 32), 1), ((3, 32), 3), ((10, 32), 1), ((3, 1, 32), 3)]
)
def test_short_forms_of_codes_fill_the_rows(
    shape: tuple[int, ...], count: int, small: Generator, tmp_path: Path
) -> None:
    values = torch.randn(shape)
    torch.save(values, tmp_path / "w.pt")
    got = read_codes(tmp_path / "w.pt", small)
    assert got.shape == (count, 10, 32)
    torch.testing.assert_close(got, values.reshape(count, -1, 32).expand(count, 10, 32))


def test_codes_of_one_row_for_all_layers_may_be_kept_as_a_view(small: Generator, tmp_path: Path) -> None:
    ws = torch.randn(3, 1, 32).expand(3, 10, 32)
    torch.save(ws, tmp_path / "expanded.pt")
    torch.testing.assert_close(read_codes(tmp_path / "expanded.pt", small), ws)
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(ws))
    torch.testing.assert_close(read_codes(tmp_path / "pickled.pt", small), ws)


def test_the_clamp_of_a_pickle_is_kept_in_its_model_folder(tmp_path: Path) -> None:
    for name in (STYLEGAN2, "stylegan3-t-64-small"):
        folder = save_generator(load_generator(FOLDER / f"{name}.pkl"), tmp_path / name, "# card\n")
        assert load_model(folder).config["settings"]["conv_clamp"] == 256
        assert vars(load_generator(folder))["settings"].conv_clamp == 256


def test_published_codes_of_18_rows_fit_the_default_generator(tmp_path: Path) -> None:
    ws = torch.randn(2, 18, 512)
    np.save(tmp_path / "ws.npy", ws.numpy())
    torch.testing.assert_close(read_codes(tmp_path / "ws.npy", load_generator()), ws[:, [*range(15), 17]])


def test_pickled_codes_are_named_and_refused(small: Generator, tmp_path: Path) -> None:
    np.save(tmp_path / "latents.npy", {"a.png": [np.zeros((10, 32))]}, allow_pickle=True)
    with pytest.raises(BadInputError, match=r"latents\.npy is a pickled object .*allow_pickle=True") as caught:
        read_codes(tmp_path / "latents.npy", small)
    assert "\n" not in str(caught.value)


def test_unusable_codes_get_one_line(small: Generator, tmp_path: Path) -> None:
    save_file({"ws": torch.zeros(1, 10, 32)}, tmp_path / "other.safetensors", metadata={"generator_sha256": "f00"})
    torch.save(torch.full((1, 10, 32), float("nan")), tmp_path / "nan.pt")
    torch.save(torch.zeros(1, 7, 32), tmp_path / "rows.pt")
    torch.save(torch.zeros(1, 10, 31), tmp_path / "wide.pt")
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "two.pt")
    np.save(tmp_path / "whole.npy", np.zeros((1, 10, 32), np.int64))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with (tmp_path / "archive.npy").open("wb") as stream:
        np.savez(stream, ws=np.zeros((1, 10, 32)))
    torch.save(torch.ones(1).expand(60_000, 10, 32), tmp_path / "expanded.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "codes.txt").write_text("1 2 3")
    wanted = {
        "other": f"f00.*{small.sha256}",
        "nan": "finite",
        "rows": "7 rows",
        "wide": "shape",
        "two": "2 tensors",
        "archive": "npz",
        "expanded": "more elements than its storage",
    }
    for path in [*tmp_path.iterdir(), tmp_path / "absent.pt"]:
        with pytest.raises(BadInputError, match=wanted.get(path.stem, path.name)) as caught:
            read_codes(path, small)
        assert "\n" not in str(caught.value)
