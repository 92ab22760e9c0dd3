"""Batches with a right checksum through the router, to sessions that are ready, behind, and not welcomed yet."""

from typing import Any

from fuzz.target import Target, outcome, same
from fuzz.targets import batch as batches
from gateway._fast import router, session
from gateway._fast.registry import Registry
from notification import batch
from notification.errors import BadBatch
from tests.reference import router as twin


class _Socket:
    def __init__(self, at: int, welcomed: bool) -> None:
        self.session = session.Session(0)
        self.session.authenticate("acme", "ann", "d", bytes(16), b"acme:YW5u", 1, 0)
        for lane in range(session.LANE_COUNT):
            self.session.set_at(lane, at)
        self.session.begin_live()
        self.welcomed = welcomed
        self.written = b""

    def flush(self) -> None:
        self.written += self.session.take()


def _route(module: Any, data: bytes, count: int) -> tuple[object, ...]:
    sockets = [_Socket(0, True), _Socket(3, True), _Socket(0, False)]
    registry: Registry[Any] = Registry()
    for socket in sockets:
        registry.add(b"acme:YW5u", socket)
    nudged: list[int] = []
    one = module.Router(registry, lambda socket: nudged.append(sockets.index(socket)), lambda one: one.welcomed)
    routed = one.route(data, batch.OVERHEAD_BYTES, count, 1_000, data[-1:] > b"\x7f")
    one.flush()
    return routed, nudged, [(socket.written, socket.session.at(), socket.session.unacked()) for socket in sockets]


def run(data: bytes) -> None:
    header = outcome(batch.unpack_header, data, raising=(BadBatch,))
    if isinstance(header, tuple):
        same("routed", _route(router, data, header[1]), _route(twin, data, header[1]))


TARGET = Target(run, seeds=batches.TARGET.seeds, words=batches.TARGET.words, repair=batches.repair)
