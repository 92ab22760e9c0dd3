"""Which file has the last word at boot."""

from pathlib import Path

from tuning import boot


def write(top: Path, name: str, text: str) -> Path:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_last_file_by_name_wins_whatever_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "etc/sysctl.d/10-first.conf", "a.b = 1\nkept = 5\n")
    late = write(
        tmp_path,
        "usr/lib/sysctl.d/50-later.conf",
        "# a.b = 9\n; a.b = 9\n\n  -a/b=2 \nnet/ipv4/conf/eth0.1/x = 3\n",
    )
    said = boot.said(tmp_path)
    assert said["a.b"] == ("2", late)
    assert said["kept"].value == "5"
    assert said["net.ipv4.conf.eth0.1.x"].value == "3"


def test_etc_hides_a_file_of_the_same_name_and_sysctl_conf_comes_last(tmp_path: Path) -> None:
    write(tmp_path, "usr/lib/sysctl.d/99-x.conf", "a.b = 1\nc.d = 1\n")
    etc = write(tmp_path, "etc/sysctl.d/99-x.conf", "a.b = 2\n")
    assert boot.said(tmp_path) == {"a.b": ("2", etc)}
    last = write(tmp_path, "etc/sysctl.conf", "a.b = 3\n")
    assert boot.said(tmp_path)["a.b"] == ("3", last)
