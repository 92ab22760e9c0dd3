"""Pass or fail: the customer's 95th percentiles, and nothing lost. Decides Locust's exit status."""

import dataclasses
import urllib.request
from typing import Final

from locust.env import Environment
from prometheus_client.parser import text_string_to_metric_families

from bench.locust.device import PROTOCOL
from bench.locust.ledger import LEDGER

# Requirements of the product: milliseconds at the 95th percentile.
DELIVER_MS: Final = 300.0
CONNECT_MS: Final = 100.0
PING_MS: Final = 50.0
DATABASE_MS: Final = 10.0
_SHARE: Final = 0.95
_SCRAPE_S: Final = 5.0
Buckets = dict[float, float]  # upper bound in seconds -> how many at most that


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the verdict; `passed` None: it is told and not judged."""

    name: str
    said: str
    passed: bool | None

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "    "}[self.passed]
        return f"  {mark}  {self.name:<16} {self.said}"


def rows(environment: Environment, judged: dict[str, float], told: tuple[str, ...]) -> list[Line]:
    """A line per row of Locust's table: those of `judged` have a limit in ms."""
    lines = []
    for name in (*judged, *told):
        entry = environment.stats.get(name, PROTOCOL)
        if not entry.num_requests:
            lines.append(Line(name, "nothing was measured", False if name in judged else None))
            continue
        p95_ms = entry.get_response_time_percentile(_SHARE)
        said = f"P95 {p95_ms:g} ms of {entry.num_requests}, {entry.num_failures} failed"
        if name in judged:
            passed = p95_ms <= judged[name] and not entry.num_failures
            lines.append(Line(name, f"{said}; at most {judged[name]:g} ms", passed))
        else:
            lines.append(Line(name, said, None))
    return lines


def scrape(url: str) -> Buckets:
    """`herald_store_seconds` of a worker. Raises OSError when nobody answers."""
    with urllib.request.urlopen(url, timeout=_SCRAPE_S) as answer:  # noqa: S310 - http:// and what the caller named
        text = answer.read().decode()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text) if family.name == "herald_store_seconds"
        for sample in family.samples if sample.name.endswith("_bucket")
    }  # fmt: skip


def database(before: Buckets, after: Buckets) -> Line:
    """The storing transactions between two scrapes, by the bucket that the 95th percentile is in."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = max(counts.values(), default=0)
    if not total:
        return Line("database write", "no transaction", False)
    bound = next(bound for bound, count in counts.items() if count >= _SHARE * total)
    said = f"P95 at most {bound * 1_000:g} ms of {total:.0f} storing transactions; at most {DATABASE_MS:g} ms"
    return Line("database write", said, bound * 1_000 <= DATABASE_MS)


def ledger() -> list[Line]:
    """What was accepted has come."""
    counts = LEDGER.counts()
    said = f"{counts.lost} of {counts.accepted} accepted; {counts.left} wait for users who have left"
    lines = [Line("lost", said, counts.lost == 0 and counts.accepted > 0)]
    lines.append(Line("not accepted", f"{LEDGER.not_accepted} by Kafka", LEDGER.not_accepted == 0))
    for title, counter in (("refused", LEDGER.refusals), ("ended", LEDGER.ends)):
        if counter:
            lines.append(Line(title, ", ".join(f"{name}: {count}" for name, count in counter.most_common()), None))
    return lines
