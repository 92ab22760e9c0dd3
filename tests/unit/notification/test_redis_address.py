"""notification/redis_address: one server, Sentinels, a cluster."""

import pytest

from notification.errors import SettingsError
from notification.redis_address import Kind, RedisAddress, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://h", RedisAddress(Kind.SERVER, (("h", 6379),))),
        ("redis://h:1/", RedisAddress(Kind.SERVER, (("h", 1),))),
        ("rediss://us%40er:p%3Ass@h:6380/2",
         RedisAddress(Kind.SERVER, (("h", 6380),), "", 2, "us@er", "p:ss", tls=True)),
        ("redis://:p@[::1]:7/3", RedisAddress(Kind.SERVER, (("::1", 7),), "", 3, "", "p")),
        ("sentinel://a,b:2,[::1]:3/mymaster",
         RedisAddress(Kind.SENTINEL, (("a", 26379), ("b", 2), ("::1", 3)), "mymaster")),
        ("sentinel://u:p@a/mymaster/4", RedisAddress(Kind.SENTINEL, (("a", 26379),), "mymaster", 4, "u", "p")),
        ("sentinel+tls://u:p@a/m?sentinel_user=s%40&sentinel_password=p%26w",
         RedisAddress(Kind.SENTINEL, (("a", 26379),), "m", 0, "u", "p", True, "s@", "p&w")),
        ("sentinel://a/m?sentinel_password=w",
         RedisAddress(Kind.SENTINEL, (("a", 26379),), "m", sentinel_password="w")),
        ("cluster+tls://a", RedisAddress(Kind.CLUSTER, (("a", 6379),), tls=True)),
        ("cluster://u:p@a:1,b/", RedisAddress(Kind.CLUSTER, (("a", 1), ("b", 6379)), "", 0, "u", "p")),
    ],
)  # fmt: skip
def test_addresses(text: str, address: RedisAddress) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "hunter2", "http://hunter2", "redis://", "redis://h:x/0", "redis://h/hunter2", "redis://h/1/hunter2",
        "redis://h:0", "redis://h:70000", "redis://a,b", "redis://u:hunter2@", "redis://u:hunt/er2@h/0",
        "redis://h/1?hunter2", "redis://h/1#hunter2", "redis://[::1", "redis://a b",
        "sentinel://a,b", "sentinel://a,/m", "sentinel:///m", "sentinel://a/m/hunter2", "sentinel://a/m/1/2",
        "sentinel://u:hunter2@a,v:hunter2@b/m", "sentinel://u:hunt,er2@a/m",
        "sentinel://a/m?sentinel_user=hunter2", "sentinel://a/m?password=hunter2", "sentinel://a/m?hunter2",
        "sentinel://a/m?sentinel_password=hunter2&sentinel_password=hunter2", "redis+tls://h", "sentinels://a/m",
        "cluster://a?sentinel_password=hunter2",
        "cluster://", "cluster://a/1", "cluster://a,,b", "cluster://a:1,b:x",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    said = str(caught.value)
    assert said.startswith("redis: must be redis:// or rediss://")
    assert "hun" not in said
    assert "er2" not in said


def test_messages_show_no_login() -> None:
    for text, shown in (
        ("redis://u:secret@h/1", "Redis at h:6379"),
        ("sentinel://u:secret@a,b/m", "Redis master m of the Sentinels at a:26379,b:26379"),
        ("sentinel+tls://a/m?sentinel_password=secret", "Redis master m of the Sentinels at a:26379"),
        ("cluster://u:secret@a,b", "Redis Cluster at a:6379,b:6379"),
    ):
        assert str(parse(text)) == shown
        assert "secret" not in repr(parse(text))
