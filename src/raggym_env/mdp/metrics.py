"""Answer metrics, by the rules of the published evaluation scripts. Pure functions; every score is in [0, 1].

`normalize`, `exact_match` and `token_f1` follow `hotpot_evaluate_v1.py` (HotpotQA, arXiv 1809.09600), which took
its normalisation from the SQuAD 1.1 script (arXiv 1606.05250). `cover_em` is the cover-exact-match of the search
agent literature, over whole tokens. `accuracy` reads an option by `read_option`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from raggym_env.core import Task
from raggym_env.errors import DataError, UnknownName

__all__ = [
    "METRICS",
    "accuracy",
    "all_scores",
    "cover_em",
    "exact_match",
    "normalize",
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
    """Return the text in lower case, without ASCII punctuation and a/an/the, with single spaces.

    The steps are those of the SQuAD script, in its order. Punctuation is removed, not replaced: "St.Louis" is one
    token. Characters outside `string.punctuation`, such as "–" and "’", stay.

    >>> normalize("The  Beatles' 'Abbey Road'!")
    'beatles abbey road'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str | Sequence[str]) -> float:
    """Return 1.0 if the normalised prediction equals the normalised gold answer (any of several), else 0.0."""
    normalized = normalize(prediction)
    return max(float(normalized == normalize(answer)) for answer in _golds(gold))


def token_f1(prediction: str, gold: str | Sequence[str]) -> float:
    """Return the token-overlap F1 with the gold answer (the best of several), by the HotpotQA script.

    If either side normalises to "yes", "no" or "noanswer" and the other side differs, the score is 0. Repeated
    tokens count as often as both sides have them. No shared token scores 0, two empty answers included.

    >>> token_f1("the Eiffel Tower", "Eiffel Tower, Paris")
    0.8
    """
    return max(_token_f1(prediction, answer) for answer in _golds(gold))


def cover_em(prediction: str, gold: str | Sequence[str]) -> float:
    """Return 1.0 if the prediction contains the gold answer (any of several) as a run of whole normalised tokens.

    A gold "yes", "no" or "noanswer" is covered only by a prediction whose opening clause is that word and nothing
    else ("No, they are not."). A gold of no tokens is covered only by a prediction of none. An exact match is
    always covered.

    >>> cover_em("It is the Eiffel Tower in Paris.", "Eiffel Tower"), cover_em("a novelist", "no")
    (1.0, 0.0)
    """
    return max(_cover_em(prediction, answer) for answer in _golds(gold))


def accuracy(answer: str, options: Sequence[str], correct: int) -> float:
    """Return 1.0 if the answer names the correct option, 0.0 if another or none; see `read_option`.

    Args:
        answer: A letter, an option's text, or both.
        options: Texts in order; the first is "A".
        correct: Index of the correct option.
    """
    return float(read_option(answer, options) == correct)


def _golds(gold: str | Sequence[str]) -> Sequence[str]:
    golds = (gold,) if isinstance(gold, str) else gold
    if not golds:
        # A score of 0 would blame the prediction for a fault of the data.
        raise DataError("No gold answer to compare with: the list of answers is empty. Give at least one.")
    return golds


def _token_f1(prediction: str, gold: str) -> float:
    predicted, expected = normalize(prediction), normalize(gold)
    # Otherwise the one shared token of "no" and "no doubt, yes" would earn credit.
    if predicted != expected and (predicted in _VERDICTS or expected in _VERDICTS):
        return 0.0
    predicted_tokens, expected_tokens = predicted.split(), expected.split()
    shared = sum((Counter(predicted_tokens) & Counter(expected_tokens)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted_tokens), shared / len(expected_tokens)
    return 2 * precision * recall / (precision + recall)


def _cover_em(prediction: str, gold: str) -> float:
    expected = normalize(gold)
    if expected in _VERDICTS:
        # "no" occurs in many answers that do not mean it ("There is no doubt: yes"), so only the opening counts.
        opening = _CLAUSE_END.split(prediction.strip(), maxsplit=1)[0]
        return float(expected in (normalize(opening), normalize(prediction)))
    predicted = normalize(prediction)
    if not expected:
        return float(not predicted)
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
    own text ("B. Aspirin", "(B) Aspirin", "B Aspirin"), and the option's text (equal after `normalize`); each also
    after a lead-in ("Answer: B", "The correct answer is (B)", "Option B") and between asterisks, quotes or spaces.

    Anything else is no answer: a letter with the text of another option or with any other text ("A patient with
    fever", "C. difficile"), two letters, a letter beyond the options, a text that two options share.

    >>> read_option("(B) Aspirin", ["Heparin", "Aspirin"])
    1
    """
    # The whole text first: an option may itself begin like a lead-in ("Option pricing"). Then without one lead-in, and
    # without two: "The correct answer is option B".
    for _ in range(3):
        matches = [index for index, option in enumerate(options) if _option_key(option) == _option_key(text)]
        letter = _letter(text, options)
        if matches or letter is not None or not (lead := _LEAD.match(_bare(text))):
            break
        text = _bare(text)[lead.end() :]
    if not matches:
        return letter
    # A text that two options share names neither; nor does one option's letter that is another one's text.
    return matches[0] if len(matches) == 1 and letter in (None, matches[0]) else None


def _bare(text: str) -> str:
    """Return the text without bold marks and surrounding quotes, asterisks and spaces."""
    return text.replace("**", "").strip(" \t\r\n*\"'`“”‘’_")


def _option_key(text: str) -> str:
    # Options made of punctuation or an article alone ("+", "A") normalise to nothing; they count as written.
    return normalize(text) or " ".join(text.lower().split())


def _letter(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option whose letter the text is, alone or followed by that option's own text."""
    match = _LETTER.fullmatch(_bare(text))
    if match is None:
        return None
    letter, rest = next(filter(None, match.groups()[:3])), match[4].strip()
    index = string.ascii_uppercase.index(letter.upper())
    if index >= len(options):
        return None
    # A letter with any other text is a sentence ("A patient with fever"), not an answer.
    return index if not rest or _option_key(rest) == _option_key(options[index]) else None


def _accuracy_of_task(answer: str, task: Task) -> float:
    if task.correct is None:
        raise DataError(
            f"Accuracy needs a question with options, and task {task.id!r} has none. Use em, f1 or cover_em."
        )
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
    """Return the scores that suit the task: accuracy for a question with options, else em, f1 and cover_em.

    Raises:
        DataError: The task has no gold answer.
    """
    names = ("accuracy",) if task.correct is not None else ("em", "f1", "cover_em")
    return {name: score(name, answer, task) for name in names}
