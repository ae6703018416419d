"""The model that GRPO trains as a policy: one growing sequence of tokens per rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raggym_env.core import State
from raggym_env.errors import InvalidAction, LLMError, OptionError
from raggym_env.llm.hf.chat import Chat, PromptError
from raggym_env.protocols import BasePolicy, Messages, Proposal
from raggym_env.text.tagged import parse_tagged
from raggym_env.text.untrusted import as_data, clipped

__all__ = ["Generate", "Writer", "Written", "found_text"]

Generate = Callable[[Any, list[list[int]]], tuple[list[list[int]], list[list[float]] | None]]
"""The trainer and the tokens so far of each rollout, to the tokens of a reply to each, and the log-probability of
every token where they are known."""


@dataclass(slots=True)
class Written:
    """One rollout as tokens."""

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    """For each token of the completion: 1 if the model wrote it, 0 if the environment did."""
    logprobs: list[float] = field(default_factory=list)
    failure: str | None = None
    """Why there is no next action: "no_action" (the reply ends in none) or "no_room" (for another reply)."""

    def observe(self, tokens: Sequence[int]) -> None:
        self._add(tokens, 0, [0.0] * len(tokens))

    def reply(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        self._add(tokens, 1, logprobs)

    def _add(self, tokens: Sequence[int], mask: int, logprobs: Sequence[float]) -> None:
        self.completion += tokens
        self.mask += [mask] * len(tokens)
        self.logprobs += logprobs


class Writer(BasePolicy):
    """The model as a policy that remembers the tokens of every rollout. `State.episode` is the number of a rollout.

    Args:
        prompts: What each rollout begins with.
        trainer: A `GRPOTrainer`: its model, tokenizer, end tokens and length of a reply.
        generate: Writes replies.
        max_tokens: Tokens of a rollout's completion.
        passage_chars: Characters shown of each passage.

    Raises:
        ValueError: A completion has no room for one reply.
        LLMError: The model's chat template refuses a prompt.
    """

    def __init__(
        self, prompts: Sequence[Messages], trainer: Any, generate: Generate, *, max_tokens: int, passage_chars: int
    ) -> None:
        self._trainer, self._generate = trainer, generate
        self._reply_tokens: int = trainer.max_completion_length
        self._max_tokens, self._passage_chars = max_tokens, passage_chars
        if max_tokens < self._reply_tokens:
            raise OptionError(
                f"An episode's max_tokens must hold one reply of max_completion_length = {self._reply_tokens} tokens, "
                f"got {max_tokens}."
            )
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self._chat = Chat(tokenizer, trainer.eos_token_ids)
        self._context = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 31
        self._logprobs_known = True
        try:
            self.written = [Written(list(self._chat.encode(prompt))) for prompt in prompts]
        except PromptError as error:
            raise LLMError(str(error)) from error

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        rollouts = [self.written[state.episode] for state in states]
        for written, state in zip(rollouts, states, strict=True):
            self._open_turn(written, state)
        going_on = [written for written in rollouts if written.failure is None]
        texts = iter(self._replies(going_on))
        return [[_proposal(written, None if written.failure else next(texts))] for written in rollouts]

    def tokens(self) -> dict[str, Any]:
        """The rollouts as TRL wants them."""
        return {
            "prompt_ids": [written.prompt for written in self.written],
            "completion_ids": [written.completion for written in self.written],
            "env_mask": [written.mask for written in self.written],
            "logprobs": [written.logprobs for written in self.written] if self._logprobs_known else None,
        }

    def _open_turn(self, written: Written, state: State) -> None:
        """Show what the last search found, where there is room for that and for a whole reply."""
        shown = self._bridge(written, found_text(state, self._passage_chars)) if written.completion else ()
        length = len(written.completion) + len(shown) + self._reply_tokens
        if length <= min(self._max_tokens, self._context - len(written.prompt)):
            written.observe(shown)
        elif written.completion:
            written.failure = "no_room"
        else:
            raise LLMError(
                f"The prompt has {len(written.prompt)} tokens and a reply up to {length}, but the model's context is "
                f"{self._context}. Lower max_completion_length."
            )

    def _bridge(self, written: Written, text: str) -> Sequence[int]:
        """The tokens between a reply and the next: what ends the turn, the text as the user's, the next turn's head."""
        chat = [{"role": "user", "content": "?"}]
        head = self._chat.encode(chat)
        whole = self._chat.encode([*chat, {"role": "assistant", "content": ""}, {"role": "user", "content": text}])
        if whole[: len(head)] != head:
            raise LLMError(
                "The model's chat template writes a past turn of the assistant otherwise than it asks for one, so an "
                "episode is no single sequence of tokens. Use a simpler template."
            )
        bridge = whole[len(head) :]
        ended = written.completion[-1] in self._chat.eos
        return bridge[1:] if ended and bridge[0] == written.completion[-1] else bridge

    def _replies(self, rollouts: Sequence[Written]) -> list[str]:
        if not rollouts:
            return []
        prompts = [written.prompt + written.completion for written in rollouts]
        replies, logprobs = self._generate(self._trainer, prompts)
        self._logprobs_known &= logprobs is not None
        for number, (written, tokens) in enumerate(zip(rollouts, replies, strict=True)):
            written.reply(tokens, logprobs[number] if logprobs is not None else [0.0] * len(tokens))
        return [self._chat.text(tokens, ()) for tokens in replies]


def _proposal(written: Written, text: str | None) -> Proposal:
    if text is None:
        return Proposal(None, failure="there is no room left for another reply")
    try:
        return Proposal(parse_tagged(text), text)
    except InvalidAction as error:
        written.failure = "no_action"
        return Proposal(None, text, failure=str(error))


def found_text(state: State, length: int) -> str:
    """What the newest search found, on one line each and with nothing in it that looks like a tag."""
    passages = state.history[-1].passages
    lines = [f"[{i}] {as_data(p.title)}: {clipped(as_data(p.text), length)}" for i, p in enumerate(passages, 1)]
    found = "\n".join(lines) or "nothing"
    return f"<information>\n{found}\n</information>\nSearches left: {state.searches_left}"
