"""Parity on a real model and real prompts. Needs `raggym models get smollm2`, and reads the user's cache."""

import json

import pytest

from raggym_env.llm import Sampling

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llm(small_model):
    from raggym_env.llm.hf.model import load

    return load(str(small_model), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts(real_data):
    rows = json.loads((real_data / "hotpotqa" / "hotpot_dev_distractor_v1.json").read_text(encoding="utf-8"))[:8]
    return [
        [
            {"role": "system", "content": "Answer the question from the passage, in a few words, as a JSON object."},
            {"role": "user", "content": f"{''.join(row['context'][0][1][:2])}\n\nQuestion: {row['question']}"},
        ]
        for row in rows
    ]


def test_greedy_tokens_on_real_prompts_are_those_of_generate(llm, prompts):
    torch = pytest.importorskip("torch")
    completions = llm.generate(prompts, Sampling(max_tokens=8))

    for prompt, (completion,) in zip(prompts, completions, strict=True):
        ids = torch.tensor([llm.chat.encode(prompt)])
        out = llm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert completion.text == llm.chat.text(out[0, ids.shape[1] :].tolist(), ())


def test_a_real_model_answers_a_real_question(llm):
    prompt = [{"role": "user", "content": "What is the capital of France?"}]

    assert "Paris" in llm.generate([prompt], Sampling(max_tokens=12))[0][0].text
