"""tune as an operator runs it, in a sandbox whose network settings are the kernel's own.

What it sets is really set, what it gives back is exactly what was there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.quality.tree import ROOT
from tests.tuning.sandbox import HUGE_PAGES, KEYS, Sandbox
from tuning.settings import SETTINGS

SYSCTL_FILE = "/etc/sysctl.d/99-zz-herald-tuning.conf"
SNAPSHOT = "/var/lib/herald-tuning/snapshot.json"
UNIT_FILE = "/etc/systemd/system/herald-gateway.service.d/90-herald-tuning.conf"
# systemd as tune sees it: it says what limit a unit has, and is told to read its units anew.
SYSTEMCTL = """#!/bin/sh
echo "$*" >> /run/systemctl.log
case "$1" in show) cat /run/limit;; daemon-reload) ;; *) exit 1;; esac
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    before = machine()
    sandbox = Sandbox(tmp_path)
    yield sandbox
    sandbox.close()
    assert machine() == before, "the machine itself was changed"


def machine() -> dict[str, str]:
    """What this machine's own kernel holds of every row."""
    paths = {each.key: Path("/proc/sys", each.key.replace(".", "/")) for each in SETTINGS}
    return {key: path.read_text("ascii") for key, path in paths.items() if path.exists()}


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {row["key"]: row["state"] for row in report(done)["rows"]}


def test_a_plan_changes_nothing_and_says_what_it_would(box: Sandbox) -> None:
    before = box.state()
    for command in ("", "plan", "apply", "apply --force"):
        done = box.tune(command)
        assert done.returncode == 2, done.stderr
        assert "net.core.somaxconn                  4096 -> 16384" in done.stdout
        assert "Nothing was changed. Next" in " ".join(done.stdout.split())
    assert box.state() == before
    found = states(box.tune("plan --json"))
    assert found["net.core.somaxconn"] == found["fs.nr_open"] == "change"
    assert found["net.ipv4.tcp_rmem"] == found["vm.swappiness"] == found[HUGE_PAGES] == "force"
    assert found["net.ipv4.tcp_mem"] == "skip"  # it is the machine's alone
    assert "net.ipv4.ip_local_port_range" not in found


def test_apply_verify_and_rollback_give_the_former_state_back(box: Sandbox) -> None:
    before = box.state()
    done = box.tune("apply --yes --open 5000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Opened 5,000 of 5,000" in done.stdout
    assert "backlog of 16,384" in done.stdout
    assert box.get("net.core.somaxconn") == "16384"
    assert box.get("net.ipv4.tcp_migrate_req") == "1"
    assert box.get("net.ipv4.tcp_rmem") == KEYS["net.ipv4.tcp_rmem"]  # it would have been lowered
    assert "-net.core.somaxconn = 16384\n" in box.run(f"cat {SYSCTL_FILE}").stdout
    assert box.tune("verify").returncode == box.tune("plan").returncode == 0
    assert box.tune("rollback").returncode == 2
    assert box.get("net.core.somaxconn") == "16384"
    done = box.tune("rollback --yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert box.state() == before
    assert box.run(f"ls {SNAPSHOT} /var/lib/herald-tuning").returncode == 2
    assert "nothing was applied here" in box.tune("rollback --yes").stdout


def test_with_force_and_every_option_the_former_state_comes_back_too(box: Sandbox) -> None:
    before = box.state()
    done = box.tune("apply --force --load-generator --login alice --connections 200,000 --yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert box.get("net.ipv4.tcp_rmem").split() == ["4096", "16384", "262144"]
    assert box.get("net.ipv4.ip_local_port_range").split() == ["1024", "65535"]
    assert box.get("vm.swappiness") == "10"
    assert box.get(HUGE_PAGES) == "madvise"
    assert f"w {HUGE_PAGES} - - - - madvise" in box.run("cat /etc/tmpfiles.d/90-herald-tuning.conf").stdout
    assert "alice hard nofile 262144" in box.run("cat /etc/security/limits.d/90-herald-tuning.conf").stdout
    assert box.tune("verify").returncode == 0
    assert box.tune("rollback --yes").returncode == 0
    box.set(HUGE_PAGES, "[always] madvise never")  # the kernel prints it so; the stand-in is a plain file
    assert box.state() == before


def test_drift_is_found_and_named(box: Sandbox) -> None:
    assert box.tune("apply --yes").returncode == 0
    box.set("net.core.somaxconn", "128")
    done = box.tune("verify --open 300")
    assert done.returncode == 2
    assert "128 -> 16384" in done.stdout
    assert "The backlog was full: net.core.somaxconn is 128." in done.stdout
    box.set("net.core.somaxconn", "16384")
    box.run(f"rm {SYSCTL_FILE}")
    done = box.tune("verify")
    assert (done.returncode, f"drift: {SYSCTL_FILE} is gone" in done.stdout) == (2, True)


def test_a_file_that_lowers_a_row_at_boot_is_named(box: Sandbox) -> None:
    box.run("echo 'net/core/somaxconn=1024' > /etc/sysctl.d/99-zzz-other.conf")
    done = box.tune("apply --yes")
    assert done.returncode == 2
    assert "drift: /etc/sysctl.d/99-zzz-other.conf sets net.core.somaxconn = 1024 at boot" in done.stdout


def test_what_others_changed_since_stays_but_for_force(box: Sandbox) -> None:
    box.run(f"mkdir -p /etc/sysctl.d; echo '# mine' > {SYSCTL_FILE}")
    before = box.state()
    assert box.tune("apply --yes").returncode == 0
    box.set("net.core.somaxconn", "20000")
    done = box.tune("rollback --yes")
    assert done.returncode == 2
    assert "left: net.core.somaxconn = 20000" in done.stdout
    assert box.run(f"cat {SYSCTL_FILE}").stdout == "# mine\n"
    assert box.get("net.ipv4.tcp_migrate_req") == "0"
    assert box.tune("rollback --yes --force").returncode == 0
    assert box.state()["kernel"] == before["kernel"]


def test_a_second_apply_keeps_the_first_snapshot(box: Sandbox) -> None:
    before = box.state()
    assert box.tune("apply --yes").returncode == 0
    box.set("net.core.somaxconn", "512")
    assert box.tune("apply --force --yes").returncode == 0
    assert box.get("net.core.somaxconn") == "16384"
    assert "-net.ipv4.tcp_migrate_req = 1" in box.run(f"cat {SYSCTL_FILE}").stdout
    assert box.tune("rollback --yes").returncode == 0
    box.set(HUGE_PAGES, "[always] madvise never")
    assert box.state() == before


def test_a_read_only_proc_is_said_and_left(box: Sandbox) -> None:
    box.run("touch /.dockerenv; mount --rbind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    before = box.state()
    done = box.tune("plan")
    assert done.returncode == 2
    assert "/proc is read-only here, as in a container" in done.stdout
    assert '--sysctl "net.core.somaxconn=16384"' in done.stdout
    assert "the host's, and this is a container (/.dockerenv)" in done.stdout
    done = box.tune("apply --yes")
    assert (done.returncode, done.stderr.count("nothing was changed"), done.stdout) == (1, 1, "")
    assert box.tune("verify").returncode == 2
    assert box.state() == before


def test_without_root_it_plans_and_refuses_to_apply(box: Sandbox) -> None:
    if os.geteuid() != 0:  # then this machine itself is safe from it
        command = [sys.executable, "-I", "-S", str(ROOT / "tuning" / "tune"), "apply", "--yes"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        before = box.state()
        assert box.tune("plan", user=65534).returncode == 2
        done = box.tune("apply --yes", user=65534)
        assert box.state() == before
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs root" in done.stderr


def test_systemd_gets_a_drop_in_and_loses_it_again(box: Sandbox) -> None:
    box.run(f"mkdir -p /run/systemd/system; cat > /opt/bin/systemctl <<'E'\n{SYSTEMCTL}E")
    box.run("chmod +x /opt/bin/systemctl; echo 1024 > /run/limit")
    row = next(row for row in report(box.tune("plan --json"))["rows"] if row["key"].startswith("LimitNOFILE"))
    assert (row["now"], row["target"], row["state"]) == ("1024", "262144", "change")
    box.tune("apply --yes")
    assert box.run(f"cat {UNIT_FILE}").stdout.endswith("[Service]\nLimitNOFILE=262144\n")
    assert box.run("tail -n 2 /run/systemctl.log | head -n 1").stdout == "daemon-reload\n"
    box.run("echo 262144 > /run/limit")
    assert box.tune("verify").returncode == 0
    assert box.tune("rollback --yes").returncode == 0
    assert box.run("tail -n 1 /run/systemctl.log").stdout == "daemon-reload\n"
    assert box.run("ls -d /etc/systemd/system/herald-gateway.service.d").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("aply", "invalid choice"), ("plan --open many", "expected a number from 0"),
        ("plan --unit ../x", "--unit ../x"), ("plan --login 'a b'", "--login a b"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_an_error_not_drift(arguments: str, said: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -I -S {ROOT / 'tuning' / 'tune'} {arguments}",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, said in done.stderr) == (1, "", True), done.stderr


def test_a_damaged_snapshot_is_an_error_in_one_line(box: Sandbox) -> None:
    box.run(f"mkdir -p /var/lib/herald-tuning; echo '{{' > {SNAPSHOT}")
    for command in ("verify", "apply --yes", "rollback --yes"):
        done = box.tune(command)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert f"{SNAPSHOT} is damaged" in done.stderr
