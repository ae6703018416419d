"""Agreement of the shipped `mini` reward with gold labels on questions it was never trained on, and its speed.

The greedy `lexical` policy visits states on held-out questions. In each of them all pairs of candidate actions with
different gold labels count: a reward agrees if it ranks the pair as the labels do. Chance is 0.5. Two baselines are
word overlap by BM25: of the question with the action's text, and of the action's text with the retrieved passages.

    python benchmarks/mini_reward.py                 # HotpotQA test, 2WikiMultihopQA (never trained on) and Synth test
    python benchmarks/mini_reward.py --questions 100
    python benchmarks/mini_reward.py --speed         # only the speed
    python benchmarks/mini_reward.py --checksum      # only checksums of features and scores

The checksums cover 10,000 candidates of five environments and more: of states along episodes, each with and without
searches left, one state at a time and all at once. A change that only makes `mini` faster leaves them as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

from raggym_env import policies
from raggym_env.build import MDP, load_mdp
from raggym_env.core import Action, Answer, Search, State, Task
from raggym_env.errors import DataNotFound
from raggym_env.evaluation import bootstrap
from raggym_env.mdp.rollout import rollout
from raggym_env.protocols import BasePolicy, Proposal, distinct
from raggym_env.rewards.evidence import EvidenceReward, EvidenceValue
from raggym_env.rewards.mini import MiniReward, inputs

ENVIRONMENTS = ("RAGGym-HotpotQA-v0", "RAGGym-2WikiMultihopQA-v0", "RAGGym-Synth-v0")
Scored = Callable[[State, Sequence[Action]], np.ndarray]


class Recorder(BasePolicy):
    """Acts as `lexical`, and records the states with their candidates."""

    def __init__(self, n: int) -> None:
        self.policy = policies.make("lexical", seed=0)
        self.n = n
        self.visited: list[tuple[State, list[Action]]] = []

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        proposed = self.policy.propose(states, self.n)
        self.visited += [
            (state, [proposal.chosen() for proposal in distinct(row)])
            for state, row in zip(states, proposed, strict=True)
        ]
        return [row[:1] for row in proposed]


def text_of(action: Action) -> str:
    return action.query if isinstance(action, Search) else action.text


def words(text: str) -> list[str]:
    return [word.strip(".,?!\"'()").lower() for word in text.split()]


def overlap_with_question(state: State, actions: Sequence[Action]) -> np.ndarray:
    """Return the BM25 scores of the candidates' texts, with the question as the query."""
    return BM25Okapi([words(text_of(action)) or [""] for action in actions]).get_scores(words(state.question.text))


def overlap_with_passages(state: State, actions: Sequence[Action]) -> np.ndarray:
    """Return the highest BM25 score of a retrieved passage for each candidate's text as the query; 0 without any."""
    if not state.passages:
        return np.zeros(len(actions))
    index = BM25Okapi([words(f"{passage.title} {passage.text}") for passage in state.passages])
    return np.array([index.get_scores(words(text_of(action))).max() for action in actions])


def agreement(labels: np.ndarray, scores: np.ndarray, among: np.ndarray) -> tuple[float, int]:
    """Return the number of pairs that the scores rank as the labels do (ties count half), and of all such pairs."""
    # Labels closer than this are equal: metrics of answers are coarse.
    better = (labels[:, None] - labels[None, :] > 0.02) & among[:, None] & among[None, :]
    difference = scores[:, None] - scores[None, :]
    return float((better & (difference > 0)).sum() + 0.5 * (better & (difference == 0)).sum()), int(better.sum())


def measure(mdp: MDP, tasks: Sequence[Task], n: int, rewards: dict[str, Scored]) -> dict[str, dict[str, list[float]]]:
    """Return each question's agreement by reward and kind of pair."""
    recorder = Recorder(n)
    list(rollout(recorder, tasks, mdp.dynamics))
    states, actions = [state for state, _ in recorder.visited], [row for _, row in recorder.visited]
    gains = EvidenceReward(tasks, mdp.dynamics, search_cost=0.0).score(states, actions)
    values = EvidenceValue(tasks, mdp.dynamics).score(states, actions)
    # Reward -> kind of pair -> question id -> pairs ranked as labeled, and all pairs.
    totals: dict[str, dict[str, dict[str, list[float]]]] = {name: {"searches": {}, "all": {}} for name in rewards}
    for state, row, gain, value in zip(states, actions, gains, values, strict=True):
        searches = np.array([isinstance(action, Search) for action in row])
        for name, score in rewards.items():
            scores = score(state, row)
            for kind, labels, among in (("searches", gain, searches), ("all", value, np.ones(len(row), bool))):
                agreed, pairs = agreement(labels, scores, among)
                if pairs:
                    total = totals[name][kind].setdefault(state.question.id, [0.0, 0.0])
                    total[0], total[1] = total[0] + agreed, total[1] + pairs
    return {
        name: {kind: [agreed / pairs for agreed, pairs in questions.values()] for kind, questions in kinds.items()}
        for name, kinds in totals.items()
    }


def agreements(env: str, weights: Path | None, questions: int) -> float:
    """Return the mean agreement, over the first test questions, of searches with the evidence they retrieve."""
    mdp = load_mdp(env, "test", process_reward="none")
    reward = MiniReward(weights)
    rewards: dict[str, Scored] = {"mini": lambda state, row: reward.score([state], [row])[0]}
    return float(np.mean(measure(mdp, mdp.tasks[:questions], 16, rewards)["mini"]["searches"]))


# What the caches hold when a state is scored.
CASES = {
    "state": "the state was read, by a policy like `lexical`",
    "passages": "its passages were read, for another question or state",
    "new": "new state: all but the newest passages were read",
    "nothing": "nothing was read",
}


def milliseconds(case: str, states: Sequence[tuple[State, list[Action]]], n: int) -> float:
    """Return the CPU time in milliseconds to score `n` candidates of a state with past searches, in one of `CASES`."""
    # The median over states of the minimum of three runs, as other work on the machine only adds to a time. The states
    # of an episode are in order, so the last action's value is cached, as it is in an environment.
    runs = np.array([_run(case, states, n) for _ in range(3)])
    counted = [bool(state.history) and len(row) >= n for state, row in states]
    return 1000 * float(np.median(runs.min(axis=0)[counted]))


def _run(case: str, states: Sequence[tuple[State, list[Action]]], n: int) -> list[float]:
    from raggym_env.reading import answers, matches, pages, text
    from raggym_env.rewards import features

    reward, times, last_question = MiniReward(), [], ""
    for state, row in states:
        answers._reading.cache_clear()
        if case == "nothing" or (case == "new" and state.question.id != last_question):
            for cached in (pages.page_of, matches.matches_of, text.key, features._parse_short):
                cached.cache_clear()
        if case in ("state", "passages"):
            features.features(state, row[:1])
        if case == "passages":
            answers._reading.cache_clear()
            matches.matches_of.cache_clear()
        last_question = state.question.id
        started = time.process_time()
        reward.score([state], [row[:n]])
        times.append(time.process_time() - started)
    return times


def print_speed(questions: int) -> None:
    print("Scoring one and ten candidates of a state, median milliseconds of CPU time")
    print(f"{'':28s}{'':60s}{'one':>8s}{'ten':>8s}")
    for name in ENVIRONMENTS:
        try:
            mdp = load_mdp(name, "test", process_reward="none")
        except DataNotFound as error:
            print(f"{name}: skipped, {str(error).splitlines()[0]}")
            continue
        recorder = Recorder(24)
        list(rollout(recorder, mdp.tasks[:questions], mdp.dynamics))
        states = sorted(recorder.visited, key=lambda pair: (pair[0].question.id, len(pair[0].history)))
        for case, about in CASES.items():
            one, ten = (milliseconds(case, states, n) for n in (1, 10))
            print(f"{name:28s}{about:60s}{one:8.2f}{ten:8.2f}", flush=True)


CHECKED = ("HotpotQA", "2WikiMultihopQA", "Bamboogle", "MedQA", "Synth")
# Texts of every kind that a candidate can have, besides those that `lexical` proposes.
TEXTS = (
    "yes",
    "No",
    "A",
    "(b)",
    "1962",
    "3 May 1920",
    "the",
    "?",
    "American",
    "Jose\u0301",
    "Kraków (city)",
    "x" * 3_000,
)


def checked_rows(mdp: MDP, questions: int) -> list[tuple[State, list[Action]]]:
    """Return states along episodes of `lexical`, each with and without searches left, and candidates for them."""
    recorder = Recorder(24)
    list(rollout(recorder, mdp.tasks[:questions], mdp.dynamics))
    rows = []
    for number, (state, row) in enumerate(recorder.visited):
        titles = [passage.title for passage in state.passages[-2:]]
        texts = (*titles, *[turn.query for turn in state.history[-2:]], TEXTS[number % len(TEXTS)])
        candidates = [*row, *[action(text) for text in texts for action in (Search, Answer)]]
        repeated = replace(state, history=(*state.history, *state.history[:1]))
        rows += [(state, candidates), (replace(repeated, searches_left=0), candidates[::4])]
    return rows


def print_checksums(questions: int) -> None:
    total, count = {kind: hashlib.sha256() for kind in ("features", "scores")}, 0
    for name in CHECKED:
        rows = checked_rows(load_mdp(f"RAGGym-{name}-v0", "test", process_reward="none"), questions)
        states, actions = [state for state, _ in rows], [row for _, row in rows]
        found = {"features": [inputs(state, row) for state, row in rows], "scores": MiniReward().score(states, actions)}
        alone, size = MiniReward(), sum(map(len, actions))
        equal = all(
            np.array_equal(alone.score([state], [row])[0], scores)
            for (state, row), scores in zip(rows, found["scores"], strict=True)
        )
        count += size
        digests = []
        for kind, arrays in found.items():
            content = b"".join(array.tobytes() for array in arrays)
            digests.append(f"{kind} {hashlib.sha256(content).hexdigest()[:16]}")
            total[kind].update(content)
        print(f"{name:20s}{size:7,d} rows  {'  '.join(digests)}  alone {'equal' if equal else 'DIFFERENT'}", flush=True)
    for kind, digest in total.items():
        print(f"{kind} of {count:,} rows: {digest.hexdigest()}")


def print_agreement(questions: int | None, n: int) -> None:
    mini = MiniReward()
    rewards: dict[str, Scored] = {
        "mini": lambda state, row: mini.score([state], [row])[0],
        "BM25 with the question": overlap_with_question,
        "BM25 with the passages": overlap_with_passages,
    }
    print("Pairwise agreement with gold labels, mean over questions [95 % interval]")
    print(f"{'':28s}{'':26s}{'searches by evidence found':>30s}{'all candidates by value':>30s}")
    for name in ENVIRONMENTS:
        try:
            mdp = load_mdp(name, "test", process_reward="none")
        except DataNotFound as error:
            print(f"{name}: skipped, {str(error).splitlines()[0]}")
            continue
        for reward, kinds in measure(mdp, mdp.tasks[:questions], n, rewards).items():
            means = [bootstrap(kinds[kind]) for kind in ("searches", "all")]
            columns = "".join(f"{f'{mean:.3f} [{low:.3f}, {high:.3f}]':>30s}" for mean, low, high in means)
            print(f"{name:28s}{reward:26s}{columns}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=None, help="questions per test split; by default all")
    parser.add_argument("--n", type=int, default=16, help="candidates per state")
    parser.add_argument("--speed", action="store_true", help="measure only the speed")
    parser.add_argument("--checksum", action="store_true", help="print only checksums of features and scores")
    arguments = parser.parse_args()
    if arguments.checksum:
        print_checksums(arguments.questions or 60)
        return
    if not arguments.speed:
        print_agreement(arguments.questions, arguments.n)
        print()
    print_speed(arguments.questions or 100)


if __name__ == "__main__":
    main()
