"""The door, whichever carrier: a pre-bound socket, a request, then a fixed answer or a WebSocket connection.

A carrier's listener reads request heads and has them judged here: routes of our own, the decision of handshake.py,
what the edge snapshot does not know yet, the table of refusals.
"""

import asyncio
import resource
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol

import msgspec
import structlog

from gateway import handshake
from gateway._fast import upgrade
from gateway._fast.carrier import Policy
from gateway.caps import Caps
from gateway.edge import Edge
from gateway.handshake import Accepted, Request
from gateway.tokens import Asked, Identity
from notification import telemetry
from notification.codes import REFUSALS, Refusal, Refusals
from notification.errors import SettingsError
from notification.limits import DESCRIPTORS_RESERVED, DOORS_HELD_MAX, WRITE_BUFFER_BYTES_MAX

_log = structlog.get_logger("listener")


def bind(host: str, port: int) -> socket.socket:
    """A socket that shares its port with the other processes (SO_REUSEPORT). Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit it: what the network does not take waits in the session, where HIGH overtakes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WRITE_BUFFER_BYTES_MAX)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise SettingsError(f"gateway cannot listen on {host}:{port}: {error.strerror}; {_HINT}") from error
    sock.setblocking(False)
    return sock


def check_free(host: str, port: int) -> None:
    """Is the port ours alone? SO_REUSEPORT would quietly share it with a gateway that runs already.
    Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise SettingsError(f"gateway cannot listen on {host}:{port}: {error.strerror}; {_HINT}") from error


_HINT: Final = "set HERALD_GATEWAY_PORT (gateway_port in herald.toml) to a free port"


def raise_descriptor_limit() -> None:
    """Use every descriptor the system grants this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def response(status: int, content_type: str, body: bytes, *headers: tuple[str, str]) -> bytes:
    """An HTTP response after which the server ends the connection."""
    return upgrade.answer(status, HTTPStatus(status).phrase, content_type, body, headers)


_RESPONSES: Final = {
    refusal: response(refusal.status, "application/json", refusal.body, *refusal.headers) for refusal in REFUSALS
}

# A path of our own: from the client's address to (status, content type, body).
Route = Callable[[str], Awaitable[tuple[int, str, bytes]]]


class Door(Protocol):
    """One accepted socket until its request is judged. A door that is gone or was answered takes nothing: False."""

    def peer(self) -> str:
        """The client's address as far as it is known: of the PROXY header, or the socket's; "" if it is gone."""

    def claim(self, address: str) -> bool:
        """The client is another than peer(): count it there. False: that address holds too many sockets."""

    def answer(self, data: bytes) -> bool:
        """Send a response, then end the socket."""

    def upgrade(self, accepted: Accepted) -> bool:
        """Answer 101 and make a connection of it."""


class Listener(ABC):
    """What the listeners of both carriers do alike. `held` doors wait for an edge snapshot or an AuthService."""

    def __init__(self, policy: Policy, edge: Edge, routes: dict[str, Route], caps: Caps, proxied: bool) -> None:
        self.policy = policy
        self.edge = edge
        self.caps = caps
        self.proxied = proxied  # every connection begins with a PROXY header
        self.routes = routes
        self.draining = False
        self.held = 0
        self.sockets_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_RESERVED
        self._tasks: set[asyncio.Task[None]] = set()

    def limit_sockets(self, count: int) -> None:
        """Refuse what is accepted above `count` sockets as overload."""
        self.sockets_max = count

    @abstractmethod
    async def start(self, sock: socket.socket) -> None:
        """Listen on a bound socket."""

    @abstractmethod
    async def close(self) -> None:
        """Accept nothing more. Open connections stay."""

    @abstractmethod
    async def end(self) -> None:
        """After close(): drop what is open still."""

    @abstractmethod
    def doors(self) -> int:
        """Accepted sockets that are no connection."""

    def judge(self, door: Door, request: Request | Refusal) -> None:
        """A request was read, or cannot be: answer it, now or once it is known what to say."""
        if isinstance(request, Refusal):
            self.refuse(door, request)
            return
        if not self._known_client(door, request):
            self.refuse(door, Refusals.TOO_MANY)
            return
        route = self.routes.get(request.path)
        if route is not None:
            task = asyncio.get_running_loop().create_task(self._serve(door, request, route))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        outcome = handshake.decide(request, self.edge.of(door.peer()))
        if self.draining and not isinstance(outcome, Refusal):
            outcome = Refusals.DRAINING
        if isinstance(outcome, Asked):
            self._await(door, request, outcome)
        elif handshake.unknown_yet(outcome) and self.edge.known:
            self._hold(door, request, outcome)
        else:
            self._finish(door, self._capped(request, outcome))

    def _known_client(self, door: Door, request: Request) -> bool:
        """Believe X-Forwarded-For as far as it came from trusted proxies. False: that client has its share."""
        forwarded = request.headers.get("x-forwarded-for")
        if forwarded is None or not self.caps.trusting:
            return True
        peer = door.peer()
        client = self.caps.client(peer, forwarded)
        return client == peer or door.claim(client)

    def _capped(self, request: Request, outcome: Accepted | Refusal) -> Accepted | Refusal:
        """A tenant that has its share is refused; how, depends on where the token came (handshake.py)."""
        if isinstance(outcome, Refusal) or outcome.identity is None or not self.caps.full(outcome.identity.tenant):
            return outcome
        if "authorization" in request.headers:
            return Refusals.TOO_MANY
        return msgspec.structs.replace(outcome, identity=None, refusal=Refusals.TOO_MANY)

    def refuse(self, door: Door, refusal: Refusal) -> None:
        """Answer with a fixed body and close."""
        if door.answer(_RESPONSES[refusal]):
            telemetry.REFUSALS.labels(refusal.code).inc()

    def _hold(self, door: Door, request: Request, outcome: Accepted | Refusal) -> None:
        """An issuer we do not know: ask for a newer snapshot before we say no."""
        if self.held >= DOORS_HELD_MAX:
            self._finish(door, handshake.settle(outcome))
            return
        self.held += 1

        def refreshed(answered: "asyncio.Future[bool]") -> None:
            self.held -= 1
            again = handshake.decide(request, self.edge.of(door.peer()))
            if isinstance(again, Asked):
                self._await(door, request, again)
                return
            known = handshake.unknown_yet(again) and answered.result()
            self._finish(door, handshake.settle(again) if known else self._capped(request, again))

        self.edge.refresh().add_done_callback(refreshed)

    def _await(self, door: Door, request: Request, asked: Asked) -> None:
        """The AuthService was asked about the token: the request is decided with its answer."""
        if self.held >= DOORS_HELD_MAX:
            self._answered(door, request, Refusals.AUTH_UNAVAILABLE)
            return
        self.held += 1

        def told(answer: Identity | Refusal) -> None:
            self.held -= 1
            self._answered(door, request, answer)

        asked.then(told)

    def _answered(self, door: Door, request: Request, answer: Identity | Refusal) -> None:
        outcome = handshake.decide(request, self.edge.with_answer(answer))
        assert not isinstance(outcome, Asked)
        if self.draining and not isinstance(outcome, Refusal):
            outcome = Refusals.DRAINING
        self._finish(door, self._capped(request, outcome))

    def _finish(self, door: Door, outcome: Accepted | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self.refuse(door, outcome)
        else:
            door.upgrade(outcome)

    async def _serve(self, door: Door, request: Request, route: Route) -> None:
        client = self.caps.client(door.peer(), request.headers.get("x-forwarded-for", []))
        status, content_type, body = await route(client)
        door.answer(response(status, content_type, body, ("Cache-Control", "no-store")))
