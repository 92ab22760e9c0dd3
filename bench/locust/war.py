"""A tenant at war: tenant `rival` sends ten times what tenant `demo` sends, to as many users.

Judged are the rows of `demo`, whose users may not notice. Make the rival once: `herald tenant create rival`.
"""

from typing import Any, ClassVar, Final

from bench.locust.device import Device
from bench.locust.profile import DELIVER, Profile, install
from bench.locust.publisher import Stream
from bench.locust.shapes import EVENTS_PER_S, TENANT, FullHouse
from bench.locust.verdict import CONNECT_MS, DELIVER_MS, PING_MS

__all__ = ["FullHouse", "Neighbour", "Warrior"]  # what Locust looks for
_RIVAL: Final = "rival"
_TIMES: Final = 10


class Neighbour(Device):
    """Of the tenant that keeps its share."""


class Warrior(Device):
    """Of the other one; its rows have a prefix."""

    tenant: ClassVar[str] = _RIVAL
    prefix: ClassVar[str] = f"{_RIVAL} "


def _streams(options: Any) -> list[Stream]:
    share = EVENTS_PER_S * options.scale / 2
    return [Stream(TENANT, lambda at_s: share), Stream(_RIVAL, lambda at_s: _TIMES * share)]


_JUDGED: Final = dict.fromkeys(DELIVER, DELIVER_MS) | {"connect": CONNECT_MS, "ping": PING_MS}
install(Profile(_streams, _JUDGED, told=("resume", "replay", "ack", *(Warrior.prefix + row for row in DELIVER))))
