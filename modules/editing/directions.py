"""Edits in W and W+ in proportion to a strength: what is asked, what is known, how it is applied and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Generic, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import TypeVar

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.model_folder import load_model, require_generator, save_model

KIND = "directions"
_MATRIX = ".matrix"
"""Joins the name of an edit in the folder's tensors, where the edit has a matrix."""


@dataclass(frozen=True)
class EditRequest:
    """One edit that a user asks for, not yet checked against anything."""

    name: str
    """Name of the edit, as ``EditSet.describe`` lists it."""
    strength: float
    """How much, in the edit's own unit; 0 changes nothing."""


@dataclass(frozen=True)
class EditDescription:
    """What a user may ask of one edit."""

    name: str
    unit: str
    """What one step of the strength means, e.g. ``years`` or ``degrees``."""
    lower: float
    """Smallest strength, in the unit."""
    upper: float
    """Largest strength, in the unit."""


class Edit(Protocol):
    """What every edit of a set says and does; most change the codes, some the styles that are made of them."""

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def unit(self) -> str:
        """What one step of the strength means."""
        ...

    @property
    def lower(self) -> float:
        """Smallest strength, at most 0."""
        ...

    @property
    def upper(self) -> float:
        """Largest strength, at least 0."""
        ...

    @property
    def generator_sha256(self) -> str:
        """Digest of the generator that the edit was made for."""
        ...

    @property
    def whole_head(self) -> bool:
        """Whether it changes hair and outline too, not the face alone."""
        ...

    @property
    def replaces(self) -> bool:
        """Whether what was there must not shine through where the edit is pasted."""
        ...

    @property
    def recolours(self) -> bool:
        """Whether it is for colours of whole regions; where not, light and complexion stay as they were."""
        ...

    @property
    def in_styles(self) -> bool:
        """Whether ``restyle`` does something."""
        ...

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """Moved codes ``(N, num_ws, w_dim)``; ``seed`` chooses where an edit has many outcomes."""
        ...

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """Moved styles, layer name to ``(N, channels)``."""
        ...


@runtime_checkable
class MovesPicture(Protocol):
    """An edit of where the head stands in the picture."""

    def transform(self, strength: float) -> Tensor:
        """``(3, 3)`` similarity, see ``Generator.synthesize``."""
        ...


@dataclass(frozen=True)
class Direction:
    """A change of the codes that is proportional to the strength: the same for all, or affine in the codes."""

    name: str
    unit: str
    """What one step of the strength means, e.g. ``years`` or ``degrees``."""
    vector: Tensor
    """``(num_ws, w_dim)``: change of ``ws`` per one unit."""
    lower: float
    """Smallest strength, in the unit; at most 0."""
    upper: float
    """Largest strength, in the unit; at least 0."""
    generator_sha256: str
    """Digest of the generator whose codes the direction moves."""
    matrix: Tensor | None = None
    """``(num_ws, w_dim, w_dim)``: each row times its matrix is a further change per unit (Latent-Transformer)."""
    recolours: bool = True
    """Whether colours of whole regions may change by it, as by a direction of which nobody said otherwise."""
    attribute: str = ""
    """The attribute whose unit an imported one was set to, e.g. ``smile``; empty where there is none."""

    def __post_init__(self) -> None:
        if self.vector.ndim != 2 or not torch.isfinite(self.vector).all():
            raise ValueError(
                f"direction {self.name} must be finite and (num_ws, w_dim), got {tuple(self.vector.shape)}"
            )
        rows, w_dim = self.vector.shape
        if self.matrix is not None and (
            self.matrix.shape != (rows, w_dim, w_dim) or not torch.isfinite(self.matrix).all()
        ):
            raise ValueError(
                f"the matrix of {self.name} must be finite and {(rows, w_dim, w_dim)}, "
                f"got {tuple(self.matrix.shape)}"
            )
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= 0.0 <= self.upper):
            raise ValueError(f"bounds of {self.name} must be finite and enclose 0, got {self.lower}..{self.upper}")

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """Move ``ws`` ``(N, num_ws, w_dim)`` by ``strength`` units; 0 returns equal codes. No seed changes it.

        Raises ``BadInputError`` for a strength that is not finite or out of bounds, and ``ValueError`` for
        codes of another shape.
        """
        check_strength(self, strength)
        if ws.ndim != 3 or ws.shape[1:] != self.vector.shape:
            raise ValueError(f"{self.name} moves codes (N, *{tuple(self.vector.shape)}), got {tuple(ws.shape)}")
        change = self.vector.to(ws)
        if self.matrix is not None:
            change = change + torch.einsum("nrc,rdc->nrd", ws, self.matrix.to(ws))
        return ws + strength * change

    @property
    def whole_head(self) -> bool:
        """Hair that stays while the head turns tears."""
        return self.unit == "degrees"

    @property
    def replaces(self) -> bool:
        """A difference would leave the outline where it was, beside the turned one."""
        return self.unit == "degrees"

    @property
    def in_styles(self) -> bool:
        """It acts on the codes alone."""
        return False

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The styles as they are."""
        return dict(styles)


def check_strength(edit: Edit, strength: float) -> None:
    """Raise ``BadInputError`` for a strength that is not finite or out of the edit's bounds."""
    if not math.isfinite(strength):
        raise BadInputError(f"the strength of {edit.name!r} must be a finite number, got {strength}")
    if not edit.lower <= strength <= edit.upper:
        raise BadInputError(
            f"{edit.name!r} goes from {edit.lower:+g} to {edit.upper:+g} {edit.unit}, {strength:+g} was asked"
        )


E = TypeVar("E", bound=Edit, default=Direction, covariant=True)


def purpose_of(edit: Edit) -> str:
    """What an edit is for: of an imported one the attribute that it was set to, of ours its name says it."""
    return (edit.attribute if isinstance(edit, Direction) else "") or edit.name


class EditSet(Mapping[str, E], Generic[E]):
    """The edits of one generator, by name; without a parameter they are all directions."""

    def __init__(self, edits: Iterable[E]) -> None:
        """Raises ``ValueError`` for two of one name, and for edits of different generators or shapes."""
        listed = list(edits)
        self._edits = {edit.name: edit for edit in listed}
        if len(self._edits) != len(listed):
            raise ValueError(f"two edits of one name among {[edit.name for edit in listed]}")
        shapes = {edit.vector.shape for edit in listed if isinstance(edit, Direction)}
        if len({edit.generator_sha256 for edit in listed}) > 1 or len(shapes) > 1:
            raise ValueError("the edits of a set must belong to one generator")

    def __getitem__(self, name: str) -> E:
        return self._edits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._edits)

    def __len__(self) -> int:
        return len(self._edits)

    def describe(self) -> list[EditDescription]:
        """Names, units and bounds, in the order of the set."""
        return [EditDescription(edit.name, edit.unit, edit.lower, edit.upper) for edit in self._edits.values()]

    def check(self, requests: Sequence[EditRequest]) -> None:
        """Raise ``BadInputError`` for an edit that is not known, and for one asked out of its bounds.

        The strengths asked of one edit are added up: their total is held to the bounds, not each of them.
        """
        for name, strengths in self._asked(requests).items():
            check_strength(self._edits[name], sum(strengths))

    def merged(self, requests: Sequence[EditRequest]) -> Sequence[EditRequest]:
        """The requests, those of an edit as one where one of them, or a sum on the way, is out of its bounds.

        Raises ``BadInputError`` for an unknown edit.
        """
        asked, merged = self._asked(requests), list[EditRequest]()
        beyond = {
            name
            for name, strengths in asked.items()
            if any(
                not self._edits[name].lower <= s <= self._edits[name].upper
                for s in (*strengths, *accumulate(strengths))
            )
        }
        for request in requests:
            if request.name not in beyond:
                merged.append(request)
            elif request.name in asked:
                merged.append(EditRequest(request.name, sum(asked.pop(request.name))))
        return merged

    def apply(self, ws: Tensor, requests: Sequence[EditRequest], seed: int = 0) -> Tensor:
        """Apply to ``ws`` ``(N, num_ws, w_dim)`` what the requests do to codes, one after the other.

        What acts on styles is left to ``synthesize``. Raises ``BadInputError`` before anything is computed: for an
        unknown edit (the known ones are in the message), for NaN and infinity, and out of bounds (bounds and unit
        are in the message).
        """
        self.check(requests)
        for request in self.merged(requests):
            ws = self._edits[request.name](ws, request.strength, seed)
        return ws

    def synthesize(
        self,
        generator: Generator,
        ws: Tensor,
        requests: Sequence[EditRequest],
        seed: int = 0,
        resolution: int | None = None,
        offsets: Tensor | None = None,
    ) -> Tensor:
        """Images ``(N, 3, r, r)`` of the codes under the requests: codes edited first, then styles, then moved.

        ``offsets`` ``(N, num_ws, w_dim)`` are added to the edited codes (StylePortraitVideo, eq. 3).
        Raises as ``apply``. Where no edit acts on styles or moves the picture, or all of those at strength 0, this
        is ``generator.synthesize`` of the edited codes, bit for bit. Moves follow one another as they were asked.
        """
        moved = self.apply(ws, requests, seed)
        moved = moved if offsets is None else moved + offsets
        transform = self.transform(requests)
        restyling = [r for r in self.merged(requests) if r.strength and self._edits[r.name].in_styles]
        if not restyling:
            return generator.synthesize(moved, transform=transform, resolution=resolution)
        styles = generator.styles(moved)
        for request in restyling:
            styles = self._edits[request.name].restyle(styles, request.strength)
        return generator.synthesize_from_styles(styles, transform=transform, resolution=resolution)

    def transform(self, requests: Sequence[EditRequest]) -> Tensor | None:
        """``(3, 3)`` similarity by which the requests move the picture, one after the other; None for no move."""
        whole: Tensor | None = None
        for request in self.merged(requests):
            edit: object = self._edits[request.name]
            if request.strength and isinstance(edit, MovesPicture):
                one = edit.transform(request.strength)
                whole = one if whole is None else one @ whole
        return whole

    def _asked(self, requests: Sequence[EditRequest]) -> dict[str, list[float]]:
        """Edit to the strengths that are asked of it, in their order."""
        asked: dict[str, list[float]] = {}
        for request in requests:
            if request.name not in self._edits:
                known = ", ".join(self._edits) or "none"
                raise BadInputError(f"no edit {request.name!r}; known edits: {known}")
            asked.setdefault(request.name, []).append(request.strength)
        return asked


def parse_edit(text: str) -> EditRequest:
    """Read ``NAME=STRENGTH``, e.g. ``age=+20`` or ``smile=-0.5``; raises ``BadInputError``."""
    name, equals, number = (part.strip() for part in text.partition("="))
    if not (name and equals and number):
        raise BadInputError(f"cannot read the edit {text!r}; write NAME=STRENGTH, for example age=+20")
    try:
        strength = float(number)
    except ValueError:
        raise BadInputError(f"the strength in {text!r} is not a number; write for example {name}=+1") from None
    if not math.isfinite(strength):
        raise BadInputError(f"the strength of {name!r} must be a finite number, got {number}")
    return EditRequest(name, strength)


def save_directions(folder: Path, edits: EditSet, card: str) -> Path:
    """Write the set as a model folder of kind ``directions``; raises ``ValueError`` for an empty one."""
    if not edits:
        raise ValueError("there are no directions to save")
    table = [
        {"name": d.name, "unit": d.unit, "lower": d.lower, "upper": d.upper, "recolours": d.recolours}
        # Where there is none, nothing: the configs of folders that are there stay what they were, hash and all.
        | ({"attribute": d.attribute} if d.attribute else {})
        for d in edits.values()
    ]
    sha256 = next(iter(edits.values())).generator_sha256
    config = {"kind": KIND, "generator_sha256": sha256, "directions": table}
    tensors = {name: direction.vector for name, direction in edits.items()}
    tensors |= {f"{name}{_MATRIX}": d.matrix for name, d in edits.items() if d.matrix is not None}
    return save_model(folder, config, tensors, card)


def load_directions(folder: Path, generator_sha256: str) -> EditSet:
    """Read a model folder of kind ``directions``, on the CPU in float32.

    Raises ``BadInputError`` for a folder that is damaged or of another kind, and, with both hashes in the
    message, for directions of another generator.
    """
    model = load_model(folder, KIND)
    require_generator(model.config, generator_sha256, f"the directions in {folder}")
    try:
        return EditSet(
            Direction(
                name=row["name"],
                unit=row["unit"],
                vector=model.tensors[row["name"]].float(),
                lower=float(row["lower"]),
                upper=float(row["upper"]),
                generator_sha256=generator_sha256,
                matrix=None if (found := model.tensors.get(row["name"] + _MATRIX)) is None else found.float(),
                recolours=bool(row.get("recolours", True)),
                attribute=str(row.get("attribute", "")),
            )
            for row in model.config["directions"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{folder} is damaged ({error!r}); fetch or register the directions again") from error
