"""Tokens of a tenant whose HS256 secret is at hand: for `listen`, `token`, development and tests.

In production the tenant's own identity provider signs; Herald then holds its public key only.
"""

import time
import uuid
from typing import Any, Final

import jwt

from notification.errors import SettingsError
from notification.ids import check_token, check_user
from notification.settings import Settings

AUDIENCE: Final = "herald"
LIFETIME_S_DEFAULT: Final = 3_600
LIFETIME_S_MAX: Final = 30 * 86_400


def issuer_of(tenant: str) -> str:
    """The `iss` of a tenant's own issuer, unless it named another."""
    return f"herald:{tenant}"


def secret_name(tenant: str) -> str:
    """The secret file with the HMAC key of `issuer_of(tenant)`."""
    return f"issuer_{tenant}.key"


def mint(settings: Settings, tenant: str, user: str, device: str | None, lifetime_s: int) -> tuple[str, int]:
    """Sign a token: (token, its expiry as Unix seconds). Raises InvalidInput, SettingsError."""
    check_token(tenant, "--tenant")
    check_user(user, "--user")
    try:
        secret = settings.secret(secret_name(tenant))
    except SettingsError as error:
        raise SettingsError(
            f"no secret to sign tokens of tenant {tenant!r} with: {error}; set secrets_dir if it is elsewhere, "
            "or take a token of the tenant's identity provider (`herald listen --token-file`)"
        ) from error
    now_s = int(time.time())
    claims: dict[str, Any] = {
        "iss": issuer_of(tenant),
        "aud": AUDIENCE,
        "iat": now_s,
        "exp": now_s + lifetime_s,
        "sub": user,
        "tid": tenant,
        "jti": str(uuid.uuid4()),
    }
    if device is not None:
        claims["did"] = check_token(device, "--device")
    return jwt.encode(claims, secret, algorithm="HS256"), now_s + lifetime_s
