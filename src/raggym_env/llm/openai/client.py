"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI and others.

What goes wrong, and what then happens:

    no connection, time-out, 408, 409, 425, 429, 5xx, a reply    tried again, later each time and never before
    that is no chat completion                                   `Retry-After`; then a failure of that prompt
    400, 413, 422 (context too long, bad option), no content,    a failure of that prompt, at once
    content filter
    401, 402, 404, 403 and no connection before the first        `LLMError`: no prompt could work
    answer, quota used up

So a server that dies in the middle of a run costs the episodes it was needed for, and a wrong key, URL or model
name ends the run. One that does not keep up is asked for less at a time: see `_server.Window`. The key is read from
the environment when the first request is sent, kept nowhere else, and taken out of what a server says.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, Literal, TypeVar

from raggym_env.core import Usage
from raggym_env.errors import LLMError, MissingExtra
from raggym_env.llm.openai.replies import Reply, Trouble, clean, read_reply, said
from raggym_env.llm.openai.server import Server, Window, split_name
from raggym_env.network import retry_after
from raggym_env.protocols import Completion, Messages, Sampling

__all__ = ["OpenAIModel", "Server", "connect"]

_CONNECT_SECONDS = 10.0
_LONGEST_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = 120.0
_SHORTEST_KEY = 8
_NO_KEY = "no-key-given"  # the client demands some text, and a local server ignores it

_T = TypeVar("_T")


class OpenAIModel:
    """A model behind a server: the `LLM` protocol. Make one with `connect`.

    Requests run concurrently on an event loop in a thread of this object's own, so `generate` can be called from
    any thread and from inside a running event loop. It may be pickled and forked; connections are not shared.
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

        With temperature 0 one completion is asked for and given `n` times. `seed` is sent as `params.seed + i` in
        a request for the i-th completion alone, and as `params.seed` in one for all. Fields at the API's own
        defaults (`top_p` 1, no `stop`, `n` 1) are not sent.

        Returns:
            One list per prompt of `params.n` completions. The first of those that one request gave has its whole
            usage: `calls` are the tries, `seconds` the time under way without waiting. A server that reports no
            tokens is warned of once and counts 0.

        Raises:
            LLMError: No prompt could work: see the module's table.
        """
        session = self._connected()
        completions = session.run(session.complete(prompts, params))
        if session.warn_of_usage():
            warnings.warn(f"{self!r} reports no token usage: tokens are counted as 0.", stacklevel=2)
        return completions

    def close(self) -> None:
        """Close the connections. The next `generate` opens new ones."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    def _connected(self) -> _Session:
        with self._lock:
            if self._session is None or not self._session.alive:  # after a fork it is not
                self._session = _Session(self.server)
                weakref.finalize(self, self._session.close)
            return self._session


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
) -> OpenAIModel:
    """A model by `MODEL@URL`, or `MODEL` alone at `$OPENAI_BASE_URL` or else at OpenAI. Sends nothing yet.

    The options are `Server`'s. The key in `$OPENAI_API_KEY` is sent to whatever URL is named; give another
    `key_env` where that is not wanted.

    Raises:
        LLMError: The name or an option cannot be right, or OpenAI's own endpoint is named and there is no key.
        MissingExtra: The `openai` package is not installed.
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise MissingExtra("The 'openai' back end", "openai") from error
    model, url = split_name(name)
    return OpenAIModel(
        Server(
            model,
            url,
            concurrency,
            timeout,
            retries,
            backoff,
            dict(extra_body or {}),
            tuple(omit),
            key_env,
            n_supported,
        )
    )


class _Session:
    """An event loop in its own thread, with one client on it and what has been learnt about the server."""

    def __init__(self, server: Server) -> None:
        import openai

        self.server = server
        self.window = Window(server.concurrency, server.timeout)
        self.one_request = server.n_supported is not False
        self.answered = False
        self.usage_missing = self.usage_warned = False
        self.random = random.Random()  # not the shared one, whose draws are the caller's
        self.client = openai.AsyncOpenAI(
            api_key=server.key() or _NO_KEY,
            base_url=server.url,
            max_retries=0,  # the client's own would hold a slot while waiting and give up on malformed replies
            timeout=openai.Timeout(server.timeout, connect=min(server.timeout, _CONNECT_SECONDS), pool=None),
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="raggym-openai", daemon=True)
        self.thread.start()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except CancelledError:
            raise LLMError(f"The model at {self.server.url} was closed while it was asked.") from None
        finally:
            future.cancel()  # on Ctrl-C nothing goes on behind the caller's back

    def close(self) -> None:
        if self.alive:
            asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(_CONNECT_SECONDS)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()

    def warn_of_usage(self) -> bool:
        warn = self.usage_missing and not self.usage_warned
        self.usage_warned = self.usage_warned or warn
        return warn

    async def complete(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        return await _all(self._prompt(prompt, params) for prompt in prompts)

    async def _prompt(self, prompt: Messages, params: Sampling) -> list[Completion]:
        if params.temperature == 0:
            only = await self._single(prompt, params, 0)
            return [only] + [replace(only, usage=Usage())] * (params.n - 1)
        if params.n == 1 or not self.one_request:
            return await self._singles(prompt, params, 0)
        return await self._together(prompt, params)

    async def _singles(self, prompt: Messages, params: Sampling, first: int) -> list[Completion]:
        return await _all(self._single(prompt, params, i) for i in range(first, params.n))

    async def _single(self, prompt: Messages, params: Sampling, i: int) -> Completion:
        reply, usage = await self._ask(self._body(prompt, replace(params, n=1, seed=params.seed + i)), params)
        if isinstance(reply, Trouble):
            return Completion("", usage=usage, failure=reply.message, outage=reply.retry)
        return replace(reply.completions[0], usage=usage)

    async def _together(self, prompt: Messages, params: Sampling) -> list[Completion]:
        """All `n` in one request; what the server does not give that way is asked for one by one."""
        reply, usage = await self._ask(self._body(prompt, params), params)
        if isinstance(reply, Reply):
            found = _charge(reply.completions[: params.n], usage)
            if len(found) < params.n:
                self._no_more_than_one()
                found += await self._singles(prompt, params, len(found))
            return found
        failures = _charge([Completion("", failure=reply.message, outage=reply.retry)] * params.n, usage)
        if self.server.n_supported != "auto" or reply.status not in (400, 422):
            return failures
        # Either `n` is refused or the prompt is: asking for one tells.
        first = await self._single(prompt, params, 0)
        if first.failure is not None:
            return failures
        self._no_more_than_one()
        return [replace(first, usage=first.usage + usage), *await self._singles(prompt, params, 1)]

    def _no_more_than_one(self) -> None:
        if self.server.n_supported == "auto":
            self.one_request = False

    def _body(self, prompt: Messages, params: Sampling) -> dict[str, Any]:
        limit = "max_completion_tokens" if self.server.official else "max_tokens"
        optional = {
            "n": params.n if params.n > 1 else None,
            "top_p": params.top_p if params.top_p < 1 else None,
            "stop": list(params.stop) or None,
            "seed": params.seed if params.temperature > 0 else None,
        }
        body = {
            "model": self.server.model,
            "messages": [{name: clean(text) for name, text in message.items()} for message in prompt],
            "temperature": params.temperature,
            limit: params.max_tokens,
            **{name: value for name, value in optional.items() if value is not None},
            **self.server.extra_body,
        }
        return {name: value for name, value in body.items() if name not in self.server.omit}

    async def _ask(self, body: Mapping[str, Any], params: Sampling) -> tuple[Reply | Trouble, Usage]:
        """Try until there is a reply or no point in trying again. The usage is of all tries."""
        usage, tries = Usage(), 0
        while True:
            tries += 1
            async with self.window:
                started = time.perf_counter()
                reply = await self._try(body, params)
                seconds = time.perf_counter() - started
                self.window.learn(seconds, replied=isinstance(reply, Reply))
            usage += Usage(calls=1, seconds=seconds)
            if isinstance(reply, Reply):
                self.answered = True
                self.usage_missing |= reply.usage is None
                return reply, usage + (reply.usage or Usage())
            reply = replace(reply, message=self._without_key(reply.message))
            last = not reply.retry or tries > self.server.retries or reply.after > _LONGEST_RETRY_AFTER
            # Without a connection there is hope until the last try: the server may still be starting.
            if reply.fatal and (last or reply.status is not None):
                raise LLMError(await self._explain(reply, tries))
            if last:
                return replace(reply, message=f"{self.server.url}: {reply.message}{_after(tries)}"), usage
            await asyncio.sleep(reply.after + self._backoff(tries))

    def _backoff(self, tries: int) -> float:
        return min(self.server.backoff * 2.0 ** (tries - 1), _LONGEST_BACKOFF) * self.random.uniform(0.5, 1.0)

    async def _try(self, body: Mapping[str, Any], params: Sampling) -> Reply | Trouble:
        import openai

        create: Any = self.client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.server.timeout):  # the client's own starts anew with every byte
                response = await create(model=body.get("model"), messages=body.get("messages"), extra_body=body)
                text = response.text
        except openai.APIStatusError as error:
            return self._of_status(error)
        except openai.APIConnectionError as error:
            return self._of_connection(error.__cause__ or error)
        except TimeoutError:
            return self._too_slow()
        return read_reply(text, params.stop)

    def _too_slow(self) -> Trouble:
        return Trouble(f"no reply within {self.server.timeout:g} s", retry=True)

    def _of_connection(self, cause: BaseException) -> Trouble:
        # By name, because newer clients come with a fork of httpx.
        kind = type(cause).__name__
        if kind == "ReadTimeout":
            return self._too_slow()
        unreached = kind in ("ConnectError", "ConnectTimeout")
        return Trouble(
            f"the connection failed ({str(cause) or kind})", retry=True, fatal=unreached and not self.answered
        )

    def _of_status(self, error: Any) -> Trouble:
        """What an HTTP status of 400 or more means. `error` is an `openai.APIStatusError`."""
        status: int = error.status_code
        headers: Mapping[str, str] = error.response.headers
        # Some gateways say 403 of a prompt that their moderation does not like.
        refused = status in (401, 402, 404) or (status == 403 and not self.answered)
        return Trouble(
            f"{status}: {said(error.body)}",
            status=status,
            retry=(status in (408, 409, 425, 429) or status >= 500) and headers.get("x-should-retry") != "false",
            after=retry_after(headers),
            fatal=refused or getattr(error, "code", None) == "insufficient_quota",
        )

    def _without_key(self, text: str) -> str:
        # A short one is a stand-in such as EMPTY, and would be found in ordinary words.
        key = self.client.api_key
        return (text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text)[:500]

    async def _explain(self, trouble: Trouble, tries: int) -> str:
        server, said = self.server, f"({trouble.message}{_after(tries)})"
        variable = server.key_env or "key_env"
        if trouble.status is None:
            return f"Nothing answers at {server.url} {said}. Start the server, or correct the URL."
        if trouble.status in (401, 403):
            held = f"refuses the key in ${variable}" if server.key() else f"wants a key, and ${variable} is not set"
            return f"{server.url} {held} {said}. Set ${variable} to a key that may use {server.model!r}."
        if trouble.status == 404:
            served = await self._served()
            hint = f"It serves: {served}." if served else "Is the URL right? It mostly ends in /v1."
            return f"{server.url} has no model {server.model!r} {said}. {hint}"
        return f"{server.url} has no credit left for {server.model!r} {said}. The run can be resumed once it has."

    async def _served(self) -> str:
        import openai

        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                listed: Any = await self.client.get("/models", cast_to=object)
            return ", ".join(sorted(str(model["id"]) for model in listed["data"])[:20])
        except (openai.OpenAIError, TimeoutError, ValueError, LookupError, TypeError):
            return ""


async def _all(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results in order. If one raises, the others stop."""
    tasks: list[Awaitable[_T]] = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # type: ignore[attr-defined]


def _after(tries: int) -> str:
    return f", after {tries} tries" if tries > 1 else ""


def _charge(completions: Sequence[Completion], usage: Usage) -> list[Completion]:
    """The completions of one request, the first of which bears its cost."""
    return [replace(completions[0], usage=usage), *completions[1:]]
