"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI and others.

How failures are handled:

    no connection, time-out, 408, 409, 425, 429, 5xx, a reply    retried, after longer and longer pauses and never
    that is not a chat completion                                 before `Retry-After`; then that prompt fails
    400, 413, 422 (context too long, bad option), no content,    that prompt fails, at once
    content filter
    400, 405, 413, 415, 422 before the first reply               a very short prompt is sent in the same form: if it is
                                                                 answered, the first one fails alone, as above
    401, 402, 404; 403, a redirect and no connection before      `LLMError`: no prompt could work
    the first reply; quota used up; the short prompt is refused

So a server that dies in the middle of a run costs the episodes that needed it, and a wrong key, URL or model name ends
the run. A server that does not keep up gets fewer requests at a time: see `Window`. The key is read from the
environment, checked when the model is made, goes only to the URL that was named, and is removed from error messages.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import warnings
import weakref
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, Literal, TypeVar

from raggym_env.core import Usage
from raggym_env.errors import LLMError
from raggym_env.llm.openai.advice import advice, explanation
from raggym_env.llm.openai.replies import Reply, Trouble, clean, read_error, read_reply
from raggym_env.llm.openai.server import Server, Window, split_name
from raggym_env.network.clients import CONNECT_TIMEOUT_S, AsyncClient, RequestFailed, Response
from raggym_env.protocols import Completion, Messages, Sampling
from raggym_env.storage.parsing import ParseError, parse_json

__all__ = ["OpenAIModel", "Server", "connect"]

_LONGEST_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = 120.0
_BUSY = (408, 409, 425, 429)
_PROBE = "Answer with one word: yes."

_T = TypeVar("_T")


class OpenAIModel:
    """A model behind a server: the `LLM` protocol. Make one with `connect`.

    Requests run concurrently on an event loop in this object's own thread, so `generate` can be called from any thread
    and from inside a running event loop. It may be pickled and forked; connections are not shared.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.server.model!r}, {self.server.url!r})"

    def __reduce__(self) -> tuple[type[OpenAIModel], tuple[Server]]:
        return OpenAIModel, (self.server,)

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Complete every prompt `params.n` times.

        With temperature 0 one completion is requested and returned `n` times. `seed` is sent as `params.seed + i` in
        a request for the i-th completion alone, and as `params.seed` in one for all. Fields at the API's own
        defaults (`top_p` 1, no `stop`, `n` 1) are not sent.

        The first completion of a request carries its usage: `calls` counts attempts, `seconds` the time under way
        without pauses. If a server reports no token usage, there is one warning, and its tokens count as 0.

        Raises:
            LLMError: No prompt could work: see the module's table.
        """
        with self._lock:
            # After a fork, the session is there but its thread is not.
            if self._session is None or not self._session.thread.is_alive():
                self._session = _Session(self.server)
                weakref.finalize(self, self._session.close)
            session = self._session
        completions = session.run(_gather(session.complete(prompt, params) for prompt in prompts))
        if session.usage_missing and not session.usage_warned:
            session.usage_warned = True
            warnings.warn(f"{self!r} reports no token usage: tokens are counted as 0.", stacklevel=2)
        return completions

    def close(self) -> None:
        """Close the connections. The next `generate` opens new ones."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None


def connect(
    name: str,
    *,
    concurrency: int = 16,
    timeout: float = 300.0,
    retries: int = 5,
    backoff: float = 0.5,
    extra_body: Mapping[str, Any] | None = None,
    omit: Sequence[str] = (),
    key_env: str | None = "OPENAI_API_KEY",
    n_supported: bool | Literal["auto"] = "auto",
    system_role: bool = True,
    max_bytes: int = 32 << 20,
) -> OpenAIModel:
    """Return the model named `MODEL@URL`, or `MODEL` alone at `$OPENAI_BASE_URL` or else at OpenAI. Sends nothing yet.

    The options are those of `Server`. The key in `$OPENAI_API_KEY` is sent to whatever URL is named; pass another
    `key_env` to prevent that.

    Raises:
        OptionError: The name or an option is out of range.
        LLMError: OpenAI's own endpoint is named, and there is no key; or the key has characters that no key has.
    """
    model, url = split_name(name)
    return OpenAIModel(
        Server(
            model,
            url,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            extra_body=dict(extra_body or {}),
            omit=tuple(omit),
            key_env=key_env,
            n_supported=n_supported,
            system_role=system_role,
            max_bytes=max_bytes,
        )
    )


class _Session:
    """An event loop in its own thread, one HTTP client on it, and what was learned about the server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.window = Window(server.concurrency, server.timeout)
        self.one_request = server.n_supported is not False
        self.answered = False
        self.usage_missing = self.usage_warned = False
        self.random = random.Random()  # not the module's, whose draws belong to the caller
        self.probing = asyncio.Lock()
        self.key = server.key()
        problem = None
        try:
            # Not OpenAI's client library: its retries hold a slot while they wait and give up on malformed replies.
            self.client = AsyncClient(
                server.url, self.key, timeout=server.timeout, connections=server.concurrency, max_bytes=server.max_bytes
            )
        except RequestFailed as error:
            problem = f"Cannot connect to {server.url}: {error}."
        if problem:
            raise LLMError(problem)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="raggym-openai", daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the loop, from another thread, and return its result."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except CancelledError:
            raise LLMError(f"The model at {self.server.url} was closed while a request was under way.") from None
        finally:
            future.cancel()  # on Ctrl-C, no request stays under way unseen

    def close(self) -> None:
        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(CONNECT_TIMEOUT_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.aclose()

    async def complete(self, prompt: Messages, params: Sampling) -> list[Completion]:
        """Complete one prompt; see `OpenAIModel.generate`."""
        if params.temperature == 0:
            # The n completions would be alike, so one is paid for.
            only = await self._sample(prompt, params, 0)
            return [only] + [replace(only, usage=Usage())] * (params.n - 1)
        if params.n == 1 or not self.one_request:
            return await self._samples(prompt, params, 0)
        return await self._samples_together(prompt, params)

    async def _sample(self, prompt: Messages, params: Sampling, i: int) -> Completion:
        """Request the i-th completion alone."""
        reply, usage = await self._request(self._body(prompt, replace(params, n=1, seed=params.seed + i)), params)
        if isinstance(reply, Trouble):
            return _failed(reply, usage)
        return replace(reply.completions[0], usage=usage)

    async def _samples(self, prompt: Messages, params: Sampling, first: int) -> list[Completion]:
        """Request the completions from number `first` on, each in a request of its own."""
        return await _gather(self._sample(prompt, params, i) for i in range(first, params.n))

    async def _samples_together(self, prompt: Messages, params: Sampling) -> list[Completion]:
        """Request all `n` completions at once, and those that the server does not return that way one by one."""
        reply, usage = await self._request(self._body(prompt, params), params)
        if isinstance(reply, Reply):
            completions = _charge(reply.completions[: params.n], usage)
            if len(completions) < params.n:
                # The server ignores `n`, so it gets no `n` again, unless the user declared that it supports it.
                self.one_request = self.server.n_supported is True
                completions += await self._samples(prompt, params, len(completions))
            return completions
        failures = _charge([_failed(reply, Usage())] * params.n, usage)
        if self.server.n_supported != "auto" or reply.status not in (400, 422):
            return failures
        # The server refuses either `n` or the prompt; a request without `n` tells which.
        first = await self._sample(prompt, params, 0)
        if first.failure is not None:
            return failures
        self.one_request = False
        return [replace(first, usage=first.usage + usage), *await self._samples(prompt, params, 1)]

    def _body(self, prompt: Messages, params: Sampling) -> dict[str, Any]:
        # OpenAI's newer models refuse `max_tokens`, and most other servers do not know its successor.
        limit = "max_completion_tokens" if self.server.official else "max_tokens"
        optional = {
            "n": params.n if params.n > 1 else None,
            "top_p": params.top_p if params.top_p < 1 else None,
            "stop": list(params.stop) or None,
            "seed": params.seed if params.temperature > 0 else None,
        }
        body = {
            "model": self.server.model,
            "messages": [
                {name: clean(text) for name, text in message.items()}
                for message in (prompt if self.server.system_role else _without_system(prompt))
            ],
            "temperature": params.temperature,
            limit: params.max_tokens,
            **{name: value for name, value in optional.items() if value is not None},
            **self.server.extra_body,
        }
        return {name: value for name, value in body.items() if name not in self.server.omit}

    async def _request(
        self, body: Mapping[str, Any], params: Sampling, *, probe: bool = False
    ) -> tuple[Reply | Trouble, Usage]:
        """Attempt a request until there is a reply or no point in trying again. The usage is that of all attempts."""
        usage, attempts = Usage(), 0
        while True:
            attempts += 1
            async with self.window:
                started = time.perf_counter()
                reply = await self._attempt(body, params)
                seconds = time.perf_counter() - started
                self.window.learn(seconds, replied=isinstance(reply, Reply))
            usage += Usage(calls=1, seconds=seconds)
            if isinstance(reply, Reply):
                self.answered = True
                self.usage_missing |= reply.usage is None
                return reply, usage + (reply.usage or Usage())
            message = reply.message[:500] + (f", after {attempts} tries" if attempts > 1 else "")
            last = not reply.retry or attempts > self.server.retries or reply.pause > _LONGEST_RETRY_AFTER
            # A refused connection is fatal only at the last attempt: the server may still be starting.
            if reply.fatal and (last or reply.status is not None):
                raise LLMError(await self._explain(reply.status, message))
            # A refusal that may be due to `n` tells more once the request is sent again without it.
            due_to_n = "n" in body and self.server.n_supported == "auto" and reply.status in (400, 422)
            if last and _refused(reply) and not (probe or self.answered or due_to_n):
                reply, probe_usage = await self._refused_alone(body, reply, message, params)
                usage += probe_usage
            if last:
                return replace(reply, message=f"{self.server.url}: {message}"), usage
            backoff = min(self.server.backoff * 2.0 ** (attempts - 1), _LONGEST_BACKOFF)
            # Random, so that requests that failed together do not all come back together.
            await asyncio.sleep(reply.pause + backoff * self.random.uniform(0.5, 1.0))

    async def _refused_alone(
        self, body: Mapping[str, Any], reply: Trouble, message: str, params: Sampling
    ) -> tuple[Trouble, Usage]:
        """Return the trouble of a prompt that was refused before any was answered, if others are not.

        Raises:
            LLMError: The server refuses a short prompt with the same fields and roles too, so it would refuse all.
        """
        async with self.probing:  # one probe serves all the prompts that wait here
            if self.answered:
                return reply, Usage()
            turns = [{**turn, "content": _PROBE} for turn in body["messages"]]
            answer, usage = await self._request({**body, "messages": turns}, params, probe=True)
            if isinstance(answer, Trouble):
                if _refused(answer):
                    raise LLMError(
                        f"{self.server.url} refuses every request ({message}). {advice(self.server, message, body)}."
                    )
                # Whether the prompt or the server is to blame cannot be told, so the prompt may be tried again.
                reply = replace(reply, retry=True)
            return reply, usage

    async def _attempt(self, body: Mapping[str, Any], params: Sampling) -> Reply | Trouble:
        """Send a request once, under one deadline for connecting, sending and reading."""
        try:
            # In ASCII: UTF-8 cannot hold a lone surrogate of `extra_body`.
            response = await self.client.send("POST", "chat/completions", json.dumps(body).encode())
        except RequestFailed as error:
            kind, reason = error.kind, str(error)
        else:
            return self._read(response, params)
        if kind in ("unreachable", "broken"):
            fatal = kind == "unreachable" and not self.answered
            return Trouble(f"the connection failed ({reason})", retry=True, fatal=fatal)
        return Trouble(reason, retry=True)

    def _read(self, response: Response, params: Sampling) -> Reply | Trouble:
        if 200 <= response.status < 300:
            reply = read_reply(self.key.masked_reply(response.text), params.stop)
            if isinstance(reply, Trouble) or any(completion.failure for completion in reply.completions):
                # Read again, since a message may quote a part that begins or ends within the key.
                reply = read_reply(self.key.masked(response.text), params.stop)
            return reply
        headers = {name: self.key.masked(value) for name, value in response.headers.items()}
        return read_error(response.status, headers, self.key.masked(response.text), answered=self.answered)

    async def _explain(self, status: int | None, message: str) -> str:
        models = await self._served_models() if status == 404 else ""
        return explanation(self.server, status, message, key_sent=bool(self.key), models=models)

    async def _served_models(self) -> str:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                response = await self.client.send("GET", "models")
            listed = parse_json(self.key.masked(response.text))["data"]
            return ", ".join(sorted(str(model["id"])[:100] for model in listed)[:20])
        except (RequestFailed, TimeoutError, ParseError, LookupError, TypeError):
            return ""  # the list is a hint only


def _refused(reply: Trouble) -> bool:
    """True if the server refused the request itself, and would refuse it again."""
    return reply.status is not None and 400 <= reply.status < 500 and reply.status not in _BUSY


def _failed(reply: Trouble, usage: Usage) -> Completion:
    # Of what is not retried, only a refused request is the prompt's own fault.
    return Completion("", usage=usage, failure=reply.message, outage=reply.retry or not _refused(reply))


def _without_system(prompt: Messages) -> list[Mapping[str, str]]:
    """Return the prompt with its system messages at the start of the user's next."""
    turns: list[Mapping[str, str]] = []
    system = ""
    for turn in [*prompt, {"role": "", "content": ""}]:
        if turn["role"] == "system":
            system += turn["content"] + "\n\n"
        elif system and turn["role"] == "user":
            turns.append({**turn, "content": system + turn["content"]})
            system = ""
        else:
            turns += [{"role": "user", "content": system.rstrip()}] * bool(system) + [turn]
            system = ""
    return turns[:-1]


async def _gather(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return the results in order. If one raises, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # Until they have closed their connections.
        await asyncio.gather(*tasks, return_exceptions=True)


def _charge(completions: Sequence[Completion], usage: Usage) -> list[Completion]:
    """Return the completions of one request, the first of which carries its usage."""
    return [replace(completions[0], usage=usage), *completions[1:]]
