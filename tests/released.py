"""The RAG-Gym authors' released models in miniature: LoRA adapters on the hub, laid out as theirs, of a tiny Llama."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import peft
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tiny_encoders import on_the_hub
from tiny_llm import tiny_model, tiny_tokenizer

BASE = "meta-llama/Meta-Llama-3.1-8B-Instruct"
AGENTS = {
    "direct": "Direct",
    "cot": "CoT",
    "rag": "RAG",
    "react": "ReAct",
    "search_o1": "Search-o1",
    "research": "ReSearch",
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that pads with the token that ends a turn, as training of the released models did."""
    made = tiny_tokenizer()
    made.pad_token = made.eos_token
    return made


def base_on_the_hub(cache: Path, context: int = 8_192) -> Path:
    """Put the base model into the hub's cache."""

    def save(folder: Path) -> Path:
        model = tiny_model(tiny_tokenizer(), context=context)
        # Llama 3.1's configuration names no padding token.
        model.config.pad_token_id = model.generation_config.pad_token_id = None
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return on_the_hub(cache, BASE, save)


def adapter_on_the_hub(cache: Path, name: str, base: Path, *, seed: int = 1) -> Path:
    """Put an actor (SFT, DPO) or a critic (PRM) into the hub's cache; its random weights are large enough to matter."""
    kind = "SEQ_CLS" if name.endswith("PRM") else "CAUSAL_LM"

    def save(folder: Path) -> Path:
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            task_type=kind, r=4, lora_alpha=8, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj"]
        )
        wrapped = peft.get_peft_model(_plain(base, kind), config)
        for key, weight in wrapped.named_parameters():
            if "lora_B" in key or "score" in key:
                torch.nn.init.normal_(weight, std=0.3)
        wrapped.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        (folder / "README.md").write_text("A card.")
        (folder / "training_args.bin").write_bytes(b"a pickle that nobody opens")
        config_file = folder / "adapter_config.json"
        config_file.write_text(
            json.dumps({**json.loads(config_file.read_text()), "base_model_name_or_path": BASE}), encoding="utf-8"
        )
        return folder

    with warnings.catch_warnings():
        # PEFT reads an attribute of transformers by a name that its newest version deprecates.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return on_the_hub(cache, name, save)


def _plain(base: Path, kind: str) -> torch.nn.Module:
    if kind == "CAUSAL_LM":
        return tiny_model(tiny_tokenizer(), context=8_192)
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
