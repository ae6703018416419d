"""Every error the library raises on purpose.

    RAGGymError
    ├── UnknownName (LookupError)            a card, retriever, reward, policy or split that nobody registered
    ├── OptionError (ValueError)             an option that does not exist, is missing or is out of range
    ├── MissingExtra (ImportError)           an optional dependency is not installed
    ├── CardError (ValueError)               a card that cannot be read or does not fit its schema
    ├── DataError (ValueError)
    │   ├── DataNotFound (FileNotFoundError) a file that is in none of the places looked at
    │   └── MalformedData                    a file whose content is not what its format says
    ├── InvalidAction (ValueError)           an action that is no search and no answer
    ├── InvalidReset (ValueError)            reset options that pick no question
    ├── RetrievalError (RuntimeError)        a search back end failed; the state is unchanged
    │   └── IndexMismatch                    a stored index was built from something else
    ├── RewardError (RuntimeError)           a process reward could not be computed
    ├── LLMError (RuntimeError)              a language model cannot be had or used
    ├── PolicyError (RuntimeError)           a policy could not propose anything
    └── RunError (RuntimeError)              a run folder that cannot be continued or read

Each message says what happened, what was given and what to do. Each class also inherits the builtin that a
caller would expect, so `except LookupError` works without importing this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
]


_LISTED = 12  # names shown; a data set's thousand questions would bury the message


class RAGGymError(Exception):
    """Base of every error raised on purpose by raggym-env."""


class UnknownName(RAGGymError, LookupError):
    """A name that nothing is registered under."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(known[:_LISTED]) or "none"
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        super().__init__(f"No {kind} named {name!r}.{hint} Known: {listed}{more}.")


class OptionError(RAGGymError, ValueError):
    """An option that does not exist, is missing, or has a value out of its range."""


class MissingExtra(RAGGymError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an optional dependency: pip install "raggym-env[{extra}]"')


class CardError(RAGGymError, ValueError):
    """A card that cannot be read, or that does not fit its schema."""


class DataError(RAGGymError, ValueError):
    """Something is wrong with a data set or a corpus."""


class DataNotFound(DataError, FileNotFoundError):
    """A file that is in none of the places looked at."""

    # FileNotFoundError would format its arguments as (errno, strerror, filename).
    def __str__(self) -> str:
        return str(self.args[0])


class MalformedData(DataError):
    """A file whose content is not what its format says."""

    def __init__(self, path: object, where: str, problem: str) -> None:
        """`where` is a line or a record, e.g. "line 3"; `problem` names the field and what was found."""
        super().__init__(f"{path}, {where}: {problem}")


class InvalidAction(RAGGymError, ValueError):
    """An action that is no search and no answer. The state is unchanged."""


class InvalidReset(RAGGymError, ValueError):
    """Reset options that pick no question."""


class RetrievalError(RAGGymError, RuntimeError):
    """A search back end failed. No partial result was returned; the state is unchanged."""


class IndexMismatch(RetrievalError):
    """A stored index was built from another corpus, with other parameters or by another version."""


class RewardError(RAGGymError, RuntimeError):
    """A process reward could not be computed. The state is unchanged."""


class LLMError(RAGGymError, RuntimeError):
    """A language model cannot be had, or cannot be used at all."""


class PolicyError(RAGGymError, RuntimeError):
    """A policy could not propose an action."""


class RunError(RAGGymError, RuntimeError):
    """A run folder that cannot be continued or read."""


def check_option(name: str, value: object, valid: bool, expected: str) -> None:
    """Raise `OptionError` unless an option's value is valid.

    >>> check_option("k", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    raggym_env.errors.OptionError: k must be at least 1, got 0.
    """
    if not valid:
        raise OptionError(f"{name} must be {expected}, got {value!r}.")
