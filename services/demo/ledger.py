"""Which steps were done with which inputs, so that a second run redoes only what changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.disk import write_whole
from services.pipeline.sidecar import file_sha256, plain


@dataclass(frozen=True)
class Done:
    """What a step left behind."""

    result: dict[str, Any]
    """What the step returned, as JSON holds it."""
    seconds: float
    """Time that the step took when it was done."""
    redone: bool
    """False where an earlier run's outputs were taken."""


class Ledger:
    """One JSON file per step in ``folder``: the hash of its inputs, its outputs' hashes, its result."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """``say`` is told one line per step."""
        self.folder, self.say = folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Iterable[Path],
        make: Callable[[], Mapping[str, Any]],
        stands: Callable[[Mapping[str, Any]], bool] = lambda result: True,
    ) -> Done:
        """Run ``make`` unless the same inputs gave the same outputs before and these are still as they were.

        ``inputs`` are dataclasses and plain values; files come in by their hash. ``make`` writes every one of
        ``outputs`` and returns what later steps and the report need. ``stands`` says whether an earlier result
        still holds, where that hangs on more than its outputs.
        """
        key = hashlib.sha256(json.dumps(plain(inputs), sort_keys=True).encode()).hexdigest()
        files = list(outputs)
        earlier = self._earlier(name, key, files)
        if earlier is not None and stands(earlier.result):
            self.say(f"{name}: as before")
            return earlier
        self.say(f"{name} …")
        started = time.monotonic()
        result = plain(make())
        seconds = round(time.monotonic() - started, 2)
        hashes = {file.name: file_sha256(file) for file in files}
        record = {"key": key, "outputs": hashes, "result": result, "seconds": seconds}
        write_whole(self._record(name), json.dumps(record, indent=1, allow_nan=False) + "\n")
        return Done(result, seconds, redone=True)

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _earlier(self, name: str, key: str, files: list[Path]) -> Done | None:
        try:
            record = json.loads(self._record(name).read_text())
            same = record["key"] == key and record["outputs"] == {file.name: file_sha256(file) for file in files}
            return Done(record["result"], record["seconds"], redone=False) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no record, a damaged one, or an output that is gone: the step is done again
