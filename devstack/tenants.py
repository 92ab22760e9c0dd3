"""A tenant for development and tests, made through the operations that `herald tenant create` uses."""

from collections.abc import Sequence
from typing import Final

from notification.messages import EdgeKey
from notification.settings import Settings
from worker.operations import Operations

AUDIENCE: Final = "herald"


async def create_tenant(settings: Settings, name: str, origins: Sequence[str] = ()) -> None:
    """Make the tenant and register the HS256 key of its issuer (secret file issuer_NAME.key), unless it is there.

    Raises SettingsError when the secret file is missing, Unavailable when PostgreSQL is.
    """
    operations = await Operations.connect(settings)
    try:
        if any(tenant.tenant == name for tenant in await operations.list_tenants()):
            return
        key = EdgeKey(
            issuer=f"herald:{name}",
            kid="",
            algorithm="HS256",
            audience=AUDIENCE,
            key=settings.secret(f"issuer_{name}.key"),
        )
        await operations.create_tenant(name, name, origins, [key])
    finally:
        await operations.close()
