"""Environments: episodes as Gymnasium sees them. Knows nothing of language models."""

from raggym_env.envs.candidates import CandidateActions, Candidates

__all__ = ["CandidateActions", "Candidates"]
