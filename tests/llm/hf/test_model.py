"""The engine on a tiny random model, against plain transformers."""

import json
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from raggym_env.core import Usage  # noqa: E402
from raggym_env.errors import LLMError, OptionError  # noqa: E402
from raggym_env.llm import LLM, Sampling, Scorer  # noqa: E402
from raggym_env.llm.hf.batching import uniforms  # noqa: E402
from raggym_env.llm.hf.engine import Sample  # noqa: E402
from raggym_env.llm.hf.model import HFModel, load  # noqa: E402
from tiny_llm import texts, tiny_model, tiny_tokenizer, user  # noqa: E402

pytestmark = pytest.mark.slow

SYSTEM = "You are a careful assistant that answers in a few words."


@pytest.fixture(scope="module")
def tokenizer():
    torch.set_num_threads(1)
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def network(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture
def llm(network, tokenizer):
    return HFModel(network, tokenizer, name="tiny")


def plain(network, llm, prompt, max_tokens):
    ids = torch.tensor([llm.chat.encode(prompt)])
    out = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
    return llm.chat.text(out[0, ids.shape[1] :].tolist(), ())


def full_pass(network, llm, prompt, text):
    prompt, text = llm.chat.encode(prompt), llm.chat.continuation(text)
    with torch.inference_mode():
        logits = torch.log_softmax(network(torch.tensor([prompt + text])).logits[0], dim=-1)
    return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(text))


def total(completions):
    return sum((c.usage for c in completions), Usage())


def test_it_is_a_language_model_and_a_scorer(llm):
    assert isinstance(llm, LLM)
    assert isinstance(llm, Scorer)


@pytest.mark.parametrize("budget", [1, 300, None])
def test_greedy_completions_are_those_of_generate_whatever_the_budget(network, tokenizer, budget):
    llm = HFModel(network, tokenizer, token_budget=budget)
    prompts = [user(text) for text in texts(25)] + [user(text, SYSTEM) for text in texts(15)]

    completions = llm.generate(prompts, Sampling(max_tokens=12))

    assert [c.text for (c,) in completions] == [plain(network, llm, prompt, 12) for prompt in prompts]


def test_completions_that_end_early_do_not_change_the_others(network, llm):
    prompts = [user(text) for text in texts(30)]
    often = {token for text in texts(30) for token in llm.chat.continuation(text)}
    greedy = llm.generate(prompts, Sampling(max_tokens=16))
    llm.chat.eos = frozenset(list(often)[:20])

    ended = llm.generate(prompts, Sampling(max_tokens=16))

    assert {c.finish for (c,) in ended} == {"stop", "length"}
    assert all(long.text.startswith(short.text) for (long,), (short,) in zip(greedy, ended, strict=True))


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_samples_do_not_depend_on_the_rest_of_the_batch(llm, top_p):
    prompts = [user(text) for text in texts(12)] + [user(text, SYSTEM) for text in texts(5)]
    params = Sampling(n=3, temperature=1.0, top_p=top_p, max_tokens=12, seed=4)

    together = llm.generate(prompts, params)

    alone = [llm.generate([prompt], params)[0] for prompt in prompts]
    assert [[(c.text, c.finish) for c in row] for row in together] == [
        [(c.text, c.finish) for c in row] for row in alone
    ]
    assert len({c.text for c in together[0]}) == 3


def test_another_seed_gives_other_samples_and_fewer_samples_the_same_first_ones(llm):
    prompt = [user("Who wrote it?")]
    four = llm.generate(prompt, Sampling(n=4, temperature=1.0, max_tokens=12))[0]

    assert [c.text for c in llm.generate(prompt, Sampling(n=2, temperature=1.0, max_tokens=12))[0]] == [
        c.text for c in four[:2]
    ]
    assert llm.generate(prompt, Sampling(temperature=1.0, max_tokens=12, seed=1))[0][0].text != four[0].text


def test_sampling_follows_the_models_distribution(network, llm):
    params = Sampling(n=400, temperature=1.0, max_tokens=1)
    with torch.inference_mode():
        logits = network(torch.tensor([llm.chat.encode(user("Hm?"))])).logits[0, -1]
    expected = torch.softmax(logits, dim=-1).numpy()

    tokens = llm.chat.encode(user("Hm?"))
    samples = [Sample(uniforms(params.seed, tokens, number, 1), lambda _: False, 1) for number in range(params.n)]
    llm.engine.decode(llm.engine.prefill([tokens]), [samples], params.temperature, params.top_p)
    drawn = np.bincount([sample.tokens[0] for sample in samples], minlength=len(expected)) / params.n

    assert np.abs(drawn - expected).sum() < 0.35  # the total variation of 400 fair draws is far below


def test_a_tiny_top_p_is_greedy(llm):
    prompts = [user(text) for text in texts(6)]
    greedy = llm.generate(prompts, Sampling(max_tokens=8))
    nucleus = llm.generate(prompts, Sampling(temperature=1.0, top_p=1e-6, max_tokens=8))

    assert [c.text for (c,) in nucleus] == [c.text for (c,) in greedy]


def test_a_prompt_is_prefilled_once_for_all_its_samples_and_repetitions(llm):
    prompt = user("What is the capital of France?")
    length = len(llm.chat.encode(prompt))

    first, again = llm.generate([prompt, prompt], Sampling(n=5, temperature=1.0, max_tokens=4))

    assert llm.engine.prefilled == length
    assert [c.text for c in first] == [c.text for c in again]
    cost = total(first)
    assert (cost.calls, cost.prompt_tokens, cost.cached_tokens) == (1, length, 0)
    assert total(again) == Usage(calls=1, prompt_tokens=length, cached_tokens=length)


def test_a_common_prefix_is_prefilled_once_and_counted_as_cached(llm):
    prompts = [user(text, SYSTEM) for text in texts(4)]
    lengths = [len(llm.chat.encode(prompt)) for prompt in prompts]

    cost = total(c for row in llm.generate(prompts, Sampling(max_tokens=2)) for c in row)

    assert cost.prompt_tokens == sum(lengths)
    assert llm.engine.prefilled == cost.prompt_tokens - cost.cached_tokens
    assert cost.cached_tokens >= 3 * len(llm.chat.continuation(SYSTEM))


def test_greedy_decoding_computes_one_of_n(llm):
    completions = llm.generate([user("Why?")], Sampling(n=3, max_tokens=4))[0]

    assert len({c.text for c in completions}) == 1
    assert total(completions).completion_tokens == completions[0].usage.completion_tokens <= 4


def test_a_completion_ends_before_its_stop_text(llm):
    long = llm.generate([user("Tell me.")], Sampling(max_tokens=20))[0][0].text
    stop = next(long[i : i + 2] for i in range(4, len(long)) if "�" not in long[i : i + 2])

    short = llm.generate([user("Tell me.")], Sampling(max_tokens=20, stop=("never", stop)))[0][0]

    assert short.text == long[: long.index(stop)]
    assert short.finish == "stop"


def test_a_prompt_longer_than_the_context_fails_with_the_numbers_and_the_others_do_not(llm):
    long, short = llm.generate([user("x" * 600), user("x")], Sampling(n=2, max_tokens=4))

    assert [c.text for c in long] == ["", ""]
    assert "context of tiny is 512" in long[0].failure
    assert all(c.failure is None for c in short)


def test_a_prompt_that_leaves_little_room_is_completed_as_far_as_there_is_room(llm):
    llm.chat.eos = frozenset()
    prompt = user("x" * (512 - 5 - len(llm.chat.encode(user("")))))

    completion = llm.generate([prompt], Sampling(max_tokens=50))[0][0]

    assert (completion.finish, completion.usage.completion_tokens) == ("length", 5)


def test_scores_are_those_of_a_full_forward_pass(network, llm):
    prompts = [user(text) for text in texts(6)] + [user(text, SYSTEM) for text in texts(3)]
    candidates = [["yes", "", "a longer answer than that", "x"], [], ["no"], *[["a", "b c", "a"]] * 6]

    scores = llm.loglikelihood(prompts, candidates)

    assert [row.shape for row in scores] == [(len(row),) for row in candidates]
    for prompt, row, row_scores in zip(prompts, candidates, scores, strict=True):
        assert row_scores == pytest.approx([full_pass(network, llm, prompt, text) for text in row], abs=1e-3)


def test_scores_per_token_are_means_whatever_the_batch(llm):
    prompts = [user(text) for text in texts(5)]
    candidates = [["yes", "", "a longer answer"]] * 5
    sums = llm.loglikelihood(prompts, candidates)
    means = llm.loglikelihood(prompts, candidates, per_token=True)
    counts = [max(1, len(llm.chat.continuation(text))) for text in candidates[0]]

    assert counts[2] > counts[0] > 1
    for total_row, row in zip(sums, means, strict=True):
        assert row * counts == pytest.approx(total_row, rel=1e-5)


@pytest.mark.parametrize(("rooms", "batches"), [(1, 12), (70, 4), (10_000, 1)])
def test_the_logits_of_continuations_are_bounded_and_their_prefix_is_computed_once(llm, monkeypatch, rooms, batches):
    prompts = [user(text, SYSTEM) for text in texts(12, longest=40)]
    candidates = [["yes", "no, or so", "x" * (1 + number)] for number in range(12)]
    whole = HFModel(llm.model, llm.chat.tokenizer).loglikelihood(prompts, candidates)
    vocabulary = llm.model.config.vocab_size
    monkeypatch.setattr("raggym_env.llm.hf.model._LOGITS", rooms * vocabulary)
    branches, sizes = llm.engine._branches, []

    def counted(prompts, rows):
        sizes.append(len(rows) * max(sum(map(len, row)) for row in rows))
        return branches(prompts, rows)

    llm.engine._branches = counted
    scores = llm.loglikelihood(prompts, candidates)

    assert all(size <= max(rooms, 30) for size in sizes)  # a single prompt has as many as it needs
    assert len(sizes) == batches
    for row, expected in zip(scores, whole, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)
    lengths = [len(llm.chat.encode(prompt)) for prompt in prompts]
    assert llm.engine.prefilled <= sum(lengths) - 11 * len(llm.chat.continuation(SYSTEM))


def test_a_prompt_is_prefilled_once_for_all_its_continuations(llm):
    prompt = user("Which is better?")

    llm.loglikelihood([prompt, prompt], [["this", "that"], ["those"]])

    assert llm.engine.prefilled == len(llm.chat.encode(prompt))


def test_scoring_beyond_the_context_is_an_error_never_a_zero(llm):
    with pytest.raises(LLMError, match="context of tiny is 512"):
        llm.loglikelihood([user("x")], [["y" * 600]])


def test_running_out_of_memory_halves_the_batch_and_changes_no_completion(network, tokenizer, caplog):
    prompts = [user(text) for text in texts(8)]
    expected = HFModel(network, tokenizer).generate(prompts, Sampling(max_tokens=6))
    llm = HFModel(network, tokenizer)
    short_of_memory(llm, rows=2)

    with caplog.at_level(logging.WARNING):
        completions = llm.generate(prompts, Sampling(max_tokens=6))

    assert [c.text for (c,) in completions] == [c.text for (c,) in expected]
    assert llm.token_budget < HFModel(network, tokenizer).token_budget
    assert "out of memory" in caplog.text


def test_a_prompt_too_large_by_itself_fails_alone(llm):
    short_of_memory(llm, rows=0)

    assert "out of memory" in llm.generate([user("a"), user("b")], Sampling(max_tokens=2))[1][0].failure


def test_without_memory_for_a_common_prefix_every_prompt_is_computed_whole(network, tokenizer, llm):
    prompts = [user(text, SYSTEM) for text in texts(3)]
    expected = HFModel(network, tokenizer).generate(prompts, Sampling(max_tokens=4))

    def prefix(tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    llm.engine.prefix = prefix
    completions = llm.generate(prompts, Sampling(max_tokens=4))

    assert [c.text for (c,) in completions] == [c.text for (c,) in expected]
    assert total(c for row in completions for c in row).cached_tokens == 0


def short_of_memory(llm, rows):
    prefill = llm.engine.prefill

    def limited(suffixes, prefix=None):
        if len(suffixes) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prefill(suffixes, prefix)

    llm.engine.prefill = limited


def test_a_model_whose_layers_ignore_masks_is_refused(tokenizer):
    network = tiny_model(tokenizer)
    network.config.layer_types = ["full_attention", "linear_attention"]

    with pytest.raises(LLMError, match=r"linear_attention.*openai:"):
        HFModel(network, tokenizer)


def test_no_prompts_give_no_completions(llm):
    assert llm.generate([], Sampling()) == []
    assert llm.loglikelihood([], []) == []


def test_a_saved_folder_is_loaded_and_gives_the_same_completions(network, tokenizer, llm, tmp_path):
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu", dtype="float32")

    prompt = [user("Is it the same?")]
    assert (
        loaded.generate(prompt, Sampling(max_tokens=8))[0][0].text
        == llm.generate(prompt, Sampling(max_tokens=8))[0][0].text
    )


def test_the_error_for_a_missing_model_says_what_was_tried_and_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(LLMError, match=r"smollm2.*raggym models get.*config\.json.*hub"):
        load("nobody/no-such-model")
    with pytest.raises(LLMError, match="raggym models get smollm2"):
        load("smollm2")


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "odd", "auto_map": {"AutoConfig": "odd.C", "AutoModelForCausalLM": "odd.M"}})
    )
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    with pytest.raises(LLMError, match="cannot be loaded"):
        load(str(tmp_path), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [{"device": "nowhere"}, {"dtype": "int3"}])
def test_a_wrong_device_or_dtype_is_refused_by_name(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        load("smollm2", **options)


def test_a_token_budget_below_one_is_refused(network, tokenizer):
    with pytest.raises(OptionError, match="token_budget must be at least 1, got 0"):
        HFModel(network, tokenizer, token_budget=0)
