"""raggym-env: question answering with a search engine as a Gymnasium environment, rewarded step by step.

>>> import gymnasium as gym, raggym_env
>>> env = gym.make("RAGGym-Synth-v0")
>>> obs, info = env.reset(seed=0)
>>> obs, reward, terminated, truncated, info = env.step(raggym_env.Search(obs["question"]))
>>> len(obs["history"][0].passages)
5
"""

from typing import Any

from raggym_env.core import (
    Action,
    Answer,
    Evidence,
    Fact,
    Obs,
    Passage,
    Question,
    Search,
    State,
    StopReason,
    Task,
    Turn,
)
from raggym_env.envs.registration import register_card, register_cards_with_gymnasium
from raggym_env.errors import RAGGymError

__all__ = [
    "Action",
    "Answer",
    "Evidence",
    "Fact",
    "Obs",
    "Passage",
    "Question",
    "RAGGymError",
    "Search",
    "State",
    "StopReason",
    "Task",
    "Turn",
    "register_card",
]

register_cards_with_gymnasium()


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looked up on first use, which takes longer than importing all of the above
        from importlib.metadata import version

        return version("raggym-env")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
