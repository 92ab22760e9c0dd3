"""notification.ids: who may be called what, and identifiers that sort by time."""

import base64
import datetime
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification import ids
from notification.errors import InvalidInput
from notification.limits import ID_CHARS_MAX, USER_CHARS_MAX

PRINTABLE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=USER_CHARS_MAX
).filter(lambda text: text != "tenant" and not text.startswith("segment:"))


@pytest.mark.parametrize("value", ["a", "Demo_1-x", "_", "x" * ID_CHARS_MAX])
def test_tokens_are_taken_as_they_are(value: str) -> None:
    assert ids.check_token(value, "tenant") == value


@pytest.mark.parametrize("value", ["", "a.b", "a b", "a*", "a>", "a:b", "ä", "a\n", "x" * (ID_CHARS_MAX + 1)])
def test_other_tokens_are_refused_by_field(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^tenant: must be 1 to 64 characters") as caught:
        ids.check_token(value, "tenant")
    assert caught.value.field == "tenant"


@given(PRINTABLE)
def test_a_user_is_any_printable_ascii_and_its_encoding_is_one_token(user: str) -> None:
    assert ids.check_user(user) == user
    encoded = ids.encode_user(user)
    assert not set(encoded) & set(".*> :{}")


@given(PRINTABLE, PRINTABLE)
def test_two_users_never_share_an_encoding(one: str, other: str) -> None:
    assert (one == other) == (ids.encode_user(one) == ids.encode_user(other))


@pytest.mark.parametrize("value", ["", "a b", "tab\t", "new\n", "café", "x" * (USER_CHARS_MAX + 1)])
def test_other_users_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^user_id: "):
        ids.check_user(value)


@pytest.mark.parametrize("value", ["tenant", "segment:", "segment:vip"])
def test_no_user_is_called_like_an_audience(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^sub: .*`tenant` and `segment:...` are reserved$"):
        ids.check_user(value, "sub")


@pytest.mark.parametrize("value", ["tenants", "Tenant", "segment", "segments:x", "x:tenant", "xsegment:1"])
def test_names_that_only_look_like_an_audience_are_free(value: str) -> None:
    assert ids.check_user(value) == value


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=USER_CHARS_MAX))
def test_an_encoded_user_is_base64url_without_padding(user: str) -> None:
    assert ids.encode_user(user) == base64.urlsafe_b64encode(user.encode()).decode().rstrip("=")


@given(st.integers(0, ids.UUID7_MS_MAX))
def test_a_uuid7_carries_its_time(stamp: int) -> None:
    value = ids.new_uuid7(stamp)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert ids.uuid7_ms(value) == stamp


def test_new_uuids_differ_and_are_of_now() -> None:
    values = {ids.new_uuid7() for _ in range(100)}
    assert len(values) == 100
    assert all(abs(ids.uuid7_ms(value) - time.time() * 1000) < 5_000 for value in values)


def test_the_time_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidInput, match="version 7"):
        ids.uuid7_ms(uuid.uuid4())


def test_a_time_that_no_date_can_name_is_refused() -> None:
    last = ids.new_uuid7(ids.UUID7_MS_MAX)
    assert datetime.datetime.fromtimestamp(ids.uuid7_ms(last) / 1000, datetime.UTC).year == 9999
    assert ids.parse_uuid7(str(last)) == last
    assert ids.is_uuid7(last)
    for stamp in (ids.UUID7_MS_MAX + 1, 2**48 - 1):
        beyond = ids.new_uuid7(stamp)
        with pytest.raises(InvalidInput, match=r"^--id: must be .* not after the year 9999$"):
            ids.parse_uuid7(str(beyond), "--id")
        with pytest.raises(InvalidInput, match="not after the year 9999"):
            ids.uuid7_ms(beyond)
        assert not ids.is_uuid7(beyond)
    assert not ids.is_uuid7(uuid.uuid4())


def test_only_the_canonical_form_parses() -> None:
    value = ids.new_uuid7()
    assert ids.parse_uuid7(str(value)) == value
    for text in (str(value).upper(), value.hex, f"{{{value}}}", f"urn:uuid:{value}", str(uuid.uuid4()), "", "x"):
        with pytest.raises(InvalidInput, match=r"^--id: must be a UUID of version 7"):
            ids.parse_uuid7(text, "--id")


def test_ulids_are_subject_tokens_in_time_order() -> None:
    first = ids.new_ulid()
    time.sleep(0.002)
    second = ids.new_ulid()
    assert first < second
    assert len(first) == 26
    assert ids.check_token(first, "ulid") == first
