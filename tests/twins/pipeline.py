"""The memory twin of gateway.pipeline.RedisPipeline: a Store in place of the server, the commands Herald uses."""

import asyncio
import re
import time
from collections import deque
from typing import Any

from gateway import presence
from gateway.pipeline import Argument, PipelineError, Told
from notification.errors import Unavailable
from notification.limits import PIPELINE_COMMANDS_MAX


def _bytes(value: Argument) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _epoch(wanted: int, entry: bytes, held: bytes, why: str) -> int:
    """Which epoch PUT gives; 0: it does not write."""
    match = re.match(rb"(\S+) (\d{1,15}) (\S+) ", held)
    if match is None or int(match[2]) < wanted:
        return wanted
    ours, at = match[1] == entry.split(b" ")[0], int(match[2])
    if why != presence.CONNECT and ours and at == wanted:
        return wanted
    if why == presence.CONNECT or (why == presence.KEEP and (ours or at == wanted or match[3] != b"ONLINE")):
        return at + 1
    return 0


class Store:
    """What a Redis server is to its clients. `up = False` takes it away; flush() loses everything."""

    def __init__(self) -> None:
        self.up = True
        self.strings: dict[bytes, tuple[bytes, float]] = {}  # value, monotonic expiry
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.streams: dict[bytes, list[dict[bytes, bytes]]] = {}

    def flush(self) -> None:
        for part in (self.strings, self.hashes, self.streams):
            part.clear()

    def run(self, command: tuple[Argument, ...]) -> Any:
        """Execute one command. Raises PipelineError for what Redis would refuse."""
        name = str(command[0]).lower()
        arguments = [_bytes(argument) for argument in command[1:]]
        method = getattr(self, f"_{name}", None)
        if method is None:
            raise PipelineError(f"ERR unknown command '{command[0]}'")
        return method(*arguments)

    def _ping(self) -> bytes:
        return b"PONG"

    def _get(self, key: bytes) -> bytes | None:
        value, expiry = self.strings.get(key, (None, 0.0))
        return value if value is not None and expiry > time.monotonic() else None

    def _pttl(self, key: bytes) -> int:
        return int((self.strings[key][1] - time.monotonic()) * 1_000) if self._get(key) is not None else -2

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        held = self._get(key)
        expiry = float("inf")
        if b"PX" in options:
            expiry = time.monotonic() + int(options[options.index(b"PX") + 1]) / 1_000
        if b"NX" not in options or held is None:
            self.strings[key] = (value, expiry)
        return held if b"GET" in options else b"OK"

    def _del(self, *keys: bytes) -> int:
        return sum(part.pop(key, None) is not None for key in keys for part in (self.strings, self.hashes))

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self.hashes.get(key, {}).get(field)

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [part for field in self.hashes.get(key, {}).items() for part in field]

    def _hlen(self, key: bytes) -> int:
        return len(self.hashes.get(key, ()))

    def _hset(self, key: bytes, field: bytes, value: bytes) -> int:
        fields = self.hashes.setdefault(key, {})
        new = field not in fields
        fields[field] = value
        return int(new)

    def _hdel(self, key: bytes, field: bytes) -> int:
        fields = self.hashes.get(key, {})
        found = fields.pop(field, None) is not None
        if not fields:
            self.hashes.pop(key, None)
        return int(found)

    def _xadd(self, key: bytes, *arguments: bytes) -> bytes:
        star = arguments.index(b"*")
        if (len(arguments) - star) % 2 == 0:
            raise PipelineError("ERR wrong number of arguments for 'xadd' command")
        fields = arguments[star + 1 :]
        entries = self.streams.setdefault(key, [])
        entries.append(dict(zip(fields[::2], fields[1::2], strict=True)))
        return f"{len(entries)}-0".encode()

    def _xlen(self, key: bytes) -> int:
        return len(self.streams.get(key, ()))

    def _eval(self, script: bytes, count: bytes, key: bytes, *arguments: bytes) -> int | bytes:
        """The scripts of gateway.presence, in Python; the contract test holds both to the same answers."""
        assert count == b"1"
        if script == presence.PUT.encode():
            return self._put(key, *arguments)
        if script == presence.REMOVE.encode():
            device, ours = arguments
            return self._hdel(key, device) if (self._hget(key, device) or b"").startswith(ours) else 0
        raise PipelineError("ERR unknown script")

    def _put(self, key: bytes, device: bytes, wanted: bytes, entry: bytes, most: bytes, why: bytes) -> bytes:
        held = self._hget(key, device)
        epoch = _epoch(int(wanted), entry, held or b"", why.decode())
        ends = why.decode() == presence.BREAK
        if epoch and ends and len(self.hashes.get(key, ())) > int(most):
            self._hdel(key, device)
        elif epoch:
            self._hset(key, device, entry.replace(b" %b " % wanted, b" %d " % epoch, 1))
        entries = self.hashes.get(key, {}).values()
        count = len(entries)
        if count > int(most):
            count = sum(b" ONLINE " in entry for entry in entries)
            if count > int(most) and held is None and not ends:
                self._hdel(key, device)
        return b"%d %d %b" % (count, epoch, held or b"")


class MemoryPipeline:
    """gateway.pipeline.Pipeline over a Store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[tuple[Argument, ...], Told | None]] = deque()
        self._closed = False

    @property
    def connected(self) -> bool:
        self._catch_up()
        return self._store.up and not self._closed

    @property
    def queued(self) -> int:
        self._catch_up()
        return len(self._waiting)

    def push(self, *command: Argument, told: Told | None = None) -> bool:
        if len(self._waiting) >= PIPELINE_COMMANDS_MAX:
            return False
        self._waiting.append((command, told))
        self._catch_up()
        return True

    async def call(self, *command: Argument) -> Any:
        await asyncio.sleep(0)
        if not self.connected:
            raise Unavailable("Redis is away")
        return self._store.run(command)

    async def settled(self) -> None:
        await asyncio.sleep(0)
        if not self.connected:
            raise Unavailable("Redis is away")

    async def close(self) -> None:
        self._closed = True
        self._waiting.clear()

    def _catch_up(self) -> None:
        while self._waiting and self._store.up and not self._closed:
            command, told = self._waiting.popleft()
            try:
                reply = self._store.run(command)
            except PipelineError:
                continue  # nobody reads an error of a pushed command; the real one logs it
            if told is not None:
                told(reply)
