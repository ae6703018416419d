import hashlib
import json
import sys

import pytest

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import MissingExtra, RunError
from raggym_env.mdp.records import Candidate, action_to_json
from raggym_env.policies.prompt.parse import parse
from raggym_env.text.state_chat import render as reward_text
from raggym_env.training.process_data import rows
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.rows import (
    Renderer,
    comparable,
    export,
    graded,
    preference_rows,
    reward_rows,
    sft_rows,
)
from raggym_env.training.process_data.trajectories import Trajectory, TrajectoryStep
from towns import write_towns

QUESTION = Question("q", "Where was Ada Berg born?")
START = State(QUESTION, (), 2)
SEARCHED = State(QUESTION, (Turn("Ada Berg", (Passage("1", "Ada Berg", "Born in Oslo."),)),), 1)
RIGHT, WRONG = Candidate(Answer("Oslo"), 0.0, outcome=1.0), Candidate(Answer("Rome"), 0.0, outcome=0.0)


@pytest.fixture(scope="module")
def renderer():
    return Renderer("react")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towns")
    return collect(write_towns(folder / "data"), "lexical", critic="evidence", n=6, out=folder / "run")


def searches(*scores):
    return tuple(Candidate(Search(f"query {number}"), score) for number, score in enumerate(scores))


def trajectory(*steps):
    return Trajectory(QUESTION, steps, "Oslo", 1.0)


def step(*candidates, executed=0, state=START):
    return TrajectoryStep(state, candidates, candidates[executed].action)


def content(messages):
    (message,) = messages
    assert message["role"] == "assistant"
    return message["content"]


def test_sft_has_a_row_per_step_with_the_executed_action(renderer):
    path = trajectory(step(*searches(0.5, 0.1)), step(RIGHT, *searches(-0.1), state=SEARCHED))
    produced = list(sft_rows([path], renderer))
    assert [content(row["completion"]) for row in produced] == ['{"search": "query 0"}', '{"answer": "Oslo"}']
    assert "Born in Oslo." in produced[1]["prompt"][-1]["content"]
    assert all(row.keys() == {"prompt", "completion"} for row in produced)


def test_sft_leaves_out_a_worse_action_that_exploring_executed(renderer):
    explored = trajectory(step(*searches(0.5, 0.1), executed=1))
    assert list(sft_rows([explored], renderer)) == []
    (row,) = sft_rows([explored], renderer, best="top")
    assert content(row["completion"]) == '{"search": "query 0"}'


def test_sft_takes_an_executed_action_that_is_one_of_the_best(renderer):
    (row,) = sft_rows([trajectory(step(*searches(0.5, 0.5), executed=1))], renderer)
    assert content(row["completion"]) == '{"search": "query 1"}'


def test_of_equally_scored_answers_the_right_one_is_best(renderer):
    path = trajectory(step(WRONG, RIGHT, state=SEARCHED))
    (row,) = sft_rows([path], renderer, best="top")
    assert content(row["completion"]) == '{"answer": "Oslo"}'


def test_a_preference_is_the_best_candidate_against_one_worse_by_the_margin(renderer):
    path = trajectory(step(*searches(0.5, 0.48, 0.3)))
    produced = list(preference_rows([path], renderer, margin=0.05, pairs=9))
    assert [(content(row["chosen"]), content(row["rejected"])) for row in produced] == [
        ('{"search": "query 0"}', '{"search": "query 2"}')
    ]
    assert produced[0]["prompt"] == Renderer("react").prompt(path.steps[0])


def test_a_difference_of_just_the_margin_is_enough_in_single_precision(renderer):
    path = trajectory(step(*searches(0.44999998807907104, 0.4000000059604645)))
    assert len(list(preference_rows([path], renderer, margin=0.05))) == 1


def test_at_most_the_requested_pairs_are_drawn_and_none_twice(renderer):
    path = trajectory(step(*searches(0.9, 0.1, 0.2, 0.3)))
    for pairs in (1, 2, 3, 9):
        produced = [content(row["rejected"]) for row in preference_rows([path], renderer, pairs=pairs)]
        assert len(produced) == len(set(produced)) == min(pairs, 3)


def test_the_draw_depends_on_the_seed_and_the_state_alone(renderer):
    many = [step(*searches(0.9, 0.1, 0.2, 0.3), state=State(Question("", f"{i}?"), (), 1)) for i in range(20)]
    whole = list(preference_rows([trajectory(*many)], renderer))
    assert list(preference_rows([trajectory(*many[::-1])], renderer))[::-1] == whole
    assert list(preference_rows([trajectory(*many)], renderer, seed=1)) != whole


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [
        (Search("Ada Berg"), Search("ada  berg"), START),
        (Search("Ada Berg", draft="Oslo"), Search("Ada Berg", draft="Rome"), START),
        (Answer("B"), Answer("ibuprofen"), State(Question("p", "Which?", ("aspirin", "ibuprofen")), (), 1)),
    ],
)
def test_equal_actions_are_never_paired(renderer, good, bad, state):
    path = trajectory(step(Candidate(good, 0.9), Candidate(bad, 0.1), state=state))
    assert list(preference_rows([path], renderer)) == list(reward_rows([path])) == []


def test_an_answer_and_a_search_of_the_same_words_differ():
    assert len(comparable(step(Candidate(Answer("Oslo"), 0.9), Candidate(Search("Oslo"), 0.1)))) == 1


def test_reward_rows_have_the_reward_models_input():
    path = trajectory(step(*searches(0.9, 0.1), state=SEARCHED))
    expected = [reward_text(SEARCHED, Search(f"query {number}")) for number in (0, 1)]
    assert list(reward_rows([path])) == [{"chosen": expected[0], "rejected": expected[1]}]


def test_reward_rows_pair_any_two_candidates_and_fit_the_state():
    path = trajectory(step(*searches(0.9, 0.5, 0.1), state=SEARCHED))
    produced = list(reward_rows([path], pairs=9, fit=lambda state: START))
    assert len(produced) == 3
    assert {row["chosen"][0]["content"] for row in produced} == {reward_text(START, Answer("x"))[0]["content"]}
    assert all(row["chosen"][1] != row["rejected"][1] for row in produced)


def test_outcomes_can_be_added_to_the_scores():
    (result,) = graded([trajectory(step(*searches(0.2), WRONG, RIGHT, state=SEARCHED))], 0.5)
    assert [(candidate.action, candidate.score) for candidate in result.steps[0].candidates] == [
        (RIGHT.action, 0.5),
        (Search("query 0"), 0.2),
        (WRONG.action, 0.0),
    ]


@pytest.mark.parametrize("options", [{"margin": 0}, {"margin": float("nan")}, {"pairs": 0}])
def test_options_out_of_range_are_refused(renderer, options):
    with pytest.raises(ValueError, match="must be"):
        list(preference_rows([], renderer, **options))
    with pytest.raises(ValueError, match="must be"):
        list(reward_rows([], **options))


def test_every_reply_of_a_collection_parses_back_to_its_action(collection, renderer):
    steps = [step for trajectory in collection.trajectories() for step in trajectory.steps]
    candidates = [(step, candidate) for step in steps for candidate in step.candidates]
    for step, candidate in candidates:
        parsed = parse(renderer.reply(step, candidate))
        kind, text = ("search", parsed.search) if isinstance(candidate.action, Search) else ("answer", parsed.answer)
        assert {kind: text}.items() <= action_to_json(candidate.action).items()
    assert len(candidates) > 50


def test_no_row_contains_a_label_or_a_gold_answer_that_was_not_retrieved(collection, renderer):
    """A prompt cannot name the river before its passage is retrieved, and no row says which answer is correct."""
    produced = [*sft_rows(collection.trajectories(), renderer), *preference_rows(collection.trajectories(), renderer)]
    first = [row["prompt"] for row in produced if "<passages" not in row["prompt"][-1]["content"]]
    assert first
    assert not any("River" in message["content"] for prompt in first for message in prompt)
    messages = [
        m for row in [*produced, *reward_rows(collection.trajectories())] for part in row.values() for m in part
    ]
    assert all(message.keys() == {"role", "content"} for message in messages)
    for word in ("outcome", "score", "gold", "supporting"):
        assert not any(word in message["content"] for message in messages)


@pytest.mark.parametrize("kind", ["sft", "preference", "reward"])
def test_an_export_is_a_data_set_with_its_provenance(collection, renderer, kind, tmp_path):
    datasets = pytest.importorskip("datasets")
    provenance = export(collection, tmp_path / "new" / "rows", kind, renderer)
    loaded = datasets.load_from_disk(str(tmp_path / "new" / "rows"))
    assert list(loaded) == list(rows.rows_of(kind, collection.trajectories(), renderer))
    assert json.loads((tmp_path / "new" / "rows" / "provenance.json").read_text()) == provenance
    assert provenance["episodes_sha256"] == hashlib.sha256(collection.run.episodes_file.read_bytes()).hexdigest()
    assert provenance["collection"]["collect"]["critic"] == "evidence"
    assert provenance["counts"] == {"trajectories": 12, "rows": len(loaded)}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows"]


def test_an_export_never_overwrites_and_never_is_empty(collection, renderer, tmp_path):
    with pytest.raises(RunError, match="exists"):
        export(collection, tmp_path, "sft", renderer)
    with pytest.raises(RunError, match="gives no preference rows of its 12 trajectories"):
        export(collection, tmp_path / "rows", "preference", renderer, margin=5.0)
    assert not (tmp_path / "rows").exists()


def test_an_export_without_datasets_names_the_extra(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[train\]"):
        export(collection, tmp_path / "rows", "reward")


def test_rows_for_an_agent_need_a_renderer(collection):
    with pytest.raises(ValueError, match="pass a renderer"):
        rows.rows_of("sft", collection.trajectories())
    with pytest.raises(ValueError, match="kind must be one of"):
        rows.rows_of("dpo", collection.trajectories())


# -- searching and answering in balance --------------------------------------------------------------------------------


def test_rows_are_balanced_where_both_searching_and_answering_are_plausible(renderer):
    searching = step(Candidate(Search("Oslo"), 1.0), state=SEARCHED)
    answering, first = step(RIGHT, state=SEARCHED), step(Candidate(Search("Ada Berg"), 1.0))
    forced = step(RIGHT, state=State(QUESTION, (*SEARCHED.history, *SEARCHED.history), 0))
    steps = [first, searching, answering, answering, answering, answering, first, forced]
    plain = list(sft_rows([trajectory(*steps)], renderer))
    balanced = list(sft_rows([trajectory(*steps)], renderer, balance=True))
    assert balanced[: len(plain)] == plain  # nothing is left out
    assert balanced[len(plain) :] == [plain[1]] * 3
    assert list(sft_rows([trajectory(searching, answering)], renderer, balance=True)) == [plain[1], plain[2]]
    for one_sided in ([searching, first], [answering, forced, first], []):
        with pytest.raises(RunError, match="cannot be balanced"):
            list(sft_rows([trajectory(*one_sided)], renderer, balance=True))


def test_preferences_are_balanced_in_the_same_states(renderer):
    answers = step(Candidate(RIGHT.action, 1.0), Candidate(Search("Oslo"), 0.1), state=SEARCHED)
    searches_on = step(Candidate(Search("Oslo"), 1.0), Candidate(RIGHT.action, 0.1), state=SEARCHED)
    first = step(*searches(0.9, 0.1))
    path = trajectory(first, answers, searches_on, searches_on, searches_on)
    plain = list(preference_rows([path], renderer))
    balanced = list(preference_rows([path], renderer, balance=True))
    assert balanced == [*plain, plain[1], plain[1]]
    with pytest.raises(RunError, match="cannot be balanced"):
        list(preference_rows([trajectory(first, answers)], renderer, balance=True))
