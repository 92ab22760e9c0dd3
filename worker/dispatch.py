"""The dispatch loop: from the scheduler to the router, a few batches at a time."""

import asyncio

import structlog

from notification.limits import DATABASE_TURN_DEADLINE_S, DISPATCH_BATCH_ITEMS_MAX, DISPATCH_BATCHES_IN_FLIGHT_MAX
from worker.database import AWAY
from worker.router import Router, Sending
from worker.scheduler import Scheduler

_log = structlog.get_logger("dispatch")


class Dispatcher:
    """Takes batches and looks presence up in order; sends DISPATCH_BATCHES_IN_FLIGHT_MAX of them at a time."""

    def __init__(self, scheduler: Scheduler, router: Router) -> None:
        self._scheduler = scheduler
        self._router = router
        self._room = asyncio.Semaphore(DISPATCH_BATCHES_IN_FLIGHT_MAX)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the scheduler is closed and empty, and everything taken is sent."""
        while True:
            await self._room.acquire()
            jobs = await self._scheduler.take(DISPATCH_BATCH_ITEMS_MAX)
            if not jobs:
                break
            task = asyncio.create_task(self._send(await self._router.plan(jobs)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._running:
            await asyncio.wait(self._running)

    async def _send(self, sendings: list[Sending]) -> None:
        """Rows whose outcome could not be written stay as they are, due again by their due_at."""
        try:
            async with asyncio.timeout(DATABASE_TURN_DEADLINE_S):
                await self._router.send(sendings)
        except AWAY as error:
            _log.warning("outcomes_not_written", items=len(sendings), error=type(error).__name__)
        except Exception:  # whatever it is: the rows are due again, and the next batch must go on
            _log.exception("outcomes_not_written", items=len(sendings))
        finally:
            self._room.release()
