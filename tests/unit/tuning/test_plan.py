"""What is kept, what is raised, what waits for --force."""

from dataclasses import replace

import pytest

from tests.unit.tuning.test_settings import BY_KEY, C5_2XLARGE
from tuning import kernel, plan, service
from tuning.plan import State
from tuning.settings import HUGE_PAGES, Ask

MEM = "net.ipv4.tcp_mem"


@pytest.mark.parametrize(
    ("key", "now", "aim"),
    [
        ("net.core.somaxconn", "128", "16384"),
        ("net.core.somaxconn", "65535", "65535"),
        (MEM, "1 600000 2", "393216 600000 786432"),  # each number for itself
        ("net.ipv4.tcp_rmem", "4096\t8192\t6291456", "4096 8192 262144"),
        ("net.ipv4.ip_local_port_range", "32768 60999", "1024 65535"),
        (HUGE_PAGES, "always", "madvise"),
        (HUGE_PAGES, "never", "never"),
    ],
)
def test_a_target_takes_away_nothing_that_is_better(key: str, now: str, aim: str) -> None:
    setting = BY_KEY[key]
    assert plan.aim(setting, setting.target(C5_2XLARGE, Ask()), now) == aim


def lines(values: dict[str, kernel.Reading], ask: Ask, monkeypatch: pytest.MonkeyPatch) -> dict[str, plan.Line]:
    """The plan for a kernel that has these values and no others."""
    monkeypatch.setattr(kernel, "read", lambda key: values.get(key, kernel.Reading(None, "not here")))
    monkeypatch.setattr(service, "limit", lambda _unit: "infinity")
    return {line.key: line for line in plan.make(C5_2XLARGE, ask)}


def test_states(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "net.core.somaxconn": kernel.Reading("4096"),
        "net.ipv4.tcp_migrate_req": kernel.Reading("1"),
        "net.ipv4.tcp_max_syn_backlog": kernel.Reading("128", "/proc is read-only here"),
        "net.ipv4.tcp_rmem": kernel.Reading("4096\t131072\t6291456"),
        "net.netfilter.nf_conntrack_max": kernel.Reading("65536", "the host's", fixed=True),
    }
    found = lines(values, Ask(), monkeypatch)
    assert {key: found[key].state for key in values} == {
        "net.core.somaxconn": State.CHANGE, "net.ipv4.tcp_migrate_req": State.OK,
        "net.ipv4.tcp_max_syn_backlog": State.BLOCKED, "net.ipv4.tcp_rmem": State.FORCE,
        "net.netfilter.nf_conntrack_max": State.SKIP,
    }  # fmt: skip
    assert found["fs.nr_open"].state is State.SKIP
    assert found["fs.nr_open"].note == "not here"
    assert found["LimitNOFILE of herald-gateway.service"].state is State.OK
    assert plan.drifts(found.values())
    forced = lines(values, Ask(force=True), monkeypatch)["net.ipv4.tcp_rmem"]
    assert (forced.state, forced.target) == (State.CHANGE, "4096 16384 262144")


def test_a_container_leaves_the_hosts_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = replace(C5_2XLARGE, container="/.dockerenv", systemd=False)
    wanted = {"fs.nr_open", MEM, "net.core.somaxconn"}
    values = {"net.ipv4.tcp_rmem": "1 1 1", "net.ipv4.tcp_wmem": "1 1 1", HUGE_PAGES: "never", MEM: "1 1 1"}
    monkeypatch.setattr(kernel, "read", lambda key: kernel.Reading(values.get(key, "1")))
    found = {line.key: line.state for line in plan.make(inside, Ask())}
    assert {key: found[key] for key in wanted} == {
        "fs.nr_open": State.SKIP, MEM: State.SKIP, "net.core.somaxconn": State.CHANGE,
    }  # fmt: skip
