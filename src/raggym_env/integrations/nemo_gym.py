"""Environments as a resources server of NeMo Gym, on its Gymnasium base class and with its Gymnasium agent.

NeMo Gym's adapter for OpenEnv would not do: it resets every session with the same arguments, so a row of a data set
cannot name its question. A row here has the question's place in the split, and `rows` writes such rows. The reward of a
step is that of `RAGEnv`, and the agent adds them up; `settings: {process_weight: 0}` leaves the outcome alone. The
`info` of a step has both parts, and under "episode" those of all steps so far, in the form of a run's records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, PrivateAttr

from raggym_env.core import Action, Answer, Search
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, InvalidReset, MissingExtra
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.instructions import ENDED, INSTRUCTIONS, REMINDER
from raggym_env.integrations.recording import RecordedSession
from raggym_env.integrations.session import Session, load_world
from raggym_env.storage.parsing import ParseError, parse_json

try:
    from fastapi import HTTPException
    from nemo_gym.base_resources_server import BaseResourcesServerConfig
    from nemo_gym.openai_utils import NeMoGymResponse
    from resources_servers.gymnasium import GymnasiumServer
except ImportError as error:
    raise MissingExtra("NeMo Gym", "nemo-gym") from error

__all__ = ["TOOLS", "SearchServer", "SearchServerConfig", "rows"]

Json = dict[str, Any]


def _tool(name: str, description: str, argument: str, meaning: str) -> Json:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": meaning}},
        "required": [argument],
        "additionalProperties": False,
    }
    return {"type": "function", "name": name, "description": description, "parameters": parameters, "strict": True}


TOOLS = [
    _tool("search", "Search the encyclopedia.", "query", "A few words, or the name of a person or a thing."),
    _tool("answer", "Answer, which ends the episode.", "text", "The answer alone, as short as it can be."),
]
"""The tools in the form of the Responses API."""


def rows(world: Episodes, agent: str = "raggym_agent") -> Iterator[Json]:
    """Yield a row for each question: the prompt, the tools, the question's place, and the agent's name."""
    params = {"input": [{"role": "system", "content": INSTRUCTIONS}], "tools": TOOLS, "parallel_tool_calls": False}
    for row in range(len(world.tasks)):
        reference = {"type": "responses_api_agents", "name": agent}
        yield {"responses_create_params": params, "row": row, "agent_ref": reference}


class SearchServerConfig(BaseResourcesServerConfig):  # type: ignore[misc]  # an untyped base
    """The server's part of NeMo Gym's configuration."""

    card: str = "RAGGym-Synth-v0"
    """Id of an environment, or path of its card."""
    split: str | None = None
    """Split of the environment; by default the card's own."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Other arguments of `raggym_env.build.load_mdp`, such as `k` or `process_weight`."""
    max_sessions: int = Field(default=10_000, ge=1)
    """Episodes kept at a time. NeMo Gym's agent does not end one that it gives up, so the oldest makes room."""


def _info(running: RecordedSession) -> Json:
    """Return the rewards of the last step, and the record of the episode."""
    outcome, process_reward = running.session.outcome, running.session.process
    episode = running.episode().to_json()
    rewards = {"outcome_reward": outcome, "process_reward": process_reward}
    return {"question_id": episode["id"], **rewards, "episode": episode}


class SearchServer(GymnasiumServer):  # type: ignore[misc]
    """Runs an episode for each session. All share one index, and steps taken at the same time share a search."""

    config: SearchServerConfig
    _world: Episodes = PrivateAttr()
    _batcher: StepBatcher = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Load the data, open or build the index, and make the process reward."""
        super().model_post_init(context)
        self._world = load_world(self.config.card, self.config.split, **self.config.settings)
        self._batcher = StepBatcher(self._world)

    async def reset(self, metadata: Json, session_id: str | None = None) -> tuple[str, Json]:
        """Start the episode of a row, and return the question.

        Raises:
            HTTPException: 422, the row does not name a question by its place.
        """
        running = RecordedSession(Session(self._world, batcher=self._batcher))
        try:
            if metadata.get("row") is None:
                raise InvalidReset("a row must have the question's place in the split, row.")
            text = running.session.reset(row=metadata["row"])
        except InvalidReset as error:
            raise HTTPException(422, str(error)) from error
        while len(self.session_state) >= self.config.max_sessions:
            del self.session_state[next(iter(self.session_state))]
        self.session_state[session_id] = running
        return text, _info(running)

    async def step(
        self, action: NeMoGymResponse, metadata: Json, session_id: str | None = None
    ) -> tuple[str | None, float, bool, bool, Json]:
        """Take the steps that a response calls for; a response without a call is answered with a reminder.

        Raises:
            HTTPException: 409, the session runs no episode.
            RetrievalError: A search failed. The agent then fails the rollout, which gets no reward.
            RewardError: The process reward failed. Likewise.
        """
        running = self.session_state.get(session_id)
        if running is None:
            raise HTTPException(409, "This session runs no episode: reset first.")
        before = len(running.steps)
        outputs = [
            {"call_id": item.call_id, "output": await _output(running, item.name, item.arguments)}
            for item in action.output
            if item.type == "function_call"
        ]
        reward = sum(step.total for step in running.session.rewards[before:])
        stop = running.state.stop
        observation = None if outputs else REMINDER
        info = {**_info(running), "tool_outputs": outputs}
        return observation, reward, stop == "answer", stop == "search_budget", info


async def _output(running: RecordedSession, name: str, arguments: str) -> str:
    """Return the output of a call. One that takes no step says why, and changes nothing."""
    if running.session.done:
        return ENDED
    try:
        return await running.take(_action(name, arguments))
    except InvalidAction as error:
        return f"Not a step: {error}"


def _action(name: str, arguments: str) -> Action:
    if name not in ("search", "answer"):
        raise InvalidAction(f"there is no tool {name!r:.80}; call search or answer.")
    argument = "query" if name == "search" else "text"
    try:
        texts = parse_json(arguments)
    except ParseError as error:
        raise InvalidAction(f"the arguments of {name} are not JSON: {arguments!r:.200}.") from error
    if not isinstance(texts, dict) or texts.keys() != {argument} or not isinstance(texts[argument], str):
        raise InvalidAction(f"{name} takes one text, {argument}; got {arguments!r:.200}.")
    return Search(texts[argument]) if name == "search" else Answer(texts[argument])
