"""``stylereel params``: the keys of ``params.yaml``, their values, and the docstrings of the fields they fill."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from datamodules.types import BadInputError
from services.settings import PREFIX, load_params
from services.shell.options import Set

SECTIONS = {
    "runtime": "services.settings:Runtime",
    "data": "services.settings:DataSettings",
    "ablation": "services.stages.ablation:AblationSettings",
    "adaptation": "services.adaptation.learn:AdaptationSettings",
    "balance": "modules.editing.balance:BalanceConfig",
    "clips": "datamodules.clips:ClipsConfig",
    "demo": "services.demo.options:DemoConfig",
    "detection": "modules.perception.detection:DetectionConfig",
    "directions": "services.direction_settings:DirectionSettings",
    "drift": "services.evaluation.drift:DriftConfig",
    "evaluation": "services.evaluation.reconstruction:EvaluationConfig",
    "face_judge": "modules.perception.face_judge:FaceJudgeConfig",
    "face_video": "datamodules.face_video:FaceVideoConfig",
    "flow": "modules.perception.flow:FlowConfig",
    "frame_encoder": "services.training.trainer:FrameEncoderSettings",
    "gate": "services.registry.gate:Gates",
    "generator": "services.precise_generator:GeneratorSettings",
    "identity_loss": "modules.perception.identity_judge:IdentityJudgeConfig",
    "imported_edits": "services.edits.import_edit:ImportedEditsConfig",
    "landmark_flow": "datamodules.landmark_flow:LandmarkFlowConfig",
    "parsing": "modules.perception.region:ParsingConfig",
    "people": "datamodules.people:PeopleConfig",
    "pipeline": "services.pipeline.options:PipelineConfig",
    "placement": "modules.editing.placement:PlacementConfig",
    "pose_editor": "services.edits.pose_settings:PoseEditorSettings",
    "registry": "services.registry.connection:RegistryConfig",
    "restoring": "services.stages.restorers:RestoringSettings",
    "samples": "datamodules.samples:SamplesConfig",
    "shots": "datamodules.shots:ShotConfig",
    "smoothing": "datamodules.alignment:SmoothingConfig",
    "stylespace": "services.edits.stylespace:StylespaceSettings",
    "video_encoder": "services.training.trainer:VideoEncoderSettings",
}
"""Section to ``module:class`` of the dataclass that it is read as; imported only when it is asked for."""


@dataclass(frozen=True)
class Key:
    """One key of ``params.yaml``."""

    name: str
    """Dotted, as ``--set`` takes it; ``[]`` stands for each entry of a list, ``*`` for each name of a mapping."""
    value: Any
    """What the file (and ``--set``) gives it; None where the key holds further keys."""
    text: str
    """The docstring of the field."""
    is_leaf: bool
    """False where the key holds further keys."""


def params(
    name: Annotated[
        str | None, typer.Argument(metavar="[SECTION[.KEY]]", help="A section, or a key of it; else all sections.")
    ] = None,
    set_: Set = None,
) -> None:
    """List the keys of params.yaml: what each one means and what it is set to.

    Example: stylereel params pipeline.follow
    """
    raw = load_params(overrides=set_ or []).raw
    if name is None:
        width = max(map(len, raw))
        for section in raw:
            print(f"{section:<{width}}  {_summary(dataclass_of(section))}")
        return
    section = name.partition(".")[0]
    if section not in raw or section not in SECTIONS:
        raise BadInputError(f"params.yaml has no section {section!r}; it has {', '.join(raw)}")
    keys = [
        key
        for key in keys_of(dataclass_of(section), raw[section], section)
        if f"{key.name}.".startswith(f"{name}.")
    ]
    if not keys and name != section:
        raise BadInputError(
            f"params.yaml has no {name!r}; 'stylereel params {section}' lists the keys of {section}"
        )
    if name == section:
        print(f"{section}: {_summary(dataclass_of(section))}\n")
    for key in keys:
        print(f"{key.name} = {key.value!r}" if key.is_leaf else f"{key.name}:")
        print(textwrap.indent(textwrap.fill(key.text.replace("``", ""), 100), "    "))
    example = next((key for key in keys if key.is_leaf), None)
    if example is not None and section == "runtime":
        variable = PREFIX + example.name.partition(".")[2].upper()
        print(f"\nChange one with {variable}=VALUE in the environment, or in params.yaml.")
    elif example is not None:
        print(f"\nChange one for a single command with --set {example.name}=VALUE, or in params.yaml.")


def dataclass_of(section: str) -> type:
    """The frozen dataclass that a section is read as."""
    module, _, kind = SECTIONS[section].partition(":")
    found: type = getattr(importlib.import_module(module), kind)
    return found


def keys_of(kind: Any, given: Any, where: str) -> Iterator[Key]:
    """Every key of a dataclass with the docstring of its field, nested ones after the key that holds them."""
    texts = attribute_docstrings(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{where}.{field.name}"
        value = given.get(field.name) if isinstance(given, Mapping) else None
        inner, suffix = _dataclass_in(hints[field.name])
        yield Key(name, value, texts.get(field.name, ""), inner is None)
        if inner is not None:
            yield from keys_of(inner, value if suffix == "" else None, name + suffix)


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Field name to the string that stands below the field in the source, on one line; inherited ones too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for line, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[line.target.id] = " ".join(after.value.value.split())
    return found


def _dataclass_in(hint: Any) -> tuple[Any, str]:
    """The dataclass that a field holds, and how its keys go on: directly, per entry, or per name."""
    if dataclasses.is_dataclass(hint):
        return hint, ""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union, typing.Annotated):
        found = [_dataclass_in(part) for part in inside]
        return next((one for one in found if one[0] is not None), (None, ""))
    if origin is tuple and inside and dataclasses.is_dataclass(inside[0]):
        return inside[0], "[]"
    if inside and dataclasses.is_dataclass(inside[-1]):
        return inside[-1], ".*"
    return None, ""


def _summary(kind: type) -> str:
    """The first line of a dataclass's docstring, without the name of its section, as plain text."""
    line = (inspect.getdoc(kind) or "").split("\n")[0]
    if line.startswith("Section ``"):
        line = line.partition(": ")[2]
    return (line[:1].upper() + line[1:]).replace("``", "")
