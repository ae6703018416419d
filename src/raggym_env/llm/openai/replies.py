"""What a chat-completions server says, read without trusting it: replies, refusals and usage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raggym_env.core import Usage
from raggym_env.protocols import Completion

__all__ = ["Reply", "Trouble", "clean", "read_reply", "said"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a try gave nothing. A value and not an exception, so that no traceback leads to a request's headers."""

    message: str
    status: int | None = None
    retry: bool = False
    after: float = 0.0
    """Seconds that the server asks to be left alone for."""
    fatal: bool = False
    """No other prompt could work either."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request gave."""

    completions: list[Completion]
    usage: Usage | None
    """None if the server does not say."""


def read_reply(text: str, stop: Sequence[str]) -> Reply | Trouble:
    """Read the body of a reply with status 200. Completions end before the first of the `stop` texts."""
    try:
        body = json.loads(text)
        completions = [_completion(choice, stop) for choice in body["choices"]]
        usage = _usage(body.get("usage"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return Trouble(f"the reply is no chat completion: {text!r:.2000}", retry=True)
    return Reply(completions, usage) if completions else Trouble("the reply has no choices", retry=True)


def _completion(choice: Mapping[str, Any], stop: Sequence[str]) -> Completion:
    message, finish = choice["message"], choice.get("finish_reason")
    content = message.get("content")
    if finish == "content_filter":
        return Completion("", failure="the server's content filter stopped it")
    if not isinstance(content, str):
        refusal = message.get("refusal") or f"the reply has no text (finish_reason {finish!r})"
        return Completion("", failure=str(refusal))
    content = clean(content)
    # The API leaves the stop text out; not every server does.
    ends = [at for at in (content.find(end) for end in stop) if at >= 0]
    if ends:
        return Completion(content[: min(ends)])
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


def clean(text: str) -> str:
    """Without lone surrogates, which no file and no request can hold."""
    return text.encode("utf-8", "replace").decode()


def said(body: object) -> str:
    """The message in an error's body, which servers put in different places."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    return str(body) if body else "no explanation"
