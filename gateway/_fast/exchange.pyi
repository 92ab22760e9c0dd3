"""The commands of one Redis connection in the order of the wire, and their replies. Sans-I/O."""

from typing import Any

Drained = tuple[bytes, Any, int, bool]

class Exchange:
    """Commands wait here until their reply has come: across connections, in order, as bytes of one buffer.

    A waiter is any object that should hear the reply. `once`: the command dies with its connection. `slot` is
    carried for whoever routes by it. Bounds of the queue are the caller's (len(), `waiting_bytes`)."""

    def __init__(self) -> None: ...
    def __len__(self) -> int:
        """Commands without a reply."""
    @property
    def waiting_bytes(self) -> int:
        """Of all commands without a reply."""
    @property
    def sent(self) -> int:
        """Commands that take() has handed out and that have no reply yet."""
    def put(
        self,
        command: tuple[str | bytes | int, ...],
        waiter: object | None = None,
        slot: int = -1,
        once: bool = False,
    ) -> None:
        """Queue a command. Raises what resp.pack raises, and then has not queued it."""
    def put_packed(self, packed: bytes, waiter: object | None = None, slot: int = -1, once: bool = False) -> None:
        """Queue one command as resp.pack made it."""
    def take(self, bytes_max: int) -> bytes:
        """The next commands to write: at most `bytes_max` bytes of them, but always one; empty: there are none."""
    def feed(self, data: bytes) -> None:
        """Bytes of the connection; call next() until it returns None, so that no more than one reply is kept."""
    def next(self) -> tuple[Any, Any] | None:
        """The next reply that somebody waits for, or that is an error: (waiter or None, value as of read_reply).

        None: there is none yet. With an error (a resp.Refusal) its command stays the first in line: look at it
        with refused(), drop it with forget(), or keep it and rewind(). Raises resp.ProtocolError, after which only
        rewind() and clear() help; ValueError when an error was not dealt with."""
    def refused(self) -> tuple[bytes, int, bool]:
        """The command of the error that next() has returned: (packed, slot, once). ValueError: there is none."""
    def forget(self) -> None:
        """Drop that command. ValueError: there is none."""
    def rewind(self) -> list[Any]:
        """The connection is lost: all but the `once` commands are to be sent again; the waiters of those."""
    def drain(self) -> list[Drained]:
        """Empty it: each command without a reply as (packed, waiter, slot, once), in order."""
    def clear(self) -> None:
        """Drop everything."""
