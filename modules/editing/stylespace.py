"""Edits of single channels of S space (StyleSpace, Wu et al. 2021), and the folder that keeps them.

A model folder of kind ``stylespace`` lists each edit with its channels by layer and number; the amounts lie in its
tensors. It may hold one ``RandomIdentity`` beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.directions import Edit, EditSet, check_strength
from modules.editing.random_identity import RandomIdentity
from modules.model_folder import load_model, require_generator, save_model

KIND = "stylespace"
_PEOPLE, _ROWS = ".people", ".rows"
_CHANNELS, _RANDOM = "channels", "random identity"


@dataclass(frozen=True)
class ChannelEdit:
    """Adds to a few channels of the styles, in proportion to the strength; the codes stay as they are."""

    name: str
    unit: str
    """What one step of the strength means."""
    channels: tuple[tuple[str, int], ...]
    """Layer and number of each channel."""
    amounts: Tensor
    """``(len(channels),)``: change of each per one unit."""
    lower: float
    """Smallest strength, in the unit; at most 0."""
    upper: float
    """Largest strength, in the unit; at least 0."""
    generator_sha256: str
    """Digest of the generator whose styles it moves."""
    whole_head: bool = False
    """Whether hair changes too."""
    replaces: bool = False
    """What changes is added."""
    recolours: bool = True
    """Whether it is for colours, as lips' and hair's are; a folder that does not say so is taken to be."""
    in_styles: bool = True
    """It acts on styles."""

    def __post_init__(self) -> None:
        if self.amounts.shape != (len(self.channels),) or not torch.isfinite(self.amounts).all():
            raise ValueError(
                f"{self.name} needs one finite amount for each of {len(self.channels)} channels, "
                f"got {tuple(self.amounts.shape)}"
            )
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"{self.name} names a channel twice")
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= 0.0 <= self.upper):
            raise ValueError(f"bounds of {self.name} must be finite and enclose 0, got {self.lower}..{self.upper}")

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """The codes as they are; raises ``BadInputError`` for a strength that is not finite or out of bounds."""
        check_strength(self, strength)
        return ws

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """Styles ``(N, channels)`` by layer with ``strength`` units added; those given are not touched.

        Raises ``BadInputError`` as calling it does, and ``ValueError`` for styles that lack a channel.
        """
        check_strength(self, strength)
        moved = dict(styles)
        for layer in dict.fromkeys(layer for layer, _ in self.channels):
            if layer not in moved:
                raise ValueError(f"{self.name} moves styles of {layer!r}, there are {', '.join(styles)}")
            moved[layer] = moved[layer].clone()
        for (layer, number), amount in zip(self.channels, self.amounts.tolist(), strict=True):
            if not 0 <= number < moved[layer].shape[1]:
                raise ValueError(f"{self.name} moves channel {number} of {layer}, it has {moved[layer].shape[1]}")
            moved[layer][:, number] += strength * amount
        return moved


def save_stylespace(folder: Path, edits: Iterable[ChannelEdit | RandomIdentity], card: str) -> Path:
    """Write a model folder of kind ``stylespace``; raises ``ValueError`` for none and for two generators."""
    listed = list(EditSet(edits).values())
    if not listed:
        raise ValueError("there are no edits to save")
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for edit in listed:
        row: dict[str, Any] = {key: getattr(edit, key) for key in ("name", "unit", "lower", "upper", "whole_head")}
        if isinstance(edit, ChannelEdit):
            channels = [list(channel) for channel in edit.channels]
            row |= {"kind": _CHANNELS, "channels": channels, "recolours": edit.recolours}
            tensors[edit.name] = edit.amounts
        else:
            row["kind"] = _RANDOM
            tensors |= {edit.name + _PEOPLE: edit.people.half(), edit.name + _ROWS: edit.rows}
        rows.append(row)
    config = {"kind": KIND, "generator_sha256": listed[0].generator_sha256, "edits": rows}
    return save_model(folder, config, tensors, card)


def load_stylespace(folder: Path, generator_sha256: str) -> EditSet[ChannelEdit | RandomIdentity]:
    """Read a model folder of kind ``stylespace``, on the CPU in float32.

    Raises ``BadInputError`` for a folder that is damaged or of another kind, and, with both hashes in the message,
    for edits of another generator.
    """
    model = load_model(folder, KIND)
    require_generator(model.config, generator_sha256, f"the channels in {folder}")
    try:
        return EditSet(_read(row, model.tensors, generator_sha256) for row in model.config["edits"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{folder} is damaged ({error!r}); fetch or register the channels again") from error


def _read(
    row: dict[str, Any], tensors: Mapping[str, Tensor], generator_sha256: str
) -> ChannelEdit | RandomIdentity:
    name, whole_head = row["name"], bool(row["whole_head"])
    lower, upper = float(row["lower"]), float(row["upper"])
    if row["kind"] == _RANDOM:
        people, shares = tensors[name + _PEOPLE].float(), tensors[name + _ROWS].float()
        return RandomIdentity(
            name, row["unit"], people, shares, upper, generator_sha256, lower=lower, whole_head=whole_head
        )
    if row["kind"] != _CHANNELS:
        raise ValueError(f"{name} is of kind {row['kind']!r}")
    channels = tuple((str(layer), int(number)) for layer, number in row["channels"])
    return ChannelEdit(
        name, row["unit"], channels, tensors[name].float(), lower, upper, generator_sha256, whole_head,
        recolours=bool(row.get("recolours", True)),
    )  # fmt: skip


def joined(*sets: Mapping[str, Edit]) -> EditSet[Edit]:
    """All edits of several sets of one generator; of two of one name the later is taken."""
    edits: dict[str, Edit] = {}
    for each in sets:
        edits |= each
    return EditSet(edits.values())
