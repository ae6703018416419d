"""Process reward by the critics that the RAG-Gym authors released, which read an agent's own prompt and reply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from raggym_env.core import Action, State
from raggym_env.errors import MissingExtra, RewardError
from raggym_env.protocols import Proposal
from raggym_env.rewards.model import ModelReward
from raggym_env.text.state_chat import encode

try:
    from raggym_env.llm.hf.batching import Tokens
    from raggym_env.llm.hf.chat import Chat
    from raggym_env.llm.hf.loading import Dtype
except ImportError as error:
    raise MissingExtra("The 'released' process reward", "llm") from error

__all__ = ["ReleasedReward"]

_TRAINED_TOKENS = 4_096


class ReleasedReward(ModelReward):
    """Scores a policy's reply by a model's one output, a logit, as the critics of arXiv:2502.13957 were trained.

    The model reads the chat that the agent sent to its language model and, as the assistant's turn, the raw reply with
    its reasoning. Of a longer text it reads the last `max_tokens` tokens. The output is that of the last token, the one
    that ends the turn, whatever the tokenizer pads with.

    It is a critic for candidates of a prompt agent, such as those of the cards `*_released` (`--best-of 10`): an action
    alone, as an environment scores it, has no reply. The search that an agent without query generation begins with is
    no model's, and its state's only candidate: its score is 0. Scores are comparable within one state.

    Args:
        path: As for `ModelReward`, e.g. `RAG-Gym/ReSearch-HotpotQA-PRM`, whose base model is
            `meta-llama/Meta-Llama-3.1-8B-Instruct`.
        device, dtype: As for `ModelReward`.
        max_tokens: Tokens of prompt and reply together. None is 4,096, as in training, or the model's context where
            that is shorter.
        token_budget: As for `ModelReward`.

    Raises:
        RewardError, LLMError, OptionError: As for `ModelReward`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        max_tokens: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        super().__init__(
            path, device=device, dtype=dtype, max_tokens=max_tokens, action_tokens=1, token_budget=token_budget
        )
        self.max_tokens = max_tokens or min(self.max_tokens, _TRAINED_TOKENS)
        # The tokenizers pad with the token that ends a turn, and training read the output there all the same.
        self._padding = None
        self.model.config.get_text_config().pad_token_id = None
        self._chat = Chat(self.tokenizer, ())

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Raise `RewardError` if there is an action to be scored, since an action alone has no prompt and no reply."""
        if any(actions):
            raise RewardError(
                "The process reward 'released' reads the prompt and the reply that an action came from, and here are "
                "actions alone. Use it to choose among the replies of a prompt agent: --policy research_released "
                "--best-of 10 --critic released."
            )
        return [np.zeros(0, np.float32) for _ in states]

    def score_replies(
        self, states: Sequence[State], proposals: Sequence[Sequence[Proposal]]
    ) -> list[NDArray[np.float32]]:
        """Return one logit per proposal; see `ReplyCritic.score_replies`.

        Raises:
            RewardError: A proposal has no prompt or no reply, the model's chat template refuses them, an output is not
                finite, or the memory does not suffice.
        """
        unwritten = [len(row) == 1 and not row[0].messages for row in proposals]
        texts = [[] if skip else list(map(self._tokens, row)) for row, skip in zip(proposals, unwritten, strict=True)]
        scores = self._outputs(texts)
        return [np.zeros(1, np.float32) if skip else row for row, skip in zip(scores, unwritten, strict=True)]

    def _tokens(self, proposal: Proposal) -> Tokens:
        if not proposal.messages:
            raise RewardError(
                f"{proposal.action!r:.200} was not written by a language model, and the critic 'released' reads "
                "prompts and replies. Use it with a prompt agent, such as --policy research_released."
            )
        chat = [*proposal.messages, {"role": "assistant", "content": proposal.text}]
        clean = [{"role": message["role"], "content": self._chat.defused(message["content"])} for message in chat]
        try:
            return encode(self.tokenizer, clean)[-self.max_tokens :]
        except TemplateError as error:
            raise RewardError(f"The chat template of {self.name} refuses the agent's prompt: {error}") from error
