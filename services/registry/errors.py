"""What can go wrong around the registry, and the exit codes that tell a scheduler which it was."""

from __future__ import annotations

from datamodules.types import BadInputError
from services.registry.gate import Verdict

EXIT_OK, EXIT_BAD_INPUT, EXIT_REFUSED, EXIT_UNREACHABLE = 0, 2, 3, 4


class RegistryUnavailableError(RuntimeError):
    """The registry does not answer; the message is one line with its address, without credentials."""


class NoSuchVersionError(BadInputError):
    """The registry answers, but has no such model, version or alias."""


class GateRefusedError(RuntimeError):
    """A challenger did not pass the gate; ``verdict`` holds every reason, the message all of them in one line."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


def exit_code(error: BaseException) -> int | None:
    """The shell's exit code: 2 bad input, 3 refused by the gate, 4 registry unreachable, None for others."""
    codes: tuple[tuple[type[BaseException], int], ...] = (
        (BadInputError, EXIT_BAD_INPUT),
        (GateRefusedError, EXIT_REFUSED),
        (RegistryUnavailableError, EXIT_UNREACHABLE),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), None)
