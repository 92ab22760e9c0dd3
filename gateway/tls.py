"""TLS 1.3 for clients that come straight to the gateway (the picows carrier)."""

import ssl
from pathlib import Path

from notification.errors import SettingsError
from notification.settings import Settings

_CERT, _KEY = "gateway_tls_cert", "gateway_tls_key"


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.3 with the settings' certificate chain and key; None without them. Raises SettingsError."""
    if not settings.gateway_tls_cert:
        return None
    for key in (_CERT, _KEY):
        _check_pem(key, Path(getattr(settings, key)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.gateway_tls_cert, settings.gateway_tls_key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{_KEY}: is not the key of the certificate in {_CERT}") from error
        raise SettingsError(f"{_CERT} or {_KEY}: is not a certificate chain and its key in PEM") from error
    return context


def _check_pem(key: str, path: Path) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{key}: {path} cannot be read: {error.strerror}") from error
    wanted = b"CERTIFICATE-----" if key == _CERT else b"PRIVATE KEY-----"
    if b"-----BEGIN " not in text or wanted not in text:
        raise SettingsError(f"{key}: {path} holds no {'certificate' if key == _CERT else 'private key'} in PEM")


def _no_password() -> str:
    raise SettingsError(f"{_KEY}: is encrypted; give a file that only the gateway may read instead of a password")
