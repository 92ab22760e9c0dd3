"""The demo page in a real Chromium, on the whole running system."""

import json
import re
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect
from playwright.async_api import Error as BrowserError

from devstack.secrets import DEMO_TENANT
from notification.settings import Settings
from tests.browser.demo import DemoTab, chromium, demo_tab, fresh_user
from tests.stack.route import history_holds, status_becomes

# One browser, and so one event loop, for all tests here; each test has a context of its own.
pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

WIDE: Any = {"width": 1280, "height": 900}
PHONE: Any = {"width": 360, "height": 740}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser, system: Settings) -> AsyncIterator[DemoTab]:
    context = await browser.new_context(viewport=WIDE)
    async with context, demo_tab(context, system, fresh_user()) as opened:
        yield opened


async def test_a_notification_sent_by_the_form_arrives_is_acked_and_read(tab: DemoTab, system: Settings) -> None:
    await expect(tab.page.locator("#empty-title")).to_have_text("Nothing here yet")
    ident = await tab.send_by_form(
        title="Parcel", body="Two stops away", priority="high", type="service", action="Track", ttl="3600"
    )
    row = tab.row("Parcel")
    await expect(row).to_have_attribute("data-id", ident)
    await expect(row.locator(".text")).to_have_text("Two stops away")
    await expect(row.locator(".chip")).to_have_text("High")
    await expect(row.locator(".meta")).to_contain_text("Service")
    await expect(row.get_by_role("button", name="Track")).to_be_visible()
    await expect(tab.badge).to_have_text("1")
    await expect(tab.page).to_have_title("(1) Herald demo")
    await expect(tab.page.locator(".toast strong")).to_have_text("Parcel")
    await expect(tab.page.locator("#announce-now")).to_contain_text("Parcel")
    steps = tab.page.locator(f"#trace [data-id='{ident}'] .step.done")
    await expect(steps).to_have_text([re.compile(f"{step}.*m?s") for step in ("Accepted", "Received", "Acked")])
    await status_becomes(system, DEMO_TENANT, ident, "DELIVERED")

    await row.get_by_role("button", name="Parcel").click()
    await expect(row).not_to_have_class(re.compile("unread"))
    await expect(tab.badge).to_be_hidden()
    await status_becomes(system, DEMO_TENANT, ident, "READ")
    await history_holds(system, DEMO_TENANT, ident, "ACCEPTED", "DELIVERED", "READ")


async def test_text_stays_text(tab: DemoTab) -> None:
    evil = "<img src=x onerror=\"document.title='broken into'\">"
    body = "<script>document.title='broken into'</script><b>b</b>"
    await tab.send_by_form(title=evil, body=body, action="<i>go</i>")
    row = tab.rows.first
    await expect(row.locator(".card-title")).to_have_text(evil)
    await expect(row.locator(".text")).to_have_text(body)
    await expect(row.locator(".action")).to_have_text("<i>go</i>")
    assert await tab.page.locator(":is(#list, #trace) :is(img, script, b, i)").count() == 0
    assert "broken into" not in await tab.page.title()


async def test_every_device_gets_it_and_reading_syncs(tab: DemoTab, browser: Browser, system: Settings) -> None:
    phone_context = await browser.new_context(viewport=WIDE)
    async with demo_tab(phone_context, system, tab.user, "phone") as phone:
        ident = await tab.send_by_form(title="Both", body="b", priority="low")
        for device in (tab, phone):
            await expect(device.row("Both")).to_have_attribute("data-id", ident)
            await expect(device.badge).to_have_text("1")
        await phone.page.get_by_role("button", name="Mark all read").click()
        for device in (phone, tab):
            await expect(device.badge).to_be_hidden()
            await expect(device.row("Both")).not_to_have_class(re.compile("unread"))
        await status_becomes(system, DEMO_TENANT, ident, "READ")


async def test_what_came_while_away_is_parked_and_delivered_on_reload(tab: DemoTab, system: Settings) -> None:
    await tab.send("Before")
    await expect(tab.row("Before")).to_be_visible()
    await tab.page.goto("about:blank")
    ident = await tab.send("While away", priority="high")
    await status_becomes(system, DEMO_TENANT, ident, "PARKED")
    await tab.open()
    await expect(tab.rows).to_have_count(2)
    await expect(tab.rows.first).to_have_attribute("data-id", ident)
    await expect(tab.badge).to_have_text("2")
    await expect(tab.page.locator(".toast")).to_have_count(0)
    await status_becomes(system, DEMO_TENANT, ident, "DELIVERED")


async def test_going_offline_parks_and_returning_delivers(tab: DemoTab, system: Settings) -> None:
    await tab.page.get_by_role("button", name="Go offline").click()
    await expect(tab.page.locator("#status-text")).to_have_text("Offline")
    await expect(tab.page.locator("#notice-text")).to_contain_text("parked")
    ident = await tab.send_by_form(title="Later", body="b")
    await expect(tab.page.locator(f"#trace [data-id='{ident}'] .trace-hint")).to_contain_text("Parked")
    await status_becomes(system, DEMO_TENANT, ident, "PARKED")
    await expect(tab.row("Later")).to_have_count(0)
    await tab.page.locator("#notice-action").click()
    await expect(tab.row("Later")).to_be_visible()
    await expect(tab.page.locator(f"#trace [data-id='{ident}'] .step.done")).to_have_count(3)
    await status_becomes(system, DEMO_TENANT, ident, "DELIVERED")


async def test_all_of_it_by_keyboard(tab: DemoTab) -> None:
    keys = tab.page.keyboard
    await tab.page.locator("#f-title").focus()
    await keys.press("Control+A")
    await keys.type("Typed")
    await keys.press("Tab")
    await keys.press("Control+A")
    await keys.type("By hand")
    await keys.press("Control+Enter")
    await expect(tab.row("Typed")).to_be_visible()
    await tab.send("Second")
    await expect(tab.badge).to_have_text("2")

    await keys.press("Escape")
    await expect(tab.page.locator("#panel")).to_be_hidden()
    await expect(tab.page.locator("#bell")).to_be_focused()
    outline = await tab.page.locator("#bell").evaluate("bell => getComputedStyle(bell).outlineStyle")
    assert outline == "solid"
    await keys.press("Enter")
    await expect(tab.page.locator("#bell")).to_have_attribute("aria-expanded", "true")
    await expect(tab.page.locator("#panel-title")).to_be_focused()
    await keys.press("ArrowDown")
    await keys.press("ArrowDown")
    await expect(tab.row("Typed").locator(".card-title")).to_be_focused()
    await keys.press("Enter")
    await expect(tab.row("Typed")).not_to_have_class(re.compile("unread"))
    await expect(tab.badge).to_have_text("1")
    await expect(tab.page.locator("#bell")).to_have_accessible_name("Notifications, 1 unread")


async def test_every_control_has_a_name(tab: DemoTab) -> None:
    await tab.send(
        "Named", actions=[{"id": "a", "label": "Act"}, {"id": "b", "label": "Go", "url": "https://a.test/"}]
    )
    await expect(tab.row("Named")).to_be_visible()
    controls = ", ".join(f"{kind}:visible" for kind in ("button", "a", "input", "select", "textarea"))
    for control in await tab.page.locator(controls).all():
        await expect(control).to_have_accessible_name(re.compile(r"\S"))
    link = tab.row("Named").get_by_role("link", name="Go")
    await expect(link).to_have_attribute("rel", "noopener noreferrer")


async def test_light_and_dark(browser: Browser, system: Settings, tmp_path: Path) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        context = await browser.new_context(viewport=WIDE, color_scheme=scheme)
        async with demo_tab(context, system, fresh_user()) as tab:
            await tab.send("Seen", actions=[{"id": "a", "label": "Act"}])
            await expect(tab.row("Seen")).to_be_visible()
            await tab.page.screenshot(path=tmp_path / f"{scheme}.png")
            grounds[scheme] = await _ground(tab.page)
            await tab.page.locator("#theme").click()
            grounds[f"{scheme} toggled"] = await _ground(tab.page)
            await tab.page.reload()
            assert await _ground(tab.page) == grounds[f"{scheme} toggled"]
    assert grounds["light"] == grounds["dark toggled"] > 200
    assert grounds["dark"] == grounds["light toggled"] < 50


async def test_at_360_px_nothing_scrolls_sideways(browser: Browser, system: Settings) -> None:
    context = await browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    async with demo_tab(context, system, fresh_user()) as tab:
        await tab.send("W" * 200, body="m" * 400, priority="high", image="https://nowhere.invalid/a.png")
        await expect(tab.page.locator(".toast")).to_be_visible()
        await _assert_fits(tab.page)
        await tab.page.locator(".toast").get_by_role("button", name="Dismiss").click()
        await tab.page.locator("#bell").click()
        await expect(tab.rows.first.locator(".picture")).to_have_text("Image unavailable")
        await _assert_fits(tab.page)
        await tab.page.keyboard.press("Escape")
        await expect(tab.page.locator("#bell")).to_be_focused()


async def test_an_image_is_shown(tab: DemoTab) -> None:
    async def picture(route: Route) -> None:
        await route.fulfill(body=_png(), content_type="image/png")

    await tab.page.route("https://images.test/**", picture)
    await tab.send_by_form(title="Pictured", body="b", image="https://images.test/a.png")
    await expect(tab.row("Pictured").locator(".picture")).to_have_class(re.compile("loaded"))


async def test_a_wrong_field_is_named_beside_it(tab: DemoTab) -> None:
    await tab.fill(title="Wrong", image="http://plain.example/a.png")
    await tab.page.get_by_role("button", name="Send", exact=True).click()
    await expect(tab.page.locator("#e-image")).to_have_text("This must be an https:// URL.")
    await expect(tab.page.locator("#f-image")).to_be_focused()
    await tab.fill(image="", body="é" * 3_000)
    await tab.page.get_by_role("button", name="Send", exact=True).click()
    await expect(tab.page.locator("#e-body")).to_contain_text("at most 4096 fit")
    await expect(tab.page.locator("#e-image")).to_be_hidden()
    await expect(tab.page.locator(".trace-row")).to_have_count(0)


async def test_the_same_device_elsewhere_takes_over(tab: DemoTab, system: Settings) -> None:
    async with demo_tab(tab.page.context, system, tab.user, "laptop") as other:
        await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "stopped")
        await expect(tab.page.locator("#notice-text")).to_contain_text("connected somewhere else")
        await other.page.wait_for_timeout(1_500)  # longer than a first backoff: the old one must not come back
        await expect(other.page.locator("#status")).to_have_attribute("data-phase", "live")
        await tab.page.get_by_role("button", name="Use this tab").click()
        await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "live")
        await expect(other.page.locator("#status")).to_have_attribute("data-phase", "stopped")


async def test_the_token_is_renewed_on_the_live_connection(browser: Browser, system: Settings) -> None:
    context = await browser.new_context(viewport=WIDE)

    async def short_lived(route: Route) -> None:
        answer = await (await route.fetch()).json()
        await route.fulfill(json=answer | {"expires_in": 3})

    await context.route("**/token", short_lived)
    async with demo_tab(context, system, fresh_user()) as tab:
        await tab.page.wait_for_timeout(3_500)
        assert any(json.loads(frame)["t"] == "reauth" for frame in tab.sent)
        await tab.send("After")
        await expect(tab.row("After")).to_be_visible()
        await expect(tab.page.locator("#status")).to_have_attribute("data-phase", "live")


async def test_the_content_policy_refuses_markup_and_strangers(tab: DemoTab) -> None:
    with pytest.raises(BrowserError, match="TrustedHTML"):
        await tab.page.evaluate("document.body.innerHTML = '<p>markup</p>'")
    response = await tab.page.context.request.get(tab.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-store"


async def _ground(page: Page) -> int:
    """The red of the page's background, 0 to 255."""
    colour: str = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return int(colour.removeprefix("rgb(").split(",")[0])


async def _assert_fits(page: Page) -> None:
    for selector in ("html", ".scroll"):
        width = await page.locator(selector).evaluate("element => element.scrollWidth")
        assert width <= PHONE["width"], selector


def _png() -> bytes:
    """One green pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\x0c\x6b\x5d")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
