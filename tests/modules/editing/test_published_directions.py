"""Published edits: files written here in their formats, and arithmetic done once more in NumPy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conformance_cases import assert_close, case, fill, tensors

from datamodules.types import BadInputError
from modules.editing.latent_transformer import LatentTransformer, load_latent_transformer
from modules.editing.published import read_direction, read_ganspace
from modules.editing.styleclip import GlobalDirections, LatentMapper, load_latent_mapper
from modules.generators.protocol import StyleLayer

ROWS_OF_16 = [*range(15), 17]


def generator(rows: int, first_side: int = 4) -> Any:
    return SimpleNamespace(num_ws=rows, w_dim=512, layers=(StyleLayer("first", first_side, 512, 0, False),))


def unit(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize("rows", [16, 18, 14])
def test_one_row_serves_all_layers(tmp_path: Path, rows: int) -> None:
    boundary = unit((1, 512))
    np.save(tmp_path / "interfacegan.npy", boundary)
    torch.save(torch.from_numpy(boundary).float(), tmp_path / "e4e.pt")
    np.save(tmp_path / "stit.npy", np.repeat(boundary, 18, axis=0) * 0.21)
    for name in ("interfacegan.npy", "e4e.pt", "stit.npy"):
        got = read_direction(tmp_path / name, generator(rows))
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), np.repeat(boundary, rows, axis=0), atol=1e-6)


def test_a_row_for_each_layer_is_mapped_to_the_layers_that_are_there(tmp_path: Path) -> None:
    pose = unit((1, 18, 512), seed=1)
    torch.save(torch.from_numpy(pose).float(), tmp_path / "pose.pt")
    np.testing.assert_allclose(read_direction(tmp_path / "pose.pt", generator(18)).numpy(), pose[0], atol=1e-6)
    got = read_direction(tmp_path / "pose.pt", generator(16)).numpy()
    np.testing.assert_allclose(got, pose[0, ROWS_OF_16], atol=1e-6)


def test_rows_keep_their_relative_lengths(tmp_path: Path) -> None:
    rows = unit((18, 512)) * np.linspace(0, 0.5, 18)[:, None]
    np.save(tmp_path / "graded.npy", rows)
    got = read_direction(tmp_path / "graded.npy", generator(18)).norm(dim=1).numpy()
    np.testing.assert_allclose(got, np.linspace(0, 1, 18), atol=1e-6)


def test_stylegan3_has_16_rows_but_not_those(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(unit((1, 18, 512))).float(), tmp_path / "pose.pt")
    with pytest.raises(BadInputError, match="18 rows"):
        read_direction(tmp_path / "pose.pt", generator(16, first_side=36))


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / ("bad.npy" if kind in ("pickled", "text", "short", "nan", "archive", "promised") else "bad.pt")
    if kind == "pickled":
        np.save(path, np.array([{"a": np.zeros(3)}], dtype=object), allow_pickle=True)
    elif kind == "text":
        path.write_text("age")
    elif kind == "short":
        np.save(path, np.ones((1, 256)))
    elif kind == "nan":
        np.save(path, np.full((1, 512), np.nan))
    elif kind == "archive":
        with path.open("wb") as stream:
            np.savez(stream, a=np.ones((1, 512)))
    elif kind == "promised":
        # More bytes than addresses: no array of that size can be made to read it into.
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 45,)}
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
    elif kind == "dict":
        torch.save({"weights": torch.ones(3)}, path)
    elif kind == "several":
        torch.save(torch.ones(2, 18, 512), path)
    elif kind == "ganspace":
        write_ganspace(path)
    elif kind == "code":
        torch.save(Runs(), path)
    return path


class Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (Path("must_not_appear"),)


def write_ganspace(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    basis = {"mean": rng.standard_normal((1, 512)), "comp": unit((5, 1, 512), 4), "std": rng.uniform(1, 3, 5)}
    torch.save({key: torch.from_numpy(value).float() for key, value in basis.items()}, path)
    return basis


@pytest.mark.parametrize(
    "kind",
    ["pickled", "text", "short", "nan", "archive", "promised", "dict", "several", "ganspace", "code", "missing"],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInputError) as raised:
        read_direction(write_bad(tmp_path, kind), generator(18))
    assert "\n" not in str(raised.value)
    assert not Path("must_not_appear").exists()


@pytest.mark.parametrize(("rows", "kept"), [(18, list(range(18))), (16, ROWS_OF_16)])
def test_ganspace_moves_to_a_coordinate_on_its_layers(tmp_path: Path, rows: int, kept: list[int]) -> None:
    basis = write_ganspace(tmp_path / "pca.pt")
    ws = np.random.default_rng(5).standard_normal((2, rows, 512))
    got = read_ganspace(tmp_path / "pca.pt", 512).edit(
        torch.from_numpy(ws).float(), component=2, strength=3.0, layers=(13, 18), generator=generator(rows)
    )
    wanted = ws.copy()
    component, deviation = basis["comp"][2, 0], basis["std"][2]
    for n in range(2):
        coordinate = (ws[n, 0] - basis["mean"][0]) @ component / deviation
        for row in range(rows):
            if 13 <= kept[row] < 18:
                wanted[n, row] += (3.0 - coordinate) * component * deviation
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)


def test_ganspace_names_what_there_is(tmp_path: Path) -> None:
    write_ganspace(tmp_path / "pca.pt")
    basis, ws = read_ganspace(tmp_path / "pca.pt", 512), torch.zeros(1, 16, 512)
    with pytest.raises(BadInputError, match="0 to 4"):
        basis.edit(ws, 5, 1.0, (0, 18), generator(16))
    with pytest.raises(BadInputError, match="0:18"):
        basis.edit(ws, 0, 1.0, (0, 19), generator(16))
    flat = {"mean": torch.zeros(1, 512), "comp": torch.zeros(5, 1, 512), "std": torch.zeros(5)}
    torch.save(flat, tmp_path / "flat.pt")
    with pytest.raises(BadInputError, match="not positive"):
        read_ganspace(tmp_path / "flat.pt", 512)
    torch.save({"mean": torch.zeros(1, 512)}, tmp_path / "half.pt")
    with pytest.raises(BadInputError, match="comp, mean, std"):
        read_ganspace(tmp_path / "half.pt", 512)


def test_latent_transformer_answers_as_published(tmp_path: Path) -> None:
    opened = case("latent-transformer-t-net")
    torch.save(tensors(opened), tmp_path / "tnet_0.pth.tar")
    ws = torch.from_numpy(fill("w_plus", (2, 18 * 512), "normal", opened.seed)).unflatten(1, (18, 512))
    net = load_latent_transformer(tmp_path / "tnet_0.pth.tar", generator(18))
    assert_close(net(ws, 1.0).flatten(1), opened.tensor("edited_by_1"))
    each = torch.tensor([1.0, -0.5])
    assert_close(net(ws, each).flatten(1), opened.tensor("edited_by_1_and_minus_half"))
    assert torch.equal(net(ws, 0.0), ws)
    fewer = LatentTransformer.from_state(tensors(opened), generator(16))
    assert torch.allclose(fewer(ws[:, ROWS_OF_16], 1.0), net(ws, 1.0)[:, ROWS_OF_16], atol=1e-6)


def test_latent_transformer_refuses_other_weights() -> None:
    state = {f"dense.{i}.{part}": torch.zeros(4, 4) for i in (0, 2) for part in ("weight", "bias")}
    with pytest.raises(BadInputError, match="no T-net"):
        LatentTransformer.from_state(state)
    with pytest.raises(BadInputError, match="damaged"):
        LatentTransformer.from_state({"dense.0.weight": torch.zeros(4, 5), "dense.0.bias": torch.zeros(4)})


def mapper_state(groups: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    state = {}
    for group in groups:
        for index in range(1, 5):
            prefix = f"mapper.{group}_mapping.mapping.{index}."
            state[prefix + "weight"] = rng.standard_normal((16, 16)) * 100
            state[prefix + "bias"] = rng.standard_normal(16) * 10
    return state


def mapped(ws: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    change = np.zeros_like(ws)
    for group, rows in (("course", slice(0, 4)), ("medium", slice(4, 8)), ("fine", slice(8, 18))):
        if f"mapper.{group}_mapping.mapping.1.weight" in state:
            x = ws[:, rows] / np.sqrt((ws[:, rows] ** 2).mean(axis=1, keepdims=True) + 1e-8)
            for index in range(1, 5):
                prefix = f"mapper.{group}_mapping.mapping.{index}."
                x = x @ (state[prefix + "weight"] * 0.01 / np.sqrt(16)).T + state[prefix + "bias"] * 0.01
                x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
            change[:, rows] = x
    return ws + 0.1 * change


@pytest.mark.parametrize("groups", [["course", "medium", "fine"], ["course", "fine"]])
def test_styleclip_mapper_edits_its_groups(tmp_path: Path, groups: list[str]) -> None:
    rng = np.random.default_rng(6)
    state, ws = mapper_state(groups, rng), rng.standard_normal((2, 18, 16))
    saved = {name: torch.from_numpy(value).float() for name, value in state.items()}
    torch.save({"state_dict": {**saved, "decoder.input": torch.zeros(1)}, "opts": {}}, tmp_path / "mapper.pt")
    mapper = load_latent_mapper(tmp_path / "mapper.pt")
    got = mapper(torch.from_numpy(ws).float())
    np.testing.assert_allclose(got.numpy(), mapped(ws, state), rtol=1e-4, atol=1e-4)
    assert np.abs(got.numpy() - ws).max() > 0.01


def test_styleclip_mapper_needs_its_names() -> None:
    with pytest.raises(BadInputError, match="mapper"):
        LatentMapper.from_state({"decoder.input": torch.zeros(1)})


def test_styleclip_global_direction_splits_over_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    effects, text = rng.standard_normal((10, 8)), rng.standard_normal(8) * 5
    np.save(tmp_path / "fs3.npy", effects)
    styled = SimpleNamespace(
        layers=(
            StyleLayer("conv0", 4, 6, 0, False),
            StyleLayer("rgb0", 4, 6, 1, True),
            StyleLayer("conv1", 8, 4, 1, False),
        )
    )
    got = GlobalDirections.read(tmp_path / "fs3.npy").direction(torch.from_numpy(text), 0.7, styled)
    wanted = effects @ (text / np.linalg.norm(text))
    wanted[np.abs(wanted) < 0.7] = 0
    wanted /= np.abs(wanted).max()
    assert list(got) == ["conv0", "conv1"]
    np.testing.assert_allclose(torch.cat([got["conv0"], got["conv1"]]).numpy(), wanted, atol=1e-5)
    assert 0 < np.count_nonzero(wanted) < 10
    with pytest.raises(BadInputError, match="threshold"):
        GlobalDirections.read(tmp_path / "fs3.npy").direction(torch.from_numpy(text), 99.0, styled)
    fewer = SimpleNamespace(layers=styled.layers[:2])
    with pytest.raises(BadInputError, match="10 channels"):
        GlobalDirections.read(tmp_path / "fs3.npy").direction(torch.from_numpy(text), 0.7, fewer)
