"""Frames, the upgrade request, and a batch's way to the sessions and its acks' way back, beside their twins.

`websockets` is the field's sans-I/O core, as far as it does the same: it knows no lanes, no window and no acks.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from bench.micro.part import Part, timed
from gateway._fast import acks, framing, registry, router, session, upgrade
from notification import batch
from notification.codes import LANE_COUNT, Lane
from notification.limits import DISPATCH_BATCH_ITEMS_MAX, FRAME_BYTES_MAX
from tests.reference import acks as acks_twin
from tests.reference import framing as framing_twin
from tests.reference import router as router_twin
from tests.reference import session as session_twin
from tests.reference import upgrade as upgrade_twin

PAYLOAD_BYTES: Final = 100
BODY: Final = b'{"title":"T","body":"' + b"x" * 480 + b'"}'
REQUEST: Final = (
    b"GET /ws/connect?device=phone HTTP/1.1\r\nHost: push.example.com\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nOrigin: https://app.example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: herald.v1\r\n\r\n"
)


def _frames(count: int) -> Part:
    """A client's masked text frame of PAYLOAD_BYTES, read."""
    one = Frame(Opcode.TEXT, b"x" * PAYLOAD_BYTES).serialize(mask=True)

    def reader(module: Any) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                assert module.read_frame(one, FRAME_BYTES_MAX)[0] == Opcode.TEXT

        return work

    def sans_io() -> Callable[[], None]:
        protocol = _upgraded()

        def work() -> None:
            for _ in range(count):
                protocol.receive_data(one)
                assert len(protocol.events_received()) == 1

        return work

    return Part("frame read", {
        "websockets": timed(sans_io, count),
        "twin": timed(lambda: reader(framing_twin), count),
        "framing": timed(lambda: reader(framing), count),
    })  # fmt: skip


def _upgraded() -> ServerProtocol:
    protocol = ServerProtocol()
    protocol.receive_data(REQUEST)
    (request,) = protocol.events_received()
    protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    protocol.data_to_send()
    return protocol


def _requests(count: int) -> Part:
    """A browser's upgrade request, read, and its 101."""

    def answers(module: Any) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                end = module.head_end(REQUEST)
                headers = module.parse(REQUEST[: end - 4])[3]
                module.switching(headers["sec-websocket-key"][0], "herald.v1")

        return work

    def sans_io() -> None:
        for _ in range(count):
            _upgraded()

    return Part("upgrade", {
        "websockets": timed(lambda: sans_io, count),
        "twin": timed(lambda: answers(upgrade_twin), count),
        "upgrade": timed(lambda: answers(upgrade), count),
    })  # fmt: skip


class _Socket:
    """A connection without a socket; what was queued counts as written."""

    def __init__(self, made: Any) -> None:
        self.session = made

    def flush(self) -> None:
        self.session.take()


def _tag(number: int) -> bytes:
    return b"demo:%06d" % number


def _ident(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _round_trip(count: int) -> Part:
    """A notification from its packed batch to the frame, and its ack from the text to the receipt."""
    size = min(count, DISPATCH_BATCH_ITEMS_MAX)
    packed = batch.pack([
        batch.Item(
            kind=batch.NOTIFICATION, lane=Lane.DIRECT_MEDIUM, attempt=1, seq=1, prev=0, expiry_ms=1 << 42,
            id=_ident(number), tag=_tag(number), body=BODY,
        ) for number in range(size)
    ], 0)  # fmt: skip
    texts = [
        json.dumps({"t": "ack", "ids": [str(uuid.UUID(bytes=_ident(number)))]}, separators=(",", ":")).encode()
        for number in range(size)
    ]
    turns = max(count // size, 1)

    def prepare(sessions: Any, routes: Any, ack_readers: Any) -> Callable[[], None]:
        places = []
        for _ in range(turns):
            here: registry.Registry[Any] = registry.Registry()
            sockets = []
            for number in range(size):
                made = sessions.Session(0)
                made.authenticate("demo", "user", "phone", bytes(16), _tag(number), 1, 0)
                for lane in range(LANE_COUNT):
                    made.set_at(lane, 0)
                made.begin_live()
                sockets.append(_Socket(made))
                here.add(_tag(number), sockets[-1])
            places.append((routes.Router(here, lambda _: None, lambda _: True), ack_readers.Acks(), sockets))

        def work() -> None:
            for route, reader, sockets in places:
                _, written, _ = route.route(packed, batch.OVERHEAD_BYTES, size, 1_000, False)
                for socket, text in zip(sockets, texts, strict=True):
                    reader.ack(socket.session, text, 1_000)
                assert written == size == len(reader)
                reader.take()

        return work

    return Part("notification and ack", {
        "twin": timed(lambda: prepare(session_twin, router_twin, acks_twin), turns * size),
        "session": timed(lambda: prepare(session, router, acks), turns * size),
    })  # fmt: skip


def parts(count: int) -> list[Part]:
    """Each piece, `count` operations a turn."""
    return [_frames(count), _requests(count), _round_trip(count)]
