"""gateway/_fast/session over the extension and its twin: phases, RFC 6455, rate. Lanes: test_session_lanes.py"""

import struct
from typing import Any

import pytest

from gateway._fast import session as extension
from notification import limits
from notification.codes import LANE_COUNT, Closes, ReceiptCode
from tests.reference import session as twin
from tests.unit.gateway._fast.extensions import both, is_extension
from tests.unit.gateway._fast.sessions import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LANE,
    PING,
    PONG,
    TEXT,
    closed_with,
    frames,
    ident,
    live,
)


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


def test_constants_are_those_of_the_contract() -> None:
    assert extension.LANE_COUNT == LANE_COUNT
    assert (extension.WRITTEN, extension.FULL) == (ReceiptCode.WRITTEN, ReceiptCode.FULL)
    for name in (
        "NORMAL", "PROTOCOL_ERROR", "UNSUPPORTED_DATA", "INVALID_TEXT", "TOO_BIG", "BAD_FRAMES", "TOO_SLOW",
        "TOO_FAST",
    ):  # fmt: skip
        assert getattr(extension, name) == getattr(Closes, name)[:2]
    for name in ("AWAIT_AUTH", "RESUMING", "LIVE", "CLOSING", "CLOSED"):
        assert getattr(extension, name) == getattr(twin, name)


@both(extension, twin)
class TestPhases:
    def test_starts_without_identity(self, module: Any) -> None:
        session = module.Session(0)
        assert (session.phase, session.tenant, session.tag, session.close_code) == (module.AWAIT_AUTH, "", b"", 0)
        assert (session.at(), session.wanted(), session.pending()) == ([-1] * LANE_COUNT, False, 0)
        assert (session.pong_due_ms(), session.take_rtt_ms(), session.take()) == (0, -1, b"")

    def test_authenticates_resumes_goes_live(self, module: Any) -> None:
        session = module.Session(0)
        session.begin_live()
        assert session.phase == module.AWAIT_AUTH
        assert session.session_id == "00" * 16
        session.authenticate("t", "u", "d", bytes(range(16)), b"t:dQ", 7, 99)
        assert session.phase == module.RESUMING
        assert (session.tenant, session.user, session.device) == ("t", "u", "d")
        assert (session.session_id, session.tag) == ("000102030405060708090a0b0c0d0e0f", b"t:dQ")
        assert (session.connection_epoch, session.token_expiry_ms) == (7, 99)
        session.begin_live()
        assert session.phase == module.LIVE
        session.token_expiry_ms = 123  # a reauth
        assert session.token_expiry_ms == 123
        assert (session.token_issued_s, session.token_digest) == (0, 0)
        for digest in (2**63 - 1, -(2**63)):
            session.token_issued_s, session.token_digest = 2**40, digest
            assert (session.token_issued_s, session.token_digest) == (2**40, digest)

    @pytest.mark.parametrize("count", [0, 15, 17])
    def test_a_session_id_has_16_bytes(self, module: Any, count: int) -> None:
        session = module.Session(0)
        with pytest.raises(ValueError, match="session_id"):
            session.authenticate("t", "u", "d", bytes(count), b"t:dQ", 7, 0)
        assert (session.phase, session.tag) == (module.AWAIT_AUTH, b"")

    def test_authenticate_does_not_reopen(self, module: Any) -> None:
        session = module.Session(0)
        session.close(*Closes.AUTH_TIMEOUT[:2])
        session.authenticate("t", "u", "d", bytes(16), b"t:dQ", 7, 0)
        session.begin_live()
        assert session.phase == module.CLOSING

    def test_end_keeps_nothing(self, module: Any) -> None:
        session = live(module)
        session.offer(LANE, 1, 0, ident(1), b"{}")
        session.ping(0)
        session.end()
        assert (session.phase, session.pending(), session.unacked()) == (module.CLOSED, 0, 0)
        assert (session.pong_due_ms(), session.close_sent) == (0, False)
        session.send(b"{}")
        session.ping(1)
        session.close(1000, "")
        assert session.offer(LANE, 2, 1, ident(2), b"{}") == module.FULL
        assert session.feed(TEXT, True, 0, b"{}", 1) is None
        assert session.take() == b""

    def test_end_does_not_claim_an_unsent_close(self, module: Any) -> None:
        session = live(module)
        session.close(1012, "service restart")
        session.end()
        assert (session.close_sent, session.close_code) == (False, 1012)


@both(extension, twin)
class TestText:
    def test_a_whole_message(self, module: Any) -> None:
        session = module.Session(0)
        assert session.feed(TEXT, True, 0, '{"t":"ping"} ü€😀'.encode(), 0) == '{"t":"ping"} ü€😀'.encode()
        assert session.feed(TEXT, True, 0, b"", 0) == b""
        assert session.pending() == 0

    def test_fragments_with_control_frames_between(self, module: Any) -> None:
        session = module.Session(0)
        assert session.feed(TEXT, False, 0, b"one ", 0) is None
        assert session.feed(PING, True, 0, b"hi", 0) is None
        assert session.feed(CONTINUATION, False, 0, b"two ", 0) is None
        assert session.feed(CONTINUATION, True, 0, b"three", 0) == b"one two three"
        assert list(frames(session.take())) == [(PONG, b"hi")]
        assert session.feed(TEXT, True, 0, b"next", 0) == b"next"

    def test_a_character_split_over_fragments(self, module: Any) -> None:
        session = module.Session(0)
        euro = "€".encode()
        assert session.feed(TEXT, False, 0, euro[:1], 0) is None
        assert session.feed(CONTINUATION, False, 0, b"", 0) is None
        assert session.feed(CONTINUATION, False, 0, euro[1:2], 0) is None
        assert session.feed(CONTINUATION, True, 0, euro[2:], 0) == euro

    @pytest.mark.parametrize(
        "text",
        [
            b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf",
            b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3(",
            b"01234567\x80", b"0123456789abcdef\xe2\x82",
        ],
    )  # fmt: skip
    def test_invalid_utf8_closes_1007(self, module: Any, text: bytes) -> None:
        session = module.Session(0)
        assert session.feed(TEXT, True, 0, text, 0) is None
        assert closed_with(session) == Closes.INVALID_TEXT[:2]
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"", 0)
        for index in range(len(text)):
            session.feed(CONTINUATION, index == len(text) - 1, 0, text[index : index + 1], 0)
        assert closed_with(session) == Closes.INVALID_TEXT[:2]

    def test_invalid_utf8_is_found_at_the_first_wrong_byte(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"\xed\xa0", 0)  # half a surrogate; the message is still open
        assert closed_with(session) == Closes.INVALID_TEXT[:2]

    def test_an_unfinished_character_at_the_end(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"ab", 0)
        session.feed(CONTINUATION, True, 0, b"\xe2\x82", 0)
        assert closed_with(session) == Closes.INVALID_TEXT[:2]

    def test_a_message_of_the_most_bytes(self, module: Any) -> None:
        session = module.Session(0)
        most = b"x" * limits.FRAME_BYTES_MAX
        assert session.feed(TEXT, True, 0, most, 0) == most
        session.feed(TEXT, False, 0, most, 0)
        assert session.feed(CONTINUATION, True, 0, b"", 0) == most
        assert session.feed(TEXT, True, 0, most + b"x", 0) is None
        assert closed_with(session) == Closes.TOO_BIG[:2]

    def test_too_many_bytes_in_fragments(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"x" * limits.FRAME_BYTES_MAX, 0)
        assert session.pending() == 0
        session.feed(CONTINUATION, False, 0, b"x", 0)
        assert closed_with(session) == Closes.TOO_BIG[:2]

    def test_too_many_fragments(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"", 0)
        for _ in range(limits.FRAGMENTS_MAX - 1):
            session.feed(CONTINUATION, False, 0, b"", 0)
        assert session.pending() == 0
        session.feed(CONTINUATION, True, 0, b"", 0)
        assert closed_with(session) == Closes.TOO_BIG[:2]

    def test_a_message_open_too_long(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"x", 500)
        session.feed(PING, True, 0, b"", 500 + limits.MESSAGE_OPEN_MS_MAX)
        assert list(frames(session.take())) == [(PONG, b"")]
        session.feed(CONTINUATION, True, 0, b"", 501 + limits.MESSAGE_OPEN_MS_MAX)
        assert closed_with(session) == Closes.TOO_BIG[:2]

    def test_a_message_left_open_is_found_by_the_heartbeat(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"x", 0)
        session.ping(limits.HEARTBEAT_MS)
        assert closed_with(session) == Closes.TOO_BIG[:2]
        assert session.pong_due_ms() == 0


@both(extension, twin)
class TestViolations:
    @pytest.mark.parametrize("rsv", [1, 2, 4, 7])
    @pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
    def test_reserved_bits(self, module: Any, opcode: int, rsv: int) -> None:
        session = module.Session(0)
        assert session.feed(opcode, True, rsv, b"", 0) is None
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]
        assert (session.phase, session.close_code) == (module.CLOSING, 1002)

    @pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
    def test_unknown_opcodes(self, module: Any, opcode: int) -> None:
        session = module.Session(0)
        session.feed(opcode, True, 0, b"", 0)
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]

    @pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
    def test_fragmented_or_long_control_frames(self, module: Any, opcode: int) -> None:
        for fin, payload in ((False, b""), (True, b"x" * 126)):
            session = module.Session(0)
            session.feed(opcode, fin, 0, payload, 0)
            assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]

    def test_binary(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(BINARY, True, 0, b"{}", 0)
        assert closed_with(session) == Closes.UNSUPPORTED_DATA[:2]

    def test_a_continuation_of_nothing(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(CONTINUATION, True, 0, b"", 0)
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_message_within_a_message(self, module: Any, opcode: int) -> None:
        session = module.Session(0)
        session.feed(TEXT, False, 0, b"a", 0)
        session.feed(opcode, True, 0, b"b", 0)
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]

    def test_nothing_is_heard_after_a_violation(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(BINARY, True, 0, b"", 0)
        assert session.feed(TEXT, True, 0, b"{}", 0) is None
        session.feed(PING, True, 0, b"", 0)
        assert len(list(frames(session.take()))) == 1

    def test_the_third_bad_frame(self, module: Any) -> None:
        session = module.Session(0)
        answers = [session.bad_frame() for _ in range(limits.BAD_FRAMES_MAX)]
        assert answers == [False] * (limits.BAD_FRAMES_MAX - 1) + [True]
        assert closed_with(session) == Closes.BAD_FRAMES[:2]


@both(extension, twin)
class TestClose:
    @pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999])
    def test_a_close_is_echoed(self, module: Any, code: int) -> None:
        session = module.Session(0)
        session.feed(CLOSE, True, 0, struct.pack("!H", code) + "grüße".encode(), 0)
        assert (session.phase, session.close_code, session.close_received) == (module.CLOSING, code, True)
        assert closed_with(session) == (code, "")
        assert (session.phase, session.close_sent) == (module.CLOSED, True)

    def test_an_empty_close_is_answered_1000(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(CLOSE, True, 0, b"", 0)
        assert closed_with(session) == Closes.NORMAL[:2]

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
    def test_a_close_code_nobody_may_send(self, module: Any, code: int) -> None:
        session = module.Session(0)
        session.feed(CLOSE, True, 0, struct.pack("!H", code), 0)
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]
        with pytest.raises(ValueError, match="close code"):
            module.Session(0).close(code, "")

    def test_half_a_close_code(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(CLOSE, True, 0, b"\x03", 0)
        assert closed_with(session) == Closes.PROTOCOL_ERROR[:2]

    def test_a_close_reason_that_is_not_utf8(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(CLOSE, True, 0, b"\x03\xe8\xff", 0)
        assert closed_with(session) == Closes.INVALID_TEXT[:2]

    def test_our_close_then_theirs(self, module: Any) -> None:
        session = live(module)
        session.send(b"last")
        session.close(*Closes.DRAIN[:2])
        session.close(*Closes.INTERNAL[:2])
        session.send(b"too late")
        session.ping(0)
        assert session.close_sent is False
        sent = list(frames(session.take()))
        assert sent == [(TEXT, b"last"), (CLOSE, b"\x03\xf4service restart")]
        assert (session.phase, session.close_code, session.close_sent) == (module.CLOSING, 1012, True)
        assert session.feed(TEXT, True, 0, b"{}", 0) is None
        assert session.close_received is False
        session.feed(CLOSE, True, 0, b"\x03\xf4", 0)
        assert (session.phase, session.close_received, session.pending()) == (module.CLOSED, True, 0)

    def test_both_close_at_once(self, module: Any) -> None:
        session = live(module)
        session.close(*Closes.DRAIN[:2])
        session.feed(CLOSE, True, 0, b"\x03\xe8", 0)
        assert session.phase == module.CLOSING
        assert closed_with(session) == Closes.DRAIN[:2]
        assert session.phase == module.CLOSED

    def test_a_long_reason_is_cut_at_a_character(self, module: Any) -> None:
        session = module.Session(0)
        session.close(1011, "ü" * 80)
        assert closed_with(session) == (1011, "ü" * 61)

    def test_nothing_is_written_to_lanes_after_a_close(self, module: Any) -> None:
        session = live(module)
        session.close(1012, "")
        session.take()
        assert session.offer(LANE, 1, 0, ident(1), b"{}") == module.FULL
        assert session.fill(LANE, 1, 0, ident(1), b"{}") is False
        assert (session.pending(), session.wanted()) == (0, False)


@both(extension, twin)
class TestPing:
    def test_pings_are_answered_with_their_payload(self, module: Any) -> None:
        session = module.Session(0)
        session.feed(PING, True, 0, b"x" * 125, 0)
        assert list(frames(session.take())) == [(PONG, b"x" * 125)]

    def test_a_pong_settles_our_ping(self, module: Any) -> None:
        session = module.Session(0)
        session.ping(1_000)
        assert session.pong_due_ms() == 1_000 + limits.PONG_DUE_MS
        ((opcode, payload),) = frames(session.take())
        assert opcode == PING
        session.feed(PONG, True, 0, b"another", 1_010)
        assert (session.pong_due_ms(), session.take_rtt_ms()) == (1_000 + limits.PONG_DUE_MS, -1)
        session.feed(PONG, True, 0, payload, 1_025)
        assert (session.pong_due_ms(), session.take_rtt_ms()) == (0, 25)

    def test_only_the_last_pings_pong_counts(self, module: Any) -> None:
        session = module.Session(0)
        session.ping(0)
        ((_, first),) = frames(session.take())
        session.ping(100)
        ((_, second),) = frames(session.take())
        session.feed(PONG, True, 0, first, 150)
        assert session.pong_due_ms() == 100 + limits.PONG_DUE_MS
        session.feed(PONG, True, 0, second, 150)
        assert session.pong_due_ms() == 0

    @pytest.mark.parametrize("opcode", [PING, PONG])
    def test_a_flood_closes_4429(self, module: Any, opcode: int) -> None:
        session = module.Session(0)
        for _ in range(limits.CLIENT_PINGS_BURST_MAX):
            session.feed(opcode, True, 0, b"", 0)
            session.take()
        assert session.phase == module.AWAIT_AUTH
        session.feed(opcode, True, 0, b"", 0)
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_the_allowed_rate_goes_on_for_ever(self, module: Any) -> None:
        session = module.Session(0)
        for now_ms in range(0, 60_000, 1_000 // limits.CLIENT_PINGS_PER_S_MAX):
            session.feed(PING, True, 0, b"", now_ms)
            session.take()
        assert session.phase == module.AWAIT_AUTH

    def test_pongs_that_are_not_taken_are_bounded(self, module: Any) -> None:
        session = module.Session(0)
        for number in range(limits.CLIENT_PINGS_BURST_MAX):
            session.feed(PING, True, 0, b"", number * 1_000)
        assert session.phase == module.AWAIT_AUTH
        session.feed(PING, True, 0, b"", 60_000)
        assert closed_with(session) == Closes.TOO_SLOW[:2]


@both(extension, twin)
class TestRate:
    def test_a_burst_then_4429(self, module: Any) -> None:
        session = module.Session(0)
        for _ in range(limits.CLIENT_FRAMES_BURST_MAX):
            assert session.feed(TEXT, True, 0, b"{}", 0) == b"{}"
        assert session.feed(TEXT, True, 0, b"{}", 0) is None
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_the_allowed_rate_goes_on_for_ever(self, module: Any) -> None:
        session = module.Session(0)
        for now_ms in range(0, 60_000, 1_000 // limits.CLIENT_FRAMES_PER_S_MAX):
            assert session.feed(TEXT, True, 0, b"{}", now_ms) == b"{}"

    def test_the_bucket_refills_with_time_up_to_its_burst(self, module: Any) -> None:
        session = module.Session(0)
        for now_ms in (0, 3_600_000):
            for _ in range(limits.CLIENT_FRAMES_BURST_MAX):
                assert session.feed(TEXT, True, 0, b"{}", now_ms) == b"{}"
        session.feed(TEXT, True, 0, b"{}", 3_600_000)
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_a_clock_that_steps_back_gives_nothing(self, module: Any) -> None:
        session = module.Session(10_000)
        for _ in range(limits.CLIENT_FRAMES_BURST_MAX):
            session.feed(TEXT, True, 0, b"{}", 0)
        session.feed(TEXT, True, 0, b"{}", 10_000)
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_a_fragmented_message_costs_one(self, module: Any) -> None:
        session = module.Session(0)
        for _ in range(limits.CLIENT_FRAMES_BURST_MAX):
            session.feed(TEXT, False, 0, b"", 0)
            for _ in range(10):
                session.feed(CONTINUATION, False, 0, b"", 0)
            assert session.feed(CONTINUATION, True, 0, b"{}", 0) == b"{}"
        session.feed(TEXT, False, 0, b"", 0)
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_acks_of_what_was_written_are_free(self, module: Any) -> None:
        session = live(module)
        for seq in range(1, 1_001):
            assert session.offer(LANE, seq, seq - 1, ident(seq), b"{}") == module.WRITTEN
            assert session.feed(TEXT, True, 0, b"ack", 0) == b"ack"
            assert session.ack(ident(seq)) == (LANE, seq)
        for _ in range(limits.CLIENT_FRAMES_BURST_MAX):
            assert session.feed(TEXT, True, 0, b"{}", 0) == b"{}"
        assert session.feed(TEXT, True, 0, b"{}", 0) is None
        assert closed_with(session) == Closes.TOO_FAST[:2]

    def test_unused_ack_credit_is_bounded(self, module: Any) -> None:
        session = live(module)
        for seq in range(1, 2_001):
            session.offer(LANE, seq, seq - 1, ident(seq), b"{}")
            session.ack_upto(ident(seq))
        session.take()
        heard = 0
        while session.feed(TEXT, True, 0, b"{}", 0) is not None:
            heard += 1
        assert heard == limits.UNACKED_PER_CONNECTION_MAX + limits.CLIENT_FRAMES_BURST_MAX


@both(extension, twin)
class TestFrames:
    @pytest.mark.parametrize("count", [0, 1, 125, 126, 255, 256, 65_535, 65_536, 70_000])
    def test_lengths(self, module: Any, count: int) -> None:
        session = module.Session(0)
        session.send(b"x" * count)
        assert session.pending() == count + (2 if count < 126 else 4 if count < 65_536 else 10)
        assert list(frames(session.take())) == [(TEXT, b"x" * count)]
        assert session.pending() == 0

    def test_many_frames_are_one_write(self, module: Any) -> None:
        session = module.Session(0)
        bodies = [bytes([65 + number % 26]) * (number * 7) for number in range(300)]
        for body in bodies:
            session.send(body)
        assert list(frames(session.take())) == [(TEXT, body) for body in bodies]
        assert session.take() == b""
