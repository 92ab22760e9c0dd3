"""The link between supervisor and process."""

import asyncio
import socket

from gateway import link
from notification.lifecycle import stop_event


class Supervisor:
    """The other end, on a plain socket."""

    def __init__(self) -> None:
        self.sock, self.theirs = link.pair()
        self.counted = 7
        self.told: list[int] = []
        self.link = link.Link(self.theirs, lambda: self.counted, self.told.append)

    async def hear(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 64), 10)


async def test_a_process_listens_when_it_is_told_and_then_counts() -> None:
    supervisor = Supervisor()
    listening = asyncio.create_task(supervisor.link.listen())
    assert await supervisor.hear() == b"listen 0"
    assert not listening.done()
    supervisor.sock.send(b"listening 0")
    await asyncio.wait_for(listening, 10)
    assert await supervisor.hear() == b"count 7"
    supervisor.counted = 8
    assert await supervisor.hear() == b"count 8"
    supervisor.sock.send(b"shed 3")
    supervisor.sock.send(b"shed x")  # logged, left out
    supervisor.sock.send(b"shed 4")
    while len(supervisor.told) < 2:  # noqa: ASYNC110 - told by a callback
        await asyncio.sleep(0.01)
    assert supervisor.told == [3, 4]
    supervisor.link.draining()
    while await supervisor.hear() != b"draining 0":
        pass
    await supervisor.link.close()
    supervisor.sock.close()


async def test_an_end_that_is_gone_and_one_that_does_not_read_break_nothing() -> None:
    ours, theirs = link.pair()
    end = link.End(ours, lambda verb, number: None)
    for number in range(10_000):  # more than the socket holds: dropped
        end.say("count", number)
    theirs.close()
    end.say("count", 1)
    await asyncio.sleep(0.05)
    end.close()
    assert ours.fileno() == -1


async def test_messages_keep_their_bounds() -> None:
    heard: list[tuple[str, int]] = []
    ours, theirs = link.pair()
    end = link.End(ours, lambda verb, number: heard.append((verb, number)))
    assert theirs.type == socket.SOCK_SEQPACKET
    theirs.send(b"count 1")
    theirs.send(b"count 22")
    while len(heard) < 2:  # noqa: ASYNC110 - heard by a callback
        await asyncio.sleep(0.01)
    assert heard == [("count", 1), ("count", 22)]
    end.close()
    theirs.close()


async def test_a_process_ends_with_its_supervisor() -> None:
    supervisor = Supervisor()
    stopped = stop_event()
    supervisor.sock.close()
    await asyncio.wait_for(stopped.wait(), 20)
    await supervisor.link.close()
