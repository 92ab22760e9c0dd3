"""How many users there are, and the options of all profiles. A locustfile imports the shape that it wants."""

from typing import Any, ClassVar, Final

from locust import LoadTestShape
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

TENANT: Final = "demo"  # that of `make run`
USERS_PEAK: Final = 30_000  # of 400,000 a day, at once
EVENTS_PER_S: Final = 200.0  # 17 million a day
_SPAWN_PER_S_MIN: Final = 10.0


def options_of(environment: Environment) -> Any:
    """The parsed command line."""
    assert environment.parsed_options is not None
    return environment.parsed_options


def add_options(parser: LocustArgumentParser, worker_metrics: str) -> None:
    """Those that each profile has."""
    parser.add_argument("--scale", type=float, default=0.01, help="share of the customer's load (0.01)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long it takes (2)")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two bursts or tunnels (20)")
    parser.add_argument("--settle", type=float, default=30.0, help="seconds that the last events may take (30)")
    parser.add_argument(
        "--worker-metrics", default=worker_metrics,
        help="host:port of a dispatch worker's /metrics, for its transactions; empty = not judged",
    )  # fmt: skip


class Shape(LoadTestShape):
    """Follows share() for --minutes."""

    abstract = True
    spawn_s: ClassVar[float] = 10.0  # for everybody to come

    def share(self, elapsed: float) -> float:
        """Of USERS_PEAK x --scale, when `elapsed` (0 to 1) of the time is over."""
        return 1.0

    def tick(self) -> tuple[int, float] | None:
        """Locust asks each second: how many users, and how many may come per second; None: the end."""
        assert self.runner is not None
        options = options_of(self.runner.environment)
        seconds: float = self.get_run_time()  # type: ignore[no-untyped-call]
        elapsed = seconds / (options.minutes * 60)
        if elapsed >= 1:
            return None
        users = max(2, round(USERS_PEAK * options.scale * self.share(elapsed)))
        return users, max(_SPAWN_PER_S_MIN, users / self.spawn_s)


class FullHouse(Shape):
    """Everybody is there."""
