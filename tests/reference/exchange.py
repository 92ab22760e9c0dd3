"""Plain-Python twin of gateway/_fast/exchange.pyx: a list of commands; never used in production."""

from typing import Any

from tests.reference import resp


class Exchange:
    def __init__(self) -> None:
        self._commands: list[tuple[bytes, Any, int, bool]] = []
        self._in = b""
        self._refused = False
        self.sent = 0

    def __len__(self) -> int:
        return len(self._commands)

    @property
    def waiting_bytes(self) -> int:
        return sum(len(command[0]) for command in self._commands)

    def put(
        self, command: tuple[resp.Argument, ...], waiter: Any = None, slot: int = -1, once: bool = False
    ) -> None:
        self.put_packed(resp.pack(command), waiter, slot, once)

    def put_packed(self, packed: bytes, waiter: Any = None, slot: int = -1, once: bool = False) -> None:
        self._commands.append((packed, waiter, slot, once))

    def take(self, bytes_max: int) -> bytes:
        taken = b""
        for packed, *_ in self._commands[self.sent :]:
            if taken and len(taken) + len(packed) > bytes_max:
                break
            taken += packed
            self.sent += 1
        return taken

    def feed(self, data: bytes) -> None:
        self._in += data

    def next(self) -> tuple[Any, Any] | None:
        if self._refused:
            raise ValueError("forget() the refused command first, or rewind()")
        while self._in:
            found = resp.read_reply(self._in)
            if found is None:
                return None
            if isinstance(found, str):
                raise resp.ProtocolError(found)
            value, count = found
            mark, self._in = self._in[:1], self._in[count:]
            if mark == b">":
                continue
            if not self.sent:
                raise resp.ProtocolError("a reply to no command")
            waiter = self._commands[0][1]
            if mark in b"-!":
                self._refused = True
                return waiter, value
            del self._commands[0]
            self.sent -= 1
            if waiter is not None:
                return waiter, value
        return None

    def refused(self) -> tuple[bytes, int, bool]:
        if not self._refused:
            raise ValueError("no command was refused")
        packed, _, slot, once = self._commands[0]
        return packed, slot, once

    def forget(self) -> None:
        self.refused()
        del self._commands[0]
        self.sent -= 1
        self._refused = False

    def rewind(self) -> list[Any]:
        lost = [waiter for _, waiter, _, once in self._commands if once and waiter is not None]
        kept = [command for command in self._commands if not command[3]]
        self.clear()
        self._commands = kept
        return lost

    def drain(self) -> list[tuple[bytes, Any, int, bool]]:
        drained = self._commands
        self.clear()
        return drained

    def clear(self) -> None:
        self._commands, self._in, self._refused, self.sent = [], b"", False, 0
