"""Every Kafka topic, NATS subject and Redis key of Herald is spelled here and nowhere else.

A user in a subject or key is `ids.encode_user(user)`; Redis keys that belong to a user carry the hash
tag `{tenant:user}`, so that a cluster keeps them in one slot.
"""

from typing import Final

from notification.ids import encode_user

PRIORITIES: Final = ("high", "medium", "low")

# --- Kafka ------------------------------------------------------------------
TOPIC_PREFIX: Final = "notifications."
TOPICS: Final = tuple(TOPIC_PREFIX + priority for priority in PRIORITIES)
TOPIC_DEAD: Final = "notifications.dlq"
TOPIC_STATUS: Final = "notifications.status"
CONSUMER_GROUP: Final = "herald-dispatch"


def record_key(tenant: str, user: str) -> bytes:
    """The key of a direct event: `tenant:user`, the user as it is."""
    return f"{tenant}:{user}".encode("ascii")


def audience_record_key(tenant: str) -> bytes:
    """The key of an event to an audience: all of a tenant's keep one order."""
    return tenant.encode("ascii")


# --- NATS -------------------------------------------------------------------
STATUS_SUBJECT: Final = "connection.status.update"
INBOX_QUEUE: Final = "inbox"
INBOX_RESUME: Final = "inbox.resume"
INBOX_STATE: Final = "inbox.state"
INBOX_PAGE: Final = "inbox.page"
INBOX_EDGE: Final = "inbox.edge"
INBOX_RECALL: Final = "inbox.recall"
INBOX_AUDIENCE: Final = "inbox.audience"
INBOX_AUDIENCE_FILL: Final = "inbox.audience.fill"
EDGE_CHANGED: Final = "edge.changed"  # to every gateway process, without payload: ask for the edge snapshot now


def gateway_subject(gateway_id: str, priority: str) -> str:
    """Where one gateway process takes packed batches: `gateway.{gateway_id}.{priority}`."""
    return f"gateway.{gateway_id}.{priority}"


def replaced_subject(gateway_id: str) -> str:
    """Where one gateway process hears that a device of its has connected elsewhere."""
    return f"gateway.{gateway_id}.replaced"


def audience_subject(tenant: str, priority: str) -> str:
    """`notification.{tenant_id}.{priority}`, the customer's subject: batches for a tenant's audiences."""
    return f"notification.{tenant}.{priority}"


def audience_subjects(tenant: str) -> str:
    """What a gateway process with connections of the tenant listens to: audience_subject of every priority."""
    return f"notification.{tenant}.*"


def health_subject(gateway_or_client_id: str) -> str:
    """`health.ping.{id}`: batched by gateway; per client only for clients an operator watches."""
    return f"health.ping.{gateway_or_client_id}"


def ack_subject(gateway_or_client_id: str) -> str:
    """`ack.{id}`: live copies of acks, batched by gateway."""
    return f"ack.{gateway_or_client_id}"


# --- Redis ------------------------------------------------------------------
RECEIPTS_STREAM: Final = "receipts"
RECEIPTS_GROUP: Final = "receipts"
RECEIPTS_FIELD: Final = "b"
PRESENCE_BORN: Final = "presence:born"


def user_tag(tenant: str, user: str) -> str:
    """`tenant:encoded_user`: the hash tag of the user's keys, the routing key of a bus item."""
    return f"{tenant}:{encode_user(user)}"


def client_id(tag: str, device: str) -> str:
    """`tenant.encoded_user.device`: one device of a user (by tag), in welcome and in health.ping."""
    return f"{tag.replace(':', '.', 1)}.{device}"


def presence_key(tag: str) -> str:
    """Hash of a user (by tag): device id -> presence.Entry as text."""
    return f"presence:{{{tag}}}"


def lease_key(gateway_id: str) -> str:
    """String with a TTL of LEASE_MS, renewed each LEASE_RENEW_MS by a living gateway process."""
    return f"lease:{gateway_id}"
