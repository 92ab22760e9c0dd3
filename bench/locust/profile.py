"""What every profile does around its users: publish, wait until what was accepted has come, and judge."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment
from locust.runners import DistributedRunner, Runner

from bench.locust import verdict
from bench.locust.device import SETTINGS
from bench.locust.ledger import LEDGER
from bench.locust.publisher import Publisher, Stream
from bench.locust.shapes import add_options, options_of

WORKER_METRICS: Final = "127.0.0.1:8082"  # where `make run` serves them
DELIVER: Final = tuple(f"deliver {priority}" for priority in ("high", "medium", "low"))


@dataclasses.dataclass(frozen=True)
class Profile:
    """`streams`: made from the options. `judged`: Locust's row -> limit in ms. `told`: rows printed beside them.
    `during`: runs as a greenlet of its own while users are there."""

    streams: Callable[[Any], Sequence[Stream]]
    judged: dict[str, float]
    told: tuple[str, ...] = ()
    during: Callable[[Environment, Publisher], None] | None = None


class _Run:
    """From one start to its end; the web UI may start several one after the other."""

    def __init__(self, environment: Environment, profile: Profile) -> None:
        self._environment = environment
        self._profile = profile
        options = options_of(environment)
        self._settle_s: float = options.settle
        self._url = f"http://{options.worker_metrics}/metrics" if options.worker_metrics else ""
        self._before = verdict.scrape(self._url) if self._url else {}
        self._publisher = Publisher(SETTINGS, profile.streams(options))
        self._during: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        self._publisher.start()
        if self._profile.during is not None:
            self._during = gevent.spawn(self._profile.during, self._environment, self._publisher)

    def stop(self) -> None:
        """While the users are still there."""
        if self._during is not None:
            self._during.kill()
        self._publisher.stop()
        deadline_s = time.monotonic() + self._settle_s
        while LEDGER.missing() and time.monotonic() < deadline_s:
            gevent.sleep(0.1)
        lines = [*verdict.rows(self._environment, self._profile.judged, self._profile.told), *verdict.ledger()]
        if self._url:
            lines.append(verdict.database(self._before, verdict.scrape(self._url)))
        passed = all(line.passed is not False for line in lines)
        print("\n" + "\n".join(map(str, lines)))
        print(f"\nverdict: {'pass' if passed else 'FAIL'}\n", flush=True)
        self._environment.process_exit_code = 0 if passed else 1


def install(profile: Profile) -> None:
    """Make the locustfile that calls this run `profile`."""
    running: list[_Run] = []

    def check(environment: Environment, runner: Runner | None, **_: Any) -> None:
        if isinstance(runner, DistributedRunner):
            sys.exit("a process judges what it published itself: start several side by side instead of --processes")

    def start(environment: Environment, **_: Any) -> None:
        running.append(_Run(environment, profile))
        running[-1].start()

    def stop(environment: Environment, **_: Any) -> None:
        if running:
            running.pop().stop()

    events.init_command_line_parser.add_listener(
        lambda parser: add_options(parser, SETTINGS.worker_metrics or WORKER_METRICS)
    )
    events.init.add_listener(check)
    events.test_start.add_listener(start)
    events.test_stopping.add_listener(stop)
