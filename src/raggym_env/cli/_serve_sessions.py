"""`raggym serve --openenv` and `--mcp`: the episodes of an environment for clients of other frameworks."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from raggym_env.cli._options import refuse_unused
from raggym_env.cli._output import say
from raggym_env.errors import OptionError

if TYPE_CHECKING:
    from raggym_env.cards import EnvCard
    from raggym_env.retrieval.server import ServerOptions

__all__ = ["serve_sessions", "serving_kind"]

# Options that one kind of server has and another ignores would do nothing, so they are refused.
_RETRIEVAL_ONLY = ("max_queries", "max_topk", "max_passages", "max_answer", "processes")
_SESSIONS_ONLY = ("sessions", "idle_timeout")


def serving_kind(context: typer.Context, *, openenv: bool, mcp: bool) -> str | None:
    """Return the framework whose clients are served, "openenv" or "mcp"; None for Search-R1's.

    Raises:
        OptionError: Options do not fit together.
        MissingExtra: The framework is not installed.
    """
    if openenv and mcp:
        raise OptionError("Pass --openenv or --mcp. To serve both, run two servers on different ports.")
    kind = "openenv" if openenv else "mcp" if mcp else None
    unused = {
        None: (*_SESSIONS_ONLY, "stdio", "web"),
        "openenv": (*_RETRIEVAL_ONLY, "stdio", "topk", "corpus"),
        "mcp": (*_RETRIEVAL_ONLY, "web"),
    }
    refuse_unused(context, unused[kind], f"with --{kind}" if kind else "without --openenv or --mcp")
    if kind is not None:
        importlib.import_module(f"raggym_env.integrations.{kind}")  # before an index is built, which may take hours
    return kind


def serve_sessions(
    kind: str,
    source: tuple[EnvCard, str | None, Path | None, int],
    server: ServerOptions,
    host: str,
    port: int,
    *,
    stdio: bool,
    web: bool,
    sessions: int,
    idle: float,
) -> None:
    """Serve a card's episodes, or the searches of a corpus file, to the clients of a framework.

    Args:
        kind: "openenv" or "mcp".
        source: The card, the split, the corpus file and the number of passages per search in it.
        server: Token, hosts, limits and batching.
        host: Address to listen on.
        port: Port to listen on.
        stdio: Whether MCP uses stdin and stdout.
        web: Whether OpenEnv serves its page.
        sessions: Episodes at the same time.
        idle: Seconds after which an idle one is freed.
    """
    from raggym_env.integrations.serving import Service, ServiceOptions
    from raggym_env.retrieval.server import bind, is_local

    framework: Any = importlib.import_module(f"raggym_env.integrations.{kind}")
    options = ServiceOptions(server, sessions=sessions, idle_seconds=idle)
    if stdio:
        with contextlib.redirect_stdout(sys.stderr):  # a class of the user's that prints would break the protocol
            service = Service(*_world(*source), options)
        framework.serve_stdio(service)
        return
    with bind(host, port) as listener:
        if web:
            framework.check_page(server, listener)
        if server.token is None and not is_local(listener):
            say(f"Warning: anyone who can reach {host} can use this server. --token-file requires a token.", err=True)
        service = Service(*_world(*source), options)
        count = f"{len(service.world.tasks):,} questions of {service.name}" if service.split else service.name
        if kind == "openenv":
            framework.serve_openenv(service, listener, web=web, ready=lambda url: say(f"Serving {count} at {url}"))
        else:
            framework.serve_mcp(service, listener, ready=lambda url: say(f"Serving {count} at {url}"))


def _world(card: EnvCard, split: str | None, corpus: Path | None, topk: int) -> tuple[Any, str, str]:
    """Return the world, its name and its split; of a corpus file, a world without tasks and no split."""
    from raggym_env.core import Question, Task
    from raggym_env.data.dataset import split_name
    from raggym_env.data.prepare import prepare_corpus
    from raggym_env.envs.episodes import Episodes
    from raggym_env.integrations.session import load_world
    from raggym_env.mdp.dynamics import Dynamics
    from raggym_env.retrieval import make
    from raggym_env.retrieval.cache import CachedRetriever

    if corpus is None:
        return load_world(card, split), card.name, split_name(card, split)
    retriever = CachedRetriever(make(card.retrieval.name, prepare_corpus(corpus), **card.retrieval.options))
    return Episodes([Task(Question("", ""), ())], Dynamics(retriever, k=topk)), "corpus", ""
