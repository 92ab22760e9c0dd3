"""`python -m bench` runs whole on this machine's servers; what it measures here is no figure, so none is judged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.quality.tree import ROOT

pytestmark = pytest.mark.stack


def bench(*arguments: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_hotpath_delivers_and_acks_on_every_contestant() -> None:
    report = bench("hotpath", "--rounds", "1", "--messages", "600", "--connections", "50", "--in-flight", "200",
                   "--contestants", "floor,engine,picows")  # fmt: skip
    assert set(report["figures"]) == {"floor", "engine", "picows"}
    assert report["figures"]["engine"]["ratio"]["rounds"] == 1
    assert "stand-in" in report["inbox"]


def test_handshake_connects_and_disconnects() -> None:
    report = bench("handshake", "--rounds", "1", "--connections", "100")
    assert report["figures"]["engine"]["values"][0] > 0
    assert report["disconnect"]["floor"]["values"][0] > 0


def test_tls_by_the_gateway_and_by_haproxy_in_front_of_it() -> None:
    report = bench("hotpath", "--rounds", "1", "--messages", "600", "--connections", "50", "--in-flight", "200",
                   "--contestants", "engine,tls,haproxy")  # fmt: skip
    assert set(report["figures"]) == {"engine", "tls", "haproxy"}
    assert report["absent"] == "nobody"
    assert 0 < report["of_it_proxy"]["haproxy"] < report["figures"]["haproxy"]["median"]
    report = bench("idle", "--connections", "50", "--seconds", "0.1", "--contestants", "tls,haproxy")
    assert report["figures"]["haproxy"]["of_it_proxy_rss_bytes"] <= report["figures"]["haproxy"]["rss_bytes"]


def test_fanout_reaches_everybody() -> None:
    report = bench(
        "fanout", "--rounds", "1", "--connections", "50", "--texts", "5", "--contestants", "floor,engine"
    )
    assert report["figures"]["engine"]["values"][0] > 0
    assert report["absent"] == "nobody"


def test_connections_are_held_and_notified() -> None:
    report = bench("connections", "--count", "30", "--processes", "2", "--messages", "200", "--hold-s", "0.1")
    figure = report["figures"]["engine"]
    assert (figure["connections"], figure["delivered"], figure["lost"]) == (30, 200, 0)
    assert sum(report["per_process"]) == 30
    assert report["restart"]["lost_their_socket"] > 0


def test_sockets_tell_how_long_high_waits_in_the_kernel() -> None:
    report = bench("sockets", "--rounds", "1", "--highs", "1", "--connections", "50", "--fill-s", "0.1",
                   "--bytes-per-s", "20000000")  # fmt: skip
    assert set(report["figures"]) == {"unlimited", "128 KB", "64 KB, Herald's", "16 KB"}
    assert report["held_bytes_both_ends"]["flooded"] > 0


def test_a_storm_says_who_came_in() -> None:
    report = bench("storm", "--count", "50")
    assert report["figures"]["engine"]["admitted"] == 50


def test_neighbours_are_watched_while_others_attack() -> None:
    kinds = {"unmasked frames", "large headers"}
    report = bench("neighbours", "--rounds", "1", "--seconds", "0.4", "--kinds", ",".join(kinds))
    assert set(report["figures"]) == {"nobody", *kinds}
    assert report["figures"]["unmasked frames"]["values"][0] > 0
    assert set(report["borne"]) == set(report["heard"]) == kinds


def test_worker_stores_dispatches_and_takes_acks() -> None:
    report = bench("worker", "--rounds", "1", "--messages", "300", "--users", "20")
    assert report["figures"]["dispatch: worker, CPU µs"]["values"][0] > 0
    assert report["figures"]["receipts: worker, CPU µs"]["values"][0] > 0
    assert "memory" in report["kafka"]
    cost = report["figures"]["dispatch: worker, CPU µs"]["median"]
    assert sum(report["shares"]["parts"].values()) == pytest.approx(cost)


def test_lanes_are_watched_behind_a_queue_and_beside_another_tenant() -> None:
    report = bench("lanes", "--rounds", "1", "--low", "300", "--high", "50", "--per-s", "20", "--seconds", "0.5",
                   "--users", "10")  # fmt: skip
    assert report["figures"]["P95, ms"]["values"][0] > 0
    assert report["figures"]["LOW in 100 sends"]["rounds"] == 1
    assert report["p95_ms_of_a_tenant"]["at its share"]["values"][0] > 0


def test_micro_sets_every_piece_beside_another() -> None:
    report = bench("micro", "--rounds", "2", "--operations", "200", "--tokens", "3")
    contestants: dict[str, list[str]] = {}
    for name, figure in report["figures"].items():
        assert 0 < figure["low"] <= figure["median"] <= figure["high"], name
        assert len(figure["values"]) == 2
        part, _, who = name.partition(": ")
        contestants.setdefault(part, []).append(who)
        assert (figure["ratio"] is None) == (who == contestants[part][0])
    assert contestants == {
        "frame read": ["websockets", "twin", "framing"],
        "upgrade": ["websockets", "twin", "upgrade"],
        "notification and ack": ["twin", "session"],
        **{f"token {name}": ["PyJWT", "verify", "remembered"] for name in ("HS256", "RS256", "ES256", "EdDSA")},
        "redis pack": ["redis-py", "hiredis", "resp.pack", "Exchange.put"],
        "redis reply": ["hiredis", "Exchange"],
        "redis pipeline": ["redis-py", "gateway"],
    }


def test_a_wrong_question_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bench", "hotpath", "--connections", "1"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("bench: 2048 in flight are too many for 1 connections")


def test_profile_draws_where_the_time_goes(tmp_path: Path) -> None:
    report = bench("profile", "--seconds", "1", "--processes", "gateway", "--folder", str(tmp_path))
    drawn = Path(report["figures"]["gateway"]["file"]).read_text("utf-8")
    assert "gateway/process.py" in drawn
