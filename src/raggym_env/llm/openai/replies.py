"""Reads what a chat-completions server returns, without trusting it: completions, errors and token usage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raggym_env.core import Usage
from raggym_env.network.urls import retry_after
from raggym_env.protocols import Completion

__all__ = ["Reply", "Trouble", "clean", "read_error", "read_reply"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an attempt gave no completion. Not an exception: a traceback would lead to the request's headers."""

    message: str
    """What happened, in one line."""
    status: int | None = None
    """The HTTP status; None if there was no response."""
    retry: bool = False
    """True if the same request may succeed later."""
    pause: float = 0.0
    """Seconds that the server wants to pass before the next attempt."""
    fatal: bool = False
    """True if no other prompt could work either."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The completions of one request."""

    completions: list[Completion]
    """At least one."""
    usage: Usage | None
    """None if the server does not report it."""


def read_reply(text: str, stop: Sequence[str]) -> Reply | Trouble:
    """Parse the body of a successful response. Completions end before the first of the `stop` texts."""
    try:
        body = json.loads(text)
        completions = [_completion(choice, stop) for choice in body["choices"]]
        usage = _usage(body.get("usage"))
    # A body may be truncated, another service's page, or nested too deep; all of that may pass, so it is retried.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return Trouble(f"the reply is not a chat completion: {text!r:.2000}", retry=True)
    return Reply(completions, usage) if completions else Trouble("the reply has no choices", retry=True)


def _completion(choice: Mapping[str, Any], stop: Sequence[str]) -> Completion:
    message, finish = choice["message"], choice.get("finish_reason")
    content = message.get("content")
    if finish == "content_filter":
        return Completion("", failure="the server's content filter stopped it")
    if not isinstance(content, str):
        return Completion(
            "", failure=str(message.get("refusal") or f"the reply has no text (finish_reason {finish!r})")
        )
    content = clean(content)
    # The API leaves the stop text out, but not every server does.
    if ends := [content.index(text) for text in stop if text in content]:
        return Completion(content[: min(ends)])
    # Servers have other reasons of their own, such as "eos", and all of them mean that the model ended.
    return Completion(content, finish="length" if finish == "length" else "stop")


def _usage(reported: Mapping[str, Any] | None) -> Usage | None:
    if not reported:
        return None
    details = reported.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(reported.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        completion_tokens=int(reported.get("completion_tokens") or 0),
    )


def read_error(status: int, headers: Mapping[str, str], text: str, *, answered: bool) -> Trouble:
    """Interpret a response with a status outside 200 to 299. `answered`: this server has completed a prompt before."""
    if status < 400:
        return Trouble(f"{status}: a redirect to {headers.get('location')!r}", status=status, fatal=not answered)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text.strip()
    # OpenAI nests the error; others put the message at the top, under one of several names.
    error = body.get("error", body) if isinstance(body, dict) else body
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("error") or error
    return Trouble(
        f"{status}: {error or 'no explanation'}",
        status=status,
        retry=(status in (408, 409, 425, 429) or status >= 500) and headers.get("x-should-retry") != "false",
        pause=retry_after(headers),
        # Some gateways answer 403 to a prompt that their moderation refuses, so 403 is fatal only at the start.
        fatal=status in (401, 402, 404) or (status == 403 and not answered) or code == "insufficient_quota",
    )


def clean(text: str) -> str:
    """Return the text with "?" in place of lone surrogates, which no file and no request can hold."""
    return text.encode("utf-8", "replace").decode()
