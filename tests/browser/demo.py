"""Helpers of the browser tests: a real Chromium, one user on one device, what the page shows."""

import contextlib
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

from notification.settings import Settings

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# The demo page promises a blink of an eye; a test machine under load gets longer.
expect.set_options(timeout=15_000)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium. A machine without one fails the test and says how to get it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("this test drives a real Chromium and finds none; get it with: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


def fresh_user() -> str:
    """Nobody else's: tests share one system."""
    return f"u-{secrets.token_hex(6)}"


class DemoTab:
    """One tab of the demo page: a user on a device. Page errors and console errors fail the test at close."""

    def __init__(self, page: Page, settings: Settings, user: str, device: str) -> None:
        self.page = page
        self.user = user
        self.url = f"http://127.0.0.1:{settings.demo_port}/?user={user}&device={device}"
        self.errors: list[str] = []
        self.sent: list[str] = []  # frames to the gateway
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda socket: socket.on("framesent", self._frame_sent))

    def _frame_sent(self, data: Any) -> None:
        self.sent.append(data if isinstance(data, str) else data.decode())

    async def open(self) -> "DemoTab":
        await self.page.goto(self.url)
        await expect(self.page.locator("#status")).to_have_attribute("data-phase", "live")
        return self

    @property
    def badge(self) -> Locator:
        return self.page.locator("#badge")

    @property
    def rows(self) -> Locator:
        return self.page.locator("#list .item")

    def row(self, title: str) -> Locator:
        return self.rows.filter(has=self.page.get_by_role("button", name=title, exact=True))

    async def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            if name == "priority":
                await self.page.locator(f"input[name=priority][value={value}]").check()
            elif name in ("type", "ttl"):
                await self.page.locator(f"#f-{name}").select_option(value)
            else:
                await self.page.locator(f"#f-{name}").fill(value)

    async def send_by_form(self, **fields: str) -> str:
        """Send with the form; the id that Kafka accepted."""
        await self.fill(**fields)
        async with self.page.expect_response(re.compile("/send$")) as waiting:
            await self.page.get_by_role("button", name="Send", exact=True).click()
        return await accepted(await waiting.value)

    async def send(self, title: str, **fields: Any) -> str:
        """Send beside the form, as any service would."""
        event = {"user": self.user, "type": "service", "priority": "medium", "title": title, "body": "b"} | fields
        origin = self.url.partition("/?")[0]
        return await accepted(await self.page.context.request.post(f"{origin}/send", data=event))


async def accepted(response: Any) -> str:
    answer = await response.json()
    assert response.status == 202, answer
    assert isinstance(answer["id"], str)
    return answer["id"]


@contextlib.asynccontextmanager
async def demo_tab(
    context: BrowserContext, settings: Settings, user: str, device: str = "laptop"
) -> AsyncIterator[DemoTab]:
    tab = DemoTab(await context.new_page(), settings, user, device)
    yield await tab.open()
    assert tab.errors == []
