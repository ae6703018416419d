"""The small trained process reward."""

import copy
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from raggym_env import retrieval, rewards
from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.data.synth import SynthWorld, generate_tasks
from raggym_env.envs.env import RAGEnv
from raggym_env.errors import OptionError, RewardError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.rewards import mini
from raggym_env.rewards.features import FEATURES
from raggym_env.rewards.mini import MiniReward, load_weights
from raggym_env.testing import check_process_reward
from worlds import FILM, dynamics

COST = 0.02
JUNK = ["lorem ipsum", "Zorblax Quintarion", "asdf qwer", "???", "what is the weather tomorrow"]


@pytest.fixture(scope="module")
def world():
    synth = SynthWorld(passages=400)
    return Dynamics(retrieval.make("rank-bm25", tuple(synth.passages())), k=5, max_searches=8), synth


@pytest.fixture(scope="module")
def episodes(world):
    """Questions that nothing was trained on, each with the actions of `lexical`."""
    steps, synth = world
    tasks = itertools.islice(generate_tasks(synth, "test"), 60)
    return [(task.question, actions_of(LexicalPolicy(), steps, task.question)) for task in tasks]


def actions_of(policy, steps, question):
    running, actions = steps.start(question), []
    while running.stop is None:
        actions.append(policy.act(running))
        (running,) = steps.transition([running], actions[-1:])
    return actions


def walk(steps, question, actions):
    """Return the state before each action."""
    states = [steps.start(question)]
    for action in actions[:-1]:
        states += steps.transition(states[-1:], [action])
    return states


def total(reward, steps, question, actions):
    """Return the sum of an episode's rewards."""
    scores = reward.score(walk(steps, question, actions), [[action] for action in actions])
    return float(np.sum(scores, dtype=np.float64))


def padded(actions, extra):
    return [*actions[:-1], *extra, actions[-1]]


def gains(world, episodes, extra):
    """Return what each episode gains by extra searches before its answer, if the budget allows for them."""
    steps, reward = world[0], MiniReward(search_cost=COST)
    pairs = [(question, actions, padded(actions, extra(actions))) for question, actions in episodes]
    fits = [pair for pair in pairs if len(pair[2]) <= steps.max_searches + 1]
    assert len(fits) > len(episodes) / 2
    return np.array([total(reward, steps, q, long) - total(reward, steps, q, plain) for q, plain, long in fits])


def test_the_contract_holds_for_uneven_and_empty_candidates():
    steps, _ = dynamics()
    start = steps.start(FILM.question)
    (half,) = steps.transition([start], [Search("Dawn")])
    spent = replace(half, searches_left=0)
    some = [Search("Dawn"), Answer("Oslo"), Search("Ada Berg", draft="Oslo")]
    check_process_reward(MiniReward(), [start, half, spent, start], [some, some[:1], some, []])


def test_the_rewards_of_an_episode_add_up_to_its_last_value_less_the_start_and_the_costs(world):
    steps, synth = world
    reward = MiniReward(search_cost=0.07)
    for seed, task in enumerate(itertools.islice(generate_tasks(synth, "test"), 30)):
        policy, rng = LexicalPolicy(seed=seed), np.random.default_rng(seed)
        running, actions = steps.start(task.question), []
        while running.stop is None:
            candidates = [proposal.chosen() for proposal in policy.propose([running], 8)[0]]
            actions.append(candidates[rng.integers(len(candidates))])
            (running,) = steps.transition([running], actions[-1:])
        last = walk(steps, task.question, actions)[-1]
        searches = sum(isinstance(action, Search) for action in actions)
        expected = reward.values([last], [actions[-1:]])[0][0] - reward.start - 0.07 * searches
        assert total(reward, steps, task.question, actions) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_an_episode_that_repeats_a_query_loses_what_the_repeats_cost(world, episodes, times):
    repeated = gains(world, episodes, lambda actions: [actions[0]] * times)
    np.testing.assert_allclose(repeated, -COST * times, atol=1e-5)
    repeated = gains(world, episodes, lambda actions: actions[-2:-1] * times)
    np.testing.assert_allclose(repeated, -COST * times, atol=1e-5)


def test_a_query_in_another_spelling_is_a_repeat(world, episodes):
    shouted = gains(world, episodes, lambda actions: [Search(f"  {actions[-2].query.upper()}?!")])
    np.testing.assert_allclose(shouted, -COST, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_padding_with_junk_queries_does_not_pay(world, episodes, times):
    gained = gains(world, episodes, lambda actions: [Search(query) for query in JUNK[:times]])
    assert gained.mean() < 0
    # Junk queries do retrieve new passages, so the value of the answer may rise or fall a little.
    assert (gained > 0).mean() < 0.05
    assert gained.max() < 0.1


@pytest.mark.slow
def test_spending_the_budget_instead_of_answering_does_not_pay(world, episodes):
    steps, reward = world[0], MiniReward()
    for question, actions in episodes:
        repeats = actions[:1] * (steps.max_searches - len(actions) + 1)
        for beyond in (Search("a name of promise"), Search(question.text, draft=actions[-1].text), actions[0]):
            wasted = total(reward, steps, question, [*actions[:-1], *repeats, beyond])
            assert wasted < total(reward, steps, question, actions)


def test_an_answer_is_valued_as_if_searches_without_a_result_had_not_been_made():
    start = State(FILM.question, (), 3)
    idle = replace(start, history=(Turn("x", ()),), searches_left=2)
    actions = [Answer("Oslo"), Search("Dawn")]
    np.testing.assert_array_equal(mini.inputs(idle, actions)[0], mini.inputs(start, actions)[0])
    assert (mini.inputs(idle, actions)[1] != mini.inputs(start, actions)[1]).any()


def test_the_value_of_a_search_beyond_the_budget_is_that_of_its_draft_or_zero():
    steps, _ = dynamics(max_searches=1)
    (spent,) = steps.transition([steps.start(FILM.question)], [Search("Dawn")])
    answered, drafted, bare = MiniReward().values([spent], [[Answer("Oslo"), Search("x", draft="Oslo"), Search("x")]])[
        0
    ]
    assert answered == drafted > bare == 0
    scores = MiniReward(search_cost=COST).score([spent], [[Answer("Oslo"), Search("x", draft="Oslo")]])[0]
    assert scores[0] - scores[1] == pytest.approx(COST, abs=1e-6)


def test_within_a_state_candidates_rank_by_their_values_less_the_cost_of_a_search(world, episodes):
    steps, reward = world[0], MiniReward(search_cost=COST)
    question, actions = episodes[0]
    last = walk(steps, question, actions)[-1]
    candidates = [proposal.chosen() for proposal in LexicalPolicy().propose([last], 12)[0]]
    (values,), (scores,) = reward.values([last], [candidates]), reward.score([last], [candidates])
    costs = np.array([COST * isinstance(action, Search) for action in candidates])
    np.testing.assert_allclose(scores - scores[0], (values - costs) - (values - costs)[0], atol=1e-6)
    assert np.ptp(values) > 0.05


def test_a_correct_answer_earns_more_than_a_wrong_one(world, episodes):
    steps, reward = world[0], MiniReward()
    higher = [
        total(reward, steps, question, actions) > total(reward, steps, question, [*actions[:-1], Answer("Zorblax")])
        for question, actions in episodes
    ]
    assert np.mean(higher) > 0.9


@pytest.fixture(scope="module")
def visited(world, episodes):
    """Pairs of a state and an action, in the order of their episodes, and their scores."""
    pairs = [
        (state, action)
        for question, actions in episodes[:8]
        for state, action in zip(walk(world[0], question, actions), actions, strict=True)
    ]
    return pairs, [float(MiniReward().score([state], [[action]])[0][0]) for state, action in pairs]


@pytest.mark.slow
@given(st.data())
def test_scores_do_not_depend_on_order_or_batches_or_earlier_calls(visited, data):
    pairs, expected = visited
    order = data.draw(st.permutations(range(len(pairs))))
    size = data.draw(st.integers(1, len(pairs)))
    reward = MiniReward()
    for at in range(0, len(order), size):
        batch = order[at : at + size]
        scores = reward.score([pairs[i][0] for i in batch], [[pairs[i][1]] for i in batch])
        np.testing.assert_allclose([row[0] for row in scores], [expected[i] for i in batch], atol=1e-5)


def variants():
    """Return states that differ pairwise in something that the value of the last search depends on."""
    page = Passage("1", "Red Harbour", "Red Harbour is a film directed by Ilse Brandt.")
    question = Question("q", "Where did the director of the film Red Harbour die?")
    turns = (Turn("Red Harbour", (page,)), Turn("Ilse Brandt", (page._replace(title="Ilse Brandt"),)))
    base = State(question, turns, 1)
    other = Turn("Red Harbour", (page._replace(text="Ilse Brandt wrote of a Red Harbour."),))
    return [
        base,
        replace(base, searches_left=6),
        replace(base, question=replace(question, options=("Lisbon", "Oslo"))),
        replace(base, question=replace(question, text="Who directed the film Red Harbour?")),
        replace(base, history=(other, turns[1])),
        replace(base, history=(*turns[:1], turns[1]._replace(query="Red Harbour film"))),
    ]


@given(st.permutations(variants()))
def test_environments_that_share_a_reward_do_not_share_cached_values(states):
    # They differ in budget, options, question or index.
    shared, action = MiniReward(), [Answer("Lisbon")]
    for state in states:
        assert shared.score([state], [action])[0][0] == pytest.approx(
            MiniReward().score([state], [action])[0][0], abs=1e-6
        )
    assert len(set(shared._previous_values(states))) == len(states)


def test_a_state_read_from_an_observation_scores_as_the_original():
    state = variants()[0]
    nameless = replace(state, question=replace(state.question, id=""))
    assert MiniReward().score([state], [[Answer("x")]]) == MiniReward().score([nameless], [[Answer("x")]])


def test_the_cache_of_values_is_bounded(monkeypatch):
    monkeypatch.setattr(mini, "_CACHED_STATES", 10)
    reward, state = MiniReward(), variants()[0]
    for number in range(50):
        question = Question("", f"Who is {number}?")
        reward.score([replace(state, question=question)], [[Search("a"), Search("b"), Answer("c")]])
    assert len(reward._search_values) == 10


def test_the_first_step_is_rewarded_against_a_constant():
    reward, start = MiniReward(), State(FILM.question, (), 2)
    (value,), (score,) = reward.values([start], [[Answer("x")]])[0], reward.score([start], [[Answer("x")]])[0]
    assert score == pytest.approx(value - reward.start, abs=1e-6)


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf")])
def test_a_negative_or_infinite_cost_is_refused(cost):
    with pytest.raises(OptionError, match="search_cost must be at least 0"):
        MiniReward(search_cost=cost)
    with pytest.raises(OptionError, match=r"search_cost must be (at least 0|a finite number)"):
        rewards.make("mini", (), None, "test", search_cost=cost)


def test_it_is_made_by_name_for_any_split_and_a_wrong_option_is_refused():
    reward = rewards.make("mini", (), None, "test", search_cost=0.5)
    assert isinstance(reward, MiniReward)
    assert reward.search_cost == 0.5
    with pytest.raises(OptionError, match="has no option 'cost'"):
        rewards.make("mini", (), None, "test", cost=0.5)
    with pytest.raises(RewardError, match="No weights at nowhere"):
        rewards.make("mini", (), None, "test", weights="nowhere")


def write(path, metadata=None, **changes):
    """Write the shipped weights with other metadata or tensors; None leaves a tensor out."""
    weights, start = load_weights(mini.WEIGHTS)
    tensors = {name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None}
    metadata = {"features": list(FEATURES), "start": start} if metadata is None else metadata
    save_file(tensors, path, {"mini": metadata if isinstance(metadata, str) else json.dumps(metadata)})
    return path


def test_weights_can_be_written_and_read_again(tmp_path):
    weights, start = load_weights(write(tmp_path / "w"))
    shipped, at = load_weights(mini.WEIGHTS)
    assert start == at
    assert all(np.array_equal(weights[name], shipped[name]) for name in shipped)


METADATA = {"features": list(FEATURES), "start": 0.5}
WRONG = {
    "no features": ({"metadata": {}}, "was not trained on"),
    "a list": ({"metadata": []}, "was not trained on"),
    "no JSON": ({"metadata": "{"}, "not a safetensors file of a mini reward"),
    "others": ({"metadata": {**METADATA, "features": list(FEATURES)[::-1]}}, "was not trained on"),
    "fewer": ({"metadata": {**METADATA, "features": list(FEATURES)[1:]}}, "was not trained on"),
    "start": ({"metadata": {**METADATA, "start": 2.0}}, r"a start that is not in \[0, 1\]: 2\.0"),
    "no start": ({"metadata": {"features": list(FEATURES)}}, r"a start that is not in \[0, 1\]: None"),
    "NaN start": ({"metadata": {**METADATA, "start": float("nan")}}, "NaN is not a JSON value"),
    "lacking": ({"output.bias": None}, "other shapes"),
    "more": ({"more": np.zeros(2, np.float32)}, "other shapes"),
    "shape": ({"hidden.bias": np.zeros(3, np.float32)}, "other shapes"),
    "scalar": ({"hidden.bias": np.zeros((), np.float32)}, "other shapes"),
    "NaN": ({"output.bias": np.full((), np.nan, np.float32)}, "values that are not finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_weights_file_that_does_not_fit_is_refused_with_the_reason(tmp_path, wrong):
    changes, message = WRONG[wrong]
    with pytest.raises(RewardError, match=message):
        MiniReward(write(tmp_path / "w", **changes))


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little"),
        header(b"[" * 100_000),
        header(b"[]"),
        header(b'{"a": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 8]}}') + bytes(8),
        header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 999]}}') + bytes(8),
        header(b'{"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}') + bytes(8),
        header(b'{"__metadata__": {"mini": "' + b"[" * 100_000 + b'"}}'),
        header(b'{"__metadata__": {"mini": "1e999"}}'),
        header(b'{"__metadata__": {"mini": "' + b"9" * 5000 + b'"}}'),
    ],
)
def test_a_file_that_promises_what_it_does_not_hold_is_one_clear_error(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(RewardError):
        MiniReward(tmp_path / "w")


def test_a_pipe_or_a_file_of_absurd_size_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "huge"):
        with pytest.raises(RewardError):
            MiniReward(tmp_path / name)


def test_files_that_are_not_weights_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut").write_bytes(mini.WEIGHTS.read_bytes()[:500])
    save_file({"hidden.bias": np.zeros(2, np.float32)}, tmp_path / "plain")
    for name, message in (("text", "not a safetensors"), ("cut", "not a safetensors"), ("plain", "was not trained on")):
        with pytest.raises(RewardError, match=message):
            MiniReward(tmp_path / name)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RewardError, match="No weights at"):
            MiniReward(path)


BLOCKED = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from raggym_env.core import Answer, Question, Search, State
from raggym_env.rewards.mini import MiniReward
(scores,) = MiniReward().score([State(Question("q", "Who?"), (), 2)], [[Search("Who?"), Answer("Ada")]])
print(scores.shape)
"""


def test_it_needs_no_torch():
    output = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True).stdout
    assert output == "(2,)\n"


def test_an_environment_with_it_can_be_copied_and_the_copy_is_independent():
    steps, _ = dynamics()
    env = RAGEnv([FILM], steps, StepReward(process_reward=MiniReward()))
    env.reset(seed=0)
    env.step(Search("Dawn"))
    twin = copy.deepcopy(env)
    assert env.step(Answer("Oslo"))[1] == twin.step(Answer("Oslo"))[1]
    reward = MiniReward()
    assert copy.deepcopy(reward)._search_values is not reward._search_values


def test_gymnasium_makes_an_environment_with_it_by_name_or_by_object():
    options = {"retriever": dynamics()[1], "process_reward": "mini"}
    by_name = gym.make("RAGGym-Synth-v0", **options)
    by_object = gym.make("RAGGym-Synth-v0", **{**options, "process_reward": MiniReward()})
    earned = []
    for env in (by_name, by_object):
        env.reset(seed=3)
        earned.append([env.step(action)[1] for action in ((0, "Dawn"), (1, "Oslo"))])
    assert earned[0] == earned[1]
    assert all(earned[0])
