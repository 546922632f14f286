"""Whether a challenger may become champion: pure functions over evaluations, nothing is read or written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from datamodules.types import BadInputError
from services.model_names import ADAPTATION, is_adaptation


@dataclass(frozen=True)
class Evaluation:
    """What one model measured on one set of clips."""

    model_sha256: str
    """Of the weights that were measured (``modules.model_folder.weights_sha256``)."""
    config_sha256: str
    """Of the config that they were measured with, which holds what their edits are called one of."""
    generator_sha256: str
    """Of the generator that drew the images."""
    data_hash: str
    """Of the clips and of how they were cut; only evaluations with the same one are compared."""
    metrics: Mapping[str, float]
    """Name to value, in the metric's own unit."""
    higher_is_better: Mapping[str, bool]
    """Name to direction, for every metric."""
    frames: int
    """How many frames were measured."""
    clips: int
    """How many clips they came from."""
    created: str
    """UTC, ISO 8601."""

    def to_json(self) -> str:
        """One line of strict JSON; NaN and the infinities become strings, which JSON has no numbers for."""
        plain = asdict(self)
        plain["metrics"] = {k: v if math.isfinite(v) else repr(v) for k, v in self.metrics.items()}
        return json.dumps(plain, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Read what ``to_json`` wrote; raises ``BadInputError`` for anything else."""
        try:
            plain = json.loads(text)
            evaluation = cls(**{field.name: plain[field.name] for field in fields(cls)})
            _check_kinds(evaluation)
            metrics = {str(name): float(value) for name, value in evaluation.metrics.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInputError(
                f"this is not an evaluation, or one of an earlier version ({error!r}): measure the model again, "
                "by 'stylereel evaluate' or by what trained it"
            ) from error
        return cls(**{**{f.name: plain[f.name] for f in fields(cls)}, "metrics": metrics})


def _check_kinds(evaluation: Evaluation) -> None:
    kinds: dict[str, Any] = {"model_sha256": str, "config_sha256": str, "generator_sha256": str,
                             "data_hash": str, "created": str, "frames": int, "clips": int,
                             "metrics": dict, "higher_is_better": dict}  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(getattr(evaluation, name), kind):
            raise TypeError(f"{name} must be {kind.__name__}")
    if not all(isinstance(value, bool) for value in evaluation.higher_is_better.values()):
        raise TypeError("higher_is_better must hold true or false")


@dataclass(frozen=True)
class GateConfig:
    """What one registered model must reach. The metrics named in either table are the ones that are judged."""

    floors: dict[str, float]
    """Metric to the worst value that passes: a floor where higher is better, a ceiling where lower is."""
    tolerances: dict[str, float]
    """Metric to how much worse than the champion's it may be, in its unit; 0 for a metric not named."""
    min_frames: int
    """An evaluation on fewer frames is not believed."""
    min_clips: int
    """An evaluation on fewer clips is not believed."""
    alone: bool = False
    """Whether floors are all: what each version was measured on is its own, so that none compares to another's."""

    def __post_init__(self) -> None:
        if not self.floors:
            raise BadInputError("a gate without floors lets everything through: name at least one in params.yaml")
        if not all(math.isfinite(value) for value in self.floors.values()):
            raise BadInputError("the gate's floors must be finite numbers; correct params.yaml")
        if not all(math.isfinite(value) and value >= 0 for value in self.tolerances.values()):
            raise BadInputError("the gate's tolerances must be finite and not negative; correct params.yaml")


@dataclass(frozen=True)
class Gates:
    """Section ``gate``: what a model must reach to become champion, by its registered name."""

    models: dict[str, GateConfig]
    """Registry name to its gate."""

    def of(self, name: str) -> GateConfig:
        """The gate of a registered model; raises ``BadInputError`` where params.yaml has none."""
        gate = ADAPTATION if is_adaptation(name) else name
        if gate not in self.models:
            raise BadInputError(f"params.yaml has no gate.models.{gate}; without a gate nothing is promoted")
        return self.models[gate]


@dataclass(frozen=True)
class Check:
    """One thing that was judged."""

    passed: bool
    text: str
    """What was compared with what."""


@dataclass(frozen=True)
class Verdict:
    """What the gate decided."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed; a verdict without a check is a refusal."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The failed checks of a refusal, or all checks of a pass."""
        return tuple(check.text for check in self.checks if self.passed or not check.passed)

    @property
    def text(self) -> str:
        """One line."""
        return f"{'passed' if self.passed else 'refused'}: {'; '.join(self.reasons)}"


def judge(challenger: Evaluation, champion: Evaluation | None, config: GateConfig) -> Verdict:
    """Judge a challenger by absolute floors and, where there is a champion, by being no worse than it.

    A metric that is missing or not finite fails, on either side; so does a champion measured on another
    data hash (measure it again first) and an evaluation on too few frames or clips.
    """
    checks = [
        _at_least("frames", challenger.frames, config.min_frames),
        _at_least("clips", challenger.clips, config.min_clips),
    ]
    checks += [
        Check(False, f"{name} is {value}, which is no measurement")
        for name, value in sorted(challenger.metrics.items())
        if not math.isfinite(value)
    ]
    judged = sorted(config.floors.keys() | config.tolerances.keys())
    if champion is not None and champion.data_hash != challenger.data_hash:
        checks.append(
            Check(
                False,
                f"the champion was measured on data {champion.data_hash}, the challenger on "
                f"{challenger.data_hash}: measure the champion on the challenger's data first",
            )
        )
        champion = None
    for name in judged:
        checks += _judge_metric(name, challenger, champion, config)
    return Verdict(tuple(checks))


def _judge_metric(
    name: str, challenger: Evaluation, champion: Evaluation | None, config: GateConfig
) -> list[Check]:
    value = challenger.metrics.get(name)
    if value is None or name not in challenger.higher_is_better:
        what = "value" if value is None else "direction"
        return [Check(False, f"{name} has no {what} in the challenger's evaluation")]
    if not math.isfinite(value):
        return []  # already refused, once for every metric that is no number
    higher = challenger.higher_is_better[name]
    checks = []
    if name in config.floors:
        checks.append(_no_worse(name, value, config.floors[name], higher, "floor" if higher else "ceiling"))
    if champion is not None:
        theirs = champion.metrics.get(name, math.nan)
        if not math.isfinite(theirs) or champion.higher_is_better.get(name) != higher:
            return [*checks, Check(False, f"{name} of the champion cannot be compared: measure it again")]
        slack = config.tolerances.get(name, 0.0)
        bound = theirs - slack if higher else theirs + slack
        checks.append(_no_worse(name, value, bound, higher, f"champion's {theirs:.4g} with tolerance {slack:g}"))
    return checks


def _no_worse(name: str, value: float, bound: float, higher: bool, what: str) -> Check:
    passed = value >= bound if higher else value <= bound
    sign = (">=" if passed else "<") if higher else ("<=" if passed else ">")
    shown = f"{what} {bound:.4g}" if what in ("floor", "ceiling") else f"the {what}"
    return Check(passed, f"{name} {value:.4g} {sign} {shown}")


def _at_least(what: str, value: int, least: int) -> Check:
    return Check(value >= least, f"{value} {what} measured, {least} needed")


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
