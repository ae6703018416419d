"""The `raggym` command: its subcommands, and the library's errors as one line without a traceback."""

from __future__ import annotations

import inspect
import io
import logging
import os
import platform
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raggym_env.cli import (
    cards,
    collect,
    compare,
    data,
    evaluate,
    export,
    index,
    leaderboard,
    models,
    play,
    report,
    serve,
    show,
    train,
    watch,
)
from raggym_env.cli._output import say, say_lines
from raggym_env.cli._signals import exit_code, signals_raised
from raggym_env.errors import RAGGymError
from raggym_env.storage.work_folder import installed_version
from raggym_env.text.exits import for_terminal

__all__ = ["app"]

_TRACEBACK = "RAGGYM_TRACEBACK"


class _Group(TyperGroup):
    """A command group that prints the library's errors as messages. Bugs keep their traceback."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _usage_errors_for_a_terminal():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _usage_errors_for_a_terminal(), signals_raised():
                return super().invoke(ctx)
        except (RAGGymError, OSError) as error:  # OSError: a path that cannot be read or written, a full disk
            say_lines(_message(f"raggym: {error}"), err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            message = "raggym: interrupted. Finished work is kept; the same command resumes."
            with suppress(OSError):  # after SIGHUP the terminal may be gone
                say_lines(_message(" ".join([message, *getattr(error, "__notes__", ())])), err=True)
            raise typer.Exit(exit_code(error)) from None


@contextmanager
def _usage_errors_for_a_terminal() -> Iterator[None]:
    """Make an error about the command line fit to print. It repeats an argument, such as the name of a file."""
    try:
        yield
    except Exception as error:
        # Click's base class of these errors, which Typer does not export, and which it has a copy of in some versions.
        if hasattr(error, "format_message") and isinstance(message := getattr(error, "message", None), str):
            error.message = for_terminal(message)  # type: ignore[attr-defined]
        raise


class _App(typer.Typer):
    """The command as a process of its own, where nothing that others print goes round the exit functions."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        for stream in (sys.stdin, sys.stdout):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal that cannot show a letter gets a question mark, not a traceback. stderr is so already.
                stream.reconfigure(errors="replace")
        # Where no logging is configured, warnings are printed, by a handler that formats nothing.
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(_LogFormatter())
        format_warning = warnings.formatwarning
        warnings.formatwarning = lambda *args, **kw: _message(format_warning(*args, **kw)) + "\n"
        try:
            if not arguments and not options and sys.argv[1:] in (["--version"], ["--help"], ["-h"], []):
                return _outline(self)()
            return super().__call__(*arguments, **options)
        finally:
            sys.excepthook = _print_traceback  # Typer's own, which it has just set, prints the message as it is


def _outline(full: typer.Typer) -> typer.Typer:
    """Return the command with the names and descriptions of its subcommands, and none of their options.

    It prints the same help and version as the whole, whose options take longer to make than all else.
    """
    outline = typer.Typer(**_SETTINGS)
    outline.callback()(_options)
    for command in full.registered_commands:
        outline.command(command.name, help=inspect.getdoc(command.callback))(lambda: None)
    for group in full.registered_groups:
        about = group.typer_instance.info.help if group.typer_instance else None
        part = typer.Typer(help=about)
        part.command()(lambda: None)
        part.command("other")(lambda: None)
        outline.add_typer(part, name=group.name)
    return outline


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _message(super().format(record))


def _print_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print a bug: of one in a user's own class, the user's frames alone."""
    whole, skipped = traceback.TracebackException(kind, error, trace), 0
    part: traceback.TracebackException | None = whole
    paths = sysconfig.get_paths()
    folders = [Path(__file__).parents[1], *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    others = tuple(
        f"{folder}{os.sep}" for folder in (*folders, paths["scripts"])
    )  # the library's, and what is installed
    while part is not None and not os.environ.get(_TRACEBACK):
        # What is wrong with a module that cannot be read is said by the error, which no frame of it has raised.
        own = [frame for frame in part.stack if not frame.filename.startswith((*others, "<"))]
        if own or part.exc_type is SyntaxError:
            skipped += len(part.stack) - len(own)
            part.stack = traceback.StackSummary.from_list(own)
        part = part.__cause__ or part.__context__
    text = "".join(whole.format()).rstrip("\n")
    if skipped:
        text += f"\n{skipped} frames of other code are left out; {_TRACEBACK}=1 in the environment shows all."
    say_lines(for_terminal(text, lines=True), err=True)


def _message(text: str) -> str:
    """Return a message for stderr. Its further lines are indented, so that no line break in it begins a message."""
    return "\n  ".join(for_terminal(text, lines=True).rstrip("\n").split("\n"))


_SETTINGS: dict[str, Any] = {
    "name": "raggym",
    "no_args_is_help": True,
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "pretty_exceptions_enable": False,
    "cls": _Group,
}
app = _App(**_SETTINGS)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"raggym-env {installed_version('raggym-env') or '(not installed)'}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Question answering with a search engine as a Markov decision process: environments, policies, leaderboard."""


app.command("envs")(cards.envs)
app.command("policies")(cards.policies)
app.command("rewards")(cards.rewards)
app.command("retrievers")(cards.retrievers)
app.command("play")(play.play)
app.command("eval")(evaluate.evaluate)
app.command("collect")(collect.collect)
app.command("export")(export.export)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("compare")(compare.compare)
app.command("show")(show.show)
app.command("watch")(watch.watch)
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.add_typer(cards.card, name="card")
app.add_typer(data.app, name="data")
app.add_typer(index.app, name="index")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
