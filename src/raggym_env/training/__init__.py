"""Training: process data, and the bridges to TRL and Stable-Baselines3. No algorithm of its own.

trajectories.py   process data as it is read and written
collect.py        policy, scorer and environment to process data
sb3.py            learning to choose among candidates, with Stable-Baselines3
sft.py, dpo.py    an agent's model learns from process data, with TRL and PEFT
prm.py            a classifier learns to score steps: the reward "model"
grpo.py           an agent's model learns from the process reward of its own steps (GRPO, RLOO)
environment.py    the same from whole episodes, for a trainer of one's own
recipe.py         folders of trained models; options.py, fit.py, lm.py are what the four share
"""
