from pathlib import Path

import pytest

from notification.errors import CryptoError, SettingsError
from notification.settings import Settings
from worker import crypto, keys

MASTER = bytes(range(32))


def test_an_lru_keeps_what_was_used_last_and_is_bounded() -> None:
    lru: keys.LRU[int, str] = keys.LRU(2)
    lru.put(1, "one")
    lru.put(2, "two")
    assert lru.get(1) == "one"
    lru.put(3, "three")
    assert (lru.get(2), lru.get(1), lru.get(3), len(lru)) == (None, "one", "three", 2)
    lru.put(1, "uno")
    assert (lru.get(1), len(lru)) == ("uno", 2)


def test_the_master_key_is_64_hexadecimal_digits(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    settings = Settings(secrets_dir=str(tmp_path))
    file.write_text(MASTER.hex() + "\n")
    assert keys.master_key(settings) == MASTER


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "ab" * 33, "é" * 32])
def test_a_wrong_master_key_names_its_file_and_not_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "master.key"
    file.write_text(text)
    with pytest.raises(SettingsError, match=str(file)) as caught:
        keys.master_key(Settings(secrets_dir=str(tmp_path)))
    assert not text or text not in str(caught.value)


def test_a_tenant_key_is_bound_to_its_tenant() -> None:
    wrapped = keys.new_tenant_key(MASTER, "acme")
    key = crypto.open_seal(MASTER, wrapped, crypto.tenant_key_aad("acme", keys.FIRST_VERSION))
    assert len(key) == crypto.KEY_BYTES
    with pytest.raises(CryptoError):
        crypto.open_seal(MASTER, wrapped, crypto.tenant_key_aad("other", keys.FIRST_VERSION))
    assert keys.new_tenant_key(MASTER, "acme") != wrapped


def test_an_issuer_key_is_bound_to_its_place() -> None:
    sealed = keys.seal_issuer_key(MASTER, "acme", "herald:acme", "k1", b"secret")
    assert keys.open_issuer_key(MASTER, "acme", "herald:acme", "k1", sealed) == b"secret"
    for place in (("other", "herald:acme", "k1"), ("acme", "herald:other", "k1"), ("acme", "herald:acme", "")):
        with pytest.raises(CryptoError):
            keys.open_issuer_key(MASTER, *place, sealed)
