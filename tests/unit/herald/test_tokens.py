"""herald.tokens: claims as docs/protocol.md has them."""

import time
from pathlib import Path

import jwt
import pytest

from herald.tokens import AUDIENCE, issuer_of, mint, secret_name
from notification.errors import InvalidInput, SettingsError
from notification.settings import Settings

SECRET = "s" * 43


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / secret_name("demo")).write_text(SECRET + "\n")
    return Settings(secrets_dir=str(tmp_path))


def test_a_token_has_every_claim(settings: Settings) -> None:
    token, expiry_s = mint(settings, "demo", "ann", "phone", 60)
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=AUDIENCE, issuer=issuer_of("demo"))
    assert claims | {"jti": ""} == {
        "iss": "herald:demo", "aud": "herald", "iat": expiry_s - 60, "exp": expiry_s, "sub": "ann", "tid": "demo",
        "jti": "", "did": "phone",
    }  # fmt: skip
    assert abs(expiry_s - 60 - time.time()) < 5


def test_each_token_has_its_own_jti_and_a_device_only_if_asked(settings: Settings) -> None:
    claims = [
        jwt.decode(mint(settings, "demo", "ann", None, 60)[0], SECRET, algorithms=["HS256"], audience=AUDIENCE)
        for _ in range(2)
    ]
    assert claims[0]["jti"] != claims[1]["jti"]
    assert "did" not in claims[0]


def test_bad_ids_and_missing_secrets_are_named(settings: Settings) -> None:
    for arguments, field in (
        (("a/b", "u", None), "--tenant"),
        (("demo", "a b", None), "--user"),
        (("demo", "u", "d d"), "--device"),
    ):
        with pytest.raises(InvalidInput, match=field):
            mint(settings, *arguments, 60)
    with pytest.raises(SettingsError, match="issuer_shop"):
        mint(settings, "shop", "ann", None, 60)
