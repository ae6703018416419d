"""A training loop in NumPy: REINFORCE learns which of `lexical`'s proposals to take.

The reward of an answer is 1 if it is right; that of a search is the evidence that it finds (`evidence`, which reads
gold facts and is therefore refused outside training splits). Expect the mean return to rise within 300 episodes.
"""

import gymnasium as gym
import numpy as np

from raggym_env import policies  # importing the package registers the ids
from raggym_env.envs import CandidateActions

EPISODES, LEARNING_RATE = 300, 1.0

env = gym.make("RAGGym-Synth-v0", process_reward="evidence")
env = CandidateActions(env, policies.make("lexical"), n=8)  # actions: 8 slots, one candidate in each
weights = np.zeros(env.observation_space["candidates"].shape[0] // 8)  # a candidate's logit is linear in its features
rng = np.random.default_rng(0)
returns = []

for episode in range(EPISODES):
    obs, info = env.reset(seed=0 if episode == 0 else None)
    rewards, gradients = [], []
    ended = False
    while not ended:
        features = obs["candidates"].reshape(8, -1)
        logits = np.where(obs["mask"], features @ weights, -np.inf)  # masked slots repeat another candidate
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        action = rng.choice(8, p=probabilities)
        gradients.append(features[action] - probabilities @ features)  # of the log-probability of the action
        obs, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        ended = terminated or truncated
    rewards_to_go = np.cumsum(rewards[::-1])[::-1]
    baseline = np.mean(returns[-50:]) if returns else 0.0
    weights += LEARNING_RATE * (rewards_to_go - baseline) @ np.array(gradients) / len(gradients)
    returns.append(sum(rewards))

first, last = np.mean(returns[:100]), np.mean(returns[-100:])
print(f"mean return: {first:+.2f} in the first 100 episodes, {last:+.2f} in the last 100")
