"""The request head: its end, its parts, and the door's decision on it."""

from fuzz.target import Target, same
from gateway import handshake
from gateway._fast import upgrade
from gateway.tokens import Identity
from notification.codes import Refusal, Refusals
from tests.reference import upgrade as twin

GOOD = (
    b"GET /ws/connect?device=d-1&cursor=e30 HTTP/1.1\r\nHost: h:8081\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nOrigin: https://a.example\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: herald.v1, bearer.a.b.c\r\n\r\n"
)


class _Judge:
    def verify(self, token: str) -> Identity | Refusal:
        return Refusals.SUSPENDED if len(token) == 5 else Refusals.UNAUTHENTICATED

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return origin == "https://a.example"


def run(data: bytes) -> None:
    end = upgrade.head_end(data)
    same("head_end", end, twin.head_end(data))
    cut = len(data) // 2
    first = upgrade.head_end(data[:cut])
    same("head_end in two parts", first or upgrade.head_end(data, cut), end)
    head = data[: end - 4] if end > 0 else data
    same("parse", upgrade.parse(head), twin.parse(head))
    request = handshake.parse_head(head)
    if not isinstance(request, Refusal):
        handshake.decide(request, _Judge())


TARGET = Target(
    run,
    seeds=(GOOD, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", GOOD.replace(b"herald.v1, bearer", b"Bearer")),
    words=(
        b"\r\n", b"\r\n\r\n", b"GET ", b"POST ", b" HTTP/1.1", b"Host: ", b"Content-Length: 0",
        b"Connection: Upgrade", b"Transfer-Encoding: chunked", b"Authorization: Bearer a.b.c",
        b"Sec-WebSocket-Protocol: ", b"bearer.", b"/ws/connect", b"?device=", b"&cursor=",
        b"eyJlcG9jaCI6MSwiYXQiOnt9fQ", b"%ff", b"\t", b"\xfc",
    ),
    bytes_max=20_000,
)  # fmt: skip
