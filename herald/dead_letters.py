"""Dead letters as the operator's commands list, show and replay them: rows in the shape of docs/cli.md.

The import of the worker is lazy on purpose: only a command that needs it loads it.
"""

import base64
import contextlib
import dataclasses
import heapq
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from herald.console import iso_ms, quiet_logs
from herald.errors import Failed, server_down
from herald.operations import letter_key
from notification.errors import Conflict, CryptoError, InvalidInput
from notification.ids import check_token
from notification.names import PRIORITIES, TOPIC_DEAD, TOPICS
from notification.settings import Settings

if TYPE_CHECKING:
    from worker.admission import Admitted
    from worker.dead_letter_reader import Letter, LetterName

LIST_COUNT_MAX: Final = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters a command is about: those called `names`, or all of `tenant` and `reason` ("" = any)."""

    names: "Collection[LetterName]" = ()
    tenant: str = ""
    reason: str = ""

    @classmethod
    def of(cls, texts: Collection[str], tenant: str = "", reason: str = "") -> "Wanted":
        """From what a command line says. Raises InvalidInput."""
        from worker.admission import Reason
        from worker.dead_letter_reader import LetterName

        if tenant:
            check_token(tenant, "--tenant")
        if reason and reason not in list(Reason):
            raise InvalidInput("--reason", f"must be one of {', '.join(Reason)}")
        return cls(frozenset(LetterName.parse(text, "LETTER") for text in texts), tenant, reason)

    def fits(self, letter: "Letter") -> bool:
        tenant, reason = letter.header("tenant_id"), letter.header("reason")
        return self.tenant in ("", tenant) and self.reason in ("", reason)


@dataclasses.dataclass(slots=True)
class Plan:
    """What a replay would do: letters to send by their reason, and how many it would keep."""

    sent: "Counter[str]" = dataclasses.field(default_factory=Counter)
    kept: int = 0


async def _read(settings: Settings, wanted: Wanted) -> "AsyncGenerator[Letter]":
    """The letters wanted. Raises Conflict: a name that no letter has; herald.errors.Failed: Kafka is down."""
    from worker.dead_letter_reader import read
    from worker.log import LogAway

    quiet_logs()
    missing = set(wanted.names)
    try:
        async with contextlib.aclosing(read(settings.kafka_servers, wanted.names)) as letters:
            async for letter in letters:
                missing.discard(letter.name)
                if wanted.fits(letter):
                    yield letter
    except LogAway as error:
        raise server_down("Kafka", settings.kafka_servers, "kafka", settings) from error
    if missing:
        raise Conflict("LETTER", f"{min(missing)} is not (or no longer) in {TOPIC_DEAD}")


async def listed(settings: Settings, wanted: Wanted, count_max: int) -> tuple[list[dict[str, Any]], int]:
    """The newest `count_max` letters wanted, oldest first, and how many there are in all."""
    newest: list[tuple[int, LetterName, dict[str, Any]]] = []
    count = 0
    async with contextlib.aclosing(_read(settings, wanted)) as letters:
        async for letter in letters:
            count += 1
            heapq.heappush(newest, (letter.buried_ms, letter.name, _row(letter)))
            if len(newest) > count_max:
                heapq.heappop(newest)
    return [row for _ms, _name, row in sorted(newest, key=lambda one: one[:2])], count


async def shown(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    """The one letter wanted, with what it holds and whether a replay may help."""
    async with contextlib.aclosing(_read(settings, wanted)) as letters:
        letter = await anext(letters)
    opened = await _Keys(settings).open(letter)
    if isinstance(opened, str):
        raise Failed(f"letter {letter.name} {opened}")
    letter = opened
    verdict = judge(letter, time.time_ns() // 1_000_000)
    return _row(letter) | {
        "key": _text(letter.key),
        "value": _text(letter.value),
        "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode("ascii"),
        "value_sha256": letter.header("value_sha256") or None,
        "obstacle": verdict if isinstance(verdict, str) else None,
    }


async def planned(settings: Settings, wanted: Wanted) -> Plan:
    """What `replayed` would do now."""
    plan = Plan()
    keys = _Keys(settings)
    async with contextlib.aclosing(_read(settings, wanted)) as letters:
        async for letter in letters:
            if isinstance(await _judged(keys, letter), str):
                plan.kept += 1
            else:
                plan.sent[letter.header("reason")] += 1
    return plan


async def replayed(settings: Settings, wanted: Wanted, tell: Callable[[dict[str, Any]], None]) -> Plan:
    """Send the letters wanted to their topics again, one after the other; `tell` hears what became of each.

    Raises herald.errors.Failed when Kafka is down or stops acknowledging: sent is then what `tell` has heard of.
    """
    from herald.producer import EventProducer, NotAccepted

    outcome = Plan()
    keys = _Keys(settings)
    async with EventProducer(settings) as producer, contextlib.aclosing(_read(settings, wanted)) as letters:
        async for letter in letters:
            verdict = await _judged(keys, letter)
            if isinstance(verdict, str):
                outcome.kept += 1
                tell({"status": "kept", "letter": str(letter.name), "error": verdict})
                continue
            priority = PRIORITIES[verdict.priority]
            record = verdict.record
            assert record.key is not None
            assert record.value is not None
            try:
                place = await producer.publish(priority, record.key, record.value)
            except NotAccepted as error:
                raise Failed(
                    f"stopped at letter {letter.name}: {error}; it may or may not have been sent"
                ) from error
            outcome.sent[letter.header("reason")] += 1
            tell({
                "status": "replayed", "letter": str(letter.name), "id": str(verdict.id), "topic": place.topic,
                "partition": place.partition, "offset": place.offset,
            })  # fmt: skip
    return outcome


class _Keys:
    """What opens letters, by owner; each is asked for once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, bytes | None] = {}

    async def open(self, letter: "Letter") -> "Letter | str":
        """The letter as its record was, or why it does not open. One that is not sealed is as it is."""
        if letter.owner is None:
            return letter
        if letter.owner not in self._known:
            self._known[letter.owner] = await letter_key(self._settings, letter.owner)
        key = self._known[letter.owner]
        if key is None:
            return "does not open: its tenant and the tenant's key are gone"
        try:
            return letter.opened(key)
        except CryptoError:
            return "does not open: its bytes were altered, or the secret file master.key is another one"


async def _judged(keys: _Keys, letter: "Letter") -> "Admitted | str":
    opened = await keys.open(letter)
    return opened if isinstance(opened, str) else judge(opened, time.time_ns() // 1_000_000)


def judge(letter: "Letter", now_ms: int) -> "Admitted | str":
    """The event that a replay of an opened letter would send, or what makes it useless: the worker's rules."""
    from worker import admission

    if letter.header("value_sha256"):
        return "its value was too large to be kept: only the sender has it"
    if letter.owner is None or letter.header("topic") not in TOPICS:
        return "is none of Herald's: no worker sealed it"
    verdict = admission.admit(letter.record(now_ms), now_ms)
    if isinstance(verdict, admission.Admitted):
        return verdict
    text = f"would be rejected again: {verdict.reason}: {verdict.detail}"
    if verdict.reason is admission.Reason.BAD_ID and letter.header("reason") != verdict.reason:
        text += " (a replay counts as sent now)"
    return text


def _row(letter: "Letter") -> dict[str, Any]:
    """A letter as `herald dlq list` prints it; what its headers do not say is null."""
    sent_ms = letter.number("timestamp_ms")
    return {
        "letter": str(letter.name),
        "buried_at": iso_ms(letter.buried_ms),
        "reason": letter.header("reason") or None,
        "detail": letter.header("detail") or None,
        "tenant_id": letter.header("tenant_id") or None,
        "topic": letter.header("topic") or None,
        "partition": letter.number("partition"),
        "offset": letter.number("offset"),
        "sent_at": None if sent_ms is None else _time(sent_ms),
        "bytes": letter.number("bytes"),
    }


def _time(unix_ms: int) -> str | None:
    try:
        return iso_ms(unix_ms)
    except (ValueError, OverflowError, OSError):  # a header that somebody else wrote
        return None


def _text(data: bytes | None) -> str | None:
    """Bytes as text; None where they are none."""
    try:
        return None if data is None else data.decode("utf-8")
    except UnicodeDecodeError:
        return None
