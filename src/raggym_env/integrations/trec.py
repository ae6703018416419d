"""The retrieval of a run in TREC's formats, which trec_eval, ir_measures and Pyserini's evaluation read.

A query is a question, and a document a title: data sets name their gold passages by title, and two corpora may cut the
page of that title differently. The ranking of a question is that of its whole episode: the titles of the first
search, best first, then those that the second adds, and so on. So recall at a depth that no episode reaches equals
the `recall` of the leaderboard, which is also computed from titles.

Ids and titles are percent-encoded where they hold white space, control characters, "%" or a quotation mark, which
`urllib.parse.unquote` reads back. Titles are in the form of `raggym_env.core.title_key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from raggym_env.core import Task, title_key
from raggym_env.errors import RunError
from raggym_env.evaluation.scored_run import LoadTasks, ScoredRun
from raggym_env.mdp.records import Episode
from raggym_env.storage.atomic import atomic_folder, new_folder

__all__ = ["QRELS", "RUN", "TrecCounts", "export_trec", "qrels_lines", "run_lines"]

RUN, QRELS = "run.txt", "qrels.txt"

# All but letters and digits of any script and ASCII marks, as a line is split at white space. After a quotation mark,
# pandas, with which Pyserini reads a run, would take several lines for one.
_NOT_PLAIN = re.compile(r'[^\w!-~]|[%"]')


class TrecCounts(NamedTuple):
    """What an export holds."""

    questions: int
    """Questions with relevance judgments."""
    left_out: int
    """Questions of the run without a finished episode, or without gold passages."""
    documents: int
    """Lines of the run file."""


def export_trec(run: str | Path, out: str | Path, *, load_tasks: LoadTasks | None = None) -> TrecCounts:
    """Write the retrieval of a run folder as `run.txt` and `qrels.txt` in the folder `out`, whole or not at all.

    Only questions whose episode ended are written, to both files: a failed episode is not scored as 0. One that ended
    without a search has judgments and no ranking, which ir_measures, and trec_eval with `-c`, score as 0.

    Raises:
        RunError: `out` exists, `run` holds no evaluation, or no question of it has an episode and gold passages.
        DataError: The data set is not here.
    """
    out = new_folder(out)
    scored = ScoredRun.read(run, load_tasks)
    tasks = [task for task in scored.tasks if task.id in scored.by_question and task.gold_titles]
    if not tasks:
        raise RunError(
            f"{scored.run.path} gives no TREC files: none of its {len(scored.tasks)} questions has both a finished "
            "episode and gold passages. Finish the run, or use a data set that names its supporting passages."
        )
    tag = _encoded(scored.label.replace(" ", "-"))
    ranking = list(run_lines((scored.episodes[task.id] for task in tasks), tag))
    with atomic_folder(out) as folder:
        for name, lines in ((RUN, ranking), (QRELS, qrels_lines(tasks))):
            (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TrecCounts(len(tasks), len(scored.tasks) - len(tasks), len(ranking))


def run_lines(episodes: Iterable[Episode], tag: str) -> Iterator[str]:
    """Yield the lines of a run file: query, "Q0", document, rank from 1, score and tag."""
    for episode in episodes:
        passages = [passage for step in episode.steps for passage in step.passages]
        # Where the corpus has no titles, passages are told apart by their ids; no title is encoded as a lone "%".
        documents = dict.fromkeys(
            _encoded(key) if (key := title_key(passage.title)) else f"%{_encoded(passage.id)}" for passage in passages
        )
        for rank, document in enumerate(documents, 1):
            # trec_eval sorts by score, so equal scores would lose the order.
            yield f"{_encoded(episode.id)} Q0 {document} {rank} {len(documents) + 1 - rank} {tag}"


def qrels_lines(tasks: Iterable[Task]) -> Iterator[str]:
    """Yield the lines of a file of relevance judgments: query, 0, document and 1, for each gold title."""
    for task in tasks:
        for key in dict.fromkeys(map(title_key, task.gold_titles)):
            yield f"{_encoded(task.id)} 0 {_encoded(key)} 1"


def _encoded(text: str) -> str:
    """Return a text as one field of a line, never empty.

    >>> _encoded("Oslo, 100% Norway")
    'Oslo,%20100%25%20Norway'
    """
    return _NOT_PLAIN.sub(lambda match: quote(match[0], safe="", errors="surrogatepass"), text) or "%"
