"""The pose and expression editor of FrEN/ViEN (4.4): from a change of the face model to a change of the codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.editing.directions import EditSet, check_strength
from modules.editing.expression import QUANTITIES
from modules.model_folder import load_model, require_generator, save_model
from modules.perception.face_shape import FaceBasis, rotation_vector

KIND = "pose-editor"
TURNS = ("pose.yaw", "pose.pitch", "pose.roll")
"""Degrees, with the signs of ``modules.perception.landmarks.Pose``."""
SHIFTS = ("pose.right", "pose.down", "pose.nearer")
"""Percent of the crop's width; ``nearer`` percent of the size."""
EXPRESSIONS = tuple(f"expression.{name}" for name in QUANTITIES)
NAMES = (*TURNS, *SHIFTS, *EXPRESSIONS)
"""What can be asked for."""
_BASIS = "basis."
Held = Mapping[str, tuple[float, float]]
"""``expression.*`` to what of it, in its own measure, is asked more per unit of a turn to below 0 and to above."""


@dataclass(frozen=True)
class PoseEditorConfig:
    """Its shape."""

    width: int
    """Of the two hidden layers."""
    rows: int
    """Rows of the codes, from the first, that are moved: coarse and middle ones; the finer hold skin and light."""


class PoseEditor(nn.Module):
    """A 3-layer MLP from ``[d alpha, d beta, d R, d T]`` to ``d w``, added to a linear answer solved beforehand.

    ``forward(change)`` takes ``(N, D)`` as ``face_shape.difference`` gives it, returns ``(N, num_ws, w_dim)``.
    Beyond the paper: the linear part, which ``solve`` finds from generator samples; the answer counts in W's own
    spread; and no layer has a bias, so that no change is asked by 0 exactly.
    """

    def __init__(self, config: PoseEditorConfig, num_ws: int, scale: Tensor, w_basis: Tensor) -> None:
        """``scale`` ``(D,)``: each number's usual size; ``w_basis`` ``(w_dim, w_dim)``: root of W's covariance."""
        super().__init__()
        w_dim, (width,) = len(w_basis), scale.shape
        if not 1 <= config.rows <= num_ws or w_basis.shape != (w_dim, w_dim) or not (scale > 0).all():
            raise ValueError(f"{config.rows} of {num_ws} rows, scales {tuple(scale.shape)}: these do not fit")
        self.config, self.num_ws, self.w_dim = config, num_ws, w_dim
        self.register_buffer("scale", scale.float())
        self.register_buffer("w_basis", w_basis.float())
        self.register_buffer("linear", torch.zeros(width, config.rows * w_dim))
        self.scale: Tensor
        self.w_basis: Tensor
        self.linear: Tensor
        last = nn.Linear(config.width, config.rows * w_dim, bias=False)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            nn.Linear(width, config.width, bias=False), nn.SiLU(),
            nn.Linear(config.width, config.width, bias=False), nn.SiLU(),
            last,
        )  # fmt: skip

    def forward(self, change: Tensor) -> Tensor:
        """See the class."""
        solved, learned = self.parts(change)
        moved = ((solved + learned) @ self.w_basis).float()
        return nn.functional.pad(moved, (0, 0, 0, self.num_ws - self.config.rows))

    def parts(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """The linear and the learned part of the answer, each ``(N, rows, w_dim)`` in W's own spread."""
        if change.ndim != 2 or change.shape[1] != len(self.scale):
            raise ValueError(f"changes must be (N, {len(self.scale)}), got {tuple(change.shape)}")
        x = change / self.scale
        shape = (self.config.rows, self.w_dim)
        return (x @ self.linear).view(-1, *shape), self.layers(x).view(-1, *shape)

    @torch.no_grad()
    def solve(self, change: Tensor, ws: Tensor, ridge: float, kept: Tensor | None = None) -> None:
        """Fill the linear part by least squares: codes ``(N, num_ws, w_dim)`` from parameters ``(N, D)``.

        Both are taken from their means. ``ridge`` is relative to the scales' squares, per sample. ``kept``
        ``(N, K)`` is what a change must leave alone and no parameter says, such as the age: it explains its part
        of the codes, which the answer then has not.
        """
        if len(change) != len(ws) or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"{tuple(change.shape)} changes do not go with codes {tuple(ws.shape)}")
        x = (change / self.scale).double()
        if kept is not None:
            x = torch.cat([x, (kept / kept.std(0)).double()], dim=1)
        x = x - x.mean(0)
        moved = ws[:, : self.config.rows].float()
        # The codes are many: only their products with the few parameters are formed in double precision.
        products = x.T @ (moved - moved.mean(0)).flatten(1).double()
        scatter = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        answer = torch.linalg.solve(scatter, products)[: change.shape[1]]
        solved = answer.unflatten(1, (self.config.rows, self.w_dim))
        self.linear.copy_((solved @ torch.linalg.pinv(self.w_basis.double())).flatten(1))


@dataclass(frozen=True)
class PoseEdit:
    """One thing to ask of the editor, ``pose.yaw`` or ``expression.smile``, by its strength."""

    name: str
    unit: str
    """What one step of the strength means, e.g. ``degrees``."""
    change: Tensor
    """``(D,)``: what one unit asks of the face model."""
    lower: float
    """Smallest strength, in the unit; at most 0."""
    upper: float
    """Largest strength, in the unit; at least 0."""
    generator_sha256: str
    """Digest of the generator whose codes the editor moves."""
    editor: PoseEditor
    held: Tensor
    """``(2, D)``: what is asked more per unit below 0, and above, so that a turned face looks as it did."""

    def __post_init__(self) -> None:
        wanted = self.editor.scale.shape
        if self.change.shape != wanted or self.held.shape != (2, *wanted) or not self.lower <= 0.0 <= self.upper:
            shapes, bounds = (tuple(self.change.shape), tuple(self.held.shape)), (self.lower, self.upper)
            raise ValueError(f"{self.name}: changes {shapes} and bounds {bounds} do not fit")
        numbers = torch.tensor([self.lower, self.upper, *self.change, *self.held.flatten()])
        if not numbers.isfinite().all():
            raise ValueError(f"{self.name}: changes and bounds must be finite")

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """Move ``ws`` ``(N, num_ws, w_dim)``, all alike; 0 returns equal codes. No seed changes it.

        Raises ``BadInputError`` for a strength that is not finite or out of bounds.
        """
        check_strength(self, strength)
        if ws.ndim != 3 or ws.shape[1:] != (self.editor.num_ws, self.editor.w_dim):
            raise ValueError(f"{self.name} does not move codes {tuple(ws.shape)}")
        with torch.no_grad():
            # The editor is small and stays where it was loaded; its answer travels.
            asked = strength * self.change + abs(strength) * self.held[int(strength > 0)]
            moved = self.editor(asked[None].to(self.editor.scale))
        result: Tensor = ws + moved.to(ws)
        return result

    @property
    def whole_head(self) -> bool:
        """A pose moves the hair with the face."""
        return self.name in (*TURNS, *SHIFTS)

    @property
    def replaces(self) -> bool:
        """A difference would leave the outline where it was, beside the moved one."""
        return self.whole_head

    @property
    def recolours(self) -> bool:
        """A pose has no colour."""
        return False

    @property
    def in_styles(self) -> bool:
        """It acts on the codes alone."""
        return False

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The styles as they are."""
        return dict(styles)


@dataclass(frozen=True)
class PoseEditSettings:
    """How one edit of the editor is offered."""

    unit: str
    """What a user reads."""
    per_unit: float
    """Degrees, percent, or how much of the named quantity one unit is."""
    lower: float
    """Smallest strength offered."""
    upper: float
    """Largest strength offered."""
    typical: float
    """Usual strength."""
    measured: tuple[float, ...]
    """Strengths at which it is measured."""


def request(name: str, amount: float, basis: FaceBasis, expressions: Tensor) -> Tensor:
    """``(D,)``: what ``amount`` of ``name`` asks of the face model, in degrees, percent or the named quantity.

    ``expressions`` ``(4, E)`` is what ``expression.fit_expressions`` gave. Raises ``BadInputError``.
    """
    change = torch.zeros(basis.width)
    identity, expression = basis.sizes
    first = identity + expression
    if name in TURNS:
        angles = [torch.tensor([amount if turn == name else 0.0]) for turn in TURNS]
        change[first : first + 3] = rotation_vector(*angles)[0]
    elif name in SHIFTS:
        # 256 times the logarithm of the scale, and pixels of 256: both are 2.56 to the percent.
        change[first + 3 + SHIFTS.index(name)] = 2.56 * amount
    elif name in EXPRESSIONS:
        change[identity:first] = amount * expressions[EXPRESSIONS.index(name)]
    else:
        raise BadInputError(f"no pose or expression {name!r}; there are {', '.join(NAMES)}")
    return change


def pose_edits(
    editor: PoseEditor,
    basis: FaceBasis,
    expressions: Tensor,
    offered: Mapping[str, PoseEditSettings],
    gains: Mapping[str, float],
    generator_sha256: str,
    held: Mapping[str, Held] | None = None,
) -> EditSet[PoseEdit]:
    """The edits that an editor offers; ``gains`` is what it is asked per unit asked by a user, 1 where missing.

    ``held`` is what of the expression is asked along with an edit, by the edit's name; nothing where missing.
    """

    def sides(name: str) -> Tensor:
        asked = torch.zeros(2, basis.width)
        for other, amounts in (held or {}).get(name, {}).items():
            asked += torch.stack([request(other, amount, basis, expressions) for amount in amounts])
        return asked

    return EditSet(
        PoseEdit(
            name, edit.unit, request(name, gains.get(name, 1.0) * edit.per_unit, basis, expressions),
            edit.lower, edit.upper, generator_sha256, editor, sides(name),
        )
        for name, edit in offered.items()
    )  # fmt: skip


def save_pose_editor(
    folder: Path,
    editor: PoseEditor,
    basis: FaceBasis,
    expressions: Tensor,
    offered: Mapping[str, PoseEditSettings],
    gains: Mapping[str, float],
    generator_sha256: str,
    held: Mapping[str, Held],
    card: str,
) -> Path:
    """Write a model folder of kind ``pose-editor``: the network in float16, the face model in float32."""
    rows = {
        name: {**asdict(edit), "gain": gains.get(name, 1.0)}
        | ({"held": {other: list(amounts) for other, amounts in held[name].items()}} if name in held else {})
        for name, edit in offered.items()
    }
    config = {
        "kind": KIND,
        "generator_sha256": generator_sha256,
        "network": asdict(editor.config),
        "num_ws": editor.num_ws,
        "edits": rows,
    }
    tensors = {name: value.half() for name, value in editor.state_dict().items()}
    # Scales of small components would lose their digits.
    tensors["scale"] = editor.scale
    tensors |= {_BASIS + name: value for name, value in basis.tensors().items()}
    return save_model(folder, config, tensors | {"expressions": expressions}, card)


@dataclass(frozen=True)
class LoadedPoseEditor:
    """What a model folder of kind ``pose-editor`` holds."""

    editor: PoseEditor
    basis: FaceBasis
    expressions: Tensor
    """``(4, E)``, see ``expression.fit_expressions``."""
    offered: Mapping[str, PoseEditSettings]
    gains: Mapping[str, float]
    generator_sha256: str
    held: Mapping[str, Held]

    def edits(self) -> EditSet[PoseEdit]:
        """The edits it offers."""
        return pose_edits(
            self.editor, self.basis, self.expressions, self.offered, self.gains, self.generator_sha256, self.held
        )


def load_pose_editor(folder: Path, generator_sha256: str) -> LoadedPoseEditor:
    """Read a model folder of kind ``pose-editor``, on the CPU in float32, frozen.

    Raises ``BadInputError`` for a folder that is damaged or of another kind, and, with both hashes in the
    message, for an editor of another generator.
    """
    model = load_model(folder, KIND)
    require_generator(model.config, generator_sha256, f"the pose editor in {folder}")
    try:
        tensors = {name: value.float() for name, value in model.tensors.items()}
        expressions = tensors.pop("expressions")
        parts = {name.removeprefix(_BASIS): tensors.pop(name) for name in list(tensors) if name.startswith(_BASIS)}
        network = PoseEditorConfig(**model.config["network"])
        editor = PoseEditor(network, model.config["num_ws"], tensors["scale"], tensors["w_basis"])
        editor.load_state_dict(tensors)
        offered, gains, held = _offered(model.config["edits"])
        basis = FaceBasis(**parts)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInputError(f"{folder} is damaged ({error!r}); fetch or register the editor again") from error
    return LoadedPoseEditor(
        editor.eval().requires_grad_(False), basis, expressions, offered, gains, generator_sha256, held
    )


def _offered(
    table: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, PoseEditSettings], dict[str, float], dict[str, Held]]:
    offered, gains, held = {}, {}, dict[str, Held]()
    for name, row in table.items():
        numbers = {key: float(row[key]) for key in ("per_unit", "lower", "upper", "typical")}
        measured: Sequence[Any] = row["measured"]
        offered[name] = PoseEditSettings(unit=str(row["unit"]), measured=tuple(map(float, measured)), **numbers)
        gains[name] = float(row["gain"])
        # Editors of before let the expression go where it went.
        along = {str(other): (float(below), float(above)) for other, (below, above) in row.get("held", {}).items()}
        if unknown := set(along) - set(EXPRESSIONS):
            raise ValueError(f"{name} holds {', '.join(sorted(unknown))}")
        held |= {name: along} if along else {}
    return offered, gains, held
