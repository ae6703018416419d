"""Training the `mini` process reward on process data whose scores are values in [0, 1]."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Answer, Search
from raggym_env.errors import MissingExtra, RunError
from raggym_env.rewards.features import FEATURES
from raggym_env.rewards.mini import inputs, logits
from raggym_env.training.process_data.trajectories import Choice, Collection, Labelled

__all__ = ["Example", "Labels", "MiniSettings", "agreement", "examples", "train_mini"]

Labels = Literal["score", "outcome"]


@dataclass(frozen=True, slots=True)
class MiniSettings:
    """How the network is made and trained. The defaults made the weights that ship."""

    networks: int = 5
    """Networks that differ by their seed. Their mean output is kept, as one network with the units of all."""
    hidden: int = 64
    epochs: int = 20
    batch: int = 256
    """States per step."""
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    dropout: float = 0.1
    ranking: float = 1.0
    """Weight of the ranking within states, beside the level of the values."""
    held_out: float = 0.1
    """Share of the questions that are not trained on, for the agreement that is reported."""
    seed: int = 0


class Example(NamedTuple):
    """A state's candidates as features, with what they are worth."""

    features: NDArray[np.float32]
    """Shape `(n, len(FEATURES))`."""
    values: NDArray[np.float32]
    """Shape `(n,)`, in [0, 1]."""
    searches: NDArray[np.bool_]
    """Shape `(n,)`: which candidates are searches."""
    question: str
    """Id of the question."""


def examples(collection: Collection, *, labels: Labels = "score", repeats: int = 2) -> list[Example]:
    """The states of a collection as examples.

    Args:
        collection: Process data whose scores are in [0, 1].
        labels: "score" takes the scores of all candidates: process supervision. "outcome" takes what the answer of
            the trajectory scored, for the actions that were executed: outcome supervision.
        repeats: Past searches that each state gets as further candidates. Made again, a search finds what is there
            already, so it is worth what the search that led to the state was worth.

    Raises:
        RunError: Some score is not in [0, 1], or there is no state with a candidate.
    """
    found: list[Example] = []
    for trajectory in collection.trajectories(kept=False):
        came_by: float | None = None
        for choice in trajectory.choices:
            if labels == "outcome":
                reached = Labelled(choice.action, trajectory.outcome)
                choice = choice._replace(candidates=(reached,))
            found.append(_example(collection, choice, came_by if labels == "score" else None, repeats))
            came_by = next((each.score for each in choice.candidates if each.action == choice.action), None)
    found = [example for example in found if len(example.values)]
    if not found:
        raise RunError(f"{collection.run.path} holds no scored candidates. Collect with --critic evidence_value.")
    return found


def _example(collection: Collection, choice: Choice, came_by: float | None, repeats: int) -> Example:
    # A search beyond the budget is not run: `MiniReward` values it by rule, so there is nothing to learn of it.
    can_search = choice.state.searches_left > 0
    candidates = [each for each in choice.candidates if can_search or isinstance(each.action, Answer)]
    actions = [each.action for each in candidates]
    values = [each.score for each in candidates]
    if came_by is not None and repeats and can_search:
        past = [Search(turn.query) for turn in choice.state.history[-repeats:]]
        actions += past
        values += [came_by] * len(past)
    if not all(0 <= value <= 1 for value in values):
        raise RunError(
            f"{collection.run.path}: the scores of {collection.settings['critic']!r} are no values in [0, 1] "
            f"(found {min(values):.3g} to {max(values):.3g}). Collect with --critic evidence_value, or with "
            "--critic rollout and advantage = false."
        )
    searches = np.array([isinstance(action, Search) for action in actions], np.bool_)
    return Example(inputs(choice.state, actions), np.array(values, np.float32), searches, choice.state.question.id)


def train_mini(
    collections: Sequence[Collection],
    out: str | Path,
    settings: MiniSettings = MiniSettings(),
    *,
    labels: Labels = "score",
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train the network of `MiniReward` and write its weights, and the recipe beside them.

    The loss of a state is the cross-entropy of its candidates' values, plus `ranking` times that of choosing, among
    its searches and among its answers, by how much each is worth above the least (the listwise form of the paper's
    pairwise loss, equation 1; with two candidates they are the same).

    Args:
        collections: Process data; see `examples`.
        out: The safetensors file to write.
        settings: Of the network and its training.
        labels: What is learnt; see `examples`.
        progress: Called after each epoch with its number, the number of all and the mean loss.

    Returns:
        The recipe: settings, data with hashes, versions and the agreement on questions held out. It is written to
        `out` with the suffix `.json`.

    Raises:
        RunError: The process data cannot be used.
        MissingExtra: torch is not installed.
    """
    from safetensors.numpy import save_file

    data = [example for collection in collections for example in examples(collection, labels=labels)]
    held = [example for example in data if _held_out(example.question, settings.held_out)]
    trained = [example for example in data if not _held_out(example.question, settings.held_out)]
    if not trained:
        raise RunError(f"All {len(data)} states are held out, so there is none to train on. Collect more questions.")
    weights = _fit(trained, settings, progress)
    start = float(np.mean([example.values.mean() for example in trained]))
    recipe = {
        "settings": asdict(settings),
        "labels": labels,
        "data": [_provenance(collection) for collection in collections],
        "states": len(trained),
        "candidates": sum(len(example.values) for example in trained),
        "held_out": {"states": len(held), "agreement": agreement(held, weights) if held else None},
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"features": list(FEATURES), "start": start}
    temporary = out.with_suffix(".tmp")
    save_file(weights, temporary, {"mini": json.dumps(about)})
    temporary.chmod(0o644)  # safetensors makes it readable to its owner alone
    temporary.replace(out)
    out.with_suffix(".json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return recipe


def agreement(data: Sequence[Example], weights: dict[str, NDArray[np.float32]], margin: float = 0.02) -> float:
    """Share of the pairs of candidates of a state, of different values, that the network ranks as they are.

    Args:
        data: Examples.
        weights: Tensors as `rewards.mini.load_weights` gives them.
        margin: Pairs whose values differ by less do not count.
    """
    right = pairs = 0
    for example in data:
        scores = logits(weights, example.features)
        better = example.values[:, None] - example.values[None, :] > margin
        pairs += int(better.sum())
        right += int((better & (scores[:, None] > scores[None, :])).sum())
    return right / pairs if pairs else float("nan")


def _held_out(question: str, share: float) -> bool:
    return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=4).digest(), "big") < share * 2**32


def _provenance(collection: Collection) -> dict[str, Any]:
    config = collection.run.config
    named = {name: config[name] for name in ("split", "limit", "seed", "dataset", "corpus", "version", "collect")}
    return {
        "environment": config["environment"]["name"],
        "policy": config["policy"]["name"],
        **named,
        "sha256": collection.sha256,
    }


def _fit(
    data: Sequence[Example], settings: MiniSettings, progress: Callable[[int, int, float], None] | None
) -> dict[str, NDArray[np.float32]]:
    """Networks side by side as one: their hidden units together, their outputs averaged."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("Training the mini reward", "train") from error

    tensors = _padded(data)
    parts = []
    for number in range(settings.networks):

        def told(epoch: int, epochs: int, loss: float, done: int = number) -> None:
            if progress is not None:
                progress(done * epochs + epoch, settings.networks * epochs, loss)

        with torch.random.fork_rng(devices=[]):
            parts.append(_network(tensors, settings, settings.seed + number, told))
    return {
        "hidden.weight": np.concatenate([part["hidden.weight"] for part in parts]),
        "hidden.bias": np.concatenate([part["hidden.bias"] for part in parts]),
        "output.weight": np.concatenate([part["output.weight"] for part in parts]) / len(parts),
        "output.bias": np.array(np.mean([part["output.bias"] for part in parts]), np.float32),
    }


def _network(
    tensors: tuple[Any, Any, Any, Any], settings: MiniSettings, seed: int, progress: Callable[[int, int, float], None]
) -> dict[str, NDArray[np.float32]]:
    import torch

    torch.manual_seed(seed)
    inputs, values, searches, there = tensors
    hidden, output = torch.nn.Linear(len(FEATURES), settings.hidden), torch.nn.Linear(settings.hidden, 1)
    network = torch.nn.Sequential(hidden, torch.nn.Tanh(), torch.nn.Dropout(settings.dropout), output)
    steps = settings.epochs * -(-len(inputs) // settings.batch)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for epoch in range(1, settings.epochs + 1):
        losses = []
        order: Any = torch.randperm(len(inputs))
        for batch in order.split(settings.batch):
            logits = network(inputs[batch]).squeeze(-1)
            loss = _loss(logits, values[batch], searches[batch], there[batch], settings.ranking)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        progress(epoch, settings.epochs, float(np.mean(losses)))
    found = {
        "hidden.weight": hidden.weight, "hidden.bias": hidden.bias,
        "output.weight": output.weight[0], "output.bias": output.bias[0],
    }  # fmt: skip
    return {name: tensor.detach().numpy().copy() for name, tensor in found.items()}


def _padded(data: Sequence[Example]) -> tuple[Any, Any, Any, Any]:
    """The examples as tensors `(states, most candidates, ...)`, and which candidates are there."""
    import torch

    shape = (len(data), max(len(example.values) for example in data))
    inputs = torch.zeros(*shape, len(FEATURES))
    values, searches, there = (
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.bool),
    )
    for row, example in enumerate(data):
        size = len(example.values)
        inputs[row, :size] = torch.from_numpy(example.features)
        values[row, :size] = torch.from_numpy(example.values)
        searches[row, :size] = torch.from_numpy(example.searches)
        there[row, :size] = True
    return inputs, values, searches, there


def _loss(logits: Any, values: Any, searches: Any, there: Any, ranking: float) -> Any:
    import torch

    level = torch.nn.functional.binary_cross_entropy_with_logits(logits[there], values[there])
    return level + ranking * (_ranking(logits, values, there & searches) + _ranking(logits, values, there & ~searches))


def _ranking(logits: Any, values: Any, mask: Any) -> Any:
    """Cross-entropy of the softmax over the masked candidates with their values above the least of them."""
    import torch

    least = values.masked_fill(~mask, 2.0).min(-1, keepdim=True).values
    wanted = (values - least).clamp(min=0) * mask
    total = wanted.sum(-1)
    told = total > 1e-4
    if not told.any():
        return torch.zeros(())
    chosen = logits.masked_fill(~mask, -1e9).log_softmax(-1)
    return -((wanted[told] / total[told, None]) * chosen[told] * mask[told]).sum(-1).mean()
