"""How many sockets each address holds: any order of comings and goings, of any addresses."""

from fuzz.target import Target, same
from gateway._fast import peers
from tests.reference import peers as twin

NETWORKS = ((b"\x0a\0\0\0", 8), (b"\xfc" + bytes(15), 7), (b"\xc0\0\2\1", 32))
ADDRESSES = (
    "10.1.2.3",
    "192.0.2.1",
    "192.0.2.2",
    "::ffff:192.0.2.2",
    "fd00::1",
    "2001:db8::1",
    "2001:db8::2",
    "x",
    "",
)


def run(data: bytes) -> None:
    per_address = data[0] % 4 if data else 0
    ours, twins = peers.Peers(NETWORKS, per_address), twin.Peers(NETWORKS, per_address)
    held: list[tuple[int, int]] = []
    for byte in data[1:]:
        if byte < 200:
            text = f"192.0.{byte}.9" if byte >= 100 else ADDRESSES[byte % len(ADDRESSES)]
            same("trusts", ours.trusts(text), twins.trusts(text))
            tickets = ours.enter(text), twins.enter(text)
            same("ticket", min(tickets[0], 0), min(tickets[1], 0))
            if tickets[0] >= 0:
                held.append(tickets)
        elif held:
            one, other = held[byte % len(held)]
            same("crowded", ours.crowded(one), twins.crowded(other))
            if byte >= 220:
                held.remove((one, other))
                ours.leave(one)
                twins.leave(other)
        same("addresses", len(ours), len(twins))


TARGET = Target(
    run,
    seeds=(
        bytes([2, 1, 1, 2, 2, 2, 3, 210, 230, 231, 1, 5, 6, 240]),
        bytes([1, *range(100, 256)]),
    ),
    bytes_max=400,
)
