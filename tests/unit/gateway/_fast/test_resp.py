"""gateway/_fast/resp over the extension and its twin, and beside hiredis."""

import math
import tracemalloc
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway._fast import resp as extension
from notification.limits import REDIS_REPLY_BYTES_MAX, REDIS_REPLY_DEPTH_MAX
from tests.reference import resp as twin
from tests.unit.gateway._fast.extensions import both, is_extension

COMMANDS: list[tuple[str | bytes | int, ...]] = [
    ("PING",),
    ("XADD", "receipts", "MAXLEN", "~", 1_000_000, "*", "b", bytes(range(256)) * 40),
    ("SET", "lease:g", "", b"", "PX", 3_000, 0, -1, 9, 10, 99, 100, (1 << 63) - 1, -(1 << 63)),
    ("HSET", "schlüssel", "名前", "\r\n$1\r\n"),
    tuple(range(1_000)),
]
# As a server sends them, and what they are.
REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"), (b"+\r\n", b""), (b":0\r\n", 0), (b":-9223372036854775808\r\n", -(1 << 63)),
    (b":+9223372036854775807\r\n", (1 << 63) - 1), (b"$0\r\n\r\n", b""), (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$-1\r\n", None), (b"*-1\r\n", None), (b"_\r\n", None), (b"*0\r\n", []),
    (b"#t\r\n", True), (b"#f\r\n", False),
    (b",1.5\r\n", 1.5), (b",-inf\r\n", -math.inf), (b",2e-3\r\n", 0.002), (b"(-349999999999999999999\r\n",
     -349999999999999999999), (b"=8\r\ntxt:\r\n\r\n\r\n", b"\r\n\r\n"), (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
    (b"*3\r\n*2\r\n+a\r\n*0\r\n$1\r\nb\r\n*1\r\n_\r\n", [[b"a", []], b"b", [None]]),
    (b"%2\r\n+a\r\n:1\r\n*1\r\n+b\r\n_\r\n", [(b"a", 1), ([b"b"], None)]),
    (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", [b"invalidate", [b"k"]]),
]  # fmt: skip
TYPE, LENGTH, END, LINE = (twin.FAULTS[name] for name in ("type", "length", "end", "line"))
BIG, DEEP = twin.FAULTS["big"], twin.FAULTS["deep"]
FAULTS = [
    (b"HTTP/1.1 400 Bad Request\r\n", TYPE), (b"\x00", TYPE), (b"|1\r\n", TYPE), (b"*1\r\n?\r\n", TYPE),
    (b"*1\r\n>1\r\n+a\r\n", TYPE), (b">0\r\n", TYPE),
    (b"$-2\r\n", LENGTH), (b"*-2\r\n", LENGTH), (b"$\r\n", LENGTH), (b"$+1\r\n", LENGTH), (b"$1x\r\n", LENGTH),
    (b"$?\r\n", LENGTH), (b"%-1\r\n", LENGTH), (b"$99999999999999999999\r\n", LENGTH),
    (b"+OK\rX", END), (b"$2\r\nabc\r\n", END), (b"$1\r\na\rb", END), (b"=3\r\ntxt\r\n", END),
    (b"=5\r\ntxt-a\r\n", END),
    (b"+a\nb\r\n", LINE), (b":\r\n", LINE), (b":-\r\n", LINE), (b":1.5\r\n", LINE), (b": 1\r\n", LINE),
    (b":9223372036854775808\r\n", LINE), (b"_x\r\n", LINE), (b"#y\r\n", LINE), (b",0x1p3\r\n", LINE),
    (b",1e\r\n", LINE), (b",nan(1)\r\n", LINE), (b"(\r\n", LINE), (b"(1.5\r\n", LINE),
    (b"(" + b"9" * 128 + b"\r\n", LINE),
    (b"$1048577\r\n", BIG), (b"$9223372036854775807\r\n", BIG), (b"*9223372036854775807\r\n", BIG),
    (b"%9223372036854775807\r\n", BIG), (b"*2\r\n$1048000\r\n" + bytes(1_048_000) + b"\r\n$1000\r\n", BIG),
    (b"+" + b"a" * REDIS_REPLY_BYTES_MAX, BIG),
    (b"*1\r\n" * (REDIS_REPLY_DEPTH_MAX + 1), DEEP),
]  # fmt: skip


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestPack:
    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
    def test_it_packs_as_hiredis_does(self, module: Any, command: tuple[Any, ...]) -> None:
        assert module.pack(command) == hiredis.pack_command(command)

    @pytest.mark.parametrize(
        ("argument", "error"),
        [(None, TypeError), (1.5, TypeError), (bytearray(b"a"), TypeError), (1 << 63, OverflowError),
         (-(1 << 63) - 1, OverflowError), ("\ud800", UnicodeEncodeError)],
    )  # fmt: skip
    def test_what_it_does_not_pack(self, module: Any, argument: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            module.pack(("SET", "k", argument))


@both(extension, twin)
class TestReplies:
    @pytest.mark.parametrize(("data", "value"), REPLIES, ids=lambda part: repr(part)[:30])
    def test_values(self, module: Any, data: bytes, value: Any) -> None:
        assert module.read_reply(data + b"more") == (value, len(data))
        assert module.read_reply(data) == (value, len(data))
        for cut in range(len(data)):
            assert module.read_reply(data[:cut]) is None, cut

    def test_errors(self, module: Any) -> None:
        value, count = module.read_reply(b"-MOVED 3999 127.0.0.1:6381\r\n")
        assert isinstance(value, module.Refusal)
        assert (value.text, value.code, count) == ("MOVED 3999 127.0.0.1:6381", "MOVED", 28)
        assert repr(value) == "Refusal('MOVED 3999 127.0.0.1:6381')"
        assert module.read_reply(b"!8\r\nERR a\r\n\xff\r\n") == (module.Refusal("ERR a\r\n�"), 14)
        assert module.read_reply(b"*2\r\n-A\r\n+b\r\n") == ([module.Refusal("A"), b"b"], 12)
        assert len({module.Refusal("A"), module.Refusal("A"), module.Refusal("B")}) == 2
        assert module.Refusal("A") != "A"

    @pytest.mark.parametrize(("data", "fault"), FAULTS, ids=lambda part: repr(part)[:30])
    def test_faults(self, module: Any, data: bytes, fault: str) -> None:
        assert module.read_reply(data) == fault

    def test_the_largest_and_the_deepest(self, module: Any) -> None:
        size = REDIS_REPLY_BYTES_MAX - 12
        data = b"$%d\r\n%s\r\n" % (size, bytes(size))
        assert len(data) == REDIS_REPLY_BYTES_MAX
        assert module.read_reply(data) == (bytes(size), len(data))
        data = b"*1\r\n" * REDIS_REPLY_DEPTH_MAX + b":7\r\n"
        value, _ = module.read_reply(data)
        for _ in range(REDIS_REPLY_DEPTH_MAX):
            (value,) = value
        assert value == 7

    def test_nan(self, module: Any) -> None:
        assert math.isnan(module.read_reply(b",nan\r\n")[0])


@both(extension, twin)
class TestSlots:
    @pytest.mark.parametrize(
        "key", ["foo", "", "{}", "{}a", "a{}", "{a", "a}b{c}", "x{tenant:user}y", "{a}{b}", "{{a}}", "ключ", "\r\n"]
    )
    def test_as_redis_py(self, module: Any, key: str) -> None:
        assert module.slot_of(key) == key_slot(key.encode())
        assert module.slot_of(key.encode()) == key_slot(key.encode())

    def test_known_ones(self, module: Any) -> None:
        assert module.slot_of("123456789") == 0x31C3  # the check value of CRC-16/XMODEM
        assert module.slot_of("presence:{t:u}") == module.slot_of("t:u")
        assert module.SLOTS_COUNT == 16_384

    def test_what_is_no_key(self, module: Any) -> None:
        with pytest.raises((TypeError, AttributeError)):
            module.slot_of(5)


def test_a_declared_length_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        for data in (b"*300000\r\n", b"$1048000\r\n", b"%150000\r\n", b"*1\r\n" * REDIS_REPLY_DEPTH_MAX):
            assert extension.read_reply(data) is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


PIECES = st.sampled_from([
    b"*", b"$", b"%", b"~", b">", b"+", b"-", b":", b"_", b"#t", b",", b"(", b"=", b"!", b"\r\n", b"\r",
    b"\n", b"-1", b"0", b"1", b"2", b"3", b"4", b"12", b"txt:", b"a", b"abc", b"1.5", b"inf", b"e3",
    b"1048570", b"1048576", b"9223372036854775807", b"*2\r\n", b"$3\r\nabc\r\n", b":5\r\n", b"_\r\n", b"%1\r\n",
    b"*1\r\n",
]) | st.binary(max_size=3)  # fmt: skip


@settings(max_examples=1_000, deadline=None)
@given(st.lists(PIECES, max_size=24).map(b"".join))
def test_extension_and_twin_read_alike(data: bytes) -> None:
    one, other = extension.read_reply(data), twin.read_reply(data)
    assert repr(one) == repr(other)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text() | st.binary() | st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=12).map(tuple)
)
def test_extension_and_twin_pack_alike(command: tuple[str | bytes | int, ...]) -> None:
    try:
        packed = twin.pack(command)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            extension.pack(command)
        return
    assert extension.pack(command) == packed


VALUES = st.recursive(
    st.binary(max_size=20) | st.integers(-(1 << 63), (1 << 63) - 1) | st.none(),
    lambda inner: st.lists(inner, max_size=5), max_leaves=20,
)  # fmt: skip


def packed_value(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(packed_value(one) for one in value)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_it_reads_what_hiredis_reads(value: Any) -> None:
    data = packed_value(value)
    reader = hiredis.Reader()
    reader.feed(data)
    found = extension.read_reply(data)
    if found == DEEP:
        return
    assert found == (reader.gets(), len(data)) == (value, len(data))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="{}ab:", max_size=12))
def test_slots_as_redis_py_counts_them(key: str) -> None:
    assert extension.slot_of(key) == twin.slot_of(key) == key_slot(key.encode())
