"""What Lightning's Trainer logs, as curves of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from services.registry.tracking import Run


class CurveLogger(Logger):
    """Writes through the run, so that a registry that goes away does not end a training (Lightning's own does)."""

    def __init__(self, run: Run, before: str = "") -> None:
        super().__init__()
        self.run, self.before = run, before

    @property
    def name(self) -> str:
        """Names no folder: checkpoints are no models and stay out of the registry."""
        return ""

    @property
    def version(self) -> str:
        """The run's id."""
        return self.run.run_id

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point per metric."""
        self.run.log_metrics({f"{self.before}{name}": value for name, value in metrics.items()}, step or 0)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The stage logs its parameters itself."""
