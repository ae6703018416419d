"""The engine below the back end: outputs after shared prefixes, with and without a language-model head."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raggym_env.llm.hf.engine import Engine, unsupported  # noqa: E402
from tiny_llm import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.slow

PROMPTS = [tuple(range(10, 60)), tuple(range(100, 140))]
BRANCHES = [[(1, 2, 3), (4,), (5, 6)], [(7, 8, 9, 10)]]


@torch.inference_mode()
def last_output(model, tokens):
    output = model(input_ids=torch.tensor([tokens]))
    return (output.logits if "logits" in output else output.last_hidden_state)[0, -1]


@pytest.fixture(scope="module", params=["language model", "base of a classifier"])
def model(request):
    network = tiny_model(tiny_tokenizer())
    if request.param == "language model":
        return network
    torch.manual_seed(0)
    return transformers.LlamaForSequenceClassification(network.config).eval().base_model


def test_the_outputs_at_the_ends_of_branches_are_those_of_whole_sequences(model):
    engine = Engine(model, 1000, headless=not hasattr(model, "lm_head"))
    ends = engine.branch_ends(engine.prefill(PROMPTS), BRANCHES)

    assert engine.prefilled == sum(map(len, PROMPTS))
    for prompt, branches, outputs in zip(PROMPTS, BRANCHES, ends, strict=True):
        assert len(outputs) == len(branches)
        for branch, output in zip(branches, outputs, strict=True):
            torch.testing.assert_close(output, last_output(model, prompt + branch), atol=1e-3, rtol=0)


def test_a_model_without_a_language_model_head_is_supported_as_a_headless_one_only():
    base = tiny_model(tiny_tokenizer()).base_model

    assert unsupported(base) == {"logits_to_keep"}
    assert unsupported(base, headless=True) == set()
