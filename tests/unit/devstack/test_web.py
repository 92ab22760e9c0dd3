"""The demo server: tokens that verify, events as the contract has them, refusals that name the field."""

import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer

from devstack import web
from devstack.secrets import DEMO_TENANT, make_secrets
from notification.codes import CLOSES
from notification.errors import SettingsError, Unavailable
from notification.ids import parse_uuid7
from notification.limits import PAYLOAD_BYTES_MAX
from notification.settings import Settings

SECRET = b"k" * 43
GOOD = {"user": "ann", "type": "service", "priority": "high", "title": "Hi", "body": "there"}
SCRIPTS = sorted(web.PAGE.glob("*.js"))
PAGE_FILES = sorted(path for path in web.PAGE.iterdir() if path.suffix in web.CONTENT_TYPES)


class Kafka:
    """Takes what is published; down when told so."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes, Any]] = []
        self.down = False

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        if self.down:
            raise Unavailable("Kafka did not accept the event: Down")
        self.records.append((topic, key, json.loads(value)))


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


@pytest.fixture
async def client(kafka: Kafka) -> AsyncIterator[TestClient[Any, Any]]:
    app = web.create_app(Settings(gateway_port=9001), SECRET, kafka.publish)
    async with TestClient(TestServer(app)) as running:
        yield running


async def test_a_token_names_tenant_user_and_device(client: TestClient[Any, Any]) -> None:
    response = await client.post("/token", json={"user": "auth0|ann@x", "device": "phone"})
    answer = await response.json()
    assert response.status == 200
    claims = jwt.decode(answer["token"], SECRET, algorithms=["HS256"], audience="herald", issuer="herald:demo")
    assert (claims["tid"], claims["sub"], claims["did"]) == (DEMO_TENANT, "auth0|ann@x", "phone")
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == web.TOKEN_TTL_S
    again = await (await client.post("/token", json={"user": "ann"})).json()
    other = jwt.decode(again["token"], SECRET, algorithms=["HS256"], audience="herald")
    assert "did" not in other
    assert other["jti"] != claims["jti"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user"),
        ({"user": ""}, "user"),
        ({"user": "a b"}, "user"),
        ({"user": "é"}, "user"),
        ({"user": "x" * 129}, "user"),
        ({"user": 7}, "user"),
        ({"user": "ann", "device": "a.b"}, "device"),
        ({"user": "ann", "tenant": "other"}, "tenant"),
        ([], "request"),
    ],
)
async def test_a_bad_token_request_is_told_its_field(client: TestClient[Any, Any], body: Any, field: str) -> None:
    response = await client.post("/token", json=body)
    answer = await response.json()
    assert (response.status, answer["field"]) == (400, field)
    assert answer["error"].startswith(f"{field}: ")


async def test_send_produces_the_event_of_the_contract(client: TestClient[Any, Any], kafka: Kafka) -> None:
    more = {"image": "https://a.test/i.png", "actions": [{"id": "go", "label": "Go"}], "ttl": 60}
    response = await client.post("/send", json=GOOD | more)
    ident = (await response.json())["id"]
    assert response.status == 202
    parse_uuid7(ident)
    payload = {"title": "Hi", "body": "there", "image": more["image"], "actions": more["actions"]}
    event = {"id": ident, "tenant_id": "demo", "user_id": "ann", "type": "service", "ttl": 60, "payload": payload}
    assert kafka.records == [("notifications.high", b"demo:ann", event)]


async def test_an_optional_field_left_out_is_left_out(client: TestClient[Any, Any], kafka: Kafka) -> None:
    assert (await client.post("/send", json=GOOD | {"priority": "low"})).status == 202
    topic, _, event = kafka.records[0]
    assert topic == "notifications.low"
    assert set(event) == {"id", "tenant_id", "user_id", "type", "payload"}
    assert event["payload"] == {"title": "Hi", "body": "there"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user": "a b"}, "user"),
        ({"type": "spam"}, "type"),
        ({"priority": "urgent"}, "priority"),
        ({"title": ""}, "title"),
        ({"title": "x" * 257}, "title"),
        ({"body": ""}, "body"),
        ({"body": "é" * (PAYLOAD_BYTES_MAX // 2)}, "body"),
        ({"image": "http://a.test/i.png"}, "image"),
        ({"image": "javascript:alert(1)"}, "image"),
        ({"image": "https:///nothing"}, "image"),
        ({"image": "https://[::1"}, "image"),
        ({"actions": [{"id": "a", "label": "L"}] * 5}, "actions"),
        ({"actions": [{"id": "a b", "label": "L"}]}, "actions[0].id"),
        ({"actions": [{"id": "a", "label": ""}]}, "actions[0].label"),
        ({"actions": [{"id": "a"}]}, "actions[0].label"),
        ({"actions": [{"id": "a", "label": "L", "url": "javascript:alert(1)"}]}, "actions[0].url"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": 90 * 86_400 + 1}, "ttl"),
        ({"ttl": "60"}, "ttl"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_sent(
    client: TestClient[Any, Any], kafka: Kafka, change: dict[str, Any], field: str
) -> None:
    response = await client.post("/send", json=GOOD | change)
    answer = await response.json()
    assert (response.status, answer["field"]) == (400, field)
    assert kafka.records == []


async def test_other_than_json_is_refused(client: TestClient[Any, Any]) -> None:
    for body in (b"", b"{", b"\xff", b'"x"', b"[" * 5_000):
        assert (await client.post("/send", data=body)).status == 400
    assert (await client.post("/send", data=b" " * 100_000)).status == 413


async def test_kafka_down_is_503_and_says_nothing_was_sent(client: TestClient[Any, Any], kafka: Kafka) -> None:
    kafka.down = True
    response = await client.post("/send", json=GOOD)
    assert response.status == 503
    assert "nothing was sent" in (await response.json())["error"]


async def test_another_origin_or_name_is_refused(client: TestClient[Any, Any]) -> None:
    for headers in ({"Origin": "https://evil.test"}, {"Origin": "null"}, {"Host": "evil.test"}, {"Host": ""}):
        response = await client.post("/token", json={"user": "ann"}, headers=headers)
        assert response.status in (400, 403), headers
        assert "Access-Control-Allow-Origin" not in response.headers
    own = {"Origin": f"http://127.0.0.1:{client.port}"}
    assert (await client.post("/token", json={"user": "ann"}, headers=own)).status == 200


async def test_every_answer_is_locked_down(client: TestClient[Any, Any]) -> None:
    for path, status in (("/", 200), ("/app.js", 200), ("/nothing", 404), ("/token", 404), ("/..%2fweb.py", 404)):
        response = await client.get(path)
        assert response.status == status, path
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "connect-src 'self' ws://127.0.0.1:9001;" in policy


async def test_config_and_health(client: TestClient[Any, Any]) -> None:
    config = await (await client.get("/config")).json()
    assert config["ws_url"] == "ws://127.0.0.1:9001/ws/connect"
    assert config["users"] == ["alice", "bob", "carol"]
    assert await (await client.get("/health")).json() == {"status": "ok"}


async def test_a_wildcard_gateway_is_named_as_the_page_was(kafka: Kafka) -> None:
    settings = Settings(demo_host="0.0.0.0", gateway_host="0.0.0.0", gateway_port=9001, plaintext_network="trusted")
    async with TestClient(TestServer(web.create_app(settings, SECRET, kafka.publish))) as client:
        config = await (await client.get("/config", headers={"Host": "demo.lan:8080"})).json()
    assert config["ws_url"] == "ws://demo.lan:9001/ws/connect"


async def test_a_taken_port_names_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Producer:
        def __init__(self, **_: Any) -> None: ...
        async def start(self) -> None: ...
        async def stop(self) -> None: ...

    monkeypatch.setattr(web, "AIOKafkaProducer", Producer)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(demo_port=taken.getsockname()[1], data_dir=str(tmp_path))
        make_secrets(settings)
        with pytest.raises(SettingsError, match=f"port 127.0.0.1:{settings.demo_port} is taken.*HERALD_DEMO_PORT"):
            await web.DemoWeb().start(settings)


async def test_a_kafka_that_is_down_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(kafka_port=port, data_dir=str(tmp_path))
    make_secrets(settings)
    with pytest.raises(Unavailable, match=f"Kafka at 127.0.0.1:{port} cannot be reached"):
        await web.DemoWeb().start(settings)


# --- the page's files -------------------------------------------------------------
def test_the_page_knows_the_servers_close_codes() -> None:
    text = (web.PAGE / "client.js").read_text("utf-8")
    table = text.split("FINAL_CLOSES = {")[1].split("};")[0]
    assert {int(code) for code in re.findall(r"^\s*(\d{4}):", table, re.MULTILINE)} == {
        close.code for close in CLOSES if not close.reconnect
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_never_make_markup_of_text(path: Path) -> None:
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser"
    assert re.findall(makers, path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", PAGE_FILES, ids=lambda path: path.name)
def test_the_page_loads_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"""(?:src|href|url\(|import|from)\s*[=(]?\s*["']?(?:https?:)?//\S+""", text) == []
    assert len(text.splitlines()) <= 500


def test_every_element_the_scripts_ask_for_is_in_the_page() -> None:
    page = (web.PAGE / "index.html").read_text("utf-8")
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    asked = {name for path in SCRIPTS for name in re.findall(r'\$\("([^"]+)"\)', path.read_text("utf-8"))}
    assert asked <= ids
    icons = {name for path in SCRIPTS for name in re.findall(r'"(i-[a-z]+)"', path.read_text("utf-8"))}
    assert icons <= ids
