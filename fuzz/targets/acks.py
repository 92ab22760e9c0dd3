"""What a client says that might be an ack, on a session with eight notifications written: as the twin reads it."""

import uuid

from fuzz.target import Target, same
from gateway._fast import acks, session
from notification.frames import Ack, encode
from tests.reference import acks as twin

_COUNT = 8


def _written() -> session.Session:
    one = session.Session(0)
    one.authenticate("t", "u", "d", bytes(16), b"t:dQ", 1, 0)
    one.set_at(0, 0)
    one.begin_live()
    for seq in range(1, _COUNT + 1):
        one.offer(0, seq, seq - 1, _id(seq).bytes, b"{}")
    one.take()
    return one


def _id(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def run(data: bytes) -> None:
    ours, twins = acks.Acks(), twin.Acks()
    left, right = _written(), _written()
    same("acked", ours.ack(left, data, 1), twins.ack(right, data, 1))
    same("left", left.unacked(), right.unacked())
    same("receipts", ours.take(), twins.take())


TARGET = Target(
    run,
    seeds=(
        *(
            b'{"t":"ack","ids":["%b"]}' % b'","'.join(str(_id(n)).encode() for n in chosen)
            for chosen in ((1,), (2, 9))
        ),
        b'{"t":"ack","upto":"%b"}' % str(_id(5)).encode(),
        encode(Ack(ids=[str(_id(1))])),
        b'{"t":"ping"}',
    ),
    words=(b'"ids":[', b'"upto":"', str(_id(3)).encode(), b'","', b'"]}', b"-"),
    bytes_max=600,
)
