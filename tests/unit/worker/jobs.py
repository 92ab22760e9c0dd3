"""Notifications and jobs for the tests of scheduler and router."""

from typing import Any

from notification.ids import new_uuid7
from worker.scheduler import Job
from worker.store import StoredNotification

FAR_S = 1e12
EXPIRY_MS = 4_000_000_000_000


def notification(
    tenant: str = "t", user: str = "u", priority: int = 0, seq: int = 1, **fields: Any
) -> StoredNotification:
    values: dict[str, Any] = {
        "tenant": tenant, "user": user, "id": new_uuid7(), "lane": priority, "seq": seq, "prev": seq - 1,
        "type": "service", "priority": priority, "sent_ms": 1, "expiry_ms": EXPIRY_MS, "collapse_key": None,
        "payload": b'{"title":"T","body":"B"}',
    }  # fmt: skip
    return StoredNotification(**(values | fields))


def job(*arguments: Any, parked: bool = False, mine_until_s: float = FAR_S, **fields: Any) -> Job:
    return Job(notification(*arguments, **fields), mine_until_s, parked)
