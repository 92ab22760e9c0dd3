"""What the Python client asks of the server: pages and state changes, one under way at a time.

The server takes COMMANDS_PER_CONNECTION_MAX of a connection and answers `busy` beyond, without saying to what. With
one under way it is clear, and the next one may be sent before the server has put the last one away.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from herald.client_errors import ClientError, NotConnected, ServerBusy
from notification.frames import ClientFrame, ErrorFrame, Page, PageFrame, ServerFrame, SetState, StateFrame

REQUEST_TIMEOUT_S: Final = 10.0  # in all: waiting for its turn, being asked, and again after each `busy`
SILENT_S: Final = 5.0  # then the answer to a state change was lost: it comes over the bus
RETRY_S: Final = 1.0  # after a `busy` that names no `retry_ms`

_Answer = PageFrame | StateFrame | ErrorFrame | ClientError


class _Asked(NamedTuple):
    frame: Page | SetState
    answer: asyncio.Future[_Answer]


class Requests:
    """`send` writes a frame; it raises NotConnected. `told` takes each server frame, `cut` the connection's end."""

    def __init__(self, send: Callable[[ClientFrame], Awaitable[None]]) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._asked: _Asked | None = None  # under way, also when its asker has given up

    async def page(self, frame: Page) -> PageFrame:
        """Raises NotConnected, ServerBusy, ClientError (the server calls it a bad frame)."""
        answer = await self._ask(frame)
        assert isinstance(answer, PageFrame)
        return answer

    async def set_state(self, frame: SetState) -> None:
        """Returns once the server says it is done, or says nothing: the answer was lost. Raises as page()."""
        await self._ask(frame)

    def told(self, frame: ServerFrame) -> None:
        """Is it the answer to what is under way?"""
        if self._asked is None:
            return
        asked = self._asked.frame
        match frame:
            case PageFrame():
                if isinstance(asked, Page):
                    self._answered(frame)
            case StateFrame():  # of those ids that there are; other devices' changes come so, too
                if isinstance(asked, SetState) and frame.to == asked.to and set(frame.ids) <= set(asked.ids):
                    self._answered(frame)
            case ErrorFrame(code="busy"):
                self._answered(frame)
            case ErrorFrame(code="bad_frame"):
                self._answered(ClientError("the server answered: bad_frame"))

    def cut(self) -> None:
        """The connection was lost: no answer will come."""
        if self._asked is not None:
            self._answered(NotConnected("the connection was lost"))

    def _answered(self, answer: _Answer) -> None:
        assert self._asked is not None
        asked, self._asked = self._asked, None
        asked.answer.set_result(answer)

    async def _ask(self, frame: Page | SetState) -> PageFrame | StateFrame | None:
        """Ask until there is another answer than `busy`, with twice the wait each time; None: silence."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S), self._turn:
                patience = 1
                while isinstance(answer := await self._once(frame), ErrorFrame):
                    retry_s = RETRY_S if answer.retry_ms is None else answer.retry_ms / 1_000
                    await asyncio.sleep(retry_s * patience * random.uniform(1, 1.5))  # noqa: S311 - jitter
                    patience *= 2
        except TimeoutError:
            raise ServerBusy("the server is busy: no answer within the deadline") from None
        if isinstance(answer, ClientError):
            raise answer
        return answer

    async def _once(self, frame: Page | SetState) -> _Answer | None:
        if self._asked is not None:  # whoever asked gave up; its answer must not be taken for ours
            await asyncio.wait([self._asked.answer])
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asked = _Asked(frame, answer)
        try:
            await self._send(frame)
        except BaseException:
            self._asked = None
            raise
        await asyncio.wait([answer], timeout=SILENT_S if isinstance(frame, SetState) else None)
        if answer.done():
            return answer.result()
        self._asked = None
        return None
