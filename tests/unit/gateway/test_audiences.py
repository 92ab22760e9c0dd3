"""gateway.audiences: who has what, what is asked how often, and that whatever is lost comes after all."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import audiences as module
from gateway.clock import unix_ms
from notification import batch, names
from notification.batch import CONTROL, EVERYONE, Item
from notification.codes import LANE_COUNT
from notification.messages import AudienceFillRequest, EntitledReply, EntitledRequest
from tests.unit.gateway.audience_world import LANE, TENANT, Row, World, hurry, until


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    hurry(monkeypatch)
    made = World()
    await made.start()
    yield made
    await made.close()


async def test_everyone_has_it_without_a_question(world: World) -> None:
    devices = [await world.device(f"u{number}") for number in range(3)]
    await world.publish(world.add().item())
    await world.quiet()
    assert [one.got for one in devices] == [[b"1"]] * 3
    assert (world.questions, world.nudged) == ([], [])


async def test_only_who_is_entitled_has_it_after_one_question(world: World) -> None:
    devices = [await world.device(f"u{number}") for number in range(10)]
    await world.publish(world.add(["u0", "u9"]).item())
    await world.quiet()
    assert [one.got for one in devices] == [[b"1"], *[[]] * 8, [b"1"]]
    assert [one.session.at()[LANE] for one in devices] == [1] * 10
    (question,) = world.questions
    assert question == EntitledRequest(TENANT, LANE, 1, [f"u{number}" for number in range(10)])


async def test_another_tenant_hears_nothing(world: World) -> None:
    stranger, member = await world.device("ann", "other"), await world.device("ann")
    await world.publish(world.add().item())
    await world.publish(world.add().item(), tenant="other")  # its subject, but not its tag
    await world.quiet()
    assert (stranger.got, member.got) == ([], [b"1"])


async def test_a_batch_is_one_write_per_connection_and_questions_are_asked_together(world: World) -> None:
    ann = await world.device("ann")
    world.gate.clear()
    await world.publish(*(world.add(["ann"] if number % 2 else None).item() for number in range(6)))
    await until(lambda: len(world.questions) == 3)
    world.gate.set()
    await world.quiet()
    assert ann.writes == [[b"1", b"2", b"3", b"4", b"5", b"6"]]


async def test_many_users_are_asked_for_in_chunks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTITLED_USERS_COUNT_MAX", 8)
    monkeypatch.setattr(module, "AUDIENCE_FANOUT_CONNECTIONS_MAX", 16)
    devices = [await world.device(f"u{number}") for number in range(37)]
    members = {f"u{number}" for number in range(0, 37, 3)}
    await world.publish(world.add(sorted(members)).item())
    await world.quiet()
    assert {one.session.user for one in devices if one.got} == members
    assert sorted(len(one.users) for one in world.asked(EntitledRequest)) == [5, 8, 8, 8, 8]


async def test_a_gap_is_filled_once_for_the_process(world: World) -> None:
    devices = [await world.device(user) for user in ("ann", "bob")]
    await world.publish(world.add().item())
    world.add(["ann"])  # never comes
    world.add()  # nor this
    await world.quiet()
    await world.publish(world.add().item())
    await world.quiet()
    assert [one.got for one in devices] == [[b"1", b"2", b"3", b"4"], [b"1", b"3", b"4"]]
    assert world.asked(AudienceFillRequest) == [AudienceFillRequest(TENANT, LANE, 1)]
    assert world.nudged == []


async def test_a_long_gap_comes_in_parts(world: World) -> None:
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    world.fill_max = 10
    for _ in range(34):
        world.add()
    await world.publish(world.add().item())
    await world.quiet()
    assert ann.got == [b"%d" % seq for seq in range(1, 37)]
    assert [one.after for one in world.asked(AudienceFillRequest)] == [1, 11, 21, 31]


async def test_a_lost_last_message_shows_in_the_heads(world: World) -> None:
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    world.add()
    await world.tell(2)
    await world.quiet()
    assert ann.got == [b"1", b"2"]
    await world.tell(2)
    await world.quiet()
    assert len(world.questions) == 1


async def test_what_is_overtaken_by_the_heads_is_not_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUDIENCE_OVERTAKEN_MS", 2_000)
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    row = world.add()
    await world.tell(2)
    await world.publish(row.item())
    await world.quiet()
    assert (ann.got, world.questions) == ([b"1", b"2"], [])


async def test_on_the_first_heads_whoever_is_behind_asks_for_itself(world: World) -> None:
    ann = await world.device("ann")
    world.add()
    bob = await world.device("bob")
    await world.tell(1)
    await world.quiet()
    assert (world.nudged, world.questions) == ([ann], [])
    assert (ann.session.wanted(), bob.session.wanted()) == (True, False)


async def test_on_the_first_item_whoever_lacks_one_before_it_asks_for_itself(world: World) -> None:
    ann = await world.device("ann")
    world.add()
    bob = await world.device("bob")
    await world.publish(world.add().item())
    await world.quiet()
    assert (world.nudged, ann.got, bob.got) == ([ann], [], [b"2"])
    world.fill_nudged()
    assert ann.got == [b"1", b"2"]


async def test_items_doubled_and_late_are_ignored(world: World) -> None:
    ann = await world.device("ann")
    rows = [world.add(), world.add()]
    await world.publish(rows[0].item(), rows[0].item(), rows[1].item(), rows[0].item())
    await world.publish(rows[1].item())
    await world.quiet()
    assert (ann.got, world.questions) == ([b"1", b"2"], [])


async def test_what_has_expired_is_passed_over(world: World) -> None:
    ann = await world.device("ann")
    await world.publish(world.add(expiry_ms=unix_ms() - 1).item(), world.add(expiry_ms=unix_ms() + 60_000).item())
    await world.quiet()
    assert (ann.got, ann.session.at()[LANE]) == ([b"2"], 2)


async def test_what_expires_while_the_question_is_open_is_passed_over(world: World) -> None:
    ann = await world.device("ann")
    world.gate.clear()
    expiry_ms = unix_ms() + 50
    await world.publish(world.add(["ann"], expiry_ms).item())
    await until(lambda: world.questions and unix_ms() > expiry_ms)
    world.gate.set()
    await world.quiet()
    assert (ann.got, ann.session.at()[LANE]) == ([], 1)


async def test_who_joins_while_the_question_is_open_has_it_from_its_fill(world: World) -> None:
    ann = await world.device("ann")
    world.gate.clear()
    await world.publish(world.add(["ann", "bob"]).item())
    await until(lambda: world.questions)
    bob = await world.device("bob")
    assert bob.session.at()[LANE] == 1
    world.gate.set()
    await world.quiet()
    assert (ann.got, bob.got, world.nudged) == ([b"1"], [], [])


async def test_who_leaves_while_the_question_is_open(world: World) -> None:
    ann, bob = await world.device("ann"), await world.device("bob")
    world.gate.clear()
    await world.publish(world.add(["ann", "bob"]).item())
    await until(lambda: world.questions)
    world.leave(ann)
    world.gate.set()
    await world.quiet()
    assert (ann.got, bob.got) == ([], [b"1"])


async def test_a_busy_inbox_is_asked_again(world: World) -> None:
    ann = await world.device("ann")
    world.failing = True
    await world.publish(world.add(["ann"]).item())
    await until(lambda: len(world.questions) >= 2)
    world.failing = False
    await world.quiet()
    assert (ann.got, world.nudged) == ([b"1"], [])


async def test_an_inbox_without_answers_leaves_it_to_each_connection(world: World) -> None:
    ann, bob = await world.device("ann"), await world.device("bob")
    world.failing = True
    await world.publish(world.add(["ann"]).item(), world.add().item())
    await world.quiet()
    assert len(world.questions) == module.AUDIENCE_TRIES_COUNT_MAX
    assert (ann.got, bob.got) == ([], [])
    world.fill_nudged()
    assert (ann.got, bob.got) == ([b"1", b"2"], [b"2"])


async def test_an_answer_of_the_wrong_length_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await world.device("ann")
    monkeypatch.setattr(module, "decode_reply", lambda data: EntitledReply(b""))
    await world.publish(world.add(["bob"]).item())
    await world.quiet()
    assert (ann.got, ann.session.wanted(), world.nudged) == ([], True, [ann])


async def test_a_gap_is_asked_for_until_it_is_filled(world: World) -> None:
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    world.add()
    world.failing = True
    await world.publish(world.add().item())
    await until(lambda: len(world.questions) > module.AUDIENCE_TRIES_COUNT_MAX)
    assert ann.got == [b"1"]
    world.failing = False
    await world.quiet()
    assert ann.got == [b"1", b"2", b"3"]


async def test_what_is_held_is_bounded_and_the_rest_refilled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUDIENCE_HELD_ITEMS_MAX", 4)
    ann = await world.device("ann")
    world.gate.clear()
    await world.publish(world.add(["ann"]).item())
    await until(lambda: world.questions)
    for _ in range(20):
        await world.publish(world.add().item())
    for _ in range(60):
        await asyncio.sleep(0)
    (tenant,) = world.audiences._tenants.values()
    assert len(tenant.lanes[0].items) == 4
    world.gate.set()
    await world.quiet()
    assert ann.got == [b"%d" % seq for seq in range(1, 22)]
    assert world.audiences._held_bytes == 0


async def test_bytes_held_are_bounded_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUDIENCE_HELD_BYTES_MAX", 1)
    ann = await world.device("ann")
    await world.publish(*(world.add().item() for _ in range(5)))
    await world.quiet()
    assert ann.got == [b"%d" % seq for seq in range(1, 6)]
    assert (len(world.asked(AudienceFillRequest)), world.audiences._held_bytes) == (1, 0)


async def test_after_the_bus_was_away_the_lane_is_looked_at(world: World) -> None:
    world.bus.returned = world.audiences.look
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    world.hub.up = False
    await world.publish(world.add().item())
    world.hub.up = True
    await world.quiet()
    assert ann.got == [b"1", b"2"]


@pytest.mark.parametrize("failing", [False, True])
async def test_after_the_bus_was_away_a_lane_that_nothing_is_known_of_is_looked_at(
    world: World, failing: bool
) -> None:
    world.bus.returned = world.audiences.look
    ann = await world.device("ann")
    world.hub.up = False
    await world.publish(world.add().item())
    bob = await world.device("bob")
    world.failing = failing
    world.hub.up = True
    if failing:
        await until(lambda: len(world.questions) > module.AUDIENCE_TRIES_COUNT_MAX * (LANE_COUNT - LANE))
        world.failing = False
    await world.quiet()
    assert world.nudged == [ann]
    world.fill_nudged()
    assert (ann.got, bob.session.wanted()) == ([b"1"], False)
    await world.publish(world.add().item())
    await world.quiet()
    assert (ann.got, bob.got) == ([b"1", b"2"], [b"2"])


async def test_a_store_set_back_begins_anew(world: World) -> None:
    ann = await world.device("ann")
    for _ in range(5):
        await world.publish(world.add().item())
    await world.quiet()
    await world.tell(5)
    await world.quiet()
    world.leave(ann)
    del world.rows[2:]
    bob = await world.device("bob")
    await world.tell(2)
    await world.quiet()
    await world.publish(world.add().item())
    await world.quiet()
    assert bob.got == [b"3"]


async def test_a_gap_that_the_store_knows_nothing_of_holds_nobody_up(world: World) -> None:
    ann = await world.device("ann")
    await world.publish(world.add().item())
    await world.quiet()
    await world.publish(Row(9).item())
    await world.quiet()
    assert (ann.got, world.nudged) == ([b"1"], [ann])
    assert len(world.questions) == 1


async def test_frames_about_an_entry_go_to_whom_it_went(world: World) -> None:
    ann, bob = await world.device("ann"), await world.device("bob")
    row = world.add(["ann"])
    await world.publish(row.item(), row.item(kind=CONTROL, body=b"state"))
    everyone = world.add()
    await world.publish(everyone.item(), everyone.item(kind=CONTROL, attempt=EVERYONE, body=b"state 2"))
    await world.quiet()
    assert (ann.got, bob.got) == ([b"1", b"2", b"state", b"state 2"], [b"2", b"state 2"])


@pytest.mark.parametrize(
    "fields",
    [{"kind": 0}, {"kind": 4}, {"lane": 2}, {"lane": LANE_COUNT}, {"prev": 2**63}, {"kind": batch.HEADS}],
)
async def test_what_no_audience_lane_can_hold_is_refused(world: World, fields: dict[str, int]) -> None:
    ann = await world.device("ann")
    before = module.telemetry.BUS_BAD._value.get()
    row = world.add()
    await world.publish(row.item(**fields), row.item())
    await world.publish(Item(batch.HEADS, 0, 0, 0, 0, 0, bytes(16), b"acme", b"\xff" * 24))
    await world.worker.publish(names.audience_subject(TENANT, "low"), b"noise")
    await world.quiet()
    assert module.telemetry.BUS_BAD._value.get() == before + 3
    assert ann.got == [b"1"]


async def test_one_subscription_per_tenant_and_none_long_after_the_last_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await world.device("ann"), await world.device("bob")
    subject = names.audience_subject(TENANT, "low")
    assert world.hub.send(subject, batch.pack([], 0), None) == 1
    world.leave(ann)
    world.leave(bob)
    await world.publish(world.add(["ann"]).item())
    await world.quiet()
    world.audiences.tick()
    assert world.questions == []
    carl = await world.device("carl")  # somebody came back in time
    monkeypatch.setattr(module, "AUDIENCE_IDLE_MS", 0)
    world.audiences.tick()
    await world.publish(world.add().item())
    await world.quiet()
    assert carl.got == [b"2"]
    world.leave(carl)
    world.audiences.tick()
    await world.quiet()
    assert world.hub.send(subject, b"", None) == 0
    dora = await world.device("dora")
    await world.publish(world.add().item())
    await world.quiet()
    assert dora.got == [b"3"]


async def test_a_fan_out_lets_others_have_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUDIENCE_FANOUT_CONNECTIONS_MAX", 8)
    devices = [await world.device(f"u{number}") for number in range(100)]
    await world.publish(world.add().item())
    written: list[int] = []

    def everybody() -> bool:
        written.append(sum(bool(one.got) for one in devices))
        return written[-1] == 100

    await until(everybody)
    assert sorted(set(written)) == [0, *range(8, 100, 8), 100]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "lose", "tell", "join", "leave", "fill", "wait", "fail"]),
        st.sets(st.sampled_from(["u0", "u1", "u2"])) | st.none(),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_whatever_is_lost_everyone_has_what_is_theirs_once_and_in_order(
    steps: list[tuple[str, set[str] | None]],
) -> None:
    async def play() -> None:
        world = World()
        await world.start()
        devices = [await world.device(f"u{number}") for number in range(3)]
        since = {id(one): 0 for one in devices}
        for number, (step, users) in enumerate(steps):
            if step in ("send", "lose"):
                row = world.add(None if users is None else sorted(users))
                if step == "send":
                    await world.publish(row.item())
            elif step == "tell":
                await world.tell(len(world.rows))
            elif step == "join":
                one = await world.device(f"u{number % 3}")
                since[id(one)] = len(world.rows)
                devices.append(one)
            elif step == "leave" and devices:
                world.leave(devices.pop(number % len(devices)))
            elif step == "fail":
                world.failing = not world.failing
            else:
                world.fill_nudged()
                await (world.quiet() if step == "wait" and not world.failing else asyncio.sleep(0))
        world.failing = False
        await world.tell(len(world.rows))
        await world.quiet()
        world.fill_nudged()
        for one in devices:
            mine = [row.body() for row in world.rows[since[id(one)] :] if row.may(one.session.user)]
            assert one.got == mine
            assert one.session.at()[LANE] == len(world.rows)
            assert not one.session.wanted()
        await world.close()

    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        monkeypatch.setattr(module, "AUDIENCE_OVERTAKEN_MS", 1)
        monkeypatch.setattr(module, "AUDIENCE_FANOUT_CONNECTIONS_MAX", 8)
        asyncio.run(play())
