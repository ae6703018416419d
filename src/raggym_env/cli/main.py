"""The `raggym` command: its subcommands, and the library's errors as one line without a traceback."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from raggym_env.cli import cards, collect, data, evaluate, export, leaderboard, models, play, serve, train
from raggym_env.cli._signals import exit_code, signals_raised
from raggym_env.errors import RAGGymError

__all__ = ["app"]


class _Group(TyperGroup):
    """A command group that prints the library's errors as messages. Bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with signals_raised():
                return super().invoke(ctx)
        except (RAGGymError, OSError) as error:  # OSError: a path that cannot be read or written, a full disk
            print(f"raggym: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            message = "raggym: interrupted. Finished work is kept; the same command resumes."
            with suppress(OSError):  # after SIGHUP the terminal may be gone
                print(" ".join([message, *getattr(error, "__notes__", ())]), file=sys.stderr, flush=True)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    name="raggym",
    help="Question answering with a search engine as a Markov decision process: environments, policies, leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=_Group,
)
app.command("envs")(cards.envs)
app.command("policies")(cards.policies)
app.command("play")(play.play)
app.command("eval")(evaluate.evaluate)
app.command("collect")(collect.collect)
app.command("export")(export.export)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("serve")(serve.serve)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
