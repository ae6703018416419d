"""MCP: the search engine of an environment, and its episodes, as tools of any MCP client. Needs the extra `mcp`.

    raggym serve --mcp RAGGym-Synth-v0           # streamable HTTP on 127.0.0.1, at /mcp
    raggym serve --mcp --stdio RAGGym-Synth-v0   # a process that the client starts

    search(query)              the passages, without an episode
    start_episode(row, seed)   a question, and the episode's name
    search(query, episode)     a step of the episode
    answer(text, episode)      its last step

What a tool returns is a text for the model. For the program that runs the model, its structured content has the reward
with its two parts, the searches left and whether the episode has ended.

No state belongs to a connection: an episode belongs to whoever has its name, which cannot be guessed, and is freed when
it ends or is idle. So clients may connect again, and the server keeps nothing for those that are gone.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

from gymnasium.error import ResetNeeded
from pydantic import Field

from raggym_env.core import Action, Answer, Search
from raggym_env.errors import MissingExtra, RAGGymError
from raggym_env.integrations.serving import Service
from raggym_env.integrations.session import LARGEST_SEED, Session
from raggym_env.retrieval.server import url_of
from raggym_env.retrieval.server.batching import Overloaded
from raggym_env.retrieval.wire import Limits

try:
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp_types import CallToolResult

        _VERSION = 2
    except ImportError:  # the SDK's first version, which OpenEnv's dependencies need
        from mcp.server.fastmcp import FastMCP as MCPServer
        from mcp.server.fastmcp.exceptions import ToolError
        from mcp.types import CallToolResult

        _VERSION = 1
except ImportError as error:
    raise MissingExtra("MCP", "mcp") from error

__all__ = ["mcp_server", "running_mcp", "serve_mcp", "serve_stdio"]

_TEXT = Limits().query_length

_Tool = Callable[..., Awaitable[CallToolResult]]
_Query = Annotated[str, Field(min_length=1, max_length=_TEXT, description="What to search for")]
_Text = Annotated[str, Field(min_length=1, max_length=_TEXT, description="The answer: a name, a date, yes or no")]
_Name = Annotated[str, Field(min_length=1, max_length=64, description="Name of the episode, from start_episode")]
_OptionalName = Annotated[str | None, Field(max_length=64, description="Name of the episode, if one is running")]
_Row = Annotated[int | None, Field(ge=0, le=2**53, description="Position of the question; drawn if left out")]
_Seed = Annotated[int | None, Field(ge=0, le=LARGEST_SEED, description="Seed of the draw")]


class _Tools:
    """The tools, and the episodes that run."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._episodes: dict[str, tuple[Session, float]] = {}  # and when each was last used

    async def search(self, query: _Query, episode: _OptionalName = None) -> CallToolResult:
        """Search for passages. In an episode this is a step, and the number of searches is limited."""
        if episode is not None:
            return await self._step(episode, Search(query))
        return _result(await self._service.lookup(query))

    async def lookup(self, query: _Query) -> CallToolResult:
        """Search for passages."""
        return _result(await self._service.lookup(query))

    async def start_episode(self, row: _Row = None, seed: _Seed = None) -> CallToolResult:
        """Start an episode: returns a question to answer by searching, and the name of the episode."""
        self._free_idle()
        if len(self._episodes) >= self._service.options.sessions:
            raise Overloaded(f"{len(self._episodes):,} episodes are running. End one or try again later.")
        session, name = self._service.session(), secrets.token_urlsafe(12)
        text = session.reset(seed, row)
        self._episodes[name] = session, time.monotonic()
        return _result(f"Episode: {name}\n{text}", {"episode": name, **session.report()})

    async def answer(self, text: _Text, episode: _Name) -> CallToolResult:
        """Answer the question of an episode, which ends it."""
        return await self._step(episode, Answer(text))

    async def _step(self, name: str, action: Action) -> CallToolResult:
        self._free_idle()
        if name not in self._episodes:
            raise ResetNeeded(f"No episode named {name!r:.80} is running. Call start_episode.")
        session, _ = self._episodes[name]
        self._episodes[name] = session, time.monotonic()
        text = await self._service.step(session, action)
        if session.done:
            self._episodes.pop(name, None)
        return _result(text, {"episode": name, **session.report()})

    def _free_idle(self) -> None:
        latest = time.monotonic() - self._service.options.idle_seconds
        for name in [name for name, (_, used) in self._episodes.items() if used < latest]:
            del self._episodes[name]


def _result(text: str, step: dict[str, Any] | None = None) -> CallToolResult:
    content = {"content": [{"type": "text", "text": text}]}
    return CallToolResult.model_validate(content | ({"structuredContent": step} if step else {}))


def mcp_server(service: Service) -> Any:
    """Return the SDK's server with the tools over a service: all three, or `search` alone if it has no tasks."""
    server = MCPServer(service.name, instructions=f"Searches the corpus of {service.name}.", log_level="WARNING")
    tools = _Tools(service)
    offered: dict[str, _Tool] = {"search": tools.lookup}
    if service.split:
        offered = {"search": tools.search, "start_episode": tools.start_episode, "answer": tools.answer}
    for name, tool in offered.items():
        server.add_tool(_with_tool_errors(tool), name=name, structured_output=False)

    @server.custom_route("/health", methods=["GET"])  # type: ignore[untyped-decorator]
    async def health(_: Request) -> Response:
        return JSONResponse(*service.health())

    return server


def _with_tool_errors(tool: _Tool) -> _Tool:
    @functools.wraps(tool)
    async def call(**arguments: Any) -> CallToolResult:
        try:
            return await tool(**arguments)
        except (RAGGymError, ResetNeeded) as error:  # the SDK shows the model the messages of its own errors alone
            raise ToolError(str(error)) from error

    return call


def serve_mcp(service: Service, listener: socket.socket, *, ready: Callable[[str], object] = print) -> None:
    """Serve a service by MCP's streamable HTTP at /mcp until SIGTERM or SIGINT, then answer the accepted requests.

    Args:
        service: The world and the options; it is closed at the end.
        listener: A bound socket; it is closed at the end.
        ready: Called with the URL once clients can connect.
    """
    make = functools.partial(_http_app, service)
    service.serve(make, listener, ready=lambda: ready(url_of(listener, "/mcp")))


@contextmanager
def running_mcp(service: Service, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve a service by MCP in a background thread while the context lasts; yields the URL.

    The listener is by default a free port on 127.0.0.1. Arguments are those of `serve_mcp`.
    """
    with service.running(functools.partial(_http_app, service), listener) as listening:
        yield url_of(listening, "/mcp")


def serve_stdio(service: Service) -> None:
    """Serve a service by MCP over stdin and stdout until stdin ends; the service is closed then."""
    with closing(service):
        asyncio.run(mcp_server(service).run_stdio_async())


def _http_app(service: Service, _: socket.socket) -> Any:
    server = mcp_server(service)
    options = {
        "json_response": True,
        "stateless_http": True,  # episodes have names, so nothing belongs to a connection
        # The gate checks hosts and origins, also those that the user has added.
        "transport_security": TransportSecuritySettings(enable_dns_rebinding_protection=False),
    }
    if _VERSION == 2:
        return server.streamable_http_app(**options)
    for name, value in options.items():
        setattr(server.settings, name, value)
    return server.streamable_http_app()
