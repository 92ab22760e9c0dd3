"""herald.client_requests: one under way at a time, asked again while the server is busy."""

import asyncio
from typing import Any

import pytest

from herald import client_requests as module
from herald.client_errors import ClientError, NotConnected, ServerBusy
from herald.client_requests import Requests
from notification.frames import (
    ClientFrame,
    Counters,
    ErrorFrame,
    Page,
    PageFrame,
    ServerFrame,
    SetState,
    StateFrame,
)

COUNTERS = Counters(0, 1)
BUSY = ErrorFrame("busy", 1)


class Server:
    """What the client sent, in order; answers are given by hand."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[ClientFrame] = asyncio.Queue()
        self.lost = False
        self.requests = Requests(self._send)

    async def _send(self, frame: ClientFrame) -> None:
        if self.lost:
            raise NotConnected("down")
        self.asked.put_nowait(frame)

    async def next(self) -> Any:
        async with asyncio.timeout(30):
            return await self.asked.get()

    def page(self, before: str | None = None) -> "asyncio.Task[PageFrame]":
        return asyncio.create_task(self.requests.page(Page(before=before, limit=3)))

    def mark(self, *ids: str) -> "asyncio.Task[None]":
        return asyncio.create_task(self.requests.set_state(SetState(ids=list(ids), to="read")))

    def tell(self, frame: ServerFrame) -> None:
        self.requests.told(frame)


def rows(next_id: str) -> PageFrame:
    return PageFrame([], COUNTERS, next_id)


def marked(*ids: str, to: str = "read") -> StateFrame:
    return StateFrame(list(ids), to, 1, 0)  # type: ignore[arg-type]


async def idle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_is_under_way_at_a_time_and_each_gets_its_own_answer() -> None:
    server = Server()
    tasks = [server.page(str(number)) for number in range(5)]
    for number in range(5):
        assert (await server.next()).before == str(number)
        await idle()
        assert server.asked.empty()
        server.tell(rows(f"next {number}"))
    assert [(await task).next for task in tasks] == [f"next {number}" for number in range(5)]


async def test_pages_and_marks_take_turns() -> None:
    server = Server()
    mark, page = server.mark("a", "b"), server.page()
    assert isinstance(await server.next(), SetState)
    for other in (rows("late"), marked("c"), marked("a", to="seen"), ErrorFrame("device_mismatch")):
        server.tell(other)
        await idle()
        assert server.asked.empty()
    server.tell(marked("b"))  # there is no "a"
    assert isinstance(await server.next(), Page)
    server.tell(rows("mine"))
    await mark
    assert (await page).next == "mine"


async def test_busy_is_asked_again() -> None:
    server = Server()
    mark, page = server.mark("a"), server.page()
    for _ in range(3):
        assert isinstance(await server.next(), SetState)
        server.tell(BUSY)
    assert isinstance(await server.next(), SetState)
    server.tell(marked("a"))
    await mark
    await server.next()
    server.tell(BUSY)
    await server.next()
    server.tell(rows("at last"))
    assert (await page).next == "at last"


async def test_busy_is_not_asked_again_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.2)
    server = Server()
    page = server.page()
    while not page.done():
        server.tell(ErrorFrame("busy", 10))
        await asyncio.sleep(0.001)
    with pytest.raises(ServerBusy):
        await page
    while not server.asked.empty():
        await server.next()
    later = server.page()
    await server.next()
    server.tell(rows("good"))
    assert (await later).next == "good"


async def test_the_answer_to_one_that_was_given_up_is_nobody_elses() -> None:
    server = Server()
    given_up = server.page()
    await server.next()
    given_up.cancel()
    page = server.page()
    await idle()
    assert server.asked.empty()
    server.tell(rows("late"))
    await server.next()
    server.tell(rows("mine"))
    assert (await page).next == "mine"


async def test_marks_of_unknown_ids_hear_nothing_and_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.01)
    server = Server()
    await server.mark("nobody's")
    assert isinstance(await server.next(), SetState)
    page = server.page()
    await server.next()
    server.tell(rows("good"))
    await page


async def test_a_bad_frame_is_told() -> None:
    server = Server()
    page = server.page()
    await server.next()
    server.tell(ErrorFrame("bad_frame"))
    with pytest.raises(ClientError, match="bad_frame"):
        await page


async def test_a_lost_connection_ends_what_is_under_way_and_refuses_more() -> None:
    server = Server()
    page = server.page()
    await server.next()
    server.lost = True
    server.requests.cut()
    with pytest.raises(NotConnected, match="lost"):
        await page
    with pytest.raises(NotConnected, match="down"):
        await server.mark("a")
    server.lost = False
    again = server.page()
    await server.next()
    server.tell(rows("good"))
    await again
