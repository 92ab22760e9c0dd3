"""What a Redis server sends: replies read whole, and an Exchange that hears them in pieces.

Two bytes lead: the size of the pieces, and which of the eight commands somebody waits for.
"""

from types import ModuleType
from typing import Any

from fuzz.target import Target, same
from gateway._fast import exchange, resp
from tests.reference import exchange as exchange_twin
from tests.reference import resp as resp_twin

_COMMANDS_COUNT = 8


def _heard(module: ModuleType, errors: ModuleType, data: bytes) -> list[str]:
    """What shows of an Exchange that has sent its commands and is fed the data; ends with the first fault."""
    size, waiting = (*data[:2], 0, 0)[:2]
    one: Any = module.Exchange()
    for number in range(_COMMANDS_COUNT):
        one.put(("N", number), f"w{number}" if waiting >> number & 1 else None, number, number % 2 == 1)
    one.take(1_000)
    shown: list[str] = []
    for at in range(2, len(data), size + 1):
        one.feed(data[at : at + size + 1])
        try:
            while (reply := one.next()) is not None:
                shown.append(repr(reply))
                if isinstance(reply[1], errors.Refusal) and data[at] & 1:
                    shown.append(repr(one.refused()))
                    one.forget()
                elif isinstance(reply[1], errors.Refusal):
                    return [*shown, repr(one.rewind()), repr(one.take(1_000))]
        except errors.ProtocolError as error:
            return [*shown, str(error), repr(one.rewind()), repr(one.take(1_000))]
    return [*shown, repr((len(one), one.sent, one.waiting_bytes)), repr(one.drain())]


def run(data: bytes) -> None:
    same("reply", repr(resp.read_reply(data)), repr(resp_twin.read_reply(data)))
    same("slot", resp.slot_of(data), resp_twin.slot_of(data))
    same("heard", _heard(exchange, resp, data), _heard(exchange_twin, resp_twin, data))


TARGET = Target(
    run,
    seeds=(
        b"\xff\xff+OK\r\n:1\r\n$3\r\n1-0\r\n$-1\r\n*2\r\n+a\r\n_\r\n",
        b"\x03\x55-MOVED 3999 127.0.0.1:6381\r\n!5\r\nERR x\r\n+OK\r\n",
        b"\0\xff%1\r\n+k\r\n,1.5e3\r\n~1\r\n#t\r\n(123\r\n=7\r\ntxt:abc\r\n>2\r\n+p\r\n_\r\n",
        b"*2\r\n*3\r\n:0\r\n:5460\r\n*2\r\n$9\r\n127.0.0.1\r\n:6379\r\n*0\r\n",
        b"presence:{tenant:user}",
    ),
    words=(
        b"*", b"$", b"%", b"~", b">", b"_\r\n", b"#f\r\n", b",-inf\r\n", b"\r\n", b"$-1\r\n", b"*-1\r\n",
        b"*1\r\n" * 8,
        b"9223372036854775807", b"1048564", b"-ASK 1 h:1\r\n", b"-READONLY\r\n", b"{", b"}", b"=8\r\ntxt:",
    ),
)  # fmt: skip
