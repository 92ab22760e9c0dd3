"""Facts read from a tree that is laid out as the kernel's."""

from pathlib import Path

import pytest

from tuning import machine

ROUTES = "Iface\tDestination\tGateway\neth1\t0A000000\t0\neth0\t00000000\t0100000A\n"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    texts = {
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        "proc/net/route": ROUTES,
        "proc/7/comm": "irqbalance\n",
        "sys/class/net/eth0/queues/rx-0/rps_cpus": "ff\n",
        "sys/class/net/eth0/queues/rx-1/rps_cpus": "00\n",
        "sys/class/net/eth0/queues/tx-0/xps_cpus": "00\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "drivers/ena").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/device").mkdir()
    (tmp_path / "sys/class/net/eth0/device/driver").symlink_to(tmp_path / "drivers/ena")
    return tmp_path


def test_a_machine_of_its_own(top: Path) -> None:
    found = machine.read(top)
    assert (found.memory_bytes, found.container, found.systemd, found.irqbalance) == (2**34, None, False, True)
    assert found.card == machine.Card("eth0", "ena", 2, 1, ("ff", "00"), ("00",))


def test_a_container_says_what_says_so(top: Path) -> None:
    (top / ".dockerenv").touch()
    (top / "run/systemd/system").mkdir(parents=True)
    (top / "sys/class/net/eth0/device/driver").unlink()
    found = machine.read(top)
    assert (found.container, found.systemd, found.card) == ("/.dockerenv", True, None)


def test_a_machine_without_a_default_route_has_no_card(top: Path) -> None:
    (top / "proc/net/route").write_text("Iface\tDestination\tGateway\n")
    assert machine.read(top).card is None
    (top / "proc/net/route").unlink()
    assert machine.read(top).card is None
