"""Certificates as the settings name them; handshakes are in tests/flow/test_gateway_tls.py."""

import ssl
from pathlib import Path

import pytest

from gateway.tls import server_context
from notification.errors import SettingsError
from notification.settings import Settings
from tests.certificates import Authority


def context(cert: Path, key: Path) -> ssl.SSLContext | None:
    return server_context(Settings(gateway_tls_cert=str(cert), gateway_tls_key=str(key)))


def test_nothing_set_is_plain() -> None:
    assert server_context(Settings()) is None


def test_tls_1_3_only(tmp_path: Path) -> None:
    made = context(*Authority(tmp_path).issue())
    assert made is not None
    assert made.minimum_version is ssl.TLSVersion.TLSv1_3


def test_mistakes_name_the_setting(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    _, other = authority.issue("other")
    _, sealed = authority.issue("sealed", password=b"secret")
    junk, broken = tmp_path / "junk", tmp_path / "broken"
    junk.write_text("nothing")
    broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for files, says in (
        ((tmp_path / "none", key), f"gateway_tls_cert: {tmp_path}/none cannot be read: No such file or directory"),
        ((cert, tmp_path), f"gateway_tls_key: {tmp_path} cannot be read: Is a directory"),
        ((junk, key), f"gateway_tls_cert: {junk} holds no certificate in PEM"),
        ((cert, cert), f"gateway_tls_key: {cert} holds no private key in PEM"),
        ((cert, other), "gateway_tls_key: is not the key of the certificate in gateway_tls_cert"),
        ((cert, broken), "gateway_tls_cert or gateway_tls_key: is not a certificate chain and its key in PEM"),
        ((cert, sealed), "gateway_tls_key: is encrypted"),
    ):
        with pytest.raises(SettingsError) as caught:
            context(*files)
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)
