import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

import datasets  # noqa: E402
from trl.trainer import utils as trl_utils  # noqa: E402

from raggym_env.training import train_dpo, train_prm, train_sft  # noqa: E402
from raggym_env.training.process_data.prompts import Renderer  # noqa: E402
from raggym_env.training.process_data.rows import sft_rows  # noqa: E402
from raggym_env.training.trl.config import lora_config, trl, trl_config  # noqa: E402
from raggym_env.training.trl.fit import ProcessData, make_trainer  # noqa: E402
from raggym_env.training.trl.lm import load, quiet  # noqa: E402
from raggym_env.training.trl.passes import passes  # noqa: E402
from raggym_env.training.trl.recipe import Recipe  # noqa: E402
from trained import losses, same, weights, write_workshop  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


@given(st.lists(st.integers(1, 900), max_size=40), st.integers(1, 4000))
def test_every_row_is_in_one_pass_and_no_pass_exceeds_the_budget(lengths, budget):
    parts = passes(lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        padded = len(part) * max(lengths[row] for row in part)
        assert padded <= budget or len(part) == 1
    assert passes(lengths, budget) == parts


def sft_trainer(shop, folder, kind=None):
    base = load(str(shop.model))
    rows = [base.row(row) for row in sft_rows(ProcessData.read(shop.data).trajectories, Renderer(shop.agent))]
    config = shop.config().with_defaults(learning_rate=1.0, batch_size=1)
    args = trl_config("SFTConfig", config, folder, max_length=None, completion_only_loss=True)
    with quiet():
        torch.manual_seed(0)
        if kind is None:
            return make_trainer("SFTTrainer", base, lora_config(config), args, rows)
        dataset = datasets.Dataset.from_list(rows)
        return kind(
            base.model, args, train_dataset=dataset, processing_class=base.tokenizer, peft_config=lora_config(config)
        )


def loss_and_gradient(trainer):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat(
        [tensor.grad.flatten() for tensor in trainer.model.parameters() if tensor.requires_grad]
    )


def test_logits_are_computed_at_labels_alone_and_the_loss_is_that_of_trl(shop, tmp_path, monkeypatch):
    sizes = []
    fused = trl_utils._ChunkedLogProbFunction

    class Spy:
        @staticmethod
        def apply(hidden, *rest):
            sizes.append(hidden.shape[0])
            return fused.apply(hidden, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Spy)
    ours, plain = sft_trainer(shop, tmp_path), sft_trainer(shop, tmp_path, trl.SFTTrainer)
    loss, gradient = loss_and_gradient(ours)
    expected_loss, expected_gradient = loss_and_gradient(plain)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
    batch = ours.data_collator([ours.train_dataset[row] for row in range(4)])
    assert sizes == [(batch["labels"] != -100).sum(), batch["labels"][:, 1:].numel()]
    for metric in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert ours._metrics["train"][metric] == pytest.approx(plain._metrics["train"][metric], abs=1e-4)


@pytest.mark.parametrize("train", [train_sft, train_dpo, train_prm])
def test_passes_of_bounded_tokens_train_the_same_model(train, shop, tmp_path):
    agent = {} if train is train_prm else {"agent": shop.agent}
    options = {"max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-3}
    whole = train(shop.data, tmp_path / "whole", **agent, config=shop.config(**options))
    split = train(shop.data, tmp_path / "split", **agent, config=shop.config(**options, tokens_per_batch=400))
    assert losses(split) == pytest.approx(losses(whole), abs=1e-4)
    assert almost_same(tmp_path / "whole", tmp_path / "split")


def almost_same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)


def test_metrics_are_means_over_rows_not_over_passes(shop, tmp_path):
    options = {"max_steps": 2, "per_device_train_batch_size": 5, "learning_rate": 1e-4}
    whole, split = (
        train_dpo(shop.data, tmp_path / name, agent=shop.agent, config=shop.config(**options, **more))
        for name, more in (("whole", {}), ("split", {"tokens_per_batch": 1100}))
    )
    for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "num_tokens"):
        one, other = ([entry[name] for entry in recipe.report["log"]] for recipe in (whole, split))
        assert one == pytest.approx(other, abs=1e-3), name


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 0}, {"trl": {"precompute_ref_log_probs": True}}])
@pytest.mark.parametrize("train", [train_sft, train_dpo])
def test_sharing_tokens_trains_the_same_model(train, changes, shop, tmp_path):
    if train is train_sft and "trl" in changes:
        pytest.skip("SFT has no reference")
    options = {"max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-3, **changes}
    whole = train(shop.data, tmp_path / "whole", agent=shop.agent, config=shop.config(**options))
    options |= {"tokens_per_batch": 400, "share_prefix": True}
    shared = train(shop.data, tmp_path / "shared", agent=shop.agent, config=shop.config(**options))
    assert losses(shared) == pytest.approx(losses(whole), abs=1e-4)
    assert almost_same(tmp_path / "whole", tmp_path / "shared")
    assert shared.config["options"]["share_prefix"] is True


@pytest.mark.parametrize("option", [{"tokens_per_batch": 400}, {"share_prefix": True}])
@pytest.mark.parametrize("train", [train_sft, train_dpo])
def test_bfloat16_trains_nearly_the_same_model(train, option, shop, tmp_path):
    options = {"max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-3}
    exact = train(shop.data, tmp_path / "exact", agent=shop.agent, config=shop.config(**options))
    options |= {"dtype": "bfloat16", **option}
    rounded = train(shop.data, tmp_path / "rounded", agent=shop.agent, config=shop.config(**options))
    assert losses(rounded) == pytest.approx(losses(exact), rel=0.15)


def test_sharing_tokens_keeps_the_reference_of_a_continued_adapter(shop, tmp_path):
    train_sft(shop.data, tmp_path / "sft", agent=shop.agent, config=shop.config(max_steps=6))
    model = f"{shop.model}+{tmp_path / 'sft'}"
    options = {"max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-3}
    whole = train_dpo(shop.data, tmp_path / "whole", agent=shop.agent, config=shop.config(model, **options))
    shared = train_dpo(
        shop.data, tmp_path / "shared", agent=shop.agent, config=shop.config(model, **options, share_prefix=True)
    )
    for name in ("loss", "rewards/chosen", "rewards/margins"):
        one, other = ([entry[name] for entry in recipe.report["log"]] for recipe in (whole, shared))
        assert one == pytest.approx(other, abs=1e-3)
    assert almost_same(tmp_path / "whole", tmp_path / "shared")
    assert shared.config["options"]["tokens_per_batch"] == 2048


def test_no_pass_has_more_tokens_than_the_budget(shop, tmp_path, monkeypatch):
    shapes = []
    forward = trl.SFTTrainer.compute_loss

    def spy(self, model, inputs, **kwargs):
        shapes.append(tuple(inputs["input_ids"].shape))
        assert inputs["attention_mask"].any(0).all()  # no column is padding alone
        return forward(self, model, inputs, **kwargs)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", spy)
    config = shop.config(per_device_train_batch_size=None, tokens_per_batch=600)
    recipe = train_sft(shop.data, tmp_path, agent=shop.agent, config=config)
    assert all(rows * length <= 600 or rows == 1 for rows, length in shapes)
    assert max(rows for rows, _ in shapes) > 1
    assert recipe.config["options"]["per_device_train_batch_size"] == 16
    assert recipe.config["options"]["tokens_per_batch"] == 600


@pytest.mark.parametrize("share", [False, True])
def test_an_interrupted_training_in_passes_ends_with_the_same_weights(share, shop, tmp_path):
    options = {"per_device_train_batch_size": 3, "tokens_per_batch": 500, "share_prefix": share}
    config = shop.config(max_steps=6, save_steps=1, **options)
    options = {"agent": shop.agent, "config": config}
    train_sft(shop.data, tmp_path / "whole", **options)

    def killed(stage, done, total, info):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(shop.data, tmp_path / "cut", **options, progress=killed)
    recipe = train_sft(shop.data, tmp_path / "cut", **options)
    assert losses(recipe) == losses(Recipe.read(tmp_path / "whole"))
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
