"""bench.micro_tokens: what its report holds. How fast anything is, is not a test's business."""

import json

import pytest

from bench import micro_tokens


def test_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(micro_tokens, "TOKENS_COUNT", 3)
    monkeypatch.setattr("sys.argv", ["micro_tokens", "--rounds", "2", "--json"])
    micro_tokens.main()
    report = json.loads(capsys.readouterr().out)
    names = {f"{name} {who}" for name in ("HS256", "RS256", "ES256", "EdDSA") for who in micro_tokens.CONTESTANTS}
    assert set(report["figures"]) == names
    for figure in report["figures"].values():
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
        assert len(figure["values"]) == 2
    assert report["figures"]["HS256 pyjwt"]["faster"] == {"median": 1, "low": 1, "high": 1}


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(micro_tokens, "TOKENS_COUNT", 3)
    monkeypatch.setattr("sys.argv", ["micro_tokens", "--rounds", "1"])
    micro_tokens.main()
    assert "EdDSA remembered" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["micro_tokens", "--rounds", "0"])
    with pytest.raises(SystemExit):
        micro_tokens.main()
