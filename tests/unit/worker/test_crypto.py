import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification.errors import CryptoError
from worker import crypto

KEY = bytes(range(32))
ID = uuid.UUID("0197a3c0-0000-7000-8000-000000000001")


@given(st.binary(max_size=5000), st.binary(max_size=100))
def test_a_seal_opens_to_what_was_sealed(plaintext: bytes, aad: bytes) -> None:
    sealed = crypto.seal(KEY, plaintext, aad)
    assert len(sealed) == len(plaintext) + crypto.SEAL_OVERHEAD_BYTES
    assert crypto.open_seal(KEY, sealed, aad) == plaintext


def test_the_same_bytes_never_seal_alike() -> None:
    assert len({crypto.seal(KEY, b"same", b"") for _ in range(100)}) == 100


@pytest.mark.parametrize("at", range(crypto.SEAL_OVERHEAD_BYTES + 4))
def test_any_altered_byte_is_found(at: int) -> None:
    sealed = bytearray(crypto.seal(KEY, b"text", b"place"))
    sealed[at] ^= 1
    with pytest.raises(CryptoError):
        crypto.open_seal(KEY, bytes(sealed), b"place")


@pytest.mark.parametrize("length", [0, 1, 12, 28, 32])
def test_a_cut_seal_does_not_open(length: int) -> None:
    with pytest.raises(CryptoError):
        crypto.open_seal(KEY, crypto.seal(KEY, b"text", b"")[:length], b"")


def test_another_key_does_not_open() -> None:
    with pytest.raises(CryptoError):
        crypto.open_seal(crypto.new_key(), crypto.seal(KEY, b"text", b""), b"")


@pytest.mark.parametrize(
    "other",
    [
        crypto.payload_aad("b", "user", ID, 1),
        crypto.payload_aad("a", "other", ID, 1),
        crypto.payload_aad("a", "user", uuid.UUID(int=ID.int + 1), 1),
        crypto.payload_aad("a", "user", ID, 2),
        crypto.payload_aad("au", "ser", ID, 1),
    ],
)
def test_a_seal_moved_elsewhere_does_not_open(other: bytes) -> None:
    sealed = crypto.seal(KEY, b"text", crypto.payload_aad("a", "user", ID, 1))
    with pytest.raises(CryptoError):
        crypto.open_seal(KEY, sealed, other)


def test_places_of_different_kinds_never_meet() -> None:
    places = {crypto.tenant_key_aad("a", 1), crypto.user_key_aad("a", "1", 1), crypto.issuer_key_aad("a", "1", "1")}
    assert len(places | {crypto.payload_aad("a", "1", ID, 1)}) == 4
