"""A client's JSON frame and its cursor: decoded, or InvalidInput and nothing else."""

from fuzz.target import Target, outcome
from notification import frames
from notification.errors import InvalidInput


def run(data: bytes) -> None:
    frame = outcome(frames.decode_client, data, raising=(InvalidInput,))
    if isinstance(frame, frames.Auth) and frame.cursor is not None:
        outcome(frames.check_cursor, frame.cursor, raising=(InvalidInput,))
    text = data.decode("latin-1")
    cursor = outcome(frames.cursor_from_text, text, raising=(InvalidInput,))
    if isinstance(cursor, frames.Cursor):
        assert frames.cursor_from_text(frames.cursor_to_text(cursor)) == cursor


_ID = b"0190a5b0-7c1d-7000-8000-000000000001"
TARGET = Target(
    run,
    seeds=(
        b'{"t":"auth","token":"a.b.c","device":"d","cursor":{"epoch":7,"at":{"direct.high":1}}}',
        b'{"t":"ack","ids":["' + _ID + b'"]}',
        b'{"t":"ack","upto":"' + _ID + b'"}',
        b'{"t":"state","ids":["' + _ID + b'"],"to":"read"}',
        b'{"t":"page","before":"' + _ID + b'","limit":50}',
        b'{"t":"ping"}',
        b'{"t":"reauth","token":"a.b.c"}',
        frames.cursor_to_text(frames.Cursor(7, {"direct.high": 1})).encode(),
    ),
    words=(
        b'{"t":', b'"ack"', b'"ids":[', _ID, b"null", b"true", b"1e999", b"-1", b"18446744073709551616",
        b'"\\ud800"', b'"at":{', b'"audience.low":', b"[" * 60, b"\xef\xbb\xbf", b'"cursor":',
    ),
)  # fmt: skip
