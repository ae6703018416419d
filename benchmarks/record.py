"""Keep the ratios of a benchmark's run: one line of JSON per version, in `benchmarks/history/NAME.json`.

Absolute figures differ by two between machines and between hours; ratios of one run can be compared.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["HISTORY", "read", "record"]

HISTORY = Path(__file__).parent / "history"


def read(name: str) -> list[dict[str, object]]:
    """Return the lines of a benchmark, oldest first."""
    path = HISTORY / f"{name}.json"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def record(name: str, version: str, ratios: Mapping[str, float]) -> None:
    """Add a version's ratios to those of a benchmark. They replace what the version had under the same names."""
    lines = {str(line["version"]): line for line in read(name)}
    rounded = {key: round(value, 3) for key, value in ratios.items()}
    before = lines.get(version, {}).get("ratios", {})
    lines[version] = {
        "version": version,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "ratios": {**(before if isinstance(before, dict) else {}), **rounded},
    }
    HISTORY.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines.values())
    (HISTORY / f"{name}.json").write_text(text, "utf-8")
