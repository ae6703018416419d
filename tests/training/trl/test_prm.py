import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import LLMError, RunError  # noqa: E402
from raggym_env.rewards.model import ModelReward  # noqa: E402
from raggym_env.training.trl import prm, sft  # noqa: E402
from raggym_env.training.trl.fit import ProcessData  # noqa: E402
from raggym_env.training.trl.lm import load  # noqa: E402
from raggym_env.training.trl.options import Exam, Pairs  # noqa: E402
from trained import losses, write_workshop  # noqa: E402


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"), questions=8)


def ranked_right(critic, data):
    """The share of pairs with different scores that a critic puts in their order."""
    right = []
    for trajectory in ProcessData.read(data).trajectories:
        for choice in trajectory.choices:
            (found,) = critic.score([choice.state], [[each.action for each in choice.candidates]])
            known = np.array([each.score for each in choice.candidates])
            better, worse = np.nonzero(known[:, None] - known[None, :] > 0.05)
            right += list(found[better] > found[worse])
    return float(np.mean(right))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT, of transformers
@pytest.mark.parametrize("rank", [4, 0])
def test_a_critic_learns_to_rank_candidates_and_loads_as_the_reward_model(shop, tmp_path, rank):
    recipe = prm.train(shop.data, tmp_path, shop.options(steps=25, lora_rank=rank, lr=1e-2 if rank else 2e-3))
    assert sum(losses(recipe)[-5:]) < 0.6 * sum(losses(recipe)[:5])
    critic = ModelReward(recipe.report["result"], device="cpu", dtype="float32")
    assert ranked_right(critic, shop.data) > 0.9
    if rank:  # what was written says by itself which base it is on
        alone = ModelReward(str(tmp_path), device="cpu", dtype="float32")
        assert ranked_right(alone, shop.data) == ranked_right(critic, shop.data)


def test_pairs_of_some_questions_are_only_tested_on(shop, tmp_path):
    recipe = prm.train(shop.data, tmp_path / "a", shop.options(), holdout=0.25)
    assert recipe.report["rows"]["held_out"] > 0
    for stage in ("heldout_before", "heldout_after"):
        assert 0 <= recipe.report[stage]["accuracy"] <= 1
    whole = prm.train(shop.data, tmp_path / "b", shop.options(), holdout=0.0)
    assert "heldout_after" not in whole.report
    counts = recipe.report["rows"]
    assert whole.report["rows"]["used"] == counts["used"] + counts["held_out"]


def test_the_exam_compares_the_policys_own_choice_with_the_critics(shop, tmp_path):
    exam = Exam(str(shop.card), limit=2)
    recipe = prm.train(shop.data, tmp_path, shop.options(), exam=exam, best_of=3)
    before, after = ((tmp_path / stage / "run.json").read_text() for stage in ("before", "after"))
    assert '"best_of": null' in before
    assert '"best_of": 3' in after
    assert '"critic": "model"' in after
    assert recipe.report["after"]["scored"] == 2


def test_states_too_long_lose_their_oldest_passages_instead_of_their_rows(shop, tmp_path):
    base, trajectories = load(str(shop.model)), ProcessData.read(shop.data).trajectories
    whole, _, all_of = prm._rows(trajectories, base, shop.options(), Pairs(4), 0.0)
    # Of the tokens, which are bytes here, 128 are for the action.
    short, _, some_of = prm._rows(trajectories, base, shop.options(max_length=330), Pairs(4), 0.0)
    assert len(short) == len(whole)
    assert some_of["mean_tokens"] < all_of["mean_tokens"]
    assert all("On which river does Town" in row["chosen"][0]["content"] for row in short)
    _, _, few_of = prm._rows(trajectories, base, shop.options(max_length=200), Pairs(4), 0.0)
    assert few_of["used"] + few_of["too_long"] == len(whole)


def test_what_cannot_become_a_critic_is_refused(shop, tmp_path):
    sft.train(shop.data, shop.agent, tmp_path / "sft", shop.options())
    with pytest.raises(LLMError, match="trained on a plain base"):
        prm.train(shop.data, tmp_path / "prm", shop.options(f"{shop.model}+{tmp_path / 'sft'}"))
    with pytest.raises(RunError, match="makes no pairs of candidates"):
        prm.train(shop.data, tmp_path / "prm", shop.options(), pairs=Pairs(margin=9.0))
    with pytest.raises(ValueError, match=r"holdout must be in \[0, 1\)"):
        prm.train(shop.data, tmp_path / "prm", shop.options(), holdout=1.0)
