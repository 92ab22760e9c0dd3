"""notification.names: subjects, topics and keys cannot be steered by an id."""

import pytest

from notification import names
from notification.ids import encode_user

USER = "auth0|a.b@c:*>{}"


def test_topics_are_the_three_priorities() -> None:
    assert names.TOPICS == ("notifications.high", "notifications.medium", "notifications.low")
    assert {names.TOPIC_DEAD, names.TOPIC_STATUS}.isdisjoint(names.TOPICS)


def test_a_record_key_has_the_user_as_it_is() -> None:
    assert names.record_key("demo", USER) == b"demo:" + USER.encode()


def test_a_record_key_of_another_alphabet_is_our_bug() -> None:
    with pytest.raises(UnicodeEncodeError):
        names.record_key("demo", "é")


def test_the_user_keys_share_one_hash_tag() -> None:
    tag = names.user_tag("demo", USER)
    assert tag == f"demo:{encode_user(USER)}"
    assert names.client_id(tag, "phone.2") == f"demo.{encode_user(USER)}.phone.2"
    key = names.presence_key(tag)
    assert key == f"presence:{{{tag}}}"
    assert (key.count("{"), key.count("}")) == (1, 1)


def test_subjects_of_the_customer() -> None:
    assert names.audience_subject("demo", "high") == "notification.demo.high"
    assert names.audience_subjects("demo") == "notification.demo.*"
    assert names.health_subject("g-1") == "health.ping.g-1"
    assert names.ack_subject("g-1") == "ack.g-1"
    assert names.gateway_subject("g-1", "low") == "gateway.g-1.low"
    assert names.STATUS_SUBJECT == "connection.status.update"


def test_no_two_fixed_names_collide() -> None:
    fixed = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    assert len(set(fixed) - {names.RECEIPTS_GROUP}) == len(
        [value for value in fixed if value != names.RECEIPTS_GROUP]
    )
