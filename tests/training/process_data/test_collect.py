import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from raggym_env.core import Answer, Question, Search, State
from raggym_env.data import load_tasks
from raggym_env.errors import CardError, OptionError, PolicyError, RewardError, RunError, UnknownName
from raggym_env.evaluation import build_leaderboard
from raggym_env.policies import POLICIES
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.gold import GoldPolicy
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.training.process_data.collect import Behaviour, Taught, collect
from raggym_env.training.process_data.trajectories import Collection
from towns import Reader, write_jsonl, write_towns


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


def contents(collection):
    """Return the records as a set, without the wall time, which always differs."""
    records = collection.run.records()
    return {json.dumps({k: v for k, v in record.items() if k != "seconds"}, sort_keys=True) for record in records}


class Proposing(BasePolicy):
    """Its own choice is to search for "b"; asked for several proposals, it gives three searches."""

    def propose(self, states, n=1):
        words = ("b", "a", "c") if n > 1 else ("b",)
        return [[Proposal(Search(word)) for word in words] for _ in states]


class Scripted(BasePolicy):
    """Makes the same proposals in every state."""

    def __init__(self, *proposals):
        self.proposals = list(proposals)

    def propose(self, states, n=1):
        return [self.proposals[:n] for _ in states]


def letters(words):
    return Scripted(*(Proposal(Search(word)) for word in words))


class Alphabet:
    def score(self, states, actions):
        return [np.array([-ord(action.query) for action in row], np.float32) for row in actions]


def behaviour(*args, **options):
    return Behaviour(BestOf(Proposing(), Alphabet(), 3), *args, **options)


STATES = [State(Question(str(i), f"Question {i}?"), (), 1) for i in range(300)]


def test_exploring_takes_a_random_candidate_in_about_its_share_of_the_states():
    queries = [row[0].action.query for row in behaviour(explore=0.3, seed=1).propose(STATES)]
    # A third of the random candidates are the best by chance: 0.2 is expected.
    assert 0.1 < sum(query != "a" for query in queries) / len(queries) < 0.3
    assert {row[0].action.query for row in behaviour().propose(STATES)} == {"a"}
    assert set(queries) == {"a", "b", "c"}


def test_the_policys_own_choice_is_executed_with_the_candidates_beside_it():
    [[proposal]] = behaviour("own").propose(STATES[:1])
    assert (proposal.action, [candidate.action.query for candidate in proposal.candidates]) == (
        Search("b"),
        ["a", "b", "c"],
    )
    with pytest.raises(ValueError, match="execute must be one of"):
        behaviour("other")


def test_exploring_depends_on_the_state_and_the_seed_not_on_the_batch():
    whole = behaviour(explore=0.5, seed=1).propose(STATES)
    assert [behaviour(explore=0.5, seed=1).propose([state])[0] for state in STATES] == whole
    assert behaviour(explore=0.5, seed=2).propose(STATES) != whole


def test_an_explored_step_keeps_its_candidates_and_its_own_score():
    explored = next(row[0] for row in behaviour(explore=1.0).propose(STATES) if row[0].action.query == "c")
    assert (explored.score, len(explored.candidates)) == (-ord("c"), 3)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"explore must be in \[0, 1\]"):
        behaviour(explore=rate)


@pytest.mark.parametrize(("n", "words"), [(1, "a"), (2, "at"), (3, "abt"), (9, "abct")])
def test_the_teachers_action_is_the_last_sample_and_never_the_policys_own(n, words):
    rows = Taught(letters("abc"), letters("t")).propose(STATES[:2], n)
    assert [[proposal.action.query for proposal in row] for row in rows] == [list(words)] * 2


@pytest.mark.parametrize("outage", [False, True])
def test_a_teacher_without_an_action_and_an_outage_leave_the_samples_as_they_are(outage):
    nothing = Scripted(Proposal(None, failure="nothing", outage=outage))
    policy, teacher = (nothing, letters("t")) if outage else (letters("abc"), nothing)
    assert Taught(policy, teacher).propose(STATES[:2], 3) == policy.propose(STATES[:2], 3)


def test_a_teacher_adds_its_action_to_the_states_that_the_policy_visits(towns, tmp_path):
    options = {"critic": "evidence_value", "execute": "own", "keep": "all"}
    alone = collect(towns, "lexical", n=3, out=tmp_path / "alone", **options)
    taught = collect(towns, "lexical", n=4, teacher=True, out=tmp_path / "taught", **options)
    assert taught.settings == {**alone.settings, "n": 4, "teacher": True}
    gold, lessons = GoldPolicy(load_tasks(towns, "train").tasks), 0
    for one, other in zip(alone.trajectories(), taught.trajectories(), strict=True):
        assert [step.action for step in one.steps] == [step.action for step in other.steps]
        for before, step in zip(one.steps, other.steps, strict=True):
            lesson = gold.propose([step.state])[0][0].action
            actions = [candidate.action for candidate in step.candidates]
            assert set(actions) == {candidate.action for candidate in before.candidates} | ({lesson} - {None})
            lessons += lesson not in {candidate.action for candidate in before.candidates}
    assert lessons > 0


def test_a_teacher_needs_room_and_supporting_facts(towns, tmp_path):
    with pytest.raises(OptionError, match="teacher must be false for n = 1"):
        collect(towns, "lexical", critic="mini", n=1, teacher=True, out=tmp_path / "run")
    questions = towns.parent / "questions.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    write_jsonl(questions, [{key: row[key] for key in ("id", "question", "golden_answers")} for row in rows])
    with pytest.raises(PolicyError, match="12 of 12 questions name none"):
        collect(towns, "lexical", critic="mini", n=3, teacher=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_state_has_scored_candidates_of_which_the_best_was_executed(towns, tmp_path):
    collection = collect(towns, "lexical", critic="evidence", n=4, out=tmp_path / "run")
    steps = [step for trajectory in collection.trajectories() for step in trajectory.steps]
    assert max(len(step.candidates) for step in steps) == 4
    for step in steps:
        scores = [candidate.score for candidate in step.candidates]
        assert scores == sorted(scores, reverse=True)
        assert step.action == step.candidates[0].action


def test_some_executed_actions_are_not_the_best_when_exploring(towns, tmp_path):
    collection = collect(towns, "lexical", critic="evidence", n=4, explore=1.0, keep="all", out=tmp_path / "run")
    steps = [step for trajectory in collection.trajectories() for step in trajectory.steps]
    assert {step.action == step.candidates[0].action for step in steps} == {True, False}


@pytest.mark.parametrize("split", ["test", "dev"])
def test_splits_that_evaluations_use_are_never_collected_on(towns, split):
    with pytest.raises(RunError, match="split must be named train"):
        collect(towns, "lexical", critic="random", split=split)


OTHER = {
    "critic": "random",
    "n": 3,
    "keep": "all",
    "explore": 0.5,
    "seed": 1,
    "limit": 5,
    "settings": {"policy.search.critic_options": {"search_cost": 0.2}},
}


@pytest.mark.parametrize("key", OTHER)
def test_different_settings_never_mix_in_one_folder(towns, tmp_path, key):
    same = {"critic": "evidence", "n": 2, "limit": 2, "out": tmp_path / "run"}
    collect(towns, "lexical", **same)
    collect(towns, "lexical", **same)
    with pytest.raises(RunError, match="holds another run"):
        collect(towns, "lexical", **{**same, key: OTHER[key]})


def test_another_metric_is_another_collection(towns, tmp_path):
    same = {"critic": "evidence", "n": 2, "out": tmp_path / "run"}
    assert collect(towns, "lexical", **same).settings["metric"] == "em"
    with pytest.raises(RunError, match=r"collect\.metric is 'em' there and 'f1' here"):
        collect(towns, "lexical", settings={"episode.metric": "f1"}, **same)


def test_an_evaluation_does_not_resume_a_collection(towns, tmp_path):
    from raggym_env.evaluation import evaluate

    collection = collect(towns, "lexical", critic="evidence", n=2, out=tmp_path / "run")
    search = {"policy.search": {"best_of": 2, "critic": "evidence"}}
    with pytest.raises(RunError, match="collect is"):
        evaluate(towns, "lexical", split="train", settings=search, out=collection.run.path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": "right"}, ValueError, "keep must be one of"),
        ({"explore": 2.0}, ValueError, "explore must be in"),
        ({"n": 0}, CardError, "best_of"),
        ({"critic": "evidense"}, UnknownName, "Did you mean 'evidence'"),
        ({"critic": "none"}, CardError, "cannot choose"),
        ({"settings": {"policy.search.best_of": 3}}, RunError, "n and critic set the candidates"),
        ({"settings": {"policy.search.critic_options": {"cost": 1}}}, OptionError, "has no option 'cost'"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_written(towns, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        collect(towns, "lexical", **{"critic": "evidence", "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_a_critic_without_gold_facts_stops_before_the_run(towns, tmp_path):
    questions = towns.parent / "questions.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    write_jsonl(questions, [{key: row[key] for key in ("id", "question", "golden_answers")} for row in rows])
    with pytest.raises(RewardError, match="12 of 12 questions name none"):
        collect(towns, "lexical", critic="evidence", out=tmp_path / "run")


def test_failed_questions_are_retried(towns, tmp_path, monkeypatch):
    policy = tmp_path / "reader.toml"
    policy.write_text('policy = "reader"\n')
    down = {"q3", "q5"}
    monkeypatch.setitem(POLICIES, "reader", lambda: Reader(fails=down))
    first = collect(towns, policy, critic="random", n=1, out=tmp_path / "run")
    assert (first.failed, len(list(first.trajectories()))) == (2, 10)
    down.clear()
    again = collect(towns, policy, critic="random", n=1, out=tmp_path / "run")
    assert (again.failed, len(list(again.trajectories()))) == (0, 12)


def test_usage_is_recorded_as_in_a_run(towns, tmp_path):
    script = tmp_path / "replies.json"
    script.write_text(json.dumps({"lie?": ['I look.\n{"search": "Town1", "draft": "x"}', '{"answer": "River1"}']}))
    settings = {"policy.options.llm": f"scripted:{script}", "policy.price": {"prompt": 1.0, "completion": 1.0}}
    collection = collect(towns, "react", critic="evidence", n=2, limit=2, settings=settings, out=tmp_path / "run")
    usages = [record["usage"] for record in collection.run.records()]
    assert all(usage["calls"] and usage["completion_tokens"] for usage in usages)
    assert Collection.read(tmp_path / "run").run.price.prompt == 1.0


def collect_command(card, out):
    command = ["-m", "raggym_env", "collect", str(card), "--policy", "lexical", "--critic", "evidence", "--n", "4"]
    return [sys.executable, *command, "--explore", "0.3", "--out", str(out), "--in-flight", "4"]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_collection_killed_at_random_moments_ends_with_the_same_trajectories(tmp_path):
    card = write_towns(tmp_path / "towns", questions=400)
    subprocess.run(collect_command(card, tmp_path / "undisturbed"), check=True, capture_output=True)
    rng = random.Random(0)
    episodes = tmp_path / "killed" / "episodes.jsonl"
    for kill in range(3):
        process = subprocess.Popen(
            collect_command(card, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The first before there is anything, the others in the middle of the work.
        target = lines(episodes) + rng.randrange(1, 50) if kill else 0
        while lines(episodes) < target and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 0 < lines(episodes) < 400
    subprocess.run(collect_command(card, tmp_path / "killed"), check=True, capture_output=True)
    killed, undisturbed = Collection.read(tmp_path / "killed"), Collection.read(tmp_path / "undisturbed")
    assert len(killed.run.records()) == 400
    assert contents(killed) == contents(undisturbed)
    assert list(killed.trajectories()) == list(undisturbed.trajectories())
    assert Answer in {type(trajectory.steps[-1].action) for trajectory in killed.trajectories()}


def test_process_data_is_not_ranked(towns, tmp_path):
    collect(towns, "lexical", critic="evidence", n=2, limit=2, out=tmp_path / "run")
    with pytest.raises(RunError, match="is process data of `raggym collect`, not an evaluation"):
        build_leaderboard([tmp_path / "run"])
