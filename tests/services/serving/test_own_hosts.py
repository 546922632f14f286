"""Requests that a browser carries for pages of others, and those of proxies and probes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from api_toys import refused
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from services.serving.own_hosts import OwnHosts, is_loopback
from services.settings import load_params


async def answers(request: Request) -> JSONResponse:
    return JSONResponse({"done": True})


def served(host: str = "127.0.0.1", allowed: str = "") -> TestClient:
    runtime = replace(load_params(environment={}).runtime, host=host, allowed_hosts=allowed)
    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route(path, answers, methods=methods) for path in ("/v1/edit", "/livez", "/metrics")])
    app.add_middleware(OwnHosts, runtime=runtime)
    return TestClient(app)


def post(client: TestClient, host: str, origin: str | None = None, method: str = "POST") -> int:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    return client.request(method, "/v1/edit", headers=headers).status_code


@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1", "127.0.0.1:3000", "[::1]:3000", "LocalHost"])
def test_loopback_answers_to_its_own_names_on_any_port(host: str) -> None:
    for bound in ("127.0.0.1", "localhost", "::1"):
        assert post(served(bound), host) == 200
    assert post(served("127.0.0.7"), "127.0.0.7:3000") == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:3", "127.0.0.1.evil.example", "", "a b"])
def test_a_name_that_was_made_to_lead_to_loopback_is_refused(host: str) -> None:
    for method in ("GET", "POST"):
        answer = served().request(method, "/v1/edit", headers={"Host": host})
        refused(answer, 421, "is not served here; name it in runtime.allowed_hosts")
    assert served().get("/metrics", headers={"Host": "evil.example"}).status_code == 421


def test_names_of_a_proxy_are_answered_where_they_are_listed() -> None:
    for client in (served(allowed="Faces.example, *.b.example"), served("0.0.0.0", "Faces.example,*.b.example")):
        assert post(client, "faces.example") == post(client, "x.b.example:8443") == 200
        assert post(client, "localhost:3000") == 200
        assert post(client, "evil.example") == 421
    assert post(served(allowed="*"), "whoever.example") == 200


def test_another_address_answers_to_all_names_until_some_are_listed_and_to_probes_always() -> None:
    assert post(served("0.0.0.0"), "10.0.0.7:3000") == 200
    listed = served("0.0.0.0", "faces.example")
    assert post(listed, "10.0.0.7:3000") == 421
    for path in ("/livez", "/metrics"):
        assert listed.get(path, headers={"Host": "10.0.0.7:3000"}).status_code == 200


def test_a_probe_without_a_host_is_answered() -> None:
    """As HTTP/1.0 has them; browsers always send one."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "query_string": b""}
    asyncio.run(served().app(scope, None, send))  # type: ignore[arg-type]
    assert statuses[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:8080", "null", "", "http://[::1"])
def test_pages_of_others_change_nothing(origin: str) -> None:
    for method in ("POST", "DELETE"):
        answer = served().request(method, "/v1/edit", headers={"Host": "localhost:3000", "Origin": origin})
        refused(answer, 403, "may not change anything here")
        assert post(served("0.0.0.0"), "faces.example", origin, method) == 403
    assert post(served(), "localhost:3000", origin, "GET") == 200


def test_its_own_page_may_and_so_may_the_page_behind_a_proxy() -> None:
    assert post(served(), "localhost:3000", "http://localhost:3000") == 200
    assert post(served(), "[::1]:3000", "http://[::1]:3000") == 200
    assert post(served("0.0.0.0"), "Faces.example", "https://faces.example") == 200
    # Proxies that put an address of their own into Host.
    assert post(served(), "127.0.0.1:3000", "https://faces.example") == 403
    assert post(served(allowed="faces.example"), "127.0.0.1:3000", "https://faces.example:8443") == 200


def test_what_loopback_is() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "nowhere")))
