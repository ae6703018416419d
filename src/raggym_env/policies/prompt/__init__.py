"""Agents that prompt a language model.

components.py   which parts the six agents have: table 1 of the paper
templates.py    the prompts of a card, rendered for a state
notes.py        short notes on the passages of past searches
parse.py        parses a reply strictly into a search or an answer
lenient.py      reads JSON as models write it
agent.py        the agent
"""

from raggym_env.policies.prompt.agent import PromptAgent
from raggym_env.policies.prompt.components import COMPONENTS, Components

__all__ = ["COMPONENTS", "Components", "PromptAgent"]
