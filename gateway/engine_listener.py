"""The engine's door: requests come by handle from C, and are answered by it."""

import asyncio
import socket

from gateway import handshake
from gateway._fast import upgrade
from gateway._fast.engine import Engine
from gateway._fast.upgrade import Parsed
from gateway.handshake import Accepted
from gateway.listener import Listener
from notification import telemetry
from notification.codes import Refusals
from notification.frames import SUBPROTOCOL
from notification.limits import AUTH_DEADLINE_MS, LISTEN_BACKLOG


class EngineListener(Listener):
    """Accepts for one process through the engine."""

    engine: Engine

    async def start(self, sock: socket.socket) -> None:
        sock.listen(LISTEN_BACKLOG)
        self.engine = Engine(
            asyncio.get_running_loop(), self.policy, self, self.sockets_max, AUTH_DEADLINE_MS, self.caps.peers,
            self.proxied,
        )  # fmt: skip
        self.engine.listen(sock)

    def limit_sockets(self, count: int) -> None:
        super().limit_sockets(count)
        self.engine.sockets_max = count

    def doors(self) -> int:
        return self.engine.doors()

    async def close(self) -> None:
        self.engine.stop_listening()

    async def end(self) -> None:
        self.engine.close()

    # --- the engine's calls -------------------------------------------------
    def request(self, handle: int, outcome: Parsed | int) -> None:
        """A whole head, or the status it is refused with."""
        self.judge(_Door(self.engine, handle), handshake.to_request(outcome))

    def overloaded(self, handle: int) -> None:
        """Accepted above `sockets_max`: a plain 503, before anything is parsed."""
        self.refuse(_Door(self.engine, handle), Refusals.OVERLOADED)

    def flooding(self) -> None:
        """Dropped unanswered."""
        telemetry.REFUSALS.labels(Refusals.TOO_MANY.code).inc()


class _Door:
    """A handle with its engine: exists only while a request is judged."""

    __slots__ = ("_engine", "_handle")

    def __init__(self, engine: Engine, handle: int) -> None:
        self._engine = engine
        self._handle = handle

    def peer(self) -> str:
        return self._engine.peer(self._handle)

    def claim(self, address: str) -> bool:
        return self._engine.claim(self._handle, address)

    def answer(self, data: bytes) -> bool:
        return self._engine.answer(self._handle, data)

    def upgrade(self, accepted: Accepted) -> bool:
        chosen = SUBPROTOCOL if accepted.subprotocol else None
        return self._engine.upgrade(self._handle, upgrade.switching(accepted.key, chosen), accepted)
