"""Every number of ``params.yaml`` as frozen dataclasses, and the settings that the environment overrides."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from datamodules.types import BadInputError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: ``params.yaml``, ``assets/`` and, by default, ``var/`` lie here."""
PARAMS = ROOT / "params.yaml"
PREFIX = "STYLEREEL_"

_HOST_NAME = re.compile(r"\*|(?:\*\.)?[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\]", re.IGNORECASE | re.ASCII)

Section = TypeVar("Section")
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=1e6)]
"""Up to about a century: dates end."""


def _checked_hosts(text: str) -> str:
    for name in host_names(text):
        if not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a host; give names without scheme and port, as a.example")
    return text


def host_names(text: str) -> tuple[str, ...]:
    """The names in a list that commas separate, in small letters."""
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class DataSettings:
    """Section ``data``: which videos the pipeline trains on."""

    root: str
    """``registry`` is the clips of assets.toml; else a folder of videos."""
    images: tuple[str, ...]
    """Folders of still faces, FFHQ-aligned already, that are trained on beside the videos."""

    def folder(self) -> Path | None:
        """The folder of videos, relative paths taken from the checkout; None for the registry's clips."""
        return None if self.root == "registry" else ROOT / self.root


@dataclass(frozen=True)
class Runtime:
    """Section ``runtime``: where and how things run; each field is overridden by ``STYLEREEL_<FIELD>``."""

    device: Literal["auto", "cpu", "cuda"]
    """Where the networks run; ``auto`` takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"]
    """Of the generator's features; ``auto`` is bfloat16 where the hardware computes in it. Judges keep float32."""
    threads: Annotated[int, Field(ge=0)]
    """CPU threads for torch; 0 leaves torch's own choice."""
    state: Path
    """Folder for what is kept between runs: registry, jobs, latents, cached models."""
    tracking_uri: str
    """MLflow's address; empty is an SQLite file in ``state``."""
    max_bytes: Count
    """Largest video that is taken, in bytes; no other body may be larger either."""
    max_image_bytes: Count
    """Largest body of any other request, in bytes; an image stays in memory while it waits for its turn."""
    max_pixels: Count
    """Largest frame or image that is taken, in pixels."""
    max_seconds: Positive
    """Longest clip that a job takes, in seconds of video."""
    max_rate: Positive
    """Frames per second at which ``max_seconds`` may be filled: more frames than those of both are not taken."""
    request_seconds: Positive
    """Longest time that one request waits for its turn, and again the longest that it computes, in seconds."""
    slowest_upload: Count
    """Bytes per second that a body must come at, counted over the time that the server waits for it."""
    upload_grace: Positive
    """Seconds that the server waits for a body on top of what its bytes take at ``slowest_upload``."""
    keep_latents_hours: Hours
    """How long latent ids answer after they were made."""
    keep_jobs_hours: Hours
    """How long finished jobs and their results are kept."""
    max_jobs: Count
    """Most jobs that are queued or running; each keeps up to ``max_bytes`` on the disk."""
    poll_seconds: Positive
    """How often the registry is asked whether an alias moved."""
    stop_seconds: Count
    """How long a server that is told to stop waits for the requests under way."""
    host: str
    """Address that the service binds to."""
    port: Annotated[int, Field(ge=0, le=65535)]
    """Port that the service binds to; 0 takes a free one."""
    allowed_hosts: Annotated[str, AfterValidator(_checked_hosts)]
    """Names, between commas, that clients reach the service by, e.g. those of a proxy: ``a.example, *.b.example``.

    On loopback they are answered beside localhost; elsewhere an empty list answers all names. ``*`` is any name.
    """
    log_level: Literal["warning", "info", "debug"]
    """From which level on the service's log says something; ``info`` has a line for each request and job."""
    log_format: Literal["text", "json"]
    """Lines of text, or a JSON object in each line."""

    def torch_device(self) -> str:
        """``cpu`` or ``cuda``; raises ``BadInputError`` where a GPU is asked for and there is none."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise BadInputError("device is cuda, but torch sees no GPU: set STYLEREEL_DEVICE=cpu or auto")
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    def bfloat16(self) -> bool:
        """Whether the generator computes its features in bfloat16."""
        if self.precision == "auto":
            return computes_bfloat16(self.torch_device())
        return self.precision == "bfloat16"

    def tracking(self) -> str:
        """MLflow's address, the SQLite file in ``state`` where none is given."""
        return self.tracking_uri or f"sqlite:///{self.state.resolve() / 'mlflow.db'}"

    def apply_threads(self) -> None:
        """Give torch the number of threads that was asked for."""
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Params:
    """The sections of ``params.yaml``; each is built, and checked, when it is first asked for."""

    raw: Mapping[str, Mapping[str, Any]]
    """The file after the overrides."""
    environment: Mapping[str, str]
    """What ``STYLEREEL_*`` is read from."""

    @cached_property
    def data(self) -> DataSettings:
        """Which videos the pipeline trains on."""
        return self.section("data", DataSettings)

    @cached_property
    def runtime(self) -> Runtime:
        """Device, limits, addresses and retention, after ``STYLEREEL_*``."""
        given = dict(self.raw.get("runtime", {}))
        for field in dataclasses.fields(Runtime):
            name = PREFIX + field.name.upper()
            if name in self.environment:
                given[field.name] = self.environment[name]
        runtime = build(Runtime, given, "runtime")
        return dataclasses.replace(runtime, state=ROOT / runtime.state)

    def section(self, name: str, kind: type[Section]) -> Section:
        """One section as the frozen dataclass ``kind``; raises ``BadInputError`` for unknown or missing keys."""
        if name not in self.raw:
            raise BadInputError(f"params.yaml has no section {name!r}; it has {', '.join(self.raw)}")
        return build(kind, self.raw[name], name)


def load_params(
    path: Path | None = None, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> Params:
    """Read ``params.yaml`` (the checkout's by default) and apply ``section.key=value`` overrides.

    Values of overrides are YAML. Raises ``BadInputError`` for a file that is not YAML, for sections and
    keys that the file does not have, and, on first use of a section, for values of the wrong kind.
    """
    path = path or PARAMS
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise BadInputError(f"{path} must hold named sections of keys")
    raw = copy.deepcopy(raw)
    for override in overrides:
        _override(raw, override)
    return Params(raw, os.environ if environment is None else environment)


def build(kind: type[Section], given: Mapping[str, Any], where: str) -> Section:
    """A frozen dataclass from a mapping, nested ones too; raises ``BadInputError`` with the dotted key."""
    _check_keys(kind, given, where)
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *(str(part) for part in first["loc"])])
        said = f"{key}: {first['msg']}, got {first['input']!r}"
        if first["type"] == "value_error":  # of a dataclass that refuses what its values are together
            own = str(first["ctx"]["error"])
            said = own if own.startswith(where) else f"{key}: {own}"
        raise BadInputError(said) from error


def computes_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16; elsewhere it is emulated, and slower than float32.

    ``device`` is ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not parents:
        raise BadInputError(f"override {override!r} must look like section.key=value")
    node: Any = raw
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise BadInputError(f"params.yaml has no {key.strip()!r} to override")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInputError(f"override {override!r}: the value is not YAML") from error


def _check_keys(kind: Any, given: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise BadInputError(f"{where} must be a section of keys, got {given!r}")
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in given:
        if key not in known:
            raise BadInputError(f"{where}.{key} is not known; {where} has {', '.join(known)}")
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in given and required:
            raise BadInputError(f"{where}.{name} is missing")
        inner = _dataclass_in(hints[name])
        if inner is not None and isinstance(given.get(name), Mapping):
            _check_keys(inner, given[name], f"{where}.{name}")


def _dataclass_in(hint: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)
