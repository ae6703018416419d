import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import MissingExtra, RunError
from raggym_env.mdp.records import Candidate
from raggym_env.rewards.features import FEATURES
from raggym_env.rewards.mini import MiniReward, inputs, load_weights
from raggym_env.training.mini import Example, MiniConfig, _fit, _is_held_out, agreement, examples, train_mini
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.trajectories import Trajectory, TrajectoryStep
from towns import write_towns

pytestmark = pytest.mark.slow

WORLD = """
title = "Small world"

[dataset]
format = "synth"
default_split = "train"
options = { passages = 200, seed = 0 }

[[dataset.splits.train]]
questions = "train"
rows = "first 150"
"""
QUICK = MiniConfig(networks=1, hidden=32, epochs=20, batch_size=16, held_out=0.25)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A few hundred states of a small synthetic world, their candidates scored by their value."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "Small-v0.toml").write_text(WORLD, encoding="utf-8")
    options = {"critic": "evidence_value", "n": 10, "keep": "all", "execute": "own", "explore": 0.2}
    return collect(folder / "Small-v0.toml", "lexical", out=folder / "run", **options)


@pytest.fixture(scope="module")
def data(collection):
    return examples(collection)


@pytest.fixture(scope="module")
def trained(collection, tmp_path_factory):
    pytest.importorskip("torch").set_num_threads(1)
    out = tmp_path_factory.mktemp("trained") / "mini.safetensors"
    return out, train_mini([collection], out, config=QUICK)


def test_a_weight_is_the_share_of_the_trajectories_that_it_learns_from(collection, data, tmp_path):
    pytest.importorskip("torch")
    half = examples(f"{collection.run.path}:0.5", seed=1)
    assert 0.4 < len(half) / len(data) < 0.6
    assert len({example.question for example in half}) == 75
    recipe = train_mini([collection, f"{collection.run.path}:0.5"], tmp_path / "m.safetensors", config=QUICK)
    assert [row["weight"] for row in recipe["data"]] == [1.0, 0.5]
    assert 1.4 < (recipe["states"] + recipe["held_out"]["states"]) / len(data) < 1.6


def test_it_ranks_candidates_of_questions_that_it_was_not_trained_on(trained):
    _, recipe = trained
    assert recipe["held_out"]["agreement"] > 0.72  # measured: 0.80; chance is 0.5
    assert recipe["held_out"]["states"] > 20


def test_the_level_of_the_values_is_learnt_too(data, trained):
    reward, test = MiniReward(trained[0]), [example for example in data if _is_held_out(example.question, 0.25)]
    predicted = np.concatenate([network_values(reward._weights, example) for example in test])
    values = np.concatenate([example.values for example in test])
    assert np.square(predicted - values).mean() < 0.9 * values.var()  # measured: 0.78
    assert abs(reward.start - values.mean()) < 0.1


def network_values(weights, example):
    """Return the values that a network gives an example, computed independently."""
    hidden = np.tanh(example.features @ weights["hidden.weight"].T + weights["hidden.bias"])
    return 1 / (1 + np.exp(-(hidden @ weights["output.weight"] + weights["output.bias"])))


def test_random_scores_teach_nothing(data):
    """The reported agreement is on held-out questions; on the training questions it would be high here."""
    shuffled = [
        example._replace(values=np.random.default_rng(number).permutation(example.values))
        for number, example in enumerate(data)
    ]
    pytest.importorskip("torch")
    weights = _fit(shuffled[::2], QUICK, None)
    assert 0.4 < agreement(shuffled[1::2], weights) < 0.6


def test_the_weights_load_and_compute_what_was_trained(collection, data, trained):
    out, recipe = trained
    weights, start = load_weights(out)
    step = next(iter(collection.trajectories(kept=False))).steps[0]
    (values,) = MiniReward(out).values([step.state], [[candidate.action for candidate in step.candidates]])
    np.testing.assert_allclose(values, network_values(weights, data[0]), atol=1e-5)
    assert 0 < start < 1
    assert recipe["states"] + recipe["held_out"]["states"] == len(data)


def test_the_recipe_records_how_the_weights_were_made(collection, trained):
    out, recipe = trained
    assert json.loads(out.with_suffix(".json").read_text()) == json.loads(json.dumps(recipe))
    assert recipe["settings"]["epochs"] == 20
    (source,) = recipe["data"]
    assert (source["environment"], source["policy"], source["split"]) == ("Small-v0", "lexical", "train")
    assert (source["collect"]["critic"], source["collect"]["explore"]) == ("evidence_value", 0.2)
    assert {"seed", "limit", "dataset", "corpus", "version"} < source.keys()
    assert len(source["sha256"]) == 64
    assert recipe["candidates"] > recipe["states"] > 50


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data):
    pytest.importorskip("torch")
    settings = replace(QUICK, epochs=2)
    first, again, other = (_fit(data[:60], replace(settings, seed=seed), None) for seed in (5, 5, 6))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_several_networks_are_one_that_gives_their_mean(data):
    pytest.importorskip("torch")
    data, settings = data[:40], replace(QUICK, epochs=1)

    def logits(settings):
        values = network_values(_fit(data, settings, None), data[0])
        return np.log(values / (1 - values))

    alone = [logits(replace(settings, seed=seed)) for seed in (3, 4)]
    both = logits(replace(settings, seed=3, networks=2))
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_progress_is_reported_after_each_epoch(data):
    pytest.importorskip("torch")
    calls = []
    _fit(data[:20], replace(QUICK, networks=2, epochs=2), lambda *call: calls.append(call))
    assert [call[:3] for call in calls] == [("train", number, 4) for number in range(1, 5)]
    assert all(np.isfinite(info["loss"]) for *_, info in calls)


class Collected:
    """The parts of a collection that `examples` uses."""

    def __init__(self, *steps):
        self.steps = steps
        self.settings = {"critic": "evidence_value"}
        self.run = SimpleNamespace(path="runs/hand-made")

    def trajectories(self, *, kept=True):
        assert not kept
        yield Trajectory(QUESTION, self.steps, "x", 1.0)


QUESTION = Question("q", "Where did the director of the film Red Harbour die?")
START = State(QUESTION, (), 2)
PAGE = Passage("1", "Red Harbour", "Red Harbour is a film directed by Ilse Brandt.")
ONCE = State(QUESTION, (Turn("Red Harbour", (PAGE,)),), 1)
SPENT = State(QUESTION, (*ONCE.history, Turn("Ilse Brandt", ())), 0)
FIRST = TrajectoryStep(
    START, (Candidate(Search("Red Harbour"), 0.6), Candidate(Answer("x"), 0.1)), Search("Red Harbour")
)
THEN = TrajectoryStep(ONCE, (Candidate(Search("Ilse Brandt"), 0.9), Candidate(Answer("x"), 0.2)), Search("Ilse Brandt"))
LAST = TrajectoryStep(SPENT, (Candidate(Answer("Lisbon"), 0.7), Candidate(Search("Lisbon"), 0.4)), Answer("Lisbon"))


def test_a_repeated_search_has_the_value_of_the_search_that_led_to_the_state():
    first, then, _ = examples(Collected(FIRST, THEN, LAST))
    assert first.values.tolist() == pytest.approx([0.6, 0.1])
    assert then.values.tolist() == pytest.approx([0.9, 0.2, 0.6])
    assert then.searches.tolist() == [True, False, True]
    again = inputs(ONCE, [Search("Red Harbour")])
    np.testing.assert_array_equal(then.features[2:], again)


def test_only_answers_are_learned_from_where_no_search_is_left():
    *_, last = examples(Collected(FIRST, THEN, LAST))
    assert (last.values.tolist(), last.searches.tolist()) == (pytest.approx([0.7]), [False])


def test_outcomes_label_the_executed_actions_alone():
    converted = examples(Collected(FIRST, THEN, LAST), labels="outcome")
    assert [example.values.tolist() for example in converted] == [[1.0], [1.0], [1.0]]
    np.testing.assert_array_equal(converted[0].features, inputs(START, [Search("Red Harbour")]))


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_scores_outside_zero_to_one_are_refused(score):
    wrong = FIRST._replace(candidates=(Candidate(Answer("x"), 0.5), Candidate(Answer("y"), score)))
    with pytest.raises(RunError, match=r"not values in \[0, 1\].*--critic evidence_value"):
        examples(Collected(wrong))


def test_data_of_a_critic_that_gives_no_values_is_refused(tmp_path):
    card = write_towns(tmp_path / "towns", questions=4)
    gains = collect(card, "lexical", critic="evidence", n=3, out=tmp_path / "run")
    with pytest.raises(RunError, match="the scores of 'evidence' are not values"):
        train_mini([gains], tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_without_candidates_or_with_all_questions_held_out_there_is_nothing_to_train_on(collection, tmp_path):
    with pytest.raises(RunError, match="holds no scored candidates"):
        examples(Collected(FIRST._replace(candidates=())))
    with pytest.raises(RunError, match="none to train on"):
        train_mini([collection], tmp_path / "w", config=replace(QUICK, held_out=1.0))


def test_questions_are_held_out_whole_and_by_their_id_alone():
    test = [_is_held_out(f"question {number}", 0.1) for number in range(2_000)]
    assert 0.07 < np.mean(test) < 0.13
    assert not any(_is_held_out(f"question {number}", 0.0) for number in range(100))


def test_agreement_is_the_share_of_pairs_with_different_values_ranked_correctly():
    rows = np.zeros((3, len(FEATURES)), np.float32)
    rows[:, 0] = [0.1, 0.2, 0.3]
    weights = {
        "hidden.weight": np.eye(1, len(FEATURES), dtype=np.float32),
        "hidden.bias": np.zeros(1, np.float32),
        "output.weight": np.ones(1, np.float32),
        "output.bias": np.zeros((), np.float32),
    }

    def agreed(*values):
        return agreement([Example(rows, np.array(values, np.float32), np.zeros(3, bool), "q")], weights)

    assert agreed(0.1, 0.5, 0.9) == 1.0
    assert agreed(0.9, 0.5, 0.1) == 0.0
    assert agreed(0.5, 0.1, 0.9) == pytest.approx(2 / 3)
    assert agreed(0.5, 0.51, 0.9) == 1.0
    assert np.isnan(agreed(0.5, 0.5, 0.5))


def test_without_torch_the_error_names_the_extra(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[train\]"):
        train_mini([collection], tmp_path / "w", config=QUICK)
    assert not (tmp_path / "w").exists()
