"""Faults of workers: killed between any two of their steps, frozen, coming and going, without role inbox."""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from devstack.processes import WORKER_ROLES
from notification.names import TOPIC_PREFIX
from tests.faults.run import Case, Scene
from tests.faults.stack import Parts
from tests.proxy import Piece, Proxy

_WORKER_RECOVERY_S: Final = 10.0
_FROZEN_S: Final = 60.0
_INBOX_DOWN_S: Final = 60.0
_COMES_AND_GOES: Final = 4
_TURN_S: Final = 5.0
_STEP_S: Final = 300
_TOPIC: Final = TOPIC_PREFIX.encode()
_TRIGGER_S_MAX: Final = 20.0


class _StoreSteps:
    """Sees which connection to PostgreSQL is in the storing transaction: its first statement names the topics."""

    def __init__(self) -> None:
        self._storing: set[int] = set()

    def begins(self, piece: Piece) -> bool:
        """The position is about to be written."""
        if not piece.is_reply and _TOPIC in piece.data:
            self._storing.add(piece.connection)
            return True
        return False

    def is_committed(self, piece: Piece) -> bool:
        """The answer to its COMMIT."""
        self.begins(piece)
        if piece.connection in self._storing and piece.is_reply and b"COMMIT\0" in piece.data:
            self._storing.discard(piece.connection)
            return True
        return False


async def _kill_at(scene: Scene, link: Proxy, matches: Callable[[Piece], bool], *, goes_on: bool) -> None:
    """SIGKILL role dispatch at the first piece that matches, which goes on or not; then it is started again."""
    killed = asyncio.Event()

    async def watch(piece: Piece) -> bytes | None:
        if killed.is_set() or not matches(piece):
            return piece.data
        if goes_on:
            asyncio.get_running_loop().call_soon(_kill)
            return piece.data
        _kill()
        return b""

    def _kill() -> None:
        if not killed.is_set():
            scene.stack.kill("dispatch")
            killed.set()

    link.watch = watch
    async with asyncio.timeout(_TRIGGER_S_MAX):
        await killed.wait()
    link.watch = None
    scene.stack.over()
    await scene.stack.start_again("dispatch")


async def killed_after_poll(scene: Scene) -> None:
    """The records are read, PostgreSQL has heard nothing yet."""
    links = scene.stack.links
    await _kill_at(scene, links.kafka, lambda piece: piece.is_reply and b'"user_id"' in piece.data, goes_on=True)


async def killed_before_position(scene: Scene) -> None:
    """The storing transaction has begun; its first statement, which writes the position, never arrives."""
    await _kill_at(scene, scene.stack.links.postgres, _StoreSteps().begins, goes_on=False)


async def killed_after_commit(scene: Scene) -> None:
    """All is stored; the worker never hears it and sends nothing."""
    await _kill_at(scene, scene.stack.links.postgres, _StoreSteps().is_committed, goes_on=False)


async def killed_after_publish(scene: Scene) -> None:
    """The batch is on its way to the gateway; that it was sent is not written down."""
    links = scene.stack.links
    await _kill_at(
        scene, links.worker_nats, lambda piece: not piece.is_reply and b"PUB gateway." in piece.data, goes_on=True
    )


async def cut_after_commit(scene: Scene) -> None:
    """The link to PostgreSQL is cut before the answer to a COMMIT: the worker cannot know whether it happened."""
    link, steps, cut = scene.stack.links.postgres, _StoreSteps(), asyncio.Event()

    async def watch(piece: Piece) -> bytes | None:
        if cut.is_set() or not steps.is_committed(piece):
            return piece.data
        cut.set()
        return None

    for _ in range(3):
        cut.clear()
        link.watch = watch
        async with asyncio.timeout(_TRIGGER_S_MAX):
            await cut.wait()
        link.watch = None
        await asyncio.sleep(0.5)
        await link.open()
        await asyncio.sleep(1)


async def frozen(scene: Scene) -> None:
    """One of two dispatch workers stands still until the other has its partitions; then it goes on, as a zombie."""
    second = await scene.stack.start_worker("dispatch", "dispatch-2")
    await asyncio.sleep(_TURN_S)
    scene.stack.signal(second, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    scene.stack.over()
    scene.stack.signal(second, signal.SIGCONT)
    await asyncio.sleep(_TURN_S)


async def comes_and_goes(scene: Scene) -> None:
    """A second dispatch worker joins and leaves every 5 s."""
    for _ in range(_COMES_AND_GOES):
        name = await scene.stack.start_worker("dispatch", "dispatch-2")
        await asyncio.sleep(_TURN_S)
        await scene.stack.stop_worker(name)


async def receipts_killed(scene: Scene) -> None:
    """Role receipts dies with acks under way."""
    for _ in range(3):
        scene.stack.kill("receipts")
        await scene.stack.start_again("receipts")
        await asyncio.sleep(1)


async def inbox_down(scene: Scene) -> None:
    """Role inbox is away for a minute; some clients come again meanwhile."""
    scene.stack.kill("inbox")
    for _ in range(6):
        await asyncio.sleep(_INBOX_DOWN_S / 6)
        for device in scene.chance.sample(scene.devices, 4):
            device.drop()
    await scene.stack.start_again("inbox")


async def clocks_step(scene: Scene) -> None:
    """Of one part after the other: five minutes ahead, right again, five minutes behind, right again."""
    for name in ("gateway", *WORKER_ROLES):
        for offset_s in (_STEP_S, 0, -_STEP_S, 0):
            scene.stack.step_clock(name, offset_s)
            await asyncio.sleep(_TURN_S)
            for device in scene.chance.sample(scene.devices, 4):
                device.drop()


CASES: Final = (
    Case("worker killed after poll", "records read, nothing stored", killed_after_poll, _WORKER_RECOVERY_S),
    Case(
        "worker killed before the position",
        "in the storing transaction",
        killed_before_position,
        _WORKER_RECOVERY_S,
    ),
    Case("worker killed after COMMIT", "stored, nothing sent", killed_after_commit, _WORKER_RECOVERY_S),
    Case("worker killed after publish", "sent, not written down", killed_after_publish, _WORKER_RECOVERY_S),
    Case("link cut after COMMIT", "the worker cannot know whether it happened", cut_after_commit),
    Case("worker frozen 60 s", "SIGSTOP; the zombie is fenced", frozen),
    Case("worker joins and leaves", "every 5 s", comes_and_goes),
    Case("receipts killed", "acks under way", receipts_killed),
    Case("inbox down 60 s", "clients come again meanwhile", inbox_down),
    Case("clocks step", "by 5 minutes and back, of the gateway and each worker", clocks_step, parts=Parts.CLOCKS),
)
