"""notification.settings: three sources, one frozen value, errors that name the key and the fix."""

import dataclasses
from pathlib import Path

import pytest

from notification.errors import SettingsError
from notification.settings import FIELDS, Settings, load


def written(folder: Path, text: str) -> Path:
    file = folder / "herald.toml"
    file.write_text(text)
    return file


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings, sources = load(tmp_path / "none.toml", {"PATH": "/bin"})
    assert settings == Settings()
    assert set(sources) == set(FIELDS)
    assert set(sources.values()) == {"default"}


def test_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "gateway_port = 9000\nkafka_port = 9001\nlog_json = false\n")
    settings, sources = load(file, {"HERALD_GATEWAY_PORT": "9100", "HERALD_LOG_LEVEL": "debug"})
    assert (settings.gateway_port, settings.kafka_port, settings.log_json) == (9100, 9001, False)
    assert sources["gateway_port"] == "HERALD_GATEWAY_PORT"
    assert sources["kafka_port"] == str(file)
    assert sources["nats_port"] == "default"


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("gateway_prot = 1", {}, "unknown setting 'gateway_prot'; did you mean 'gateway_port'?"),
        ("", {"HERALD_KAFFKA": "x"}, "HERALD_KAFFKA: unknown setting 'kaffka'; did you mean 'kafka'?"),
        ("zzzzzz = 1", {}, "unknown setting 'zzzzzz' (`herald config check` lists all)"),
        ('gateway_port = "9000"', {}, "gateway_port must be a whole number, not str"),
        ("gateway_port = true", {}, "gateway_port must be a whole number, not bool"),
        ("log_json = 1", {}, "log_json must be true or false, not int"),
        ("", {"HERALD_GATEWAY_PORT": "many"}, "HERALD_GATEWAY_PORT: must be a whole number"),
        ("", {"HERALD_LOG_JSON": "maybe"}, "HERALD_LOG_JSON: must be true or false"),
        ("", {"HERALD_GATEWAY_PORT": "0"}, "gateway_port: must be 1 to 65535, is 0"),
        ("", {"HERALD_GATEWAY_PROCESSES": "-1"}, "gateway_processes: must not be negative"),
        ("", {"HERALD_LOG_LEVEL": "loud"}, "log_level: must be debug, info, warning or error"),
        ("", {"HERALD_PLAINTEXT_NETWORK": "yes"}, "plaintext_network"),
        ("", {"HERALD_WORKER_NAME": "pod 1"}, "worker_name"),
        ("", {"HERALD_GATEWAY_HOST": "0.0.0.0"}, 'set plaintext_network = "trusted"'),
        ("", {"HERALD_GATEWAY_CARRIER": "fast"}, "gateway_carrier: must be auto, engine or picows, is 'fast'"),
        ("", {"HERALD_GATEWAY_TLS_CERT": "c"}, "gateway_tls_key: is empty, but gateway_tls_cert is set"),
        ("", {"HERALD_GATEWAY_TLS_KEY": "k"}, "gateway_tls_cert: is empty, but gateway_tls_key is set"),
        (
            'gateway_tls_cert = "c"\ngateway_tls_key = "k"\ngateway_carrier = "engine"',
            {},
            "gateway_carrier: engine speaks no TLS; with gateway_tls_cert it must be auto or picows",
        ),
        (
            "",
            {"HERALD_AUTH_SERVICE": "https://a.example/"},
            "auth_service_client: is empty, but auth_service is set",
        ),
        ("", {"HERALD_AUTH_SERVICE_CLIENT": "herald"}, "auth_service: is empty, but auth_service_client is set"),
        ("", {"HERALD_AUTH_SERVICE_TOKENS": "some"}, "auth_service_tokens: must be opaque or all, is 'some'"),
        (
            'auth_service = "https://a.example/"\nauth_service_client = "ü"',
            {},
            "auth_service_client: must be at most 256 printable ASCII characters",
        ),
        ("", {"HERALD_PROXY_PROTOCOL": "on"}, "proxy_protocol: must be off or required, is 'on'"),
        ("", {"HERALD_PROXY_PROTOCOL": "required"}, "trusted_proxies: is empty, but proxy_protocol is required"),
        ("", {"HERALD_TRUSTED_PROXIES": "10.0.0.0/8,lb"}, "trusted_proxies: 'lb' does not appear to be"),
        ("", {"HERALD_TRUSTED_PROXIES": "10.1.0.0/8"}, "trusted_proxies: 10.1.0.0/8 has host bits set"),
        ("", {"HERALD_CONNECTIONS_PER_ADDRESS": "-1"}, "connections_per_address: must not be negative"),
        ("", {"HERALD_CONNECTIONS_PER_TENANT": "9999999999"}, "connections_per_tenant: must be at most 1000000"),
        ("gateway_port = 14222", {}, "gateway_port; give each its own"),
        ("demo_port = 8081", {}, "demo_port: port 8081 is also gateway_port; give each its own"),
        ("kafka_port = 15432", {}, "postgres_port: port 15432 is also kafka_port"),
        ("", {"HERALD_WORKER_METRICS": "8082"}, "worker_metrics: must be host:port, like 127.0.0.1:8082"),
        ("", {"HERALD_WORKER_METRICS": "http://h:1"}, "worker_metrics: must be host:port"),
        ("gateway_port = ", {}, "herald.toml: "),
        ("[gateway]\nport = 1", {}, "unknown setting 'gateway'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), environ)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tls_chooses_its_carrier_and_may_bind_everywhere(tmp_path: Path) -> None:
    assert Settings().carrier == "engine"
    assert Settings(gateway_carrier="picows").carrier == "picows"
    text = 'gateway_tls_cert = "c"\ngateway_tls_key = "k"\ngateway_host = "0.0.0.0"'
    assert load(written(tmp_path, text), {})[0].carrier == "picows"


def test_trusted_proxies_are_networks(tmp_path: Path) -> None:
    environ = {
        "HERALD_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::/32,192.0.2.1,",
        "HERALD_PROXY_PROTOCOL": "required",
    }
    proxies = load(tmp_path / "none", environ)[0].proxies
    assert [str(network) for network in proxies] == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]


def test_a_trusted_network_may_bind_everywhere(tmp_path: Path) -> None:
    environ = {"HERALD_GATEWAY_HOST": "0.0.0.0", "HERALD_PLAINTEXT_NETWORK": "trusted"}
    assert load(tmp_path / "none", environ)[0].gateway_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kafka", "k:9092"), ("kafka", "k1:9092,10.0.0.1:9093,[::1]:9094"),
        ("nats", "nats://n"), ("nats", "tls://u:p%40ss@n1:4222,nats://token@n2:4222"),
        ("redis", "redis://r"), ("redis", "rediss://:p@r:6380/2"),
        ("postgres", "postgresql://u:p@h:5432/herald?sslmode=require"), ("postgres", "postgres://u@[::1]/herald"),
    ],
)  # fmt: skip
def test_addresses_of_the_forms_that_the_code_takes(tmp_path: Path, key: str, value: str) -> None:
    settings, _ = load(tmp_path / "none", {f"HERALD_{key.upper()}": value})
    assert getattr(settings, key) == value


@pytest.mark.parametrize(
    ("key", "form", "values"),
    [
        ("kafka", "host:port[,host:port]",
         ["hunter2", "kafka://hunter2:9092", "u:hunter2@k:9092", "hunter2:0", "hunter2:70000", "hunter2:x", "k:1,",
          "k:1, hunter2:2", ":9092", "hunter2:9092/x"]),
        ("nats", "nats:// or tls://",
         ["hunter2:4222", "http://hunter2:4222", "nats://", "nats://u:hunter2@", "nats://n:1,hunter2", "ws://hunter2",
          "nats://u:hunter2,x@n:4222"]),
        ("redis", "redis:// or rediss://",
         ["hunter2", "unix:///hunter2", "redis://u:hunter2@", "redis://r/hunter2", "redis://u:hunt/er2@r/0"]),
        ("postgres", "postgresql://",
         ["hunter2", "mysql://u:hunter2@h/d", "postgresql://u:hunter2@h", "postgresql://u:hunter2@/d",
          "postgresql://u:hunter2@h:x/d", "postgresql://u:hun#ter2@h/d", "postgresql://u:hunter2@h:1,i:2/d"]),
    ],
)  # fmt: skip
def test_a_wrong_address_is_named_with_its_form_and_without_its_password(
    tmp_path: Path, key: str, form: str, values: list[str]
) -> None:
    for value in values:
        with pytest.raises(SettingsError) as caught:
            load(tmp_path / "none", {f"HERALD_{key.upper()}": value})
        text = str(caught.value)
        assert text.startswith(f"{key}: must be {form}"), value
        assert "hun" not in text
        assert "er2" not in text


def test_ports_that_nobody_uses_here_may_repeat(tmp_path: Path) -> None:
    """A gateway by itself on the demo's port, or on the port of a server that runs elsewhere."""
    servers = {"HERALD_NATS": "nats://n", "HERALD_REDIS": "redis://r"}
    assert load(tmp_path / "none", servers | {"HERALD_GATEWAY_PORT": "8080"})[0].demo_port == 8080
    assert load(tmp_path / "none", servers | {"HERALD_GATEWAY_PORT": "14222"})[0].nats_port == 14222


def test_every_field_has_a_doc_and_settings_are_frozen() -> None:
    for name, field in FIELDS.items():
        assert field.metadata["doc"], name
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().kafka = "x"  # type: ignore[misc]


def test_an_address_replaces_the_embedded_server() -> None:
    embedded = Settings(kafka_port=1, nats_port=2, redis_port=3, postgres_port=4)
    assert embedded.kafka_servers == "127.0.0.1:1"
    assert embedded.nats_url == "nats://127.0.0.1:2"
    assert embedded.redis_url == "redis://127.0.0.1:3/0"
    assert embedded.postgres_dsn == "postgresql://postgres@127.0.0.1:4/herald"
    real = Settings(kafka="k:9092", nats="nats://n", redis="redis://r", postgres="postgresql://p/x")
    assert (real.kafka_servers, real.nats_url, real.redis_url, real.postgres_dsn) == (
        "k:9092", "nats://n", "redis://r", "postgresql://p/x",
    )  # fmt: skip


def test_secrets_are_files_and_missing_or_empty_ones_are_named(tmp_path: Path) -> None:
    settings = Settings(secrets_dir=str(tmp_path))
    (tmp_path / "a.key").write_text(" value \n")
    (tmp_path / "b.key").write_text("\n")
    assert settings.secret("a.key") == b"value"
    with pytest.raises(SettingsError, match=r"b\.key is empty"):
        settings.secret("b.key")
    with pytest.raises(SettingsError, match=r"c\.key cannot be read: No such file"):
        settings.secret("c.key")
    assert Settings(data_dir="x").secrets_path == Path("x/secrets")


@pytest.mark.parametrize(
    "url",
    ["https://id.example/introspect", "https://10.0.0.1:8443/i?x=y", "http://127.0.0.1:9/i", "http://[::1]/i"],
)
def test_where_an_auth_service_may_be(url: str, tmp_path: Path) -> None:
    settings, _ = load(tmp_path / "none.toml", {"HERALD_AUTH_SERVICE": url, "HERALD_AUTH_SERVICE_CLIENT": "herald"})
    assert (settings.auth_service, settings.auth_service_tokens) == (url, "opaque")


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/introspect", "http://127.0.0.1.example/i", "https://herald:secret@id.example/i",
        "https://id.example/i#f", "https://id.example:port/i", "https:///i", "ftp://id.example/i", "id.example/i",
        "https://id.example/a b", "https://id.example/" + "x" * 2_048,
    ],
)  # fmt: skip
def test_where_it_may_not_be(url: str, tmp_path: Path) -> None:
    environ = {"HERALD_AUTH_SERVICE": url, "HERALD_AUTH_SERVICE_CLIENT": "herald"}
    with pytest.raises(SettingsError, match=r"^auth_service: must be https://") as error:
        load(tmp_path / "none.toml", environ)
    assert url not in str(error.value)  # it may hold a secret
