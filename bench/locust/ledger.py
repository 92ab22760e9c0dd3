"""What this Locust process published and what came: every accepted id must come to a user that is still there."""

import collections
import dataclasses
import secrets
from typing import Final


@dataclasses.dataclass
class Counts:
    """`left`: not received, their user has gone for good."""

    accepted: int
    received: int
    left: int
    lost: int


class Ledger:
    """Of one process: its publisher publishes to its own users only."""

    def __init__(self) -> None:
        self.refusals: collections.Counter[str] = collections.Counter()
        self.ends: collections.Counter[str] = collections.Counter()
        self.not_accepted = 0
        self._run = secrets.token_hex(4)  # no user of an earlier run, with its inbox
        self._number = 0
        self._here: dict[str, dict[str, None]] = collections.defaultdict(dict)
        self._accepted: dict[str, tuple[str, str]] = {}
        self._received: set[str] = set()

    def enter(self, tenant: str) -> str:
        """A new user of the tenant; its id."""
        self._number += 1
        name = f"locust-{self._run}-{self._number}"
        self._here[tenant][name] = None
        return name

    def leave(self, tenant: str, name: str) -> None:
        """It will not come again."""
        self._here[tenant].pop(name, None)

    def users(self, tenant: str) -> list[str]:
        """Those who are there, or come again soon."""
        return list(self._here[tenant])

    def accept(self, ident: str, tenant: str, name: str) -> None:
        """Kafka acknowledged it."""
        self._accepted[ident] = (tenant, name)

    def take(self, ident: str) -> bool:
        """Whether it comes for the first time."""
        if ident in self._received:
            return False
        self._received.add(ident)
        return True

    def missing(self) -> list[str]:
        """Accepted, not received, and the user is here."""
        return [
            ident for ident, (tenant, name) in self._accepted.items()
            if ident not in self._received and name in self._here[tenant]
        ]  # fmt: skip

    def counts(self) -> Counts:
        """As of now."""
        missing = self._accepted.keys() - self._received
        lost = len(self.missing())
        return Counts(len(self._accepted), len(self._accepted) - len(missing), len(missing) - lost, lost)


LEDGER: Final = Ledger()
