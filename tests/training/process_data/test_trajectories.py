import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Question, Search, Task
from raggym_env.errors import MalformedData, OptionError, RAGGymError, RunError
from raggym_env.evaluation import evaluate
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.scripted import ScriptedPolicy
from raggym_env.rewards.evidence import EvidenceReward
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.trajectories import (
    Collection,
    Trajectory,
    WeightedCollection,
    drawn,
    trajectory_to_json,
)
from towns import Reader, write_jsonl, write_towns
from worlds import FILM, dynamics


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towns")
    return collect(write_towns(folder / "data"), "lexical", critic="evidence", n=4, keep="all", out=folder / "run")


def film_record(*actions, error=None):
    transition, _ = dynamics(max_searches=2)
    policy = BestOf(ScriptedPolicy({"film": list(actions)}), EvidenceReward([FILM], transition), n=1)
    (episode,) = rollout(policy, [FILM], transition)
    return trajectory_to_json(episode, FILM, 2, "em")


def test_states_follow_from_the_steps_of_a_record():
    read = Trajectory.from_json(film_record(Search("Dawn"), Search("Ada Berg"), Answer("Oslo")))
    states = [step.state for step in read.steps]
    assert [state.searches_left for state in states] == [2, 1, 0]
    assert [turn.query for turn in states[2].history] == ["Dawn", "Ada Berg"]
    assert states[2].history[1].passages[0].title == "Ada Berg"
    assert all(passage.text for passage in states[2].passages)
    assert (read.answer, read.outcome, read.steps[2].action) == ("Oslo", 1.0, Answer("Oslo"))


def test_a_search_beyond_the_budget_is_a_step_whose_draft_is_graded():
    searches = [Search("Dawn", draft="Rome"), Search("Ada Berg", draft="Oslo"), Search("Oslo", draft="Oslo")]
    read = Trajectory.from_json(film_record(*searches))
    assert (read.answer, read.outcome) == ("Oslo", 1.0)
    assert (read.steps[2].state.searches_left, read.steps[2].action) == (0, searches[2])


def test_a_record_survives_json():
    record = film_record(Search("Dawn"), Answer("Rome"))
    assert Trajectory.from_json(json.loads(json.dumps(record))) == Trajectory.from_json(record)


def test_answers_among_the_candidates_are_graded_and_searches_are_not(collection):
    candidates = [option for trajectory in collection.trajectories() for option in trajectory.steps[1].candidates]
    answers = [candidate for candidate in candidates if isinstance(candidate.action, Answer)]
    assert {candidate.outcome for candidate in answers} == {0.0, 1.0}
    assert all(candidate.outcome is None for candidate in candidates if isinstance(candidate.action, Search))


def test_a_failed_episode_has_no_outcome():
    task = Task(Question("lost", "Where?"), ("x",))
    transition, _ = dynamics()
    (episode,) = rollout(Reader(fails={"lost"}), [task], transition)
    assert trajectory_to_json(episode, task, 2, "em")["outcome"] is None


def test_trajectories_are_sorted_by_id_whichever_ended_first(collection):
    ids = [trajectory.question.id for trajectory in collection.trajectories()]
    assert ids == sorted(ids) == sorted(f"q{i}" for i in range(12))


def test_only_correct_answers_are_kept_unless_all_are_requested(tmp_path):
    towns = write_towns(tmp_path / "data")
    policy = tmp_path / "scripted.toml"
    answers = [f'q{i} = [[1, "{f"River{i % 7}" if i % 3 else "nowhere"}"]]' for i in range(12)]
    policy.write_text("\n".join(['policy = "scripted"', "[options.script]", *answers]))
    collection = collect(towns, policy, critic="random", n=1, out=tmp_path / "run")
    assert {trajectory.outcome for trajectory in collection.trajectories()} == {1.0}
    assert len(list(collection.trajectories())) == 8
    assert len(list(collection.trajectories(kept=False))) == 12


def test_the_last_record_of_a_retried_question_counts(collection, tmp_path):
    records = collection.run.records()
    broken = {**records[0], "error": "RetrievalError: down", "steps": [], "outcome": None}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_bytes((collection.run.path / "run.json").read_bytes())
    write_jsonl(tmp_path / "run" / "episodes.jsonl", [broken, *records[1:]])
    assert Collection.read(tmp_path / "run").failed == 1
    write_jsonl(tmp_path / "run" / "episodes.jsonl", [broken, *records])
    again = Collection.read(tmp_path / "run")
    assert (again.failed, len(list(again.trajectories()))) == (0, 12)


@pytest.mark.parametrize(
    "change",
    [
        {"options": None},
        {"options": "abc"},
        {"options": ["a", 3]},
        {"options": ["x"] * 27},  # there is no letter for the last one
        {"max_searches": "x"},
        {"max_searches": True},
        {"max_searches": -1},
        {"outcome": None},
        {"outcome": 2},
        {"outcome": -0.5},
        {"steps": [{}]},
        {"usage": {"calls": -1}},
    ],
)
def test_a_record_changed_by_hand_is_named_by_its_line(collection, tmp_path, change):
    records = collection.run.records()
    (tmp_path / "run.json").write_bytes((collection.run.path / "run.json").read_bytes())
    write_jsonl(tmp_path / "episodes.jsonl", [records[0], {**records[1], **change}])
    with pytest.raises(MalformedData, match="line 2"):
        list(Collection.read(tmp_path).trajectories())


def test_other_folders_are_no_process_data(tmp_path):
    with pytest.raises(RunError, match="holds no process data"):
        Collection.read(tmp_path)
    evaluate(write_towns(tmp_path / "data"), Reader(), out=tmp_path / "run")
    with pytest.raises(RunError, match="a run of `raggym eval`"):
        Collection.read(tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "episodes.jsonl"])
def test_links_in_a_folder_of_process_data_are_not_followed(collection, tmp_path, name):
    (tmp_path / "run").mkdir()
    for file in ("run.json", "episodes.jsonl"):
        (tmp_path / "run" / file).write_bytes((collection.run.path / file).read_bytes())
    (tmp_path / "run" / name).rename(tmp_path / "target")
    (tmp_path / "run" / name).symlink_to(tmp_path / "target")
    with pytest.raises(RAGGymError, match="symbolic link"):
        list(Collection.read(tmp_path / "run").trajectories())
    with pytest.raises(RAGGymError, match="symbolic link"):
        _ = Collection.read(tmp_path / "run").sha256


# -- collections with weights ------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.floats(0.01, 8), st.integers(0, 5))
def test_a_weight_repeats_every_item_as_often_as_any_other_or_once_more(count, weight, seed):
    sample = drawn(range(count), weight, seed)
    assert len(sample) == (max(1, round(weight * count)) if count else 0)
    assert sample == sorted(sample) == drawn(range(count), weight, seed)
    times = {item: sample.count(item) for item in range(count)}
    assert not times or max(times.values()) - min(times.values()) <= 1


def test_a_folder_is_named_with_its_weight(collection):
    folder = collection.run.path
    for source, weight in ((folder, 1.0), (f"{folder}:0.5", 0.5), (f"{folder}:2", 2.0), (collection, 1.0)):
        assert WeightedCollection.read(source) == WeightedCollection(Collection.read(folder), weight)
    half = WeightedCollection.read(f"{folder}:0.5")
    assert WeightedCollection.read(half) is half
    whole = list(collection.trajectories())
    assert len(half.trajectories()) == len(whole) // 2 < len(whole)
    assert half.trajectories(seed=1) != half.trajectories(seed=2)
    assert half.trajectories(limit=4, seed=3) == [
        item for item in whole[:4] if item in half.trajectories(limit=4, seed=3)
    ]


def test_a_folder_whose_own_name_ends_like_a_weight_is_taken_as_it_is(tmp_path):
    collected = collect(write_towns(tmp_path / "towns", 2), "lexical", critic="evidence", n=2, out=tmp_path / "run:2")
    assert WeightedCollection.read(tmp_path / "run:2") == WeightedCollection(collected)
    assert WeightedCollection.read(f"{tmp_path / 'run:2'}:3").weight == 3


@pytest.mark.parametrize("weight", ["0", "-1", "half", "", "nan", "inf", "101"])
def test_a_weight_that_is_no_number_in_range_is_refused(collection, weight):
    with pytest.raises(OptionError, match=r"the weight of .* must be a number above 0 and at most 100"):
        WeightedCollection.read(f"{collection.run.path}:{weight}")
    with pytest.raises(OptionError, match="weight must be a number above 0 and at most 100"):
        WeightedCollection(collection, weight)
