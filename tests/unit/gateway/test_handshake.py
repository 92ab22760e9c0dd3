"""The upgrade request, judged without any I/O; over sockets: tests/flow/test_gateway_door.py."""

from hypothesis import given
from hypothesis import strategies as st

from gateway import handshake
from gateway.handshake import Accepted, Request
from gateway.tokens import Identity
from notification.codes import Refusal, Refusals
from notification.frames import Cursor, cursor_to_text
from notification.limits import HEADER_BYTES_MAX, HEADERS_COUNT_MAX

GOOD = (
    b"GET /ws/connect HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
ANN = Identity("acme", "ann", None, 0.0, "1", None, "iss")


class Judge:
    """Knows one token and one origin."""

    def verify(self, token: str) -> Identity | Refusal:
        known: dict[str, Identity | Refusal] = {"good": ANN, "new": Refusals.TENANT_UNKNOWN_YET}
        return known.get(token, Refusals.UNAUTHENTICATED)

    def origin_allowed(self, tenant: str, origin: str) -> bool:
        return (tenant, origin) == ("acme", "https://a.example")


def decide(head: bytes) -> Accepted | Refusal:
    request = handshake.parse_head(head)
    return request if isinstance(request, Refusal) else handshake.decide(request, Judge())


def test_parse_head() -> None:
    request = handshake.parse_head(b"GET /a?b=c?d HTTP/1.1\r\nHost:  h \r\nX: 1\r\nx:\t2")
    assert request == Request("GET", "/a", "b=c?d", {"host": ["h"], "x": ["1", "2"]})


def test_bounds() -> None:
    lines = b"\r\nHost: h" + b"".join(b"\r\nX%d: 1" % number for number in range(HEADERS_COUNT_MAX - 1))
    assert isinstance(handshake.parse_head(b"GET / HTTP/1.1" + lines), Request)
    assert handshake.parse_head(b"GET / HTTP/1.1" + lines + b"\r\nY: 1") is Refusals.HEADERS_TOO_LARGE
    assert handshake.parse_head(b"G" * (HEADER_BYTES_MAX + 1)) is Refusals.HEADERS_TOO_LARGE


def test_without_a_token_an_auth_frame_must_follow() -> None:
    outcome = decide(GOOD + b"\r\nOrigin: https://evil.example")
    assert isinstance(outcome, Accepted)
    assert (outcome.identity, outcome.refusal, outcome.subprotocol) == (None, None, False)
    assert outcome.origin == "https://evil.example"  # judged with the auth frame


def test_the_token_in_the_header() -> None:
    outcome = decide(GOOD + b"\r\nAuthorization: bearer good\r\nSec-WebSocket-Protocol: herald.v1")
    assert isinstance(outcome, Accepted)
    assert (outcome.identity, outcome.subprotocol) == (ANN, True)


def test_the_token_in_the_subprotocol() -> None:
    outcome = decide(GOOD + b"\r\nSec-WebSocket-Protocol: herald.v1,bearer.good\r\nOrigin: https://a.example")
    assert isinstance(outcome, Accepted)
    assert outcome.identity == ANN
    outcome = decide(GOOD + b"\r\nSec-WebSocket-Protocol: bearer.bad\r\nSec-WebSocket-Protocol: herald.v1")
    assert isinstance(outcome, Accepted)
    assert (outcome.identity, outcome.refusal) == (None, Refusals.UNAUTHENTICATED)


def test_two_tokens_are_ambiguous() -> None:
    both = GOOD + b"\r\nAuthorization: Bearer good\r\nSec-WebSocket-Protocol: herald.v1, bearer.good"
    assert decide(both) is Refusals.MALFORMED
    assert decide(GOOD + b"\r\nAuthorization: Bearer good" * 2) is Refusals.MALFORMED


def test_origin_is_exact() -> None:
    good = GOOD + b"\r\nAuthorization: Bearer good"
    assert isinstance(decide(good + b"\r\nOrigin: https://a.example"), Accepted)
    for origin in (b"https://a.example.evil", b"http://a.example", b"null", b"", b"https://A.example"):
        assert decide(good + b"\r\nOrigin: " + origin) is Refusals.FORBIDDEN_ORIGIN
    assert decide(good + b"\r\nOrigin: https://a.example" * 2) is Refusals.MALFORMED


def test_device_and_cursor_of_the_query() -> None:
    cursor = Cursor(3, {"direct.low": 9})
    query = f"?device=d-1&cursor={cursor_to_text(cursor)}&utm=x".encode()
    outcome = decide(GOOD.replace(b"/ws/connect", b"/ws/connect" + query))
    assert isinstance(outcome, Accepted)
    assert (outcome.device, outcome.cursor) == ("d-1", cursor)


def test_an_issuer_nobody_knows() -> None:
    header = decide(GOOD + b"\r\nAuthorization: Bearer new")
    browser = decide(GOOD + b"\r\nSec-WebSocket-Protocol: herald.v1, bearer.new")
    for outcome in (header, browser):
        assert handshake.unknown_yet(outcome)
        assert not handshake.unknown_yet(handshake.settle(outcome))
    assert handshake.settle(header) is Refusals.UNAUTHENTICATED
    settled = handshake.settle(browser)
    assert isinstance(settled, Accepted)
    assert settled.refusal is Refusals.UNAUTHENTICATED


@given(st.binary(max_size=400))
def test_no_bytes_raise(head: bytes) -> None:
    decide(head)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 5))
def test_no_change_of_a_good_request_raises(at: int, put: bytes, cut: int) -> None:
    decide(GOOD[:at] + put + GOOD[at + cut :])
