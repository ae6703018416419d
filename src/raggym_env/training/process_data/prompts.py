"""Process data as a prompt agent would see and say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, SearchCard, policy_card
from raggym_env.core import Action, Answer, Search, State, option_letter
from raggym_env.errors import CardError, PolicyError
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.mdp.metrics import read_option
from raggym_env.mdp.records import action_to_json
from raggym_env.policies import make
from raggym_env.policies.prompt import PromptAgent
from raggym_env.policies.prompt.parse import Parsed, parse
from raggym_env.protocols import Messages
from raggym_env.text.untrusted import one_line
from raggym_env.training.process_data.trajectories import Choice, Labelled

__all__ = ["Render"]

Json = dict[str, Any]


class Render:
    """States and actions as the prompts and replies of a prompt agent, whoever collected them.

    Args:
        card: Name, path or card of the agent that is to be trained. No model is loaded.

    Raises:
        CardError: It is no prompt agent's card.
    """

    def __init__(self, card: str | Path | PolicyCard) -> None:
        card = policy_card(card).model_copy(update={"search": SearchCard(), "price": None})
        agent = make(card, llm=ScriptedLLM({})) if card.policy == "prompt" else None
        if not isinstance(agent, PromptAgent):
            raise CardError(
                f"{card.name!r} is no prompt agent: it has no prompts to train on. Name one, such as react."
            )
        self.card = card
        self.name = card.name
        self._parts, self._prompts = agent.components, agent.prompts

    def prompt(self, choice: Choice) -> Messages:
        """What this agent is asked in a state.

        If the state was collected with this agent's own system prompt and examples, it is the recorded prompt,
        without the request to write an unreadable reply again; else what the card makes of the state.

        Raises:
            PolicyError: The agent reads notes on what was found, and none were recorded.
        """
        if (recorded := self._recorded(choice)) is not None:
            return recorded
        if self._parts.summaries and choice.state.history:
            raise PolicyError(
                f"{self.name!r} reads notes that a model wrote on what was found, and this data was not collected "
                f"with its prompts. Collect with {self.name!r}, or render as an agent without summaries, such as react."
            )
        return self._prompts.messages(choice.state, None, can_search=self._can_search(choice.state))

    def reply(self, choice: Choice, labelled: Labelled) -> str | None:
        """What this agent replies to the prompt of a state to take an action of that state.

        It is the recorded output if the prompt is the recorded one, else the action alone in the form that the
        parser reads: a search with its draft if the agent reflects, an option by its letter.

        Returns:
            A text that parses to the action; None if this agent cannot take it (it is never asked in that state,
            it does not search, its searches need a draft and there is none, or it is unfit to be written so).
        """
        if not self._asked(choice.state):
            return None
        if _read(labelled.text) == labelled.action and self._recorded(choice) is not None:
            return labelled.text if _is_unicode(labelled.text) else None
        action = self._own(choice.state, labelled.action)
        text = _written(action) if action is not None else ""
        return text if text and _read(text) == action else None

    def _recorded(self, choice: Choice) -> Messages | None:
        """The recorded prompt if it opens as this agent's do. What follows the state is a request to try again."""
        mine = self._prompts.messages(State(choice.state.question), (), can_search=self._can_search(choice.state))
        if len(choice.messages) < len(mine) or list(choice.messages[: len(mine) - 1]) != mine[:-1]:
            return None
        return [dict(message) for message in choice.messages[: len(mine)]]

    def _asked(self, state: State) -> bool:
        """Whether the agent is ever asked in the state: without queries of its own, only where it answers."""
        return self._parts.queries or bool(state.history) == self._parts.retrieval

    def _can_search(self, state: State) -> bool:
        return self._parts.queries and state.searches_left > 0

    def _own(self, state: State, action: Action) -> Action | None:
        """The action as this agent takes it; None if it cannot."""
        if isinstance(action, Answer):
            option = read_option(action.text, state.question.options)
            return Answer(one_line(action.text) if option is None else option_letter(option))
        draft = one_line(action.draft) if self._parts.reflection and action.draft else None
        if not self._parts.queries or (draft is None and (self._parts.reflection or state.searches_left < 1)):
            return None
        return Search(one_line(action.query), draft)

    def identity(self) -> Json:
        """What the prompts were made of, without the model that the card names."""
        options = {key: value for key, value in self.card.options.items() if not key.startswith("llm")}
        return {"name": self.card.name, "policy": self.card.policy, "options": options}


def _written(action: Action) -> str:
    return json.dumps(action_to_json(action), ensure_ascii=False)


def _read(reply: str) -> Action | None:
    """The action that a reply parses to."""
    found = parse(reply)
    if not isinstance(found, Parsed):
        return None
    return Answer(found.answer) if found.answer is not None else Search(found.search or "", found.draft)


def _is_unicode(text: str) -> bool:
    """Whether no lone surrogate is in it, which neither a tokenizer nor a data set can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
