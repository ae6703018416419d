import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import CardError  # noqa: E402
from raggym_env.llm.hf.chat import Chat  # noqa: E402
from raggym_env.training.process_data.prompts import Renderer  # noqa: E402
from raggym_env.training.process_data.rows import sft_rows  # noqa: E402
from raggym_env.training.trl import sft  # noqa: E402
from raggym_env.training.trl.config import lora_config, trl_config  # noqa: E402
from raggym_env.training.trl.fit import ProcessData, make_trainer  # noqa: E402
from raggym_env.training.trl.lm import load, quiet  # noqa: E402
from trained import losses, same, weights, write_workshop  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def test_the_loss_is_over_the_replies_alone(shop, tmp_path):
    base = load(str(shop.model))
    rows = list(sft_rows(ProcessData.read(shop.data).trajectories, Renderer(shop.agent)))
    with quiet():
        config = shop.config().with_defaults(learning_rate=1.0, batch_size=1)
        args = trl_config("SFTConfig", config, tmp_path, max_length=None, completion_only_loss=True)
        trainer = make_trainer("SFTTrainer", base, lora_config(config), args, [base.row(row) for row in rows])
        batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    examples = set()
    for batch in batches:
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        learned = base.tokenizer.decode(ids[labels != -100])
        examples.add((base.tokenizer.decode(ids[labels == -100]), learned))
    decode = base.tokenizer.decode
    assert examples == {
        (decode(Chat(base.tokenizer, ()).encode(row["prompt"])), f"{row['completion'][0]['content']}<|end|>\n")
        for row in rows
    }


def test_a_model_learns_the_executed_actions_and_its_weights_change(shop, tmp_path):
    recipe = sft.train_sft(shop.data, tmp_path, agent=shop.agent, config=shop.config(max_steps=20, learning_rate=2e-2))
    assert losses(recipe)[-1] < 0.7 * losses(recipe)[0]
    assert recipe.report["trained_parameters"] < 0.1 * recipe.report["parameters"]
    assert all((tensor != 0).any() for name, tensor in weights(tmp_path).items() if "lora_B" in name)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_all_weights_can_be_trained(shop, tmp_path):
    recipe = sft.train_sft(shop.data, tmp_path, agent=shop.agent, config=shop.config(lora_rank=0))
    assert recipe.report["result"] == str(tmp_path)
    assert recipe.report["trained_parameters"] == recipe.report["parameters"]
    assert not same(load(str(tmp_path)).model.state_dict(), load(str(shop.model)).model.state_dict())


def test_the_best_scored_actions_can_be_learned_instead_of_the_executed_ones(shop, tmp_path):
    executed, top = (
        sft.train_sft(shop.data, tmp_path / best, agent=shop.agent, config=shop.config(), best=best).report["rows"][
            "used"
        ]
        for best in ("executed", "top")
    )
    assert executed < top == sum(len(trajectory.steps) for trajectory in ProcessData.read(shop.data).trajectories)


def test_a_policy_without_prompts_is_refused(shop, tmp_path):
    with pytest.raises(CardError, match="not a prompt agent"):
        sft.train_sft(shop.data, tmp_path, agent="lexical", config=shop.config())
