"""Fetches a JWKS over HTTP: one GET with a deadline and a bound, no redirect, no cookie, no proxy."""

from typing import Final

import aiohttp

from notification.errors import HeraldError, InvalidInput
from notification.limits import JWKS_BYTES_MAX, JWKS_DEADLINE_MS
from worker.jwks import JwksKey, check_url, parse

# Identity: what a compressed body grows to has no bound before it is read.
_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


class FetchFailed(HeraldError):
    """No JWKS came; the text says why and repeats nothing of the answer."""


class JwksClient:
    """Made within a running loop. `plain_loopback`: setting jwks_plain_loopback."""

    def __init__(self, plain_loopback: bool) -> None:
        self._plain_loopback = plain_loopback
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=JWKS_DEADLINE_MS / 1000), headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
        )  # fmt: skip

    async def close(self) -> None:
        await self._session.close()

    async def fetch(self, url: str) -> list[JwksKey]:
        """The keys of an issuer. Raises FetchFailed."""
        try:
            check_url(url, self._plain_loopback)
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise FetchFailed(f"HTTP status {response.status}")
                return parse(await _read(response.content))
        except InvalidInput as error:
            raise FetchFailed(str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise FetchFailed(type(error).__name__) from error


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for part in content.iter_any():
        body += part
        if len(body) > JWKS_BYTES_MAX:
            raise FetchFailed(f"more than {JWKS_BYTES_MAX} bytes")
    return bytes(body)
