import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import RunError  # noqa: E402
from raggym_env.evaluation import evaluate  # noqa: E402
from raggym_env.training import train_dpo, train_sft  # noqa: E402
from raggym_env.training.trl.config import PairConfig  # noqa: E402
from trained import losses, same, weights, write_workshop  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def test_the_better_candidates_become_more_likely_than_the_worse(shop, tmp_path):
    recipe = train_dpo(shop.data, tmp_path, agent=shop.agent, config=shop.config(max_steps=20))
    margins = [entry["rewards/margins"] for entry in recipe.report["log"]]
    assert losses(recipe)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert sum(margins[-5:]) / 5 > 1
    assert sum(losses(recipe)[-5:]) / 5 < 0.5


def test_the_reference_of_an_adapter_is_the_adapter_before_training_and_the_result_is_one_adapter(shop, tmp_path):
    train_sft(shop.data, tmp_path / "sft", agent=shop.agent, config=shop.config(max_steps=6))
    recipe = train_dpo(
        shop.data, tmp_path / "dpo", agent=shop.agent, config=shop.config(f"{shop.model}+{tmp_path / 'sft'}")
    )
    # Were the reference the plain base, the adapter would have moved away from it before the first step.
    assert losses(recipe)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert recipe.report["log"][0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert recipe.report["result"] == f"{shop.model}+{tmp_path / 'dpo'}"
    before, after = weights(tmp_path / "sft"), weights(tmp_path / "dpo")
    assert before.keys() == after.keys()
    assert not same(before, after)
    adapter = json.loads((tmp_path / "dpo" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["r"]) == (str(shop.model), 4)
    assert not (tmp_path / "dpo" / "ref").exists()


def test_all_weights_can_be_trained_and_evaluated(shop, tmp_path):
    recipe = train_dpo(
        shop.data, tmp_path / "dpo", agent=shop.agent, config=shop.config(lora_rank=0, learning_rate=1e-3)
    )
    assert losses(recipe)[0] == pytest.approx(math.log(2), abs=1e-4)
    _, scores = evaluate(
        shop.card, shop.agent, limit=1, settings={"policy.options.llm": f"hf:{tmp_path / 'dpo'}"}, out=tmp_path / "run"
    )
    assert scores.scored == 1


def test_candidates_that_hardly_differ_make_no_pairs(shop, tmp_path):
    with pytest.raises(RunError, match="makes no pairs of candidates"):
        train_dpo(shop.data, tmp_path, agent=shop.agent, config=shop.config(), pairs=PairConfig(margin=5.0))
    with pytest.raises(ValueError, match="beta must be above 0"):
        train_dpo(shop.data, tmp_path, agent=shop.agent, config=shop.config(), beta=0.0)
