"""A process reward of your own: any class with `score(states, actions)`.

The same object rewards the steps of an environment and, as a critic, chooses among a policy's candidates.
"""

import gymnasium as gym
import numpy as np

from raggym_env import Search, policies  # importing the package registers the ids


class NewWords:
    """Prefers searches for words that no query before had, and answers that a retrieved passage contains."""

    def score(self, states, actions):
        return [
            np.array([self.score_one(state, action) for action in candidates], np.float32)
            for state, candidates in zip(states, actions, strict=True)
        ]

    def score_one(self, state, action):
        if isinstance(action, Search):
            used = {word for turn in state.history for word in turn.query.lower().split()}
            words = action.query.lower().split()
            return sum(word not in used for word in words) / len(words)
        return 0.5 * any(action.text in passage.text for passage in state.passages)


env = gym.make("RAGGym-Synth-v0", process_reward=NewWords())
policy = policies.make("lexical", best_of=4, critic=NewWords())
obs, info = env.reset(seed=0)
ended = False
while not ended:
    action = policy.act(obs)
    obs, reward, terminated, truncated, info = env.step(action)
    ended = terminated or truncated
    print(f"process {info['process_reward']:.2f}, outcome {info['outcome_reward']:.0f}: {action}")
