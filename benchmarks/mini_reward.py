"""How well the shipped `mini` reward agrees with gold labels on questions it was never trained on, and how fast it is.

In every state that the greedy `lexical` policy gets into on held-out questions, all pairs of candidate actions with
different gold labels are looked at: a reward agrees if it ranks the pair as the labels do. Chance is 0.5. Beside it
stand two baselines of word overlap under BM25: of the question with the action's text, and of the action's text with
the passages found so far.

    python benchmarks/mini_reward.py                 # HotpotQA test, 2WikiMultihopQA (never trained on) and Synth test
    python benchmarks/mini_reward.py --questions 100
    python benchmarks/mini_reward.py --speed         # only how fast it is
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

from raggym_env import policies
from raggym_env.build import MDP, load_mdp
from raggym_env.core import Action, Search, State, Task
from raggym_env.errors import DataNotFound
from raggym_env.evaluation import bootstrap
from raggym_env.mdp.rollout import rollout
from raggym_env.protocols import BasePolicy, Proposal, distinct
from raggym_env.rewards.evidence import EvidenceReward, EvidenceValue
from raggym_env.rewards.mini import MiniReward

ENVIRONMENTS = ("RAGGym-HotpotQA-v0", "RAGGym-2WikiMultihopQA-v0", "RAGGym-Synth-v0")
Scored = Callable[[State, Sequence[Action]], np.ndarray]


class Witness(BasePolicy):
    """Does what `lexical` does, and keeps the states with their candidates."""

    def __init__(self, n: int) -> None:
        self.policy = policies.make("lexical", seed=0)
        self.n = n
        self.seen: list[tuple[State, list[Action]]] = []

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        proposed = self.policy.propose(states, self.n)
        self.seen += [
            (state, [proposal.chosen() for proposal in distinct(row)])
            for state, row in zip(states, proposed, strict=True)
        ]
        return [row[:1] for row in proposed]


def text_of(action: Action) -> str:
    return action.query if isinstance(action, Search) else action.text


def words(text: str) -> list[str]:
    return [word.strip(".,?!\"'()").lower() for word in text.split()]


def overlap_with_question(state: State, actions: Sequence[Action]) -> np.ndarray:
    """BM25 of the question as a query against the candidates' texts."""
    return BM25Okapi([words(text_of(action)) or [""] for action in actions]).get_scores(words(state.question.text))


def overlap_with_found(state: State, actions: Sequence[Action]) -> np.ndarray:
    """BM25 of each candidate's text as a query against the passages found, the best of them; 0 with none found."""
    if not state.passages:
        return np.zeros(len(actions))
    found = BM25Okapi([words(f"{passage.title} {passage.text}") for passage in state.passages])
    return np.array([found.get_scores(words(text_of(action))).max() for action in actions])


def agreement(labels: np.ndarray, scores: np.ndarray, among: np.ndarray) -> tuple[float, int]:
    """Pairs that the scores rank as the labels do (ties count half), and all pairs with different labels."""
    better = (labels[:, None] - labels[None, :] > 0.02) & among[:, None] & among[None, :]
    difference = scores[:, None] - scores[None, :]
    return float((better & (difference > 0)).sum() + 0.5 * (better & (difference == 0)).sum()), int(better.sum())


def measure(mdp: MDP, tasks: Sequence[Task], n: int, rewards: dict[str, Scored]) -> dict[str, dict[str, list[float]]]:
    """Per reward and kind of pair, each question's agreement."""
    witness = Witness(n)
    list(rollout(witness, tasks, mdp.dynamics))
    states, actions = [state for state, _ in witness.seen], [row for _, row in witness.seen]
    gained = EvidenceReward(tasks, mdp.dynamics, search_cost=0.0).score(states, actions)
    valued = EvidenceValue(tasks, mdp.dynamics).score(states, actions)
    right: dict[str, dict[str, dict[str, list[float]]]] = {name: {"searches": {}, "all": {}} for name in rewards}
    for state, row, gain, value in zip(states, actions, gained, valued, strict=True):
        searches = np.array([isinstance(action, Search) for action in row])
        for name, score in rewards.items():
            scores = score(state, row)
            for kind, labels, among in (("searches", gain, searches), ("all", value, np.ones(len(row), bool))):
                agreed, pairs = agreement(labels, scores, among)
                if pairs:
                    total = right[name][kind].setdefault(state.question.id, [0.0, 0.0])
                    total[0], total[1] = total[0] + agreed, total[1] + pairs
    return {
        name: {kind: [agreed / pairs for agreed, pairs in questions.values()] for kind, questions in kinds.items()}
        for name, kinds in right.items()
    }


def agreements(env: str, weights: Path, questions: int) -> float:
    """Mean agreement, over the first test questions of an environment, of its searches with the evidence they find."""
    mdp = load_mdp(env, "test", process_reward="none")
    reward = MiniReward(weights)
    rewards: dict[str, Scored] = {"mini": lambda state, row: reward.score([state], [row])[0]}
    return float(np.mean(measure(mdp, mdp.tasks[:questions], 16, rewards)["mini"]["searches"]))


CASES = {
    "state": "the state was read, by a policy like `lexical`",
    "passages": "its passages were read, for another question or state",
    "new": "new state: all but the newest passages were read",
    "nothing": "nothing was read",
}


def milliseconds(case: str, states: Sequence[tuple[State, list[Action]]], n: int) -> float:
    """CPU time to score `n` candidates of a state with past searches, by what was read before.

    The median over states of the least of three runs, as other work on the machine only ever adds to a time. The
    states of an episode come one after the other, so the past action's value is known, as it is to an environment.
    """
    runs = np.array([_run(case, states, n) for _ in range(3)])
    counted = [bool(state.history) and len(row) >= n for state, row in states]
    return 1000 * float(np.median(runs.min(axis=0)[counted]))


def _run(case: str, states: Sequence[tuple[State, list[Action]]], n: int) -> list[float]:
    from raggym_env.reading import answers, pages, text
    from raggym_env.rewards import features

    reward, times, asked = MiniReward(), [], ""
    for state, row in states:
        answers._reading.cache_clear()
        if case == "nothing" or (case == "new" and state.question.id != asked):
            for cached in (pages.page_of, text.key, features._read_short):
                cached.cache_clear()
        if case in ("state", "passages"):
            features.features(state, row[:1])
        if case == "passages":
            answers._reading.cache_clear()
        asked = state.question.id
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
            print(f"{name}: left out, {str(error).splitlines()[0]}")
            continue
        witness = Witness(24)
        list(rollout(witness, mdp.tasks[:questions], mdp.dynamics))
        states = sorted(witness.seen, key=lambda seen: (seen[0].question.id, len(seen[0].history)))
        for case, about in CASES.items():
            one, ten = (milliseconds(case, states, n) for n in (1, 10))
            print(f"{name:28s}{about:60s}{one:8.2f}{ten:8.2f}", flush=True)


def print_agreement(questions: int | None, n: int) -> None:
    mini = MiniReward()
    rewards: dict[str, Scored] = {
        "mini": lambda state, row: mini.score([state], [row])[0],
        "BM25 with the question": overlap_with_question,
        "BM25 with the passages": overlap_with_found,
    }
    print("Pairwise agreement with gold labels, mean over questions [95 % interval]")
    print(f"{'':28s}{'':26s}{'searches by evidence found':>30s}{'all candidates by value':>30s}")
    for name in ENVIRONMENTS:
        try:
            mdp = load_mdp(name, "test", process_reward="none")
        except DataNotFound as error:
            print(f"{name}: left out, {str(error).splitlines()[0]}")
            continue
        for reward, kinds in measure(mdp, mdp.tasks[:questions], n, rewards).items():
            means = [bootstrap(kinds[kind]) for kind in ("searches", "all")]
            shown = "".join(f"{f'{mean:.3f} [{low:.3f}, {high:.3f}]':>30s}" for mean, low, high in means)
            print(f"{name:28s}{reward:26s}{shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=None, help="first so many of each test split")
    parser.add_argument("--n", type=int, default=16, help="candidates per state")
    parser.add_argument("--speed", action="store_true", help="measure the speed alone")
    arguments = parser.parse_args()
    if not arguments.speed:
        print_agreement(arguments.questions, arguments.n)
        print()
    print_speed(arguments.questions or 100)


if __name__ == "__main__":
    main()
