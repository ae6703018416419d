"""What a report shows, as plain data. Every figure comes from the functions that leaderboard and compare use.

Episodes of a thousand questions retrieve the same passages again and again, so passages and prompts are stored once, in
lists, and steps refer to them by their indices. Keys of steps are short, since there are tens of thousands of steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raggym_env import data
from raggym_env.core import Answer, Passage, Search, Task, option_letter, title_key
from raggym_env.errors import RAGGymError, RunError
from raggym_env.evaluation.compare import paired
from raggym_env.evaluation.leaderboard import COLUMNS, Board, Leaderboard, Row
from raggym_env.evaluation.scored_run import ScoredRun, cached_tasks
from raggym_env.evaluation.scores import groups_of, searches_of
from raggym_env.evaluation.statistics import bootstrap
from raggym_env.mdp.records import Step
from raggym_env.storage.parsing import ParseError, parse_json, read_file

__all__ = ["report_content"]

Json = dict[str, Any]

_MAX_PAIRED = 8  # runs of a board that are all compared with each other; of more, each is compared with the best
_MAX_TEXT = 12_000_000  # characters of passage text in a page, which are about 4 MB of it


def report_content(leaderboard: Leaderboard, *, training: Iterable[str | Path] = ()) -> Json:
    """Return everything that the page shows.

    Args:
        leaderboard: The boards to show, with their run folders.
        training: Training folders whose curves are shown.
    """
    load_tasks = cached_tasks()
    passages = _Passages()
    boards = [_board(board, load_tasks, passages) for board in leaderboard.boards]
    return {"boards": boards, "passages": passages.rows, "training": [_curves(Path(folder)) for folder in training]}


class _Passages:
    """The distinct passages of all episodes, in a list; and their texts, as far as there is room."""

    def __init__(self) -> None:
        self.rows: list[list[str | None]] = []
        self._index: dict[tuple[str, str], int] = {}

    def index(self, passage: Passage) -> int:
        """Return the place of a passage in `rows`, where it is added if it is new."""
        key = (passage.id, passage.title)
        if key not in self._index:
            self._index[key] = len(self.rows)
            self.rows.append([passage.id, passage.title, passage.text or None])
        return self._index[key]

    def add_texts(self, corpus: Sequence[Passage]) -> None:
        """Look up the missing texts in a corpus: the record of a run holds ids and titles alone."""
        missing = {(str(row[0]), str(row[1])): row for row in self.rows if row[2] is None}
        room = _MAX_TEXT - sum(len(row[2]) for row in self.rows if row[2])
        for passage in corpus if missing else ():
            row = missing.get((passage.id, passage.title))
            if row is not None and len(passage.text) <= room:
                row[2] = passage.text
                room -= len(passage.text)


def _board(board: Board, load_tasks: Any, passages: _Passages) -> Json:
    runs = {
        place: ScoredRun.read(row.source, load_tasks)
        for place, row in enumerate(board.rows)
        if row.scores is not None and Path(row.source).is_dir()
    }
    names = _names(board, runs)
    tasks = next(iter(runs.values())).tasks if runs else []
    content = {
        "environment": board.environment,
        "split": board.split,
        "questions": board.questions,
        "metric": board.metric,
        "metrics": {name: COLUMNS[name] for name in board.metrics},
        "differences": board.differences(),
        "rows": [_row(row, place, names.get(place)) for place, row in enumerate(board.rows)],
        "runs": {names[place]: _run(run, tasks, passages) for place, run in runs.items()},
        "pairs": [
            {**asdict(paired(runs[one], runs[other])), "runs": [names[one], names[other]]}
            for one, other in _pairs(list(runs))
            if runs[one].by_question.keys() & runs[other].by_question.keys()  # a run whose episodes all failed has none
        ],
        "tasks": [_task(task) for task in tasks],
    }
    for run in runs.values():
        # A page without the passages' texts is still a page: the corpus may not be here.
        try:
            passages.add_texts(data.load(run.card, run.split).corpus)
        except (RAGGymError, OSError):
            continue
        break
    return content


def _names(board: Board, runs: Mapping[int, ScoredRun]) -> dict[int, str]:
    """Return a short name for each run, unique on its board, by which links name it: its folder's name."""
    names: dict[int, str] = {}
    for place in runs:
        name = Path(board.rows[place].source).name or "run"
        same = sum(other == name or other.startswith(f"{name}~") for other in names.values())
        names[place] = f"{name}~{same + 1}" if same else name
    return names


def _pairs(places: Sequence[int]) -> Iterable[tuple[int, int]]:
    for later, other in enumerate(places):
        for one in places[:later] if len(places) <= _MAX_PAIRED else places[: min(later, 1)]:
            # The worse run first, so that a difference above 0 is a gain.
            yield other, one


def _row(row: Row, place: int, name: str | None) -> Json:
    scores = row.scores
    cited = {metric: [mean, None, None] for metric, mean in (row.cited or {}).items()}
    return {
        "place": place + 1 if scores is not None and scores.complete else None,
        "run": name,
        "policy": row.policy,
        "source": row.source,
        "cited": row.cited is not None,
        "setting": row.setting,
        "metrics": cited if scores is None else {name: list(value) for name, value in scores.metrics.items()},
        "searches": scores and scores.searches,
        "tokens": scores and scores.tokens,
        "cost": scores and scores.cost,
        "scored": scores and scores.scored,
        "questions": scores and scores.questions,
        "failed": scores and scores.failed,
        "missing": scores and scores.missing,
        "no_action": scores and scores.no_action,
    }


def _task(task: Task) -> Json:
    question = task.question
    return {
        "id": task.id,
        "question": question.text,
        "options": [f"{option_letter(index)}. {text}" for index, text in enumerate(question.options)],
        "answers": list(task.answers),
        "gold": list(task.gold_titles),
        "type": task.type,
        "groups": groups_of(task),
        "metadata": {
            str(key): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            for key, value in task.metadata.items()
        },
    }


def _run(run: ScoredRun, tasks: Sequence[Task], passages: _Passages) -> Json:
    search = run.run.config["policy"].get("search") or {}
    return {
        "label": run.label,
        "n": search.get("best_of") or search.get("vote"),
        "family": [str(run.run.config["policy"]["name"]), str(search.get("critic"))],
        "groups": _groups(run),
        "episodes": [_episode(run, task, passages) for task in tasks],
    }


def _groups(run: ScoredRun) -> list[Json]:
    """Return the ranking metric over the questions of each type, number of hops and level."""
    metric = run.card.episode.metric
    values: dict[tuple[str, str], list[float]] = {}
    for task in run.tasks:
        if task.id in run.by_question:
            for field, value in groups_of(task).items():
                values.setdefault((field, value), []).append(run.by_question[task.id][metric])
    return [
        {"field": field, "value": value, "n": len(column), "score": list(bootstrap(column))}
        for (field, value), column in sorted(values.items())
    ]


def _episode(run: ScoredRun, task: Task, passages: _Passages) -> Json | None:
    episode = run.episodes.get(task.id)
    if episode is None:
        return None
    gold = {title_key(title) for title in task.gold_titles}
    return {
        "answer": episode.answer,
        "stop": episode.stop,
        "error": episode.error,
        "output": episode.output,
        "scores": run.by_question.get(task.id),
        "searches": searches_of(episode),
        "seconds": episode.seconds,
        "tokens": episode.usage.prompt_tokens + episode.usage.completion_tokens,
        "calls": episode.usage.calls,
        "steps": [
            _step(step, gold, passages, [dict(message) for message in run.messages(step)]) for step in episode.steps
        ],
        "m": [dict(message) for message in run.messages(episode)],
    }


def _step(step: Step, gold: set[str], passages: _Passages, messages: Sequence[Json]) -> Json:
    record = {
        **_action(step.action),
        "o": step.outcome,
        "r": step.process_reward,
        "t": step.text,
        "s": step.score,
        "p": [passages.index(passage) for passage in step.passages],
        "g": [place for place, passage in enumerate(step.passages) if title_key(passage.title) in gold],
        "c": [
            {**_action(candidate.action), "s": candidate.score, "t": candidate.text} for candidate in step.candidates
        ],
        "m": messages,
        "u": step.usage.prompt_tokens + step.usage.completion_tokens,
    }
    # Empty fields are left out, as in the records.
    return {key: value for key, value in record.items() if value not in (None, "", [])}


def _action(action: Search | Answer | None) -> Json:
    match action:
        case Search(query, draft):
            return {"q": query} if draft is None else {"q": query, "d": draft}
        case Answer(text):
            return {"a": text}
    return {}


def _curves(folder: Path) -> Json:
    """Return the curves of a training folder: the log of `recipe.json`, one list of points per metric."""
    path = folder / "recipe.json"
    try:
        recipe = parse_json(read_file(path, follow_links=False))
        log = [entry for entry in recipe["report"].get("log", []) if _is_number(entry["step"])]
    except (OSError, ParseError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is not the record of a training: {error!r}. Pass a folder of `raggym train`."
        ) from error
    names = sorted({name for entry in log for name, value in entry.items() if _is_number(value)} - {"step", "epoch"})
    points = {name: [[entry["step"], entry[name]] for entry in log if _is_number(entry.get(name))] for name in names}
    return {"name": folder.name, "curves": points}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
