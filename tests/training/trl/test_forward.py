import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)
from trl.trainer import utils as trl_utils  # noqa: E402

from raggym_env.errors import LLMError  # noqa: E402
from raggym_env.training.trl import packing  # noqa: E402
from raggym_env.training.trl.forward import LabelForward, _forks, shared_prefix  # noqa: E402

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral with a window": MistralConfig(**SIZES, sliding_window=7),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=7, layer_types=["sliding_attention", "full_attention"] * 2),
}
PREFIX = list(range(11, 24))


def fused_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    trl_utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def padded(rows):
    """Return a batch of (prompt, reply) pairs of token lists."""
    length = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids, mask, labels = [], [], []
    for prompt, reply in rows:
        pad = length - len(prompt) - len(reply)
        ids.append(prompt + reply + [0] * pad)
        mask.append([1] * (length - pad) + [0] * pad)
        labels.append([-100] * len(prompt) + reply + [-100] * pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def text(rng, low, high):
    return [rng.randrange(24, 60) for _ in range(rng.randint(low, high))]


def single_rows(rng):
    return [(PREFIX + text(rng, 1, 20), text(rng, 1, 6)) for _ in range(5)]


def pair_rows(rng, prefix=PREFIX):
    prompts = [prefix + text(rng, 1, 20) for _ in range(4)]
    shared = [text(rng, 0, 3) for _ in prompts]  # replies often begin alike
    return [(prompt, start + text(rng, 1, 6)) for _ in range(2) for prompt, start in zip(prompts, shared, strict=True)]


def result(model, batch):
    """Return the output of the fused head, and the gradient of a loss over it."""
    output = model(**batch, fused_lm_head=True)
    model.zero_grad()
    (output.log_probs.sum(1) * torch.arange(1, len(output.log_probs) + 1)).sum().backward()
    return output


def gradients(model):
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pairs", [False, True])
def test_scores_and_gradients_are_those_of_every_row_on_its_own(name, pairs):
    for seed in range(3):
        rng = random.Random(seed)
        batch = padded(pair_rows(rng) if pairs else single_rows(rng))
        model = fused_model(CONFIGS[name])
        expected, expected_gradients = result(model, batch), gradients(model)
        forward = LabelForward(model, PREFIX, pairs=pairs)
        output = result(model, batch)
        forward.end_batch(backward=True)
        for field in ("log_probs", "entropy", "mean_logits"):
            one, other = getattr(output, field), getattr(expected, field)
            assert torch.allclose(one, other * expected.label_mask, atol=1e-4)
        assert torch.equal(output.is_top1, expected.is_top1)
        assert torch.equal(output.label_mask, expected.label_mask)
        for parameter, tensor in gradients(model).items():
            assert torch.allclose(tensor, expected_gradients[parameter], atol=2e-3, rtol=1e-3), parameter


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("products", [False, True])
def test_packed_rows_have_the_scores_and_gradients_of_every_row_on_its_own(name, pairs, products, monkeypatch):
    monkeypatch.setattr(packing, "_BY_PRODUCTS", {torch.float32} if products else set())
    for seed in range(3):
        rng = random.Random(seed)
        batch = padded(pair_rows(rng) if pairs else single_rows(rng))
        model = fused_model(CONFIGS[name])
        expected, expected_gradients = result(model, batch), gradients(model)
        forward = LabelForward(model, pairs=pairs, pack=True)
        assert forward.packs == (name in ("llama", "qwen2"))
        assert forward.pairs == (pairs and forward.packs)
        output = result(model, batch)
        assert torch.allclose(output.log_probs, expected.log_probs * expected.label_mask, atol=1e-4)
        assert torch.equal(output.label_mask, expected.label_mask)
        for parameter, tensor in gradients(model).items():
            assert torch.allclose(tensor, expected_gradients[parameter], atol=2e-3, rtol=1e-3), parameter


@pytest.mark.parametrize("config", [MambaConfig, GPT2Config, BloomConfig])
def test_other_architectures_are_packed_only_where_the_scores_stay_the_same(config):
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "n_head": 4}
    if config is MambaConfig:
        sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model, batch = fused_model(config(**sizes)).eval(), padded(pair_rows(random.Random(3)))
    expected = result(model, batch).log_probs
    LabelForward(model, pairs=True, pack=True)
    mask = batch["labels"][:, 1:] != -100
    assert torch.allclose(result(model, batch).log_probs[mask], expected[mask], atol=1e-4)


def test_packed_rows_are_one_sequence_without_padding_and_a_pair_has_its_prompt_once():
    rows = pair_rows(random.Random(1))
    batch = padded(rows)
    model = fused_model(CONFIGS["llama"])
    LabelForward(model, pairs=True, pack=True)
    seen = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    model(**batch, fused_lm_head=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert seen[0].shape == (1, int(mask.sum() - _forks(ids, mask).sum()))


def test_a_model_that_hands_on_no_segments_is_not_packed(monkeypatch):
    attend = packing._attend
    monkeypatch.setattr(packing, "_attend", lambda *args, segments=None, **options: attend(*args, **options))
    model = fused_model(CONFIGS["llama"])
    assert not LabelForward(model, pairs=True, pack=True).packs
    batch = padded(pair_rows(random.Random(2)))
    expected = result(fused_model(CONFIGS["llama"]), batch)
    assert torch.allclose(result(model, batch).log_probs, expected.log_probs, atol=1e-5)


def test_a_batch_in_parts_computes_the_prefix_once_and_has_the_same_gradient():
    rng = random.Random(0)
    parts = [padded(single_rows(rng)) for _ in range(3)]
    model = fused_model(CONFIGS["llama"])
    sizes = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )

    def train():
        model.zero_grad()
        for batch in parts:
            (-model(**batch, fused_lm_head=True).log_probs.sum()).backward()

    train()
    expected = gradients(model)
    assert sizes == [batch["input_ids"].numel() for batch in parts]
    forward = LabelForward(model, PREFIX)
    sizes.clear()
    train()
    forward.end_batch(backward=True)
    assert sizes == [len(PREFIX), *(batch["input_ids"][:, len(PREFIX) :].numel() for batch in parts)]
    assert all(torch.allclose(gradients(model)[name], expected[name], atol=2e-3, rtol=1e-3) for name in expected)
    forward.end_batch(backward=True)  # nothing is left of it
    assert all(torch.allclose(gradients(model)[name], expected[name], atol=2e-3, rtol=1e-3) for name in expected)


def test_the_prefix_is_computed_again_once_weights_have_changed():
    batch = padded(single_rows(random.Random(0)))
    model, plain = fused_model(CONFIGS["llama"]), fused_model(CONFIGS["llama"])
    forward = LabelForward(model, PREFIX)
    for _ in range(3):
        outputs = [result(each, batch) for each in (model, plain)]
        forward.end_batch(backward=True)
        for each in (model, plain):
            torch.optim.SGD(each.parameters(), lr=1e-4).step()
    losses = [output.log_probs.sum().item() for output in outputs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(model(**batch, fused_lm_head=True).log_probs.sum().item(), rel=1e-2)


def test_both_replies_of_a_pair_follow_one_prompt():
    rng = random.Random(1)
    batch = padded(pair_rows(rng, prefix=[]))
    model = fused_model(CONFIGS["llama"])
    forward = LabelForward(model, pairs=True)
    sizes = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    added, width = forward.lengths(batch, 2)
    model(**batch, fused_lm_head=True)
    assert width == 1
    assert sizes == [(4, max(added))]
    assert max(added) < 2 * batch["input_ids"].shape[1]
    singles, width = LabelForward(fused_model(CONFIGS["gemma3"]), pairs=True).lengths(batch, 2)
    assert width == 2  # with sliding windows only the prefix is shared
    assert max(singles) == batch["attention_mask"].sum(1).max()


def test_rows_that_begin_otherwise_are_computed_whole():
    batch = padded([([1, *prompt[1:]], reply) for prompt, reply in single_rows(random.Random(0))])
    model = fused_model(CONFIGS["llama"])
    expected = model(**batch, fused_lm_head=True).log_probs
    LabelForward(model, PREFIX)
    assert torch.allclose(model(**batch, fused_lm_head=True).log_probs, expected, atol=1e-4)


def test_other_calls_and_generation_are_those_of_the_model():
    batch = padded(single_rows(random.Random(0)))
    model = fused_model(CONFIGS["llama"]).eval()
    with torch.no_grad():
        expected = model(**batch)
        written = model.generate(batch["input_ids"][:1, :14], max_new_tokens=5, do_sample=False)
        LabelForward(model, PREFIX)
        assert torch.equal(model(**batch).logits, expected.logits)
        assert torch.equal(model(**batch).loss, expected.loss)
        assert torch.equal(model.generate(batch["input_ids"][:1, :14], max_new_tokens=5, do_sample=False), written)


def test_a_model_without_keys_and_values_is_refused():
    config = MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(LLMError, match="share_prefix needs a model whose cache is keys and values"):
        LabelForward(fused_model(config), PREFIX)


def test_the_prefix_ends_before_the_last_token_of_a_prompt():
    rows = [{"prompt_ids": [1, 2, 3, 4]}, {"prompt_ids": [1, 2, 3, 5, 6]}, {"prompt_ids": [1, 2, 3, 9]}]
    assert shared_prefix(rows) == [1, 2, 3]
    assert shared_prefix([*rows, {"prompt_ids": [1, 2, 3]}]) == [1, 2]
    assert shared_prefix(rows[:1]) == [1, 2, 3]
    assert shared_prefix([*rows, {"prompt_ids": [7]}]) == []
    assert shared_prefix([{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}]) == [1]
