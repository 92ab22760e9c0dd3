"""The worker's Redis client: one server, the master that Sentinels name, or a cluster, by setting `redis`.

All three have the commands that workers use under the same names, pipelines too; a pipeline over several slots is
split by redis-py.
"""

from typing import Any, Final, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import RedisClusterException, RedisError

from notification.redis_address import Kind, parse

# What "Redis is away" looks like; redis-py's cluster errors are not all RedisErrors.
REDIS_AWAY: Final = (RedisError, RedisClusterException, OSError, TimeoutError)


def open_client(text: str, deadline_s: float) -> "Redis":
    """A client that connects when it is used; a connect or reply has `deadline_s`. Raises SettingsError."""
    address = parse(text)
    options: dict[str, Any] = {"socket_timeout": deadline_s, "socket_connect_timeout": deadline_s}
    login: dict[str, Any] = {"username": address.user or None, "password": address.password or None}
    if address.kind is Kind.SERVER:
        return Redis.from_url(text, **options)
    if address.tls:
        options["ssl"] = True
    if address.kind is Kind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.places]
        return cast("Redis", RedisCluster(startup_nodes=nodes, **login, **options))
    names = {"username": address.sentinel_user or None, "password": address.sentinel_password or None}
    sentinels: Any = Sentinel(list(address.places), sentinel_kwargs={**names, **options})  # type: ignore[no-untyped-call]
    return cast("Redis", sentinels.master_for(address.master, db=address.database, **login, **options))
