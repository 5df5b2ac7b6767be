"""The one place where a command's errors become an exit status and one line on stderr.

0: done; 1: the doctor found something wrong; 2: a mistake of the user's; 130: Ctrl-C; 141: the reader of our output
went away. Anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import click

from ..errors import QwenError
from .terminal import prepare_streams

INTERRUPTED = 130
PIPE_CLOSED = 141


def run(command: click.Command, name: str, args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. ``name`` is what the usage line calls the program."""
    prepare_streams()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(command, name, args)


def _run(command: click.Command, name: str, args: Sequence[str] | None) -> int:
    try:
        with command.make_context(name, list(sys.argv[1:] if args is None else args)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        show_error(_usage_message(error))
        return 2
    except QwenError as error:
        show_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        _silence(sys.stdout, sys.stderr)
        return PIPE_CLOSED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _silence(sys.stdout)
        show_error("no space left where the output goes: free some, or write elsewhere")
        return 2
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED


def show_error(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    _show("error", message)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning as a user reads it: without the line of our source that gave it."""
    _show("warning", str(message))


def _show(kind: str, message: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be full or gone: the exit status still tells
        print(f"{kind}: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message().rstrip()
    context = getattr(error, "ctx", None)
    return f"{message} (see '{context.command_path} --help')" if context else message


def _silence(*streams: TextIO) -> None:
    """Point streams that cannot be written at nothing, so that the interpreter's own last flush stays quiet."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
