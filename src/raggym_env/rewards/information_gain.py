"""Process reward by how much likelier an action makes the gold answer to a language model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Passage, Question, State, Task, Turn, option_letter, state_rng
from raggym_env.errors import LLMError, OptionError, RewardError, check_option
from raggym_env.llm import LLM, make
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.protocols import Messages, Scorer
from raggym_env.rewards.tasks import GradedTasks
from raggym_env.storage.lru import LRU
from raggym_env.text.untrusted import ACTION_CHARS, QUESTION_CHARS, as_data, clipped, one_line, passage_lines

__all__ = ["InformationGain"]

# Distinct pairs of a question and passages whose likelihood is remembered.
_CACHED_STATES = 16_384
# Characters of a gold answer that are scored.
_ANSWER_CHARS = 300
_ROUNDING = 1e-3

_SYSTEM = "Answer each question from the passages, in as few words as possible and without an explanation."
# Invented, so that no data set holds them. They show the form of an answer: a small model without them expects a
# sentence, and hardly any probability is left for the answer itself.
_EXAMPLES: Sequence[tuple[Sequence[str], str, str]] = (
    (
        (
            "- The Tin Orchard: The Tin Orchard is a 1962 novel by the Corran writer Idra Vael.",
            "- Idra Vael: Idra Vael (1921 - 1990) was a novelist, born in the port of Sennick.",
        ),
        "Where was the author of The Tin Orchard born?",
        "Sennick",
    ),
    (
        (
            "- Mount Oreb: Mount Oreb is a peak in the north of Tavia, 2,310 metres high.",
            "- Mount Pell: Mount Pell is the highest point of Tavia. It rises to 2,875 metres.",
        ),
        "Is Mount Oreb higher than Mount Pell?",
        "no",
    ),
    ((), "Who founded the Brannock Glass Company?", "Olin Brannock"),
)


class InformationGain:
    """Rewards an action for how much likelier it makes the gold answer to a language model.

    The potential `phi(s)` in [0, 1] of a running state is the probability per token, as a geometric mean, that a
    language model gives to the gold answer after the question and the passages retrieved so far, of several gold
    answers the likeliest:

        phi(s) = max over gold answers y of exp(log p(y | question, passages of s) / (temperature * tokens of y))

    The mean, not the sum, of the log-probabilities makes long and short answers comparable. Small models give right
    answers little probability; a `temperature` above 1 spreads low values over more of the scale, and never changes the
    order of the states of one question. The potential of a state that has ended is the score of its answer, 0 without
    one. An action that leads from `s` to `s'` scores `phi(s') - phi(s)` in [-1, 1]:

    - a search scores the rise of the gold answer's probability by its passages, 0 if they are all known already;
    - an answer scores its metric less `phi(s)`; a search beyond the budget, which ends the episode, is scored as its
      draft is as an answer.

    So the scores of an episode add up to the score of its answer less `phi` of its start, however many steps it took:
    repeating a search or padding an episode earns nothing. (The plain `phi(s')`, with `advantage=False`, grows with
    every step. Use it to rank candidates within a state and as labels in [0, 1].)

    With `random_passages`, a search scores above a counterfactual in place of the state itself: the state after a
    search that had returned as many passages drawn at random from the corpus. This takes away what any further passage
    is worth to the model, or costs it; the sum over an episode is then no longer that of its ends. The passages depend
    on the seed and the state alone.

    Scores are comparable across states. It reads gold answers and runs the candidate searches, so it is for training
    splits only. The model is given each state once (recent ones are remembered), all states of a call together, behind
    worked examples which are computed once.

    The rise of the gold answer's probability by a turn is the reward of IGPO (arXiv 2510.14967), its potential form is
    that of TIPS (arXiv 2603.22293), and random passages are the baseline of IG-Search (arXiv 2604.15148).

    Args:
        llm: A model that scores given texts, such as one made by `hf:NAME`, or its spec.
        tasks: The tasks whose states are scored. A state without a question id is matched by its question's text.
        dynamics: The dynamics that the states belong to.
        corpus: The passages to draw from; needed for `random_passages` only.
        llm_options: Options of the back end if `llm` is a spec.
        metric: Metric that grades answers; None is "f1", or "accuracy" for a question with options.
        temperature: Divides the mean log-probability, above 0. The papers have 1.
        passage_chars: Characters of each passage in the prompt, at least 1.
        history_chars: Characters of all passages in the prompt, at least 1; the oldest that do not fit are left out.
        aliases: Gold answers that are scored, the first ones, at least 1.
        random_passages: Whether searches are scored against random passages.
        advantage: Whether to subtract the potential of the state itself, or of the counterfactual.
        seed: Seed of the random passages.

    Raises:
        OptionError: An option is out of range, or the model cannot score given texts.
        LLMError: The model cannot be loaded.
    """

    def __init__(
        self,
        llm: LLM | Scorer | str,
        tasks: Iterable[Task],
        dynamics: Dynamics,
        corpus: Sequence[Passage] | None = None,
        *,
        llm_options: Mapping[str, Any] | None = None,
        metric: str | None = None,
        temperature: float = 1.0,
        passage_chars: int = 400,
        history_chars: int = 12_000,
        aliases: int = 8,
        random_passages: bool = False,
        advantage: bool = True,
        seed: int = 0,
    ) -> None:
        check_option("temperature", temperature, 0 < temperature < math.inf, "above 0 and finite")
        check_option("passage_chars", passage_chars, passage_chars >= 1, "at least 1")
        check_option("history_chars", history_chars, history_chars >= 1, "at least 1")
        check_option("aliases", aliases, aliases >= 1, "at least 1")
        can_draw = corpus is not None and len(corpus) > 0 and isinstance(corpus[0], Passage)
        check_option("random_passages", random_passages, not random_passages or can_draw, "False without a corpus")
        self.temperature = temperature
        self.passage_chars = passage_chars
        self.history_chars = history_chars
        self.aliases = aliases
        self.random_passages = random_passages
        self.advantage = advantage
        self.seed = seed
        self.scored = 0
        """States that the model has scored so far."""
        self._tasks = GradedTasks(tasks, metric, "information gain")
        self._dynamics = dynamics
        self._corpus = corpus or ()
        self._cache = LRU[tuple[Question, tuple[Passage, ...]], float](_CACHED_STATES)
        model = make(llm, **(llm_options or {})) if isinstance(llm, str) else llm
        if not isinstance(model, Scorer):
            raise OptionError(
                f"The information gain needs a model that scores given texts, and {llm!r:.100} only writes. Use an "
                "hf: model, such as llm=hf:smollm2, or an object with a loglikelihood method."
            )
        self.llm: Scorer = model

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A question is not one of the tasks or has no gold answer, or the model cannot score a state.
            RetrievalError: A candidate search failed.
        """
        sources = [state for state, row in zip(states, actions, strict=True) for _ in row]
        targets = self._dynamics.transition(sources, [action for row in actions for action in row])
        baselines = [self._baseline(*pair) for pair in zip(sources, targets, strict=True)] if self.advantage else []
        values = self.potentials([*targets, *baselines])
        gains = np.array(values[: len(targets)]) - (np.array(values[len(targets) :]) if self.advantage else 0.0)
        cuts = np.cumsum([len(row) for row in actions])[:-1]
        return np.split(gains.astype(np.float32), cuts) if actions else []

    def potentials(self, states: Sequence[State]) -> list[float]:
        """Return `phi` in [0, 1] of each state: running ones in one call of the model, ended ones by their answer."""
        tasks = [self._tasks.of(state) for state in states]
        # Not the state: a search that found nothing new leaves the prompt, and so the potential, as it was.
        keys = [(task.question, state.passages) for task, state in zip(tasks, states, strict=True)]
        running = {key: task for key, task, state in zip(keys, tasks, states, strict=True) if state.stop is None}
        values = {key: value for key in running if (value := self._cache.use(key)) is not None}
        missing = {key: task for key, task in running.items() if key not in values}
        for key, value in zip(missing, self._likelihoods(missing), strict=True):
            values[key] = self._cache[key] = value
        return [
            values[key] if state.stop is None else self._tasks.grade(state.answer, task)
            for key, task, state in zip(keys, tasks, states, strict=True)
        ]

    def _baseline(self, source: State, target: State) -> State:
        """Return the state whose potential is subtracted from that of `target`."""
        retrieved = target.history[len(source.history) :]
        if not self.random_passages or not retrieved:
            return source
        rng = state_rng(self.seed, source, "random passages")
        rows = rng.sample(range(len(self._corpus)), min(len(retrieved[0].passages), len(self._corpus)))
        turn = Turn("", tuple(self._corpus[row] for row in rows))
        return replace(source, history=(*source.history, turn))

    def _likelihoods(self, missing: Mapping[tuple[Question, tuple[Passage, ...]], Task]) -> list[float]:
        """Return the potential of each pair of question and passages, from one call of the model."""
        prompts = [self._messages(*key) for key in missing]
        answers = []
        for task in missing.values():
            lines = (one_line(answer)[:_ANSWER_CHARS].strip() for answer in task.answers)
            # Without an answer there is nothing to score, and a blank text would have probability 1.
            if not (texts := list(dict.fromkeys(line for line in lines if line))):
                raise RewardError(f"The question {task.question.text!r:.100} has no gold answer to score.")
            answers.append(texts[: self.aliases])
        if not prompts:
            return []
        try:
            rows = [np.asarray(row) for row in self.llm.loglikelihood(prompts, answers, per_token=True)]
        except LLMError as error:  # of these states: one that means that the model is of no use comes when it is loaded
            raise RewardError(f"The model of the information gain failed: {error}") from error
        # A NaN fails the comparison.
        if [row.shape for row in rows] != [(len(row),) for row in answers] or not all(
            (row <= _ROUNDING).all() for row in rows
        ):
            raise RewardError(
                f"{type(self.llm).__name__}.loglikelihood must return one array for each prompt, with a "
                f"log-probability of 0 or less for each continuation, got {rows!r:.200}."
            )
        self.scored += len(rows)
        return [math.exp(min(0.0, float(row.max())) / self.temperature) for row in rows]

    def _messages(self, question: Question, passages: tuple[Passage, ...]) -> Messages:
        """Return the prompt: worked examples, which all prompts share, and the question behind the passages."""
        lines: list[str] = []
        room = self.history_chars
        for line in reversed(passage_lines(passages, self.passage_chars, numbered=False)):
            room -= len(line)
            if room < 0 and lines:
                break
            lines.append(line)
        options = [f"{option_letter(at)}. {as_data(text)[:ACTION_CHARS]}" for at, text in enumerate(question.options)]
        text = "\n".join((clipped(as_data(question.text), QUESTION_CHARS), *options))
        return [*_HEAD, {"role": "user", "content": _prompt(lines[::-1], text)}]


def _prompt(passages: Sequence[str], question: str) -> str:
    return "\n".join(("Passages:", *(passages or ["none"]), "", f"Question: {question}"))


_HEAD: Messages = [
    {"role": "system", "content": _SYSTEM},
    *(
        message
        for passages, question, answer in _EXAMPLES
        for message in (
            {"role": "user", "content": _prompt(passages, question)},
            {"role": "assistant", "content": answer},
        )
    ),
]
