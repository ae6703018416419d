"""`raggym play`: a person answers, in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["play"]

HELP = "Type a query to search, or =ANSWER to answer (Ctrl-D leaves)."


def play(
    env: Annotated[str, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.")],
    split: Annotated[str | None, typer.Option(help="Split. Default: the card's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed that picks the question.")] = None,
    index: Annotated[int | None, typer.Option(help="Take this question instead.")] = None,
) -> None:
    """Answer a question yourself, with the search engine an agent would have."""
    from raggym_env.core import Answer, Search
    from raggym_env.envs.registration import make_env

    environment = make_env(env, split=split, render_mode="human")
    environment.reset(seed=seed, options=None if index is None else {"index": index})
    typer.echo(HELP)
    over = False
    while not over:
        try:
            line = input("> ").strip()
        except EOFError:
            typer.echo("")
            return
        if not line.removeprefix("=").strip():
            typer.echo(HELP)
            continue
        action = Answer(line[1:].strip()) if line.startswith("=") else Search(line)
        _, _, terminated, truncated, _ = environment.step(action)
        over = terminated or truncated
    assert environment.task is not None  # noqa: S101  # an episode has just ended
    typer.echo(f"The answer was: {' / '.join(environment.task.answers)}")
