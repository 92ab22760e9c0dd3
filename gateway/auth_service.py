"""Asks an AuthService about a token: OAuth 2.0 token introspection (RFC 7662), one POST with a deadline and a
bound, no redirect, no cookie, no proxy. The token is in the body, and nothing that is raised here repeats it.
"""

import asyncio
import base64
import ssl
from typing import Final
from urllib.parse import quote_plus

import aiohttp

from gateway.introspection import Away, BadAnswer
from notification.limits import AUTH_SERVICE_ANSWER_BYTES_MAX, AUTH_SERVICE_DEADLINE_MS

_OK: Final = 200
_TOO_MANY: Final = 429
_FAULT: Final = 500  # and above


class AuthService:
    """Made within a running loop. `client` and `secret`: what we present there (HTTP Basic, RFC 6749 §2.3.1);
    `deadline_ms`: of one answer.

    Certificates are checked against the system's authorities, or SSL_CERT_FILE's.
    """

    def __init__(self, url: str, client: str, secret: bytes, deadline_ms: int = AUTH_SERVICE_DEADLINE_MS) -> None:
        self._url = url
        self._deadline_s = deadline_ms / 1_000
        login = f"{quote_plus(client)}:{quote_plus(secret)}".encode("ascii")
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),  # ask() has one for all it does
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",  # what a compressed body grows to has no bound before it is read
                "Authorization": f"Basic {base64.b64encode(login).decode('ascii')}",
            },
            connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context()),  # the caller bounds them
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
        )  # fmt: skip

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, token: str) -> bytes:
        """The body of the answer about `token`. Raises Away, BadAnswer."""
        try:
            async with asyncio.timeout(self._deadline_s):
                try:
                    return await self._post(token)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    # Perhaps of a connection that was kept from an earlier request: asking twice changes nothing.
                    return await self._post(token)
        except aiohttp.ClientResponseError as error:
            raise BadAnswer(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Away(type(error).__name__) from error

    async def _post(self, token: str) -> bytes:
        form = {"token": token, "token_type_hint": "access_token"}
        async with self._session.post(self._url, data=form, allow_redirects=False) as response:
            if response.status == _TOO_MANY or response.status >= _FAULT:
                raise Away(f"HTTP status {response.status}")
            if response.status != _OK:
                raise BadAnswer(f"HTTP status {response.status}")
            return await _read(response.content)


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for part in content.iter_any():
        body += part
        if len(body) > AUTH_SERVICE_ANSWER_BYTES_MAX:
            raise BadAnswer(f"more than {AUTH_SERVICE_ANSWER_BYTES_MAX} bytes")
    return bytes(body)
