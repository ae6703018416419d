"""Sessions: the rewards of `RAGEnv`, one step at a time or batched with those of others."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Search
from raggym_env.errors import InvalidAction, InvalidReset, OptionError, RetrievalError
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.session import Session, is_row, load_world
from raggym_env.retrieval.server.batching import Overloaded, SearchTimeout
from raggym_env.retrieval.server.options import Batching
from sessions import Engine, gold_steps, played, small_world

ENV = "RAGGym-Synth-v0"


@pytest.fixture(scope="module")
def world():
    return load_world(ENV, split="train", process_reward="evidence")


@pytest.fixture
def batcher(world):
    batcher = StepBatcher(world)
    yield batcher
    batcher.close()


@pytest.mark.parametrize("batched", [False, True])
def test_a_session_has_the_questions_and_both_rewards_of_the_environment(world, batcher, batched):
    env = gym.make(ENV, split="train", process_reward="evidence")
    session = Session(world, batcher=batcher if batched else None)
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        text = session.reset(seed=seed)
        assert obs["question"] in text
        assert session.row == info["index"]
        for action in gold_steps(world, session.row):
            obs, reward, terminated, truncated, info = env.step(action)
            text = session.step(action)
            assert (session.reward, session.outcome, session.process) == (
                reward,
                info["outcome_reward"],
                info["process_reward"],
            )
            assert session.done == (terminated or truncated)
            assert session.searches_left == obs["searches_left"]
            if not session.done:
                assert all(passage.title in text for passage in obs["history"][-1].passages)
        assert session.outcome == 1.0
        assert session.episode_return == sum(reward.total for reward in session.rewards)
        assert len(session.rewards) == 3


@pytest.mark.parametrize("batched", [False, True])
def test_the_report_of_a_step_is_what_the_environment_gives(world, batcher, batched):
    session = Session(world, batcher=batcher if batched else None)
    session.reset(row=4)
    keys = ("reward", "outcome_reward", "process_reward", "done", "searches_left")
    for step, rewards, obs in played(gym.make(ENV, split="train", process_reward="evidence"), world, 4):
        session.step(step)
        assert tuple(session.report()[key] for key in keys) == (*rewards, obs["searches_left"])


@pytest.mark.parametrize("index", [None, True, "1", 1.0, -1, 4, [1]])
def test_an_index_that_is_none_of_a_question_is_no_row(index):
    world = small_world(Engine())
    assert is_row(1, "q1", world)
    assert not any(is_row(index, f"q{number}", world) for number in range(5))
    assert not is_row(1, "q2", world)


def test_a_text_holds_the_new_passages_only_and_the_searches_left():
    session = Session(small_world(Engine()))
    assert session.reset(row=2) == "Question: Question 2?\nSearches left: 3"
    assert session.search("a") == "<information>\n[1] Title of a: text\n</information>\nSearches left: 2"
    assert session.search("b") == "<information>\n[1] Title of b: text\n</information>\nSearches left: 1"
    assert "ended" in session.answer("answer 2")
    assert (session.done, session.reward) == (True, 1.0)


def test_a_search_beyond_the_budget_ends_the_episode_with_its_draft():
    session = Session(small_world(Engine()))
    session.reset(row=1)
    for query in "abc":
        session.search(query)
    assert "No searches are left" in session.search("d", draft="answer 1")
    assert (session.done, session.outcome) == (True, 1.0)
    with pytest.raises(ResetNeeded):
        session.search("e")


def test_a_session_without_an_episode_says_so():
    session = Session(small_world(Engine()))
    assert (session.done, session.searches_left, session.reward, session.episode_return) == (False, 3, 0.0, 0)
    with pytest.raises(ResetNeeded, match="reset"):
        session.answer("x")


@given(
    value=st.one_of(
        st.integers(max_value=-1),
        st.integers(min_value=2**64),
        st.just(10**5000),
        st.floats(),
        st.text(),
        st.booleans(),
        st.lists(st.integers()),
    ),
    name=st.sampled_from(["seed", "row"]),
)
def test_a_wrong_seed_or_row_is_refused_and_the_episode_goes_on(value, name):
    session = Session(small_world(Engine()))
    session.reset(row=0)
    state = session.state
    with pytest.raises(InvalidReset, match=name):
        session.reset(**{name: value})
    assert session.state is state


@pytest.mark.parametrize("action", [Search(" "), Answer(""), (2, "x"), (0, 5), "text", None])
def test_a_wrong_action_is_refused_and_the_episode_goes_on(action):
    session = Session(small_world(Engine()))
    session.reset(row=0)
    with pytest.raises(InvalidAction):
        session.step(action)
    session.search("a")
    assert len(session.rewards) == 1


def test_an_option_out_of_range_is_refused():
    with pytest.raises(OptionError, match="passage_chars"):
        Session(small_world(Engine()), passage_chars=0)


def run_together(world, batcher, sessions, queries):
    def run(number):
        session = Session(world, batcher=batcher)
        session.reset(row=number % len(world.tasks))
        texts = [session.search(f"{query} {number}") for query in queries]
        session.answer(f"answer {number % len(world.tasks)}")
        return texts, session.outcome

    with ThreadPoolExecutor(sessions) as pool:
        return list(pool.map(run, range(sessions)))


def test_steps_at_the_same_time_share_searches_and_are_not_mixed_up():
    engine = Engine()
    world = small_world(engine)
    batcher = StepBatcher(world, Batching(wait=0.1))
    engine.gate.clear()
    threading.Timer(0.3, engine.gate.set).start()
    results = run_together(world, batcher, 32, ("a", "b"))
    batcher.close()
    for number, (texts, outcome) in enumerate(results):
        assert [f"Title of {query} {number}: " in text for query, text in zip("ab", texts, strict=True)] == [True, True]
        assert outcome == 1.0
    assert len(engine.calls) < 20  # 64 one by one


def test_the_event_loop_steps_many_sessions_at_once():
    engine = Engine()
    world = small_world(engine)

    async def main():
        batcher = StepBatcher(world, Batching(wait=0.1))
        sessions = [Session(world, batcher=batcher) for _ in range(64)]
        for number, session in enumerate(sessions):
            session.reset(row=number % 4)
        engine.gate.clear()
        threading.Timer(0.3, engine.gate.set).start()
        texts = await asyncio.gather(*(session.step_async(Search(f"q{n}")) for n, session in enumerate(sessions)))
        batcher.close()
        return texts

    texts = asyncio.run(main())
    assert [f"Title of q{number}: " in text for number, text in enumerate(texts)] == [True] * 64
    assert len(engine.calls) <= 3


def test_a_query_that_is_rejected_fails_no_other_episode():
    engine = Engine()
    world = small_world(engine)
    batcher = StepBatcher(world, Batching(wait=0.5))
    engine.gate.clear()
    sessions = [Session(world, batcher=batcher) for _ in range(5)]
    queries = ["first", "reject", "exit", "fine", "also fine"]
    for session in sessions:
        session.reset(row=0)
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(session.search, query) for session, query in zip(sessions, queries, strict=True)]
        time.sleep(0.2)
        engine.gate.set()
        failures = [type(future.exception()) for future in futures]
    assert failures == [type(None), RetrievalError, RetrievalError, type(None), type(None)]
    assert [len(session.rewards) for session in sessions] == [1, 0, 0, 1, 1]
    assert sessions[1].search("now it is fine")
    batcher.close()


def test_a_step_that_hangs_ends_with_an_error_and_another_thread_goes_on():
    engine = Engine()
    world = small_world(engine)
    batcher = StepBatcher(world, Batching(spares=1), seconds=0.2)
    session, other, third = (Session(world, batcher=batcher, seconds=0.4) for _ in range(3))
    for item in (session, other, third):
        item.reset(row=0)
    engine.gate.clear()
    with pytest.raises(SearchTimeout, match="unchanged"):
        session.search("hangs")
    assert batcher.hanging == 1
    with pytest.raises(SearchTimeout):
        asyncio.run(other.step_async(Search("hangs too")))  # in the spare thread
    with pytest.raises(Overloaded, match="No thread is left"):
        third.search("refused")
    assert not batcher.healthy
    engine.gate.set()
    while not batcher.healthy:
        time.sleep(0.01)
    assert "Title of again" in session.search("again")
    batcher.close()


def test_more_steps_than_may_wait_are_refused():
    engine = Engine()
    world = small_world(engine)
    batcher = StepBatcher(world, Batching(waiting=1))
    engine.gate.clear()
    task, state = world.tasks[0], world.dynamics.start(world.tasks[0].question)
    running = batcher.submit(task, state, Search("a"))
    while not running.running():
        time.sleep(0.001)
    waiting = batcher.submit(task, state, Search("b"))
    with pytest.raises(Overloaded, match="waiting"):
        batcher.submit(task, state, Search("c"))
    batcher.close()
    with pytest.raises(Overloaded, match="closed"):
        batcher.submit(task, state, Search("d"))
    engine.gate.set()
    assert waiting.result(5).state.history[0].query == "b"  # what was submitted before is done


def test_a_second_step_of_the_same_episode_waits_for_the_first_to_end():
    engine = Engine()
    world = small_world(engine)
    batcher = StepBatcher(world)
    session = Session(world, batcher=batcher)
    session.reset(row=0)
    engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(session.search, "a")
        while not engine.calls:
            time.sleep(0.001)
        with pytest.raises(InvalidAction, match="running"):
            session.search("b")
        with pytest.raises(InvalidReset, match="running"):
            session.reset()
        engine.gate.set()
        assert "Title of a" in first.result(5)
    assert [turn.query for turn in session.state.history] == ["a"]
    batcher.close()
