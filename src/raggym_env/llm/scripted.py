"""A model that replies from a script: for tests of policies, prompts and runs, without any model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.core import Usage
from raggym_env.errors import LLMError, OptionError
from raggym_env.protocols import Completion, Messages, Sampling
from raggym_env.storage.parsing import ParseError, parse_json, read_file

__all__ = ["Call", "Pattern", "Replies", "Reply", "ScriptedLLM", "load"]

Reply = str | Completion
"""A text, or a `Completion` to return as it is, e.g. with a `failure` or with its own usage."""

Replies = Reply | Sequence[Reply]
"""One reply for all of a prompt's samples, or a list with one for each."""

Pattern = str | re.Pattern[str]
"""A text that the prompt's last user message contains, or a regular expression to search it for."""


@dataclass(frozen=True, slots=True)
class Call:
    """One prompt that the model received."""

    messages: Messages
    params: Sampling

    @property
    def text(self) -> str:
        """The last user message; "" if there is none."""
        return next((message["content"] for message in reversed(self.messages) if message["role"] == "user"), "")


class ScriptedLLM:
    """A model that replies from a script.

    Args:
        replies: The script:

            - a function of the messages that returns one reply for all samples or a list with one for each;
            - a mapping to such replies from a text in the last user message, or from a compiled regular expression;
              the first that matches counts;
            - a sequence of replies, used in order: prompt by prompt, and sample by sample.
        name: Its name in error messages.

    Replies are returned whole, whatever `stop` and `max_tokens` are. Usage is invented: tokens are words, and a
    prompt's are counted with its first completion.

    Raises:
        OptionError: `replies` is none of these.

    >>> model = ScriptedLLM({"capital of France": "Paris"})
    >>> model.generate([[{"role": "user", "content": "What is the capital of France?"}]], Sampling())[0][0].text
    'Paris'
    >>> len(model.calls)
    1
    """

    def __init__(
        self, replies: Callable[[Messages], Replies] | Mapping[Any, Replies] | Sequence[Reply], *, name: str = "script"
    ) -> None:
        # A string is a sequence too, and would be played letter by letter.
        if isinstance(replies, str) or not (callable(replies) or isinstance(replies, Mapping | Sequence)):
            raise OptionError(f"A script is a function, a mapping or a list of replies, got {replies!r:.200}.")
        self.script = replies
        self.name = name
        self.calls: list[Call] = []
        """The prompts received so far, oldest first."""
        self._used = 0

    def __repr__(self) -> str:
        return f"ScriptedLLM({self.name!r})"

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Return the script's replies to each prompt.

        Raises:
            LLMError: The script has no reply to a prompt, has run out, or has fewer replies to it than `params.n`.
        """
        return [self._complete(Call(prompt, params)) for prompt in prompts]

    def _complete(self, call: Call) -> list[Completion]:
        self.calls.append(call)
        n, replies = call.params.n, self._replies(call)
        if isinstance(replies, str | Completion):
            replies = [replies] * n
        if len(replies) < n:
            raise LLMError(
                f"{self.name} has {len(replies)} replies to {call.text!r:.200}, which are too few for n={n}."
            )
        words = sum(len(message["content"].split()) for message in call.messages)
        usages = [Usage(calls=1, prompt_tokens=words)] + [Usage()] * (n - 1)
        return [
            reply
            if isinstance(reply, Completion)
            else Completion(reply, usage=usage + Usage(completion_tokens=len(reply.split())))
            for reply, usage in zip(replies, usages, strict=False)
        ]

    def _replies(self, call: Call) -> Replies:
        script = self.script
        if callable(script):
            return script(call.messages)
        if isinstance(script, Mapping):
            for pattern, replies in script.items():
                match = pattern in call.text if isinstance(pattern, str) else pattern.search(call.text)
                if match:
                    return replies
            patterns = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in script]
            raise LLMError(
                f"{self.name} has no reply to {call.text!r:.500}. It has replies to: "
                f"{', '.join(map(repr, patterns)) or 'none'}. Add one."
            )
        first, self._used = self._used, self._used + call.params.n
        if self._used > len(script):
            raise LLMError(f"{self.name} has {len(script)} replies, and reply {self._used} is needed.")
        return script[first : self._used]


def load(path: str | Path) -> ScriptedLLM:
    """Read a script from a file: `scripted:replies.json`.

    A `.json` file holds a list of replies to use in order, or an object from texts in the last user message to
    replies. A `.jsonl` file has one entry per line: either replies to use in order, or objects with `contains` or
    `pattern` (a regular expression) and `reply` (one for all samples, or a list with one for each).

    Raises:
        LLMError: The file is missing or malformed; the message names the line.
    """
    path = Path(path).expanduser()
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeError, ParseError) as error:
        raise LLMError(f"The script {path} cannot be read: {error}.") from error
    script: Mapping[Pattern, Replies] | list[Reply]
    if path.suffix == ".jsonl":
        # Not `splitlines`, which also splits at U+2028 and others that JSON may contain.
        lines = {f"{path}, line {i}": line for i, line in enumerate(text.split("\n"), 1) if line.strip()}
        entries = [(where, _json(where, line)) for where, line in lines.items()]
        if not entries:
            raise LLMError(f"{path} is empty. A script has one reply per line.")
        # The first line decides which of the two forms the file has.
        has_rules = isinstance(entries[0][1], dict)
        script = dict(_rule(*entry) for entry in entries) if has_rules else [_reply(*entry) for entry in entries]
    else:
        content = _json(str(path), text)
        if isinstance(content, dict):
            script = {key: _checked(f"{path}, {key!r}", value) for key, value in content.items()}
        elif isinstance(content, list):
            script = [_reply(f"{path}, reply {i}", reply) for i, reply in enumerate(content, 1)]
        else:
            raise LLMError(f"{path}: a script is a list or an object, got {content!r:.200}.")
    return ScriptedLLM(script, name=str(path))


def _rule(where: str, line: Any) -> tuple[Pattern, Replies]:
    if not isinstance(line, dict) or set(line) not in ({"contains", "reply"}, {"pattern", "reply"}):
        raise LLMError(f"{where}: expected an object with `contains` or `pattern`, and `reply`; got {line!r:.200}.")
    replies = _checked(where, line.pop("reply"))
    [(kind, pattern)] = line.items()
    if not isinstance(pattern, str):
        raise LLMError(f"{where}: expected a text to search for, got {pattern!r:.200}.")
    try:
        return (pattern if kind == "contains" else re.compile(pattern)), replies
    except re.error as error:
        raise LLMError(f"{where}: {pattern!r:.200} is not a regular expression: {error}.") from error


def _reply(where: str, reply: Any) -> str:
    if isinstance(reply, str):
        return reply
    raise LLMError(f"{where}: expected a reply to use in order, a text; got {reply!r:.200}.")


def _checked(where: str, replies: Any) -> Replies:
    """Return the replies of a rule if they are a text or a list of texts."""
    texts = [replies] if isinstance(replies, str) else replies
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return replies  # type: ignore[no-any-return]
    raise LLMError(f"{where}: a reply is a text or a list of texts, got {replies!r:.200}.")


def _json(where: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ParseError as error:
        raise LLMError(f"{where}: not JSON ({error}).") from error
