"""An environment for SkyRL: text in, text out, and a reward for every turn.

    raggym export RAGGym-Synth-v0 --to skyrl --split train --out data

    @ray.remote(num_cpus=1)
    def main(cfg):                                          # as in SkyRL's examples of own environments
        register("RAGGym-Synth-v0", split="train", process_reward="mini")
        BasePPOExp(cfg).run()

SkyRL puts the reward of a turn on the last token of that turn, so outcome and process rewards reach the tokens that
earned them. Its environments step in threads; those that step at the same time share their searches and process
rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from raggym_env.build import load_mdp
from raggym_env.cards import EnvCard
from raggym_env.core import StopReason
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, MissingExtra, OptionError
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.session import TRAINING_SECONDS, Session, is_row
from raggym_env.text.tagged import parse_tagged

try:
    import skyrl_gym
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput, ConversationType
except ImportError as error:
    raise MissingExtra("An environment for SkyRL", "skyrl") from error

__all__ = ["RAGTextEnv", "register"]


def register(
    card: str | Path | EnvCard,
    split: str | None = None,
    *,
    id: str = "raggym",
    invalid_reward: float = -1.0,
    passage_chars: int = 600,
    **settings: Any,
) -> type[RAGTextEnv]:
    """Register an environment with `skyrl_gym`, for rows of `raggym export --to skyrl`.

    Call it in the process that runs SkyRL's generator, before the training. The corpus, the index and the process
    reward are loaded now, once for all episodes.

    Args:
        card: Name, path or card of the environment that the rows were exported from.
        split: Split that they were exported from; by default the card's `default_split`.
        id: The `env_class` of the rows.
        invalid_reward: Reward of a reply that does not end with an action, and so ends its episode.
        passage_chars: Characters shown of each passage.
        settings: The other arguments of `raggym_env.build.load_mdp`, whose errors these are too.

    Returns:
        The registered class.

    Raises:
        skyrl_gym.error.RegistrationError: The id is taken.
    """
    mdp = load_mdp(card, split, **settings)
    world = Episodes(mdp.tasks, mdp.dynamics, mdp.reward)
    shared = {
        "world": world,
        "batcher": StepBatcher(world, seconds=TRAINING_SECONDS),
        "source": {"environment": mdp.card.name, "split": mdp.split},
        "invalid_reward": invalid_reward,
        "passage_chars": passage_chars,
    }
    # A class, since SkyRL calls its static method that averages metrics.
    registered = type("RAGTextEnv", (RAGTextEnv,), shared)
    skyrl_gym.register(id=id, entry_point=registered)
    return registered


class RAGTextEnv(BaseTextEnv):  # type: ignore[misc]  # skyrl_gym has no types
    """One episode. Replies end with `<search>query</search>` or `<answer>text</answer>`, as `TaggedText` reads them.

    It ends as `RAGEnv` does; also with a reply that is no action, whose reward is `invalid_reward`, and after
    SkyRL's `max_turns`, so set `generator.max_turns` to the card's `max_searches` + 1 or more.
    """

    world: ClassVar[Episodes]
    batcher: ClassVar[StepBatcher]
    source: ClassVar[Mapping[str, str]]
    """Card and split of the rows."""
    invalid_reward: ClassVar[float]
    passage_chars: ClassVar[int]

    def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None) -> None:
        """Make an environment for a row.

        Args:
            env_config: SkyRL's configuration for this `env_class`. It has none.
            extras: The row's columns, and `max_turns`.

        Raises:
            OptionError: The row was exported from another environment or split, or was not made by `raggym export`.
        """
        super().__init__()
        extras = extras or {}
        self._row = self._row_of(extras.get("extra_info"))
        self.max_turns = extras.get("max_turns", self.world.dynamics.max_searches + 1)
        self.session = Session(
            self.world, batcher=self.batcher, passage_chars=self.passage_chars, seconds=TRAINING_SECONDS
        )
        """The episode: its task, state and rewards."""
        self._no_action = False

    def init(self, prompt: ConversationType) -> tuple[ConversationType, dict[str, Any]]:
        """Start the episode, and return the row's prompt, which has the question already."""
        self.session.reset(row=self._row)
        self.turns, self._no_action = 0, False
        return prompt, {}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Take the action that a reply ends with, and return the new passages and the reward of this turn.

        `metadata` has the two parts of the reward, `outcome_reward` and `process_reward`, and at the end `stop_reason`.

        Raises:
            RetrievalError, RewardError: A search or a process reward failed. SkyRL has no way to leave an episode out,
                so its training stops.
        """
        self.turns += 1
        try:
            parsed = parse_tagged(action)
        except InvalidAction as error:
            self._no_action = True
            metadata = {"outcome_reward": 0.0, "process_reward": 0.0, "stop_reason": StopReason.NO_ACTION.value}
            return _output([], self.invalid_reward, True, {**metadata, "failure": str(error)})
        text = self.session.step(parsed)
        session, stop = self.session, self.session.state.stop if self.session.state else None
        over = session.done or self.turns >= self.max_turns
        metadata = {"outcome_reward": session.outcome, "process_reward": session.process}
        if over:
            metadata["stop_reason"] = stop.value if stop else "max_turns"
        return _output([] if over else [{"role": "user", "content": text}], session.reward, over, metadata)

    def get_metrics(self) -> dict[str, Any]:
        """Return the episode's outcome, mean process reward, searches, and whether it ended without an action."""
        rewards, state = self.session.rewards, self.session.state
        return {
            "outcome": sum(step.outcome for step in rewards),
            "process_reward": sum(step.process_reward for step in rewards) / max(1, len(rewards)),
            "searches": len(state.history) if state else 0,
            "no_action": self._no_action,
        }

    def _row_of(self, info: Any) -> int:
        info = info if isinstance(info, Mapping) else {}
        index = info.get("index")
        is_source = all(info.get(key) == value for key, value in self.source.items())
        if is_source and is_row(index, info.get("question_id"), self.world):
            return index
        keys = {key: info.get(key) for key in ("environment", "split", "index", "question_id")}
        raise OptionError(
            f"The row is on {keys!r:.400}, which is no question of {dict(self.source)}. Register the environment and "
            "split that `raggym export --to skyrl` was run on."
        )


def _output(messages: ConversationType, reward: float, over: bool, metadata: dict[str, Any]) -> BaseTextEnvStepOutput:
    return BaseTextEnvStepOutput(observations=messages, reward=reward, done=over, metadata=metadata)
