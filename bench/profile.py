"""profile: where the CPU time of a loaded gateway process and of a loaded worker goes, as flame graphs.

py-spy looks at the process from outside, Python and native frames alike, while the load of `hotpath`, or of
`worker`, runs at saturation. The SVG files open in a browser: search, zoom, percentages.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import backend, feeds, hotpath, servers
from bench.report import Progress
from notification.errors import Unavailable
from notification.limits import DISPATCH_BATCH_ITEMS_MAX

_RATE_PER_S: Final = 400
_TENANT: Final = "bench"
_STUCK_S: Final = 30.0


class Options(NamedTuple):
    """`processes`: of gateway, worker."""

    seconds: float = 10.0
    folder: Path = Path("build/profile")
    processes: tuple[str, ...] = ("gateway", "worker")
    contestant: str = "engine"


async def run(options: Options, progress: Progress) -> dict[str, Any]:
    """The report: the files. Raises Unavailable when py-spy is missing or may not look."""
    options.folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in options.processes:
        file = options.folder / f"{name}.svg"
        with progress.step(name, 1):
            await {"gateway": _gateway, "worker": _worker}[name](options, file)
        files[name] = {"file": str(file), "bytes": file.stat().st_size}
    return {
        "bench": "profile", "unit": "flame graphs: the width of a frame is its CPU time",
        "options": {"seconds": options.seconds}, "figures": files,
    }  # fmt: skip


async def _gateway(options: Options, file: Path) -> None:
    """A gateway process that delivers and takes acks."""
    load = hotpath.Options()
    async with servers.running([options.contestant]) as (stage, up):
        one = up[options.contestant]
        numbered = feeds.in_turn(load.connections, load.messages, load.burst)
        feed = stage.folder / "feed"
        items = [feeds.item_of(number, load.body_bytes) for number in numbered]
        feeds.write_feed(feed, one.subject, items, DISPATCH_BATCH_ITEMS_MAX)
        await hotpath.play(one, feed, load)  # once without: caches are warm
        async with _watched(one.pids[0], options.seconds, file) as over:
            while not over.is_set():
                await hotpath.play(one, feed, load)


async def _worker(options: Options, file: Path) -> None:
    """A worker with role dispatch, between Kafka and a gateway."""
    users = [f"user-{number:07d}" for number in range(1_000)]
    async with (
        backend.running((_TENANT,), pinned=True) as back,
        back.upstream(512) as upstream,
        back.gateway(upstream, (_TENANT,), users) as gateway,
        back.worker("dispatch", "dispatch") as worker,
        gateway.acking(0.2, 20),
    ):
        await upstream.flood(_TENANT, users, len(users))  # everybody's keys are made
        async with _watched(worker.pid, options.seconds, file) as over:
            while not over.is_set():
                await upstream.flood(_TENANT, users, len(users))
                await backend.until(lambda: over.is_set() or upstream.waiting[0] < 2 * len(users), _STUCK_S)


@contextlib.asynccontextmanager
async def _watched(pid: int, seconds: float, file: Path) -> AsyncIterator[asyncio.Event]:
    """py-spy looks at the process; the event says when it has seen enough. Raises Unavailable with its words."""
    program = Path(sys.executable).parent / "py-spy"
    if not program.exists():
        raise Unavailable("py-spy is missing: pip install 'herald[bench]'")
    watcher = await asyncio.create_subprocess_exec(
        program, "record", "--native", "--rate", str(_RATE_PER_S), "--duration", f"{seconds:.0f}",
        "--output", file, "--pid", str(pid),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    over = asyncio.Event()
    ended = asyncio.create_task(watcher.communicate())
    ended.add_done_callback(lambda _: over.set())
    began_s = time.monotonic()
    try:
        yield over
        _, said = await ended
    finally:
        if watcher.returncode is None:
            watcher.kill()
            await watcher.wait()
    if watcher.returncode != 0:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise Unavailable(f"py-spy could not look at process {pid} ({last[0]}); run as root, or allow ptrace")
    if time.monotonic() - began_s < seconds:
        raise Unavailable(f"process {pid} ended while py-spy looked at it")
