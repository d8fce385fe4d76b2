"""The sub-commands: arguments to stages, errors to exit codes.

``python -m pipeline label-raster`` and ``label_raster`` are the same command.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from pipeline import geotiff, interruption, progress
from pipeline.cli.options import app as app
from pipeline.errors import OutputError, TeselaError

# Importing them makes the sub-commands, in the order of the help.
# isort: off
from pipeline.cli import rules as rules
from pipeline.cli import mapping as mapping
from pipeline.cli import maps as maps
from pipeline.cli import evaluation as evaluation
from pipeline.cli import siose as siose
from pipeline.cli import networks as networks
# isort: on

_TERMINATED = 128 + signal.SIGTERM


@app.callback()
def start(
    log_file: Annotated[
        Path | None,
        typer.Option("--log", help="File for all that is said; errors are told here too."),
    ] = None,
) -> None:
    """Start logging before any command."""
    progress.start_logging(log_file)


def main() -> None:
    """Run a sub-command; exit with the code of the error's kind."""
    # A batch system's SIGTERM must leave no draft behind: let `finally` run.
    signal.signal(signal.SIGTERM, _terminated)
    interruption.note_warnings()
    try:
        with geotiff.session():
            app(args=_hyphenated(sys.argv[1:]))
    except TeselaError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == _TERMINATED and (said := interruption.ask_for_requeue(further=False)):
            _say(said)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _say(f"The disk is full: {error}.\nMake room, then start again.")
        sys.exit(OutputError.exit_code)
    except Exception:  # a defect of ours: its traceback goes to the log too, and on to the caller
        if progress.console.file is not sys.stderr:
            traceback.print_exc(file=progress.console.file)
        raise


def _hyphenated(arguments: list[str]) -> list[str]:
    """Arguments with commands by their hyphens: rules and functions are named with underscores."""
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    return [a.replace("_", "-") if a in names else a for a in arguments]


def _say(message: str) -> None:
    if progress.console.file is not sys.stderr:
        progress.console.file.write(f"{message}\n")
    # Not through rich: a message is read by people and by grep, and is never wrapped or styled.
    print(message, file=sys.stderr, flush=True)


def _terminated(number: int, _: object) -> None:
    if not interruption.is_leaving():
        # A second one, of Snakemake beside SLURM's, must not cut short what this one begins.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(_TERMINATED)
