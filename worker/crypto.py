"""Seals: AES-256-GCM under a 256-bit key, with the place the bytes belong to as associated data.

A seal is: version u8 = 1 | nonce 12 bytes, random | ciphertext | tag 16 bytes. With a random 96-bit nonce a key may
seal 2**32 times (NIST SP 800-38D §8.3); every user has a key of their own, so none comes near.

Associated data is a list of texts, each length-prefixed, so that ("a", "bc") and ("ab", "c") are different places
and a seal moved to another tenant, user, id or key version does not open.
"""

import functools
import os
import uuid
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from notification.errors import CryptoError

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_USERS_KEPT: Final = 4_096  # ciphers and places, about 1 KB each
SEAL_OVERHEAD_BYTES: Final = len(_VERSION) + _NONCE_BYTES + _TAG_BYTES


def new_key() -> bytes:
    """A random key of KEY_BYTES."""
    return os.urandom(KEY_BYTES)


def derive_key(key: bytes, purpose: str) -> bytes:
    """A key of its own for one purpose (HKDF-SHA256, RFC 5869), so that it is not used up by another's seals."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode("ascii")).derive(key)


def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt and bind to `aad`; SEAL_OVERHEAD_BYTES longer than `plaintext`."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key).encrypt(nonce, plaintext, aad)


def open_seal(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Decrypt. Raises CryptoError: wrong key, wrong place, altered or cut bytes, unknown version."""
    if len(sealed) < SEAL_OVERHEAD_BYTES or sealed[:1] != _VERSION:
        raise CryptoError("not a seal of version 1")
    nonce = sealed[1 : 1 + _NONCE_BYTES]
    try:
        return _cipher(key).decrypt(nonce, sealed[1 + _NONCE_BYTES :], aad)
    except InvalidTag as error:
        raise CryptoError("a seal does not open: wrong key, wrong place or altered bytes") from error


def payload_aad(tenant: str, user: str, notification_id: uuid.UUID, key_version: int) -> bytes:
    """The place of a notification's payload."""
    return _user_place("payload", tenant, user) + _place(str(notification_id), str(key_version))


def tenant_key_aad(tenant: str, key_version: int) -> bytes:
    """The place of a tenant key under the master key."""
    return _place("tenant key", tenant, str(key_version))


def user_key_aad(tenant: str, user: str, key_version: int) -> bytes:
    """The place of a user key under the tenant key."""
    return _place("user key", tenant, user, str(key_version))


def issuer_key_aad(tenant: str, issuer: str, kid: str) -> bytes:
    """The place of an issuer's verification key under the master key."""
    return _place("issuer key", tenant, issuer, kid)


def dead_letter_aad(owner: str, topic: str, partition: str, offset: str) -> bytes:
    """The place of a record that is a dead letter: whose key seals it, and where it was, as its headers say."""
    return _place("dead letter", owner, topic, partition, offset)


def _place(*parts: str) -> bytes:
    encoded = [part.encode("utf-8") for part in parts]
    return b"".join([len(part).to_bytes(4, "big") + part for part in encoded])


# A user's notifications come one after the other.
_cipher = functools.lru_cache(_USERS_KEPT)(AESGCM)
_user_place = functools.lru_cache(_USERS_KEPT)(_place)
