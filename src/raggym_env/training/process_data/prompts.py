"""Process data as the prompts and replies of a prompt agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, SearchCard, policy_card
from raggym_env.core import Action, Answer, Search, State, option_letter
from raggym_env.errors import CardError, PolicyError
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.mdp.metrics import read_option
from raggym_env.mdp.records import Candidate
from raggym_env.policies import make
from raggym_env.policies.prompt import PromptAgent
from raggym_env.policies.prompt.parse import Keys, Parsed, own_part, parse
from raggym_env.protocols import Messages
from raggym_env.text.untrusted import one_line
from raggym_env.training.process_data.trajectories import TrajectoryStep

__all__ = ["Renderer"]

Json = dict[str, Any]


class Renderer:
    """Renders states and actions as the prompts and replies of a prompt agent, whichever policy collected them.

    Args:
        card: Name, path or card of the agent that is to be trained. No model is loaded.

    Raises:
        CardError: The card is not a prompt agent's.
    """

    def __init__(self, card: str | Path | PolicyCard) -> None:
        card = policy_card(card).model_copy(update={"search": SearchCard(), "price": None})
        agent = make(card, llm=ScriptedLLM({})) if card.policy == "prompt" else None
        if not isinstance(agent, PromptAgent):
            raise CardError(f"{card.name!r} is not a prompt agent, so it cannot be trained. Name one, such as react.")
        self.card = card
        self.name = card.name
        # Prompts and components alone: the scripted model that the agent was made with is never called.
        self._parts, self._prompts, self._within_limit = agent.components, agent.prompts, agent.within_limit
        self._keys = agent.keys

    def prompt(self, step: TrajectoryStep) -> Messages:
        """Return the agent's prompt in a state.

        If the state was collected with this agent's system prompt and examples, it is the recorded prompt, without
        the request to repeat an unreadable reply; otherwise it is rendered from the card.

        Raises:
            PolicyError: The agent's prompts contain notes on the passages, and none were recorded.
        """
        if (recorded := self._recorded(step)) is not None:
            return recorded
        if self._parts.summaries and step.state.history:
            raise PolicyError(
                f"{self.name!r} reads notes that a model wrote on the passages, and this data was not collected with "
                f"its prompts. Collect with {self.name!r}, or render as an agent without summaries, such as react."
            )
        return self._prompts.messages(self._within_limit(step.state), None, can_search=self._can_search(step.state))

    def reply(self, step: TrajectoryStep, candidate: Candidate) -> str | None:
        """Return the agent's reply that takes a candidate's action in its state.

        If the prompt is the recorded one, the reply is the recorded output. Otherwise it is the action alone in the
        form that the parser reads: a search with its draft if the agent reflects, an option by its letter.

        Returns:
            A text that parses to the action. None if this agent cannot take it: it is never prompted in that state,
            it does not search, its searches need a draft and there is none, or the action has no readable form.
        """
        # An agent without queries of its own searches once, for the question, before its only prompt.
        if not self._parts.queries and bool(step.state.history) != self._parts.retrieval:
            return None
        if _read(candidate.text, self._keys) == candidate.action and self._recorded(step) is not None:
            # Neither a tokenizer nor a data set can hold a lone surrogate.
            has_surrogate = any("\ud800" <= character <= "\udfff" for character in candidate.text)
            return None if has_surrogate else own_part(candidate.text, self._keys)
        action = self._own_action(step.state, candidate.action)
        if action is None:
            return None
        if isinstance(action, Answer):
            members = {self._keys.answer: action.text}
        else:
            draft = {} if action.draft is None else {self._keys.draft: action.draft}
            members = {self._keys.search: action.query, **draft}
        text = json.dumps(members, ensure_ascii=False)
        return text if _read(text, self._keys) == action else None

    def _recorded(self, step: TrajectoryStep) -> Messages | None:
        """Return the recorded prompt if it was made by this agent's system prompt and examples, else None."""
        # The last message is the state's, which is compared by what precedes it: examples and system prompt.
        empty = self._prompts.messages(State(step.state.question), (), can_search=self._can_search(step.state))
        if len(step.messages) < len(empty) or list(step.messages[: len(empty) - 1]) != empty[:-1]:
            return None
        return [dict(message) for message in step.messages[: len(empty)]]

    def _can_search(self, state: State) -> bool:
        return self._parts.queries and self._within_limit(state).searches_left > 0

    def _own_action(self, state: State, action: Action | None) -> Action | None:
        """Return the action in the form that this agent takes it; None if it cannot."""
        if isinstance(action, Answer):
            option = read_option(action.text, state.question.options)
            return Answer(one_line(action.text) if option is None else option_letter(option))
        if action is None or not self._parts.queries:
            return None
        draft = one_line(action.draft) if self._parts.reflection and action.draft else None
        # With no search left, a search counts only by its draft.
        needs_draft = self._parts.reflection or self._within_limit(state).searches_left < 1
        return None if draft is None and needs_draft else Search(one_line(action.query), draft)

    def identity(self) -> Json:
        """Return what the prompts depend on: the card without the language model."""
        options = {key: value for key, value in self.card.options.items() if not key.startswith(("llm", "note_llm"))}
        return {"name": self.card.name, "policy": self.card.policy, "options": options}


def _read(reply: str, keys: Keys) -> Action | None:
    """Return the action that a reply parses to, or None."""
    parsed = parse(reply, keys=keys)
    if not isinstance(parsed, Parsed):
        return None
    return Answer(parsed.answer) if parsed.answer is not None else Search(parsed.search or "", parsed.draft)
