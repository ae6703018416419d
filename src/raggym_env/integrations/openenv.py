"""OpenEnv: an environment behind OpenEnv's own server, and its client. Needs the extra `openenv`.

    raggym serve --openenv RAGGym-Synth-v0

    with RAGClient("http://127.0.0.1:8000").sync() as env:
        result = env.reset(seed=0)
        result = env.step(RAGAction(kind="search", text="Mara Quill"))
        result = env.step(RAGAction(kind="answer", text="Ostby"))
        print(result.reward, result.observation.process_reward, result.done)

Every WebSocket has a session of its own, which ends with it. All share one corpus and index, and their searches and
rewards are batched. The server keeps the limits, the token and the host check of `raggym serve`.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from gymnasium.error import ResetNeeded

from raggym_env.core import Answer, Search
from raggym_env.errors import InvalidReset, MissingExtra, OptionError, RAGGymError
from raggym_env.integrations.serving import Service
from raggym_env.retrieval.server import ServerOptions, is_local, url_of
from raggym_env.retrieval.wire import Limits

try:
    import openenv.core.env_server.http_server as openenv_server
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from openenv.core import EnvClient
    from openenv.core.client_types import StepResult
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, ConcurrencyConfig, EnvironmentMetadata, Observation, State
    from pydantic import Field
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtra("OpenEnv", "openenv") from error

__all__ = [
    "RAGAction",
    "RAGClient",
    "RAGEnvironment",
    "RAGObservation",
    "RAGState",
    "application",
    "check_page",
    "running_openenv",
    "serve_openenv",
]

_TEXT = Limits().query_length


class RAGAction(Action):  # type: ignore[misc]
    """A search or an answer."""

    kind: Literal["search", "answer"] = Field(description="Search for passages, or answer, which ends the episode")
    text: str = Field(min_length=1, max_length=_TEXT, description="The query or the answer")
    draft: str | None = Field(
        default=None,
        min_length=1,
        max_length=_TEXT,
        description="Draft answer of a search; it counts if no searches are left",
    )


class RAGObservation(Observation):  # type: ignore[misc]
    """What an action led to. `reward` is the weighted sum of its two parts; None after a reset."""

    text: str = Field(description="The question after a reset; the new passages after a search")
    searches_left: int = Field(description="Searches that the episode has left")
    outcome_reward: float = Field(default=0.0, description="The answer's score in [0, 1] once the episode has ended")
    process_reward: float = Field(default=0.0, description="The process reward of the action")
    stop_reason: str | None = Field(default=None, description="Why the episode ended: answer or search_budget")


class RAGState(State):  # type: ignore[misc]
    """The episode that runs, without its gold answer."""

    question_id: str | None = Field(default=None, description="The question's id in its data set")
    index: int | None = Field(default=None, description="The question's position in the split")
    searches_left: int = Field(default=0, description="Searches that the episode has left")


class RAGEnvironment(Environment[RAGAction, RAGObservation, RAGState]):  # type: ignore[misc]
    """One session of a service, as OpenEnv's server drives it."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._session = service.session()
        self._episode_id: str | None = None
        self._closed = False

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        *,
        split: str | None = None,
        index: int | None = None,
        **unknown: Any,
    ) -> RAGObservation:
        """Start an episode: on the question at `index` of the split, else on one that the seed draws.

        Raises:
            InvalidReset: An argument is unknown or out of range.
        """
        self._require_open()
        if unknown:
            message = f"reset takes seed, episode_id, split and index, got {sorted(unknown)!s:.200} as well."
            raise InvalidReset(message)
        _require_split(self._service, split)
        if not (episode_id is None or (isinstance(episode_id, str) and len(episode_id) <= 255)):
            raise InvalidReset(f"episode_id must be a text of at most 255 characters, got {episode_id!r:.80}.")
        text = self._session.reset(seed, index)
        self._episode_id = episode_id
        return RAGObservation(text=text, searches_left=self._session.searches_left)

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **arguments: Any
    ) -> RAGObservation:
        """Start an episode like `reset`."""
        return self.reset(seed, episode_id, **arguments)

    def step(self, action: RAGAction, timeout_s: float | None = None, **unknown: Any) -> RAGObservation:
        """Take an action like `step_async`. The web page calls this."""
        self._require_open()
        with self._service.public_errors():
            return self._observation(self._session.step(_action(action)))

    async def step_async(self, action: RAGAction, timeout_s: float | None = None, **unknown: Any) -> RAGObservation:
        """Take an action. How long it may take is an option of the server, whatever `timeout_s` is.

        Raises:
            ResetNeeded: No episode is running.
            RetrievalError: The step failed. The episode is unchanged, so the step may be repeated.
        """
        self._require_open()
        return self._observation(await self._service.step(self._session, _action(action)))

    @property
    def state(self) -> RAGState:
        """The episode that runs."""
        session = self._session
        return RAGState(
            episode_id=self._episode_id,
            step_count=len(session.rewards),
            question_id=session.task.id if session.task else None,
            index=session.row,
            searches_left=session.searches_left,
        )

    def get_metadata(self) -> EnvironmentMetadata:
        """Return what the server says of the environment."""
        name, split = self._service.name, self._service.split
        about = f"Question answering with a search engine; split {split}, a process reward for every action."
        return EnvironmentMetadata(name=name, description=about, version="1")

    def list_splits(self) -> list[str]:
        """Return the one split that is served."""
        return [self._service.split]

    def num_tasks(self, split: str) -> int:
        """Return the number of questions."""
        _require_split(self._service, split)
        return len(self._service.world.tasks)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return the question at a position of the split, without its answer.

        Raises:
            IndexError: There is none.
        """
        if not 0 <= index < self.num_tasks(split):
            raise IndexError(index)
        question = self._service.world.tasks[index].question
        return {"id": question.id, "index": index, "question": question.text, "options": list(question.options)}

    def close(self) -> None:
        """End the session."""
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise ResetNeeded("This session has ended. Connect again.")

    def _observation(self, text: str) -> RAGObservation:
        stop = self._session.state.stop if self._session.state else None
        return RAGObservation(text=text, **self._session.report(), stop_reason=stop.value if stop else None)


def _action(action: RAGAction) -> Search | Answer:
    return Search(action.text, action.draft) if action.kind == "search" else Answer(action.text)


def _require_split(service: Service, split: object) -> None:
    if split is not None and split != service.split:
        raise InvalidReset(f"This server has the split {service.split!r} alone, got {split!r:.80}.")


class RAGClient(EnvClient[RAGAction, RAGObservation, RAGState]):  # type: ignore[misc]
    """A session of a server, over a WebSocket. `sync()` returns a client for code without `await`.

    To a server with a token, pass `headers={"Authorization": "Bearer TOKEN"}`.
    """

    def _step_payload(self, action: RAGAction) -> dict[str, Any]:
        payload: dict[str, Any] = action.model_dump()
        return payload

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[RAGObservation]:
        reward, has_ended = payload.get("reward"), payload.get("done", False)
        fields = {**payload.get("observation", {}), "reward": reward, "done": has_ended}
        return StepResult(RAGObservation.model_validate(fields), reward, has_ended)

    def _parse_state(self, payload: dict[str, Any]) -> RAGState:
        return RAGState(**payload)


def application(service: Service, *, web: bool = False) -> FastAPI:
    """Return OpenEnv's application over a service, without the checks and limits of a server.

    Args:
        service: The world and the options.
        web: Whether it has OpenEnv's page for people at `/web`.
    """
    options = service.options
    timeout = ConcurrencyConfig(max_concurrent_envs=options.sessions, session_timeout=options.idle_seconds)
    # OpenEnv reads from the environment whether it has a page, and Gradio whether it reports its use over the network.
    changes = {"ENABLE_WEB_INTERFACE": str(web).lower(), "GRADIO_ANALYTICS_ENABLED": "False"}
    with _environment(changes):
        app: FastAPI = openenv_server.create_app(
            functools.partial(RAGEnvironment, service),
            RAGAction,
            RAGObservation,
            env_name=service.name,
            concurrency_config=timeout,
            state_cls=RAGState,
            mode="simulation",
        )
    for kind in (RAGGymError, ResetNeeded):
        app.add_exception_handler(kind, _error_reply)
    # Before OpenEnv's own, which does not know when every thread hangs.
    app.router.routes.insert(0, Route("/health", functools.partial(_health, service)))
    return app


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


async def _error_reply(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _health(service: Service, _: Request) -> Response:
    return JSONResponse(*service.health())


def serve_openenv(
    service: Service, listener: socket.socket, *, web: bool = False, ready: Callable[[str], object] = print
) -> None:
    """Serve a service by OpenEnv until SIGTERM or SIGINT, then answer the messages that have arrived and return.

    Args:
        service: The world and the options; it is closed at the end.
        listener: A bound socket; it is closed at the end.
        web: Whether to serve OpenEnv's page for people at `/web`.
        ready: Called with the server's URL once clients can connect.

    Raises:
        OptionError: A page is wanted with a token, or on an address that others can reach.
    """
    make = functools.partial(_checked_application, service, web)
    service.serve(make, listener, ready=lambda: ready(url_of(listener, "")))


@contextmanager
def running_openenv(service: Service, listener: socket.socket | None = None, *, web: bool = False) -> Iterator[str]:
    """Serve a service by OpenEnv in a background thread while the context lasts; yields the server's URL.

    The listener is by default a free port on 127.0.0.1. Errors and arguments are those of `serve_openenv`.
    """
    with service.running(functools.partial(_checked_application, service, web), listener) as listening:
        yield url_of(listening, "")


def check_page(options: ServerOptions, listener: socket.socket) -> None:
    """Check that OpenEnv's page may be served: it has no limits of its own, and a browser has no token to send.

    Raises:
        OptionError: There is a token, or others can reach the address.
    """
    if options.token is not None or not is_local(listener):
        raise OptionError("The page at /web is for this machine: serve it on 127.0.0.1 and without a token.")


def _checked_application(service: Service, web: bool, listener: socket.socket) -> FastAPI:
    if web:
        check_page(service.options.server, listener)
    return application(service, web=web)
