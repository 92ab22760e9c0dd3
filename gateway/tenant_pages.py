"""The tenants of an edge snapshot, put together from its pages."""

from typing import NamedTuple

from gateway.tokens import Keys
from notification.limits import EDGE_CHANGES_COUNT_MAX
from notification.messages import EdgeReply


class Whole(NamedTuple):
    """All tenants of a snapshot: their keys and the issuers that publish theirs."""

    version: int
    keys: Keys
    jwks_issuers: list[str]


class TenantPages:
    """Takes page after page; ask for the one after `after` while it is `unfinished`.

    When the version changes on the way it begins again. After EDGE_CHANGES_COUNT_MAX times (somebody makes tenants
    all day long) it goes on: then each tenant is at least as new as in the first page's version, and the snapshot
    bears that version, so that the next poll reads it anew.
    """

    def __init__(self) -> None:
        self.after = ""
        self.unfinished = False
        self._changes = 0
        self._version = -1  # of the first page
        self._newest = (0, -1)  # epoch and version of the last page
        self._keys = Keys(())
        self._jwks_issuers: list[str] = []

    def take(self, reply: EdgeReply, current: Keys) -> Whole | None:
        """The reply to a request with `after`; all tenants once they are here. What `current`, the snapshot in use,
        has of them is taken over."""
        if reply.tenants is None:  # the one in use is current
            self._begin()
            self.unfinished = False
            return None
        of = (reply.epoch, reply.version)
        if self.after and of != self._newest:
            self._changes += 1
            if self._changes <= EDGE_CHANGES_COUNT_MAX:
                self._begin()
                return None
        if not self.after:
            self._version = reply.version
        self._newest = of
        self._keys.extend(reply.tenants, current)
        self._jwks_issuers.extend(issuer for tenant in reply.tenants for issuer in tenant.jwks_issuers)
        if reply.tenants_more and reply.tenants:
            self.after = reply.tenants[-1].tenant
            self.unfinished = True
            return None
        whole = Whole(self._version, self._keys, self._jwks_issuers)
        self._begin()
        self.unfinished = False
        self._changes = 0
        return whole

    def _begin(self) -> None:
        self.after = ""
        self._keys = Keys(())
        self._jwks_issuers = []
