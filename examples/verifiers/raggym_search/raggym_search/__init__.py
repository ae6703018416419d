"""The taskset `raggym-search` of verifiers; see `raggym_env.integrations.verifiers`."""

from raggym_env.integrations.verifiers import SearchTaskset

__all__ = ["SearchTaskset"]
