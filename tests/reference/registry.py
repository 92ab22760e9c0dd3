"""Plain-Python twin of gateway/_fast/registry.pyx."""

from typing import Generic, TypeVar

C = TypeVar("C")


class Registry(Generic[C]):
    """A list of connections per tag."""

    def __init__(self) -> None:
        self._users: dict[bytes, list[C]] = {}

    def add(self, tag: bytes, connection: C) -> None:
        held = self._users.setdefault(tag, [])
        if not any(one is connection for one in held):
            held.append(connection)

    def remove(self, tag: bytes, connection: C) -> bool:
        held = self._users.get(tag, [])
        for index, one in enumerate(held):
            if one is connection:
                del held[index]
                if not held:
                    del self._users[tag]
                return True
        return False

    def find(self, tag: bytes) -> tuple[C, ...]:
        return tuple(self._users.get(tag, ()))

    def connections(self) -> list[C]:
        return [one for held in self._users.values() for one in held]

    def users(self) -> int:
        return len(self._users)

    def __len__(self) -> int:
        return sum(len(held) for held in self._users.values())
