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

QUICK = ["--cpu", "--batch", "2", "--accumulate", "1", "--lora-rank", "4", "--lr", "0.01"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def raggym(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_sft_dpo_and_prm_follow_one_another_from_the_command_line(shop, tmp_path):
    quick = [*QUICK, "--steps", "2"]
    done = raggym("sft", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path / "sft", *quick)
    assert done.exit_code == 0, done.output
    assert f"result      {shop.model}+{tmp_path / 'sft'}" in done.stdout
    tuned = f"{shop.model}+{tmp_path / 'sft'}"
    exam = ["--eval", shop.card, "--eval-limit", "1", "--eval-set", "retrieval.k=1"]
    done = raggym("dpo", shop.data, "--model", tuned, "--as", shop.agent, "--out", tmp_path / "dpo", *quick, *exam)
    assert done.exit_code == 0, done.output
    assert "after       em" in done.stdout
    done = raggym("prm", shop.data, "--model", shop.model, "--out", tmp_path / "prm", "--holdout", "0.3", *quick)
    assert done.exit_code == 0, done.output
    assert "heldout after ranked right" in done.stdout
    recipe = json.loads((tmp_path / "dpo" / "recipe.json").read_text())
    assert recipe["status"] == "trained"
    assert recipe["config"]["model"]["adapter"]


def test_grpo_takes_its_reward_and_its_options_from_the_command_line(shop, tmp_path):
    ways = ["--reward", "evidence", "--reward-set", "search_cost=0.1", "--generations", "2", "--max-tokens", "8"]
    ways += ["--algorithm", "rloo", "--steps", "1", *QUICK]
    done = raggym("grpo", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path, *ways)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "recipe.json").read_text())["config"]
    assert (config["kind"], config["scoring"]["options"]) == ("rloo", {"search_cost": 0.1})


def test_a_killed_process_is_gone_on_with(shop, tmp_path):
    words = ["sft", shop.data, "--model", shop.model, "--as", shop.agent, "--out", tmp_path / "out", *QUICK]
    words += ["--steps", "400", "--save-every", "5"]
    command = [sys.executable, "-m", "raggym_env", "train", *map(str, words)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / "checkpoints" / "checkpoint-10").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = list((tmp_path / "out" / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    begun = max(int(path.parent.name.partition("-")[2]) for path in kept)
    assert 5 <= begun < 400
    from raggym_env.training.trl import sft

    steps = []
    how = shop.options(steps=400, save_every=5)

    def until_it_goes_on(stage, done, total, news):
        steps.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.train(shop.data, shop.agent, tmp_path / "out", how, progress=until_it_goes_on)
    assert steps == [begun + 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "nowhere"], "nowhere"),
        (["sft", "{data}", "--steps", "1", "--epochs", "1"], "steps or epochs, not both"),
        (["sft", "{data}", "--lr", "-1"], "lr must be above 0"),
        (["sft", "{data}", "--as", "lexical"], "no prompt agent"),
        (["sft", "{data}", "--model", "nosuch"], "No model 'nosuch'"),
        (["dpo", "{data}", "--margin", "7"], "makes no pairs of candidates"),
        (["prm", "{data}", "--max-length", "10"], "longer than max_length = 10"),
        (["grpo", "{data}", "--reward", "evidense"], "Did you mean 'evidence'?"),
        (["grpo", "RAGGym-Sinth-v0"], "Did you mean 'RAGGym-Synth-v0'?"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_so(shop, tmp_path, monkeypatch, words, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [word.format(data=shop.data) for word in words]
    defaults = {"--model": str(shop.model), "--as": str(shop.agent), "--out": str(tmp_path / "out")}
    rest = [part for pair in defaults.items() for part in pair if pair[0] not in given]
    if words[0] == "prm" and "--as" in rest:
        del rest[rest.index("--as") : rest.index("--as") + 2]
    done = raggym(*given, *rest)
    assert done.exit_code == 1, done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith("raggym: ")
    assert said in last
    assert not (tmp_path / "out").exists()
