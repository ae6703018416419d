"""Many episodes at once, in each of Gymnasium's autoreset modes.

A step of the vector environment makes one batched search and one batched call of the process reward, and a policy's
`act` takes the batched observation. The modes differ in what follows the end of an episode:

- NextStep (the default): the next step only resets it; the action for that environment is ignored.
- SameStep: the step that ends it also resets it; the last observation is in `infos["final_obs"]`.
- Disabled: you reset it yourself, with a mask.
"""

import gymnasium as gym
import numpy as np

from raggym_env import policies  # importing the package registers the ids

EPISODES = 20
policy = policies.make("lexical")


def run(mode: str) -> list[float]:
    """Return the outcomes of the first episodes to end."""
    envs = gym.make_vec("RAGGym-Synth-v0", num_envs=8, autoreset_mode=mode)
    obs, infos = envs.reset(seed=0)
    ended = np.zeros(8, bool)
    outcomes = []
    while len(outcomes) < EPISODES:
        obs, _rewards, terminated, truncated, infos = envs.step(policy.act(obs))
        ended = terminated | truncated
        if ended.any():
            final = infos["final_info"] if mode == "SameStep" else infos
            outcomes += final["outcome_reward"][ended].tolist()
        if mode == "Disabled" and ended.any():
            obs, infos = envs.reset(options={"reset_mask": ended})
    return outcomes[:EPISODES]


for mode in ("NextStep", "SameStep", "Disabled"):
    print(f"{mode:9} {np.mean(run(mode)):.2f} of {EPISODES} answers right")
