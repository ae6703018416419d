"""Reads what a chat-completions server returns, without trusting it: completions, errors and token usage.

Servers vary the form. What counts as a completion:

    content           a text, or a list of parts: the texts are joined, thinking parts are reasoning
    no content        the reasoning, where the server returned it apart; the parser decides what it is worth
    a tool call       one call of a function named search or answer, written as the action in JSON
    finish reason     `_FINISH_REASONS`, in any case; any other ("abort", "error") is an outage told inside a 200, and
                      so is an `error` in the body or in a choice: retried
    usage             whole numbers from 0; anything else counts as not reported
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raggym_env.core import Usage
from raggym_env.network.urls import retry_after
from raggym_env.protocols import Completion
from raggym_env.storage.parsing import ParseError, parse_json

__all__ = ["Reply", "Trouble", "clean", "read_error", "read_reply"]

# The names of the APIs that servers and gateways pass on, in lower case.
_STOP = """stop eos eos_token eos_found end_turn stop_sequence stop_token stop_string stop_word complete completed
    finish finished end done tool_calls tool_call tool_use function_call"""
_LENGTH = """length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length
    token_limit limit context_length context_length_exceeded model_context_window_exceeded repetition"""
_FILTERED = """content_filter content_filtered safety sensitive recitation blocklist prohibited_content spii refusal
    guardrail_intervened image_safety error_toxic language"""
_FINISH_REASONS = {
    name: meaning
    for meaning, names in (("stop", _STOP), ("length", _LENGTH), ("filtered", _FILTERED))
    for name in names.split()
}
_ACTIONS = {"search": ("search", "query", "q"), "answer": ("answer", "text", "final_answer")}
_MOST_TOKENS = 1 << 40  # no request has as many


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
        body = parse_json(text, forgive_numbers=True)
        if error := body.get("error"):
            return Trouble(f"the reply is an error: {_shown(error)}", retry=True)
        completions = []
        for choice in body["choices"]:
            completion = _completion(choice, stop)
            if isinstance(completion, Trouble):
                return completion
            completions.append(completion)
    # A body may be truncated or another service's page; all of that may pass, so it is retried.
    except (ParseError, LookupError, TypeError, AttributeError):
        return Trouble(f"the reply is not a chat completion: {text[:2000]!r:.2000}", retry=True)
    return Reply(completions, _usage(body)) if completions else Trouble("the reply has no choices", retry=True)


def _completion(choice: Mapping[str, Any], stop: Sequence[str]) -> Completion | Trouble:
    message, finish = choice["message"], choice.get("finish_reason")
    if error := choice.get("error") or message.get("error"):
        return Trouble(f"the reply has an error: {_shown(error)}", retry=True)
    meaning = _meaning(finish)
    if meaning is None:
        return Trouble(f"the server did not finish the reply (finish_reason {finish!r:.100})", retry=True)
    if meaning == "filtered":
        return Completion("", failure="the server's content filter stopped it")
    text, reasoning, refusal = _parts(message)
    call = _action_of_call(message)
    if call is not None:
        text = f"{text}\n{call}" if text.strip() else call
    if not text.strip():
        if refusal:
            return Completion("", failure=refusal)
        if not reasoning and not isinstance(message.get("content"), str):
            called = message.get("tool_calls") or message.get("function_call")
            other = ", but a tool call that is neither a search nor an answer" if called else ""
            return Completion("", failure=f"the reply has no text{other} (finish_reason {finish!r:.100})")
    # The API leaves the stop text out, but not every server does.
    if ends := [text.index(end) for end in stop if end in text]:
        return Completion(text[: min(ends)], reasoning=reasoning)
    return Completion(text, finish=meaning, reasoning=reasoning)


def _meaning(finish: Any) -> str | None:
    """Return "stop", "length" or "filtered" for a finish reason; None for one that is not known."""
    if isinstance(finish, Mapping):  # SGLang's own form
        finish = finish.get("type")
    if finish is None:
        return "stop"
    if not isinstance(finish, str):
        return None
    name = finish.strip().lower().removeprefix("finishreason.").removeprefix("finish_reason_")
    return _FINISH_REASONS.get(name.replace("-", "_").replace(" ", "_")) if name else "stop"


def _parts(message: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the text, the reasoning and the refusal of a message, "" for what it does not have."""
    content = message.get("content")
    texts, thoughts, refusals = [], [], [message.get("refusal")]
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, Mapping):
            texts.append(part)
        elif part.get("type") == "refusal":
            refusals.append(part.get("refusal"))
        elif part.get("type") in ("thinking", "reasoning", "thought", "reasoning_content", "reasoning_text"):
            thoughts.append(_text_in(part))
        elif part.get("type") in (None, "text", "output_text"):
            texts.append(_text_in(part))
    apart = [
        _text_in(message.get(name)) for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details")
    ]
    # Some servers send the same reasoning under two names.
    thoughts.append(next(filter(None, apart), ""))
    return _joined(texts), _joined(thoughts), next((str(refusal) for refusal in refusals if refusal), "")


def _text_in(part: Any, depth: int = 4) -> str:
    """Return the text of a part, whose text may be a list of parts again."""
    if isinstance(part, list):
        return _joined([_text_in(item, depth) for item in part])
    if not isinstance(part, Mapping) or depth == 0:
        return part if isinstance(part, str) else ""
    names = ("text", "thinking", "reasoning", "content", "value", "summary")
    return next((text for name in names if (text := _text_in(part.get(name), depth - 1))), "")


def _joined(texts: Sequence[Any]) -> str:
    return "".join(text for text in texts if isinstance(text, str))


def _action_of_call(message: Mapping[str, Any]) -> str | None:
    """Return the only tool call of a message as an action in JSON; None if it is anything but a search or an answer."""
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], Mapping):
        return None
    function = calls[0].get("function")
    if not isinstance(function, Mapping) or (name := function.get("name")) not in ("search", "answer"):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ParseError:
            return None
    if not isinstance(arguments, Mapping):
        return None
    texts = [arguments[key] for key in _ACTIONS[name] if isinstance(arguments.get(key), str)]
    draft = {"draft": arguments["draft"]} if isinstance(arguments.get("draft"), str) else {}
    return json.dumps({name: texts[0], **draft}, ensure_ascii=False) if len(texts) == 1 else None


def _shown(error: Any) -> str:
    message = error.get("message") if isinstance(error, Mapping) else None
    return f"{message or error!r:.500}"


def _usage(body: Mapping[str, Any]) -> Usage | None:
    reported = body.get("usage")
    if not isinstance(reported, Mapping):
        return None
    prompt, completion = _count(reported, "prompt_tokens"), _count(reported, "completion_tokens")
    if prompt is None or completion is None or not reported:
        return None
    details = reported.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
    return Usage(prompt_tokens=prompt, cached_tokens=min(cached or 0, prompt), completion_tokens=completion)


def _count(counts: Mapping[str, Any], name: str) -> int | None:
    """Return a number of tokens, 0 for one that is missing; None for what is no such number."""
    value = counts.get(name, 0)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def read_error(status: int, headers: Mapping[str, str], text: str, *, answered: bool) -> Trouble:
    """Interpret a response with a status outside 200 to 299. `answered`: this server has completed a prompt before."""
    if status < 400:
        return Trouble(f"{status}: a redirect to {headers.get('location')!r}", status=status, fatal=not answered)
    try:
        body = parse_json(text, forgive_numbers=True)
    except ParseError:
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
