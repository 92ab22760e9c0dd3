"""gateway/_fast/exchange over the extension and its twin."""

import gc
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway._fast import exchange as extension
from gateway._fast import resp as extension_resp
from tests.reference import exchange as twin
from tests.reference import resp as twin_resp
from tests.unit.gateway._fast.extensions import both, is_extension

ALL = 1 << 30


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


def made_of(module: ModuleType) -> ModuleType:
    """The resp module whose classes the exchange raises and returns."""
    return extension_resp if module is extension else twin_resp


def command(number: int) -> tuple[str, int]:
    return ("N", number)


def packed(*numbers: int) -> bytes:
    return b"".join(twin_resp.pack(command(number)) for number in numbers)


@both(extension, twin)
class TestExchange:
    def test_commands_leave_once_in_order(self, module: Any) -> None:
        exchange = module.Exchange()
        assert (len(exchange), exchange.sent, exchange.waiting_bytes, exchange.take(ALL)) == (0, 0, 0, b"")
        exchange.put(command(1))
        exchange.put_packed(packed(2), None, 7, True)
        assert (len(exchange), exchange.sent, exchange.waiting_bytes) == (2, 0, len(packed(1, 2)))
        assert exchange.take(ALL) == packed(1, 2)
        assert exchange.take(ALL) == b""
        exchange.put(command(3))
        assert exchange.take(ALL) == packed(3)
        assert (len(exchange), exchange.sent) == (3, 3)

    def test_a_long_queue_leaves_in_pieces(self, module: Any) -> None:
        exchange = module.Exchange()
        for number in range(5):
            exchange.put(command(number))
        each = len(packed(0))
        assert exchange.take(2 * each + 1) == packed(0, 1)
        assert exchange.take(1) == packed(2)
        assert exchange.take(ALL) == packed(3, 4)

    def test_only_who_waits_hears(self, module: Any) -> None:
        exchange = module.Exchange()
        for number in range(6):
            exchange.put(command(number), f"w{number}" if number % 3 == 2 else None)
        exchange.take(ALL)
        exchange.feed(b"+OK\r\n$3\r\n1-0\r\n:7\r\n*2\r\n+a\r\n_\r\n$-1\r\n")
        assert exchange.next() == ("w2", 7)
        assert exchange.next() is None
        assert (len(exchange), exchange.sent, exchange.waiting_bytes) == (1, 1, len(packed(5)))
        exchange.feed(b"$-1\r\n")
        assert exchange.next() == ("w5", None)
        assert (len(exchange), exchange.sent, exchange.waiting_bytes) == (0, 0, 0)

    def test_chopped_at_every_byte(self, module: Any) -> None:
        exchange = module.Exchange()
        data = b"*2\r\n$3\r\nabc\r\n%1\r\n+k\r\n,1.5\r\n"
        for _ in range(3):
            exchange.put(command(1), "w")
            exchange.take(ALL)
            for at in range(len(data)):
                assert exchange.next() is None
                exchange.feed(data[at : at + 1])
            assert exchange.next() == ("w", [b"abc", [(b"k", 1.5)]])

    def test_what_the_server_says_unasked(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1), "w")
        exchange.take(ALL)
        exchange.feed(b">2\r\n+invalidate\r\n_\r\n:1\r\n>1\r\n+x\r\n")
        assert exchange.next() == ("w", 1)
        assert exchange.next() is None

    def test_an_error_waits_for_a_decision(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1))
        exchange.put(command(2), "w", 9, True)
        exchange.put(command(3), "v")
        with pytest.raises(ValueError, match="no command"):
            exchange.refused()
        exchange.take(ALL)
        exchange.feed(b"-MOVED 5 h:1\r\n!5\r\nERR x\r\n+OK\r\n")
        assert exchange.next() == (None, made_of(module).Refusal("MOVED 5 h:1"))
        assert exchange.refused() == (packed(1), -1, False)
        with pytest.raises(ValueError, match="first"):
            exchange.next()
        assert len(exchange) == 3
        exchange.forget()
        assert len(exchange) == 2
        assert exchange.next() == ("w", made_of(module).Refusal("ERR x"))
        assert exchange.refused() == (packed(2), 9, True)
        exchange.forget()
        with pytest.raises(ValueError, match="no command"):
            exchange.forget()
        assert exchange.next() == ("v", b"OK")

    def test_after_a_lost_connection_all_is_sent_again_but_what_was_for_once(self, module: Any) -> None:
        exchange = module.Exchange()
        for number in range(8):
            exchange.put(command(number), f"w{number}" if number != 5 else None, number, number % 2 == 1)
        exchange.take(len(packed(0, 1, 2, 3)))
        exchange.feed(b"+OK\r\n-READONLY no\r\n+half")
        assert exchange.next() == ("w0", b"OK")
        assert exchange.next() == ("w1", made_of(module).Refusal("READONLY no"))
        assert exchange.rewind() == ["w1", "w3", "w7"]
        assert (len(exchange), exchange.sent, exchange.waiting_bytes) == (3, 0, len(packed(2, 4, 6)))
        assert exchange.take(ALL) == packed(2, 4, 6)
        exchange.feed(b":2\r\n:4\r\n:6\r\n")
        assert [exchange.next() for _ in range(4)] == [("w2", 2), ("w4", 4), ("w6", 6), None]

    def test_a_refused_command_that_is_kept_is_first_in_line(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1), "w")
        exchange.put(command(2))
        exchange.take(ALL)
        exchange.feed(b"-LOADING\r\n-LOADING\r\n")
        exchange.next()
        assert exchange.rewind() == []
        assert exchange.next() is None
        assert exchange.take(ALL) == packed(1, 2)

    def test_it_is_drained_in_order(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1), "w", 5)
        exchange.put(command(2), None, 6, True)
        exchange.take(ALL)
        assert exchange.drain() == [(packed(1), "w", 5, False), (packed(2), None, 6, True)]
        assert (len(exchange), exchange.sent, exchange.waiting_bytes, exchange.drain()) == (0, 0, 0, [])

    @pytest.mark.parametrize("data", [b"?\r\n", b"$-5\r\n", b"*1\r\n*1\r\n+a\nb\r\n", b"+OK\r\n+OK\r\n"])
    def test_what_is_no_reply(self, module: Any, data: bytes) -> None:
        exchange = module.Exchange()
        exchange.put(command(1), "w", 0, True)
        exchange.put(command(2))
        exchange.take(1)
        exchange.feed(data)
        if data.startswith(b"+OK"):
            assert exchange.next() == ("w", b"OK")
        with pytest.raises(made_of(module).ProtocolError):
            exchange.next()
        exchange.rewind()
        assert exchange.take(ALL) == packed(2)

    def test_a_reply_before_the_command_was_sent(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1), "w")
        exchange.feed(b"+OK\r\n")
        with pytest.raises(made_of(module).ProtocolError, match="a reply to no command"):
            exchange.next()

    def test_a_command_that_does_not_pack_is_not_queued(self, module: Any) -> None:
        exchange = module.Exchange()
        exchange.put(command(1))
        with pytest.raises(TypeError):
            exchange.put(("N", b"x" * 5_000, None))
        exchange.put(command(2))
        assert exchange.take(ALL) == packed(1, 2)

    def test_queues_grow_and_shrink(self, module: Any) -> None:
        exchange = module.Exchange()
        heard = 0
        for size in (10, 3_000, 200):
            for number in range(size):
                exchange.put(("N", b"x" * 1_000, number), number)
            for _ in range(size // 2):
                exchange.take(700)
                exchange.feed(b":1\r\n")
                assert exchange.next() == (heard, 1)
                heard += 1
            exchange.take(ALL)
            exchange.feed(b":1\r\n" * (size - size // 2))
            while exchange.next():
                heard += 1
            assert len(exchange) == exchange.waiting_bytes == 0
            assert heard == size
            heard = 0


class Waiter:
    """Something a weak reference can watch."""


@pytest.mark.parametrize(
    "end",
    [lambda exchange: exchange.clear(), lambda exchange: exchange.drain(), lambda exchange: exchange.rewind(),
     lambda exchange: exchange.__init__(), lambda exchange: (exchange.feed(b"+OK\r\n"), exchange.next())],
    ids=["clear", "drain", "rewind", "dropped", "answered"],
)  # fmt: skip
def test_waiters_are_let_go(end: Callable[[Any], object]) -> None:
    exchange = extension.Exchange()
    waiter = Waiter()
    watched = weakref.ref(waiter)
    exchange.put(command(1), waiter, 0, True)
    exchange.take(ALL)
    del waiter
    assert watched() is not None
    end(exchange)
    del exchange
    gc.collect()
    assert watched() is None


REPLY = st.sampled_from(
    [b"+OK\r\n", b":5\r\n", b"-ERR x\r\n", b"$-1\r\n", b"*2\r\n:1\r\n$3\r\nabc\r\n", b">1\r\n+p\r\n", b"$20\r\n"]
)


class BothExchanges(RuleBasedStateMachine):
    """The same steps on both; what shows is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = (extension.Exchange(), twin.Exchange())
        self.number = 0
        self.fault = False

    def same(self, step: Callable[[Any], Any]) -> Any:
        results = []
        for exchange in self.pair:
            try:
                results.append(step(exchange))
            except (extension_resp.ProtocolError, twin_resp.ProtocolError) as error:
                results.append(f"fault: {error}")
            except ValueError:
                results.append("misuse")
        assert repr(results[0]) == repr(results[1])
        return results[0]

    @rule(waits=st.booleans(), once=st.booleans(), size=st.sampled_from([0, 1, 50, 6_000]))
    def put(self, waits: bool, once: bool, size: int) -> None:
        self.number += 1
        number = self.number
        self.same(
            lambda exchange: exchange.put(("C", number, b"x" * size), number if waits else None, number, once)
        )

    @rule(bytes_max=st.sampled_from([1, 100, 10_000]))
    def take(self, bytes_max: int) -> None:
        self.same(lambda exchange: exchange.take(bytes_max))

    @precondition(lambda self: not self.fault)
    @rule(replies=st.lists(REPLY, max_size=6), cut=st.integers(0, 10))
    def feed(self, replies: list[bytes], cut: int) -> None:
        data = b"".join(replies)
        data = data[: len(data) - cut]
        self.same(lambda exchange: exchange.feed(data))
        while True:
            found = self.same(lambda exchange: exchange.next())
            if isinstance(found, tuple) and type(found[1]).__name__ == "Refusal":
                self.same(lambda exchange: exchange.refused())
                self.same(lambda exchange: exchange.forget())
            elif not isinstance(found, tuple):
                self.fault = isinstance(found, str)
                return

    @rule()
    def rewind(self) -> None:
        self.same(lambda exchange: exchange.rewind())
        self.fault = False

    @rule()
    def drain(self) -> None:
        self.same(lambda exchange: exchange.drain())
        self.fault = False

    @invariant()
    def counts(self) -> None:
        self.same(lambda exchange: (len(exchange), exchange.sent, exchange.waiting_bytes))


BothExchanges.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBothExchanges = BothExchanges.TestCase
