"""Short notes on the passages of past searches, written by the model: one per question and search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raggym_env.core import Question, State, Turn, Usage
from raggym_env.policies.prompt.templates import Prompts
from raggym_env.protocols import LLM, Completion, Sampling
from raggym_env.storage.lru import LRU
from raggym_env.text.replies import prose, stored, with_reasoning

__all__ = ["Notes"]

_Key = tuple[str, tuple[str, ...], Turn]


class Notes:
    """The notes of one agent.

    A note depends on nothing but the question and one search with its passages: all candidates of a step, all later
    steps and all branches of a search tree share it.

    Args:
        llm: Writes the notes.
        prompts: With the prompts `note_system` and `note_user`.
        sampling: Sampling settings of one note.
        size: Most notes in memory; the one that was used longest ago is dropped first.
    """

    def __init__(self, llm: LLM, prompts: Prompts, sampling: Sampling, *, size: int = 10_000) -> None:
        self._llm, self._prompts = llm, prompts
        self._sampling = sampling
        self._notes = LRU[_Key, Completion](size)

    def of(self, states: Iterable[State]) -> list[list[Completion]]:
        """Return the notes on every state's searches, oldest first. Missing ones are written in one call.

        The first state that needs a new note has the usage of writing it; an existing note costs nothing. A note that
        the model failed to write has a `failure` and is not stored.
        """
        states = list(states)
        missing = dict.fromkeys(key for state in states for key in _keys(state) if key not in self._notes)
        written: dict[_Key, Completion] = {}
        if missing:
            questions = [(Question("", text, options), turn) for text, options, turn in missing]
            prompts = [self._prompts.note_messages(question, turn) for question, turn in questions]
            replies = self._llm.generate(prompts, self._sampling)
            for key, (note, *_) in zip(missing, replies, strict=True):
                # Without the model's reasoning and control tokens.
                text = prose(with_reasoning(note.text, note.reasoning, note.finish))
                written[key] = replace(note, text=stored(text), reasoning="")
        rows: list[list[Completion]] = [[] for _ in states]
        for state, row in zip(states, rows, strict=True):
            for key in _keys(state):
                row.append(self._notes.use(key) or written[key])
                if key in written:
                    written[key] = replace(written[key], usage=Usage())  # whoever needs it next pays nothing
        # Stored only now: more notes than fit would otherwise displace some that this call still needs.
        for key, note in written.items():
            if note.failure is None:
                self._notes[key] = note
        return rows


def _keys(state: State) -> list[_Key]:
    return [(state.question.text, state.question.options, turn) for turn in state.history]
