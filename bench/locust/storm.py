"""A reconnect storm: every --every seconds all sockets drop at once, as in a tunnel.

Everybody comes back with the jitter that the protocol asks for, while events go on. Judged are `resume`, and that
nothing accepted is lost. `deliver` is told: what came while a device was away has waited for it.
"""

import random
from typing import Any, ClassVar, Final

import gevent
from locust.env import Environment

from bench.locust.device import Device, Manners
from bench.locust.profile import DELIVER, Profile, install
from bench.locust.publisher import Publisher, Stream
from bench.locust.shapes import EVENTS_PER_S, TENANT, FullHouse, options_of
from bench.locust.verdict import CONNECT_MS, PING_MS

__all__ = ["Commuter", "FullHouse"]  # what Locust looks for
_BACK_S: Final = 2.0  # the jitter of a first attempt is 0.5 s; a mobile network takes longer


class Commuter(Device):
    """In the same train as all the others."""

    here: ClassVar[set["Commuter"]] = set()
    manners: ClassVar[Manners] = Manners(stays_s=3_600.0)

    def on_start(self) -> None:
        super().on_start()
        self.here.add(self)

    def on_stop(self) -> None:
        self.here.discard(self)
        super().on_stop()

    def pause_s(self) -> float:
        return random.uniform(0, _BACK_S)


def _tunnels(environment: Environment, _publisher: Publisher) -> None:
    while True:
        gevent.sleep(options_of(environment).every)
        for commuter in list(Commuter.here):
            commuter.drop()


def _streams(options: Any) -> list[Stream]:
    return [Stream(TENANT, lambda at_s: EVENTS_PER_S * options.scale)]


_JUDGED: Final = {"connect": CONNECT_MS, "resume": CONNECT_MS, "ping": PING_MS}
install(Profile(_streams, _JUDGED, told=(*DELIVER, "replay", "ack"), during=_tunnels))
