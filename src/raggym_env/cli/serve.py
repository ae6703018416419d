"""`raggym serve`: a search engine over HTTP."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raggym_env.cli._options import Settings, TrustCard, parse_settings
from raggym_env.cli._output import say
from raggym_env.cli._serve_sessions import serve_sessions, serving_kind
from raggym_env.errors import OptionError
from raggym_env.retrieval.wire import TOKEN_ENV, Limits

if TYPE_CHECKING:
    from raggym_env.cards import EnvCard
    from raggym_env.protocols import Retriever
    from raggym_env.retrieval.server import ServerOptions

__all__ = ["serve"]

_LIMITS = Limits()
_MIB = 2**20


def serve(
    context: typer.Context,
    env: Annotated[
        str | None,
        typer.Argument(help="Environment whose corpus and retriever to serve: an id or a card.", show_default=False),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split whose corpus to serve. Default: the card's.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Serve this corpus file (JSON lines) instead.")] = None,
    retriever: Annotated[str | None, typer.Option(help="Retriever to use instead of the card's.")] = None,
    settings: Settings = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than 127.0.0.1 are open to the network.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    topk: Annotated[int, typer.Option(min=1, help="Passages per query if a request does not say.")] = 3,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients must send. Default: $RAGGYM_RETRIEVER_TOKEN, if set."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of queries in one search.")] = 512,
    batch_wait: Annotated[float, typer.Option(min=0, max=1000, help="Milliseconds to wait for more queries.")] = 2.0,
    threads: Annotated[int, typer.Option(min=1, help="Searches at the same time.")] = 1,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the port and the mapped index. More use more cores.")
    ] = 1,
    grace: Annotated[int, typer.Option(min=0, help="Seconds for accepted requests to finish at the end.")] = 60,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further name of this machine in requests, or * for any. May be given several times. Without a token "
            "the server answers only for --host and loopback names, so that no web page can use it."
        ),
    ] = None,
    max_queries: Annotated[int, typer.Option(min=1, help="Queries in one request.")] = _LIMITS.queries,
    max_topk: Annotated[int, typer.Option(min=1, help="Passages per query.")] = _LIMITS.topk,
    max_passages: Annotated[int, typer.Option(min=1, help="Queries times topk in one request.")] = _LIMITS.passages,
    max_answer: Annotated[int, typer.Option(min=1, help="MiB of an answer.")] = _LIMITS.answer // _MIB,
    max_memory: Annotated[int, typer.Option(min=1, help="MiB of all requests and answers together.")] = (
        _LIMITS.memory // _MIB
    ),
    search_timeout: Annotated[float, typer.Option(help="Seconds that a search may take.")] = _LIMITS.search_seconds,
    openenv: Annotated[bool, typer.Option("--openenv", help="Serve the environment's episodes by OpenEnv.")] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve the search engine and the episodes as MCP tools.")] = False,
    stdio: Annotated[bool, typer.Option("--stdio", help="With --mcp: over stdin and stdout, not HTTP.")] = False,
    web: Annotated[bool, typer.Option("--web", help="With --openenv: a page for people, at /web.")] = False,
    sessions: Annotated[int, typer.Option(min=1, help="With --openenv or --mcp: episodes at the same time.")] = 256,
    idle_timeout: Annotated[
        float, typer.Option(min=1, help="With --openenv or --mcp: seconds after which an idle episode is freed.")
    ] = 1800.0,
    trust_card: TrustCard = False,
) -> None:
    """Serve a search engine in the format of Search-R1: POST /retrieve, GET /health, GET /metrics.

    Pass the printed URL to Search-R1, verl or SkyRL; to raggym by --set retrieval.name=http --set
    retrieval.options.url=URL. With --openenv or --mcp, serve an environment's episodes instead. SIGTERM and Ctrl-C end
    the server after it has answered all accepted requests.
    """
    from raggym_env.cards import env_card, override
    from raggym_env.retrieval import server

    kind = serving_kind(context, openenv=openenv, mcp=mcp)
    # The extra, the card, the token and the port are checked first: an index may take hours to build.
    server.check_installed()
    if env is None and corpus is None:
        raise OptionError("Name an environment whose corpus to serve, or pass --corpus FILE.")
    changes = parse_settings(settings)
    if retriever is not None:
        changes["retrieval.name"] = retriever
    card = override(_no_environment() if env is None else env_card(env, trust=trust_card), changes)
    options = server.ServerOptions(
        name=card.retrieval.name,
        default_k=topk,
        token=_token(token_file),
        hosts=(host, *(allow_host or ())),
        limits=server.Limits(
            memory=max_memory * _MIB,
            queries=max_queries,
            topk=max_topk,
            passages=max_passages,
            answer=max_answer * _MIB,
            search_seconds=search_timeout,
        ),
        batching=server.Batching(size=batch_size, wait=batch_wait / 1000, threads=threads),
        grace=grace,
    )
    if kind is not None:
        world = card, split, corpus, topk
        serve_sessions(kind, world, options, host, port, stdio=stdio, web=web, sessions=sessions, idle=idle_timeout)
        return
    with server.bind(host, port) as listener:
        if options.token is None and not server.is_local(listener):
            say(f"Warning: anyone who can reach {host} can search. --token-file requires a token.", err=True)
        source = _Source(card, split, corpus, options)

        def ready(url: str, count: int | None) -> None:
            say(f"Serving {card.retrieval.name} over {count:,} passages at {url}")

        if processes > 1:
            server.serve_processes(source, listener, processes, ready=ready)
        else:
            engine, options = source()
            server.serve(engine, listener, options, ready=lambda url: ready(url, options.passages))


@dataclass(frozen=True)
class _Source:
    """What each process of the server makes its search engine from."""

    card: EnvCard
    split: str | None
    corpus: Path | None
    options: ServerOptions

    def __call__(self) -> tuple[Retriever, ServerOptions]:
        """Return the search engine and the options of its server."""
        from raggym_env.data import load
        from raggym_env.data.prepare import prepare_corpus
        from raggym_env.retrieval import make

        passages = load(self.card, self.split).corpus if self.corpus is None else prepare_corpus(self.corpus)
        retrieval = self.card.retrieval
        return make(retrieval.name, passages, **retrieval.options), replace(self.options, passages=len(passages))


def _no_environment() -> EnvCard:
    """Return the card of a corpus file without an environment: it has the default [retrieval]."""
    from raggym_env.cards import DatasetCard, EnvCard, SourceCard

    sources = (SourceCard(questions=("none",)),)
    dataset = DatasetCard(format="jsonl", sources=sources, splits={"test": "all"})
    return EnvCard(name="corpus", path=Path(), title="A corpus file", dataset=dataset)


def _token(file: Path | None) -> str | None:
    # Never from the command line, which every user of the machine can read.
    if file is None:
        return os.environ.get(TOKEN_ENV) or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise OptionError(f"{file} is not UTF-8 text, so it contains no token.") from error
    if not token:
        raise OptionError(f"{file} contains no token.")
    return token
