"""Who is connected here: user tag -> connections. Plain lookups, no policy."""

from typing import Generic, TypeVar

C = TypeVar("C")

class Registry(Generic[C]):
    """`tag` is names.user_tag as bytes."""

    def add(self, tag: bytes, connection: C) -> None: ...
    def remove(self, tag: bytes, connection: C) -> bool:
        """True if it was there. Unknown pairs are ignored (False)."""
    def find(self, tag: bytes) -> tuple[C, ...]:
        """The user's connections, oldest first; empty if none."""
    def connections(self) -> list[C]:
        """All, a copy."""
    def users(self) -> int: ...
    def __len__(self) -> int:
        """Connections."""
