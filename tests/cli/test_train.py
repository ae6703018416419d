import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.cli import app
from trained import write_workshop

pytestmark = pytest.mark.slow

QUICK = ["--set", "device=cpu", "--set", "per_device_train_batch_size=2", "--set", "gradient_accumulation_steps=1"]
QUICK += ["--set", "lora_rank=4", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def raggym(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_sft_dpo_and_prm_follow_one_another_from_the_command_line(shop, tmp_path):
    quick = [*QUICK, "--max-steps", "2"]
    result = raggym("sft", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path / "sft", *quick)
    assert result.exit_code == 0, result.output
    assert f"result      {shop.model}+{tmp_path / 'sft'}" in result.stdout
    tuned = f"{shop.model}+{tmp_path / 'sft'}"
    evaluation = ["--eval", shop.card, "--eval-limit", "1", "--eval-set", "retrieval.k=1"]
    result = raggym(
        "dpo", shop.data, "--model", tuned, "--as", shop.agent, "--out", tmp_path / "dpo", *quick, *evaluation
    )
    assert result.exit_code == 0, result.output
    assert "after       em" in result.stdout
    result = raggym("prm", shop.data, "--model", shop.model, "--out", tmp_path / "prm", "--held-out", "0.3", *quick)
    assert result.exit_code == 0, result.output
    assert "heldout after ranked right" in result.stdout
    recipe = json.loads((tmp_path / "dpo" / "recipe.json").read_text())
    assert recipe["status"] == "trained"
    assert recipe["config"]["model"]["adapter"]


def test_sft_mixes_collections_by_the_weights_behind_their_names(shop, tmp_path):
    command = ["sft", shop.data, f"{shop.data}:0.5", "--model", shop.model, "--as", shop.agent, "--out", tmp_path]
    result = raggym(*command, *QUICK, "--max-steps", "1")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "recipe.json").read_text())["config"]
    assert [row["weight"] for row in config["data"]["collections"]] == [1.0, 0.5]
    result = raggym("sft", f"{shop.data}:much", "--out", tmp_path / "x", *QUICK)
    assert result.exit_code == 1
    assert "must be a number above 0 and at most 100, got 'much'" in " ".join(result.output.split())
    result = raggym(*command[:-1], tmp_path / "x", *QUICK, "--balance")  # in towns, one search is always enough
    assert "The rows cannot be balanced" in result.output


def test_grpo_takes_its_reward_and_its_options_from_the_command_line(shop, tmp_path):
    options = ["--reward", "evidence", "--reward-set", "search_cost=0.1", "--algorithm", "rloo", "--max-steps", "1"]
    options += ["--num-generations", "2", "--max-completion-length", "8", *QUICK]
    result = raggym("grpo", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path, *options)
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "recipe.json").read_text())["config"]
    assert (config["kind"], config["reward"]["options"]) == ("rloo", {"search_cost": 0.1})


def test_whole_episodes_take_their_rewards_and_credit_from_the_command_line(shop, tmp_path):
    options = ["--reward", "evidence", "--reward-set", "search_cost=0.1", "--discount", "0.5", "--max-steps", "2"]
    options += ["--num-generations", "2", "--max-completion-length", "8", "--env-set", "episode.max_searches=1", *QUICK]
    options += ["--invalid-reward", "-0.5", "--eval", shop.card, "--eval-limit", "1", "--eval-every", "1"]
    result = raggym("episodes", shop.card, "--model", shop.model, "--out", tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert [line.split()[:4] for line in result.stdout.splitlines() if line.startswith("held out")] == [
        ["held", "out", "step", str(step)] for step in range(3)
    ]
    config = json.loads((tmp_path / "recipe.json").read_text())["config"]
    episodes = config["episodes"]
    assert (episodes["credit"], episodes["discount"], episodes["invalid_reward"]) == ("turn", 0.5, -0.5)
    assert episodes["settings"] == {"episode.max_searches": 1}


def test_a_killed_process_is_resumed(shop, tmp_path):
    arguments = ["sft", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path / "out", *QUICK]
    arguments += ["--max-steps", "400", "--set", "save_steps=5"]
    command = [sys.executable, "-m", "raggym_env", "train", *map(str, arguments)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 400
        while not (tmp_path / "out" / "checkpoints" / "checkpoint-10").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    complete = list((tmp_path / "out" / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    start = max(int(path.parent.name.partition("-")[2]) for path in complete)
    assert 5 <= start < 400
    from raggym_env.training import train_sft

    steps = []
    config = shop.config(max_steps=400, save_steps=5)

    def interrupt(stage, done, total, info):
        steps.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(shop.data, tmp_path / "out", agent=shop.agent, config=config, progress=interrupt)
    assert steps == [start + 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sft", "nowhere"], "nowhere"),
        (
            ["sft", "{data}", "--max-steps", "1", "--set", "num_train_epochs=1"],
            "max_steps or num_train_epochs, not both",
        ),
        (["sft", "{data}", "--learning-rate", "-1"], "learning_rate must be a number above 0"),
        (["sft", "{data}", "--set", "trl.weight_decai=0.1"], "Did you mean 'weight_decay'?"),
        (["sft", "{data}", "--set", "trl.weight_decay"], "--set takes KEY=VALUE"),
        (["sft", "{data}", "--set", "lora_rang=4"], "Did you mean 'lora_rank'?"),
        (
            ["sft", "{data}", "--set", "save_steps=often"],
            "save_steps must be a whole number of at least 1, got 'often'",
        ),
        (["sft", "{data}", "--set", "lora=4"], "set its arguments one by one, as lora.NAME"),
        (["dpo", "{data}", "--set", "lora.r=4"], "use the option lora_rank"),
        (["sft", "{data}", "--as", "lexical"], "not a prompt agent"),
        (["sft", "{data}", "--model", "nosuch"], "No model 'nosuch'"),
        (["dpo", "{data}", "--margin", "7"], "makes no pairs of candidates"),
        (["prm", "{data}", "--set", "max_length=10"], "longer than max_length = 10"),
        (["grpo", "{data}", "--reward", "evidense"], "Did you mean 'evidence'?"),
        (["grpo", "RAGGym-Sinth-v0"], "Did you mean 'RAGGym-Synth-v0'?"),
        (["episodes", "RAGGym-Sinth-v0"], "Did you mean 'RAGGym-Synth-v0'?"),
        (["episodes", "{data}", "--set", "trl.scale_rewards=group"], "scale_rewards cannot be passed through"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_so(shop, tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given_words = [word.format(data=shop.data) for word in words]
    defaults = {"--model": str(shop.model), "--as": str(shop.agent), "--out": str(tmp_path / "out")}
    rest = [part for pair in defaults.items() for part in pair if pair[0] not in given_words]
    if words[0] in ("prm", "episodes") and "--as" in rest:
        del rest[rest.index("--as") : rest.index("--as") + 2]
    result = raggym(*given_words, *rest)
    assert result.exit_code == 1, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("raggym: ")
    assert message in last
    assert not (tmp_path / "out").exists()
