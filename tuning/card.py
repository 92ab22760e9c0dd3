"""Advice on the network card: shown where it would help, never applied, not tested by us."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tuning.machine import Card, Machine
from tuning.settings import CARD

_QUEUES_MAX: Final = 8  # ENA's queues on c5: min(8, vCPU)
_SOURCE: Final = "AWS, ENA Linux Best Practices; untested"


@dataclass(frozen=True)
class Advice:
    """A row that only says which command to try."""

    key: str
    now: str
    target: str
    why: str
    command: str
    source: str = _SOURCE
    group: str = CARD


def advice(machine: Machine) -> Iterator[Advice]:
    """Rows for the card of the default route, of those that would change something."""
    if machine.card is None or machine.cores == 1:
        return
    yield from _queues(machine, machine.card)
    yield from _masks(machine, machine.card)
    if machine.card.rx_queues > 1 and not machine.irqbalance:
        yield Advice(
            "irqbalance", "not running", "running", "Spreads the queues' interrupts over the cores; keep it.",
            "try: install irqbalance",
        )  # fmt: skip


def _queues(machine: Machine, card: Card) -> Iterator[Advice]:
    wanted = min(_QUEUES_MAX, machine.cores)
    if card.rx_queues < wanted:
        yield Advice(
            f"RSS queues of {card.name} ({card.driver})", str(card.rx_queues), str(wanted),
            "One receive queue per core: with fewer, some cores take all packets.",
            f"try: ethtool -L {card.name} combined {wanted} (the card may have no more)",
        )  # fmt: skip


def _masks(machine: Machine, card: Card) -> Iterator[Advice]:
    if card.rx_queues >= min(_QUEUES_MAX, machine.cores) and any(mask.strip("0,") for mask in card.rps):
        yield Advice(
            f"RPS of {card.name}", "on", "off", "The card's own queues (RSS) spread packets already.",
            f"try: echo 0 > /sys/class/net/{card.name}/queues/rx-N/rps_cpus",
        )  # fmt: skip
    if card.tx_queues >= machine.cores and any(mask and not mask.strip("0,") for mask in card.xps):
        yield Advice(
            f"XPS of {card.name}", "off", "queue N on core N", "A core sends through a queue that no other takes.",
            f"try: printf '%x' $((1<<N)) > /sys/class/net/{card.name}/queues/tx-N/xps_cpus",
        )  # fmt: skip
