"""One heavy computation at a time: a queue with deadlines, where long work lets others through."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

MAX_WAITING = 32
"""Who asks while so many wait is turned away at once.

No setting: each of them holds one of the 40 threads that the web framework has, and the others answer all else.
"""


class BusyError(RuntimeError):
    """The turn did not come in time, or too many wait; the message is one line, the HTTP status is 503."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        """``retry_after`` is after how many seconds asking again may help."""
        super().__init__(message)
        self.retry_after = retry_after


class Turns:
    """A fair lock: whoever asks first goes first.

    A timed-out request may still be computing when its client is gone, and a video runs for minutes; both
    would share the device with the next request without this.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._busy = False
        self._admitted = 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Be one of those who wait or are at work, inside the ``with`` block: from before a body is read.

        Each holds its body. Raises ``BusyError`` where ``MAX_WAITING`` do, beside the one at work.
        """
        with self._condition:
            if self._admitted > MAX_WAITING:
                raise BusyError(f"{MAX_WAITING} requests are waiting already; try again later")
            self._admitted += 1
        try:
            yield
        finally:
            with self._condition:
                self._admitted -= 1

    @contextmanager
    def turn(self, seconds: float | None = None) -> Iterator[None]:
        """Hold the device inside the ``with`` block; waits at most ``seconds``, for ever without a number.

        Raises ``BusyError`` when the turn did not come in time.
        """
        self._enter(seconds)
        try:
            yield
        finally:
            self._leave()

    def give_way(self) -> None:
        """Called by the holder between two pieces of work: lets those who wait go first, then goes on."""
        if self._waiting:
            self._leave()
            self._enter(None)

    def _enter(self, seconds: float | None) -> None:
        ticket = object()
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._condition:
            self._waiting.append(ticket)
            while self._busy or self._waiting[0] is not ticket:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._waiting.remove(ticket)
                    self._condition.notify_all()
                    raise BusyError(f"the server was busy for {seconds:g} s; try again later")
                self._condition.wait(left)
            self._waiting.popleft()
            self._busy = True

    def _leave(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
