"""Folders of trained models: what was trained, on which data, how it went, and how the result scores.

recipe.json                                        all of that; the same recipe resumes an interrupted training
adapter_config.json, adapter_model.safetensors     the trained LoRA adapter, or
config.json, model.safetensors                     the whole model, where all of its weights were trained
before/, after/                                    run folders of the evaluations, if any
tensorboard/                                       losses and metrics of every step
checkpoints/                                       until training has ended
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raggym_env.errors import RunError
from raggym_env.storage.work_folder import FolderKind

__all__ = ["Recipe"]

# Versions on which the result of a training depends.
_PACKAGES = ("raggym-env", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
_TRAINING = FolderKind("recipe.json", "training", "raggym train", _PACKAGES)

Json = dict[str, Any]


@dataclass(slots=True)
class Recipe:
    """The folder of one training."""

    path: Path
    config: Json = field(repr=False)
    """What is trained, on which data and how: two trainings with the same config are the same training."""
    status: str = "running"
    """"running" until the weights are written, then "trained"."""
    report: Json = field(default_factory=dict, repr=False)
    """How training went: rows, parameters, losses, seconds, evaluations. `report["result"]` is the name by which `hf:`
    loads the trained model."""

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Open a folder made by `raggym train`.

        Raises:
            RunError: The folder holds no training, or one of another format.
        """
        path = Path(path)
        record = _TRAINING.read(path)
        if not isinstance(record.get("config"), dict) or not isinstance(record.get("report"), dict):
            raise RunError(f"{path / 'recipe.json'} was changed by hand: config or report is missing.")
        return cls(path, record["config"], str(record.get("status")), record["report"])

    @classmethod
    def open(cls, path: str | Path, config: Json) -> Recipe:
        """Begin a training in a folder, or return the one that is there, to be resumed.

        Raises:
            RunError: The folder holds another training, and the message says what differs; or something else.
        """
        # Through JSON, so that tuples compare equal to the lists that they are recorded as.
        path, config = Path(path), json.loads(json.dumps(config))
        if not _TRAINING.exists(path):
            return cls(path, config)
        recipe = cls.read(path)
        _TRAINING.require_same(path, recipe.config, config)
        return recipe

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, removed once training has ended."""
        return self.path / "checkpoints"

    def write(self) -> None:
        """Write `recipe.json`, whole or not at all."""
        _TRAINING.write(self.path, {"status": self.status, "config": self.config, "report": self.report})
