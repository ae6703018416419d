"""What the servers of sessions share: one world, one batcher, and errors that tell a client nothing of the machine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gymnasium.error import ResetNeeded

from raggym_env.core import Action, Question, Search, State, as_action
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, InvalidReset, RetrievalError, check_option
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.session import Session
from raggym_env.protocols import search
from raggym_env.retrieval.server import bind, running_app, serve_app
from raggym_env.retrieval.server.batching import Overloaded, SearchTimeout, description
from raggym_env.retrieval.server.hosts import AllowedHosts
from raggym_env.retrieval.server.options import ServerOptions
from raggym_env.text.untrusted import passage_lines

if TYPE_CHECKING:
    from raggym_env.retrieval.server.gate import Gate

__all__ = ["Service", "ServiceOptions"]

_logger = logging.getLogger(__name__)

# The longest query, with every character escaped, and more.
_MESSAGE_BYTES = 256 * 1024

# Errors whose messages are about what the client sent, or about the server's load.
_PUBLIC = (InvalidAction, InvalidReset, ResetNeeded, Overloaded, SearchTimeout)
_MORE_SOCKETS = 16  # so that a client that comes too late is told of the number of sessions, by the framework


@dataclass(frozen=True)
class ServiceOptions:
    """How sessions are served.

    Raises:
        OptionError: An option is out of range.
    """

    server: ServerOptions = field(default_factory=ServerOptions)
    """Token, hosts, limits of requests and batching. A step is a request."""
    sessions: int = 256
    """Sessions at the same time."""
    idle_seconds: float = 1800.0
    """Seconds without a message after which a session is freed."""
    passage_chars: int = 600
    """Characters shown of each passage."""

    def __post_init__(self) -> None:
        for name, least in (("sessions", 1), ("idle_seconds", 0.001), ("passage_chars", 1)):
            value = getattr(self, name)
            check_option(name, value, least <= value <= 10**9, f"from {least} to {10**9:,}")


class Service:
    """One world for all sessions of a server, with the batcher of their steps. Close it at the end.

    Args:
        world: The tasks, the transition and the rewards.
        name: The environment's name.
        split: The split of the tasks.
        options: How sessions are served.

    Raises:
        RetrievalError: A first search fails.
    """

    def __init__(self, world: Episodes, name: str, split: str, options: ServiceOptions | None = None) -> None:
        self.world = world
        self.name = name
        self.split = split
        self.options = options or ServiceOptions()
        self.seconds = self.options.server.limits.search_seconds
        # Loads what is loaded on demand, and fails before clients can connect. Several queries, since `bm25` loads its
        # kernel only for batches.
        search(world.dynamics.retriever, ["warm up"] * 16, world.dynamics.k)
        self.batcher = StepBatcher(world, self.options.server.batching, seconds=self.seconds)

    def session(self) -> Session:
        """Return a new session."""
        chars = self.options.passage_chars
        return Session(self.world, batcher=self.batcher, passage_chars=chars, seconds=self.seconds)

    async def step(self, session: Session, action: Action) -> str:
        """Take an action for a client: as `Session.step_async`, with errors that a client may read."""
        with self.public_errors():
            return await session.step_async(action)

    async def lookup(self, query: str) -> str:
        """Search for a client without an episode, and return the passages as text, one line each."""
        with self.public_errors():
            # A question of its own, with one search.
            future = self.batcher.submit(None, State(Question("", query), (), 1), as_action(Search(query)))
            try:
                outcome = await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
            except TimeoutError as error:
                raise SearchTimeout(f"The search took longer than {self.seconds:g} s.") from error
        return "\n".join(passage_lines(outcome.state.history[-1].passages, self.options.passage_chars)) or "nothing"

    def health(self) -> tuple[dict[str, str], int]:
        """Return the content and the status of the reply to a request for /health: 503 while every thread hangs."""
        return ({"status": "healthy"}, 200) if self.batcher.healthy else ({"status": "unhealthy"}, 503)

    @contextmanager
    def public_errors(self) -> Iterator[None]:
        """Replace an error whose message may hold paths or secrets by one that names its entry in the log."""
        try:
            yield
        except _PUBLIC:
            raise
        except Exception as error:  # noqa: BLE001  # also bugs of a plug-in, whose messages are as private
            name = secrets.token_hex(4)
            _logger.warning("The step %s failed. %s", name, description(error))
            message = f"The step failed and the episode is unchanged. The server's log says why, at {name}."
            raise RetrievalError(message) from None

    def serve(
        self, make_app: Callable[[socket.socket], Any], listener: socket.socket, *, ready: Callable[[], object]
    ) -> None:
        """Serve an ASGI application until SIGTERM or SIGINT, then answer the messages that have arrived and return.

        Args:
            make_app: Returns the application for the socket. It is put behind the checks and limits of a server.
            listener: A bound socket. It and this service are closed at the end.
            ready: Called once clients can connect.
        """
        with listener, closing(self):
            gate = self._gate(make_app(listener), listener)
            serve_app(gate, listener, ready=ready, **self._settings(gate))

    @contextmanager
    def running(
        self, make_app: Callable[[socket.socket], Any], listener: socket.socket | None
    ) -> Iterator[socket.socket]:
        """Serve an ASGI application in a background thread while the context lasts; yields the socket.

        Arguments are those of `serve`; the listener is by default a free port on 127.0.0.1.
        """
        with listener or bind(port=0) as listening, closing(self):
            gate = self._gate(make_app(listening), listening)
            with running_app(gate, listening, **self._settings(gate)):
                yield listening

    def _gate(self, app: Any, listener: socket.socket) -> Gate:
        from raggym_env.retrieval.server.gate import Access, Gate  # imports Starlette

        server = self.options.server
        hosts = None if server.token else AllowedHosts(listener.getsockname()[0], server.hosts)
        sockets, idle_seconds = self.options.sessions + _MORE_SOCKETS, self.options.idle_seconds
        return Gate(app, Access(server.token, hosts), server.limits, sockets=sockets, idle_seconds=idle_seconds)

    def _settings(self, gate: Gate) -> dict[str, Any]:
        return {"grace": self.options.server.grace, "message_bytes": _MESSAGE_BYTES, "drain": gate.drain}

    def close(self) -> None:
        """End the threads of the batcher."""
        self.batcher.close()
