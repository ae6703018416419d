"""The model that GRPO trains, as a policy that records every rollout as one growing sequence of tokens."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raggym_env.core import State
from raggym_env.errors import InvalidAction, LLMError, OptionError
from raggym_env.llm.hf.chat import Chat, PromptError
from raggym_env.protocols import BasePolicy, Messages, Proposal
from raggym_env.text.tagged import information, own_length, parse_tagged
from raggym_env.text.untrusted import visible

__all__ = ["Generate", "RolloutTokens", "TokenPolicy", "TurnTokens", "state_key"]

Generate = Callable[[Any, list[list[int]]], tuple[list[list[int]], list[list[float]] | None]]
"""Maps the trainer and each rollout's tokens so far to the tokens of one reply each, and to the log-probability of
every token, or None if they are not known."""


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """One turn of the model: which tokens of the completion are its reply, and the state that it replied in."""

    start: int
    """Index of its first token in the completion."""
    end: int
    """Index after its last token."""
    state: str
    """The `state_key` of its state."""


@dataclass(slots=True)
class RolloutTokens:
    """One rollout as tokens."""

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    """For each token of the completion: 1 if the model wrote it, 0 if it comes from the environment."""
    logprobs: list[float] = field(default_factory=list)
    """For each token of the completion: its log-probability when it was sampled; 0 for the environment's."""
    turns: list[TurnTokens] = field(default_factory=list)
    """The model's replies, oldest first; together they are the tokens whose mask is 1."""
    failure: str | None = None
    """Why there is no further action: "no_action" (the reply does not end with one), "no_room" (no reply fits), or
    None."""

    def append(self, tokens: Sequence[int], logprobs: Sequence[float] | None = None, *, by_model: bool) -> None:
        """Append tokens of the model or of the environment. Without `logprobs` they are recorded as 0."""
        self.completion += tokens
        self.mask += [int(by_model)] * len(tokens)
        self.logprobs += [0.0] * len(tokens) if logprobs is None else logprobs


class TokenPolicy(BasePolicy):
    """The model as a policy that records the tokens of every rollout. `State.episode` is the index of the rollout.

    Args:
        prompts: The first messages of each rollout.
        trainer: A `GRPOTrainer`, for its model, tokenizer, end-of-sequence tokens and `max_completion_length`.
        generate: Generates the replies.
        max_tokens: Maximum number of tokens of a rollout's completion.
        passage_chars: Characters shown of each passage.

    Raises:
        OptionError: A completion has no room for one reply.
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
                f"max_tokens, of an episode, must be at least max_completion_length = {self._reply_tokens}, of one "
                f"reply; got {max_tokens}."
            )
        # A multimodal model's processor holds the tokenizer.
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self._chat = Chat(tokenizer, trainer.eos_token_ids)
        # Models without a fixed context, such as state-space models, have no such number.
        self._context = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 31
        self._has_logprobs = True
        try:
            self.rollouts = [RolloutTokens(list(self._chat.encode(prompt))) for prompt in prompts]
        except PromptError as error:
            raise LLMError(str(error)) from error

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return one proposal per state: the action that ends the rollout's next reply. `n` is ignored."""
        rollouts = [self.rollouts[state.episode] for state in states]
        for rollout, state in zip(rollouts, states, strict=True):
            self._open_turn(rollout, state)
        open_turns = [(rollout, state) for rollout, state in zip(rollouts, states, strict=True) if not rollout.failure]
        replies = iter(self._replies(open_turns))
        return [[_proposal(rollout, None if rollout.failure else next(replies))] for rollout in rollouts]

    def tokens(self) -> dict[str, Any]:
        """Return the rollouts' token columns, as TRL expects them of a `rollout_func`."""
        return {
            "prompt_ids": [rollout.prompt for rollout in self.rollouts],
            "completion_ids": [rollout.completion for rollout in self.rollouts],
            "env_mask": [rollout.mask for rollout in self.rollouts],
            "logprobs": [rollout.logprobs for rollout in self.rollouts] if self._has_logprobs else None,
        }

    def _open_turn(self, rollout: RolloutTokens, state: State) -> None:
        """Append the passages of the last search if they and a whole reply fit; else end the rollout."""
        passages = self._bridge(rollout, information(state, self._passage_chars)) if rollout.completion else ()
        # Passages that no reply can follow are not appended: they would only cost computation.
        length = len(rollout.completion) + len(passages) + self._reply_tokens
        if length <= min(self._max_tokens, self._context - len(rollout.prompt)):
            rollout.append(passages, by_model=False)
        elif rollout.completion:
            rollout.failure = "no_room"
        else:
            raise LLMError(
                f"The prompt has {len(rollout.prompt)} tokens and a reply up to {length}, but the model's context is "
                f"{self._context}. Lower max_completion_length."
            )

    def _bridge(self, rollout: RolloutTokens, text: str) -> Sequence[int]:
        """Return the tokens between two replies: the end of the turn, `text` as the user's, and the next turn's head.

        They are cut out of a rendered chat, so that they are what the template writes there, whatever the model.
        """
        chat = [{"role": "user", "content": "?"}]
        head = self._chat.encode(chat)
        whole = self._chat.encode([*chat, {"role": "assistant", "content": ""}, {"role": "user", "content": text}])
        if whole[: len(head)] != head:
            # Some templates drop the reasoning of past turns, for example.
            raise LLMError(
                "The model's chat template renders a past turn of the assistant differently from a new one, so an "
                "episode is not one sequence of tokens. Use a simpler template."
            )
        bridge = whole[len(head) :]
        # A reply that ended by itself already has the token that ends the turn; one that was cut off does not.
        ended = rollout.completion[-1] in self._chat.eos
        return bridge[1:] if ended and bridge[0] == rollout.completion[-1] else bridge

    def _replies(self, turns: Sequence[tuple[RolloutTokens, State]]) -> list[str]:
        if not turns:
            return []
        prompts = [rollout.prompt + rollout.completion for rollout, _ in turns]
        written, logprobs = self._generate(self._trainer, prompts)
        self._has_logprobs &= logprobs is not None  # TRL takes them for all rollouts or for none
        replies = [self._own_tokens(tokens) for tokens in written]
        for number, ((rollout, state), tokens) in enumerate(zip(turns, replies, strict=True)):
            start = len(rollout.completion)
            rollout.append(tokens, None if logprobs is None else logprobs[number][: len(tokens)], by_model=True)
            rollout.turns.append(TurnTokens(start, len(rollout.completion), state_key(state)))
        return [self._chat.text(tokens, ()) for tokens in replies]

    def _own_tokens(self, tokens: list[int]) -> list[int]:
        """Return the tokens of a reply up to a search result or a turn that it invents, which it must not learn."""
        length = own_length(self._chat.text(tokens, ()))
        if length is None:
            return tokens
        return tokens[
            : bisect_left(range(len(tokens)), length, key=lambda n: len(visible(self._chat.text(tokens[:n], ()))))
        ]


def _proposal(rollout: RolloutTokens, reply: str | None) -> Proposal:
    if reply is None:
        return Proposal(None, failure="there is no room left for another reply")
    try:
        return Proposal(parse_tagged(reply), reply)
    except InvalidAction as error:
        rollout.failure = "no_action"
        return Proposal(None, reply, failure=str(error))


def state_key(state: State) -> str:
    """Return a text that is equal for states of the same question with the same history, and for no others."""
    # The id too: two questions may have the same text and different answers.
    content = repr((state.question.id, state.question.text, state.history))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
