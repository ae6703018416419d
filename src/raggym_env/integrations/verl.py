"""The search tool and the reward function of an environment for verl's agent loop.

    raggym export RAGGym-Synth-v0 --to verl --out data
    python -m verl.trainer.main_ppo data.train_files=data/train.parquet ... \\
        actor_rollout_ref.rollout.multi_turn.tool_config_path=data/verl.yaml \\
        reward.custom_reward_function.path=pkg://raggym_env.integrations.verl \\
        reward.custom_reward_function.name=compute_score

The tool asks a server, `raggym serve`, which searches for all rollouts together. The reward is the outcome: the score
of the answer by the environment's own metric. verl has no place for the reward of a step.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Mapping
from typing import Any

try:
    from verl.tools.base_tool import BaseTool
    from verl.tools.schemas import ToolResponse
except ImportError as error:
    raise ImportError(
        "raggym_env.integrations.verl is for use inside verl 0.9 or newer, which is not installed here. It needs an "
        "environment of its own: pip install verl raggym-env"
    ) from error

from raggym_env.core import Answer, Question, State, Task, Turn
from raggym_env.errors import InvalidAction, RewardError
from raggym_env.mdp.metrics import score
from raggym_env.protocols import search
from raggym_env.retrieval.http import HTTPRetriever
from raggym_env.text.replies import LONGEST_REPLY
from raggym_env.text.tagged import information, parse_tagged
from raggym_env.text.untrusted import ACTION_CHARS

__all__ = ["SearchTool", "compute_score"]


class SearchTool(BaseTool):  # type: ignore[misc]  # verl has no types
    """The tool `search(query)`: the passages of a server as text in which nothing looks like a tag or a control token.

    `config` has the server's `url`, `topk` passages per search, `max_searches` per rollout and, if it should not be
    600, `passage_chars`: characters shown of each passage. The server is first asked when a model searches.
    """

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        # Searches of each running rollout. verl makes one tool for all, and hands over the rollout with each call.
        self._searches: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @functools.cached_property
    def _retriever(self) -> HTTPRetriever:
        return HTTPRetriever(url=self.config["url"])

    async def execute(
        self, instance_id: str, parameters: Mapping[str, Any], *, agent_data: Any, **options: Any
    ) -> tuple[Any, float, dict[str, Any]]:
        """Return the passages, or what is wrong with the call, as the tool's text; a reward of 0; and no metrics.

        Raises:
            RetrievalError: The server failed. verl shows the message to the model.
        """
        query = parameters.get("query")
        if not isinstance(query, str) or not query.strip() or len(query) > ACTION_CHARS:
            return ToolResponse(text=f"query must be a text of 1 to {ACTION_CHARS:,} characters."), 0.0, {}
        left = self.config["max_searches"] - self._searches.get(agent_data, 0)
        if left <= 0:
            return ToolResponse(text="No searches are left: answer now."), 0.0, {}
        # Counted before it is awaited, since a model may search for several things at once.
        self._searches[agent_data] = self._searches.get(agent_data, 0) + 1
        try:
            # In a thread, since the client waits: the searches of other rollouts reach the server meanwhile.
            (hits,) = await asyncio.to_thread(lambda: search(self._retriever, [query], self.config["topk"]))
        except BaseException:
            self._searches[agent_data] -= 1
            raise
        state = State(Question("", ""), (Turn(query, tuple(hit.passage for hit in hits)),), left - 1)
        return ToolResponse(text=information(state, self.config.get("passage_chars", 600))), 0.0, {}


def compute_score(
    data_source: str, solution_str: str, ground_truth: Mapping[str, Any], extra_info: Any = None, **options: Any
) -> float:
    """Return the score of the answer that a rollout ends with, by the environment's metric; 0.0 without an answer.

    Raises:
        RewardError: The row does not come from `raggym export --to verl`.
    """
    info = extra_info if isinstance(extra_info, Mapping) else {}
    if not {"metric", "question_id", "question", "options", "correct"} <= info.keys():
        raise RewardError("The row's extra_info has no metric or question. Make the data by `raggym export --to verl`.")
    try:
        action = parse_tagged(solution_str[-LONGEST_REPLY:])
    except InvalidAction:
        return 0.0
    if not isinstance(action, Answer):
        return 0.0
    question = Question(info["question_id"], info["question"], tuple(info["options"]))
    return score(info["metric"], action.text, Task(question, tuple(ground_truth["target"]), info["correct"]))
