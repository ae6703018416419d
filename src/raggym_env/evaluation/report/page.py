"""Writes a report's content into one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from raggym_env.evaluation.leaderboard import Leaderboard
from raggym_env.evaluation.report.content import report_content
from raggym_env.storage.atomic import write_atomic
from raggym_env.text.exits import for_page

__all__ = ["report_page", "write_report"]

_SCRIPTS = ("vendor/d3-7.9.2.min.js", "vendor/plot-0.6.17.umd.min.js", "vendor/tabulator-6.5.3.min.js", "report.js")
_STYLES = ("vendor/tabulator-6.5.3.min.css", "report.css")


def write_report(leaderboard: Leaderboard, path: str | Path, *, training: Iterable[str | Path] = ()) -> Path:
    """Write the page about a leaderboard's runs, and return its path. Arguments as for `report_page`."""
    path = Path(path)
    write_atomic(path, report_page(leaderboard, training=training))
    return path


def report_page(leaderboard: Leaderboard, *, training: Iterable[str | Path] = ()) -> str:
    """Return the page as HTML.

    Recorded text is untrusted: it is embedded as compressed data, never as markup, and the page's script shows it
    through `textContent` alone. The content security policy allows the page's own scripts, by their hashes, and no
    connection, so that even a script that got in could not run or send anything.

    Args:
        leaderboard: The boards to show; the episodes are read from their run folders.
        training: Folders of `raggym train` whose curves are shown.
    """
    from jinja2 import Environment, StrictUndefined

    folder = files("raggym_env.evaluation.report")
    data = for_page(report_content(leaderboard, training=training))
    content = json.dumps(data, ensure_ascii=False, allow_nan=False)
    scripts = [(folder / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    # StrictUndefined: a misspelt name must fail in tests, not leave a gap.
    environment = Environment(autoescape=False, undefined=StrictUndefined)  # noqa: S701  # only our own files go in
    return environment.from_string((folder / "report.html").read_text(encoding="utf-8")).render(
        scripts=scripts,
        hashes=" ".join(f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'" for script in scripts),
        styles=[(folder / name).read_text(encoding="utf-8") for name in _STYLES],
        # mtime=0: the same runs give the same page, byte for byte.
        data=_base64(gzip.compress(content.encode(), mtime=0)),
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
