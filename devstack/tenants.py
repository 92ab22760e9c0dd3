"""A tenant for development and tests, made through the operations that `herald tenant create` uses."""

from collections.abc import Sequence
from typing import Final

from notification.messages import EdgeKey
from notification.settings import Settings
from worker.operations import Operations

AUDIENCE: Final = "herald"


async def create_tenant(settings: Settings, name: str, origins: Sequence[str] = ()) -> list[str]:
    """Make the tenant and register the HS256 key of its issuer (secret file issuer_NAME.key), unless it is there.

    Returns the origins whose pages may connect: those given, or what they are since it was made.
    Raises SettingsError when the secret file is missing, Unavailable when PostgreSQL is.
    """
    operations = await Operations.connect(settings)
    try:
        for tenant in await operations.list_tenants():
            if tenant.tenant == name:
                return tenant.origins
        key = EdgeKey(
            issuer=f"herald:{name}",
            kid="",
            algorithm="HS256",
            audience=AUDIENCE,
            key=settings.secret(f"issuer_{name}.key"),
        )
        await operations.create_tenant(name, name, origins, [key])
        return list(origins)
    finally:
        await operations.close()
