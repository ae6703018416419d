"""Every error the library raises on purpose.

    RAGGymError
    ├── UnknownName (LookupError)            no card, plug-in, split or model has that name
    ├── OptionError (ValueError)             an option that does not exist, is missing or is out of range
    ├── MissingExtra (ImportError)           an optional dependency is not installed
    ├── CardError (ValueError)               a card that cannot be read, breaks its schema, or must not be trusted
    ├── DataError (ValueError)
    │   ├── DataNotFound (FileNotFoundError) a file that is in none of the searched folders
    │   └── MalformedData                    a file whose content breaks its format
    ├── InvalidAction (ValueError)           an action that is neither a search nor an answer
    ├── InvalidReset (ValueError)            reset options that do not pick a question
    ├── RetrievalError (RuntimeError)        a search back end failed; the state is unchanged
    │   └── IndexMismatch                    a stored index was built from something else
    ├── RewardError (RuntimeError)           a process reward could not be computed
    ├── LLMError (RuntimeError)              a language model cannot be loaded or used
    ├── PolicyError (RuntimeError)           a policy proposed no valid action
    └── RunError (RuntimeError)              a run folder that cannot be resumed or read

Each message says what happened, what was given and what to do. Each class also inherits the built-in exception that
a caller would expect, so `except LookupError` works without importing this module.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CardError",
    "DataError",
    "DataNotFound",
    "IndexMismatch",
    "InvalidAction",
    "InvalidReset",
    "LLMError",
    "MalformedData",
    "MissingExtra",
    "OptionError",
    "PolicyError",
    "RAGGymError",
    "RetrievalError",
    "RewardError",
    "RunError",
    "UnknownName",
    "check_option",
    "shown",
]


_MAX_LISTED = 12  # the thousand questions of a data set would bury the message


class RAGGymError(Exception):
    """Base of every error raised on purpose by raggym-env."""


class UnknownName(RAGGymError, LookupError):
    """Nothing has that name. The message suggests the closest one."""

    def __init__(self, kind: str, name: str, choices: Iterable[str], hint: str = "") -> None:
        """Compose the message.

        Args:
            kind: What was looked for, e.g. "retriever".
            name: The name given.
            choices: The names that exist.
            hint: What to do, in place of the suggestion of the closest name.
        """
        names = sorted(choices)
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" {hint}" if hint else f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names[:_MAX_LISTED]) or "none"
        more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        super().__init__(f"No {kind} named {name!r}.{hint} Known: {listed}{more}.")


class OptionError(RAGGymError, ValueError):
    """An option that does not exist, is missing, or has a value out of its range."""


class MissingExtra(RAGGymError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, subject: str, extra: str) -> None:
        super().__init__(f"{subject} needs an optional dependency: {_install_command(extra)}")


def _install_command(extra: str) -> str:
    """Return the command that installs an extra: in a checkout from there, with its constraints."""
    checkout = Path(__file__).parents[2]
    constraints = checkout / "constraints.txt"
    if constraints.is_file() and (checkout / "pyproject.toml").is_file():
        return f"pip install -c {shlex.quote(str(constraints))} -e {shlex.quote(f'{checkout}[{extra}]')}"
    # The quotes keep shells from reading the brackets as a pattern.
    return f'pip install "raggym-env[{extra}]"'


class CardError(RAGGymError, ValueError):
    """A card cannot be read, does not fit its schema, or uses the user's authority and is not trusted."""


class DataError(RAGGymError, ValueError):
    """A data set or a corpus cannot be used."""


class DataNotFound(DataError, FileNotFoundError):
    """A file is in none of the searched folders."""

    # FileNotFoundError would format its arguments as (errno, strerror, filename).
    def __str__(self) -> str:
        return str(self.args[0])


class MalformedData(DataError):
    """The content of a file breaks its format."""

    def __init__(self, path: object, where: str, problem: str) -> None:
        """`where` is a line or a record, e.g. "line 3"; `problem` names the field and what was found."""
        super().__init__(f"{path}, {where}: {problem}")


class InvalidAction(RAGGymError, ValueError):
    """An action cannot be taken: it is not a search or an answer, or the episode has ended. No state has changed."""


class InvalidReset(RAGGymError, ValueError):
    """Reset options do not pick a question."""


class RetrievalError(RAGGymError, RuntimeError):
    """A search back end failed. No partial result was returned; the state is unchanged."""


class IndexMismatch(RetrievalError):
    """A stored index was built from another corpus, with other parameters or by another version."""


class RewardError(RAGGymError, RuntimeError):
    """A process reward could not be computed. The state is unchanged."""


class LLMError(RAGGymError, RuntimeError):
    """A language model cannot be loaded, or cannot be used at all."""


class PolicyError(RAGGymError, RuntimeError):
    """A policy proposed no valid action."""


class RunError(RAGGymError, RuntimeError):
    """A run folder cannot be resumed or read."""


def check_option(name: str, value: object, valid: bool, expected: str) -> None:
    """Raise `OptionError` unless an option's value is valid.

    >>> check_option("k", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    raggym_env.errors.OptionError: k must be at least 1, got 0.
    """
    if not valid:
        raise OptionError(f"{name} must be {expected}, got {shown(value, 1_000)}.")


def shown(value: object, length: int = 100) -> str:
    """Return a value as an error message shows it: its `repr`, at most `length` characters of it.

    >>> shown("bm25"), shown(10**5000)
    ("'bm25'", 'a value of the type int that is too long to show')
    """
    try:
        return repr(value)[:length]
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list that is nested as deeply
        return f"a value of the type {type(value).__name__} that is too long to show"
