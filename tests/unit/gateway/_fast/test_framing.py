"""gateway/_fast/framing over the extension and its twin."""

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import framing as extension
from notification.codes import Closes
from notification.limits import FRAME_BYTES_MAX
from tests.reference import framing as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import BINARY, PING, TEXT

MOST = 70_000
FAULT, TOO_BIG = -Closes.PROTOCOL_ERROR.code, -Closes.TOO_BIG.code


def length(count: int, width: int) -> bytes:
    """A masked length field in 1, 3 or 9 bytes, the shortest form or not."""
    if width == 1:
        return bytes([0x80 | count])
    return bytes([0x80 | (126 if width == 3 else 127)]) + count.to_bytes(width - 1, "big")


def frame(opcode: int, payload: bytes, first: int = 0x80, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    width = 1 if len(payload) < 126 else 3 if len(payload) < 65_536 else 9
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([first | opcode]) + length(len(payload), width) + mask + masked


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestFrames:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 125, 126, 127, 4_099, 65_535, 65_536, MOST])
    def test_every_length(self, module: Any, count: int) -> None:
        payload = os.urandom(count)
        data = frame(TEXT, payload)
        assert module.read_frame(data + b"next", MOST) == (TEXT, True, 0, payload, len(data))

    def test_chopped_at_every_byte(self, module: Any) -> None:
        for payload in (b"", b"abc", b"x" * 130):
            data = frame(PING, payload)
            for cut in range(len(data)):
                assert module.read_frame(data[:cut], MOST) == 0

    def test_the_first_byte(self, module: Any) -> None:
        assert module.read_frame(frame(BINARY, b"", 0x00), MOST) == (BINARY, False, 0, b"", 6)
        assert module.read_frame(frame(0xF, b"", 0xC0), MOST) == (0xF, True, 4, b"", 6)
        assert module.read_frame(frame(TEXT, b"", 0x30), MOST) == (TEXT, False, 3, b"", 6)

    @pytest.mark.parametrize("data", [b"\x81\x00", b"\x81\x02{}", b"\x81\x7e\x00\x80", b"\x81\x7f"])
    def test_unmasked(self, module: Any, data: bytes) -> None:
        assert module.read_frame(data, MOST) == FAULT

    @pytest.mark.parametrize(
        ("count", "width"),
        [(0, 3), (125, 3), (0, 9), (125, 9), (126, 9), (65_535, 9), (1 << 63, 9), ((1 << 64) - 1, 9)],
    )
    def test_lengths_in_a_wrong_form(self, module: Any, count: int, width: int) -> None:
        assert module.read_frame(b"\x81" + length(count, width), MOST) == FAULT

    @pytest.mark.parametrize(("count", "width"), [(FRAME_BYTES_MAX + 1, 3), (1 << 20, 9), ((1 << 63) - 1, 9)])
    def test_a_payload_too_big_is_known_before_it_comes(self, module: Any, count: int, width: int) -> None:
        assert module.read_frame(b"\x81" + length(count, width), FRAME_BYTES_MAX) == TOO_BIG
        assert module.read_frame(b"\x81" + length(FRAME_BYTES_MAX, 3), FRAME_BYTES_MAX) == 0


@settings(max_examples=500, deadline=None)
@given(
    st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=300),
        st.sampled_from([0, 0x80, 0xF0]),
        st.binary(min_size=4, max_size=4),
    )
    | st.binary(max_size=20),
    st.sampled_from([125, 126, 200, MOST]),
)
def test_extension_and_twin_agree(data: bytes, most: int) -> None:
    assert extension.read_frame(data, most) == twin.read_frame(data, most)
