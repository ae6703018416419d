"""Draw the ratios of `benchmarks/history/speed.json` by version: `pictures/speed-history.png`, shown in `speed.md`.

python benchmarks/speed.py --record VERSION      # add a version
python docs/history.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from record import read  # noqa: E402  # benchmarks/ is no package


def draw(picture: Path) -> None:
    lines = read("speed")
    versions = [str(line["version"]) for line in lines]
    names = dict.fromkeys(name for line in lines for name in line["ratios"])
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name in names:
        values = [line["ratios"].get(name, float("nan")) for line in lines]
        axes.plot(versions, values, marker="o", label=name)
    axes.set_yscale("log")
    axes.set_ylabel("ratio of two rates in one run")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    draw(DOCS / "pictures" / "speed-history.png")
