"""An environment for TRL's `environment_factory`: the model calls the tools `search` and `answer`.

    make = environment("RAGGym-Synth-v0", split="train", process_reward="mini")
    trainer = GRPOTrainer(
        model, reward_funcs=[outcome, process], args=GRPOConfig(reward_weights=[0.0, 0.0], ...),
        train_dataset=make.prompts(500), environment_factory=make,
    )

The environment owns the reward: the sum of its step rewards, outcome and process rewards weighted as in the card. The
two functions with weight 0 only log its parts.

`GRPOTrainer` of TRL 1.16 calls the tools of its environments one after another, so each search is a retriever call of
its own, and it needs a chat template with tools. `raggym_env.training.trl.episodes` is the other way: a `rollout_func`
that steps all episodes together, for any chat model, with credit per turn. `AsyncGRPOTrainer` calls tools in threads;
there, the environments of one factory share their searches and their process rewards.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raggym_env.cards import EnvCard
from raggym_env.core import Action, Answer, Search
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, LLMError, OptionError, RAGGymError
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.instructions import TRL_SYSTEM as SYSTEM
from raggym_env.integrations.session import TRAINING_SECONDS, Session, is_row, load_world
from raggym_env.training.trl.episodes import episode_prompts

__all__ = ["SYSTEM", "EnvironmentFactory", "RAGEnvironment", "environment", "outcome", "process"]

_logger = logging.getLogger(__name__)


def environment(
    card: str | Path | EnvCard,
    split: str | None = None,
    *,
    invalid_reward: float = -1.0,
    passage_chars: int = 600,
    **settings: Any,
) -> EnvironmentFactory:
    """Return a factory of environments for `GRPOTrainer` and `AsyncGRPOTrainer`.

    Args:
        card: Name, path or card of an environment.
        split: Split of the questions; by default the card's `default_split`.
        invalid_reward: Added to the reward of an episode that ends without an answer, because the model called no
            further tool or had no room left. A search beyond the budget ends the episode as in `RAGEnv`.
        passage_chars: Characters shown of each passage.
        settings: The other arguments of `raggym_env.build.load_mdp`, whose errors these are too.
    """
    factory = EnvironmentFactory(card, split, invalid_reward, passage_chars, settings)
    factory()  # now, since TRL would report an unknown card or a missing file much later
    return factory


class RAGEnvironment:
    """One episode at a time. TRL takes every public method but `reset` and `get_reward` for a tool.

    Made by an `EnvironmentFactory`. Properties are for reward functions, which get the argument `environments`.
    """

    def __init__(self, session: Session, invalid_reward: float) -> None:
        self._session = session
        self._invalid_reward = invalid_reward
        self._error: Exception | None = None

    def reset(self, *, index: Any = None, question_id: Any = None, **row: Any) -> None:
        """Start the episode of a row of `EnvironmentFactory.prompts`, whose prompt has the question already.

        Raises:
            OptionError: The row is of another environment, or of none.
        """
        if not is_row(index, question_id, self._session.world):
            raise OptionError(
                f"A row has the index {index!r:.80} and the question id {question_id!r:.80}, which are not those of a "
                "question of this environment. Make the training set with the factory's `prompts`."
            )
        self._error = None
        self._session.reset(row=index)

    def search(self, query: str) -> str:
        """
        Search an encyclopedia. Returns the best passages, each with its title, and the number of searches left.

        Args:
            query: What to look for: a name, a title or a short question.
        """
        return self._step(Search(query))

    def answer(self, text: str) -> str:
        """
        Answer the question. Call this once, when you know the answer: it ends the task.

        Args:
            text: The answer alone: a name, a date, a number, yes or no, or the letter of an option.
        """
        return self._step(Answer(text))

    def get_reward(self) -> float | None:
        """Return the sum of the step rewards, or None, which TRL ignores, if a search or process reward failed.

        Raises:
            LLMError: A process reward's model cannot be used at all.
            Exception: A bug in a user's retriever or reward, which TRL had shown to the model only.
        """
        if self._error is not None:
            # TRL turns what a tool raises into a text for the model, so what must not be overlooked is raised here.
            if isinstance(self._error, LLMError) or not isinstance(self._error, RAGGymError):
                raise self._error
            return None
        return self._session.episode_return + (0.0 if self._session.done else self._invalid_reward)

    @property
    def session(self) -> Session:
        """The episode: its task, state and rewards."""
        return self._session

    @property
    def failed(self) -> bool:
        """Whether a search or a process reward failed, so that the episode has no reward."""
        return self._error is not None

    def _step(self, action: Action) -> str:
        if self._error is not None:
            raise InvalidAction("The search engine failed, so this task has ended. Call no more tools.")
        if self._session.done:
            raise InvalidAction("This task has ended. Call no more tools.")
        try:
            return self._session.step(action)
        except InvalidAction:
            raise  # the model's mistake: the episode goes on
        except Exception as error:
            self._error = error
            _logger.warning("An episode has no reward: %r", error)
            raise


class EnvironmentFactory:
    """Makes environments that share one world; see `environment`. It can be pickled, for `AsyncGRPOTrainer`."""

    def __init__(
        self,
        card: str | Path | EnvCard,
        split: str | None,
        invalid_reward: float,
        passage_chars: int,
        settings: dict[str, Any],
    ) -> None:
        self._card, self._split, self._settings = card, split, settings
        self._invalid_reward, self._passage_chars = invalid_reward, passage_chars

    @functools.cached_property
    def world(self) -> Episodes:
        """The tasks, the transition and the rewards that all environments of this process share."""
        return load_world(self._card, self._split, **self._settings)

    @functools.cached_property
    def _batcher(self) -> StepBatcher:
        return StepBatcher(self.world, seconds=TRAINING_SECONDS)

    def __call__(self) -> RAGEnvironment:
        """Return a new environment."""
        chars, seconds = self._passage_chars, TRAINING_SECONDS
        session = Session(self.world, batcher=self._batcher, passage_chars=chars, seconds=seconds)
        return RAGEnvironment(session, self._invalid_reward)

    def prompts(self, n: int | None = None, *, seed: int = 0, system: str = SYSTEM) -> Any:
        """Return questions as a training set: a `datasets.Dataset` with `prompt`, `index` and `question_id`.

        Args:
            n: Number of questions, drawn without replacement; by default all of them.
            seed: Seed of the sample and its order.
            system: The instructions.

        Raises:
            OptionError: There are fewer questions than `n`.
            MissingExtra: datasets is not installed.
        """
        world = self.world
        return episode_prompts(RAGEnv(world.tasks, world.dynamics, world.reward), n, seed=seed, system=system)

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads a world and starts threads of its own.
        return {name: value for name, value in vars(self).items() if name not in ("world", "_batcher")}


def outcome(environments: Sequence[RAGEnvironment], **columns: Any) -> list[float | None]:
    """Return each episode's outcome: the score of its answer, 0 without one, None if a search or reward failed.

    A reward function of `GRPOTrainer`; with weight 0 it only logs.
    """
    return [None if env.failed else sum(step.outcome for step in env.session.rewards) for env in environments]


def process(environments: Sequence[RAGEnvironment], **columns: Any) -> list[float | None]:
    """Return each episode's sum of process rewards, None if a search or reward failed. As `outcome`, it may log."""
    return [None if env.failed else sum(step.process_reward for step in env.session.rewards) for env in environments]
