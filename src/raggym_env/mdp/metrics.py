"""Answer metrics, by the rules of the published evaluation scripts. Pure functions; every score is in [0, 1].

`normalize`, `exact_match` and `token_f1` follow `hotpot_evaluate_v1.py` (HotpotQA, arXiv 1809.09600), which took
its normalisation from the SQuAD 1.1 script (arXiv 1606.05250). `cover_em` is the cover-exact-match of the search
agent literature, over whole tokens. `accuracy` reads an option by `read_option`.

They deviate from the scripts in two points (`benchmarks/METRICS.md` lists these and smaller ones, with the questions
that each touches):

- Texts are compared in Unicode NFC, so that "é" equals "e" with a combining accent.
- A gold answer of which normalisation leaves nothing ("The The", "...") is compared with its articles or, if it has no
  letters, as written. It matches as a whole or not at all, and nothing matches a blank prediction.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from raggym_env.core import Task
from raggym_env.errors import DataError, UnknownName

__all__ = [
    "METRICS",
    "accuracy",
    "all_scores",
    "answer_precision_recall",
    "comparable",
    "cover_em",
    "exact_match",
    "normalize",
    "option_key",
    "read_option",
    "score",
    "token_f1",
]

# ASCII punctuation only, as in the scripts: a score must be comparable with published ones.
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# The closed-class answers of hotpot_evaluate_v1.py: they match as a whole or not at all.
_VERDICTS = ("yes", "no", "noanswer")
# The end of an opening clause: punctuation before a space or the end, or a dash between spaces. "No. 1" and "No.1"
# are numbers, not verdicts.
_CLAUSE_END = re.compile(r"[,.;:!?](?=\s|$)(?!\s*\d)|\s[-–—]\s|\n")


def normalize(text: str) -> str:
    """Return the text in NFC and lower case, without ASCII punctuation and a/an/the, with single spaces.

    The steps after NFC are those of the SQuAD script, in its order. Punctuation is removed, not replaced: "St.Louis"
    is one token. Characters outside `string.punctuation`, such as "–" and "’", stay.

    >>> normalize("The  Beatles' 'Abbey Road'!")
    'beatles abbey road'
    """
    return " ".join(_ARTICLES.sub(" ", _lower(text).translate(_PUNCTUATION)).split())


def _with_articles(text: str) -> str:
    return " ".join(_lower(text).translate(_PUNCTUATION).split())


def _as_written(text: str) -> str:
    return " ".join(_lower(text).split())


def _lower(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _form(text: str) -> Callable[[str], str]:
    """Return the first of the three forms above in which the text is not empty; `_as_written` for a blank text."""
    return next((form for form in (normalize, _with_articles) if form(text)), _as_written)


def comparable(text: str) -> str:
    """Return what answers are compared by: the normalised text, or as much less of it as leaves something.

    It is empty only for a blank text.

    >>> comparable("The Beatles!"), comparable("The The!"), comparable("!!!")
    ('beatles', 'the the', '!!!')
    """
    return _form(text)(text)


def exact_match(prediction: str, gold: str | Sequence[str]) -> float:
    """Return 1.0 if the prediction equals the gold answer (any of several) after `comparable`, else 0.0."""
    return max(_exact_match(prediction, answer) for answer in _golds(gold))


def token_f1(prediction: str, gold: str | Sequence[str]) -> float:
    """Return the token-overlap F1 with the gold answer (the best of several), by the HotpotQA script.

    If either side normalises to "yes", "no" or "noanswer" and the other side differs, the score is 0. Repeated
    tokens count as often as both sides have them. No shared token scores 0. For a gold answer of which normalisation
    leaves nothing, the score is that of `exact_match`.

    >>> token_f1("the Eiffel Tower", "Eiffel Tower, Paris")
    0.8
    """
    return max(_token_f1(prediction, answer) for answer in _golds(gold))


def answer_precision_recall(prediction: str, gold: str | Sequence[str]) -> tuple[float, float]:
    """Return the precision and the recall of the prediction's tokens, of which `token_f1` is the harmonic mean.

    Of several gold answers it is the one with the best F1; among equals the first.

    >>> answer_precision_recall("the Eiffel Tower", "Eiffel Tower, Paris")
    (1.0, 0.6666666666666666)
    """
    best = max(_golds(gold), key=lambda answer: _token_f1(prediction, answer))
    return _precision_recall(prediction, best)


def cover_em(prediction: str, gold: str | Sequence[str]) -> float:
    """Return 1.0 if the prediction contains the gold answer (any of several) as a run of whole normalised tokens.

    A gold "yes", "no" or "noanswer" is covered only by a prediction whose opening clause is that word and nothing
    else ("No, they are not."), and so is a gold answer that is a single article or mark ("The", "..."). An exact match
    is always covered, and nothing by a blank prediction.

    >>> cover_em("It is the Eiffel Tower in Paris.", "Eiffel Tower"), cover_em("a novelist", "no")
    (1.0, 0.0)
    """
    return max(_cover_em(prediction, answer) for answer in _golds(gold))


def accuracy(answer: str, options: Sequence[str], correct: int) -> float:
    """Return 1.0 if the answer names the correct option, 0.0 if another or none; see `read_option`.

    Args:
        answer: A letter, an option's text, or both.
        options: Texts in order; the first is "A". Options of equal texts are one: each is correct if one of them is.
        correct: Index of the correct option.
    """
    index = read_option(answer, options)
    return float(index is not None and option_key(options[index]) == option_key(options[correct]))


def _golds(gold: str | Sequence[str]) -> Sequence[str]:
    golds = (gold,) if isinstance(gold, str) else gold
    if not golds:
        # A score of 0 would blame the prediction for a fault of the data.
        raise DataError("No gold answer to compare with: the list of answers is empty. Give at least one.")
    return golds


def _exact_match(prediction: str, gold: str) -> float:
    form, expected = _gold_form(gold)
    return float(bool(expected) and form(prediction) == expected)


# Cached, as the same gold answers grade every episode on their question.
@lru_cache(maxsize=4_096)
def _gold_form(gold: str) -> tuple[Callable[[str], str], str]:
    form = _form(gold)
    return form, form(gold)


def _token_f1(prediction: str, gold: str) -> float:
    precision, recall = _precision_recall(prediction, gold)
    return 2 * precision * recall / (precision + recall) if precision else 0.0


def _precision_recall(prediction: str, gold: str) -> tuple[float, float]:
    """Return the shares of the prediction's tokens and of the gold answer's that are shared; see `token_f1`."""
    predicted, expected = normalize(prediction), normalize(gold)
    if not expected:
        equal = _exact_match(prediction, gold)
        return equal, equal
    # Otherwise the one shared token of "no" and "no doubt, yes" would earn credit.
    if predicted != expected and (predicted in _VERDICTS or expected in _VERDICTS):
        return 0.0, 0.0
    predicted_tokens, expected_tokens = predicted.split(), expected.split()
    shared = sum((Counter(predicted_tokens) & Counter(expected_tokens)).values())
    return (shared / len(predicted_tokens), shared / len(expected_tokens)) if shared else (0.0, 0.0)


def _cover_em(prediction: str, gold: str) -> float:
    form = _form(gold)
    predicted, expected = form(prediction), form(gold)
    if not expected:
        return 0.0
    if expected in _VERDICTS or (form is not normalize and " " not in expected):
        # "no" occurs in many answers that do not mean it ("There is no doubt: yes"), and "the" in most, so only the
        # opening counts.
        opening = _CLAUSE_END.split(prediction.strip(), maxsplit=1)[0]
        return float(expected in (form(opening), predicted))
    # Spaces around both, so that "art" is not covered by "party".
    return float(f" {expected} " in f" {predicted} ")


# "Answer: B", "The correct answer is (B)", "Option B": the part before the letter or text.
_LEAD = re.compile(
    r"(?:the\s+)?(?:(?:final|correct|best)\s+)?(?:answer|option|choice)(?:\s+is)?(?:\s*:\s*|\s+)(?=\S)", re.IGNORECASE
)
# "(B)", "[B]" or "B" before an end, a mark or a space; then an optional mark; then the rest, the option's text. "A"
# must not match the first letter of "Aspirin".
_LETTER = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=$|[.:)\s]))\s*[.:)]?(?:\s+|$)(.*)", re.DOTALL)


def read_option(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that an answer names, or None if it names none clearly.

    Accepted in either case: the letter ("B", "b", "(B)", "[B]", "B.", "B)", "B:"), the letter with that option's
    own text ("B. Aspirin", "(B) Aspirin", "B Aspirin"), and the option's text; each also after a lead-in ("Answer: B",
    "The correct answer is (B)", "Option B") and between asterisks, quotes or spaces.

    A letter is always read as the letter, since that is what agents are told to give, even where it is the text of
    another option. A text is that of the option that equals it but for case and marks at its ends, or else of the one
    that equals it after `normalize`. Options of equal texts are one option, whose index is that of the first.

    Anything else is no answer: a letter with the text of another option or with any other text ("A patient with
    fever", "C. difficile"), two letters, a letter beyond the options, a text like those of two different options.

    >>> read_option("(B) Aspirin", ["Heparin", "Aspirin"])
    1
    >>> read_option("B", ["B", "A"]), read_option("1.5 mg", ["15 mg", "1.5 mg"])
    (1, 1)
    """
    # The whole text first: an option may itself begin like a lead-in ("Option pricing"). Then without one lead-in, and
    # without two: "The correct answer is option B".
    for _ in range(3):
        index = _read_option(text, options)
        if index is not None or not (lead := _LEAD.match(_bare(text))):
            return index
        text = _bare(text)[lead.end() :]
    return None


def _read_option(text: str, options: Sequence[str]) -> int | None:
    letter, rest = _letter(text, options)
    if letter is not None and not rest:
        return letter
    keys = [option_key(option) for option in options]
    for key in (option_key(text), option_key(_bare(text))):
        if key in keys:
            return keys.index(key)
    if letter is not None and option_key(rest) == keys[letter]:
        return letter
    # Normalised, "1.5 mg" and "15 mg" are equal: a text that is neither of them as written may mean either.
    matches = [index for index, option in enumerate(options) if comparable(option) == comparable(text)]
    return matches[0] if len({keys[index] for index in matches}) == 1 else None


def _bare(text: str) -> str:
    """Return the text without bold marks and surrounding quotes, asterisks and spaces."""
    return text.replace("**", "").strip(" \t\r\n*\"'`“”‘’_")


def option_key(text: str) -> str:
    """Return what options are told apart by: the text in NFC, without case and a full stop or comma at its end.

    >>> option_key("Aspirin.") == option_key("ASPIRIN"), option_key("A+") == option_key("A-")
    (True, False)
    """
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.rstrip(".,;: ") or folded  # options made of marks alone count as written


def _letter(text: str, options: Sequence[str]) -> tuple[int | None, str]:
    """Return the index of the option whose letter the text begins with, or None, and the text after the letter."""
    match = _LETTER.fullmatch(_bare(text))
    if match is None:
        return None, ""
    letter = next(filter(None, match.groups()[:3]))
    index = string.ascii_uppercase.index(letter.upper())
    return (index if index < len(options) else None), match[4].strip()


def _accuracy_of_task(answer: str, task: Task) -> float:
    if task.correct is None:
        raise DataError(f"Accuracy needs options, and task {task.id!r} has none. Use em, f1 or cover_em.")
    return accuracy(answer, task.question.options, task.correct)


METRICS: Mapping[str, Callable[[str, Task], float]] = {
    "em": lambda answer, task: exact_match(answer, task.answers),
    "f1": lambda answer, task: token_f1(answer, task.answers),
    "cover_em": lambda answer, task: cover_em(answer, task.answers),
    "accuracy": _accuracy_of_task,
}
"""Metric name -> score of an answer to a task, in [0, 1]. The first three compare texts, so the letter of an option
scores 0 by them."""


def score(metric: str, answer: str | None, task: Task) -> float:
    """Return the score of one answer by the named metric, in [0, 1]; None, for no answer, scores 0.0.

    Raises:
        UnknownName: No metric has that name.
        DataError: The task does not fit the metric: it has no options (for accuracy) or no gold answer.
    """
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    # Grading a blank even for None makes a task that cannot be scored fail at once, not only when it is answered.
    value = METRICS[metric](answer or "", task)
    return 0.0 if answer is None else value


def all_scores(answer: str | None, task: Task) -> dict[str, float]:
    """Return the scores that suit the task: accuracy for a question with options, else those that compare texts.

    These are em, f1, the parts of f1 as answer_precision and answer_recall, and cover_em.

    Raises:
        DataError: The task has no gold answer.
    """
    if task.correct is not None:
        return {"accuracy": score("accuracy", answer, task)}
    scores = {name: score(name, answer, task) for name in ("em", "f1", "cover_em")}
    parts = (0.0, 0.0) if answer is None else answer_precision_recall(answer, task.answers)
    return scores | dict(zip(("answer_precision", "answer_recall"), parts, strict=True))
