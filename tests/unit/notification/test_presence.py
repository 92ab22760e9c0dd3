"""notification.presence: a cache may hold anything; only what we wrote is an entry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification import presence
from notification.presence import Entry, PresenceState


@given(
    st.builds(
        Entry,
        gateway_id=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        epoch=st.integers(0, 2**63 - 1),
        state=st.sampled_from(PresenceState),
        since_ms=st.integers(0, 2**48),
    )
)
def test_round_trip(entry: Entry) -> None:
    assert presence.decode(entry.encode()) == entry


@pytest.mark.parametrize(
    "value", ["", "g", "g 1 ONLINE", "g 1 OFFLINE 2", "g x ONLINE 2", "g 1 ONLINE 2 3", "g 1 online 2"]
)
def test_anything_else_is_no_entry(value: str) -> None:
    assert presence.decode(value) is None


@given(st.text(max_size=60))
def test_noise_never_raises(value: str) -> None:
    decoded = presence.decode(value)
    assert decoded is None or isinstance(decoded, Entry)
