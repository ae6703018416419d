"""What a prompt of so many tokens shows of the passages: answers, and titles that are worth the next search.

    python benchmarks/snippets.py [--env RAGGym-HotpotQA-v0] [--limit 400]

The states are those of the teacher (the policy `gold`, three searches) on training questions, so all the evidence of an
answer has been retrieved, and the title of a search stands in a passage. Three ways to cut the passages to a number of
characters are compared: their starts, equally long; their sentences by the words that they share with the question; and
`snippets`, which the prompt agents use. Printed is the share of the states whose prompt shows the teacher's answer (not
yes or no), or the title that it searches for, with the mean number of tokens of a prompt.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence

from raggym_env.build import load_mdp
from raggym_env.core import Answer, Passage, State
from raggym_env.errors import RAGGymError
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.gold import GoldPolicy
from raggym_env.reading.pages import sentences_of
from raggym_env.reading.snippets import snippets
from raggym_env.reading.text import key, terms

ROOMS = (400, 800, 1_200, 1_600, 2_400)
PASSAGE_CHARS = 500

Cut = Callable[[State, Sequence[Passage], int], list[str]]


def starts(state: State, passages: Sequence[Passage], room: int) -> list[str]:
    return [passage.text[: room // len(passages)] for passage in passages]


def by_overlap(state: State, passages: Sequence[Passage], room: int) -> list[str]:
    wanted = set(terms(state.question.text)).union(*(terms(turn.query) for turn in state.history))
    ranked = sorted(
        ((number, sentence) for number, passage in enumerate(passages) for sentence in sentences_of(passage)),
        key=lambda pair: (-len(wanted & pair[1].terms.keys()), pair[1].number),
    )
    texts = [""] * len(passages)
    for number, sentence in ranked:
        text = sentence.text[: min(room, PASSAGE_CHARS - len(texts[number]))]
        texts[number] += f"{text} " if text else ""
        room -= len(text)
    return texts


def by_strength(state: State, passages: Sequence[Passage], room: int) -> list[str]:
    queries = [turn.query for turn in state.history]
    return snippets(state.question.text, queries, passages, passage_chars=PASSAGE_CHARS, room=room)


CUTS: dict[str, Cut] = {"start": starts, "overlap": by_overlap, "snippets": by_strength}


def cases(env: str, limit: int) -> Iterator[tuple[State, str, bool]]:
    """Yield states, what the teacher writes in them, and whether that is an answer."""
    mdp = load_mdp(env, "train", process_reward="none", max_searches=3)
    questions = {task.id: task.question for task in mdp.tasks}
    for episode in rollout(GoldPolicy(mdp.tasks), mdp.tasks[:limit], mdp.dynamics):
        state = mdp.dynamics.start(questions[episode.id])
        for step in episode.steps:
            is_answer = isinstance(step.action, Answer)
            text = step.action.text if isinstance(step.action, Answer) else step.action.query
            shown = key("\n".join(f"{passage.title}\n{passage.text}" for passage in state.passages))
            if state.history and text not in ("yes", "no") and (is_answer or f" {key(text)} " in f" {shown} "):
                yield state, text, is_answer
            state = mdp.dynamics.transition([state], [step.action])[0]


def tokens_of() -> tuple[str, Callable[[str], int]]:
    """Return the name of a tokenizer and the function that counts its tokens."""
    try:
        from transformers import AutoTokenizer

        from raggym_env.llm.hf.loading import find_model

        tokenizer = AutoTokenizer.from_pretrained(find_model("smollm2")[0])
        return "tokens of SmolLM2", lambda text: len(tokenizer(text)["input_ids"])
    except (ImportError, RAGGymError):
        return "words and signs (without the extra llm and `raggym models get smollm2`)", lambda text: len(
            re.findall(r"\w+|\S", text)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="RAGGym-HotpotQA-v0")
    parser.add_argument("--limit", type=int, default=400, help="training questions")
    options = parser.parse_args()
    states = list(cases(options.env, options.limit))
    answers = sum(is_answer for *_, is_answer in states)
    unit, count = tokens_of()
    print(
        f"{options.env}, {options.limit} training questions: {answers} answers, {len(states) - answers} titles; {unit}"
    )
    print("| characters | cut | tokens | answers shown | titles shown |\n| ---: | --- | ---: | ---: | ---: |")
    for room in ROOMS:
        for name, cut in CUTS.items():
            shown, length = {True: 0, False: 0}, 0
            for state, text, is_answer in states:
                passages = list(dict.fromkeys(state.passages))
                parts = zip(passages, cut(state, passages, room), strict=True)
                prompt = "\n".join(f"{passage.title}: {part}" for passage, part in parts)
                length += count(prompt)
                shown[is_answer] += f" {key(text)} " in f" {key(prompt)} "
            rates = f"{shown[True] / max(1, answers):.3f} | {shown[False] / max(1, len(states) - answers):.3f}"
            print(f"| {room:,} | {name} | {length / len(states):.0f} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
