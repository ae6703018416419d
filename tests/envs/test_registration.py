import copy
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import raggym_env
from raggym_env.cards import env_card
from raggym_env.data.catalogue import has_data
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.storage.paths import card_names
from raggym_env.testing import ScriptedRetriever
from towns import write_towns

# The others, of the paper's settings, need corpora and encoders that no test machine has: see tests/test_cards.py.
PLAIN = [name for name in card_names("envs") if env_card(name).retrieval.name == "bm25"]


def find_data(env_id, request, monkeypatch):
    if env_id != "RAGGym-Synth-v0":
        monkeypatch.setenv("RAGGYM_DATA", str(request.getfixturevalue("real_data")))
        if not has_data(env_card(env_id)):
            pytest.skip(f"needs the files of {env_id} in the folder of the real data sets")


def test_importing_the_package_registers_one_id_per_card():
    assert {*card_names("envs"), "RAGGym-Card-v0"} <= set(gym.registry)


IMPORTS = {
    "before": "import raggym_env; import gymnasium",
    "after": "import gymnasium; import raggym_env",
    "a part of it": "import raggym_env; from gymnasium.envs.registration import registry",
    "looked for first": "import raggym_env, importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS)
def test_the_ids_are_registered_whether_gymnasium_is_imported_before_or_after(statement):
    code = (
        f"import sys; {statement}; import gymnasium\n"
        "assert gymnasium.spec('RAGGym-Synth-v0').kwargs == {'card': 'RAGGym-Synth-v0'}\n"
        "assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith('raggym_env')]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_package_imports_neither_gymnasium_nor_numpy():
    heavy = "gymnasium", "numpy", "pydantic", "pyarrow", "httpx"
    code = f"import sys, raggym_env.cli; assert not [name for name in {heavy!r} if name in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PLAIN)
def test_every_id_passes_the_checker_without_a_warning(env_id, request, monkeypatch):
    find_data(env_id, request, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id)
        check_env(env.unwrapped)
        env.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PLAIN)
def test_every_id_makes_a_vector_environment(env_id, request, monkeypatch):
    find_data(env_id, request, monkeypatch)
    envs = gym.make_vec(env_id, num_envs=3, autoreset_mode="SameStep")
    obs, _ = envs.reset(seed=0)
    assert obs in envs.observation_space
    obs, *_ = envs.step([raggym_env.Search(text) for text in obs["question"]])
    assert all(history[0].passages for history in obs["history"])


def test_settings_of_make_replace_the_cards():
    env = gym.make("RAGGym-Synth-v0", split="test", k=2, max_searches=3, process_reward="random", metric="f1")
    obs, _ = env.reset(seed=0)
    assert obs["searches_left"] == 3
    obs, reward, *_ = env.step((0, obs["question"]))
    assert len(obs["history"][0].passages) == 2
    assert 0 < reward < 1


def test_a_retriever_of_ones_own_is_used():
    retriever = ScriptedRetriever({}, default=["Mine"])
    env = gym.make("RAGGym-Synth-v0", retriever=retriever)
    env.reset(seed=0)
    assert env.step((0, "anything"))[0]["history"][0].passages[0].title == "Mine"


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(TypeError, match=r"has no setting \['kk'\]\. Its settings: .*max_searches"):
        gym.make("RAGGym-Synth-v0", kk=2)


def test_a_card_of_ones_own_becomes_an_environment_in_both_ways(tmp_path):
    card = write_towns(tmp_path)
    assert raggym_env.register_card(card) == "Towns-v0"
    raggym_env.register_card(card)  # twice does no harm
    for env in (gym.make("Towns-v0"), gym.make("RAGGym-Card-v0", card=card)):
        obs, info = env.reset(options={"question": "q3"})
        assert info["question_id"] == "q3"
        obs, *_ = env.step((0, obs["question"]))
        assert env.step((1, "River3"))[1] == 1.0


def test_a_card_whose_name_is_no_id_is_refused(tmp_path):
    card = write_towns(tmp_path).rename(tmp_path / "My+Towns.toml")
    with pytest.raises(CardError, match="not an environment id"):
        raggym_env.register_card(card)


def test_a_card_cannot_take_the_id_of_somebody_else_s_environment(tmp_path):
    card = write_towns(tmp_path).rename(tmp_path / "CartPole-v1.toml")
    with pytest.raises(CardError, match="another package"):
        raggym_env.register_card(card)


def test_missing_data_says_what_was_looked_for_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    with pytest.raises((DataNotFound, MissingExtra)) as error:
        gym.make("RAGGym-HotpotQA-v0")
    for part in ("hotpot_dev_open_v1.json", str(tmp_path), "RAGGYM_DATA"):
        assert part in str(error.value)


def test_importing_the_package_loads_no_extra_and_nothing_slow():
    code = "import sys, raggym_env; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = "torch transformers openai trl peft datasets stable_baselines3 faiss pyserini ray starlette"
    slow = "pyarrow bm25s numba Stemmer rank_bm25 pydantic rich typer httpx jinja2 filelock platformdirs"
    assert set(done.stdout.split()) & {*heavy.split(), *slow.split()} == set()


def test_a_made_environment_can_be_copied_and_pickled():
    env = gym.make("RAGGym-Synth-v0").unwrapped
    env.reset(seed=0)
    env.step((0, "the river"))
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]  # noqa: S301
    observed = [twin.step((0, "a bank"))[0] for twin in (env, *twins)]
    assert observed[0] == observed[1] == observed[2]
