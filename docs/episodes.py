"""The episodes that the environment pages show: of the synthetic world, or of invented text.

The questions of a data set are not part of the library, and not all of their licences would allow a copy here. So the
page of an environment whose data is not generated shows invented text of the same kind, from `invented.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raggym_env import Answer, Passage, Question, Search, Task, policies
from raggym_env.cards import EnvCard
from raggym_env.envs import RAGEnv, make_env
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Policy
from raggym_env.retrieval import make as make_retriever
from raggym_env.rewards import make as make_reward
from raggym_env.storage.parsing import parse_toml

INVENTED = Path(__file__).with_name("invented.toml")


def episode(card: EnvCard) -> str:
    """Return an episode as `render_mode="ansi"` shows it."""
    if card.dataset.format == "synth":
        env = make_env(card.name, split="test", render_mode="ansi", max_searches=3, k=3)
        return played(env, policies.make("lexical"))
    world = parse_toml(INVENTED.read_text(encoding="utf-8"))[card.dataset.format]
    return played(invented_env(world, card), iter(map(action, world["actions"])))


def invented_env(world: dict[str, Any], card: EnvCard) -> RAGEnv:
    """Return the environment of an invented question, with the card's settings, two passages per search."""
    passages = [Passage(str(number), *row) for number, row in enumerate(world["passages"])]
    options = tuple(world.get("options", ()))
    correct = options.index(world["answer"]) if options else None
    task = Task(Question("invented", world["question"], options), (world["answer"],), correct)
    dynamics = Dynamics(make_retriever("rank-bm25", passages), k=2, max_searches=card.episode.max_searches)
    reward = StepReward(card.episode.metric, make_reward("mini"))
    return RAGEnv([task], dynamics, reward, render_mode="ansi")


def action(text: str) -> Search | Answer:
    return Answer(text.removeprefix("=")) if text.startswith("=") else Search(text)


def played(env: RAGEnv, agent: Policy | Iterable[Search | Answer]) -> str:
    """Play an episode by a policy or by a list of actions, and return it as text."""
    obs, _ = env.reset(seed=0, options={"index": 0})
    script = iter(agent) if isinstance(agent, Iterable) else None
    ended = False
    while not ended:
        step = next(script) if script is not None else agent.act(obs)  # type: ignore[union-attr]
        obs, _, terminated, truncated, _ = env.step(step)
        ended = terminated or truncated
    return str(env.render())
