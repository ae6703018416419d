"""Encoders with random weights, made in a moment: to test what is done with any encoder."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = "ant bee cat dog elk fox gnu hen ibis jay query passage represent this sentence for searching relevant passages"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder: Path, *, seed: int = 0, size: int = 16, positions: int = 128, safetensors: bool = True) -> Path:
    """A BERT of one layer that knows `WORDS`, as a plain transformers folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    vocabulary = [*SPECIAL, *WORDS.split(), ":", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=size,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * size,
            max_position_embeddings=positions,
            initializer_range=0.5,  # with the usual 0.02 all texts would look alike
        )
    ).eval()
    if safetensors:
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def tiny_sentence_transformer(folder: Path, *, prompts: dict[str, str], similarity: str = "cosine") -> Path:
    """The same as a sentence-transformers folder, with prompts and a similarity of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    plain = tiny_bert(folder.with_name(f"{folder.name}-plain"), seed=3)
    model = SentenceTransformer(
        modules=[Transformer(str(plain)), Pooling(16, "mean")],
        prompts=prompts,
        similarity_fn_name=similarity,
        device="cpu",
    )
    model.save(str(folder), create_model_card=False)
    return folder


def on_the_hub(cache: Path, name: str, make_model, commit: str = "c" * 40) -> Path:
    """Make a model where the hub's client keeps what it downloaded."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return make_model(repository / "snapshots" / commit)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
