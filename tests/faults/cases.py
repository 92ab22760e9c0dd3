"""Every case, in the order in which they are played."""

from typing import Final

from tests.faults import cases_clients, cases_kafka, cases_servers, cases_worker
from tests.faults.run import Case

EVERYWHERE: Final[tuple[Case, ...]] = (
    *cases_worker.CASES, *cases_servers.CASES, cases_kafka.CASES[0], *cases_clients.CASES,
)  # fmt: skip
# On a broker that keeps what it was given; the broker also decides how soon a dead worker is replaced.
KAFKA_CASES: Final[tuple[Case, ...]] = (*cases_kafka.CASES, cases_worker.CASES[2])
