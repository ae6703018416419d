"""Speed and memory of one weight update: TRL's defaults against the options for a CPU, on the same rows.

    python benchmarks/training.py                          # the small model (raggym models get smollm2)
    python benchmarks/training.py --rows 4 --threads 1
    python benchmarks/training.py --random --rows 2        # a tiny random model, in seconds

Rows are invented chats: a system prompt of `--prefix` tokens that all have in common, about `--own` tokens of their
own, and a reply of about 30 tokens; a pair has a second reply. A LoRA adapter of rank 16 on all linear layers is
trained in float32. Every figure comes from a process of its own.

Rows of the table. "TRL": all rows in one forward pass, as TRL's default batch of 8 is. "TRL, row by row": one row per
forward pass. "tokens_per_batch": passes of at most `--tokens` tokens, each as one sequence without padding, the prompt
of a pair computed once, and logits at labels alone. "+ share_prefix": the common prefix computed once per update, in
padded passes.

Columns. tokens: those of all rows, without padding. CPU s: processor time of the update, all threads together; with
one thread, other processes of the machine change it little. s: wall time. tok/s: tokens per second of wall time.
times: CPU s of "TRL" divided by CPU s. peak MB: highest resident memory of the process, with all libraries and the
model. loss: that of the update before it, the same in all rows of a table.

Measured with the small model, `--threads 1 --rows 4` for sft and `--rows 2` for dpo, each row with one call of
`--method` on a machine of two cores (Intel Xeon with AVX-512) that others use too. "TRL" and "+ share_prefix" of sft
ran while it was busiest, so compare CPU s there, not s and tok/s. The rows of sft, and "+ share_prefix" of dpo (92.4 s
for "TRL" in its run), were measured before passes had no padding:

sft                 tokens    CPU s        s   tok/s  times  peak MB      loss
TRL                  4,440     74.0    154.5    28.7   1.00   16,715   6.70366
TRL, row by row      4,440     54.5     55.5    80.0   1.36    4,579   6.70366
tokens_per_batch     4,440     37.9     39.0   113.8   1.96    3,533   6.70366
+ share_prefix       4,440     29.8     72.8    61.0   2.49    5,775   6.70366

dpo                 tokens    CPU s        s   tok/s  times  peak MB      loss
TRL                  4,110    105.6    107.3    38.3   1.00   16,651   0.69315
TRL, row by row      4,110     79.8     79.8    51.5   1.32    8,128   0.69315
tokens_per_batch     4,110     26.7     26.7   153.9   3.96    4,100   0.69315
+ share_prefix       4,110     24.0     24.7   166.7   3.85    5,063   0.69315

Do not give torch more threads than idle cores: on busy cores two threads spend most of their processor time waiting.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "TRL": {},
    "TRL, row by row": {"per_device_train_batch_size": 1},
    "tokens_per_batch": {"tokens_per_batch": 0},
    "+ share_prefix": {"tokens_per_batch": 0, "share_prefix": True},
}
KINDS = {"sft": "SFTTrainer", "dpo": "DPOTrainer"}


def main() -> None:
    """Print a table for supervised fine-tuning and one for preferences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--random", action="store_true", help="a tiny model with random weights instead")
    parser.add_argument("--rows", type=int, default=8, help="rows of the update")
    parser.add_argument("--prefix", type=int, default=600)
    parser.add_argument("--own", type=int, default=350)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens_per_batch")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method is not None:
        print(json.dumps(measure(options)))
        return
    for kind in options.kinds:
        table(kind, sys.argv[1:])


def table(kind: str, arguments: list[str]) -> None:
    """Measure each method in a new process and print a line for it."""
    print(f"\n{kind:<18} {'tokens':>7} {'CPU s':>8} {'s':>8} {'tok/s':>7} {'times':>6} {'peak MB':>8} {'loss':>9}")
    first = None
    for method in METHODS:
        command = [sys.executable, __file__, *arguments, "--kinds", kind, "--method", method]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        first = first or result["cpu"]
        print(
            f"{method:<18} {result['tokens']:>7,} {result['cpu']:>8.1f} {result['seconds']:>8.1f} "
            f"{result['tokens'] / result['seconds']:>7.1f} {first / result['cpu']:>6.2f} {result['peak_mb']:>8,.0f} "
            f"{result['loss']:>9.5f}",
            flush=True,
        )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one update by one method. Runs in a new process."""
    import torch
    import transformers

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    transformers.set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer, tokens = make(options, Path(folder))
        cpu, seconds = 0.0, 0.0
        step = trainer.training_step

        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal cpu, seconds
            start, wall = time.process_time(), time.perf_counter()
            result = step(*args, **kwargs)
            cpu, seconds = cpu + time.process_time() - start, seconds + time.perf_counter() - wall
            return result

        trainer.training_step = timed
        trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {"tokens": tokens, "cpu": cpu, "seconds": seconds, "peak_mb": peak_mb(), "loss": loss}


def make(options: argparse.Namespace, folder: Path) -> tuple[Any, int]:
    """Return the trainer, and the number of tokens of its rows."""
    import datasets

    from raggym_env.training.trl.config import TrainingConfig, lora_config, trl, trl_config
    from raggym_env.training.trl.fit import make_trainer
    from raggym_env.training.trl.lm import quiet, trainable

    (kind,) = options.kinds
    base = tiny() if options.random else small(options.model)
    rows = [base.row(row) for row in invented(base.tokenizer, kind, options)]
    settings = {"per_device_train_batch_size": options.rows, **METHODS[options.method]}
    if "tokens_per_batch" in settings:
        settings["tokens_per_batch"] = options.tokens
    settings["gradient_accumulation_steps"] = options.rows // settings["per_device_train_batch_size"]
    config = TrainingConfig(base.name, max_steps=1, device="cpu", dtype="float32", **settings)
    config = config.with_defaults(learning_rate=1e-4, batch_size=1)
    args = trl_config("SFTConfig" if kind == "sft" else "DPOConfig", config, folder, max_length=None)
    with quiet():
        if options.method.startswith("TRL"):  # as TRL makes it, without ours
            data = {"train_dataset": datasets.Dataset.from_list(rows), "processing_class": base.tokenizer}
            return getattr(trl, KINDS[kind])(**trainable(base, lora_config(config)), args=args, **data), count(
                base, rows
            )
        return make_trainer(KINDS[kind], base, lora_config(config), args, rows, config=config), count(base, rows)


def small(name: str) -> Any:
    """Load the model."""
    from raggym_env.training.trl.lm import load

    return load(name)


def tiny() -> Any:
    """Return the model of the tests."""
    from raggym_env.training.trl.lm import Base

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from tiny_llm import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    return Base("tiny", tiny_model(tokenizer, context=4096), tokenizer)


def invented(tokenizer: Any, kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return chats of random words, with as many tokens as the options say."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 6))) for _ in range(2000)]

    def text(tokens: int) -> str:
        ids = tokenizer.encode(" ".join(draw.choices(words, k=tokens)), add_special_tokens=False)
        return str(tokenizer.decode(ids[:tokens]))

    replies = ("completion",) if kind == "sft" else ("chosen", "rejected")
    system = {"role": "system", "content": text(options.prefix)}
    return [
        {"prompt": [system, {"role": "user", "content": text(round(options.own * draw.uniform(0.5, 1.5)))}]}
        | {reply: [{"role": "assistant", "content": text(draw.randint(20, 40))}] for reply in replies}
        for _ in range(options.rows)
    ]


def count(base: Any, rows: list[dict[str, Any]]) -> int:
    """Return the number of tokens of all sequences of the rows."""
    replies = ("completion", "chosen", "rejected")
    chats = [[*row["prompt"], *row[reply]] for row in rows for reply in replies if reply in row]
    return sum(len(base.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats)


def peak_mb() -> float:
    """Return the highest resident memory of this process so far; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
