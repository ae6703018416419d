"""Environments: episodes as Gymnasium sees them. Knows nothing of language models."""
