"""`raggym play`: answer a question yourself, in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from raggym_env.cli._options import Env, TrustCard
from raggym_env.cli._output import say
from raggym_env.cli._signals import exit_code

__all__ = ["play"]

HELP = "Type a query to search, or =ANSWER to answer. `help` shows this again, `quit` or Ctrl-D ends."


def play(
    env: Env,
    split: Annotated[str | None, typer.Option(help="Split. Default: the card's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed that picks the question.")] = None,
    index: Annotated[int | None, typer.Option(help="Index of the question, instead of a random one.")] = None,
    trust_card: TrustCard = False,
) -> None:
    """Answer a question yourself, with the search engine that agents use."""
    from raggym_env.core import Answer, Search
    from raggym_env.envs.registration import make_env

    environment = make_env(env, split=split, render_mode="human", trust=trust_card)
    environment.reset(seed=seed, options=None if index is None else {"index": index})
    say(HELP)
    ended = False
    while not ended:
        try:
            line = input("> ").strip()
        except EOFError:
            say("")
            return
        except KeyboardInterrupt as error:
            say("")
            say("Stopped. Nothing was recorded.")
            raise typer.Exit(exit_code(error)) from None
        if line == "quit":
            return
        # An empty query or answer is most likely a slip of the Enter key, so it costs no step.
        if line == "help" or not line.removeprefix("=").strip():
            say(HELP)
            continue
        action = Answer(line[1:].strip()) if line.startswith("=") else Search(line)
        _, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated
    # The gold answer is shown to a person, after the end.
    assert environment.task is not None  # noqa: S101  # an episode has just ended
    say(f"The answer was: {' / '.join(environment.task.answers)}")
