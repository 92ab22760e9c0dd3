"""Settings: parsed once, from defaults, then `herald.toml`, then HERALD_* variables, into a frozen value.

`herald.toml` holds flat keys (`gateway_port = 9000`); the variable of a key is HERALD_ and the key in capitals
(HERALD_GATEWAY_PORT=9000). An unknown key or variable is an error that names the nearest known one.
`herald config check` prints the result with where each value came from.
"""

import dataclasses
import difflib
import ipaddress
import os
import re
import tomllib
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from notification import redis_address
from notification.errors import SettingsError
from notification.limits import (
    AUTH_SERVICE_CLIENT_CHARS_MAX,
    AUTH_SERVICE_URL_CHARS_MAX,
    CONNECTIONS_CAP_MAX,
    CONNECTIONS_PER_ADDRESS_DEFAULT,
    KAFKA_FETCH_WAIT_EMBEDDED_MS,
    KAFKA_FETCH_WAIT_MS,
)

FILE: Final = "herald.toml"
PREFIX: Final = "HERALD_"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
AUTH_SERVICE_SECRET: Final = "auth_service.secret"  # noqa: S105 a file's name


def _setting(default: Any, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting. An empty server address means: the embedded server of devstack, on the port below it."""

    kafka: str = _setting("", "Kafka bootstrap servers, host:port[,host:port]; empty = embedded")
    kafka_port: int = _setting(19092, "port of the embedded Kafka")
    kafka_partitions: int = _setting(6, "partitions of each notifications topic, when devstack creates it")
    worker_name: str = _setting(
        "",
        "what Kafka knows this worker process by, the same after a restart and no other process's: it then has its "
        "partitions back at once; empty = they wait until Kafka has missed it",
    )
    worker_metrics: str = _setting(
        "", "host:port where a worker process serves /metrics, to whoever can reach it; empty = nowhere"
    )
    nats: str = _setting("", "NATS URLs, nats://[user:password@]host:port[,...]; empty = embedded")
    nats_port: int = _setting(14222, "port of the embedded NATS")
    redis: str = _setting(
        "",
        "Redis or Valkey: redis://[user:password@]host:port/db, sentinel://host:port,host:port/NAME (the master "
        "that Sentinels call NAME; their own login: ?sentinel_user=USER&sentinel_password=PASSWORD) or "
        "cluster://host:port,host:port (any nodes of a cluster); with TLS rediss://, sentinel+tls:// or "
        "cluster+tls://; empty = embedded",
    )
    redis_port: int = _setting(16379, "port of the embedded Valkey")
    postgres: str = _setting(
        "",
        "PostgreSQL DSN of the owner (migrations), postgresql://user[:password]@host:port/db; empty = embedded",
    )
    postgres_port: int = _setting(15432, "port of the embedded PostgreSQL")
    secrets_dir: str = _setting(
        "",
        "folder of secret files: master.key, postgres_ROLE.password, issuer_TENANT.key; empty = {data_dir}/secrets",
    )
    data_dir: str = _setting(".herald", "folder of devstack's data, logs and secrets")
    gateway_host: str = _setting("127.0.0.1", "address the gateway listens on")
    gateway_port: int = _setting(8081, "port the gateway listens on")
    gateway_processes: int = _setting(0, "gateway processes on that port; 0 = one per core")
    gateway_carrier: str = _setting(
        "auto",
        "what moves the gateway's bytes: engine (an epoll set of its own, plain TCP) or picows (uvloop's "
        "transports, plain or TLS); auto = picows with gateway_tls_cert, else engine",
    )
    gateway_tls_cert: str = _setting(
        "", "file of the gateway's certificate chain (PEM): clients then speak TLS 1.3; empty = plain"
    )
    gateway_tls_key: str = _setting("", "file of the certificate's private key (PEM, not encrypted)")
    trusted_proxies: str = _setting(
        "",
        "networks of proxies in front of the gateway, CIDR with commas between; PROXY headers and X-Forwarded-For "
        "of others do not count",
    )
    metrics_from: str = _setting(
        "", "networks besides this machine that may read /metrics, CIDR with commas between; others get 404"
    )
    proxy_protocol: str = _setting(
        "off", "required = every connection begins with a PROXY header, version 1 or 2, of a trusted proxy; or off"
    )
    connections_per_address: int = _setting(
        CONNECTIONS_PER_ADDRESS_DEFAULT,
        "sockets that one client address (IPv6: one /64) may hold per gateway process, those of trusted proxies "
        "not counted; 0 = no cap",
    )
    connections_per_tenant: int = _setting(
        0, "connections that one tenant may hold per gateway process; 0 = no cap"
    )
    plaintext_network: str = _setting(
        "", '"trusted" lets a plain listener bind other than loopback (behind a TLS load balancer)'
    )
    jwks_plain_loopback: bool = _setting(
        False, "true lets an issuer's keys (JWKS) come over http:// from this machine (development)"
    )
    auth_service: str = _setting(
        "",
        "URL of an AuthService that gateways ask about tokens (OAuth 2.0 token introspection, RFC 7662): https://, "
        "or http:// on this machine; empty = none",
    )
    auth_service_client: str = _setting(
        "", f"client id that gateways present there; the client secret is file {AUTH_SERVICE_SECRET} in secrets_dir"
    )
    auth_service_tokens: str = _setting(
        "opaque", "tokens it is asked about: opaque (all that are not JWTs) or all (no token is verified here)"
    )
    demo_host: str = _setting("127.0.0.1", "address of the demo page and token issuer (devstack only)")
    demo_port: int = _setting(8080, "port of the demo page and token issuer (devstack only)")
    log_level: str = _setting("info", "debug, info, warning or error")
    log_json: bool = _setting(True, "true = JSON lines, false = text for a terminal")

    @property
    def kafka_servers(self) -> str:
        """Bootstrap servers, embedded or configured."""
        return self.kafka or f"127.0.0.1:{self.kafka_port}"

    @property
    def kafka_fetch_wait_ms(self) -> int:
        """How long a fetch may wait at the broker for a first record."""
        return KAFKA_FETCH_WAIT_MS if self.kafka else KAFKA_FETCH_WAIT_EMBEDDED_MS

    @property
    def nats_url(self) -> str:
        return self.nats or f"nats://127.0.0.1:{self.nats_port}"

    @property
    def redis_url(self) -> str:
        return self.redis or f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def postgres_dsn(self) -> str:
        """The owner's DSN: migrations only. Workers connect as their own role (worker/database.py)."""
        return self.postgres or f"postgresql://postgres@127.0.0.1:{self.postgres_port}/herald"

    @property
    def worker_metrics_at(self) -> tuple[str, int]:
        """Host and port of worker_metrics, which is set."""
        host, _, port = self.worker_metrics.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def carrier(self) -> str:
        """engine or picows: gateway_carrier, with auto resolved."""
        if self.gateway_carrier != "auto":
            return self.gateway_carrier
        return "picows" if self.gateway_tls_cert else "engine"

    @property
    def gateway_scheme(self) -> str:
        """Of the gateway's URLs."""
        return "wss" if self.gateway_tls_cert else "ws"

    @property
    def proxies(self) -> list[Network]:
        """The networks of trusted_proxies."""
        return _networks(self.trusted_proxies)

    @property
    def metrics_readers(self) -> list[Network]:
        """The networks of metrics_from, and this machine."""
        return _networks(f"127.0.0.0/8,::1,{self.metrics_from}")

    @property
    def secrets_path(self) -> Path:
        return Path(self.secrets_dir) if self.secrets_dir else Path(self.data_dir) / "secrets"

    def secret(self, name: str) -> bytes:
        """The content of a secret file, stripped. Raises SettingsError naming the file."""
        path = self.secrets_path / name
        try:
            value = path.read_bytes().strip()
        except OSError as error:
            raise SettingsError(f"secret file {path} cannot be read: {error.strerror}") from error
        if not value:
            raise SettingsError(f"secret file {path} is empty")
        return value


FIELDS: Final = {field.name: field for field in dataclasses.fields(Settings)}


def load(file: Path | None = None, environ: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
    """Read settings; return them and, per key, where the value came from. Raises SettingsError."""
    path = Path(FILE) if file is None else file
    variables = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    for key, value in _read_toml(path).items():
        values[key] = _typed(_known(key, str(path)), value, str(path))
        sources[key] = str(path)
    for variable in sorted(variables):
        if variable.startswith(PREFIX):
            key = _known(variable.removeprefix(PREFIX).lower(), variable)
            values[key] = _parse(key, variables[variable], variable)
            sources[key] = variable
    settings = Settings(**values)
    _check(settings)
    return settings, sources


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _known(key: str, where: str) -> str:
    if key in FIELDS:
        return key
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SettingsError(f"{where}: unknown setting {key!r}{hint} (`herald config check` lists all)")


def _typed(key: str, value: Any, where: str) -> Any:
    wanted: type = type(FIELDS[key].default)
    if type(value) is not wanted:
        raise SettingsError(f"{where}: {key} must be {_TYPE_NAMES[wanted]}, not {type(value).__name__}")
    return value


def _parse(key: str, text: str, where: str) -> Any:
    wanted: type = type(FIELDS[key].default)
    if wanted is bool:
        if text.lower() not in _BOOLEANS:
            raise SettingsError(f"{where}: must be true or false")
        return _BOOLEANS[text.lower()]
    if wanted is int:
        try:
            return int(text)
        except ValueError as error:
            raise SettingsError(f"{where}: must be a whole number") from error
    return text


_TYPE_NAMES: Final = {str: "a string", int: "a whole number", bool: "true or false"}
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SCHEMES: Final = {
    "nats": ("nats", "tls"), "postgres": ("postgresql", "postgres"),
}  # fmt: skip
_FORMS: Final = {
    "kafka": "host:port[,host:port], without a scheme",
    "nats": "nats:// or tls://[user:password@]host[:port], several with a comma between",
    "redis": redis_address.FORM,
    "postgres": "postgresql://user[:password@]host[:port]/database",
}
_LOOPBACK: Final = ("127.", "::1", "localhost")


def _check(settings: Settings) -> None:
    for key, field in FIELDS.items():
        value = getattr(settings, key)
        if key.endswith("_port") and not 1 <= value <= 65_535:
            raise SettingsError(f"{key}: must be 1 to 65535, is {value}")
        if isinstance(field.default, int) and not key.endswith("_port") and value < 0:
            raise SettingsError(f"{key}: must not be negative, is {value}")
    _check_addresses(settings)
    _check_ports(settings)
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"log_level: must be debug, info, warning or error, is {settings.log_level!r}")
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", settings.worker_name):
        raise SettingsError("worker_name: must be at most 64 characters of A-Z a-z 0-9 . _ -")
    if settings.worker_metrics and not _is_address("worker_metrics", settings.worker_metrics):
        raise SettingsError("worker_metrics: must be host:port, like 127.0.0.1:8082")
    if settings.plaintext_network not in ("", "trusted"):
        raise SettingsError('plaintext_network: must be empty or "trusted"')
    _check_listener(settings)
    _check_auth_service(settings)


def _check_auth_service(settings: Settings) -> None:
    """The URL may hold a secret: no message repeats it."""
    url, client = settings.auth_service, settings.auth_service_client
    if url and (len(url) > AUTH_SERVICE_URL_CHARS_MAX or not is_web_address(url, plain_loopback=True)):
        raise SettingsError(
            "auth_service: must be https://host[:port]/path, or http:// on this machine, without login and fragment"
        )
    if bool(url) != bool(client):
        given, missing = ("auth_service", "auth_service_client") if url else ("auth_service_client", "auth_service")
        raise SettingsError(f"{missing}: is empty, but {given} is set; an AuthService needs both")
    if len(client) > AUTH_SERVICE_CLIENT_CHARS_MAX or not (client.isascii() and client.isprintable()):
        raise SettingsError(
            f"auth_service_client: must be at most {AUTH_SERVICE_CLIENT_CHARS_MAX} printable ASCII characters"
        )
    if settings.auth_service_tokens not in ("opaque", "all"):
        raise SettingsError(f"auth_service_tokens: must be opaque or all, is {settings.auth_service_tokens!r}")


def is_web_address(url: str, plain_loopback: bool) -> bool:
    """May something that is trusted be asked of `url`: https without a login, or with `plain_loopback` http from
    this machine?"""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is no number, a bracket without its pair
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and plain_loopback and _is_loopback(host))


def _networks(text: str) -> list[Network]:
    """Raises ValueError."""
    return [ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip()]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_listener(settings: Settings) -> None:
    """How clients reach the gateway."""
    if settings.gateway_carrier not in ("auto", "engine", "picows"):
        raise SettingsError(f"gateway_carrier: must be auto, engine or picows, is {settings.gateway_carrier!r}")
    if bool(settings.gateway_tls_cert) != bool(settings.gateway_tls_key):
        given, missing = "gateway_tls_cert", "gateway_tls_key"
        if settings.gateway_tls_key:
            given, missing = missing, given
        raise SettingsError(f"{missing}: is empty, but {given} is set; TLS needs both")
    if settings.gateway_tls_cert and settings.carrier == "engine":
        raise SettingsError(
            "gateway_carrier: engine speaks no TLS; with gateway_tls_cert it must be auto or picows"
        )
    if settings.proxy_protocol not in ("off", "required"):
        raise SettingsError(f"proxy_protocol: must be off or required, is {settings.proxy_protocol!r}")
    try:
        key = "trusted_proxies"
        proxies = _networks(settings.trusted_proxies)
        key = "metrics_from"
        _networks(settings.metrics_from)
    except ValueError as error:
        raise SettingsError(f"{key}: {error}; must be like 10.0.0.0/8,2001:db8::/32") from error
    if settings.proxy_protocol == "required" and not proxies:
        raise SettingsError("trusted_proxies: is empty, but proxy_protocol is required: nobody could connect")
    for key in ("connections_per_address", "connections_per_tenant"):
        if getattr(settings, key) > CONNECTIONS_CAP_MAX:
            raise SettingsError(f"{key}: must be at most {CONNECTIONS_CAP_MAX}; 0 = no cap")
    plain = not settings.gateway_tls_cert
    if plain and not settings.gateway_host.startswith(_LOOPBACK) and settings.plaintext_network != "trusted":
        raise SettingsError(
            f"gateway_host: {settings.gateway_host} is not loopback and the listener has no TLS; set "
            "gateway_tls_cert and gateway_tls_key, or put a TLS load balancer in front and set "
            'plaintext_network = "trusted"'
        )


def _check_addresses(settings: Settings) -> None:
    """The configured addresses, by their form alone. They may hold a password: no message repeats a value."""
    for key, form in _FORMS.items():
        text: str = getattr(settings, key)
        if key == "redis" and text:
            redis_address.parse(text)  # which says the same of a wrong one
            continue
        parts = text.split(",") if key in ("kafka", "nats") else [text]
        if text and not all(_is_address(key, part) for part in parts):
            hint = "" if key == "kafka" else "; of a login, percent-encode what is not a letter or a digit"
            raise SettingsError(f"{key}: must be {form}{hint}")


def _is_address(key: str, text: str) -> bool:
    schemes = _SCHEMES.get(key, ())
    try:
        parts = urllib.parse.urlsplit(text if schemes else f"//{text}")
        port = parts.port
    except ValueError:  # a port that is no number or too large, a bracket without its pair
        return False
    if not parts.hostname or port == 0 or any(character.isspace() for character in text):
        return False
    if not schemes:
        return port is not None and parts.netloc == text and "@" not in text
    path = parts.path.strip("/")
    return parts.scheme in schemes and (key != "postgres" or path != "")


def _check_ports(settings: Settings) -> None:
    """Whoever listens here needs a port of its own: the gateway, embedded servers, and the demo beside them."""
    used = {"gateway_port": settings.gateway_port}
    for key in _FORMS:
        if not getattr(settings, key):
            used[f"{key}_port"] = getattr(settings, f"{key}_port")
    if not (settings.nats and settings.redis):  # with both configured it may be a gateway without devstack
        used["demo_port"] = settings.demo_port
    taken: dict[int, str] = {}
    for key, port in used.items():
        other = taken.setdefault(port, key)
        if other != key:
            raise SettingsError(f"{key}: port {port} is also {other}; give each its own")
