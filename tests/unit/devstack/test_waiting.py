"""devstack/waiting.py; the servers themselves are asked in tests/stack/test_run.py."""

import pytest

from devstack.waiting import wait_for_servers, without_login
from notification.settings import Settings


@pytest.mark.parametrize(
    ("addresses", "shown"),
    [
        ("redis://user:secret@host:6379/0", "host:6379"),
        ("nats://a:b@one:4222,nats://a:b@two:4222", "one:4222,two:4222"),
        ("one:9092,two:9092", "one:9092,two:9092"),
        ("postgresql://owner:p%40ss@host/herald", "host"),
    ],
)
def test_no_login_is_shown(addresses: str, shown: str) -> None:
    assert without_login(addresses) == shown


async def test_without_a_configured_address_there_is_nothing_to_wait_for() -> None:
    await wait_for_servers(Settings(), 0)
