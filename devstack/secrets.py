"""Secret files of a development system: made once, readable by their owner alone."""

import base64
import os
import secrets
from pathlib import Path
from typing import Final

from notification.settings import Settings

DEMO_TENANT: Final = "demo"
POSTGRES_ROLES: Final = ("dispatch", "receipts", "inbox", "admin")
MASTER_KEY_BYTES: Final = 32
ISSUER_KEY_BYTES: Final = 32  # RFC 7518 §3.2: an HS256 key is at least 256 bits


def make_secrets(settings: Settings) -> None:
    """Make the secret files that are missing; those that exist stay as they are."""
    folder = settings.secrets_path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_once(folder / "master.key", secrets.token_hex(MASTER_KEY_BYTES))
    for role in POSTGRES_ROLES:
        _write_once(folder / f"postgres_{role}.password", secrets.token_urlsafe(24))
    make_issuer_key(settings, DEMO_TENANT)


def make_issuer_key(settings: Settings, tenant: str) -> bytes:
    """The HS256 key of a tenant's issuer (base64url text of 32 bytes, used as it is); made when missing."""
    text = base64.urlsafe_b64encode(secrets.token_bytes(ISSUER_KEY_BYTES)).rstrip(b"=").decode()
    name = f"issuer_{tenant}.key"
    _write_once(settings.secrets_path / name, text)
    return settings.secret(name)


def _write_once(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
