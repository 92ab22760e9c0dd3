"""A marketing burst: every --every seconds a promotion (LOW) to everybody, all due at once.

Beside it the service events of an evening. Judged are HIGH and MEDIUM, which may not notice; how long LOW takes is
told.
"""

from typing import Any, Final

import gevent
from locust.env import Environment

from bench.locust.device import Device
from bench.locust.profile import DELIVER, Profile, install
from bench.locust.publisher import Publisher, Stream
from bench.locust.shapes import EVENTS_PER_S, TENANT, FullHouse, options_of
from bench.locust.verdict import CONNECT_MS, DELIVER_MS, PING_MS

__all__ = ["Customer", "FullHouse"]  # what Locust looks for
_EVENING: Final = 2.0  # times the mean of the day


class Customer(Device):
    """Has the app open."""


def _promote(environment: Environment, publisher: Publisher) -> None:
    while True:
        gevent.sleep(options_of(environment).every)
        publisher.to_all(TENANT, "low", "promotional")


def _streams(options: Any) -> list[Stream]:
    return [Stream(TENANT, lambda at_s: EVENTS_PER_S * _EVENING * options.scale, mix=(0.3, 0.7, 0.0))]


_JUDGED: Final = dict.fromkeys(DELIVER[:2], DELIVER_MS) | {"connect": CONNECT_MS, "ping": PING_MS}
install(Profile(_streams, _JUDGED, told=(DELIVER[2], "resume", "replay", "ack"), during=_promote))
