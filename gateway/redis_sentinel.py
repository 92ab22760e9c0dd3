"""Who is the master? Asked of Sentinels before every connection, as their client guidelines say."""

import asyncio

import structlog

from gateway._fast.resp import Refusal
from gateway.redis_node import log_in, open_link
from notification.errors import Unavailable
from notification.limits import REDIS_REPLY_MS_MAX
from notification.redis_address import Place, RedisAddress

_log = structlog.get_logger("redis")


async def find_master(address: RedisAddress) -> Place:
    """The first answer of a Sentinel that knows the master. Raises Unavailable when none does."""
    for place in address.places:
        try:
            found = await _ask(place, address)
        except (OSError, TimeoutError, Unavailable) as error:
            _log.debug("sentinel_away", error=type(error).__name__)
            continue
        if found is not None:
            return found
    raise Unavailable(f"{address}: no Sentinel names it")


async def _ask(place: Place, address: RedisAddress) -> Place | None:
    """What one Sentinel says; None: it does not know the name, or us. Raises OSError, TimeoutError, Unavailable."""
    link = await open_link(place, address.tls)
    try:
        async with asyncio.timeout(REDIS_REPLY_MS_MAX / 1_000):
            if not await log_in(link, address.sentinel_user, address.sentinel_password):
                return None
            reply = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
    finally:
        link.end()
    match reply:
        case [bytes(host), bytes(port)] if port.isdigit():
            return host.decode("ascii", "replace"), int(port)
        case Refusal():
            _log.warning("sentinel_refuses", error=reply.code)
        case _:
            _log.warning("sentinel_knows_no_master", master=address.master)
    return None
