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
        ("", {"HERALD_GATEWAY_HOST": "0.0.0.0"}, 'set plaintext_network = "trusted"'),
        ("gateway_port = ", {}, "herald.toml: "),
        ("[gateway]\nport = 1", {}, "unknown setting 'gateway'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), environ)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trusted_network_may_bind_everywhere(tmp_path: Path) -> None:
    environ = {"HERALD_GATEWAY_HOST": "0.0.0.0", "HERALD_PLAINTEXT_NETWORK": "trusted"}
    assert load(tmp_path / "none", environ)[0].gateway_host == "0.0.0.0"


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
