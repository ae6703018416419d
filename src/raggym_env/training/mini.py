"""Training the `mini` process reward on process data whose scores are values in [0, 1]."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Answer, Search
from raggym_env.errors import MissingExtra, RunError
from raggym_env.mdp.records import Candidate
from raggym_env.rewards.features import FEATURES
from raggym_env.rewards.mini import inputs, logits
from raggym_env.storage.atomic import atomic_file, write_atomic
from raggym_env.training.process_data.trajectories import AnyCollection, Collection, TrajectoryStep, WeightedCollection

__all__ = ["Example", "Labels", "MiniConfig", "agreement", "examples", "train_mini"]

Labels = Literal["score", "outcome"]
Progress = Callable[[str, int, int, dict[str, Any]], None]
Weights = dict[str, NDArray[np.float32]]

_REPEATS = 2  # past searches that each state gets as additional candidates


@dataclass(frozen=True, slots=True)
class MiniConfig:
    """The network and its training. The defaults made the weights that ship."""

    networks: int = 5
    """Number of networks, which differ by their seed. They are saved as one network that has the hidden units of all
    and the mean of their outputs."""
    hidden: int = 64
    """Hidden units per network."""
    epochs: int = 20
    batch_size: int = 256
    """States per update."""
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    dropout: float = 0.1
    ranking: float = 1.0
    """Weight of the loss on the ranking within states, relative to the loss on the values themselves."""
    held_out: float = 0.1
    """Share of the questions that are not trained on, for the reported agreement."""
    seed: int = 0


class Example(NamedTuple):
    """A state's candidates as features, and their values."""

    features: NDArray[np.float32]
    """Shape `(n, len(FEATURES))`."""
    values: NDArray[np.float32]
    """Shape `(n,)`, in [0, 1]."""
    searches: NDArray[np.bool_]
    """Shape `(n,)`: which candidates are searches."""
    question: str
    """Id of the question."""


def examples(source: AnyCollection, *, labels: Labels = "score", seed: int = 0) -> list[Example]:
    """Return the states of a collection, whose scores must be in [0, 1], as examples.

    Of a `WeightedCollection` or "FOLDER:WEIGHT" it is the share of the trajectories that `seed` draws.

    With the labels "score" the values are the scores of all candidates: process supervision. With "outcome" they are
    the outcome of the trajectory for each executed action: outcome supervision.

    Raises:
        RunError: A score is not in [0, 1], or no state has a candidate.
    """
    part = WeightedCollection.read(source)
    collection = part.collection
    converted: list[Example] = []
    for trajectory in part.trajectories(kept=False, seed=seed):
        previous: float | None = None  # score of the action that led to the state
        for step in trajectory.steps:
            if labels == "outcome":
                step = step._replace(candidates=(Candidate(step.action, trajectory.outcome),))
            converted.append(_example(collection, step, previous if labels == "score" else None))
            previous = next((option.score for option in step.candidates if option.action == step.action), None)
    converted = [example for example in converted if len(example.values)]
    if not converted:
        raise RunError(f"{collection.run.path} holds no scored candidates. Collect with --critic evidence_value.")
    return converted


def _example(collection: Collection, step: TrajectoryStep, previous: float | None) -> Example:
    # A search beyond the budget is not run and `MiniReward` values it by rule, so it has nothing to teach.
    can_search = step.state.searches_left > 0
    scores = [(option.action, option.score) for option in step.candidates if option.action and option.score is not None]
    scores = [(action, score) for action, score in scores if can_search or isinstance(action, Answer)]
    if previous is not None and can_search:
        # A repeated search retrieves only passages that the state has, so it has the value of the search before.
        scores += [(Search(turn.query), previous) for turn in step.state.history[-_REPEATS:]]
    values = [score for _, score in scores]
    if not all(0 <= value <= 1 for value in values):
        raise RunError(
            f"{collection.run.path}: the scores of {collection.settings['critic']!r} are not values in [0, 1] "
            f"(they range from {min(values):.3g} to {max(values):.3g}). Collect with --critic evidence_value, or with "
            "--critic rollout and advantage = false."
        )
    actions = [action for action, _ in scores]
    searches = np.array([isinstance(action, Search) for action in actions], np.bool_)
    return Example(inputs(step.state, actions), np.array(values, np.float32), searches, step.state.question.id)


def train_mini(
    data: Sequence[AnyCollection],
    out: str | Path,
    *,
    config: MiniConfig | None = None,
    labels: Labels = "score",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the network of `MiniReward` and write its weights, with the recipe beside them.

    The loss of a state is the cross-entropy of its candidates' values, plus `ranking` times the cross-entropy of
    choosing, among its searches and among its answers, in proportion to each value's excess over the lowest. That is
    the listwise form of the paper's pairwise loss (equation 1); with two candidates they are equal.

    Args:
        data: Collections of process data or their folders, with weights or without; see `examples`.
        out: The safetensors file to write.
        config: The network and its training.
        labels: AnyCollection of the values; see `examples`.
        progress: Called after each epoch with "train", the number of epochs completed over all networks, their total
            number, and `{"loss": ...}`, the epoch's mean loss.

    Returns:
        The recipe: settings, data with checksums, and the agreement on held-out questions. It is also written to
        `out` with the suffix `.json`.

    Raises:
        RunError: The process data cannot be used.
        MissingExtra: torch is not installed.
    """
    from safetensors.numpy import save

    config = config or MiniConfig()
    parts = [WeightedCollection.read(source) for source in data]
    converted = [example for part in parts for example in examples(part, labels=labels, seed=config.seed)]
    test = [example for example in converted if _is_held_out(example.question, config.held_out)]
    training = [example for example in converted if not _is_held_out(example.question, config.held_out)]
    if not training:
        raise RunError(
            f"All {len(converted)} states are held out, so there is none to train on. Collect more questions, or "
            "lower held_out."
        )
    weights = _fit(training, config, progress)
    recipe = {
        "settings": asdict(config),
        "labels": labels,
        "data": [{**_provenance(part.collection), "weight": part.weight} for part in parts],
        "states": len(training),
        "candidates": sum(len(example.values) for example in training),
        "held_out": {"states": len(test), "agreement": agreement(test, weights) if test else None},
    }
    # An episode's potential before its first search: the mean value of all states; see `MiniReward`.
    start = float(np.mean([example.values.mean() for example in training]))
    metadata = {"mini": json.dumps({"features": list(FEATURES), "start": start})}
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not safetensors' own save_file, whose files only their owner can read.
    with atomic_file(out) as file:
        file.write(save(weights, metadata))
    write_atomic(out.with_suffix(".json"), json.dumps(recipe, indent=2) + "\n")
    return recipe


def agreement(data: Sequence[Example], weights: Weights, margin: float = 0.02) -> float:
    """Return the share of pairs of a state's candidates, with different values, that the network ranks correctly.

    Pairs whose values differ by `margin` or less do not count; without any pair the result is NaN. `weights` are
    tensors as `rewards.mini.load_weights` returns them.
    """
    correct = pairs = 0
    for example in data:
        scores = logits(weights, example.features)
        better = example.values[:, None] - example.values[None, :] > margin
        pairs += int(better.sum())
        correct += int((better & (scores[:, None] > scores[None, :])).sum())
    return correct / pairs if pairs else float("nan")


def _is_held_out(question: str, share: float) -> bool:
    # By a hash of the id, so that a question is on the same side in every collection and for every seed.
    return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=4).digest(), "big") < share * 2**32


def _provenance(collection: Collection) -> dict[str, Any]:
    config = collection.run.config
    return {
        "environment": config["environment"]["name"],
        "policy": config["policy"]["name"],
        **{key: config[key] for key in ("split", "limit", "seed", "dataset", "corpus", "version", "collect")},
        "sha256": collection.sha256,
    }


def _fit(data: Sequence[Example], config: MiniConfig, progress: Progress | None) -> Weights:
    """Train the networks and return them as one: their hidden units concatenated, their outputs averaged."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("Training the mini reward", "train") from error

    tensors = _padded(data)  # once for all networks
    epochs = count(1)  # over all networks

    def report(loss: float) -> None:
        if progress is not None:
            progress("train", next(epochs), config.networks * config.epochs, {"loss": loss})

    parts = []
    for number in range(config.networks):
        with torch.random.fork_rng(devices=[]):  # leaves the caller's random state as it was
            parts.append(_train_network(tensors, config, config.seed + number, report))
    return {
        "hidden.weight": np.concatenate([part["hidden.weight"] for part in parts]),
        "hidden.bias": np.concatenate([part["hidden.bias"] for part in parts]),
        "output.weight": np.concatenate([part["output.weight"] for part in parts]) / len(parts),
        "output.bias": np.array(np.mean([part["output.bias"] for part in parts]), np.float32),
    }


def _train_network(
    tensors: tuple[Any, Any, Any, Any], config: MiniConfig, seed: int, report: Callable[[float], None]
) -> Weights:
    import torch

    torch.manual_seed(seed)
    inputs, values, searches, mask = tensors
    hidden, output = torch.nn.Linear(len(FEATURES), config.hidden), torch.nn.Linear(config.hidden, 1)
    network = torch.nn.Sequential(hidden, torch.nn.Tanh(), torch.nn.Dropout(config.dropout), output)
    steps = config.epochs * -(-len(inputs) // config.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    # One cycle: such a small network trains in few epochs at a high peak rate.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    for _ in range(config.epochs):
        losses = []
        order: Any = torch.randperm(len(inputs))
        for batch in order.split(config.batch_size):
            scores, targets, present = network(inputs[batch]).squeeze(-1), values[batch], mask[batch]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores[present], targets[present])
            # Searches and answers are ranked apart: their values are on different levels.
            groups = (present & searches[batch], present & ~searches[batch])
            loss = loss + config.ranking * sum(_ranking_loss(scores, targets, group) for group in groups)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        report(float(np.mean(losses)))
    weights = {
        "hidden.weight": hidden.weight, "hidden.bias": hidden.bias,
        "output.weight": output.weight[0], "output.bias": output.bias[0],
    }  # fmt: skip
    return {name: tensor.detach().numpy().copy() for name, tensor in weights.items()}


def _padded(data: Sequence[Example]) -> tuple[Any, Any, Any, Any]:
    """Return features, values and searches as tensors `(states, most candidates, ...)`, and the mask of candidates."""
    import torch

    def pad(rows: Iterable[NDArray[Any]]) -> Any:
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)

    features, values, searches, _ = zip(*data, strict=True)
    return pad(features), pad(values), pad(searches), pad(np.ones(len(row), np.bool_) for row in values)


def _ranking_loss(logits: Any, values: Any, mask: Any) -> Any:
    """Return the cross-entropy of the softmax over the masked candidates with their values above the lowest.

    All arguments have the shape `(states, candidates)`; `values` are in [0, 1].
    """
    import torch

    lowest = values.masked_fill(~mask, 2.0).min(-1, keepdim=True).values  # 2: above every value
    excess = (values - lowest).clamp(min=0) * mask
    total = excess.sum(-1)
    informative = total > 1e-4  # where all values are equal, there is no ranking
    if not informative.any():
        return torch.zeros(())
    log_probabilities = logits.masked_fill(~mask, -1e9).log_softmax(-1)
    targets = excess[informative] / total[informative, None]
    return -(targets * log_probabilities[informative] * mask[informative]).sum(-1).mean()
