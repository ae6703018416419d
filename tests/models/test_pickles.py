"""Every loader of models, on folders whose files lead to a pickle. No pickle is opened, not even safely."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from raggym_env import llm  # noqa: E402
from raggym_env.errors import LLMError, RAGGymError, RetrievalError, RewardError  # noqa: E402
from raggym_env.llm.hf.loading import plain_model  # noqa: E402
from raggym_env.models.convert import convert_hub  # noqa: E402
from raggym_env.models.files import UnsafeFiles  # noqa: E402
from raggym_env.retrieval.dense.encoders import Encoder, EncoderOptions  # noqa: E402
from raggym_env.retrieval.dense.rerank import CrossEncoderScorer  # noqa: E402
from raggym_env.rewards.model import ModelReward  # noqa: E402
from tiny_encoders import on_the_hub, tiny_bert, tiny_sentence_transformer  # noqa: E402
from tiny_llm import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """Counts the pickles that torch is asked to open."""
    calls = []
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(args) or {})
    return calls


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """A language model, a classifier and an encoder of sentence-transformers, as they should be."""
    folder = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    classifier = transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(**{**model.config.to_dict(), "num_labels": 1})
    )
    for name, network in (("lm", model), ("classifier", classifier)):
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tiny_sentence_transformer(folder / "encoder", prompts={})
    return folder


LOADERS = {
    "hf": ("lm", lambda path: llm.make(f"hf:{path}", device="cpu"), LLMError),
    "hf, to train": ("lm", plain_model, LLMError),
    "a reward": ("classifier", lambda path: ModelReward(path, device="cpu"), RewardError),
    "an encoder": ("encoder", lambda path: Encoder(EncoderOptions(model=path, device="cpu")), RetrievalError),
    "an encoder of the table": (
        "encoder",
        lambda path: Encoder(EncoderOptions(model=path, device="cpu", like="contriever")),
        RetrievalError,
    ),
    "a reranker": ("classifier", lambda path: CrossEncoderScorer(path, device="cpu"), RetrievalError),
}


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def an_index_of_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_configuration_that_names_a_pickle(folder):
    shutil.copy(folder / "model.safetensors", folder / "evil.bin")
    edit(folder / "config.json", transformers_weights="evil.bin")


def an_adapter_beside_the_weights(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/base"}')
    (folder / "adapter_model.bin").write_bytes(b"pickle")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_healthy_folder_loads_even_beside_pickles(healthy, tmp_path, loader, opened):
    kind, load, _ = LOADERS[loader]
    folder = shutil.copytree(healthy / kind, tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(b"pickle")
    load(str(folder))
    assert opened == []


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "spoil", [only_a_pickle, an_index_of_pickles, a_configuration_that_names_a_pickle, an_adapter_beside_the_weights]
)
def test_no_loader_opens_a_pickle(healthy, tmp_path, loader, spoil, opened):
    kind, load, error = LOADERS[loader]
    folder = shutil.copytree(healthy / kind, tmp_path / "model")
    spoil(folder)
    with pytest.raises(error, match="model") as caught:
        load(str(folder))
    assert isinstance(caught.value, RAGGymError)
    assert opened == []


def test_a_pickle_of_a_module_is_not_opened(healthy, tmp_path, opened):
    folder = shutil.copytree(healthy / "encoder", tmp_path / "model")
    rows = json.loads((folder / "modules.json").read_text())
    rows.append({"idx": 9, "name": "9", "path": "9_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "9_Dense").mkdir()
    config = {"in_features": 16, "out_features": 16, "bias": True, "activation_function": "torch.nn.Identity"}
    (folder / "9_Dense" / "config.json").write_text(json.dumps(config))
    torch.save(
        {"linear.weight": torch.eye(16), "linear.bias": torch.zeros(16)}, folder / "9_Dense" / "pytorch_model.bin"
    )
    with pytest.raises(
        RetrievalError, match=r"9_Dense has no safetensors weights, but pytorch_model\.bin.*save_pretrained"
    ):
        Encoder(EncoderOptions(model=str(folder), device="cpu"))
    assert opened == []


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_that_was_downloaded_from_the_hub_loads_by_its_name(healthy, hub):
    on_the_hub(hub, "owner/name", lambda folder: shutil.copytree(healthy / "lm", folder))
    by_name, by_folder = (llm.make(f"hf:{name}", device="cpu") for name in ("owner/name", healthy / "lm"))
    assert by_name.chat.encode([{"role": "user", "content": "a"}]) == by_folder.chat.encode(
        [{"role": "user", "content": "a"}]
    )
    assert all(map(torch.equal, by_name.model.parameters(), by_folder.model.parameters()))


def test_a_pickle_that_another_program_downloaded_is_not_opened(healthy, hub, tmp_path, opened):
    folder = on_the_hub(hub, "owner/name", lambda folder: shutil.copytree(healthy / "lm", folder))
    only_a_pickle(folder)
    with pytest.raises(LLMError, match="no safetensors weights, but"):
        llm.make("hf:owner/name", device="cpu")
    with pytest.raises(UnsafeFiles, match="no safetensors weights, but"):
        convert_hub("owner/name", tmp_path / "converted")
    assert opened == []


@pytest.mark.parametrize(
    "name", ["a/..", "../b", "a/../b", "owner/.hidden", "https://host/a/b", "a/b/c", "..", "~root/x"]
)
def test_a_name_that_leads_elsewhere_is_no_model(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LLMError, match="not the name of a model on the hub"):
        llm.make(f"hf:{name}", device="cpu")


def test_a_reward_model_whose_adapter_names_no_base_is_one_clear_error(healthy, tmp_path):
    pytest.importorskip("peft")
    from safetensors.torch import save_file

    save_file({"base_model.model.score.weight": torch.zeros(1, 8)}, tmp_path / "adapter_model.safetensors")
    for content in ("[]", "{}", '{"base_model_name_or_path": 7}', "{", "[" * 100_000):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(RewardError):
            ModelReward(str(tmp_path), device="cpu")


def test_a_plain_encoder_without_safetensors_is_refused(tmp_path, opened):
    folder = tiny_bert(tmp_path / "bert", safetensors=False)
    with pytest.raises(RetrievalError, match="no safetensors weights"):
        Encoder(EncoderOptions(model=str(folder), device="cpu", like="contriever"))
    assert opened == []
