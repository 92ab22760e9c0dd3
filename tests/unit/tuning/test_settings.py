"""The table of targets: what it repeats of Herald's limits is equal, and c5.2xlarge comes to known figures."""

import pytest

from notification import limits
from tuning.machine import Machine
from tuning.settings import BACKLOG, HUGE_PAGES, NOFILE, NOTSENT_BYTES, SETTINGS, Ask, Better

C5_2XLARGE = Machine(8, 16 * 2**30, 4_096, "6.8.0", None, True, True, True, None)
BY_KEY = {each.key: each for each in SETTINGS}


def test_it_repeats_the_limits_of_herald_truly() -> None:
    """tuning/ runs before Herald is installed, so it cannot import them."""
    assert limits.LISTEN_BACKLOG == BACKLOG
    assert limits.WRITE_BUFFER_BYTES_MAX == NOTSENT_BYTES
    established = BY_KEY["net.netfilter.nf_conntrack_tcp_timeout_established"].target(C5_2XLARGE, Ask())
    assert established == (600,)
    assert limits.HEARTBEAT_MS * 2 < 600_000


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("net.ipv4.tcp_mem", (393_216, 524_288, 786_432)), ("fs.file-max", (8 * NOFILE,)), (HUGE_PAGES, "madvise"),
        ("net.netfilter.nf_conntrack_max", (400_000,)),
    ],
)  # fmt: skip
def test_sized_by_the_machine_and_the_connections(key: str, expected: object) -> None:
    assert BY_KEY[key].target(C5_2XLARGE, Ask()) == expected


def test_a_small_machine_is_not_given_less_than_the_kernel_needs() -> None:
    small = Machine(1, 2**30, 4_096, "6.8.0", None, False, True, False, None)
    assert BY_KEY["fs.file-max"].target(small, Ask()) == (8 * NOFILE,)
    assert BY_KEY["net.netfilter.nf_conntrack_max"].target(small, Ask(connections=10)) == (262_144,)


def test_every_row_has_a_reason_and_a_source() -> None:
    assert len(BY_KEY) == len(SETTINGS)
    for each in SETTINGS:
        assert each.why.endswith("."), each.key
        assert each.source, each.key
        assert (each.better is Better.WORD) == isinstance(each.target(C5_2XLARGE, Ask()), str)
