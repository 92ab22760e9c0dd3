"""Who is connected here: user tag -> connections. Plain lookups, no policy.

Nearly every user has one connection, so a tag maps to the connection itself, and to a tuple only from the
second on: no container per user. A connection must not be a tuple.
"""


cdef class Registry:
    """registry.pyi is its contract. Owns a reference to each connection until remove()."""

    def __init__(self):
        self._users = {}
        self._count = 0

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    def add(self, bytes tag not None, connection not None):
        """Append to the user's connections. Adding a pair twice does nothing."""
        held = self._users.get(tag)
        if held is None:
            self._users[tag] = connection
        elif type(held) is not tuple:
            if held is connection:
                return
            self._users[tag] = (held, connection)
        else:
            for one in <tuple>held:
                if one is connection:
                    return
            self._users[tag] = (*<tuple>held, connection)
        self._count += 1

    def remove(self, bytes tag not None, connection not None):
        """True if it was there. Unknown pairs are ignored (False)."""
        held = self._users.get(tag)
        if held is connection:
            del self._users[tag]
        elif type(held) is tuple:
            rest = tuple([one for one in <tuple>held if one is not connection])
            if len(rest) == len(<tuple>held):
                return False
            self._users[tag] = rest[0] if len(rest) == 1 else rest
        else:
            return False
        self._count -= 1
        return True

    def find(self, bytes tag not None):
        """The user's connections, oldest first; empty if none."""
        held = self._users.get(tag)
        if held is None:
            return ()
        return held if type(held) is tuple else (held,)

    cdef object held(self, bytes tag):
        return self._users.get(tag)

    def connections(self):
        """All, a copy."""
        every = []
        for held in self._users.values():
            if type(held) is tuple:
                every.extend(<tuple>held)
            else:
                every.append(held)
        return every

    def users(self):
        return len(self._users)

    def __len__(self):
        return self._count
