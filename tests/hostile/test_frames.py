"""Clients that break RFC 6455 or the protocol's rules: the expected close code, and nobody else hears of it."""

import asyncio
import random
import struct

import pytest

from notification import limits
from notification.codes import Closes
from tests.hostile.clients import HELD_BYTES_MAX, Hostile, each, hostile, pings
from tests.hostile.neighbours import neighbours
from tests.hostile.victim import Victim
from tests.unit.gateway._fast.carriers import masked
from tests.unit.gateway._fast.sessions import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

CLIENTS = 30
MASK = b"\0\0\0\0"
BIG = limits.FRAME_BYTES_MAX

ATTACKS = {
    "unmasked": (b"\x81\x02{}", Closes.PROTOCOL_ERROR),
    "reserved bit 1": (b"\xc1\x82" + MASK + b"{}", Closes.PROTOCOL_ERROR),
    "reserved bit 3": (b"\x91\x82" + MASK + b"{}", Closes.PROTOCOL_ERROR),
    "reserved opcode 3": (masked(0x3, b"x"), Closes.PROTOCOL_ERROR),
    "reserved opcode B": (masked(0xB, b"x"), Closes.PROTOCOL_ERROR),
    "continuation of nothing": (masked(CONTINUATION, b"x"), Closes.PROTOCOL_ERROR),
    "text inside a message": (masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), Closes.PROTOCOL_ERROR),
    "ping in fragments": (masked(PING, b"x", fin=False), Closes.PROTOCOL_ERROR),
    "ping of 126 bytes": (masked(PING, b"x" * 126), Closes.PROTOCOL_ERROR),
    "close code 1005": (masked(CLOSE, struct.pack("!H", 1005)), Closes.PROTOCOL_ERROR),
    "close of one byte": (masked(CLOSE, b"x"), Closes.PROTOCOL_ERROR),
    "length in too many bytes": (b"\x81\xfe\x00\x05" + MASK + b"xxxxx", Closes.PROTOCOL_ERROR),
    "negative length": (b"\x81\xff" + b"\xff" * 8 + MASK, Closes.PROTOCOL_ERROR),
    "binary": (masked(BINARY, b"\0\1"), Closes.UNSUPPORTED_DATA),
    "bad UTF-8": (masked(TEXT, b"\xed\xa0\x80"), Closes.INVALID_TEXT),
    "bad UTF-8 in a close": (masked(CLOSE, b"\x03\xe8\xff"), Closes.INVALID_TEXT),
    "a message that is too big": (masked(TEXT, b"x" * (BIG + 1)), Closes.TOO_BIG),
    "a length that is too big": (b"\x81\xff" + struct.pack("!Q", 1 << 40) + MASK, Closes.TOO_BIG),
    "too big in fragments": (masked(TEXT, b"x" * BIG, fin=False) + masked(CONTINUATION, b"x"), Closes.TOO_BIG),
    "a flood of fragments": (
        masked(TEXT, b"x", fin=False) + masked(CONTINUATION, b"", fin=False) * 50_000, Closes.TOO_BIG,
    ),
    "frames that are no JSON": (masked(TEXT, b"{") * limits.BAD_FRAMES_MAX, Closes.BAD_FRAMES),
    "messages over the rate": (masked(TEXT, b'{"t":"ping"}') * 2_000, Closes.TOO_FAST),
    "pings over the rate": (pings(2_000), Closes.TOO_FAST),
    "pongs nobody asked for": (masked(PONG, b"x") * 2_000, Closes.TOO_FAST),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_the_expected_close(victim: Victim, attack: str) -> None:
    data, expected = ATTACKS[attack]
    async with neighbours(victim), hostile(victim, CLIENTS) as clients:
        await each(client.upgraded(victim.stranger()) for client in clients)
        before = victim.rss_bytes()

        async def strike(client: Hostile) -> int:
            await client.send(data)
            return await client.close_code()

        codes = set(await each(strike(client) for client in clients))
        assert victim.rss_bytes() - before < CLIENTS * HELD_BYTES_MAX
    assert codes == {expected.code}


async def test_noise_behind_the_upgrade_ends_the_socket(victim: Victim) -> None:
    noise = random.Random(1).randbytes(20_000)
    async with neighbours(victim), hostile(victim, CLIENTS) as clients:
        await each(client.upgraded(victim.stranger()) for client in clients)

        async def strike(client: Hostile) -> int:
            while await client.send(noise):  # noqa: ASYNC110 - it sends, the pause is for the others
                await asyncio.sleep(0.01)
            return await client.close_code()

        await each(strike(client) for client in clients)
