"""The language-model seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Usage

__all__ = ["LLM", "Completion", "Messages", "Sampling", "Scorer"]

Messages = Sequence[Mapping[str, str]]
"""A chat: `{"role": "system" | "user" | "assistant", "content": text}`, oldest first."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. The defaults are greedy decoding of one."""

    n: int = 1
    """Completions per prompt, at least 1."""
    temperature: float = 0.0
    """0 is greedy decoding; with it, `n` completions are alike."""
    top_p: float = 1.0
    """Share of the probability mass drawn from, in (0, 1]."""
    max_tokens: int = 512
    """Tokens per completion, at least 1."""
    stop: tuple[str, ...] = ()
    """Texts before which a completion ends."""
    seed: int = 0
    """With the prompt and the completion's number, all that sampling depends on, where the model lets us say."""

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("n", self.n >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}.")


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, or why there is none."""

    text: str
    finish: str = "stop"
    """"stop" (the model ended, or a stop text came) or "length" (`max_tokens` was reached)."""
    usage: Usage = field(default_factory=Usage)
    """What it cost. The usages of a prompt's `n` completions add up to what the prompt cost, so a prompt computed
    once counts its prompt tokens once."""
    failure: str | None = None
    """Why there is no completion, once retries are used up; then `text` is empty."""
    outage: bool = False
    """Whether the same prompt may be completed another time: the server did not answer. False if it never will be:
    the prompt is too long, or was refused."""


@runtime_checkable
class LLM(Protocol):
    """A chat model. Batch first: what can run together is given together."""

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Complete every prompt `params.n` times.

        Returns:
            One list per prompt, in order, of `params.n` completions. A prompt that failed for good has completions
            with a `failure`; the others are not affected.

        Raises:
            LLMError: The model cannot be used at all (no such model, no key), so no prompt could work.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """A model that can say how likely it finds given continuations."""

    def loglikelihood(
        self, prompts: Sequence[Messages], continuations: Sequence[Sequence[str]]
    ) -> list[NDArray[np.float32]]:
        """Sum of the log-probabilities (nats) of each continuation's tokens after its prompt.

        Args:
            prompts: `n` prompts.
            continuations: `n` sequences of texts; their lengths may differ and may be 0.

        Returns:
            `n` float32 arrays, the i-th of shape `(len(continuations[i]),)`, each value 0 or less.
        """
        ...
