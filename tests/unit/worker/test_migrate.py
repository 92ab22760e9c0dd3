import base64
import hashlib
import hmac

import pytest

from notification.errors import SettingsError
from worker import migrate


def test_a_verifier_is_what_rfc_7677_says() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    kind, iterations, keys = migrate.scram_verifier(b"pencil", salt).split("$")
    assert (kind, iterations) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    # The exchange of RFC 7677 §3: the proof that the client sends leads back to the stored key.
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored
    assert hmac.digest(server, message, "sha256") == base64.b64decode(
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


def test_a_password_that_needs_preparation_is_refused() -> None:
    with pytest.raises(SettingsError, match="ASCII"):
        migrate.scram_verifier("pässword".encode(), b"salt")


@pytest.mark.parametrize("folder", ["migrations", "migrations/keys"])
def test_migrations_are_numbered_without_a_gap(folder: str) -> None:
    versions = [version for version, _, _ in migrate._files(folder)]
    assert versions == list(range(1, len(versions) + 1))
