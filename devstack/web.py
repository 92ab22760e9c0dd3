"""The demo page on :8080: static files, a real HS256 token issuer for tenant `demo`, and a Kafka producer.

The producer stands for an upstream service: it writes the same events to the same topics. Whoever reaches this
server may be any user of tenant `demo`, so it answers loopback names only (unless it listens elsewhere on
purpose) and refuses requests that another origin's page sends.
"""

import asyncio
import errno
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import jwt
import msgspec
import structlog
from aiohttp import web
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from devstack.secrets import DEMO_TENANT
from devstack.tenants import AUDIENCE
from notification.errors import InvalidInput, SettingsError, Unavailable
from notification.frames import CONNECT_PATH, Action, Payload
from notification.ids import check_token, check_user, new_uuid7
from notification.limits import (
    ACTIONS_COUNT_MAX,
    EVENT_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TITLE_CHARS_MAX,
    TTL_S_MAX,
    TTL_S_MIN,
)
from notification.names import TOPIC_PREFIX, record_key
from notification.settings import Settings

ISSUER: Final = f"herald:{DEMO_TENANT}"
SECRET_FILE: Final = f"issuer_{DEMO_TENANT}.key"
USERS: Final = ("alice", "bob", "carol")
TOKEN_TTL_S: Final = 900
PUBLISH_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 2.0
LABEL_CHARS_MAX: Final = 40  # an action's label: what a button shows on a phone
PAGE: Final = Path(__file__).parent / "page"
CONTENT_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound

Publish = Callable[[str, bytes, bytes], Awaitable[None]]
"""(topic, key, value) to Kafka; returns once Kafka acknowledged. Raises Unavailable."""
_Body = TypeVar("_Body")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("devstack.web")


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /token."""

    user: str
    device: str | None = None


class SendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /send. `ttl` in seconds; left out, the platform's default holds."""

    user: str
    type: Literal["system_alert", "service", "promotional"]
    priority: Literal["high", "medium", "low"]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_CHARS_MAX)]
    body: Annotated[str, msgspec.Meta(min_length=1)]
    image: str | None = None
    actions: Annotated[list[Action], msgspec.Meta(max_length=ACTIONS_COUNT_MAX)] | None = None
    ttl: Annotated[int, msgspec.Meta(ge=TTL_S_MIN, le=TTL_S_MAX)] | None = None


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of docs/events.md, as any upstream service writes it."""

    id: str
    tenant_id: str
    user_id: str
    type: str
    payload: Payload
    ttl: int | None = None


class DemoWeb:
    """The demo server in this event loop: start() once, stop() once."""

    def __init__(self) -> None:
        self._producer: AIOKafkaProducer | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, settings: Settings) -> None:
        """Connect to Kafka, then listen. Raises SettingsError (port taken, secret missing), Unavailable (Kafka)."""
        secret = settings.secret(SECRET_FILE)
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_servers, acks="all", linger_ms=0)
        try:
            await self._producer.start()
            self._runner = web.AppRunner(
                create_app(settings, secret, self._publish), access_log=None, shutdown_timeout=STOP_TIMEOUT_S
            )
            await self._runner.setup()
            await web.TCPSite(self._runner, settings.demo_host, settings.demo_port).start()
        except KafkaError as error:
            await self.stop()
            raise Unavailable(f"Kafka at {settings.kafka_servers} cannot be reached: {error}") from error
        except OSError as error:
            await self.stop()
            raise _listen_error(settings, error) from error

    async def stop(self) -> None:
        """Stop listening, flush the producer. Does nothing when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _publish(self, topic: str, key: bytes, value: bytes) -> None:
        assert self._producer is not None
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._producer.send_and_wait(topic, value, key=key)
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka did not accept the event: {type(error).__name__}") from error


def create_app(settings: Settings, secret: bytes, publish: Publish) -> web.Application:
    """The routes, over any `publish`. `secret`: the HMAC key of tenant demo's issuer."""
    pages = {path.name: path for path in PAGE.iterdir() if path.suffix in CONTENT_TYPES}

    async def page(request: web.Request) -> web.StreamResponse:
        path = pages.get(request.match_info.get("name", "index.html"))
        if path is None:
            return _problem(404, "there is no such page")
        body = await asyncio.to_thread(path.read_bytes)
        return web.Response(body=body, content_type=CONTENT_TYPES[path.suffix], charset="utf-8")

    async def config(request: web.Request) -> web.StreamResponse:
        return web.json_response({"ws_url": _ws_url(settings, request), "users": USERS, "tenant": DEMO_TENANT})

    async def token(request: web.Request) -> web.StreamResponse:
        asked = _decode(await request.read(), TokenRequest)
        check_user(asked.user, "user")
        if asked.device is not None:
            check_token(asked.device, "device")
        return web.json_response({"token": _mint(secret, asked), "expires_in": TOKEN_TTL_S})

    async def send(request: web.Request) -> web.StreamResponse:
        asked = _decode(await request.read(), SendRequest)
        event = _event(asked)
        key = record_key(DEMO_TENANT, asked.user)
        await publish(TOPIC_PREFIX + asked.priority, key, msgspec.json.encode(event))
        return web.json_response({"id": event.id}, status=202)

    async def health(_: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    app = web.Application(middlewares=[_guard(settings)], client_max_size=2 * EVENT_BYTES_MAX)
    app.router.add_get("/", page)
    app.router.add_get("/config", config)
    app.router.add_get("/health", health)
    app.router.add_post("/token", token)
    app.router.add_post("/send", send)
    app.router.add_get("/{name}", page)
    return app


def _guard(settings: Settings) -> Any:
    """Middleware: own origin only, fixed security headers, and every error as JSON."""

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = _refuse_stranger(settings, request)
        response = await _answer(request, handler) if refusal is None else refusal
        response.headers.update(
            {
                "Cache-Control": "no-store",
                "Content-Security-Policy": _content_policy(settings, request),
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
            }
        )
        return response

    return guard


async def _answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The handler's answer, or what it raised as JSON."""
    try:
        return await handler(request)
    except InvalidInput as error:
        return _problem(400, str(error), field=error.field, rule=error.rule)
    except Unavailable as error:
        _log.warning("send refused", reason=str(error))
        return _problem(503, f"{error}; nothing was sent, try again")
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _problem(error.status, error.reason.lower(), headers=headers)


def _problem(status: int, error: str, headers: dict[str, str] | None = None, **more: str) -> web.Response:
    return web.json_response({"error": error, **more}, status=status, headers=headers)


def _refuse_stranger(settings: Settings, request: web.Request) -> web.Response | None:
    """Another site's page (Origin), or a name made to point here (Host; DNS rebinding)."""
    host = _host_name(request)
    if settings.demo_host not in _WILDCARDS and host not in (*_LOOPBACK, settings.demo_host):
        return _problem(403, "this server answers to its own name only")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers.get('Host', '')}":
        return _problem(403, "only the demo page itself may ask")
    return None


def _host_name(request: web.Request) -> str:
    host = request.headers.get("Host", "")
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _ws_origin(settings: Settings, request: web.Request) -> str:
    """Where a browser that reached this page reaches the gateway."""
    host = settings.gateway_host
    if host in _WILDCARDS:
        host = _host_name(request)
    elif ":" in host:
        host = f"[{host}]"
    return f"{settings.gateway_scheme}://{host}:{settings.gateway_port}"


def _ws_url(settings: Settings, request: web.Request) -> str:
    return _ws_origin(settings, request) + CONNECT_PATH


def _content_policy(settings: Settings, request: web.Request) -> str:
    """Scripts, styles and requests: ours alone. Images: https, as notifications carry them."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' https:",
            f"connect-src 'self' {_ws_origin(settings, request)}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _decode(body: bytes, kind: type[_Body]) -> _Body:
    """Strict JSON to a request. Raises InvalidInput naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _input_error(str(error)) from error


def _input_error(text: str) -> InvalidInput:
    """msgspec says "Expected `str`, got `int` - at `$.title`" or "... unknown field `x`": find the field."""
    rule, _, path = text.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if "field `" in rule:
        inner = rule.split("`")[1]
        told = "is required" if "missing" in rule else "is not a field of this request"
        return InvalidInput(f"{field}.{inner}".lstrip("."), told)
    if not field:
        return InvalidInput("request", "must be one JSON object")
    return InvalidInput(field, rule[0].lower() + rule[1:].replace("`", ""))


def _event(asked: SendRequest) -> _Event:
    """The event of a valid request. Raises InvalidInput naming the field."""
    check_user(asked.user, "user")
    if asked.image is not None:
        _check_https(asked.image, "image")
    for index, action in enumerate(asked.actions or ()):
        check_token(action.id, f"actions[{index}].id")
        if not 1 <= len(action.label) <= LABEL_CHARS_MAX:
            raise InvalidInput(f"actions[{index}].label", f"must be 1 to {LABEL_CHARS_MAX} characters")
        if action.url is not None:
            _check_https(action.url, f"actions[{index}].url")
    payload = Payload(title=asked.title, body=asked.body, image=asked.image, actions=asked.actions or None)
    size = len(msgspec.json.encode(payload))
    if size > PAYLOAD_BYTES_MAX:
        raise InvalidInput("body", f"makes the payload {size} bytes; at most {PAYLOAD_BYTES_MAX} fit")
    return _Event(str(new_uuid7()), DEMO_TENANT, asked.user, asked.type, payload, asked.ttl)


def _check_https(url: str, field: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and url.isascii() and url.isprintable()
    except ValueError:
        good = False
    if not good or " " in url:
        raise InvalidInput(field, "must be an https:// URL")


def _mint(secret: bytes, asked: TokenRequest) -> str:
    now_s = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": asked.user,
        "tid": DEMO_TENANT,
        "jti": secrets.token_urlsafe(16),
        "iat": now_s,
        "exp": now_s + TOKEN_TTL_S,
    }
    if asked.device is not None:
        claims["did"] = asked.device
    return jwt.encode(claims, secret, algorithm="HS256")


def _listen_error(settings: Settings, error: OSError) -> SettingsError:
    where = f"{settings.demo_host}:{settings.demo_port}"
    if error.errno == errno.EADDRINUSE:
        return SettingsError(f"port {where} is taken; set HERALD_DEMO_PORT (demo_port in herald.toml)")
    return SettingsError(f"cannot listen on {where}: {error.strerror}; see HERALD_DEMO_HOST and HERALD_DEMO_PORT")
