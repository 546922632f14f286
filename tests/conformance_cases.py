"""The published networks' answers in ``tests/conformance``: one case's JSON, NPZ and filled tensors."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent / "conformance"
sys.path.insert(0, str(FOLDER))

from fill import fill, fill_image  # noqa: E402

__all__ = ["FOLDER", "Case", "assert_close", "case", "fill", "fill_image", "names", "relative_error", "tensors"]


@dataclass(frozen=True)
class Case:
    """One case; ``npz`` reads lazily."""

    name: str
    json: dict[str, Any]
    npz: np.lib.npyio.NpzFile

    @property
    def seed(self) -> int:
        return int(self.json["seed"])

    def tensor(self, key: str) -> Tensor:
        """An array of the NPZ as a float32 tensor."""
        return torch.from_numpy(self.npz[key].astype(np.float32))

    def normal(self, key: str) -> Tensor:
        """The case's normal input of that name and of the NPZ entry's shape, made by ``fill``."""
        return torch.from_numpy(fill(key, self.npz[key].shape, "normal", self.seed))


def names() -> list[str]:
    """Every case in the folder."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def case(name: str) -> Case:
    """Open a case by name."""
    return Case(name, json.loads((FOLDER / f"{name}.json").read_text()), np.load(FOLDER / f"{name}.npz"))


def tensors(opened: Case) -> dict[str, Tensor]:
    """The checkpoint's tensors; a ``buffer`` comes from the NPZ (``buffer/NAME``), else it is left out."""
    values: dict[str, Tensor] = {}
    for name, spec in opened.json["tensors"].items():
        if spec["rule"] != "buffer":
            values[name] = torch.as_tensor(fill(name, tuple(spec["shape"]), spec["rule"], opened.seed))
        elif f"buffer/{name}" in opened.npz.files:
            values[name] = torch.as_tensor(opened.npz[f"buffer/{name}"])
    return values


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest error over the wanted output's own standard deviation."""
    assert got.shape == wanted.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)}"
    return float((got.detach().float() - wanted).abs().max() / wanted.std())


def assert_close(got: Tensor, wanted: Tensor, bound: float = 1e-3) -> None:
    """Hold an output to the conformance bound."""
    error = relative_error(got, wanted)
    assert error <= bound, f"largest error is {error:.2e} of the standard deviation, {bound:.0e} is allowed"
