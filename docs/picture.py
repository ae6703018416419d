"""Draw the decision process for light and dark pages: `python docs/picture.py` writes both files."""

from __future__ import annotations

from pathlib import Path

import jinja2

STATIC = Path(__file__).parent / "_static"
LIGHT = {"ink": "#1f2430", "soft": "#5b6472", "line": "#8a93a3", "fill": "#ffffff"}
LIGHT |= {"state": "#e8f0fe", "env": "#e6f4ea", "reward": "#fef4e0", "agent": "#f3e8fd"}
DARK = {"ink": "#e6e8ee", "soft": "#a5adba", "line": "#7b8494", "fill": "#131416"}
DARK |= {"state": "#1c2d4a", "env": "#173524", "reward": "#40300f", "agent": "#33204a"}


def main() -> None:
    template = jinja2.Template((Path(__file__).parent / "templates" / "decision-process.svg").read_text("utf-8"))
    for name, colors in (("decision-process", LIGHT), ("decision-process-dark", DARK)):
        (STATIC / f"{name}.svg").write_text(template.render(colors) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
