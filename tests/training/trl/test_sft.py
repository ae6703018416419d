import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import CardError  # noqa: E402
from raggym_env.llm.hf.chat import Chat  # noqa: E402
from raggym_env.training.process_data.rows import Render, sft_rows  # noqa: E402
from raggym_env.training.trl import sft  # noqa: E402
from raggym_env.training.trl.fit import ProcessData  # noqa: E402
from raggym_env.training.trl.lm import load, quiet  # noqa: E402
from trained import losses, same, weights, write_workshop  # noqa: E402


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def test_the_loss_is_over_the_replies_alone(shop, tmp_path):
    base = load(str(shop.model))
    rows = list(sft_rows(ProcessData.read(shop.data).trajectories, Render(shop.agent)))
    with quiet():
        trainer = sft._trainer(base, [base.row(row) for row in rows], shop.options().filled(1.0, 1), tmp_path)
        batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    seen = set()
    for batch in batches:
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        learnt = base.tokenizer.decode(ids[labels != -100])
        seen.add((base.tokenizer.decode(ids[labels == -100]), learnt))
    decode = base.tokenizer.decode
    assert seen == {
        (decode(Chat(base.tokenizer, ()).encode(row["prompt"])), f"{row['completion'][0]['content']}<|end|>\n")
        for row in rows
    }


def test_a_model_learns_what_was_done_and_its_weights_change(shop, tmp_path):
    recipe = sft.train(shop.data, shop.agent, tmp_path, shop.options(steps=20, lr=2e-2))
    assert losses(recipe)[-1] < 0.7 * losses(recipe)[0]
    assert recipe.report["trained_parameters"] < 0.1 * recipe.report["parameters"]
    assert all((tensor != 0).any() for name, tensor in weights(tmp_path).items() if "lora_B" in name)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_all_weights_can_be_trained(shop, tmp_path):
    recipe = sft.train(shop.data, shop.agent, tmp_path, shop.options(lora_rank=0))
    assert recipe.report["result"] == str(tmp_path)
    assert recipe.report["trained_parameters"] == recipe.report["parameters"]
    assert not same(load(str(tmp_path)).model.state_dict(), load(str(shop.model)).model.state_dict())


def test_the_best_scored_actions_can_be_learnt_instead_of_the_executed(shop, tmp_path):
    executed, top = (
        sft.train(shop.data, shop.agent, tmp_path / best, shop.options(), best=best).report["rows"]["used"]
        for best in ("executed", "top")
    )
    assert executed < top == sum(len(each.choices) for each in ProcessData.read(shop.data).trajectories)


def test_a_policy_without_prompts_is_refused(shop, tmp_path):
    with pytest.raises(CardError, match="no prompt agent"):
        sft.train(shop.data, "lexical", tmp_path, shop.options())
