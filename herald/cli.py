"""The `herald` command: the group, the settings every command shares, and how errors become exit codes."""

import sys
from pathlib import Path
from typing import NoReturn

import click

from herald.commands.config import config
from herald.commands.dlq import dlq
from herald.commands.listen import listen
from herald.commands.preferences import preferences
from herald.commands.recall import recall
from herald.commands.revoke import revoke
from herald.commands.segment import segment
from herald.commands.send import send
from herald.commands.status import status
from herald.commands.tenant import tenant
from herald.commands.token import token
from herald.console import close_stdout, complain, file_fault
from herald.errors import FAILED, INTERRUPTED, OK, USAGE
from notification.errors import Conflict, HeraldError, InvalidInput, SettingsError

_EPILOG = """\b
Examples:
  herald send --tenant demo --user ann --title Hello --body "It works"
  herald listen --tenant demo --user ann --count 1
  herald status --tenant demo --id 01936b5e-4c00-7000-8000-000000000001
  herald config check

\b
Exit codes: 0 done, 1 it did not happen (the reason is on stderr), 2 the command line, an input or the
configuration is wrong, 130 interrupted. Settings come from herald.toml and HERALD_* variables.
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Settings file.  [default: herald.toml, if there is one]",
)  # fmt: skip
@click.version_option(package_name="herald", prog_name="herald")
@click.pass_context
def cli(context: click.Context, config_file: Path | None) -> None:
    """Herald: in-app notifications, from Kafka to every device of a user."""
    context.obj = config_file


for command in (send, listen, status, recall, preferences, token, revoke, tenant, segment, dlq, config):
    cli.add_command(command)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; never a traceback for what a user can cause."""
    try:
        result = cli.main(args=arguments, prog_name="herald", standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk can still be told
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        complain(error.format_message() + (f" (`{context.command_path} --help`)" if context else ""))
        return USAGE
    except Conflict as error:
        complain(str(error))
        return FAILED
    except (InvalidInput, SettingsError) as error:
        complain(str(error))
        return USAGE
    except HeraldError as error:
        complain(str(error))
        return FAILED
    except OSError as error:
        close_stdout()
        if isinstance(error, BrokenPipeError):
            return OK
        complain(file_fault(error))
        return FAILED
    except SystemExit:
        return OK  # click's answer to a reader that went away (`| head`): nothing is wrong with that
    return result if isinstance(result, int) else OK


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())
