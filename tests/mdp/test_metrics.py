"""The metrics against the rules of the published scripts."""

from __future__ import annotations

import re
import string
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Question, Task
from raggym_env.errors import DataError, UnknownName
from raggym_env.mdp.metrics import (
    METRICS,
    accuracy,
    all_scores,
    answer_precision_recall,
    comparable,
    cover_em,
    exact_match,
    normalize,
    read_option,
    score,
    token_f1,
)

# --- the oracle: the rules of hotpot_evaluate_v1.py, written out step by step --------------------------------


def oracle_normalize(s: str) -> str:
    s = unicodedata.normalize("NFC", s).lower()  # NFC is ours, and changes no text that is in NFC already
    s = "".join(ch for ch in s if ch not in set(string.punctuation))
    s = re.sub(r"\b(a|an|the)\b", " ", s)
    return " ".join(s.split())


def oracle_f1(prediction: str, ground_truth: str) -> float:
    p, g = oracle_normalize(prediction), oracle_normalize(ground_truth)
    if p in ["yes", "no", "noanswer"] and p != g:
        return 0.0
    if g in ["yes", "no", "noanswer"] and p != g:
        return 0.0
    common = Counter(p.split()) & Counter(g.split())
    num_same = sum(common.values())
    if num_same == 0:
        return 0.0
    precision = 1.0 * num_same / len(p.split())
    recall = 1.0 * num_same / len(g.split())
    return (2 * precision * recall) / (precision + recall)


WORDS = st.sampled_from(
    ["the", "a", "an", "The", "yes", "no", "No.", "noanswer", "novelist", "Paris", "paris,", "1999", "1,000", "-", "é"]
)
PHRASES = st.lists(WORDS, max_size=6).map(" ".join) | st.text(max_size=12)


@given(PHRASES)
def test_normalisation_agrees_with_the_published_rule(text: str) -> None:
    assert normalize(text) == oracle_normalize(text)


@given(PHRASES, PHRASES)
def test_scores_agree_with_the_published_rules(prediction: str, gold: str) -> None:
    expected = oracle_normalize(gold)
    if expected:  # where nothing is left, the published rule calls every other empty answer right, and F1 0
        assert token_f1(prediction, gold) == pytest.approx(oracle_f1(prediction, gold))
        assert exact_match(prediction, gold) == (oracle_normalize(prediction) == expected)


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=4))
def test_several_golds_score_as_the_best_of_them(prediction: str, golds: list[str]) -> None:
    for metric in (exact_match, token_f1, cover_em):
        assert metric(prediction, golds) == max(metric(prediction, gold) for gold in golds)


@given(PHRASES, PHRASES)
def test_an_exact_match_is_always_covered(prediction: str, gold: str) -> None:
    assert cover_em(prediction, gold) >= exact_match(prediction, gold)


# --- normalisation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("an apple a day", "apple day"),
        ("Theatre and Ananas", "theatre and ananas"),
        ("St.Louis", "stlouis"),
        ("U.S.A.", "usa"),
        ("1,234.5", "12345"),
        ("rock-'n'-roll", "rocknroll"),
        ("  two \t words\n", "two words"),
        ("É́mile – Zola’s", "é́mile – zola’s"),
        ("the", ""),
        ("a-b", "ab"),
        ("the-the", "thethe"),
        ("İ", "i̇"),
    ],
)
def test_normalisation_cases(text: str, expected: str) -> None:
    assert normalize(text) == expected


def test_numbers_written_differently_do_not_match() -> None:
    assert exact_match("1,000", "1000") == 1.0
    assert exact_match("one thousand", "1000") == 0.0
    assert exact_match("10", "1.0") == 1.0  # the published rule drops the point


# --- f1 and cover_em -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["yes", "no", "noanswer"])
def test_a_verdict_shares_no_credit_with_a_longer_answer(verdict: str) -> None:
    assert token_f1(f"{verdict}, they are", verdict) == 0.0
    assert token_f1(verdict, f"{verdict} they are") == 0.0
    assert token_f1(verdict.upper() + ".", verdict) == 1.0


def test_f1_counts_repeated_tokens_as_often_as_both_have_them() -> None:
    assert token_f1("New New York", "New York") == pytest.approx(0.8)


def test_novelist_does_not_cover_no() -> None:
    assert cover_em("He was a novelist", "no") == 0.0
    assert cover_em("novelist", "no") == 0.0
    assert cover_em("the European Union", "euro") == 0.0


def test_cover_em_needs_the_whole_run_of_tokens() -> None:
    assert cover_em("It opened in New York City.", "New York") == 1.0
    assert cover_em("York is not new", "New York") == 0.0
    assert cover_em("New old York", "New York") == 0.0


@pytest.mark.parametrize(
    ("prediction", "covered"),
    [
        ("No", True),
        ("No, they are not.", True),
        ("No. Only one is.", True),
        ("no - only one", True),
        ("No one knows", False),
        ("No. 1", False),
        ("No.1", False),
        ("There is no answer", False),
        ("yes and no", False),
        ("Yes, no doubt", False),
    ],
)
def test_a_gold_no_is_covered_only_by_an_opening_no(prediction: str, covered: bool) -> None:
    assert cover_em(prediction, "no") == covered


# Answers of which normalisation leaves nothing; hypothesis adds what nobody thought of.
EMPTY = st.sampled_from(["The The", "The", "A", "an", "...", "!!!", "a/an", "?", "The, the", "+", "-", "“”", "。"]) | (
    st.text(alphabet=f"{string.punctuation} ", max_size=5)
    | st.lists(st.sampled_from(["the", "a", "An", "-", "!"]), max_size=4).map(" ".join)
)
BLANK = st.text(alphabet=" \t\n\u00a0\u3000", max_size=4)


@given(EMPTY | PHRASES, BLANK)
def test_a_blank_prediction_is_never_right(gold: str, blank: str) -> None:
    assert exact_match(blank, gold) == token_f1(blank, gold) == cover_em(blank, gold) == 0.0


@given(EMPTY | PHRASES, st.sampled_from([str, str.upper, str.title, " {} ".format, "{}\n".format]))
def test_the_gold_answer_itself_is_always_right(gold: str, written: Callable[[str], str]) -> None:
    if gold.strip() and written(gold).lower().strip() == gold.lower().strip():
        answer = written(gold)
        assert exact_match(answer, gold) == token_f1(answer, gold) == cover_em(answer, gold) == 1.0


@given(EMPTY, EMPTY)
def test_different_answers_that_normalise_to_nothing_are_not_taken_for_each_other(one: str, other: str) -> None:
    if (exact_match(one, other), token_f1(one, other)) != (0.0, 0.0):
        assert comparable(one) == comparable(other) != ""


@pytest.mark.parametrize(
    ("prediction", "gold", "right", "covered"),
    [
        ("the the", "The The", 1, 1),
        ("The The.", "The The", 1, 1),
        ("The", "The The", 0, 0),
        ("The Beatles", "The The", 0, 0),
        ("It is the band The The", "The The", 0, 1),
        ("a", "The", 0, 0),
        ("A.", "A", 1, 1),
        ("A, as in the passage", "A", 0, 1),
        ("A vitamin", "A", 0, 0),
        ("anything", "The", 0, 0),
        ("The best of all", "The", 0, 0),
        ("!!!", "!!!", 1, 1),
        ("!", "!!!", 0, 0),
        ("Really!!!", "!!!", 0, 0),
        ("。", "。", 1, 1),
        ("Beatles", "The Beatles", 1, 1),
    ],
)
def test_a_gold_answer_that_normalises_to_nothing_matches_as_a_whole(
    prediction: str, gold: str, right: float, covered: float
) -> None:
    assert (exact_match(prediction, gold), token_f1(prediction, gold)) == (right, right)
    assert cover_em(prediction, gold) == covered


ACCENTED = st.text(alphabet="aeouncyÉéñçüǘệộ한글がÅ İ", min_size=1, max_size=12).filter(str.strip)


@given(ACCENTED, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_composed_and_decomposed_spellings_are_the_same_answer(text: str, one: str, other: str) -> None:
    gold, answer = unicodedata.normalize(one, text), unicodedata.normalize(other, text)
    assert exact_match(answer, gold) == token_f1(answer, gold) == cover_em(answer, gold) == 1.0
    assert read_option(f"The {answer}", ["something else", f"The {gold}"]) == 1
    assert accuracy(f"The {answer}", [f"The {gold}", "something else"], 0) == 1.0


def test_no_gold_answer_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(DataError, match="No gold answer"):
        exact_match("x", [])


# --- options -------------------------------------------------------------------------------------------------

DRUGS = ("Clostridium tetani", "Aspirin", "Heparin", "A patient")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        " B ",
        "(B)",
        "[b]",
        "B.",
        "B)",
        "B:",
        "B. Aspirin",
        "b) aspirin.",
        "(B) Aspirin",
        "(B). Aspirin",
        "B: Aspirin",
        "B Aspirin",
        "Option B",
        "option (b)",
        "Answer: B",
        "Answer: (B) Aspirin",
        "Answer: Aspirin",
        "The answer is B.",
        "The correct answer is: B",
        "The correct answer is option B",
        "**B**",
        "**B.** Aspirin",
        '"B"',
        "Aspirin",
        "the ASPIRIN.",
    ],
)
def test_documented_forms_name_option_b(text: str) -> None:
    assert read_option(text, DRUGS) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "E",
        "(Z) Aspirin",
        "B. Heparin",
        "B Heparin",
        "Answer: B. Heparin",
        "C. difficile",
        "B because of fever",
        "B and C",
        "B, C",
        "A or B",
        "AB",
        "BB",
        "ASA",
        "(B",
        "Aspirin and Heparin",
        "I think B",
        "not B",
        "Answer",
        "Answer:",
        "é",
    ],
)
def test_other_texts_name_no_option(text: str) -> None:
    assert read_option(text, DRUGS) is None


def test_a_capital_letter_in_a_sentence_is_not_an_option() -> None:
    options = ("Heparin", "Aspirin", "Insulin", "Iron")
    assert read_option("A patient with fever needs insulin", options) is None
    assert read_option("Vitamin B is missing. Definitely.", options) is None
    assert read_option("A 5-year-old", options) is None


def test_an_option_text_that_begins_like_a_letter_is_the_text() -> None:
    assert read_option("A patient", DRUGS) == 3
    assert read_option("C. difficile", ("E. coli", "C. difficile")) == 1


def test_a_long_chain_of_lead_ins_names_no_option() -> None:
    assert read_option("answer: " * 3000 + "B", DRUGS) is None


def test_equal_options_are_one_option() -> None:
    options = ("I, II", "III, IV", "I, IV, V", "I, IV, V.")
    for correct in (2, 3):
        for answer in ("C", "D", "(c)", "I, IV, V", "D. I, IV, V", "The answer is i, iv,  v."):
            assert accuracy(answer, options, correct) == 1.0
        assert accuracy("A", options, correct) == accuracy("I, II", options, correct) == 0.0
    assert accuracy("C", options, 0) == 0.0


def test_options_that_differ_in_marks_only_are_not_equal() -> None:
    for one, other in (
        ("1.5 mg", "15 mg"),
        ("A+", "A-"),
        ("HLA-B27+", "HLA-B27-"),
        (".5", "5"),
        ("5'", '5"'),
        ("5!", "5"),
    ):
        assert (read_option(one, (one, other)), read_option(other, (one, other))) == (0, 1)
        assert accuracy(one, (one, other), 1) == accuracy(other, (one, other), 0) == 0.0
    assert read_option("1,5 mg", ("1.5 mg", "15 mg")) is None


OPTIONS = st.lists(
    st.sampled_from(
        [*"ABCDE", "A patient", "B. Aspirin", "Aspirin", "aspirin.", "1.5 mg", "15 mg", "+", "(B)", "é", "the"]
    )
    | st.text(min_size=1, max_size=6).filter(str.strip),
    min_size=2,
    max_size=5,
)


@given(OPTIONS)
def test_the_right_options_own_text_is_right_unless_it_is_a_letter(options: list[str]) -> None:
    for index, option in enumerate(options):
        letters = re.sub(r"[^A-Za-z]", "", option)
        if len(letters) != 1:
            assert accuracy(option, options, index) == 1.0


@given(OPTIONS, st.sampled_from(["{}", "({})", "{}.", "[{}]", "Answer: {}", "**{}**", "The answer is ({})."]))
def test_a_bare_letter_is_the_letter_whatever_the_options_are(options: list[str], form: str) -> None:
    for index in range(len(options)):
        letter = form.format(string.ascii_uppercase[index])
        if letter not in options or form == "{}":
            assert read_option(letter, options) == index


def test_letters_as_texts_of_options_are_read_as_letters() -> None:
    """A chart of structures: the letter is what agents are told to give."""
    options = ("B", "C", "D", "E")
    assert [read_option(letter, options) for letter in "ABCDE"] == [0, 1, 2, 3, 3]
    assert read_option("A. B", options) == 0
    assert read_option("Vitamin A", ("Vitamin B", "A", "Vitamin A")) == 2
    assert read_option("B Aspirin", ("Heparin", "Aspirin", "B Aspirin")) == 2


def test_options_made_of_punctuation_are_distinguished() -> None:
    assert read_option("+", ("-", "+")) == 1
    assert read_option("-", ("-", "+")) == 0


@given(st.integers(0, 3))
def test_accuracy_counts_only_the_correct_option(correct: int) -> None:
    assert [accuracy(letter, DRUGS, correct) for letter in "ABCD"] == [float(i == correct) for i in range(4)]


@given(st.text(max_size=20))
def test_reading_never_fails_and_stays_within_the_options(text: str) -> None:
    assert read_option(text, DRUGS) in (None, 0, 1, 2, 3)


# --- tasks ---------------------------------------------------------------------------------------------------

OPEN = Task(Question("o", "Who?"), ("George Orwell", "Eric Blair"))
CHOICE = Task(Question("c", "Which?", DRUGS), ("Heparin",), correct=2)


def test_a_task_is_scored_against_all_its_answers() -> None:
    names = ("em", "f1", "cover_em", "answer_precision", "answer_recall")
    assert all_scores("eric blair", OPEN) == dict.fromkeys(names, 1.0)
    expected = (0.0, pytest.approx(2 / 3), 0.0, 1.0, 0.5)
    assert all_scores("Orwell", OPEN) == dict(zip(names, expected, strict=True))


@given(st.text("ab yes.the", max_size=12), st.lists(st.text("ab no.the", max_size=12), min_size=1, max_size=3))
def test_f1_is_the_harmonic_mean_of_answer_precision_and_recall(prediction: str, golds: list[str]) -> None:
    precision, recall = answer_precision_recall(prediction, golds)
    mean = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert token_f1(prediction, golds) == mean


def test_a_question_with_options_is_scored_by_accuracy_alone() -> None:
    assert all_scores("C", CHOICE) == {"accuracy": 1.0}
    assert all_scores("Heparin", CHOICE) == {"accuracy": 1.0}


@pytest.mark.parametrize("task", [OPEN, CHOICE])
def test_ending_without_an_answer_scores_zero(task: Task) -> None:
    assert set(all_scores(None, task).values()) == {0.0}


@pytest.mark.parametrize("gold", ["the", "...", "The The"])
@pytest.mark.parametrize("answer", [None, "", " \n"])
def test_no_answer_scores_zero_even_where_the_gold_normalises_to_nothing(answer: str | None, gold: str) -> None:
    assert set(all_scores(answer, Task(Question("", "?"), (gold,))).values()) == {0.0}


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'cover_em'"):
        score("coverem", "x", OPEN)


def test_accuracy_without_options_is_an_error_and_not_a_zero() -> None:
    for answer in ("A", None):
        with pytest.raises(DataError, match="no"):
            score("accuracy", answer, OPEN)


def test_every_metric_of_an_environment_card_exists() -> None:
    from typing import get_args

    from raggym_env.cards import EpisodeCard

    assert set(get_args(EpisodeCard.model_fields["metric"].annotation)) == set(METRICS)


@pytest.mark.slow
def test_the_table_of_deviations_is_what_the_benchmark_prints(real_data: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks" / "metrics.py"), str(real_data)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip()
    assert all(line in (root / "benchmarks" / "METRICS.md").read_text("utf-8") for line in printed.splitlines())
