"""Environments as a taskset of verifiers, whose version 1 runs evaluations, prime-rl and the Environments Hub.

    vf-eval raggym-search --env.taskset.card RAGGym-HotpotQA-v0 --env.agent.harness.id null ...

The package that verifiers finds by that name is in `examples/verifiers/raggym_search`; this is the module that it
exports from. The model calls the tools `search` and `answer` of one tool server, which all rollouts share and which
takes the steps of the episode that `RAGEnv` would run. The outcome is the reward. Metrics are the mean process reward,
the number of searches and the scores of `raggym eval`; `info["raggym_episode"]` of a trace has both rewards of every
step, in the form of a run's records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field

from raggym_env.cards import env_card
from raggym_env.core import Action, Answer, Search, StopReason, Turn
from raggym_env.core import State as EpisodeState
from raggym_env.data import load_tasks
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, MissingExtra, RAGGymError, RetrievalError
from raggym_env.evaluation.scores import searches_of
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.instructions import ENDED, INSTRUCTIONS
from raggym_env.integrations.recording import RecordedSession
from raggym_env.integrations.session import Session, load_world
from raggym_env.mdp.records import Episode
from raggym_env.text.tagged import tagged_text

try:
    import verifiers.v1 as vf
except ImportError as error:
    raise MissingExtra("verifiers", "verifiers") from error

__all__ = ["EPISODE", "SearchConfig", "SearchData", "SearchState", "SearchTask", "SearchTaskset", "SearchTools"]
__all__ += ["SearchToolsConfig"]

EPISODE = "raggym_episode"
"""Key of the episode's record in the `info` of a trace."""


class SearchToolsConfig(vf.SharedToolsetConfig):  # type: ignore[misc]  # an untyped base
    """The settings of the tool server; those of the taskset are copied into it."""

    card: str = ""
    split: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class SearchConfig(vf.TasksetConfig):  # type: ignore[misc]
    """The settings of the taskset, `--env.taskset.*`."""

    card: str = "RAGGym-Synth-v0"
    """Id of an environment, or path of its card."""
    split: str | None = None
    """Split of the environment; by default the card's own."""
    k: int | None = None
    """Passages per search, in place of the card's."""
    max_searches: int | None = None
    """Searches per episode, in place of the card's."""
    process_reward: str | None = None
    """Process reward, in place of the card's; "none" for none."""
    trust_card: bool = False
    """Whether a card at a path may use the user's authority; see `raggym_env.cards`."""
    tools: SearchToolsConfig = SearchToolsConfig()


class SearchState(vf.State):  # type: ignore[misc]
    """What a rollout's tool calls share with its scoring. It is not shown to the model."""

    row: int | None = None
    """The question's place in the split."""
    episode: dict[str, Any] = Field(default_factory=dict)
    """The record of the episode so far, with the texts of its passages."""
    scores: dict[str, float] = Field(default_factory=dict)
    """The scores of that record by `raggym eval`."""
    failure: str = ""
    """Why a step failed that was not the model's fault. The rollout then fails."""


class SearchTools(vf.Toolset[SearchToolsConfig, SearchState]):  # type: ignore[misc]
    """The tool server of all rollouts. It keeps nothing between calls but the world: an episode is in the state."""

    TOOL_PREFIX = None  # the tools are called `search` and `answer`, without the server's name

    _world: Episodes
    _batcher: StepBatcher

    async def setup(self) -> None:
        """Load the data, open or build the index, and make the process reward."""
        config = self.config
        self._world = await asyncio.to_thread(load_world, config.card, config.split, **config.settings)
        self._batcher = StepBatcher(self._world)

    @vf.tool  # type: ignore[untyped-decorator]
    async def search(self, query: str) -> str:
        """Search the encyclopedia. The result is the passages that match best, and how many searches are left."""
        return await self._take(Search(query))

    @vf.tool  # type: ignore[untyped-decorator]
    async def answer(self, text: str) -> str:
        """Answer the question, which ends the episode. Pass the answer alone, as short as it can be."""
        return await self._take(Answer(text))

    async def _take(self, action: Action) -> str:
        recorded = self._resumed()
        if recorded.session.done or self.state.failure:
            raise ValueError(ENDED)
        try:
            text = await recorded.take(action)
        except InvalidAction:
            raise  # the model reads it, and may try again
        except RAGGymError as error:
            self.state.failure = f"{type(error).__name__}: {error}"
            return "The search engine failed, and the episode has ended."
        self.state.episode, self.state.scores = recorded.episode().to_json(full=True), recorded.scores()
        return text

    def _resumed(self) -> RecordedSession:
        """Return a session in the state that the rollout's record leads to, with the steps of that record."""
        if self.state.row is None:
            raise ValueError("This tool server serves rollouts of verifiers only: the call names none.")
        recorded = RecordedSession(Session(self._world, batcher=self._batcher))
        recorded.session.reset(row=self.state.row)
        if self.state.episode:
            episode = Episode.from_json(self.state.episode)
            recorded.steps += episode.steps
            searches = [(step.action.query, step.passages) for step in episode.steps if isinstance(step.action, Search)]
            history = tuple(Turn(query, passages) for query, passages in searches)
            left = recorded.state.searches_left - len(history)
            stop = None if episode.stop is None else StopReason(episode.stop)
            recorded.session.state = replace(recorded.state, history=history, searches_left=left, stop=stop)
        return recorded


class SearchData(vf.TaskData):  # type: ignore[misc]
    """The data of a question that a rollout starts from. It holds no gold answer."""

    row: int


class SearchTask(vf.Task[SearchData, SearchState, vf.TaskConfig]):  # type: ignore[misc]
    """One question: when its episode ends, and how it is rewarded."""

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Tell the tools which question it is."""
        trace.state.row = self.data.row

    @vf.stop  # type: ignore[untyped-decorator]
    async def episode_over(self, trace: vf.Trace) -> bool:
        """End the rollout with the episode, without a further reply of the model."""
        return bool(trace.state.failure) or trace.state.episode.get("stop") is not None

    @vf.reward  # type: ignore[untyped-decorator]
    async def outcome(self, trace: vf.Trace) -> float:
        """Return the score of the answer by the card's metric; 0 where the model did not answer."""
        if trace.state.failure:  # a failure is never scored
            raise RetrievalError(trace.state.failure)
        episode = _episode(trace.state)
        trace.info[EPISODE] = episode.to_json()
        return float(episode.steps[-1].outcome) if episode.steps else 0.0

    @vf.metric  # type: ignore[untyped-decorator]
    async def episode_scores(self, trace: vf.Trace) -> dict[str, float]:
        """Return the mean process reward of a step, the number of searches, and the scores of `raggym eval`."""
        episode = _episode(trace.state)
        rewards = [step.process_reward for step in episode.steps]
        scores = {"process_reward": sum(rewards) / len(rewards)} if rewards else {}
        return {**scores, "searches": float(searches_of(episode)), **trace.state.scores}


def _episode(state: SearchState) -> Episode:
    return Episode.from_json(state.episode) if state.episode else Episode("", "", (), None, None)


class SearchTaskset(vf.Taskset[SearchTask, SearchConfig]):  # type: ignore[misc]
    """The questions of an environment's split."""

    def load(self) -> Iterator[SearchTask]:
        """Yield the questions. Errors are those of `raggym_env.data.load_tasks`."""
        config = self.config
        card = env_card(config.card, trust=config.trust_card)
        searches = card.episode.max_searches if config.max_searches is None else config.max_searches
        for row, task in enumerate(load_tasks(card, config.split).tasks):
            prompt = tagged_text(EpisodeState(task.question, (), searches))
            yield SearchTask(SearchData(id=task.id, prompt=prompt, system_prompt=INSTRUCTIONS, row=row), config.task)

    @classmethod
    def toolsets(cls, config: SearchConfig) -> list[vf.Toolset]:
        """Return the one tool server that all rollouts share."""
        names = ("k", "max_searches", "process_reward")
        settings = {name: value for name in names if (value := getattr(config, name)) is not None}
        settings["trust"] = config.trust_card
        update = {"card": config.card, "split": config.split, "settings": settings}
        return [SearchTools(config.tools.model_copy(update=update))]


if __name__ == "__main__":
    SearchTools.run()
