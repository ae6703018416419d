"""Environments: episodes as Gymnasium sees them. Knows nothing of language models."""

from raggym_env.envs.candidates import CandidateActions, Candidates
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.registration import make_env, make_vector_env, register_card
from raggym_env.envs.vector import RAGVectorEnv
from raggym_env.envs.wrappers import RecordEpisodes, TaggedText

__all__ = [
    "CandidateActions",
    "Candidates",
    "RAGEnv",
    "RAGVectorEnv",
    "RecordEpisodes",
    "TaggedText",
    "make_env",
    "make_vector_env",
    "register_card",
]
