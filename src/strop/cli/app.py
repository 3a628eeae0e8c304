"""The command line as a whole: its commands, and how errors end.

A command's options are in :mod:`strop.cli.commands`; what it does lives in modules of its own.

Exit codes: 0 improved, or done; 3 nothing better could be claimed, or a check stayed unproven; 2
bad input, one clear line; 1 a failed check, or a fault of strop's own; 130 interrupted. Results go
to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Annotated, TextIO

import typer

from strop.cli.commands.bench import bench
from strop.cli.commands.compare import compare
from strop.cli.commands.conformance import conformance
from strop.cli.commands.demo import demo
from strop.cli.commands.doctor import doctor
from strop.cli.commands.inspect import inspect
from strop.cli.commands.load_test import load_test
from strop.cli.commands.optimize import optimize
from strop.cli.commands.profile import profile
from strop.cli.commands.report import report
from strop.cli.commands.serve import serve
from strop.cli.commands.verify import verify

app = typer.Typer(
    name="strop",
    help="Makes trained models fast and small, and proves that they stayed good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
# In the order in which `strop --help` lists them.
for _command in (
    optimize,
    demo,
    inspect,
    compare,
    profile,
    bench,
    verify,
    serve,
    report,
    doctor,
    conformance,
    load_test,
):
    app.command()(_command)

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a file or folder of the user's is, rather than a fault of strop's own.
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)


def run() -> None:
    """Run the app; strop's own errors are one line."""
    from strop.errors import InputError, StropError

    try:
        # Outside standalone mode typer returns the code of an Exit rather than raising it.
        code = app(prog_name="strop", standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk still can be told in one line
    except InputError as error:
        _fail(str(error), 2)
    except StropError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _silence(sys.stdout)  # whoever read has seen enough
        sys.exit(141)
    except OSError as error:
        if error.errno in _CLOSED and error.filename:
            _fail(f"'{error.filename}' cannot be used: {error.strerror}; name another", 2)
        if error.errno not in _FULL:
            raise
        _silence(sys.stdout)
        what = f"'{error.filename}'" if error.filename else "the output"
        _fail(f"{what} cannot be written: {error.strerror}; make room", 2)
    except Exception as error:
        # Not by class: recent versions of typer raise from a copy of click of their own.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        _fail(_with_help(explain(), error), 2)
    else:
        sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Makes trained models fast and small, and proves that they stayed good."""
    if version:
        from strop import __version__

        typer.echo(__version__)
        raise typer.Exit


def _with_help(told: str, error: Exception) -> str:
    """What was wrong with a call, and where its usage stands; as it is where there is none."""
    path = getattr(getattr(error, "ctx", None), "command_path", "")
    if not path or not told.strip():
        return told
    told = told.strip().rstrip(".")
    return f"{told}{'' if told.endswith('?') else ';'} '{path} --help' says how to call it"


def _silence(stream: TextIO) -> None:
    """Let what is still in a stream's buffer go nowhere when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str, code: int) -> None:
    if line := " ".join(message.split()):  # without a command the help has said it all
        sys.stderr.write(f"strop: {line}\n")
    sys.exit(code)
