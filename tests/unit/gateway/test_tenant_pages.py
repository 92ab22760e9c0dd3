"""A snapshot's tenants, page by page: complete and of one version before they count."""

from gateway.tenant_pages import TenantPages, Whole
from gateway.tokens import Keys
from notification.limits import EDGE_CHANGES_COUNT_MAX
from notification.messages import EdgeReply, EdgeTenant

NOTHING = Keys(())


def page(version: int, *names: str, more: bool = False, epoch: int = 7) -> EdgeReply:
    tenants = [EdgeTenant(name, "active", [], [], [f"iss:{name}"]) for name in names]
    return EdgeReply(version, epoch, tenants, tenants_more=more)


def names(whole: Whole | None) -> list[str]:
    assert whole is not None
    return list(whole.keys.tenants)


def test_one_page_is_all() -> None:
    pages = TenantPages()
    whole = pages.take(page(3, "a", "b"), NOTHING)
    assert names(whole) == ["a", "b"]
    assert whole is not None
    assert (whole.version, whole.jwks_issuers) == (3, ["iss:a", "iss:b"])
    assert (pages.after, pages.unfinished) == ("", False)


def test_no_tenants_at_all_are_a_snapshot_too() -> None:
    pages = TenantPages()
    assert names(pages.take(page(3), NOTHING)) == []
    assert not pages.unfinished


def test_pages_make_one_snapshot() -> None:
    pages = TenantPages()
    assert pages.take(page(3, "a", "b", more=True), NOTHING) is None
    assert (pages.after, pages.unfinished) == ("b", True)
    assert pages.take(page(3, "c", more=True), NOTHING) is None
    assert pages.after == "c"
    whole = pages.take(page(3, "d"), NOTHING)
    assert names(whole) == ["a", "b", "c", "d"]
    assert names(pages.take(page(4, "x"), NOTHING)) == ["x"], "nothing of it is left"


def test_another_version_on_the_way_begins_again() -> None:
    for epoch, version in ((7, 4), (8, 3)):
        pages = TenantPages()
        pages.take(page(3, "a", "gone", more=True), NOTHING)
        assert pages.take(page(version, "h", epoch=epoch), NOTHING) is None
        assert (pages.after, pages.unfinished) == ("", True)
        whole = pages.take(page(version, "a", "h", epoch=epoch), NOTHING)
        assert names(whole) == ["a", "h"]
        assert whole is not None
        assert whole.version == version


def test_what_is_in_use_became_current_on_the_way() -> None:
    pages = TenantPages()
    pages.take(page(3, "a", more=True), NOTHING)
    assert pages.take(EdgeReply(2, 7, None), NOTHING) is None
    assert (pages.after, pages.unfinished) == ("", False)


def test_it_begins_again_so_often_and_then_bears_the_oldest_version() -> None:
    pages = TenantPages()
    version = 1
    for _ in range(EDGE_CHANGES_COUNT_MAX):
        assert pages.take(page(version, "a", more=True), NOTHING) is None
        version += 1
        assert pages.take(page(version, "b"), NOTHING) is None
        assert pages.after == ""
    first = version
    assert pages.take(page(first, "a", more=True), NOTHING) is None
    assert pages.take(page(first + 1, "b", more=True), NOTHING) is None
    whole = pages.take(page(first + 2, "c"), NOTHING)
    assert names(whole) == ["a", "b", "c"]
    assert whole is not None
    assert whole.version == first
