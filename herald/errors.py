"""What the `herald` command says when it cannot: one line that names the field, the server or the setting.

Exit codes: OK 0, FAILED 1 (it was asked properly and did not happen), USAGE 2 (the command line, an input or
the configuration is wrong; nothing was done), INTERRUPTED 130 (Ctrl-C).
"""

from typing import Final

from notification.errors import HeraldError
from notification.settings import PREFIX, Settings

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


class Failed(HeraldError):
    """The command could not do what it was asked; the text is the whole message."""


def server_down(server: str, address: str, setting: str, settings: Settings) -> Failed:
    """A server that does not answer, with its address and the setting that changes it."""
    configured = bool(getattr(settings, setting, ""))
    key = setting if configured or setting.endswith("_port") else f"{setting}_port"
    return Failed(
        f"{server} at {address} does not answer; is it running (`make run`)? "
        f"The address is setting {key!r} ({PREFIX}{key.upper()})"
    )
