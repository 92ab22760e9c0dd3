"""Plain-Python twin of gateway/_fast/fanout.pyx: what a session says of itself, a loop over the connections."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gateway._fast.session import LIVE, RESUMING
from notification.codes import LANE_COUNT, ReceiptCode
from notification.limits import WRITE_BUFFER_BYTES_MAX

C = TypeVar("C")


class Crowd(Generic[C]):
    """A dict by identity."""

    def __init__(self) -> None:
        self._connections: dict[int, C] = {}

    def join(self, connection: C) -> None:
        self._connections[id(connection)] = connection

    def leave(self, connection: C) -> bool:
        return self._connections.pop(id(connection), None) is not None

    def connections(self) -> list[C]:
        return list(self._connections.values())

    def __len__(self) -> int:
        return len(self._connections)


class Fanout:
    def __init__(self, nudge: Callable[[Any], None], welcomed: Callable[[Any], bool]) -> None:
        self._nudge, self._welcomed = nudge, welcomed
        self._dirty: list[Any] = []

    def offer(
        self, connections: list[Any], start: int, stop: int, lane: int, seq: int, prev: int, ident: bytes,
        body: bytes, entitled: bytes | None,
    ) -> tuple[int, int]:  # fmt: skip
        if lane not in range(LANE_COUNT) or len(ident) != 16:
            raise ValueError("lane or ident malformed")
        frames = passed = 0
        for connection, may in _takers(connections, start, stop, entitled):
            session = connection.session
            at = session.at()[lane]
            if at >= seq:
                continue
            if not may and session.phase == LIVE and at >= max(prev, 0):
                session.advance(lane, seq)
                passed += 1
                continue
            idle = session.pending() == 0
            if session.offer(lane, seq, prev, ident, body) == ReceiptCode.WRITTEN:
                frames += 1
                self._written(connection, idle)
            else:
                self._nudge(connection)
        return frames, passed

    def send(self, connections: list[Any], start: int, stop: int, frame: bytes, entitled: bytes | None) -> None:
        for connection, may in _takers(connections, start, stop, entitled):
            if may and self._welcomed(connection):
                idle = connection.session.pending() == 0
                connection.session.send(frame, last=True)
                self._written(connection, idle)

    def _written(self, connection: Any, idle: bool) -> None:
        if idle:
            self._dirty.append(connection)
        elif connection.session.pending() > WRITE_BUFFER_BYTES_MAX:
            connection.flush()

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()


def _takers(connections: list[Any], start: int, stop: int, entitled: bytes | None) -> list[tuple[Any, bool]]:
    """Those of the slice that take items, and whether each is entitled."""
    if not 0 <= start <= stop <= len(connections):
        raise ValueError("not a slice of the connections")
    chosen = connections[start:stop]
    bits = "1" * len(chosen) if entitled is None else "".join(f"{byte:08b}" for byte in entitled)
    if len(bits) < len(chosen):
        raise ValueError("fewer bits than connections")
    return [
        (connection, bit == "1")
        for connection, bit in zip(chosen, bits, strict=False)
        if connection.session.phase in (RESUMING, LIVE)
    ]
