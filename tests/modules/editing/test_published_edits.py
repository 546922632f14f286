"""Files of published edits as changes per unit, against the readers of their own formats."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conformance_cases import case, tensors

from datamodules.types import BadInputError
from modules.editing.latent_transformer import load_latent_transformer
from modules.editing.published import read_ganspace
from modules.editing.published_edits import Part, read_edit
from modules.generators.protocol import StyleLayer

RANDOM = np.random.default_rng(0)


def generator(rows: int = 16, w_dim: int = 512) -> Any:
    return SimpleNamespace(num_ws=rows, w_dim=w_dim, layers=(StyleLayer("first", 4, w_dim, 0, False),))


@pytest.fixture
def basis(tmp_path: Path) -> Path:
    parts = {
        "mean": torch.randn(1, 512),
        "comp": torch.linalg.qr(torch.randn(512, 4))[0].T[:, None],
        "std": torch.tensor([2.0, 1.0, 0.5, 0.3]),
    }
    torch.save(parts, tmp_path / "pca.pt")
    return tmp_path / "pca.pt"


def test_a_direction_steps_by_length_one_in_its_longest_row(tmp_path: Path) -> None:
    rows = RANDOM.standard_normal((18, 512)).astype(np.float32)
    np.save(tmp_path / "d.npy", rows)
    edit = read_edit(tmp_path / "d.npy", generator(18), Part())
    assert edit.kind == "direction" and edit.matrix is None
    longest = np.linalg.norm(rows, axis=1).max()
    np.testing.assert_allclose(edit.vector.numpy(), rows / longest, rtol=1e-5, atol=1e-7)


def test_a_component_is_the_way_between_two_of_its_coordinates_wherever_codes_are(basis: Path) -> None:
    edit = read_edit(basis, generator(), Part(1, (2, 17)))
    ws = torch.randn(3, 16, 512)
    read = read_ganspace(basis, 512)
    at = [read.edit(ws, 1, coordinate, (2, 17), generator()) for coordinate in (-1.0, 1.5)]
    torch.testing.assert_close(2.5 * edit.vector.expand(3, -1, -1), at[1] - at[0], atol=1e-4, rtol=1e-4)
    moved = edit.vector.norm(dim=1)
    torch.testing.assert_close(moved[2:15], torch.ones(13))  # one deviation of the second component
    # The last of 16 rows is the published model's 18th, which 2:17 leaves out.
    assert (moved[:2] == 0).all() and moved[15] == 0
    assert read_edit(basis, generator(), Part(1)).vector[0].norm() > 0


def test_a_t_net_is_affine_in_the_codes(tmp_path: Path) -> None:
    torch.save(tensors(case("latent-transformer-t-net")), tmp_path / "tnet_0.pth.tar")
    edit = read_edit(tmp_path / "tnet_0.pth.tar", generator(18), Part())
    ws = torch.randn(2, 18, 512)
    assert edit.kind == "t_net" and edit.matrix is not None
    change = edit.vector + (edit.matrix @ ws[..., None])[..., 0]
    expected = load_latent_transformer(tmp_path / "tnet_0.pth.tar", generator(18))(ws, 0.7)
    torch.testing.assert_close(ws + 0.7 * change, expected, atol=1e-4, rtol=1e-4)


def test_parts_that_are_missing_or_too_many_are_refused(basis: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="basis of 4 components"):
        read_edit(basis, generator(), Part())
    with pytest.raises(BadInputError, match="0 to 3"):
        read_edit(basis, generator(), Part(4))
    with pytest.raises(BadInputError, match="within 0:18"):
        read_edit(basis, generator(), Part(0, (3, 19)))
    np.save(tmp_path / "d.npy", np.ones((1, 512), np.float32))
    with pytest.raises(BadInputError, match="leave out --component"):
        read_edit(tmp_path / "d.npy", generator(), Part(0))
