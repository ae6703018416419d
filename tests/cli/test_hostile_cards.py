"""Cards from somebody else, at every door: nothing that they name is imported, opened, written or asked."""

import json
import pickle
import socket
import sys

import gymnasium as gym
import pytest
import typer
from typer.testing import CliRunner

import raggym_env
from raggym_env import data, policies
from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override, policy_card
from raggym_env.cli import app
from raggym_env.envs import make_env, make_vector_env
from raggym_env.errors import CardError
from raggym_env.evaluation import build_leaderboard, evaluate
from raggym_env.runs.plan import RunSpec
from towns import write_towns

# A module that tells that it was imported, and an URL that would be connected to.
CODE, URL = "evil_module:Thing", "http://127.0.0.1:9/v1"
DATASET = 'dataset = {format = "jsonl", splits = {train = [{questions = "questions.jsonl", corpus = "corpus.jsonl"}], '
DATASET += 'test = [{questions = "questions.jsonl", corpus = "corpus.jsonl"}]}}\n'
ENVIRONMENTS = {
    "code": f'retrieval = {{name = "{CODE}"}}',
    "inner code": f'retrieval = {{name = "rrf", options = {{retrievers = ["bm25", {{name = "{CODE}"}}]}}}}',
    "server": f'retrieval = {{name = "http", options = {{url = "{URL}"}}}}',
    "inner server": f'retrieval = {{name = "rrf", options = {{retrievers = ["bm25", {{name="http", url="{URL}"}}]}}}}',
    "store": 'retrieval = {name = "bm25", options = {store = "written"}}',
    "path": 'reward = {process_reward = "mini", options = {weights = "../private/weights.safetensors"}}',
    "judge": f'reward = {{process_reward = "judge", options = {{llm = "openai:m@{URL}"}}}}',
    "key": 'reward = {process_reward = "judge", options = {llm = "hf:m", llm_options = {key_env = "AWS_SECRET"}}}',
    "trust": 'reward = {process_reward = "rollout", options = {policy = "in.toml", policy_options = {trust = true}}}',
}
POLICIES = {
    "code": f'policy = "{CODE}"',
    "model's code": f'policy = "prompt"\noptions = {{llm = "{CODE}:m", prompts = {{system = "", user = ""}}}}',
    "server": f'policy = "prompt"\noptions = {{llm = "openai:m@{URL}", prompts = {{system = "", user = ""}}}}',
    "key": 'policy = "prompt"\noptions = {llm = "openai:m", llm_options = {key_env = "AWS_SECRET"}}',
    "path": 'policy = "prompt"\noptions = {llm = "scripted:../private/replies.json"}',
    "critic": f'policy = "lexical"\nsearch = {{best_of = 2, critic = "{CODE}"}}',
    "judge": f'policy = "lexical"\nsearch = {{best_of=2, critic="judge", critic_options={{llm="openai:m@{URL}"}}}}',
}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A stranger's folder, which is the current one, in a world where any connection, import or file is noticed."""
    folder = tmp_path / "theirs"
    write_towns(folder)
    (tmp_path / "private").mkdir()
    (folder / "evil_module.py").write_text("open('imported', 'w').close()\nclass Thing: pass\n")
    (folder / "in.toml").write_text(f'policy = "{CODE}"')
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AWS_SECRET", "secret-of-the-user")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-user")
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)

    def connect(self, address):
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    before = set(folder.rglob("*"))
    yield folder
    assert {path.name for path in set(folder.rglob("*")) - before} <= {"Own-v0.toml", "own.toml"}
    assert "evil_module" not in sys.modules


def own(folder, kind, content):
    path = folder / ("Own-v0.toml" if kind == "env" else "own.toml")
    path.write_text(f'title = "Own"\n{content}\n{DATASET}' if kind == "env" else content)
    return str(path)


ENV_DOORS = {
    "env_card": lambda card: env_card(card),
    "register_card": lambda card: raggym_env.register_card(card),
    "gym.make": lambda card: gym.make("RAGGym-Card-v0", card=card),
    "gym.make_vec": lambda card: gym.make_vec("RAGGym-Card-v0", num_envs=2, card=card),
    "make_env": lambda card: make_env(card),
    "make_vector_env": lambda card: make_vector_env(card, num_envs=2),
    "load_mdp": lambda card: load_mdp(card),
    "data.load": lambda card: data.load(card),
    "data.load_tasks": lambda card: data.load_tasks(card),
    "RunSpec": lambda card: RunSpec.of(card, "lexical"),
    "evaluate": lambda card: evaluate(card, "lexical", limit=1),
    "leaderboard": lambda card: build_leaderboard([card], card=card),
}
POLICY_DOORS = {
    "policy_card": lambda card: policy_card(card),
    "policies.make": lambda card: policies.make(card),
    "policies.make with a model": lambda card: policies.make(card, llm="hf:smollm2"),
    "RunSpec": lambda card: RunSpec.of("RAGGym-Synth-v0", card),
    "evaluate": lambda card: evaluate("RAGGym-Synth-v0", card, limit=1),
    "rollout": lambda card: load_mdp(
        override(env_card("RAGGym-Synth-v0"), {"reward.process_reward": "rollout", "reward.options": {"policy": card}}),
        "train",
    ),
}


@pytest.mark.parametrize("door", ENV_DOORS)
@pytest.mark.parametrize("card", ENVIRONMENTS)
def test_no_door_lets_a_strangers_environment_use_the_users_authority(theirs, card, door):
    with pytest.raises(CardError, match="--trust-card"):
        ENV_DOORS[door](own(theirs, "env", ENVIRONMENTS[card]))


@pytest.mark.parametrize("door", POLICY_DOORS)
@pytest.mark.parametrize("card", POLICIES)
def test_no_door_lets_a_strangers_policy_use_the_users_authority(theirs, card, door):
    with pytest.raises(CardError, match="--trust-card"):
        POLICY_DOORS[door](own(theirs, "policy", POLICIES[card]))


ENV, POLICY = "Own-v0.toml", "own.toml"
COMMANDS = {
    "env": [
        ["eval", ENV, "--policy", "lexical"],
        ["collect", ENV, "--policy", "lexical"],
        ["play", ENV],
        ["serve", ENV, "--port", "0"],
        ["data", "get", ENV],
        ["data", "info", ENV],
        ["leaderboard", "predictions.jsonl", "--env", ENV],
        ["train", "grpo", ENV, "--out", "out"],
        ["train", "episodes", ENV, "--out", "out"],
    ],
    "policy": [
        ["eval", "RAGGym-Synth-v0", "--policy", POLICY],
        ["eval", "RAGGym-Synth-v0", "--policy", POLICY, "--ray", "local"],
        ["collect", "RAGGym-Synth-v0", "--policy", POLICY],
        ["export", "process-data", "--to", "sft", "--out", "out", "--as", POLICY],
        ["train", "sft", "process-data", "--out", "out", "--as", POLICY],
        ["train", "dpo", "process-data", "--out", "out", "--as", POLICY],
        ["train", "grpo", "RAGGym-Synth-v0", "--out", "out", "--as", POLICY],
        ["train", "prm", "process-data", "--out", "out", "--policy", POLICY],
    ],
}
# `train` loads torch.
WALKS = [
    pytest.param(kind, command, id=" ".join(command), marks=[pytest.mark.slow] * (command[0] == "train"))
    for kind, commands in COMMANDS.items()
    for command in commands
]


@pytest.mark.parametrize(("kind", "command"), WALKS)
def test_no_command_lets_a_strangers_card_use_the_users_authority(theirs, kind, command):
    for content in (ENVIRONMENTS if kind == "env" else POLICIES).values():
        own(theirs, kind, content)
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert "--trust-card" in result.output, result.output


def test_every_command_that_takes_a_card_takes_trust_and_is_walked():
    def options(command, path=()):
        for name, inner in getattr(command, "commands", {}).items():
            yield from options(inner, (*path, name))
        if not hasattr(command, "commands"):
            yield path, {flag for parameter in command.params for flag in parameter.opts}

    walked = {tuple(word for word in command[:2] if word.isalpha()) for kind in COMMANDS.values() for command in kind}
    for path, flags in options(typer.main.get_command(app)):
        assert ("--trust-card" in flags) == any(path[: len(words)] == words for words in walked), path


@pytest.mark.parametrize("trust", [True, False])
def test_a_worker_that_gets_the_spec_of_a_run_has_the_users_trust(theirs, trust):
    content = 'reward = {process_reward = "rollout", options = {policy = "inner.toml"}}'
    inner = theirs / "inner.toml"
    spec = RunSpec.of(own(theirs, "env", content), "random", trust=trust, split="train", limit=1)
    inner.write_text('policy = "lexical"\noptions = {seed = 1}\nsearch = {best_of = 2, critic = "random"}')
    pickle.loads(pickle.dumps(spec)).load()  # noqa: S301  # as Ray sends it
    inner.write_text('policy = "raggym_env.policies.random:RandomPolicy"')
    if trust:
        pickle.loads(pickle.dumps(spec)).load()  # noqa: S301
    else:
        with pytest.raises(CardError, match="names code"):
            pickle.loads(pickle.dumps(spec)).load()  # noqa: S301
    inner.unlink()


def test_the_users_trust_in_a_shipped_card_is_not_trust_in_a_card_that_it_is_given(theirs):
    settings = {"reward.process_reward": "rollout", "reward.options": {"policy": "in.toml"}}
    spec = RunSpec.of("RAGGym-Synth-v0", "random", split="train", limit=1, settings=settings)
    with pytest.raises(CardError, match="names code"):
        spec.load()


# -- folders from somebody else ---------------------------------------------------------------------------------------


@pytest.fixture
def folder_of_a_stranger(tmp_path, monkeypatch):
    """A run whose record was changed: its environment names code, and its card lies in a private folder."""
    write_towns(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('imported', 'w').close()\nclass Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "imported").exists()


def change(run, **changes):
    content = json.loads((run / "run.json").read_text())
    content["config"]["environment"] |= changes
    (run / "run.json").write_text(json.dumps(content))


def test_reading_a_run_whose_record_names_code_scores_it_and_imports_nothing(folder_of_a_stranger):
    evaluate("Towns-v0.toml", "lexical", limit=2, out="run")
    change(folder_of_a_stranger / "run", retrieval={"name": CODE, "k": 5, "options": {"url": URL}}, trusted=True)
    for command in (["leaderboard", "run"], ["report", "run", "-o", "page.html"], ["show", "run"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output


def test_a_record_that_names_another_folder_does_not_have_its_files_read(folder_of_a_stranger):
    private = folder_of_a_stranger / "private"
    private.mkdir()
    (private / "diary.jsonl").write_text("Dear diary\n")
    (private / "Towns-v0.toml").write_text((folder_of_a_stranger / "Towns-v0.toml").read_text())
    evaluate("Towns-v0.toml", "lexical", limit=2, out="run")
    dataset = env_card("Towns-v0.toml").dataset.model_dump(mode="json")
    dataset["splits"]["test"][0]["questions"] = "diary.jsonl"
    change(folder_of_a_stranger / "run", dataset=dataset)
    content = json.loads((folder_of_a_stranger / "run" / "run.json").read_text())
    content["card_path"] = str(private / "Towns-v0.toml")
    (folder_of_a_stranger / "run" / "run.json").write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["leaderboard", "run"])
    assert "diary.jsonl" in result.output
    assert str(private) not in result.output
    assert "Dear" not in result.output


@pytest.mark.slow
def test_training_on_data_whose_record_names_code_needs_trust(folder_of_a_stranger):
    arguments = ["Towns-v0.toml", "--policy", "lexical", "--critic", "random", "--limit", "2", "--out", "process-data"]
    assert CliRunner().invoke(app, ["collect", *arguments]).exit_code == 0
    change(folder_of_a_stranger / "process-data", retrieval={"name": CODE, "k": 5, "options": {}})
    result = CliRunner().invoke(app, ["train", "grpo", "process-data", "--out", "out"])
    assert result.exit_code == 1
    assert "--trust-card" in result.output
