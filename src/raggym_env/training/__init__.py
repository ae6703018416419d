"""Training: process data, and the bridges to TRL and Stable-Baselines3. No algorithm of its own.

collect.py        policy, critic and environment to process data
trajectories.py   process data as it is written and read
inspect.py        a look at it
rows.py           process data to TRL's rows, prompted as an agent is (render.py)
sft.py dpo.py prm.py grpo.py   one file per trainer; what they share is in options, recipe, lm and fit
mini.py           the small process reward
environment.py    whole episodes for TRL's GRPOTrainer (_writer.py writes the turns)
sb3.py            networks and policies for Stable-Baselines3 over `envs.CandidateActions`
"""
