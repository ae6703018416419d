"""A tiny random Llama with a byte tokenizer: a language model that needs no download and runs in milliseconds."""

from __future__ import annotations

import string

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)
    fast.chat_template = template
    return fast


def tiny_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, context: int = 512) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,  # far from uniform, so that greedy choices are clear
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def user(text: str, system: str = "") -> list[dict[str, str]]:
    says = [{"role": "system", "content": system}] if system else []
    return [*says, {"role": "user", "content": text}]


def texts(count: int, longest: int = 120) -> list[str]:
    """Distinct texts of very different lengths."""
    letters = string.ascii_letters + string.digits + " .,"
    return [
        "".join(letters[(seed * 31 + i * (seed + 7)) % len(letters)] for i in range(1 + (seed * 37) % longest))
        for seed in range(count)
    ]
