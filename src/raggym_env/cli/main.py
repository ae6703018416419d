"""The `raggym` command: its subcommands, and the library's errors as one line without a traceback."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from raggym_env.cli import cards, collect, data, evaluate, export, index, leaderboard, models, play, serve, train
from raggym_env.errors import RAGGymError

__all__ = ["app"]


class _Group(TyperGroup):
    """A command group that prints the library's errors as messages. Bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RAGGymError, OSError) as error:  # OSError: a path that cannot be read or written, a full disk
            print(f"raggym: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            print("raggym: interrupted. Finished work is kept; the same command resumes.", file=sys.stderr)
            raise typer.Exit(130) from None


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
app.add_typer(index.app, name="index")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
