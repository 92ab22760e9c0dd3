"""One contract: the memory twin, Valkey, the master of a Sentinel, a cluster; the presence scripts run on all."""

import secrets

import pytest

from gateway.pipeline import Pipeline, PipelineError
from gateway.presence import BREAK, CONNECT, KEEP, PUT, REMOVE
from notification.errors import Unavailable


@pytest.fixture
def key() -> str:
    return f"test:{secrets.token_hex(8)}"


async def test_call_answers(pipeline: Pipeline, key: str) -> None:
    assert pipeline.connected
    assert await pipeline.call("PING") in (b"PONG", "PONG")
    assert await pipeline.call("GET", key) is None
    assert await pipeline.call("SET", key, b"\x00\r\n\xff", "PX", 60_000) == b"OK"
    assert await pipeline.call("GET", key) == b"\x00\r\n\xff"
    await pipeline.call("DEL", key)


async def test_pushes_and_calls_keep_their_order(pipeline: Pipeline, key: str) -> None:
    for number in range(100):
        assert pipeline.push("HSET", key, "n", number)
    assert await pipeline.call("HGET", key, "n") == b"99"
    assert pipeline.queued == 0
    pipeline.push("DEL", key)
    assert await pipeline.call("HGET", key, "n") is None


async def test_a_refused_call_is_an_error_and_a_refused_push_is_not(pipeline: Pipeline, key: str) -> None:
    with pytest.raises(PipelineError, match="unknown command"):
        await pipeline.call("NONSENSE")
    assert pipeline.push("NONSENSE")
    assert await pipeline.call("GET", key) is None


async def test_set_nx_get_tells_who_was_first(pipeline: Pipeline, key: str) -> None:
    assert await pipeline.call("SET", key, "1", "NX", "GET") is None
    assert await pipeline.call("SET", key, "2", "NX", "GET") == b"1"
    assert await pipeline.call("GET", key) == b"1"
    await pipeline.call("DEL", key)


async def test_streams(pipeline: Pipeline, key: str) -> None:
    pipeline.push("XADD", key, "MAXLEN", "~", 1_000, "*", "b", b"\x00one")
    pipeline.push("XADD", key, "MAXLEN", "~", 1_000, "*", "b", b"two")
    assert await pipeline.call("XLEN", key) == 2
    await pipeline.call("DEL", key)


async def put(pipeline: Pipeline, key: str, entry: str, why: str) -> str:
    """The reply of PUT without the count."""
    epoch = int(entry.split(" ")[1])
    reply: bytes = await pipeline.call("EVAL", PUT, 1, key, "phone", epoch, entry, 16, why)
    return reply.decode().removeprefix("1 ")


async def test_who_connects_now_is_the_newest_whatever_its_clock_says(pipeline: Pipeline, key: str) -> None:
    ahead, behind = 1_795_468_853_000, 1_795_468_850_000
    assert await put(pipeline, key, f"g-1 {ahead} ONLINE 5", CONNECT) == f"{ahead} "
    assert await put(pipeline, key, f"g-0 {behind} ONLINE 4", CONNECT) == f"{ahead + 1} g-1 {ahead} ONLINE 5"
    assert await pipeline.call("HGET", key, "phone") == f"g-0 {ahead + 1} ONLINE 4".encode()
    assert await put(pipeline, key, f"g-1 {ahead} RECONNECTING 9", BREAK) == f"0 g-0 {ahead + 1} ONLINE 4"
    assert await pipeline.call("EVAL", REMOVE, 1, key, "phone", f"g-1 {ahead} ") == 0
    assert (
        await put(pipeline, key, f"g-0 {ahead + 1} RECONNECTING 9", BREAK)
        == f"{ahead + 1} g-0 {ahead + 1} ONLINE 4"
    )
    assert await put(pipeline, key, "g-0 7 ONLINE 7", CONNECT) == f"{ahead + 2} g-0 {ahead + 1} RECONNECTING 9"
    assert await put(pipeline, key, f"g-2 {ahead + 9} ONLINE 7", CONNECT) == f"{ahead + 9} g-0 {ahead + 2} ONLINE 7"
    assert await pipeline.call("HGET", key, "phone") == f"g-2 {ahead + 9} ONLINE 7".encode()


async def test_what_is_kept_gives_way_to_a_newer_connection_only(pipeline: Pipeline, key: str) -> None:
    assert await put(pipeline, key, "g-1 5 ONLINE 5", KEEP) == "5 "
    assert await put(pipeline, key, "g-1 5 ONLINE 5", KEEP) == "5 g-1 5 ONLINE 5"
    assert await put(pipeline, key, "g-0 4 ONLINE 4", KEEP) == "0 g-1 5 ONLINE 5"
    assert await pipeline.call("HGET", key, "phone") == b"g-1 5 ONLINE 5"
    assert await put(pipeline, key, "g-0 5 ONLINE 4", KEEP) == "6 g-1 5 ONLINE 5"
    assert await put(pipeline, key, "g-0 3 ONLINE 3", KEEP) == "7 g-0 6 ONLINE 4"
    assert await put(pipeline, key, "g-0 7 RECONNECTING 8", BREAK) == "7 g-0 7 ONLINE 3"
    assert await put(pipeline, key, "g-1 5 ONLINE 5", KEEP) == "8 g-0 7 RECONNECTING 8"
    assert await pipeline.call("HGET", key, "phone") == b"g-1 8 ONLINE 5"


async def test_a_pushed_command_tells_its_reply(pipeline: Pipeline, key: str) -> None:
    heard: list[object] = []
    pipeline.push("HSET", key, "a", "1", told=heard.append)
    pipeline.push("NOT-A-COMMAND", told=heard.append)
    pipeline.push("HGET", key, "a", told=heard.append)
    await pipeline.call("HGET", key, "a")
    assert heard == [1, b"1"]


async def test_only_ones_own_entry_is_removed(pipeline: Pipeline, key: str) -> None:
    await pipeline.call("EVAL", PUT, 1, key, "phone", 1_795_468_850_347, "g-1 1795468850347 ONLINE 5", 16, KEEP)
    assert await pipeline.call("EVAL", REMOVE, 1, key, "phone", "g-1 179546885034 ") == 0
    assert await pipeline.call("EVAL", REMOVE, 1, key, "phone", "g-2 1795468850347 ") == 0
    assert await pipeline.call("EVAL", REMOVE, 1, key, "other", "g-1 1795468850347 ") == 0
    assert await pipeline.call("EVAL", REMOVE, 1, key, "phone", "g-1 1795468850347 ") == 1
    assert await pipeline.call("HGET", key, "phone") is None


async def test_an_entry_nobody_understands_is_replaced(pipeline: Pipeline, key: str) -> None:
    for nonsense in ("what is this", f"g-2 {'9' * 400} ONLINE 5"):
        await pipeline.call("HSET", key, "phone", nonsense)
        assert await put(pipeline, key, "g-1 5 ONLINE 5", CONNECT) == f"5 {nonsense}"
        assert await pipeline.call("HGET", key, "phone") == b"g-1 5 ONLINE 5"


async def test_devices_are_counted_when_there_are_many(pipeline: Pipeline, key: str) -> None:
    for device, state, few, online in (("a", "ONLINE", 2, 1), ("b", "RECONNECTING", 2, 2), ("c", "ONLINE", 2, 2)):
        entry = f"g 1 {state} 1"
        assert await pipeline.call("EVAL", PUT, 1, key, device, 1, entry, few, KEEP) == f"{online} 1 ".encode()


async def test_ever_new_devices_leave_no_entries(pipeline: Pipeline, key: str) -> None:
    """Those that are one too many are counted, and neither kept nor waited for."""

    async def put(device: str, state: str) -> bytes:
        why = CONNECT if state == "ONLINE" else BREAK
        reply = await pipeline.call("EVAL", PUT, 1, key, device, 1, f"g 1 {state} 1", 2, why)
        assert isinstance(reply, bytes)
        return reply

    assert [await put(device, "ONLINE") for device in "ab"] == [b"1 1 ", b"2 1 "]
    for device in "cdef":
        assert await put(device, "ONLINE") == b"3 1 "
        assert await pipeline.call("HGET", key, device) is None
        await put(device, "RECONNECTING")
    assert await pipeline.call("HLEN", key) == 3
    assert await put("a", "RECONNECTING") == b"2 1 g 1 ONLINE 1"
    assert await pipeline.call("HGET", key, "a") is None
    for number in range(5):
        assert await put(f"tab{number}", "ONLINE") == b"2 1 "
        await put(f"tab{number}", "RECONNECTING")
    assert await pipeline.call("HLEN", key) == 2
    assert await pipeline.call("HGET", key, "b") == b"g 1 ONLINE 1"


async def test_everything_pushed_is_settled(pipeline: Pipeline, key: str) -> None:
    keys = [f"{key}:{number}" for number in range(200)]  # all over a cluster
    for number, each in enumerate(keys):
        assert pipeline.push("SET", each, number, "PX", 60_000)
    await pipeline.settled()
    assert pipeline.queued == 0
    assert [await pipeline.call("GET", each) for each in keys] == [b"%d" % number for number in range(200)]


async def test_arguments_of_every_kind_and_size(pipeline: Pipeline, key: str) -> None:
    for value in ("", "schlüssel 名前", b"", bytes(range(256)) * 4_000, -5, 0, 1 << 62):
        assert await pipeline.call("HSET", key, "f", value) in (0, 1)
        wanted = value if isinstance(value, bytes) else str(value).encode()
        assert await pipeline.call("HGET", key, "f") == wanted
    await pipeline.call("DEL", key)


async def test_a_closed_pipeline(pipeline: Pipeline) -> None:
    await pipeline.close()
    assert not pipeline.connected
    with pytest.raises(Unavailable):
        await pipeline.call("PING")
    pipeline.push("PING")
    with pytest.raises(Unavailable):
        await pipeline.settled()
