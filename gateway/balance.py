"""Even shares of connections for the processes that share a port.

Linux spreads connects over a SO_REUSEPORT group by a hash, which knows nothing of a process that crashed and came
back empty. A classic BPF program on the group (SO_ATTACH_REUSEPORT_CBPF, socket(7)) draws the socket instead, with
weights. What is uneven still is evened out by sending some clients away: they come back where there is room.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

from notification.limits import BALANCE_RATIO_MAX, BALANCE_SHED_COUNT_MAX, BALANCE_SLACK_COUNT

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h; Python has no name for it
# linux/filter.h and bpf_common.h: one instruction is (code, jump if true, jump if false, operand).
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("H6xQ")
_LOAD_WORD: Final = 0x20
_MODULO: Final = 0x94
_JUMP_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM: a random 32-bit number


def weights(counts: Sequence[int | None]) -> list[int]:
    """Each process's share of new connections by its number of connections; None: it accepts none, 0.

    Who has fewer gets more, in proportion to what is missing to the fullest. All 0 when nobody accepts.
    """
    most = max((count for count in counts if count is not None), default=0)
    return [0 if count is None else most - count + BALANCE_SLACK_COUNT for count in counts]


def surplus(counts: Sequence[int | None]) -> list[int]:
    """How many connections each process is to send away now; all 0 while they are even enough."""
    accepting = [count for count in counts if count is not None]
    if not accepting or max(accepting) <= min(accepting) * BALANCE_RATIO_MAX + BALANCE_SLACK_COUNT:
        return [0] * len(counts)
    mean = sum(accepting) // len(accepting)
    return [0 if count is None else max(0, min(count - mean, BALANCE_SHED_COUNT_MAX)) for count in counts]


def attach(listening: socket.socket, shares: Sequence[int]) -> None:
    """Draw a socket of the group for each new connection; `shares` in the order in which they began to listen.

    All 0 counts as all equal. OSError: the kernel refuses the program.
    """
    bounds = []
    total = 0
    for share in shares if any(shares) else [1] * len(shares):
        total += share
        bounds.append(total)
    code = [(_LOAD_WORD, 0, 0, _RANDOM), (_MODULO, 0, 0, total)]
    for place, bound in enumerate(bounds):
        code += [(_JUMP_IF_AT_LEAST, 1, 0, bound), (_RETURN, 0, 0, place)]
    code.append((_RETURN, 0, 0, len(bounds) - 1))  # never reached, but the kernel wants a last word
    text = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in code))
    program = _PROGRAM.pack(len(code), ctypes.addressof(text))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
