"""A machine to tune that is nobody's: a network namespace, and a file system of its own with this one's programs.

The kernel's net.* settings are real there and apart from the machine's. Those that the whole machine shares (fs.*,
vm.*, huge pages) are plain files of the sandbox in the same places, so that no test can change the machine.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.quality.tree import ROOT

TUNE: Final = "/opt/herald/tuning/tune"
KEYS: Final = {
    "net.core.somaxconn": "4096",
    "net.ipv4.tcp_max_syn_backlog": "2048",
    "net.ipv4.tcp_migrate_req": "0",
    "net.ipv4.tcp_rmem": "4096\t131072\t6291456",
    "net.ipv4.tcp_wmem": "4096\t16384\t4194304",
    "net.ipv4.tcp_notsent_lowat": "4294967295",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "fs.nr_open": "4096",
    "fs.file-max": "65536",
    "vm.swappiness": "60",
}
HUGE_PAGES: Final = "/sys/kernel/mm/transparent_hugepage/enabled"
_PYTHON: Final = f"/opt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
# SIOCSIFFLAGS with IFF_UP, netdevice(7): loopback is down in a new namespace
_LOOPBACK: Final = (
    "import fcntl, socket, struct\nfcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"
)
_PATH: Final = "/opt/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
_READY: Final = "ready"
_SETUP: Final = f"""
set -eu
mount -t tmpfs tmpfs "$TOP"
mkdir -p "$TOP"/fs "$TOP"/vm "$TOP"/pages "$TOP"/merged
cd "$TOP"/merged
mkdir -p proc sys dev tmp usr run var/lib opt/herald/tuning opt/python opt/bin
cp -dR --preserve=mode /etc etc 2> /dev/null || [ -e etc/passwd ]
rm -rf etc/sysctl.conf etc/sysctl.d/*herald* etc/tmpfiles.d/*herald* etc/modules-load.d/*herald*
rm -rf etc/security/limits.d/*herald* etc/systemd/system/herald*
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then cp -d "/$name" "$name"
  elif [ -d "/$name" ]; then mkdir "$name"; mount --rbind "/$name" "$name"; fi
done
mount --rbind /usr usr
mount --bind "$PYTHON" opt/python
mount --bind "$SOURCES" opt/herald/tuning
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount --bind "$TOP"/fs proc/sys/fs
mount --bind "$TOP"/vm proc/sys/vm
echo '[always] madvise never' > "$TOP"/pages/enabled
mkdir -p sys/kernel/mm/transparent_hugepage
mount --bind "$TOP"/pages sys/kernel/mm/transparent_hugepage
"$EXE" -I -S -c "$LOOPBACK"
set() {{ if [ -e "proc/sys/$1" ] || [ "${{1#net}}" = "$1" ]; then printf '%s\\n' "$2" > "proc/sys/$1"; fi; }}
{chr(10).join(f"set {key.replace('.', '/')} {shlex.quote(value)}" for key, value in KEYS.items())}
echo {_READY}
exec cat > /dev/null
"""


class Sandbox:
    """Lives until it is closed; `folder` is where its files are mounted, seen from inside only."""

    def __init__(self, folder: Path) -> None:
        self._top = folder
        command = ["unshare", *_user(), "--net", "--mount", "--propagation", "private", "bash", "-c", _SETUP]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TOP": str(folder), "SOURCES": str(ROOT / "tuning"), "PYTHON": sys.base_prefix,
                 "EXE": sys.executable, "LOOPBACK": _LOOPBACK},
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != _READY:
            _, errors = self._holder.communicate()
            raise AssertionError(f"no namespaces to be had here: {errors}")

    def close(self) -> None:
        """Everything in it ends with its last process."""
        self._holder.communicate()

    def run(self, command: str, user: int = 0) -> subprocess.CompletedProcess[str]:
        """A shell command inside, whatever its exit status."""
        enter = ["nsenter", "--target", str(self._holder.pid), *_user("--user", "--preserve-credentials")]
        who = [f"--userspec={user}:{user}"] if user else []
        enter += ["--net", "--mount", "chroot", *who, f"{self._top}/merged"]
        enter += ["env", f"PATH={_PATH}", "bash", "-c", command]
        return subprocess.run(enter, capture_output=True, text=True, check=False)

    def tune(self, arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
        """tuning/tune on a Python without any installed package, as on a fresh machine; no connections are opened
        unless --open says so."""
        few = "" if "--open" in arguments else " --open 0"
        return self.run(f"{_PYTHON} -I -S {TUNE} {arguments}{few}", user)

    def get(self, key: str) -> str:
        """A kernel value as it is printed."""
        return self.run(f"cat {_path(key)}").stdout.rstrip("\n")

    def set(self, key: str, value: str) -> None:
        done = self.run(f"printf '%s\\n' {shlex.quote(value)} > {_path(key)}")
        assert done.returncode == 0, done.stderr

    def state(self) -> dict[str, str]:
        """Every network setting and every stand-in, by path; and every file it may write."""
        kernel = self.run(
            "grep -rs '' /proc/sys/net /proc/sys/fs /proc/sys/vm /sys/kernel/mm/transparent_hugepage"
            " | grep -v -e _key -e nf_conntrack_count -e /random -e /nf_log/"
        ).stdout
        changed = self.run("find /etc /var /run -type f -exec md5sum {} + | sort -k 2").stdout
        return {"kernel": kernel, "files": changed}


def _user(*words: str) -> list[str]:
    """Who is not root becomes so in a namespace of users."""
    return [] if os.geteuid() == 0 else list(words) or ["--user", "--map-root-user"]


def _path(key: str) -> str:
    return key if key.startswith("/") else f"/proc/sys/{key.replace('.', '/')}"
