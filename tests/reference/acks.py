"""Plain-Python twin of gateway/_fast/acks.pyx: JSON and MessagePack by msgspec."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from notification import frames, messages
from notification.errors import InvalidInput
from notification.frames import IDS_PER_FRAME_MAX
from notification.limits import RECEIPTS_PER_ENTRY_MAX
from notification.messages import AckReceipt

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


class Acks:
    def __init__(self, collected: Callable[[], None] | None = None) -> None:
        self._collected = collected
        self._receipts: list[AckReceipt] = []

    def ack(self, session: Any, text: bytes, at_ms: int) -> int:
        try:
            frame = frames.decode_client(text)
        except InvalidInput:
            return -1
        if not isinstance(frame, frames.Ack):
            return -1
        usual = {"t": "ack", "ids": frame.ids} if frame.upto is None else {"t": "ack", "upto": frame.upto}
        ids = frame.ids if frame.upto is None else [frame.upto]
        if text != msgspec.json.encode(usual) or not ids or len(ids) > IDS_PER_FRAME_MAX:
            return -1
        if not all(_UUID.fullmatch(one) for one in ids):
            return -1
        idents = [uuid.UUID(one).bytes for one in ids]
        if frame.upto is not None:
            found = session.ack_upto(idents[0]) or []
        else:
            found = [(one, *place) for one in idents if (place := session.ack(one)) is not None]
        self._add([AckReceipt(*_who(session), lane, seq, ident, at_ms) for ident, lane, seq in found])
        return len(found)

    def put(self, session: Any, lane: int, seq: int, ident: bytes, at_ms: int) -> None:
        if len(ident) != 16:
            raise ValueError("ident must be 16 bytes")
        self._add([AckReceipt(*_who(session), lane, seq, ident, at_ms)])

    def _add(self, receipts: list[AckReceipt]) -> None:
        first = not self._receipts
        self._receipts += receipts
        if receipts and self._collected and (first or len(self._receipts) >= RECEIPTS_PER_ENTRY_MAX):
            self._collected()

    def take(self) -> bytes:
        receipts, self._receipts = self._receipts, []
        return messages._encoder.encode(receipts)

    def __len__(self) -> int:
        return len(self._receipts)


def _who(session: Any) -> tuple[str, str, str]:
    return session.tenant, session.user, session.device
