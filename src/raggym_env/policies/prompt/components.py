"""The components of the six agents: arXiv 2502.13957, table 1. All of them generate answers."""

from __future__ import annotations

from dataclasses import dataclass

from raggym_env.errors import OptionError

__all__ = ["COMPONENTS", "Components"]


@dataclass(frozen=True, slots=True)
class Components:
    """The components that an agent has.

    Raises:
        OptionError: A component lacks another one that it needs.
    """

    reasoning: bool = False
    """Question reasoning: it thinks before it acts. Only the prompts differ."""
    retrieval: bool = False
    """Retrieval augmentation: it sees passages. Without `queries` it searches once, for the question itself."""
    queries: bool = False
    """Query generation: it writes its own queries and decides when to answer."""
    summaries: bool = False
    """Document summarisation: it sees a note on each search in place of the passages."""
    reflection: bool = False
    """Reasoning reflection: it answers, looks for claims without support and searches for one of them. Every search
    that it writes carries that answer as its draft."""

    def __post_init__(self) -> None:
        for part, needed in (("queries", "retrieval"), ("summaries", "retrieval"), ("reflection", "queries")):
            if getattr(self, part) and not getattr(self, needed):
                raise OptionError(f"{part} = true needs {needed} = true.")


COMPONENTS = {
    "direct": Components(),
    "cot": Components(reasoning=True),
    "rag": Components(reasoning=True, retrieval=True),
    "react": Components(reasoning=True, retrieval=True, queries=True),
    "search_o1": Components(reasoning=True, retrieval=True, queries=True, summaries=True),
    "re2search": Components(reasoning=True, retrieval=True, queries=True, summaries=True, reflection=True),
    # The same agent in the paper's first version, whose prompts differ.
    "research": Components(reasoning=True, retrieval=True, queries=True, summaries=True, reflection=True),
}
"""Agent name -> components: the rows of the table, and `research`. The cards of these names repeat them."""
