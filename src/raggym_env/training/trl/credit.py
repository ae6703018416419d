"""Credit per turn in whole episodes: every reply of an episode is rewarded for what it led to, and for nothing else.

    tokens        I look. <search>Ada</search>   <information> ...   <answer>Oslo</answer>
    reward        r_0 = process reward           -                   r_1 = process reward + outcome
    return        R_0 = r_0 + discount r_1       -                   R_1 = r_1
    advantage     (R_0 - mean) / std             0                   (R_1 - mean) / std

**Return.** `R_t = sum over k >= t of discount^(k - t) r_k`. So no turn is credited or blamed for the turns before it.

**Advantage.** `A_t = (R_t - mean(P)) / (std(P) + 1e-4)`, where the peers `P` of a turn are the returns that it is
compared with, its own among them:

1. those of the turns in the same state, i.e. the same question with the same history, if there are at least two. All
   first turns of a question are in one state, and so are the turns after equal searches. These are the anchor states of
   GiGPO (arXiv:2505.10978), whose episode advantage is not added here: the return already holds the outcome;
2. else those of the turns with the same index `t` in the rollouts of the question, if there are at least two;
3. else `R_t` and the returns of the first turns of the question's other rollouts. So the last turn of the longest
   rollout learns as well. With nothing to compare with, the advantage is 0.

`std` is the sample standard deviation as in TRL, by `GRPOConfig.scale_rewards`: of the peers ("group"), of all returns
of the generation batch ("batch"), or not divided by at all ("none"). "batch" is the soundest here: of two peers, each
is .71 standard deviations from their mean, however little they differ.

**Discount.** With 1, the sum of process rewards must mean something: it does if each is a *change* of a value, as of
`mini` and `evidence`. A process reward that is itself a value of the action, as `evidence_value`, already looks ahead:
use 0, or every further search is worth its value once more.

A rollout whose search or process reward failed has no rewards. It is nobody's peer and its advantages are 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from raggym_env.errors import MissingExtra, OptionError, RewardError, check_option
from raggym_env.training.trl.config import trl
from raggym_env.training.trl.episodes import episode_return
from raggym_env.training.trl.tokens import TurnTokens

try:
    import torch
    from accelerate.utils import gather_object
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Credit", "EpisodeTrainer", "Scale", "returns", "token_advantages", "turn_advantages"]

Credit = Literal["turn", "episode"]
Scale = Literal["group", "batch", "none"]

_EPSILON = 1e-4  # TRL's


def returns(rewards: Sequence[float], discount: float) -> list[float]:
    """Return the discounted sum of the rewards from each turn on.

    >>> returns([1.0, 0.0, 4.0], 0.5)
    [2.0, 2.0, 4.0]
    """
    values: list[float] = []
    for reward in reversed(rewards):
        values.append(reward + discount * (values[-1] if values else 0.0))
    return values[::-1]


def turn_advantages(
    rewards: Sequence[Sequence[float] | None],
    states: Sequence[Sequence[str]],
    *,
    num_generations: int,
    discount: float = 1.0,
    scale: Scale = "batch",
) -> list[list[float]]:
    """Return the advantage of every turn; the module's documentation has the formula.

    Args:
        rewards: One reward per turn of each rollout; None for a rollout that failed.
        states: The `state_key` of each turn.
        num_generations: Rollouts per question. Those of one question follow one another.
        discount: Weight of the next turn's return, in [0, 1].
        scale: What the differences are divided by.

    >>> turn_advantages([[0.0, 1.0], [0.5]], [["a", "b"], ["a"]], num_generations=2, scale="none")
    [[0.25, 0.25], [-0.25]]
    """
    values = [None if row is None else returns(row, discount) for row in rewards]
    by_state, by_index = defaultdict(list), defaultdict(list)
    for rollout, row in enumerate(values):
        for turn, value in enumerate(row or ()):
            by_state[states[rollout][turn]].append(value)
            by_index[rollout // num_generations, turn].append(value)
    everything = [value for row in values for value in row or ()]

    def advantage(rollout: int, turn: int, value: float) -> float:
        group = rollout // num_generations
        peers = by_state[states[rollout][turn]]
        if len(peers) < 2:
            peers = by_index[group, turn]
        if len(peers) < 2:
            first = range(group * num_generations, min((group + 1) * num_generations, len(values)))
            peers = [value, *(row[0] for other in first if other != rollout and (row := values[other]))]
        if len(peers) < 2:
            return 0.0
        spread = {"group": peers, "batch": everything, "none": ()}[scale]
        divisor = float(np.std(spread, ddof=1)) + _EPSILON if spread else 1.0
        return (value - float(np.mean(peers))) / divisor

    return [
        [0.0] * len(states[rollout])
        if row is None
        else [advantage(rollout, turn, value) for turn, value in enumerate(row)]
        for rollout, row in enumerate(values)
    ]


def token_advantages(turns: Sequence[Sequence[TurnTokens]], advantages: Sequence[Sequence[float]], mask: Any) -> Any:
    """Return each token's advantage: that of the turn that it belongs to, and 0 for tokens of the environment.

    Args:
        turns: The turns of each rollout.
        advantages: One advantage per turn.
        mask: 1 for each token of the completions that is in the loss, of shape (rollouts, tokens).

    Raises:
        RewardError: The tokens in the loss are not those of the turns.
    """
    result, own = torch.zeros(mask.shape, device=mask.device), torch.zeros_like(mask)
    for rollout, row in enumerate(turns):
        for turn, value in zip(row, advantages[rollout], strict=True):
            result[rollout, turn.start : turn.end] = value
            own[rollout, turn.start : turn.end] = 1
    # TRL may leave out a whole rollout that was cut off (`mask_truncated_completions`), but never a part of one.
    if not torch.equal(mask.bool(), own.bool() & mask.any(1, keepdim=True)):
        raise RewardError("The tokens in TRL's loss are not those of the model's turns, so no turn can be credited.")
    return result


class EpisodeTrainer(trl.GRPOTrainer):  # type: ignore[misc]  # TRL's classes are resolved at run time
    """TRL's `GRPOTrainer` for `EpisodeRollouts`, with advantages per turn.

        trainer = EpisodeTrainer(
            model, reward_funcs=episode_return, args=args, processing_class=tokenizer,
            train_dataset=episode_prompts(env, 500), rollout_func=EpisodeRollouts(env),
        )

    Args:
        credit: "turn" gives each reply its own advantage, see `credit`. "episode" is TRL's GRPO: one advantage, of the
            sum of all rewards, for every token of an episode. "turn" is the default: with a sum, a good search in an
            episode that ends in a wrong answer is unlearned, and a useless one before a right answer is learned.
        discount: Weight of the next turn's return, in [0, 1]; for credit "turn".
        args, kwargs: Those of `GRPOTrainer`. Its logs have the rewards; `credit/same_state` is the share of turns that
            were compared with turns in the same state.

    Raises:
        OptionError: An option is out of range, or cannot be combined with credit per turn.
    """

    def __init__(self, *args: Any, credit: Credit = "turn", discount: float = 1.0, **kwargs: Any) -> None:
        check_option("credit", credit, credit in get_args(Credit), f"one of {get_args(Credit)}")
        check_option("discount", discount, 0 <= discount <= 1, "in [0, 1]")
        super().__init__(*args, **kwargs)
        self.credit, self.discount = credit, discount
        if credit == "turn":
            self._check_turn_credit()

    def _check_turn_credit(self) -> None:
        needs = {
            "reward_funcs=episode_return, and no weights": self.reward_funcs == [episode_return]
            and self.args.reward_weights is None,
            "importance_sampling_level='token', since one ratio for a sequence mixes its turns":
                self.args.importance_sampling_level == "token",
            "multi_objective_aggregation='sum_then_normalize'":
                self.args.multi_objective_aggregation == "sum_then_normalize",
        }  # fmt: skip
        for option, holds in needs.items():
            if not holds:
                raise OptionError(f"Credit per turn needs {option}. Otherwise use credit='episode'.")

    # A private method, as in `episodes`: TRL 1.16 has no public place between scoring and loss. Its loss takes
    # advantages of shape (B, T) "to support subclasses".
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Return TRL's batch, with one advantage per token in place of one per completion."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.credit == "episode":
            return batch
        if any("episode_turns" not in row for row in inputs) or batch["advantages"].shape != (len(inputs),):
            raise RewardError(
                "The rows have no turns to credit. Use EpisodeRollouts as rollout_func, and the version of TRL that "
                "pyproject.toml asks for."
            )
        turns: list[list[TurnTokens]] = [row["episode_turns"] for row in inputs]
        states = gather_object([[turn.state for turn in row] for row in turns])
        rewards = gather_object([row["episode_rewards"] for row in inputs])
        training = self.model.training
        advantages = turn_advantages(
            rewards,
            states,
            num_generations=self.num_generations if training else self.num_generations_eval,
            discount=self.discount,
            scale=self.scale_rewards,
        )
        counts = Counter(key for row, scored in zip(states, rewards, strict=True) if scored for key in row)
        shared = sum(count for count in counts.values() if count > 1) / max(1, counts.total())
        self._metrics["train" if training else "eval"]["credit/same_state"].append(shared)
        first = self.accelerator.process_index * len(inputs)
        mask = batch["completion_mask"] * batch["tool_mask"]
        batch["advantages"] = token_advantages(turns, advantages[first : first + len(inputs)], mask)
        return batch
