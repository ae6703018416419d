"""Agents that prompt a language model.

components.py   which parts the six agents have: table 1 of the paper
templates.py    the prompts of a card, rendered for a state
text.py         untrusted text made fit for a prompt
notes.py        short notes on what searches found
parse.py        a reply as a search or an answer, read strictly
lenient.py      JSON as models write it
agent.py        the agent
"""

from raggym_env.policies.prompt.agent import PromptAgent
from raggym_env.policies.prompt.components import COMPONENTS, Components

__all__ = ["COMPONENTS", "Components", "PromptAgent"]
