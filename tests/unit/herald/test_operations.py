"""herald.operations: origins, public keys, secret files."""

import asyncio
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from herald import operations
from herald.errors import Failed
from notification.errors import InvalidInput
from notification.messages import EdgeKey
from notification.settings import Settings


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("https://shop.example.com", "https://shop.example.com"), ("HTTPS://Shop.Example.com/", "https://shop.example.com"),
        ("https://x:443", "https://x"), ("http://localhost:3000", "http://localhost:3000"), ("http://[::1]:80", "http://[::1]"),
    ],
)  # fmt: skip
def test_origins_are_written_as_browsers_send_them(value: str, origin: str) -> None:
    assert operations.check_origin(value) == origin


@pytest.mark.parametrize(
    "value",
    ["", "*", "shop.example.com", "ftp://x", "https://x/path", "https://u@x", "https://x:y", "https://x?q", "null"],
)
def test_other_origins_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="--origin: must be an origin"):
        operations.check_origin(value)


KEYS = {
    "RS256": rsa.generate_private_key(65_537, 2_048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_a_public_key_must_fit_its_algorithm(tmp_path: Path, algorithm: str) -> None:
    file = tmp_path / "key.pem"
    pem = KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file.write_bytes(pem)
    assert operations.read_public_key(file, algorithm) == pem
    for other in set(KEYS) - {algorithm}:
        with pytest.raises(InvalidInput, match=f"for --algorithm {other}"):
            operations.read_public_key(file, other)
    private = KEYS[algorithm].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private)
    with pytest.raises(InvalidInput, match="must be a public key in PEM"):
        operations.read_public_key(file, algorithm)


def test_weak_and_strange_keys_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    weak = rsa.generate_private_key(65_537, 1_024).public_key()
    file.write_bytes(weak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InvalidInput, match="2048 bits"):
        operations.read_public_key(file, "RS256")
    file.write_bytes(b"\x00junk")
    with pytest.raises(InvalidInput, match="PEM"):
        operations.read_public_key(file, "RS256")
    with pytest.raises(InvalidInput, match="cannot be read"):
        operations.read_public_key(tmp_path / "none", "RS256")


def test_a_secret_of_a_tenant_that_was_not_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "CONNECT_TIMEOUT_S", 0.3)
    (tmp_path / "postgres_admin.password").write_text("p")
    settings = Settings(secrets_dir=str(tmp_path), postgres_port=1)
    key = EdgeKey("herald:shop", "herald", "", "HS256", b"")
    with pytest.raises(Failed, match="PostgreSQL at 127"):
        asyncio.run(operations.create_tenant(settings, "shop", "Shop", [], key))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["postgres_admin.password"]


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "issuer_shop.key"
    assert operations._make_secret(file)
    text = file.read_text()
    assert len(text.strip()) == 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not operations._make_secret(file)
    assert file.read_text() == text
