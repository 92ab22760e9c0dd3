"""gateway/_fast/registry over the extension and its twin."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._fast import registry as extension
from tests.reference import registry as twin
from tests.unit.gateway._fast.extensions import both, is_extension


def test_the_extension_is_compiled() -> None:
    assert is_extension(extension)


@both(extension, twin)
class TestRegistry:
    def test_starts_empty(self, module: Any) -> None:
        registry = module.Registry()
        assert (len(registry), registry.users(), registry.connections()) == (0, 0, [])
        assert registry.find(b"t:u") == ()

    def test_finds_a_users_connections_oldest_first(self, module: Any) -> None:
        registry = module.Registry()
        phone, laptop, other = object(), object(), object()
        registry.add(b"t:u", phone)
        registry.add(b"t:u", laptop)
        registry.add(b"t:v", other)
        assert registry.find(b"t:u") == (phone, laptop)
        assert registry.find(b"t:v") == (other,)
        assert (len(registry), registry.users()) == (3, 2)
        assert set(map(id, registry.connections())) == {id(phone), id(laptop), id(other)}

    def test_forgets_what_is_removed(self, module: Any) -> None:
        registry = module.Registry()
        phone, laptop, watch = object(), object(), object()
        for connection in (phone, laptop, watch):
            registry.add(b"t:u", connection)
        assert registry.remove(b"t:u", laptop) is True
        assert registry.find(b"t:u") == (phone, watch)
        assert registry.remove(b"t:u", phone) is True
        assert registry.find(b"t:u") == (watch,)
        assert registry.remove(b"t:u", watch) is True
        assert (len(registry), registry.users(), registry.find(b"t:u")) == (0, 0, ())

    def test_ignores_unknown_pairs(self, module: Any) -> None:
        registry = module.Registry()
        phone, stranger = object(), object()
        assert registry.remove(b"t:u", phone) is False
        registry.add(b"t:u", phone)
        assert registry.remove(b"t:u", stranger) is False
        assert registry.remove(b"t:v", phone) is False
        registry.add(b"t:u", object())
        assert registry.remove(b"t:u", stranger) is False
        assert len(registry) == 2

    def test_adding_a_pair_twice_counts_once(self, module: Any) -> None:
        registry = module.Registry()
        phone, laptop = object(), object()
        for connection in (phone, phone, laptop, laptop, phone):
            registry.add(b"t:u", connection)
        assert registry.find(b"t:u") == (phone, laptop)
        assert len(registry) == 2

    def test_connections_is_a_copy(self, module: Any) -> None:
        registry = module.Registry()
        registry.add(b"t:u", object())
        registry.connections().clear()
        assert len(registry.connections()) == 1

    def test_compares_by_identity(self, module: Any) -> None:
        registry = module.Registry()
        one, equal = [1], [1]
        registry.add(b"t:u", one)
        assert registry.remove(b"t:u", equal) is False
        assert registry.find(b"t:u")[0] is one


_CONNECTIONS = [object() for _ in range(4)]
_TAGS = [b"a", b"b", b"c"]
_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.sampled_from(_TAGS), st.sampled_from(_CONNECTIONS)),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(_STEPS)
def test_extension_and_twin_agree(steps: list[tuple[str, bytes, object]]) -> None:
    ours: Any = extension.Registry()
    theirs: Any = twin.Registry()
    for name, tag, connection in steps:
        assert getattr(ours, name)(tag, connection) == getattr(theirs, name)(tag, connection)
        assert [ours.find(known) for known in _TAGS] == [theirs.find(known) for known in _TAGS]
        assert (len(ours), ours.users()) == (len(theirs), theirs.users())
        assert sorted(map(id, ours.connections())) == sorted(map(id, theirs.connections()))
