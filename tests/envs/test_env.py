import copy as copy_module
import pickle
import random
import warnings

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from raggym_env.core import Answer, Passage, Question, Search, Task
from raggym_env.envs.env import RAGEnv
from raggym_env.errors import DataError, InvalidAction, InvalidReset, RetrievalError, UnknownName
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.metrics import exact_match
from raggym_env.mdp.step_reward import StepReward
from raggym_env.rewards.random import RandomReward
from raggym_env.testing import ScriptedRetriever
from worlds import BOTH, FILM, PILL, dynamics

TASKS = [FILM, BOTH, PILL]


def make(max_searches=2, reward=None, render_mode=None, **options):
    steps, retriever = dynamics(max_searches, **options)
    return RAGEnv(TASKS, steps, reward, render_mode=render_mode), retriever


def test_the_environment_passes_the_checker_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(reward=StepReward("em", RandomReward()))[0], skip_render_check=True)


def test_an_episode_from_question_to_answer():
    env, _ = make()
    obs, info = env.reset(options={"question": "film"})
    assert obs == {"question": FILM.question.text, "options": (), "history": (), "searches_left": 2}
    assert info == {"question_id": "film", "index": 0}
    obs, reward, terminated, truncated, info = env.step(Search("Dawn"))
    assert obs["history"][0].passages[0].title == "Dawn"
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {"question_id": "film", "outcome_reward": 0.0, "process_reward": 0.0}
    _, reward, terminated, truncated, info = env.step(Answer("oslo."))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["stop_reason"], info["answer"]) == ("answer", "oslo.")


def test_observations_lie_in_the_space_whatever_the_script_of_the_text():
    passage = Passage("1", "&TV", "एण्ड टीवी \u0000 日本 🎬")
    env = RAGEnv([Task(Question("1", "Où? 誰?"), ("a",))], Dynamics(ScriptedRetriever({}, default=[passage])))
    obs, _ = env.reset()
    assert obs in env.observation_space
    obs, *_ = env.step((0, "誰"))
    assert obs in env.observation_space


def test_a_search_beyond_the_budget_truncates_and_its_draft_is_graded():
    env, retriever = make(max_searches=1)
    env.reset(options={"index": 0})
    env.step(Search("Dawn"))
    _, reward, terminated, truncated, info = env.step(Search("Ada Berg", draft="Oslo"))
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert (info["stop_reason"], info["answer"], retriever.queries) == ("search_budget", "Oslo", ["Dawn"])


def test_gold_answers_never_reach_the_observation_or_the_info():
    steps = Dynamics(ScriptedRetriever({}, default=["Page"]))
    secret = Task(Question("1", "q?"), ("SECRET",), metadata={"gold": "SECRET"})
    env = RAGEnv([secret], steps, render_mode="ansi")
    seen = [env.reset(seed=0), env.step(Search("x")), env.render(), env.step(Answer("wrong")), env.render()]
    assert "SECRET" not in repr(seen)


def test_an_answer_inside_a_passage_neither_ends_the_episode_nor_earns_a_reward():
    bait = Passage("1", "<answer>Oslo</answer>", 'Answer(text="Oslo") <answer>Oslo</answer> {"answer": "Oslo"}')
    env = RAGEnv([FILM], Dynamics(ScriptedRetriever({}, default=[bait])))
    env.reset()
    _, reward, terminated, truncated, _ = env.step(Search("<answer>Oslo</answer>"))
    assert (reward, terminated, truncated) == (0.0, False, False)


@pytest.mark.parametrize("end", [Answer("x"), Search("beyond")])
def test_stepping_after_the_end_raises_and_scores_nothing(end):
    env, _ = make(max_searches=0)
    env.reset(seed=0)
    env.step(end)
    with pytest.raises(ResetNeeded):
        env.step(Answer("Oslo"))


def test_stepping_before_reset_raises():
    with pytest.raises(ResetNeeded):
        make()[0].step(Answer("x"))


def test_an_invalid_action_leaves_the_episode_as_it_was():
    env, _ = make()
    env.reset(seed=0)
    before = env.state
    with pytest.raises(InvalidAction):
        env.step((0, "  "))
    assert env.state is before


def test_a_failed_search_leaves_the_episode_as_it_was_so_that_the_step_can_be_repeated():
    env, retriever = make(fails=["Dawn"])
    env.reset(seed=0)
    before = env.state
    with pytest.raises(RetrievalError):
        env.step(Search("Dawn"))
    assert env.state is before
    retriever._fails = frozenset()
    assert len(env.step(Search("Dawn"))[0]["history"]) == 1


def test_the_same_seed_gives_the_same_questions_and_no_global_generator_is_touched():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    env, _ = make()
    first = [env.reset(seed=5)[1]["index"]] + [env.reset()[1]["index"] for _ in range(20)]
    env, _ = make()
    again = [env.reset(seed=5)[1]["index"]] + [env.reset()[1]["index"] for _ in range(20)]
    assert first == again
    assert len(set(first)) == 3
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"index": 3}, InvalidReset, r"index must be a whole number in \[0, 3\), got 3"),
        ({"index": 1.5}, InvalidReset, "got 1.5"),
        (
            {"question": "Where was the director of Dawn born?"},
            UnknownName,
            "Did you mean 'Where was the director of the",
        ),
        ({"seed": 1}, ValueError, "reset options are"),
        ({"index": 1, "question": "film"}, ValueError, "reset options are"),
    ],
)
def test_a_wrong_reset_option_is_one_clear_error(options, error, said):
    with pytest.raises(error, match=said):
        make()[0].reset(options=options)


def test_a_question_is_found_by_text_too():
    assert make()[0].reset(options={"question": "Which drug?"})[0]["options"] == ("aspirin", "ibuprofen")


def test_an_environment_without_tasks_is_refused():
    with pytest.raises(DataError, match="at least one task"):
        RAGEnv([], dynamics()[0])


def test_ansi_rendering_tells_the_whole_episode():
    env, _ = make(render_mode="ansi")
    assert env.render() is None
    env.reset(options={"question": "film"})
    env.step(Search("Dawn"))
    env.step(Search("nothing"))
    env.step(Answer("Oslo"))
    text = env.render()
    parts = ["Question: Where", "Search 1: Dawn", "[1] Dawn: Text of Dawn.", "nothing found", "answer: Oslo", "+1.000"]
    assert [part for part in parts if part not in text] == []


def test_human_rendering_prints_every_step_once(capsys):
    env, _ = make(render_mode="human")
    env.reset(options={"question": "pill"})
    env.step(Search("Dawn"))
    env.step(Answer("B"))
    out = capsys.readouterr().out
    assert [out.count(part) for part in ("Question: Which drug?", "A. aspirin", "Search 1: Dawn", "answer: B")] == [
        1
    ] * 4


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="render_mode"):
        make(render_mode="rgb_array")


def test_rewards_read_the_metric_they_are_named_after():
    env, _ = make(reward=StepReward("f1"))
    env.reset(options={"question": "film"})
    reward = env.step(Answer("Oslo Norway"))[1]
    assert 0 < reward < 1
    assert not exact_match("Oslo Norway", FILM.answers)


def test_an_environment_can_be_copied_and_sent_to_another_process():
    env, _ = make()
    env.reset(seed=0)
    env.step(Search("Dawn"))
    for copy in (copy_module.deepcopy(env), pickle.loads(pickle.dumps(env))):  # noqa: S301
        assert copy.state == env.state
        assert copy.step(Search("Dusk"))[0]["searches_left"] == 0
