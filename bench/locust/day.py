"""An ordinary day of 400,000 daily users, scaled: 24 hours pass in --minutes (6 or more say something).

Users come and go over the day as people do, up to 30,000 at once x --scale. Events come at the rate of the hour
(200 a second x --scale in the mean, 17 million a day) with a burst of five times that every "quarter of an hour":
what a second of the evening holds is what it holds in reality.
"""

from typing import Any, ClassVar, Final

from bench.locust.device import Device, Manners
from bench.locust.profile import DELIVER, Profile, install
from bench.locust.publisher import Stream
from bench.locust.shapes import EVENTS_PER_S, TENANT, Shape
from bench.locust.verdict import CONNECT_MS, DELIVER_MS, PING_MS

_BURST: Final = 5.0
_BURST_SHARE: Final = 0.05  # of the time
_QUARTERS: Final = 96
# Share of the peak in each hour of the day.
_HOURS: Final = (
    0.25, 0.15, 0.10, 0.08, 0.08, 0.12, 0.25, 0.45, 0.60, 0.65, 0.70, 0.75,
    0.85, 0.80, 0.70, 0.70, 0.75, 0.80, 0.90, 1.00, 1.00, 0.90, 0.65, 0.40,
)  # fmt: skip
_HOURS_MEAN: Final = sum(_HOURS) / len(_HOURS)


class Customer(Device):
    """Looks in for a minute, has the app in the background, comes back."""

    manners: ClassVar[Manners] = Manners(stays_s=60.0)


def share(day: float) -> float:
    """Of the peak, at `day` (0 to 1) of the day."""
    hour = min(max(day, 0.0), 0.999) * 24
    first, part = int(hour), hour % 1
    return _HOURS[first] * (1 - part) + _HOURS[(first + 1) % 24] * part


def rate(day: float, scale: float) -> float:
    """Events per second at `day` of the day."""
    in_burst = (day * _QUARTERS) % 1 < _BURST_SHARE
    usual = EVENTS_PER_S * scale * share(day) / _HOURS_MEAN / (1 + _BURST_SHARE * (_BURST - 1))
    return usual * (_BURST if in_burst else 1)


class Day(Shape):
    """From midnight to midnight."""

    def share(self, elapsed: float) -> float:
        return share(elapsed)


def _streams(options: Any) -> list[Stream]:
    return [Stream(TENANT, lambda at_s: rate(at_s / (options.minutes * 60), options.scale))]


_JUDGED: Final = dict.fromkeys(DELIVER, DELIVER_MS) | {"connect": CONNECT_MS, "resume": CONNECT_MS, "ping": PING_MS}
install(Profile(_streams, _JUDGED, told=("replay", "ack")))
