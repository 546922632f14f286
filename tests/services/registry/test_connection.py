"""A registry on the network that hangs: asked once, then left alone for a while, then asked again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

import services.registry.connection
from services.registry.connection import Connection, RegistryConfig
from services.registry.errors import RegistryUnavailableError


class Hanging:
    """Takes connections and answers none."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self.taken:
            connection.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    server = Hanging()
    yield server
    server.close()


def test_one_that_hangs_is_waited_for_once_and_asked_again_later(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(hanging.address, RegistryConfig("stylereel", 1, 0, 1))
    with pytest.raises(RegistryUnavailableError, match="cannot be reached"), connection.reach():
        pass
    asked = len(hanging.taken)
    assert asked > 0
    for _ in range(3):
        with pytest.raises(RegistryUnavailableError, match=hanging.address), connection.reach():
            pass
    assert len(hanging.taken) == asked
    later = time.monotonic() + connection.config.timeout_seconds
    monkeypatch.setattr(services.registry.connection.time, "monotonic", lambda: later)
    with pytest.raises(RegistryUnavailableError), connection.reach():
        pass
    assert len(hanging.taken) > asked
