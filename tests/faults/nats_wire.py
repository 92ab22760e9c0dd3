"""What a faulty bus does to the answers of requests: drops, doubles and reorders them, on a proxied connection."""

import random
from collections import defaultdict
from typing import Final

from tests.proxy import Piece

_ANSWERS: Final = b"_INBOX."


class Unreliable:
    """A watch for Proxy: a `share` of the messages to `_INBOX.` is dropped, doubled or held until the next."""

    def __init__(self, chance: random.Random, share: float) -> None:
        self.done = {"dropped": 0, "doubled": 0, "reordered": 0}
        self._chance, self._share = chance, share
        self._rest: dict[int, bytes] = defaultdict(bytes)  # connection -> a message that is not whole yet
        self._held: dict[int, bytes] = defaultdict(bytes)

    async def __call__(self, piece: Piece) -> bytes:
        if not piece.is_reply:
            return piece.data
        text = self._rest[piece.connection] + piece.data
        out = b""
        while (message := _first(text)) is not None:
            text = text[len(message) :]
            out += self._treated(piece.connection, message)
        self._rest[piece.connection] = text
        return out

    def _treated(self, connection: int, message: bytes) -> bytes:
        held, self._held[connection] = self._held[connection], b""
        if not message.startswith((b"MSG " + _ANSWERS, b"HMSG " + _ANSWERS)) or self._chance.random() > self._share:
            return message + held
        fault = self._chance.choice(sorted(self.done))
        self.done[fault] += 1
        if fault == "dropped":
            return held
        if fault == "doubled":
            return message + message + held
        self._held[connection] = message
        return held


def _first(text: bytes) -> bytes | None:
    """The first whole message of the NATS client protocol: a line, of MSG and HMSG with the payload behind it."""
    end = text.find(b"\r\n")
    if end < 0:
        return None
    end += 2
    line = text[:end]
    if line.startswith((b"MSG ", b"HMSG ")):
        end += int(line.rsplit(maxsplit=1)[1]) + 2
    return text[:end] if len(text) >= end else None
