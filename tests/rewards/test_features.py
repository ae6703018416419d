"""Features of candidate actions."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raggym_env import retrieval
from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.data.synth import SynthWorld, generate_tasks
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.rewards.features import FEATURES, features

FILM = Passage("1", "Red Harbour", "Red Harbour is a 1962 drama film directed by Ilse Brandt and starring Tom Reed.")
ILSE = Passage("2", "Ilse Brandt", "Ilse Brandt (3 May 1920 – 7 June 1991) was a German director. She died in Lisbon.")
NOISE = Passage("3", "Harbour", "A harbour is a sheltered body of water where ships are docked.")
QUESTION = "Where did the director of the film Red Harbour die?"


def state(text=QUESTION, *turns, left=3, options=()):
    history = tuple(Turn(query, tuple(passages)) for query, *passages in turns)
    return State(Question("q", text, options), history, left)


ONCE = state(QUESTION, ("Red Harbour", FILM, NOISE))
TWICE = state(QUESTION, ("Red Harbour", FILM, NOISE), ("Ilse Brandt", ILSE, FILM))


def by_name(running, action):
    """Return the features of one action by name."""
    (row,) = features(running, [action])
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_every_feature_has_a_distinct_name_and_a_column():
    assert len(set(FEATURES)) == len(FEATURES)
    rows = features(ONCE, [Search("Ilse Brandt"), Answer("Lisbon")])
    assert (rows.shape, rows.dtype) == ((2, len(FEATURES)), np.float32)
    assert features(ONCE, []).shape == (0, len(FEATURES))


# Of these an answer has none, as it is worth no more for the searches before it.
PROGRESS = ("searches_done", "none_left", "last_was_new", "last_was_title")


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (state(), {"first": 1, "searches_done": 0, "names_known": 0, "bridged": 0, "last_was_new": 0}),
        (state(left=0), {"first": 1, "searches_done": 1, "none_left": 1}),
        (ONCE, {"first": 0, "searches_done": 0.25, "names_known": 1, "names_seen": 1, "bridged": 1, "bridge_known": 0}),
        (ONCE, {"last_was_new": 1, "last_was_title": 1, "asks_agent": 1, "asks_choice": 0, "asks_verdict": 0}),
        (TWICE, {"searches_done": 0.4, "bridge_known": 1, "last_was_new": 0.5, "last_was_title": 1, "none_left": 0}),
        (state("Is Ada or Bea older?"), {"asks_choice": 1, "asks_verdict": 0, "asks_agent": 0}),
        (state("Are Ada and Bea both singers?"), {"asks_choice": 0, "asks_verdict": 1}),
        (state(QUESTION, ("nothing",)), {"first": 0, "last_was_new": 0, "last_was_title": 0, "names_known": 0}),
    ],
)
def test_the_features_of_a_state(running, expected):
    values = by_name(running, Search("x"))
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    answered = by_name(running, Answer("x"))
    assert {name: answered[name] for name in expected if name not in PROGRESS} == pytest.approx(
        {name: value for name, value in expected.items() if name not in PROGRESS}
    )
    assert not any(answered[name] for name in PROGRESS)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (QUESTION, {"query_is_question": 1, "query_in_question": 1, "query_has_name": 1, "query_unheard": 0}),
        ("Red Harbour", {"query_again": 1, "query_repeats": 1, "query_is_name": 1, "query_is_title": 1}),
        ("Red Harbour (film)", {"query_again": 1, "query_repeats": 2 / 3, "query_is_title": 1}),
        ("red harbour?", {"query_again": 1, "query_repeats": 1, "query_capital": 0}),
        ("harbour Red", {"query_again": 0, "query_repeats": 1, "query_is_title": 0}),
        ("Ilse Brandt", {"query_has_bridge": 1, "query_bare": 1, "query_page_named": 1, "query_chain": 1}),
        ("Ilse Brandt", {"query_in_found": 1, "query_in_question": 0, "query_rank": 1, "query_last": 1}),
        ("Ilse Brandt", {"query_again": 0, "query_early": 1, "query_words": 0.1, "query_nation": 0}),
        ("Zorblax Quux", {"query_unheard": 1, "query_in_found": 0, "query_mentions": 0, "query_best": 0}),
        ("German", {"query_nation": 1, "query_bare": 0}),
    ],
)
def test_the_features_of_a_search(query, expected):
    values = by_name(ONCE, Search(query))
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert not any(value for name, value in values.items() if name.startswith("answer_") and name != "answer_margin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lisbon", {"answer_is_read": 1, "answer_read": 1, "answer_place": 1, "answer_rank": 1 / 3}),
        ("Lisbon", {"answer_in_question": 0, "answer_is_title": 0, "answer_words": 0.1, "answer_capital": 1}),
        ("Ilse Brandt", {"answer_is_read": 0, "answer_is_title": 1, "answer_rank": 1}),
        ("Red Harbour", {"answer_in_question": 1, "answer_read": 0, "answer_fits": 0.8}),
        ("7 June 1991", {"answer_fits": 0, "answer_place": 0}),
        ("yes", {"answer_is_yes": 1, "answer_is_verdict": 1, "answer_mentions": 0}),
        ("no", {"answer_is_yes": 0, "answer_is_verdict": 1}),
        ("somewhere else", {"answer_mentions": 0, "answer_best": 0, "answer_read": 0, "answer_rank": 0}),
    ],
)
def test_the_features_of_an_answer(text, expected):
    values = by_name(TWICE, Answer(text))
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert not any(value for name, value in values.items() if name.startswith("query_"))


def test_the_letter_of_an_option_stands_for_the_option():
    running = State(Question("q", "What treats a fever?", ("Aspirin", "Iron")), (), 2)
    rows = features(running, [Answer("b"), Answer("Iron"), Answer("A")])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()
    # Without options a letter is an answer like any other.
    assert by_name(TWICE, Answer("B"))["answer_words"] == pytest.approx(0.1)


def test_yes_and_no_fit_a_yes_or_no_question_and_a_name_does_not():
    running = state("Are Ilse Brandt and Tom Reed of the same nationality?", ("Ilse Brandt", ILSE))
    assert [by_name(running, Answer(text))["answer_fits"] for text in ("yes", "no", "Lisbon")] == [1, 1, 0]


def test_features_do_not_depend_on_ids_or_drafts():
    other = replace(TWICE, question=replace(TWICE.question, id="gold: Lisbon"))
    turns = tuple(
        Turn(turn.query, tuple(passage._replace(id=f"gold {passage.id}") for passage in turn.passages))
        for turn in other.history
    )
    actions = [Search("Ilse Brandt"), Answer("Lisbon")]
    drafted = [Search("Ilse Brandt", draft="Lisbon"), Answer("Lisbon")]
    np.testing.assert_array_equal(features(TWICE, actions), features(replace(other, history=turns), drafted))


# Texts without words, without case, with digits that are not ASCII, with a lone surrogate, without an end.
WEIRD = st.text(max_size=40) | st.sampled_from(
    ["", " ", "?!…", "\ud800", "¹²", "٣", "Ⅻ", "A or B?", "Are A and B?", "Who, X or or Y?", "When did A die? (b. 19)"]
)
PASSAGES = st.builds(Passage, st.sampled_from("abc"), WEIRD, WEIRD) | st.sampled_from([FILM, ILSE, NOISE])
TURNS = st.builds(Turn, WEIRD, st.lists(PASSAGES, max_size=4).map(tuple))
QUESTIONS = st.builds(Question, st.just("q"), WEIRD | st.just(QUESTION), st.lists(WEIRD, max_size=3).map(tuple))
STATES = st.builds(State, QUESTIONS, st.lists(TURNS, max_size=3).map(tuple), st.integers(0, 3))
TEXTS = WEIRD | st.sampled_from(["Lisbon", "Ilse Brandt", "yes", "1962", "Portugal", QUESTION, "x" * 5_000])
ACTIONS = st.builds(Search, TEXTS) | st.builds(Answer, TEXTS)


@given(STATES, st.lists(ACTIONS, min_size=1, max_size=4))
@example(state("?", left=0), [Search("?!"), Answer("\ud800")])
def test_any_state_and_action_have_finite_features_in_range(running, actions):
    rows = features(running, actions)
    assert rows.shape == (len(actions), len(FEATURES))
    assert np.isfinite(rows).all()
    assert -1 <= rows.min() <= rows.max() <= 1


@given(STATES, st.lists(ACTIONS, min_size=2, max_size=5), st.randoms())
def test_a_row_depends_on_its_own_action_alone(running, actions, random):
    order = random.sample(range(len(actions)), len(actions))
    together = features(running, actions)
    np.testing.assert_array_equal(features(running, [actions[index] for index in order]), together[order])
    np.testing.assert_array_equal(features(running, actions[:1]), together[:1])


# Each is the worst case of one of the patterns.
HUGE = ["Aa " * 330_000, "(1" * 500_000, "is a " * 200_000, '"' * 1_000_000, "A. " * 330_000, "\ud800" * 1_000_000]


@pytest.mark.parametrize("text", HUGE, ids=lambda text: ascii(text[:4]))
def test_a_text_of_a_megabyte_is_read_within_seconds_in_any_place(text):
    start = time.process_time()
    features(
        state(QUESTION, (text, Passage("1", "Red Harbour", text), Passage("2", text, "x"))),
        [Search(text), Answer(text)],
    )
    assert time.process_time() - start < 10  # measured: 0.5 s


def test_a_thousand_passages_are_read_within_seconds():
    many = [Passage(str(i), f"Film {i}", f"Film {i} is a film by Ada {i}, born in Oslo.") for i in range(1_000)]
    start = time.process_time()
    features(state(QUESTION, ("x", *many)), [Search("Ada 7"), Answer("Oslo")])
    assert time.process_time() - start < 10  # measured: 0.2 s


def walked(questions):
    """Yield states of a synthetic world with the candidates of the lexical policy."""
    world = SynthWorld(passages=300)
    dynamics = Dynamics(retrieval.make("rank-bm25", tuple(world.passages())), k=5, max_searches=4)
    policy = LexicalPolicy()
    for task in itertools.islice(generate_tasks(world, "train"), questions):
        running = dynamics.start(task.question)
        while running.stop is None:
            actions = [proposal.chosen() for proposal in policy.propose([running], 16)[0]]
            yield running, actions
            (running,) = dynamics.transition([running], actions[:1])


def test_no_feature_is_constant():
    rows = [features(running, actions) for running, actions in walked(40)]
    # Candidates that the lexical policy does not propose.
    others = [Search("Red Harbour"), Search("German"), Search("what else?"), Search("Ilse Brandt"), Answer("Lisbon")]
    rows += [features(running, others) for running in (state(), state(left=0), ONCE, TWICE)]
    spread = np.ptp(np.concatenate(rows), axis=0)
    assert [name for name, width in zip(FEATURES, spread, strict=True) if width < 0.05] == []


def test_the_features_are_those_that_the_shipped_weights_were_trained_on():
    # A checksum that changes with any feature. After an intended change, train the weights again.
    rows = np.concatenate([features(running, actions) for running, actions in walked(40)]).astype(np.float64)
    assert rows.mean(axis=0) @ np.linspace(1, 2, len(FEATURES)) == pytest.approx(18.2298314, abs=1e-6)
