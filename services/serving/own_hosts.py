"""Whom the server answers: a browser carries requests of pages that are somebody else's to loopback too."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.serving.limits import error_response
from services.settings import Runtime, host_names

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/livez", "/readyz", "/metrics")
"""Asked by the address of a container, which no list names."""
READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
_PORT = re.compile(r":\d*$")


class OwnHosts:
    """ASGI middleware: refuses other hosts (421), and what pages of other hosts would change (403).

    A page whose name is made to lead to loopback (DNS rebinding) sends its own name as ``Host``; one that sends a
    form elsewhere says in ``Origin`` whose it is. Who sends neither is no browser.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self.app = app
        self._named = host_names(runtime.allowed_hosts)
        self._loopback = is_loopback(runtime.host)
        bound = f"[{runtime.host}]" if ":" in runtime.host else runtime.host
        self._hosts = (*LOOPBACK, bound.lower(), *self._named) if self._loopback or self._named else ("*",)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        probed = scope["path"] in PROBES and not self._loopback
        if host is not None and not probed and not _is_one_of(host, self._hosts):
            message = f"the host {host[:100]!r} is not served here; name it in runtime.allowed_hosts"
            return error_response(message, 421)
        if scope["method"] in READING or origin is None:
            return None
        asks = _host_of(origin)
        if asks == (host or "").lower() or _is_one_of(asks, self._named):
            return None
        message = f"pages of {origin[:100]!r} may not change anything here; name its host in runtime.allowed_hosts"
        return error_response(message, 403)


def is_loopback(host: str) -> bool:
    """Whether an address, or ``localhost``, is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(origin: str) -> str:
    """With its port; empty where an origin names none, as ``null`` does."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_one_of(host: str, names: tuple[str, ...]) -> bool:
    """Whether a host, with a port or without, has one of the names; ``*`` stands for any beginning."""
    name = _PORT.sub("", host.lower())
    return bool(name) and any(
        name == known or (known.startswith("*") and name.endswith(known[1:])) for known in names
    )
