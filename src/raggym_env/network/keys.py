"""Keys and tokens: which variables of the environment may be sent to servers, and how none of them is ever shown."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Collection, Iterator
from functools import cached_property

from raggym_env.errors import OptionError

__all__ = ["KEY_ENVS", "Key", "check_key_env", "read_key"]

KEY_ENVS = {
    "ANTHROPIC_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "CEREBRAS_API_KEY",
    "COHERE_API_KEY",
    "DASHSCOPE_API_KEY",
    "DEEPINFRA_API_KEY",
    "DEEPSEEK_API_KEY",
    "FIREWORKS_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "LITELLM_API_KEY",
    "MISTRAL_API_KEY",
    "MOONSHOT_API_KEY",
    "NVIDIA_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "PERPLEXITY_API_KEY",
    "SAMBANOVA_API_KEY",
    "TOGETHER_API_KEY",
    "VLLM_API_KEY",
    "XAI_API_KEY",
    "ZAI_API_KEY",
}
"""Variables that hold keys of language-model servers. `key_env` may name one of these, one that starts with RAGGYM_, or
one that the user lists in $RAGGYM_KEY_ENVS, separated by commas. In Python, names can be added to this set."""

_EXTENDED_BY = "RAGGYM_KEY_ENVS"
_OWN = re.compile(r"RAGGYM_[A-Z0-9_]+")

# A shorter one is a stand-in such as EMPTY, and would also match in ordinary words.
_SHORTEST = 8
# One that is this long and holds a digit occurs in no text by chance.
_DISTINCTIVE = 16


class Key:
    """The key in a variable of the environment, or that there is none. Its `repr` does not show it."""

    def __init__(self, variable: str | None, value: str = "") -> None:
        self.variable = variable
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Key({self.variable!r})"

    def __reduce__(self) -> tuple[type[Key], tuple[str | None]]:
        return Key, (self.variable,)  # without the value: where a copy arrives, the variable may hold another one

    @property
    def headers(self) -> dict[str, str]:
        """The headers that send the key."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def masked(self, text: str) -> str:
        """Return the text with `[key]` in place of the key: as it is, escaped (JSON, Python, URL, HTML), in base64."""
        return self._pattern.sub("[key]", text) if len(self._value) >= _SHORTEST else text

    def masked_reply(self, text: str) -> str:
        """Return what a model wrote, with `[key]` in place of a key that is too long and odd to be the model's word."""
        distinctive = len(self._value) >= _DISTINCTIVE and any(map(str.isdigit, self._value))
        return self.masked(text) if distinctive and self._value in text else text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        spellings = ["".join(map(_character, self._value))]
        # Of an encoded key, only its few signs need an escape.
        for encoded in _encodings(self._value):
            spellings.append("".join(sign if sign.isalnum() else _character(sign) for sign in encoded))
        # Compiling takes up to 0.1 s, so it waits for the first error.
        return re.compile("|".join(spellings))


def check_key_env(option: str, variable: str, known: Collection[str] = KEY_ENVS) -> None:
    """Raise `OptionError` unless a variable may hold a key that is sent to a server.

    Without this, a card from somebody else could have any secret of the environment sent to its server.

    Args:
        option: The option that names the variable.
        variable: The variable's name.
        known: Names that are accepted besides those that start with RAGGYM_ and those that the user lists.
    """
    added = [name.strip() for name in os.environ.get(_EXTENDED_BY, "").split(",") if name.strip()]
    if not isinstance(variable, str) or not (variable in known or variable in added or _OWN.fullmatch(variable)):
        names = "a variable of a well-known service such as OPENAI_API_KEY, or " if known else ""
        raise OptionError(
            f"{option} must be {names}a name that starts with RAGGYM_, got {variable!r:.80}. If that variable holds a "
            f"key which may be sent to the server, allow it by {_EXTENDED_BY}=NAME in the environment."
        )


def read_key(variable: str | None) -> Key:
    """Return the key in a variable; one that is false if the variable is None, not set or empty.

    Raises:
        OptionError: The key has characters that no header can have. The message does not repeat it.
    """
    value = os.environ.get(variable, "") if variable else ""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise OptionError(
            f"The key in ${variable} has characters that no key has: a line break, white space, or letters outside "
            "ASCII. Set it again, without them."
        )
    return Key(variable, value)


def _encodings(value: str) -> Iterator[str]:
    """Yield a key in hexadecimal, and in base64 at each of the three places where it may stand in a group of bytes."""
    yield value.encode().hex()
    yield value.encode().hex().upper()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value.encode()).decode().rstrip("=")
        # The characters at both ends also depend on what stands before and after the key.
        core = encoded[(0, 2, 3)[before] : len(encoded) - ((before + len(value)) % 3 > 0)]
        yield core
        yield core.translate(str.maketrans("+/", "-_"))  # the alphabet for URLs


def _character(character: str) -> str:
    """Return a pattern of a character, as it is or escaped as in JSON, Python, URLs and HTML."""
    plain, code = re.escape(character), ord(character)
    digits = f"(?i:{code:02x})"
    escaped = html.escape(character)
    entity = f"|{re.escape(escaped)}" if escaped != character else ""
    # Each alternative begins with a literal, so that the scan for the first character is fast. Escapes may themselves
    # be escaped, in JSON in JSON or in a URL in a URL.
    return rf"(?:{plain}|\\+(?:{plain}|(?:u00|x){digits})|%(?:25)*{digits}|&#0*{code};|&#[xX]0*{digits};{entity})"
