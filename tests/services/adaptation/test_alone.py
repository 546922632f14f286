"""Work folders that one call at a time works in."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.adaptation.alone import alone_in
from services.progress import CancelledError, Progress, never, silent

HOLDS = """
import sys, time
from pathlib import Path
from services.adaptation.alone import alone_in
from services.progress import never, silent
with alone_in(Path(sys.argv[1]), silent, never):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_many_calls_take_turns_and_leave_no_lock(tmp_path: Path) -> None:
    inside, most, waited = [0], [0], list[bool]()

    def call() -> None:
        with alone_in(tmp_path / "new" / "work", silent, never) as waits:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            waited.append(waits)
            threading.Event().wait(0.05)
            inside[0] -= 1

    calls = [threading.Thread(target=call) for _ in range(6)]
    for one in calls:
        one.start()
    for one in calls:
        one.join()
    assert most == [1] and len(waited) == 6 and any(waited)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_call_that_waits_for_another_process_says_so_and_can_be_stopped_and_a_killed_one_holds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = tmp_path / "work"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(work)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "holds\n"
        told: list[Progress] = []
        with pytest.raises(CancelledError), alone_in(work, told.append, lambda: bool(told)):
            raise AssertionError("it was let in")
        assert [one.stage for one in told] == ["wait"]
        assert [record.message for record in caplog.records] == [
            "another call learns from this clip; waiting for it"
        ]
        other.kill()
    with alone_in(work, silent, never) as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []
