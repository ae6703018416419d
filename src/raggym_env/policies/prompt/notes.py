"""Short notes on what searches found, written by the model: one per question and search, kept while they fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from raggym_env.core import Question, State, Turn
from raggym_env.policies.prompt.templates import Prompts
from raggym_env.protocols import LLM, Completion, Sampling

__all__ = ["Notes"]

_Key = tuple[str, tuple[str, ...], Turn]


class Notes:
    """The notes of one agent.

    A note depends on the question and on one search with its passages, and on nothing else: all candidates of a
    step, all later steps and all branches of a search tree share it.

    Args:
        llm: Writes the notes.
        prompts: With the note prompts.
        sampling: How one note is written.
        kept: Notes kept; the one not used for the longest time goes first.
    """

    def __init__(self, llm: LLM, prompts: Prompts, sampling: Sampling, *, kept: int = 10_000) -> None:
        self._llm, self._prompts = llm, prompts
        self._sampling = sampling
        self._kept = kept
        self._notes: OrderedDict[_Key, Completion] = OrderedDict()

    def of(self, states: Iterable[State]) -> list[list[Completion]]:
        """The notes on every state's searches, oldest first. Those that are missing are written in one call.

        A note's usage is that of writing it in this call, given to the first state that needs it; a note that was
        there already cost nothing. A note that the model failed to write has a `failure` and is not kept.
        """
        states = list(states)
        missing = dict.fromkeys(key for state in states for key in _keys(state) if key not in self._notes)
        written = self._write(list(missing)) if missing else {}
        spent: set[_Key] = set()
        notes = [[self._take(key, written, spent) for key in _keys(state)] for state in states]
        self._keep(written)
        return notes

    def _write(self, keys: list[_Key]) -> dict[_Key, Completion]:
        prompts = [self._prompts.note_messages(Question("", text, options), turn) for text, options, turn in keys]
        return dict(zip(keys, (row[0] for row in self._llm.generate(prompts, self._sampling)), strict=True))

    def _take(self, key: _Key, written: dict[_Key, Completion], spent: set[_Key]) -> Completion:
        if key in written and key not in spent:
            spent.add(key)
            return written[key]
        if key in self._notes:
            self._notes.move_to_end(key)
        return _free(self._notes.get(key) or written[key])

    def _keep(self, written: dict[_Key, Completion]) -> None:
        self._notes.update({key: _free(note) for key, note in written.items() if note.failure is None})
        while len(self._notes) > self._kept:
            self._notes.popitem(last=False)


def _keys(state: State) -> list[_Key]:
    return [(state.question.text, state.question.options, turn) for turn in state.history]


def _free(note: Completion) -> Completion:
    return replace(note, usage=type(note.usage)())
