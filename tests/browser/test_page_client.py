"""The page's protocol client against a scripted gateway: what a healthy system seldom does."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, WebSocketRoute, expect

from devstack import web
from notification.ids import new_uuid7
from notification.settings import Settings
from tests.browser.demo import chromium

# One browser, and so one event loop, for all tests here; each test has a page of its own.
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

WAIT_S = 15.0
_COMMANDS = ("page", "state")


class Session:
    """One connection of the page, seen from the gateway."""

    def __init__(self, route: WebSocketRoute) -> None:
        self.route = route
        self.at_s = time.monotonic()
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        cursor = parse_qs(urlsplit(route.url).query).get("cursor")
        self.cursor = None if cursor is None else json.loads(base64.urlsafe_b64decode(cursor[0] + "==="))
        route.on_message(lambda text: self.frames.put_nowait(json.loads(text)))

    def send(self, **frame: Any) -> None:
        self.route.send(json.dumps(frame))

    def welcome(self, epoch: int = 1, recovered: bool | str = True) -> None:
        self.send(t="welcome", session="s", client_id="c", heartbeat_s=30, epoch=epoch, recovered=recovered)

    def resumed(self, at: dict[str, int], unread: int = 0, rev: int = 0, recovered: bool = True) -> None:
        self.send(t="resumed", at=at, counters={"unread": unread, "rev": rev}, recovered=recovered)

    def notify(self, seq: int, title: str, ident: str | None = None) -> str:
        now_ms = time.time_ns() // 1_000_000
        ident = ident or str(new_uuid7(now_ms + seq))  # in order also within one millisecond
        self.send(
            t="n", lane="direct.high", seq=seq, id=ident, type="service", priority="medium",
            sent_at=now_ms, expires_at=now_ms + 60_000, p={"title": title, "body": "b"},
        )  # fmt: skip
        return ident

    async def frame(self, kind: str) -> dict[str, Any]:
        """The next frame of this kind; others are passed over."""
        async with asyncio.timeout(WAIT_S):
            while (frame := await self.frames.get())["t"] != kind:
                continue
            return frame

    async def command(self) -> dict[str, Any]:
        """The next frame that asks for an answer."""
        async with asyncio.timeout(WAIT_S):
            while (frame := await self.frames.get())["t"] not in _COMMANDS:
                continue
            return frame

    async def mark(self) -> dict[str, Any]:
        """The next frame of marks; pages asked for before it are empty."""
        while (command := await self.command())["t"] == "page":
            self.send(t="page", items=[], counters={"unread": 0, "rev": 0})
        return command

    def commands(self) -> list[dict[str, Any]]:
        """Those that came and were not taken."""
        waiting = [self.frames.get_nowait() for _ in range(self.frames.qsize())]
        return [frame for frame in waiting if frame["t"] in _COMMANDS]


class Gateway:
    """Takes the page's connections in turn; `open()` also answers the first page of the inbox."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.tokens = 0
        self._sessions: asyncio.Queue[Session] = asyncio.Queue()

    def take(self, route: WebSocketRoute) -> None:
        self._sessions.put_nowait(Session(route))

    async def session(self) -> Session:
        async with asyncio.timeout(WAIT_S):
            return await self._sessions.get()

    async def nobody_comes(self, during_s: float) -> None:
        await asyncio.sleep(during_s)
        assert self._sessions.empty()

    async def open(self) -> Session:
        await self.page.goto(self.url)
        session = await self.session()
        session.welcome()
        session.resumed({})
        assert await session.frame("page") == {"t": "page", "limit": 30}
        session.send(t="page", items=[], counters={"unread": 0, "rev": 0})
        await self.phase("live")
        return session

    async def phase(self, phase: str) -> None:
        await expect(self.page.locator("#status")).to_have_attribute("data-phase", phase)

    async def titles(self, *wanted: str) -> None:
        await expect(self.page.locator("#list .card-title")).to_have_text(list(wanted))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(browser: Browser) -> AsyncIterator[Gateway]:
    async def publish(topic: str, key: bytes, value: bytes) -> None:
        """These tests send nothing."""

    app = web.create_app(Settings(), b"k" * 43, publish)
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    async with TestServer(app) as server, context:
        page = await context.new_page()
        taking = Gateway(page, f"http://127.0.0.1:{server.port}/?user=ann&device=laptop")
        page.on("request", lambda request: _count(taking, request.url))
        await page.route_web_socket("**/ws/connect*", taking.take)
        yield taking


def _count(gateway: Gateway, url: str) -> None:
    gateway.tokens += url.endswith("/token")


async def test_it_acks_after_keeping_and_resumes_from_there(gateway: Gateway) -> None:
    session = await gateway.open()
    assert session.cursor is None
    idents = [session.notify(seq, f"number {seq}") for seq in (1, 2)]
    acked: list[str] = []
    while len(acked) < 2:
        acked += (await session.frame("ack"))["ids"]
    assert acked == idents
    kept = json.loads(await gateway.page.evaluate("localStorage.getItem('herald.device.ann.laptop')"))
    assert {item["n"]["id"] for item in kept["items"]} == set(idents)
    await gateway.page.reload()
    assert (await gateway.session()).cursor == {"epoch": 1, "at": {"direct.high": 2}}
    await gateway.titles("number 2", "number 1")


async def test_a_repeated_notification_is_acked_again_and_shown_once(gateway: Gateway) -> None:
    session = await gateway.open()
    ident = session.notify(1, "once")
    await session.frame("ack")
    session.notify(1, "once", ident)
    assert (await session.frame("ack"))["ids"] == [ident]
    await gateway.titles("once")
    await expect(gateway.page.locator("#badge")).to_have_text("1")


async def test_goaway_returns_after_the_delay_and_not_before(gateway: Gateway) -> None:
    session = await gateway.open()
    told_s = time.monotonic()
    session.send(t="goaway", delay_ms=1_500)
    again = await gateway.session()
    assert 1.3 < again.at_s - told_s < 4.0


async def test_a_close_that_follows_goaway_keeps_the_delay(gateway: Gateway) -> None:
    session = await gateway.open()
    told_s = time.monotonic()
    session.send(t="goaway", delay_ms=1_500)
    await session.route.close(code=1012)
    await gateway.phase("waiting")
    again = await gateway.session()
    assert 1.3 < again.at_s - told_s < 4.0


async def test_an_error_says_how_long_to_wait(gateway: Gateway) -> None:
    session = await gateway.open()
    told_s = time.monotonic()
    session.send(t="error", code="tenant_not_yet_known", retry_ms=1_500)
    await session.route.close(code=1012)
    assert (await gateway.session()).at_s - told_s > 1.3


@pytest.mark.parametrize(
    ("code", "offer"), [(1002, "Try again"), (4400, "Try again"), (4403, "Try again"), (4409, "Use this tab")]
)
async def test_a_final_close_stays_closed_until_the_user_asks(gateway: Gateway, code: int, offer: str) -> None:
    session = await gateway.open()
    await session.route.close(code=code)
    await gateway.phase("stopped")
    await gateway.nobody_comes(during_s=1.0)
    await gateway.page.get_by_role("button", name=offer).click()
    await gateway.session()


async def test_an_expired_token_is_replaced(gateway: Gateway) -> None:
    session = await gateway.open()
    assert gateway.tokens == 1
    await session.route.close(code=4401)
    again = await gateway.session()
    again.welcome()
    again.resumed({})
    await gateway.phase("live")
    assert gateway.tokens == 2


async def test_a_token_refused_again_and_again_ends_it(gateway: Gateway) -> None:
    await gateway.page.goto(gateway.url)
    for _ in range(3):
        session = await gateway.session()
        session.send(t="error", code="token")
        await session.route.close(code=4401)
    await gateway.phase("stopped")
    await expect(gateway.page.locator("#notice-text")).to_have_text("The token was refused.")


async def test_unrecovered_drops_what_it_held(gateway: Gateway) -> None:
    session = await gateway.open()
    session.notify(7, "gone")
    await session.frame("ack")
    await session.route.close(code=1012)
    again = await gateway.session()
    again.welcome(epoch=2, recovered=False)
    again.notify(1, "kept")
    again.resumed({"direct.high": 1}, unread=1, rev=0)
    await gateway.phase("live")
    await gateway.titles("kept")
    await expect(gateway.page.locator("#badge")).to_have_text("1")
    await again.route.close(code=1012)
    assert (await gateway.session()).cursor == {"epoch": 2, "at": {"direct.high": 1}}


async def test_while_resume_is_pending_the_cursor_waits(gateway: Gateway) -> None:
    session = await gateway.open()
    session.notify(1, "first")
    await session.frame("ack")
    await session.route.close(code=1012)
    for _ in range(2):
        again = await gateway.session()
        assert again.cursor == {"epoch": 1, "at": {"direct.high": 1}}
        again.welcome(recovered="pending")
        again.notify(9, "ninth")
        await again.frame("ack")
        await again.route.close(code=1012)
    last = await gateway.session()
    last.welcome(recovered="pending")
    last.resumed({"direct.high": 9}, unread=2, rev=9)
    await gateway.phase("live")
    await last.route.close(code=1012)
    assert (await gateway.session()).cursor == {"epoch": 1, "at": {"direct.high": 9}}


async def test_older_counters_are_ignored(gateway: Gateway) -> None:
    session = await gateway.open()
    session.send(t="counters", unread=5, rev=10)
    await expect(gateway.page.locator("#badge")).to_have_text("5")
    session.send(t="counters", unread=1, rev=9)
    session.send(t="counters", unread=6, rev=10)  # of the same rev, but before an expiry
    session.send(t="strange", field=1)
    session.notify(1, "after")
    await session.frame("ack")
    await expect(gateway.page.locator("#badge")).to_have_text("6")


async def test_a_mark_is_kept_until_the_server_says_so(gateway: Gateway) -> None:
    session = await gateway.open()
    ident = session.notify(1, "marked")
    await session.frame("ack")
    await gateway.page.get_by_role("button", name="marked").click()
    assert await session.mark() == {"t": "state", "ids": [ident], "to": "read"}
    await expect(gateway.page.locator("#badge")).to_be_hidden()
    await session.route.close(code=1012)
    again = await gateway.session()
    again.welcome()
    again.resumed({"direct.high": 1}, unread=1, rev=3)
    assert await again.mark() == {"t": "state", "ids": [ident], "to": "read"}
    again.send(t="error", code="busy", retry_ms=200)
    assert await again.mark() == {"t": "state", "ids": [ident], "to": "read"}
    again.send(t="state", ids=[ident], to="read", unread=0, rev=4)
    await expect(gateway.page.locator("#badge")).to_be_hidden()
    kept = json.loads(await gateway.page.evaluate("localStorage.getItem('herald.device.ann.laptop')"))
    assert kept["marks"] == []


async def test_a_mark_of_what_the_server_does_not_know_is_forgotten(gateway: Gateway) -> None:
    session = await gateway.open()
    session.notify(1, "gone")
    await session.frame("ack")
    await gateway.page.get_by_role("button", name="gone").click()
    await session.mark()
    session.send(t="state", ids=[], to="read", unread=0, rev=1)
    kept = "JSON.parse(localStorage.getItem('herald.device.ann.laptop')).marks.length"
    async with asyncio.timeout(30):
        while await gateway.page.evaluate(kept):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


async def test_one_command_is_under_way_at_a_time_and_busy_is_asked_again(gateway: Gateway) -> None:
    session = await gateway.open()
    one, two = session.notify(1, "first"), session.notify(2, "second")
    await gateway.titles("second", "first")
    await gateway.page.get_by_role("button", name="first").click()
    asked, unread = 0, 2
    while unread:
        command = await session.command()
        await gateway.page.wait_for_timeout(100)
        assert session.commands() == []  # nothing else is asked before the answer
        if command["t"] == "page":
            session.send(t="page", items=[], counters={"unread": unread, "rev": 3 - unread})
            continue
        asked += 1
        assert command == {"t": "state", "ids": [one if unread == 2 else two], "to": "read"}
        if asked == 3:
            await gateway.page.get_by_role("button", name="second").click()
            session.send(t="state", ids=[one], to="seen", unread=2, rev=1)  # another device's
            await gateway.page.wait_for_timeout(200)
            assert session.commands() == []
        if asked < 3:
            session.send(t="error", code="busy", retry_ms=100)
        else:
            unread -= 1
            session.send(t="state", ids=command["ids"], to="read", unread=unread, rev=3 - unread)
    assert asked == 4
    await expect(gateway.page.locator("#badge")).to_be_hidden()


async def test_what_is_recalled_goes_also_where_its_recall_came_first(gateway: Gateway) -> None:
    session = await gateway.open()
    shown, late = session.notify(1, "shown"), str(new_uuid7())
    await gateway.titles("shown")
    session.send(t="state", ids=[shown, late], to="recalled", unread=0, rev=4)
    await gateway.titles()
    session.notify(2, "late", late)
    while (await session.frame("ack"))["ids"] != [late]:
        continue
    kept = session.notify(3, "kept")
    await gateway.titles("kept")
    stored = json.loads(await gateway.page.evaluate("localStorage.getItem('herald.device.ann.laptop')"))
    assert [item["n"]["id"] for item in stored["items"]] == [kept]


async def test_what_a_page_leaves_out_is_gone(gateway: Gateway) -> None:
    session = await gateway.open()
    for seq, title in enumerate(("recalled while away", "still there"), 1):
        still = session.notify(seq, title)
    await gateway.titles("still there", "recalled while away")
    await gateway.page.reload()
    session = await gateway.session()
    session.welcome()
    session.resumed({})
    await session.frame("page")
    session.send(t="page", items=[_row(still, "still there", read=False)], counters={"unread": 1, "rev": 1})
    await gateway.titles("still there")


async def test_a_silent_connection_is_replaced(gateway: Gateway) -> None:
    await gateway.page.clock.install()
    session = await gateway.open()
    await gateway.page.clock.fast_forward(30_000)
    await session.frame("ping")
    session.send(t="pong")
    await gateway.page.wait_for_timeout(200)
    await gateway.page.clock.fast_forward(30_000)
    await session.frame("ping")
    await gateway.page.clock.fast_forward(10_000)
    await gateway.page.clock.fast_forward(1_000)
    await gateway.session()


async def test_show_older_pages_on(gateway: Gateway) -> None:
    session = await gateway.open()
    await gateway.page.reload()
    session = await gateway.session()
    session.welcome()
    session.resumed({})
    old, new = str(new_uuid7(1_000)), str(new_uuid7(2_000))
    await session.frame("page")
    session.send(t="page", items=[_row(new, "newer", read=False)], counters={"unread": 1, "rev": 1}, next=new)
    await gateway.titles("newer")
    await gateway.page.get_by_role("button", name="Show older").click()
    assert await session.frame("page") == {"t": "page", "before": new, "limit": 30}
    session.send(t="page", items=[_row(old, "older", read=True)], counters={"unread": 1, "rev": 1})
    await gateway.titles("newer", "older")
    await expect(gateway.page.get_by_role("button", name="Show older")).to_be_hidden()
    await expect(gateway.page.locator("#list .unread")).to_have_count(1)


async def test_mark_all_read_reaches_what_is_not_listed(gateway: Gateway) -> None:
    await gateway.page.goto(gateway.url)
    session = await gateway.session()
    session.welcome()
    session.resumed({}, unread=2, rev=1)
    old, new = str(new_uuid7(1_000)), str(new_uuid7(2_000))
    await session.frame("page")
    session.send(t="page", items=[_row(new, "newer", read=False)], counters={"unread": 2, "rev": 1}, next=new)
    await gateway.titles("newer")
    await gateway.page.get_by_role("button", name="Mark all read").click()
    marked: set[str] = set()
    while marked != {old, new}:
        command = await session.command()
        if command["t"] == "state":
            marked |= set(command["ids"])
            session.send(t="state", ids=command["ids"], to="read", unread=2 - len(marked), rev=2 + len(marked))
        else:
            assert command == {"t": "page", "before": new, "limit": 100}
            session.send(t="page", items=[_row(old, "older", read=False)], counters={"unread": 1, "rev": 2})
    await expect(gateway.page.locator("#badge")).to_be_hidden()


def _row(ident: str, title: str, *, read: bool) -> dict[str, Any]:
    n = {"t": "n", "lane": "direct.low", "seq": 1, "id": ident, "type": "promotional", "priority": "low",
         "sent_at": 1_000, "expires_at": 9_000, "p": {"title": title, "body": "b"}}  # fmt: skip
    return {"n": n, "read": read}
