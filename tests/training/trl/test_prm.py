import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import LLMError, RunError  # noqa: E402
from raggym_env.rewards.model import ModelReward  # noqa: E402
from raggym_env.training import train_prm, train_sft  # noqa: E402
from raggym_env.training.trl import prm  # noqa: E402
from raggym_env.training.trl.config import EvalSpec, PairConfig  # noqa: E402
from raggym_env.training.trl.fit import ProcessData  # noqa: E402
from raggym_env.training.trl.lm import load  # noqa: E402
from trained import losses, write_workshop  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"), questions=8)


def ranked_right(critic, data):
    """Return the share of pairs with different scores that a critic ranks correctly."""
    correct = []
    for trajectory in ProcessData.read(data).trajectories:
        for step in trajectory.steps:
            (predicted,) = critic.score([step.state], [[candidate.action for candidate in step.candidates]])
            scores = np.array([candidate.score for candidate in step.candidates])
            better, worse = np.nonzero(scores[:, None] - scores[None, :] > 0.05)
            correct += list(predicted[better] > predicted[worse])
    return float(np.mean(correct))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT, of transformers
@pytest.mark.parametrize("rank", [4, 0])
def test_a_critic_learns_to_rank_candidates_and_loads_as_the_reward_model(shop, tmp_path, rank):
    recipe = train_prm(
        shop.data, tmp_path, config=shop.config(max_steps=25, lora_rank=rank, learning_rate=1e-2 if rank else 2e-3)
    )
    assert sum(losses(recipe)[-5:]) < 0.6 * sum(losses(recipe)[:5])
    critic = ModelReward(recipe.report["result"], device="cpu", dtype="float32")
    assert ranked_right(critic, shop.data) > 0.9
    if rank:  # the adapter records its base
        alone = ModelReward(str(tmp_path), device="cpu", dtype="float32")
        assert ranked_right(alone, shop.data) == ranked_right(critic, shop.data)


def test_pairs_of_held_out_questions_are_only_tested_on(shop, tmp_path):
    recipe = train_prm(shop.data, tmp_path / "a", config=shop.config(), held_out=0.25)
    assert recipe.report["rows"]["held_out"] > 0
    for stage in ("heldout_before", "heldout_after"):
        assert 0 <= recipe.report[stage]["accuracy"] <= 1
    whole = train_prm(shop.data, tmp_path / "b", config=shop.config(), held_out=0.0)
    assert "heldout_after" not in whole.report
    counts = recipe.report["rows"]
    assert whole.report["rows"]["used"] == counts["used"] + counts["held_out"]


def test_the_evaluation_compares_the_policys_own_choice_with_the_critics(shop, tmp_path):
    evaluation = EvalSpec(str(shop.card), limit=2)
    recipe = train_prm(shop.data, tmp_path, config=shop.config(), evaluation=evaluation, best_of=3)
    before, after = ((tmp_path / stage / "run.json").read_text() for stage in ("before", "after"))
    assert '"best_of": null' in before
    assert '"best_of": 3' in after
    assert '"critic": "model"' in after
    assert recipe.report["after"]["scored"] == 2


def test_states_that_are_too_long_lose_their_oldest_passages_not_their_rows(shop, tmp_path):
    base, trajectories = load(str(shop.model)), ProcessData.read(shop.data).trajectories
    whole, _, all_counts = prm._rows(trajectories, base, shop.config(), PairConfig(4), 0.0, None)
    # A token of this tokenizer is a byte; 128 of max_length are reserved for the action.
    short, _, short_counts = prm._rows(trajectories, base, shop.config(max_length=330), PairConfig(4), 0.0, None)
    assert len(short) == len(whole)
    assert short_counts["mean_tokens"] < all_counts["mean_tokens"]
    assert all("On which river does Town" in row["chosen"][0]["content"] for row in short)
    _, _, few_counts = prm._rows(trajectories, base, shop.config(max_length=200), PairConfig(4), 0.0, None)
    assert few_counts["used"] + few_counts["too_long"] == len(whole)


def test_a_critic_of_snippets_is_trained_and_evaluated_on_them(shop, tmp_path):
    base, trajectories = load(str(shop.model)), ProcessData.read(shop.data).trajectories
    whole, _, _ = prm._rows(trajectories, base, shop.config(), PairConfig(4), 0.0, None)
    brief, _, _ = prm._rows(trajectories, base, shop.config(), PairConfig(4), 0.0, 40)
    assert len(brief) == len(whole)
    assert sum(len(row["chosen"][0]["content"]) for row in brief) < sum(len(r["chosen"][0]["content"]) for r in whole)
    evaluation = EvalSpec(str(shop.card), limit=1)
    recipe = train_prm(shop.data, tmp_path, config=shop.config(), evaluation=evaluation, best_of=2, history_chars=40)
    assert recipe.config["history_chars"] == 40
    assert '"history_chars": 40' in (tmp_path / "after" / "run.json").read_text()


def test_an_adapter_or_data_without_pairs_cannot_become_a_critic(shop, tmp_path):
    train_sft(shop.data, tmp_path / "sft", agent=shop.agent, config=shop.config())
    with pytest.raises(LLMError, match="trained on a plain base"):
        train_prm(shop.data, tmp_path / "prm", config=shop.config(f"{shop.model}+{tmp_path / 'sft'}"))
    with pytest.raises(RunError, match="makes no pairs of candidates"):
        train_prm(shop.data, tmp_path / "prm", config=shop.config(), pairs=PairConfig(margin=9.0))
    with pytest.raises(ValueError, match=r"held_out must be in \[0, 1\)"):
        train_prm(shop.data, tmp_path / "prm", config=shop.config(), held_out=1.0)
