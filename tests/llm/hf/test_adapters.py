"""LoRA adapters are located, checked and merged; models are loaded for training."""

import json
import shutil
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from transformers import LlamaForCausalLM  # noqa: E402

from raggym_env import policies  # noqa: E402
from raggym_env.core import Question, State  # noqa: E402
from raggym_env.errors import LLMError, MissingExtra, OptionError  # noqa: E402
from raggym_env.llm import Sampling, make  # noqa: E402
from raggym_env.llm.hf.adapters import split_name  # noqa: E402
from raggym_env.llm.hf.chat import Chat, plain_template  # noqa: E402
from raggym_env.llm.hf.loading import load_parts, plain_model  # noqa: E402
from raggym_env.llm.hf.names import check_name  # noqa: E402
from raggym_env.models import catalogue  # noqa: E402
from raggym_env.models.convert import unquantised  # noqa: E402
from tiny_encoders import on_the_hub  # noqa: E402
from tiny_llm import tiny_model, tiny_tokenizer, user  # noqa: E402

pytestmark = pytest.mark.slow

# PEFT reads an attribute of transformers by a name that its newest version deprecates.
RENAMED = "is_gradient_checkpointing. is deprecated"
IDS = torch.tensor([[5, 9, 2, 40, 17, 100, 3]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model in float32."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def configured(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def lora(network, folder, *, scale=0.3, layers=("q_proj", "down_proj")):
    """Saves an adapter with random weights, and returns the network with it, unmerged."""
    config = peft.LoraConfig(r=4, target_modules=list(layers), task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{RENAMED}", FutureWarning)
        wrapped = peft.get_peft_model(network, config)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weights in wrapped.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=scale)
    wrapped.save_pretrained(folder)
    configured(base_model_name_or_path="nobody/has-it")(folder)
    return wrapped.eval()


@pytest.fixture
def adapter(base, tmp_path):
    folder = tmp_path / "adapter"
    return folder, lora(tiny_model(tiny_tokenizer()), folder)


def logits(network):
    with torch.inference_mode():
        return network(IDS).logits.float()


def test_a_merged_adapter_gives_the_logits_of_the_unmerged_one(base, adapter):
    folder, unmerged = adapter
    model, _ = load_parts(f"{base}+{folder}", "cpu", "float32")

    torch.testing.assert_close(logits(model), logits(unmerged), atol=1e-4, rtol=0)
    assert not torch.allclose(logits(model), logits(load_parts(str(base), "cpu", "float32")[0]), atol=1e-2)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not [name for name, _ in model.named_modules() if "lora" in name]


def test_weights_are_added_in_float32_and_rounded_once(base, adapter):
    name = f"{base}+{adapter[0]}"
    rounded = load_parts(name, "cpu", "bfloat16")[0].state_dict()

    for key, weights in load_parts(name, "cpu", "float32")[0].state_dict().items():
        assert rounded[key].dtype == torch.bfloat16
        assert torch.equal(rounded[key], weights.to(torch.bfloat16)), key


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an installed `raggym_env_adapters`, which would fail if it were imported."""
    folder = tmp_path / "site" / "raggym_env_adapters"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_an_installed_adapter_is_named_and_a_folder_of_that_name_comes_first(
    base, adapter, package, tmp_path, monkeypatch
):
    shutil.copytree(adapter[0], package / "search-agent")
    monkeypatch.chdir(tmp_path)
    model, _ = load_parts(f"{base}+search-agent", "cpu", "float32")
    torch.testing.assert_close(logits(model), logits(adapter[1]), atol=1e-4, rtol=0)

    (tmp_path / "search-agent").mkdir()
    with pytest.raises(LLMError, match=r"has no adapter_config\.json"):
        load_parts(f"{base}+search-agent")
    with pytest.raises(LLMError, match=r"nor an adapter of the catalogue \(compact-hotpotqa, search-agent\)"):
        load_parts(f"{base}+serch-agent")


def test_the_error_for_an_adapter_that_is_not_installed_says_how_to_get_it(base, monkeypatch):
    monkeypatch.setattr(catalogue, "adapters", dict)

    with pytest.raises(LLMError, match=r"pip install raggym-env-adapters, or in a checkout: .* \./adapters"):
        load_parts(f"{base}+compact-hotpotqa")


def without(folder, file):
    (folder / file).unlink()


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: without(folder, "adapter_config.json"), r"has no adapter_config\.json"),
        (lambda folder: without(folder, "adapter_model.safetensors"), r"has no adapter_model\.safetensors"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "peft_type None"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "damaged"),
        (pickled, "is a pickle and could run any code"),
        (configured(peft_type="IA3"), "Only LoRA adapters can be merged"),
        (configured(r=8), "does not fit"),
        (configured(target_modules=["no_such_layer"]), "does not fit"),
        (configured(target_modules=["q_proj"]), "4 have no place in the model"),
        (configured(target_modules=["q_proj", "down_proj", "up_proj"]), "4 that the model needs are not in it"),
    ],
)
def test_a_folder_that_is_no_valid_adapter_is_one_clear_error(base, adapter, spoil, message):
    spoil(adapter[0])

    with pytest.raises(LLMError, match=message):
        load_parts(f"{base}+{adapter[0]}")


def test_an_adapter_of_another_model_is_refused(base, tmp_path):
    config = tiny_model(tiny_tokenizer()).config
    config.intermediate_size = 32
    lora(LlamaForCausalLM(config), tmp_path)

    with pytest.raises(LLMError, match="does not fit the model of"):
        load_parts(f"{base}+{tmp_path}")


def test_a_model_takes_one_adapter_at_most(adapter):
    with pytest.raises(OptionError, match="one adapter at most"):
        make(f"hf:smollm2+{adapter[0]}+{adapter[0]}")
    for name in ("smollm2+", "+lora"):
        with pytest.raises(OptionError, match=r"named like MODEL\+ADAPTER"):
            make(f"hf:{name}")


def test_a_path_may_contain_a_plus(tmp_path):
    (tmp_path / "a+b").mkdir()

    assert split_name(str(tmp_path / "a+b")) == (str(tmp_path / "a+b"), None)
    assert split_name(f"smollm2+{tmp_path / 'a+b'}") == ("smollm2", str(tmp_path / "a+b"))


def test_without_peft_the_error_names_the_extra(base, adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(MissingExtra, match=r"pip install .*\[train\]"):
        load_parts(f"{base}+{adapter[0]}")


def test_a_plain_model_can_be_trained_saved_and_given_an_adapter(base, adapter, tmp_path):
    model, tokenizer = plain_model(f"{base}+{adapter[0]}")

    assert all(weights.requires_grad and weights.dtype == torch.float32 for weights in model.parameters())
    assert model.config.use_cache
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    model(IDS, labels=IDS).loss.backward()
    assert all(weights.grad is not None for weights in model.parameters())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{RENAMED}", FutureWarning)
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    torch.testing.assert_close(logits(load_parts(str(tmp_path / "saved"), "cpu", "float32")[0]), logits(adapter[1]))


def test_a_model_read_from_gguf_is_copied_into_a_plain_one(base, tmp_path):
    read, _ = load_parts(str(base), "cpu", "float32")
    expected = logits(read)
    read.config.quantization_config = {"quant_method": "gguf"}
    plain = unquantised(read, torch.float32)

    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    torch.testing.assert_close(logits(load_parts(str(tmp_path), "cpu", "float32")[0]), expected)


def test_quantised_weights_are_refused_for_training(base, monkeypatch):
    read, tokenizer = load_parts(str(base), "cpu", "float32")
    read.config.quantization_config = {"quant_method": "gptq"}
    monkeypatch.setattr("raggym_env.llm.hf.loading.read_model", lambda *args, **options: (read, tokenizer))

    with pytest.raises(LLMError, match="quantised and cannot be trained"):
        plain_model(str(base))


def test_a_tokenizer_without_a_template_gets_that_of_prompts(tmp_path):
    tokenizer = tiny_tokenizer(template=None)
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, complete = plain_model(str(tmp_path))
    chat = user("Why?", system="Be brief.")

    rendered = complete.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert rendered == plain_template(chat)
    assert Chat(complete, ()).encode(chat) == Chat(tokenizer, ()).encode(chat)
    answered = [*chat, {"role": "assistant", "content": "So."}]
    assert complete.apply_chat_template(answered, tokenize=False).endswith("Assistant: So.<|end|>\n\n")


def test_an_adapter_of_zeros_on_the_real_model_changes_nothing(small_model, tmp_path):
    base = make(f"hf:{small_model}", device="cpu", dtype="float32")
    prompt = [user("What is the capital of France?")]
    expected = base.generate(prompt, Sampling(max_tokens=8))[0][0].text
    lora(base.model, tmp_path, scale=0.0, layers=("q_proj", "v_proj"))

    with_adapter = make(f"hf:{small_model}+{tmp_path}", device="cpu", dtype="float32")
    assert with_adapter.generate(prompt, Sampling(max_tokens=8))[0][0].text == expected != ""


def test_compact_hotpotqa_makes_the_small_model_write_actions(small_model):
    state = State(Question("q", "In which city was the director of the film Dawn born?"), (), 3)
    replies = []
    for spec in (f"hf:{small_model}", f"hf:{small_model}+compact-hotpotqa"):
        ((proposal,),) = policies.make("compact", llm=spec).propose([state])
        replies.append(proposal.text)
    assert not replies[0].startswith("{")
    assert json.loads(replies[1]).keys() == {"search"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache, empty, on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_an_adapter_of_the_hub_is_named_by_its_owner_and_name_and_a_folder_comes_first(
    base, adapter, hub, tmp_path, monkeypatch
):
    on_the_hub(hub, "Some-Owner/ReAct.v1-SFT", lambda folder: shutil.copytree(adapter[0], folder))
    name = f"{base}+Some-Owner/ReAct.v1-SFT"
    torch.testing.assert_close(logits(load_parts(name, "cpu", "float32")[0]), logits(adapter[1]), atol=1e-4, rtol=0)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "Some-Owner" / "ReAct.v1-SFT").mkdir(parents=True)
    with pytest.raises(LLMError, match=r"has no adapter_config\.json"):
        load_parts(name)


def test_what_is_on_the_hub_is_not_looked_up_before_a_run_and_is_an_error_in_it(base, hub):
    name = f"{base}+owner/missing"
    check_name(name)
    with pytest.raises(LLMError, match=r"No adapter 'owner/missing'.*hf download owner/missing"):
        load_parts(name)
    with pytest.raises(LLMError, match="neither a folder nor an adapter"):
        check_name(f"{base}+missing")


def test_an_adapter_that_would_import_a_module_is_refused(base, adapter):
    configured(megatron_config={}, megatron_core="antigravity")(adapter[0])
    with pytest.raises(LLMError, match="Megatron"):
        load_parts(f"{base}+{adapter[0]}")
    assert "antigravity" not in sys.modules
