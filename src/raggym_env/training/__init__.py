"""Training: process data, and bridges to TRL and Stable-Baselines3. It has no algorithms of its own.

::

    process_data/     policy, critic and environment -> trajectories with scored candidates -> rows for TRL
        collect.py        runs a policy with a critic and records every candidate
        trajectories.py   process data as it is written and read
        prompts.py        states and actions as the prompts and replies of a prompt agent
        relabel.py        scores of a language model that knows the gold answer and the whole episode
        rows.py           trajectories -> rows
    trl/              sft.py, dpo.py, prm.py, grpo.py, episode_grpo.py: one file per trainer
        config.py lm.py recipe.py fit.py   what the trainers share: options, models, folders, running and resuming
        episodes.py tokens.py credit.py    whole episodes for TRL's GRPOTrainer, with credit per turn
    mini.py           trains the process reward `mini`
    sb3.py            networks and policies for Stable-Baselines3 over `envs.CandidateActions`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.relabel import relabel
from raggym_env.training.process_data.rows import export
from raggym_env.training.process_data.trajectories import Collection, WeightedCollection

if TYPE_CHECKING:
    from raggym_env.training.mini import MiniConfig, train_mini
    from raggym_env.training.trl.config import EvalSpec, PairConfig, TrainingConfig
    from raggym_env.training.trl.dpo import train_dpo
    from raggym_env.training.trl.episode_grpo import EpisodeConfig, train_episodes
    from raggym_env.training.trl.grpo import ReplyConfig, StepRewardConfig, train_grpo
    from raggym_env.training.trl.prm import train_prm
    from raggym_env.training.trl.recipe import Recipe
    from raggym_env.training.trl.sft import train_sft

__all__ = ["Collection", "EpisodeConfig", "EvalSpec", "MiniConfig", "PairConfig", "Recipe", "Renderer", "ReplyConfig"]
__all__ += ["StepRewardConfig", "TrainingConfig", "WeightedCollection"]
__all__ += ["collect", "export", "relabel"]
__all__ += ["train_dpo", "train_episodes", "train_grpo", "train_mini", "train_prm", "train_sft"]

# Loaded on first use (PEP 562): collecting and exporting must not wait for PyTorch, which the trainers import.
_MODULES = {
    "mini": ("MiniConfig", "train_mini"),
    "trl.config": ("EvalSpec", "PairConfig", "TrainingConfig"),
    "trl.dpo": ("train_dpo",),
    "trl.episode_grpo": ("EpisodeConfig", "train_episodes"),
    "trl.grpo": ("ReplyConfig", "StepRewardConfig", "train_grpo"),
    "trl.prm": ("train_prm",),
    "trl.recipe": ("Recipe",),
    "trl.sft": ("train_sft",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
