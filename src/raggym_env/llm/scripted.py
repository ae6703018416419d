"""A model that says what it is told: for tests of policies, prompts and runs, without any model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.core import Usage
from raggym_env.errors import LLMError
from raggym_env.protocols import Completion, Messages, Sampling

__all__ = ["Call", "Pattern", "Replies", "Reply", "ScriptedLLM", "load"]

Reply = str | Completion
"""A `Completion` is given as it is: with a `failure`, say, or with its own usage."""

Replies = Reply | Sequence[Reply]
"""One reply for all of a prompt's samples, or one for each."""

Pattern = str | re.Pattern[str]
"""A text that the prompt's last user message contains, or a compiled expression that is found in it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One prompt that the model was given."""

    messages: Messages
    params: Sampling

    @property
    def text(self) -> str:
        """The last user message."""
        return _last_user_message(self.messages)


class ScriptedLLM:
    """Plays a script.

    Args:
        replies: What to say:

            - a function of the messages, which gives one reply for all samples or a list with one for each;
            - a mapping from a text in the last user message, or from a compiled regular expression, to such
              replies; the first that fits counts;
            - a sequence of replies, used in order: prompt by prompt, and sample by sample.

    Replies are given whole, whatever `stop` and `max_tokens` say. Usage is made up: tokens are words, and a
    prompt's are counted with its first completion.

    >>> model = ScriptedLLM({"capital of France": "Paris"})
    >>> model.generate([[{"role": "user", "content": "What is the capital of France?"}]], Sampling())[0][0].text
    'Paris'
    >>> len(model.calls)
    1
    """

    def __init__(
        self,
        replies: Callable[[Messages], Replies] | Mapping[Any, Replies] | Sequence[Reply],
        *,
        name: str = "script",
    ) -> None:
        if isinstance(replies, str) or not (callable(replies) or isinstance(replies, Mapping | Sequence)):
            raise LLMError(f"A script is a function, a mapping or a list of replies, got {replies!r:.200}.")
        self.script = replies
        self.name = name
        self.calls: list[Call] = []
        self._used = 0

    def __repr__(self) -> str:
        return f"ScriptedLLM({self.name!r})"

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Say what the script says.

        Raises:
            LLMError: The script does not know a prompt, has run out, or has fewer replies to it than `params.n`.
        """
        return [self._answer(prompt, params) for prompt in prompts]

    def _answer(self, prompt: Messages, params: Sampling) -> list[Completion]:
        call = Call(prompt, params)
        self.calls.append(call)
        replies = self._replies(call)
        if isinstance(replies, str | Completion):
            replies = [replies] * params.n
        if len(replies) < params.n:
            raise LLMError(
                f"{self.name} has {len(replies)} replies to {call.text!r:.200}, and n={params.n} were asked for."
            )
        words = sum(len(message["content"].split()) for message in prompt)
        costs = [Usage(calls=1, prompt_tokens=words)] + [Usage()] * (params.n - 1)
        return [_completion(reply, cost) for reply, cost in zip(replies, costs, strict=False)]

    def _replies(self, call: Call) -> Replies:
        script = self.script
        if callable(script):
            return script(call.messages)
        if isinstance(script, Mapping):
            return self._fitting(script, call.text)
        return self._next(script, call.params.n)

    def _fitting(self, script: Mapping[Any, Replies], text: str) -> Replies:
        for pattern, replies in script.items():
            if _fits(pattern, text):
                return replies
        raise LLMError(f"{self.name} has no reply to {text!r:.500}. It knows: {_listed(script)}. Add one.")

    def _next(self, script: Sequence[Reply], n: int) -> Sequence[Reply]:
        first, self._used = self._used, self._used + n
        if self._used > len(script):
            raise LLMError(f"{self.name} has {len(script)} replies, and reply {self._used} was asked for.")
        return script[first : self._used]


def load(path: str | Path) -> ScriptedLLM:
    """Read a script from a file: `scripted:replies.json`.

    A `.json` file holds a list of replies to use in order, or an object from texts in the last user message to
    replies. A `.jsonl` file has one entry per line: each a reply, to be used in order; or each an object with
    `contains` or `pattern` (a regular expression) and `reply` (one for all samples, or a list with one for each).

    Raises:
        LLMError: There is no such file, or it holds something else; the message says on which line.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise LLMError(f"The script {path} cannot be read: {error}.") from error
    if path.suffix == ".jsonl":
        lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        return ScriptedLLM(_of_lines(path, [(where, _json(where, line)) for where, line in lines]), name=str(path))
    content = _json(str(path), text)
    if isinstance(content, dict):
        return ScriptedLLM({key: _checked(f"{path}, {key!r}", value) for key, value in content.items()}, name=str(path))
    return ScriptedLLM(_in_order((str(path), reply) for reply in _listing(path, content)), name=str(path))


def _of_lines(path: Path, lines: Sequence[tuple[str, Any]]) -> Mapping[Pattern, Replies] | list[Reply]:
    if not lines:
        raise LLMError(f"{path} is empty. A script has one reply per line.")
    if not isinstance(lines[0][1], dict):
        return _in_order(lines)
    return dict(_rule(where, line) for where, line in lines)


def _rule(where: str, line: Any) -> tuple[Pattern, Replies]:
    keys = set(line) if isinstance(line, dict) else set()
    if keys not in ({"contains", "reply"}, {"pattern", "reply"}):
        raise LLMError(f"{where}: wanted an object with `contains` or `pattern`, and `reply`; got {line!r:.200}.")
    replies = _checked(where, line["reply"])
    given = line.get("contains", line.get("pattern"))
    if not isinstance(given, str):
        raise LLMError(f"{where}: wanted a text to look for, got {given!r:.200}.")
    try:
        return (given if "contains" in keys else re.compile(given)), replies
    except re.error as error:
        raise LLMError(f"{where}: {given!r:.200} is no regular expression: {error}.") from error


def _in_order(lines: Iterable[tuple[str, Any]]) -> list[Reply]:
    replies: list[Reply] = []
    for where, reply in lines:
        if not isinstance(reply, str):
            raise LLMError(f"{where}: wanted a reply to use in order, a text; got {reply!r:.200}.")
        replies.append(reply)
    return replies


def _checked(where: str, replies: Any) -> Replies:
    if isinstance(replies, str):
        return replies
    if isinstance(replies, list) and replies and all(isinstance(reply, str) for reply in replies):
        return replies
    raise LLMError(f"{where}: a reply is a text or a list of texts, got {replies!r:.200}.")


def _listing(path: Path, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise LLMError(f"{path}: a script is a list or an object, got {content!r:.200}.")
    return content


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LLMError(f"{where}: not JSON ({error}).") from error


def _last_user_message(messages: Messages) -> str:
    said = [message["content"] for message in messages if message["role"] == "user"]
    return said[-1] if said else ""


def _fits(pattern: Pattern, text: str) -> bool:
    return pattern in text if isinstance(pattern, str) else pattern.search(text) is not None


def _listed(patterns: Iterable[Pattern]) -> str:
    return ", ".join(repr(pattern if isinstance(pattern, str) else pattern.pattern) for pattern in patterns) or "none"


def _completion(reply: Reply, cost: Usage) -> Completion:
    if isinstance(reply, Completion):
        return reply
    return Completion(reply, usage=cost + Usage(completion_tokens=len(reply.split())))
