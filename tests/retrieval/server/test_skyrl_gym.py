"""SkyRL-gym's own search environment, from PyPI, against a served retriever."""

import json

import pytest

from raggym_env.core import Passage
from raggym_env.retrieval import make, server

search = pytest.importorskip("skyrl_gym.envs.search.env")
tool = pytest.importorskip("skyrl_gym.tools.search")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

CORPUS = [
    Passage("1", "Dawn (film)", "Dawn is a film by Ada Berg."),
    Passage("2", "Ada Berg", "Ada Berg was born in Oslo."),
    Passage("3", "Bergen", "Bergen is a town."),
]


@pytest.fixture
def env():
    with server.running(make("bm25", CORPUS, store=False)) as url:
        config = search.SearchEnvConfig(search_url=url, topk=2, timeout=10)
        extras = {"reward_spec": {"ground_truth": {"target": ["Oslo"]}}, "max_turns": 4}
        environment = search.SearchEnv(config, extras)
        environment.init([{"role": "user", "content": "Where was the director of Dawn born?"}])
        yield environment
        for session in tool.SearchToolGroup._session_pool.values():  # it keeps its connections for good
            session.close()
        tool.SearchToolGroup._session_pool.clear()


def information(step):
    (message,) = step["observations"]
    content = message["content"].strip()
    return json.loads(content.removeprefix("<information>").removesuffix("</information>"))["result"]


def test_an_episode_of_its_search_environment_runs_from_the_first_query_to_the_reward(env):
    first = env.step("<search>film Dawn</search>")
    second = env.step("<search>where was Ada Berg born</search>")
    last = env.step("<answer>Oslo</answer>")
    assert information(first) == 'Doc 1: "Dawn (film)"\nDawn is a film by Ada Berg.\n'
    assert information(second).startswith('Doc 1: "Ada Berg"\nAda Berg was born in Oslo.\nDoc 2: "Dawn (film)"\n')
    assert (first["done"], second["done"], last["done"], last["reward"]) == (False, False, True, 1)


def test_a_search_that_finds_nothing_says_so_and_is_no_error(env):
    assert information(env.step("<search>zebra</search>")) == ""
