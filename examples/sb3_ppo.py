"""Stable-Baselines3's PPO learns which of `lexical`'s proposals to take. Needs the extra `sb3`.

This is the loop alone. Learning that shows takes some 20,000 steps (two to three minutes): see
`benchmarks/sb3_candidates.py` for settings and results.
"""

import gymnasium as gym
from stable_baselines3 import PPO

from raggym_env import policies  # importing the package registers the ids
from raggym_env.envs import CandidateActions
from raggym_env.evaluation import evaluate
from raggym_env.training.sb3 import CandidatePolicy, SB3Policy

STEPS = 256

env = gym.make("RAGGym-Synth-v0", process_reward="evidence")
env = CandidateActions(env, policies.make("lexical"), n=8)
model = PPO(CandidatePolicy, env, n_steps=64, batch_size=64, gamma=1.0, learning_rate=1e-3, seed=0, device="cpu")
model.learn(STEPS)

policy = SB3Policy(model, policies.make("lexical"))  # a policy like any other: it can be evaluated, and compared
_, scores = evaluate("RAGGym-Synth-v0", policy, limit=20)
print(f"PPO after {model.num_timesteps} steps: EM {scores.metrics['em'].mean:.3f}, {scores.searches:.2f} searches")
