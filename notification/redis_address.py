"""Where Redis is: one server, the master that Sentinels name, or a cluster. The value of setting `redis`.

    redis://[user:password@]host[:port][/db]                            one server
    sentinel://[user:password@]host[:port][,host[:port]...]/NAME[/db]   Sentinels; NAME is the master's
    cluster://[user:password@]host[:port][,host[:port]...]              any nodes of a cluster

rediss://, sentinel+tls:// and cluster+tls:// speak TLS with all of these servers; their certificates are checked
against the system's authorities, or those of variable SSL_CERT_FILE. The login is the data servers'; that of the
Sentinels, if they want one, follows as ?sentinel_user=USER&sentinel_password=PASSWORD.
"""

import dataclasses
import enum
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from notification.errors import SettingsError

FORM: Final = (
    "redis:// or rediss://[user:password@]host[:port]/db, sentinel:// or sentinel+tls://[user:password@]host[:port]"
    "[,...]/NAME[/db][?sentinel_user=...&sentinel_password=...] or cluster:// or cluster+tls://[user:password@]"
    "host[:port][,...]"
)
_PORT: Final = 6_379
_SENTINEL_PORT: Final = 26_379
_TLS_SCHEMES: Final = {"rediss": "redis", "sentinel+tls": "sentinel", "cluster+tls": "cluster"}
_USER, _PASSWORD = "sentinel_user", "sentinel_password"

Place = tuple[str, int]  # host, port


class Kind(enum.StrEnum):
    """What the hosts of an address are."""

    SERVER = "redis"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclasses.dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed address. `places` has one element for a server; `master` is a Sentinel's name for the master. `user`
    and `password` are for the data servers; empty = none."""

    kind: Kind
    places: tuple[Place, ...]
    master: str = ""
    database: int = 0
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    tls: bool = False
    sentinel_user: str = ""
    sentinel_password: str = dataclasses.field(default="", repr=False)

    def __str__(self) -> str:
        """For messages: without the login."""
        places = ",".join(f"{host}:{port}" for host, port in self.places)
        return {
            Kind.SERVER: f"Redis at {places}",
            Kind.SENTINEL: f"Redis master {self.master} of the Sentinels at {places}",
            Kind.CLUSTER: f"Redis Cluster at {places}",
        }[self.kind]


def parse(text: str) -> RedisAddress:
    """Read an address. Raises SettingsError, whose text repeats nothing of it: it may hold a password."""
    try:
        return _read(urlsplit(text))
    except ValueError as error:  # of ours, a port that is no number, a bracket without its pair
        raise SettingsError(
            f"redis: must be {FORM}; of a login, percent-encode what is not a letter or a digit"
        ) from error


def _read(parts: SplitResult) -> RedisAddress:
    """Raises ValueError."""
    tls = parts.scheme in _TLS_SCHEMES
    kind = Kind(_TLS_SCHEMES.get(parts.scheme, parts.scheme))
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    master = path.pop(0) if kind is Kind.SENTINEL and path else ""
    database = path.pop(0) if path and kind is not Kind.CLUSTER else "0"
    sentinel_login = _sentinel_login(parts.query) if kind is Kind.SENTINEL else ("", "")
    places = tuple(_place(host, _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT) for host in hosts.split(","))
    faults = (
        parts.query and kind is not Kind.SENTINEL,
        path or parts.fragment or "," in login or "@" in login or any(map(str.isspace, hosts)),
        kind is Kind.SERVER and len(places) != 1,
        kind is Kind.SENTINEL and not master,
        not (database.isascii() and database.isdigit()),
    )
    if any(faults):
        raise ValueError
    return RedisAddress(kind, places, master, int(database), unquote(user), unquote(password), tls, *sentinel_login)


def _sentinel_login(query: str) -> tuple[str, str]:
    """(user, password). Raises ValueError."""
    fields = parse_qsl(query, strict_parsing=True, max_num_fields=2, errors="strict") if query else []
    values = dict(fields)
    if len(values) != len(fields) or not values.keys() <= {_USER, _PASSWORD}:
        raise ValueError
    if _USER in values and _PASSWORD not in values:
        raise ValueError
    return values.get(_USER, ""), values.get(_PASSWORD, "")


def _place(text: str, port: int) -> Place:
    """Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or parts.port == 0:
        raise ValueError
    return parts.hostname, parts.port or port
