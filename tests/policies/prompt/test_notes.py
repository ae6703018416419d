"""Notes on searches: written once each, in one call."""

from __future__ import annotations

from raggym_env.core import Passage, Question, State, Turn, Usage
from raggym_env.llm import Completion, Sampling
from raggym_env.policies.prompt.notes import Notes
from raggym_env.policies.prompt.templates import Prompts

PROMPTS = Prompts({"system": "s", "user": "u", "note_system": "Note.", "note_user": "{{ question }}{{ history }}"})


class Writer:
    def __init__(self) -> None:
        self.calls: list[int] = []
        self.failing = False

    def generate(self, prompts, params):
        self.calls.append(len(prompts))
        failure = "down" if self.failing else None
        return [
            [Completion(f"note {len(self.calls)}.{i}", usage=Usage(1, 10), failure=failure)]
            for i in range(len(prompts))
        ]


def state(*queries: str, text: str = "Who?") -> State:
    return State(Question("", text), tuple(Turn(query, (Passage("1", "T", query),)) for query in queries), 1)


def notes_by(writer: Writer, size: int = 100) -> Notes:
    return Notes(writer, PROMPTS, Sampling(), size=size)


def test_all_missing_notes_are_written_in_one_call_and_each_once():
    writer = Writer()
    notes = notes_by(writer)
    rows = notes.of([state("a", "b"), state("a"), state("a", text="Where?")])
    assert writer.calls == [3]
    assert rows[0][0].text == rows[1][0].text != rows[2][0].text
    notes.of([state("a", "b", "c")])
    assert writer.calls == [3, 1]


def test_the_usage_of_a_note_is_counted_once():
    notes = notes_by(Writer())
    rows = [*notes.of([state("a", "a"), state("a")]), *notes.of([state("a")])]
    assert [[note.usage.prompt_tokens for note in row] for row in rows] == [[10, 0], [0], [0]]


def test_a_failed_note_is_not_kept():
    writer = Writer()
    notes = notes_by(writer)
    writer.failing = True
    assert notes.of([state("a")])[0][0].failure == "down"
    writer.failing = False
    assert notes.of([state("a")])[0][0].failure is None


def test_the_note_unused_for_longest_goes_first():
    writer = Writer()
    notes = notes_by(writer, size=2)
    for query in "abac":
        notes.of([state(query)])
    notes.of([state("a")])
    assert writer.calls == [1, 1, 1]
    notes.of([state("b")])
    assert writer.calls == [1, 1, 1, 1]


def test_more_notes_than_are_kept_can_be_requested_at_once():
    rows = notes_by(Writer(), size=1).of([state("a", "b", "c")])
    assert len({note.text for note in rows[0]}) == 3


def test_states_without_searches_need_no_call():
    writer = Writer()
    assert notes_by(writer).of([state(), state()]) == [[], []]
    assert writer.calls == []


def test_a_note_is_what_the_model_said_after_its_reasoning():
    class Thinker(Writer):
        def generate(self, prompts, params):
            texts = ("<think>Hm</think>Born in Oslo.<|im_end|>", "Born in Oslo.", "x" * 300_000)
            return [[Completion(texts[number])] for number in range(len(prompts))]

    notes = notes_by(Thinker()).of([state("a", "b", "c")])[0]
    assert [note.text for note in notes[:2]] == ["Born in Oslo."] * 2
    assert len(notes[2].text) < 201_000
