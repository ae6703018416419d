import json

import pytest

from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override
from raggym_env.errors import CardError, OptionError
from towns import write_jsonl, write_towns


def with_options(folder, which):
    """The towns with options on the questions for which `which` holds."""
    card = write_towns(folder)
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    options = {"options": ["River9", "River8"], "golden_answers": ["A"]}
    write_jsonl(folder / "questions.jsonl", [{**row, **(options if which(i) else {})} for i, row in enumerate(rows)])
    return card


def test_a_card_becomes_tasks_dynamics_and_reward(tmp_path):
    mdp = load_mdp(write_towns(tmp_path), k=3, max_searches=2, metric="f1", process_reward="random")
    assert (len(mdp.tasks), mdp.split, mdp.dynamics.k, mdp.dynamics.max_searches) == (12, "test", 3, 2)
    assert (mdp.reward.metric, type(mdp.reward.process_reward).__name__) == ("f1", "RandomReward")
    assert mdp.dynamics.retriever.fingerprint.startswith("bm25-")


@pytest.mark.parametrize(
    ("which", "metric", "said"),
    [
        (lambda i: False, "accuracy", "does not fit questions without options"),
        (lambda i: True, "em", "does not fit questions with options"),
        (lambda i: i < 3, "em", "3 of 12 questions have options"),
    ],
)
def test_a_metric_that_cannot_score_the_questions_is_refused_at_once(tmp_path, which, metric, said):
    with pytest.raises(CardError, match=said):
        load_mdp(with_options(tmp_path, which), metric=metric)


def test_weights_and_options_of_the_card_take_effect(tmp_path):
    card = write_towns(tmp_path)
    mdp = load_mdp(card, outcome_weight=2.0, process_weight=3.0)
    assert (mdp.reward.outcome_weight, mdp.reward.process_weight) == (2.0, 3.0)
    changed = override(env_card(card), {"reward.process_reward": "random", "reward.options": {"seed": 7}})
    assert load_mdp(changed).reward.process_reward.seed == 7
    flat = override(env_card(card), {"retrieval.options.b": 0.0})
    assert load_mdp(flat).dynamics.retriever.fingerprint != mdp.dynamics.retriever.fingerprint
    assert load_mdp(card, "train", process_reward="evidence").split == "train"


def test_a_reward_option_that_does_not_exist_is_named(tmp_path):
    wrong = override(env_card(write_towns(tmp_path)), {"reward.process_reward": "random", "reward.options": {"sed": 7}})
    with pytest.raises(OptionError, match=r"no option 'sed'\. Did you mean 'seed'"):
        load_mdp(wrong)


def test_questions_with_options_are_scored_by_accuracy(tmp_path):
    assert load_mdp(with_options(tmp_path, lambda i: True), metric="accuracy").reward.metric == "accuracy"


@pytest.mark.parametrize("settings", [{"retriever": 5}, {"process_reward": 5}])
def test_an_object_that_cannot_do_its_part_is_refused_at_once(tmp_path, settings):
    with pytest.raises(TypeError, match="must be a name, a class or have a"):
        load_mdp(write_towns(tmp_path), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"k": "5"},
        {"k": True},
        {"max_searches": -1},
        {"max_searches": 10**19},
        {"outcome_weight": float("nan")},
        {"process_weight": float("inf")},
    ],
)
def test_values_out_of_range_are_named(tmp_path, settings):
    with pytest.raises(CardError, match=next(iter(settings))):
        load_mdp(write_towns(tmp_path), **settings)
