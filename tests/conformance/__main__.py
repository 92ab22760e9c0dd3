"""`python -m tests.conformance`: the Autobahn cases (kosoku) against both carriers; the count comes last.

Exit status 1 when a case failed that is not a known fault of a library, or one that is known passed.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# 12 and 13 are compression, which Herald never negotiates.
GROUPS = ("1", "2", "3", "4", "5", "6", "7", "9", "10")
CASES_AT_ONCE = "4"
DEADLINE_S = 300
# Faults of a library that Herald cannot mend from outside, each with its reason.
KNOWN = {
    "engine": {},
    "picows": {"7.1.2": "two close frames in one read: picows parses one frame ahead and answers the second, 1002"},
}


def run(carrier: str, folder: Path) -> dict[str, dict[str, str]]:
    """Case -> its report, from one run over a carrier."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.echo", carrier], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        chosen = [part for group in GROUPS for part in ("-i", f"{group}.*")]
        command = [str(Path(sys.executable).parent / "kosoku"), "-m", "fuzzingclient", f"127.0.0.1:{port}", *chosen]
        subprocess.run(
            [*command, "-p", CASES_AT_ONCE, "-o", str(folder)],
            stdout=subprocess.DEVNULL, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    finally:
        server.kill()
        server.wait()
    reports: dict[str, dict[str, dict[str, str]]] = json.loads((folder / "index.json").read_text("utf-8"))
    (cases,) = reports.values()
    return cases


def judge(carrier: str, cases: dict[str, dict[str, str]]) -> list[str]:
    """What is wrong, one line each."""
    failed = {
        case for case, report in cases.items()
        if "FAILED" in (report["behavior"], report["behaviorClose"]) or report["behaviorClose"] == "WRONG CODE"
    }  # fmt: skip
    known = KNOWN[carrier]
    wrong = [f"{carrier} {case}: {cases[case]['behavior']}" for case in sorted(failed - known.keys())]
    wrong += [f"{carrier} {case} passes now: take it off KNOWN" for case in sorted(known.keys() - failed)]
    missing = [group for group in GROUPS if not any(case.startswith(f"{group}.") for case in cases)]
    return wrong + [f"{carrier} group {group} did not run" for group in missing]


def main() -> int:
    """Run both carriers; the exit status."""
    wrong, lines = [], []
    for carrier, known in KNOWN.items():
        with tempfile.TemporaryDirectory() as folder:
            cases = run(carrier, Path(folder))
        wrong += judge(carrier, cases)
        counts = Counter(report["behavior"] for report in cases.values())
        summary = ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items()))
        lines.append(f"{carrier}: {len(cases)} cases: {summary}")
        lines += [f"  known: {case}: {reason}" for case, reason in known.items()]
    print("\n".join([*wrong, *lines]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
