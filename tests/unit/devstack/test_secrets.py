"""devstack/secrets.py"""

from pathlib import Path

from devstack.secrets import make_issuer_key, make_secrets
from notification.settings import Settings


def test_every_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    make_secrets(settings)
    files = {path.name: path.read_bytes() for path in settings.secrets_path.iterdir()}
    assert set(files) == {
        "master.key", "issuer_demo.key",
        *(f"postgres_{role}.password" for role in ("dispatch", "receipts", "inbox", "admin")),
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in settings.secrets_path.iterdir()} == {0o600}
    assert settings.secrets_path.stat().st_mode & 0o777 == 0o700
    make_secrets(settings)
    assert {path.name: path.read_bytes() for path in settings.secrets_path.iterdir()} == files


def test_their_forms(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    make_secrets(settings)
    assert len(bytes.fromhex(settings.secret("master.key").decode())) == 32
    assert len(settings.secret("issuer_demo.key")) == 43
    assert (
        make_issuer_key(settings, "other")
        == settings.secret("issuer_other.key")
        != settings.secret("issuer_demo.key")
    )
