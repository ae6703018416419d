"""The leaderboard: scores recorded answers again and ranks them. Reads records and data sets; calls no model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raggym_env.cards import EnvCard, env_card
from raggym_env.core import Task
from raggym_env.data.hub import PREFIX as HUB
from raggym_env.errors import DataError, RAGGymError, RunError
from raggym_env.evaluation.predictions import read_predictions
from raggym_env.evaluation.published import PUBLISHED, PublishedResult, read_published
from raggym_env.evaluation.scored_run import LoadTasks, ScoredRun, cached_tasks
from raggym_env.evaluation.scores import Scores, score_records
from raggym_env.registry import LLMS
from raggym_env.storage.parsing import ParseError
from raggym_env.text.exits import for_markdown, for_terminal

__all__ = ["COLUMNS", "Board", "Leaderboard", "Row", "build_leaderboard"]

Json = dict[str, Any]
# In the order of the columns. A board leaves out a metric that none of its rows has.
COLUMNS = {"accuracy": "Accuracy", "em": "EM", "f1": "F1", "cover_em": "Cover EM", "recall": "Recall"}


@dataclass(frozen=True, slots=True)
class Row:
    """One run, one predictions file or one published result."""

    policy: str
    source: str
    """The run folder or file that the scores were computed from, or the publication of a published result."""
    scores: Scores | None = None
    """None for a published result."""
    cited: Mapping[str, float] | None = None
    """Published means by metric, in [0, 1]. Not computed here and never ranked."""
    setting: str = ""
    """Retriever, passages per search, search budget and fingerprint of the corpus; of a published result its model,
    passages per search and corpus, as far as they are stated; empty for predictions."""
    model: str = ""
    """The language model, "none" without one; empty if it is not recorded."""
    k: int | None = None
    """Passages per search; None if it is not recorded, or for a published result of an agent that does not search."""
    corpus: str = ""
    """The corpus: a data set on the hub, a file, or that of a published result; empty as for `k`."""
    unknown: int = 0
    """Predictions for questions that are not in the split. They are not scored."""

    def figure(self, metric: str) -> tuple[float, float | None, float | None] | None:
        """Return the mean and interval of a metric, or None. A published mean has no interval."""
        if self.scores is not None:
            return self.scores.metrics.get(metric)
        return (self.cited[metric], None, None) if self.cited and metric in self.cited else None


@dataclass(frozen=True, slots=True)
class Board:
    """The rows of one environment, split and set of questions, best first."""

    environment: str
    split: str
    questions: int
    metric: str
    """The metric that the rows are ranked by."""
    rows: tuple[Row, ...]

    @property
    def has_tokens(self) -> bool:
        """True if a policy used a language model."""
        return any(row.scores is not None and row.scores.tokens for row in self.rows)

    def notes(self) -> list[str]:
        """Return the sentences below the board, as plain text."""
        return _notes(self, for_terminal)

    def differences(self) -> str:
        """Return a warning that says in what published rows differ from the runs, as plain text; empty if in nothing.

        A corpus in a file is never taken for a published one on the hub: its name says nothing about its content.
        """
        return _differences(self.rows, for_terminal)

    @property
    def metrics(self) -> list[str]:
        """The metrics that at least one row has, in the order of their columns."""
        return [name for name in COLUMNS if any(row.figure(name) for row in self.rows)]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Boards by environment."""

    boards: tuple[Board, ...]

    def to_json(self) -> list[Json]:
        """Return the boards as plain data, every figure unrounded."""
        return [asdict(board) for board in self.boards]

    def to_markdown(self) -> str:
        """Return the boards as Markdown tables: means with 95 % intervals, complete runs ranked, others below."""
        return "\n\n".join(_markdown(board) for board in self.boards)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row and the questions it was scored on, which decide its board."""

    card: EnvCard
    split: str
    tasks: Sequence[Task]
    key: tuple[str, ...]
    """That of `ScoredRun.key`: means are comparable only over the same questions, scored by the same metric."""
    row: Row


def build_leaderboard(
    sources: Iterable[str | Path],
    *,
    card: str | Path | EnvCard | None = None,
    split: str = "test",
    published: bool | str | Path | None = None,
    on_error: Callable[[Path, Exception], None] | None = None,
) -> Leaderboard:
    """Score runs and predictions, and rank them by environment.

    A folder may come from somebody else: nothing is written or downloaded, no link in it is followed, and its questions
    must be those of this machine's data set.

    Args:
        sources: Run folders, folders of run folders, or predictions files in a form of `read_predictions`.
        card: Environment of the predictions; needed with a predictions file only.
        split: Split of the predictions.
        published: Published results to show unranked beside the runs: True for the paper's, or a TOML file with a
            table `[[result]]` each, with the keys of `published.PublishedResult`.
        on_error: Called with each source that cannot be scored and its error; the source is left out. By default the
            error is raised.

    Raises:
        RunError: A folder is not a run, or its questions are not those of the local data set.
        DataError: Episodes or predictions are malformed, no environment was given for predictions, or the questions
            are not on this machine.
    """
    load_tasks = cached_tasks()
    entries = []
    for source in itertools.chain.from_iterable(map(_runs_in, map(Path, sources))):
        try:
            if source.is_dir():
                run = ScoredRun.read(source, load_tasks)
                policy = run.run.config["policy"]
                # A policy object has no options on record, so neither has it a model.
                model = str(dict(policy["options"]).get("llm") or "none") if "options" in policy else ""
                corpus, k = _corpus(run.taskset.source), run.card.retrieval.k
                row = Row(run.label, str(source), run.scores, setting=run.setting, model=model, k=k, corpus=corpus)
                entries.append(_Entry(run.card, run.split, run.tasks, run.key, row))
            else:
                entries.append(_predictions_entry(source, card, split, load_tasks))
        except (RAGGymError, ParseError, OSError) as error:
            if on_error is None:
                raise
            on_error(source, error)
    cited = read_published(PUBLISHED if published is True else published) if published else []
    groups: dict[tuple[str, ...], list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    return Leaderboard(tuple(_board(group, cited) for _, group in sorted(groups.items())))


def _runs_in(source: Path) -> list[Path]:
    """Return the run folders directly in a folder that is none itself; whatever else is named stands for itself."""
    if not source.is_dir() or (source / "run.json").exists():
        return [source]
    inner = sorted(path for path in source.iterdir() if (path / "run.json").is_file() and not path.is_symlink())
    return inner or [source]


def _predictions_entry(path: Path, card: str | Path | EnvCard | None, split: str, load_tasks: LoadTasks) -> _Entry:
    if not path.is_file():
        raise RunError(f"{path} is neither a run folder nor a predictions file.")
    if card is None:
        raise DataError(f"{path} is a predictions file: name its environment with --env.")
    card = env_card(card)
    taskset = load_tasks(card, split)
    predictions = read_predictions(path)
    ids = {task.id for task in taskset.tasks}
    unknown = sum(prediction.id not in ids for prediction in predictions)
    # A file of another split would otherwise be scored as if every question were missing.
    if unknown == len(predictions):
        raise DataError(f"{path}: none of its {unknown} ids is a question of {card.name}, split {split!r}.")
    row = Row(path.stem, str(path), score_records(predictions, taskset.tasks), unknown=unknown)
    key = (card.name, split, f"{len(taskset.tasks):09}", taskset.fingerprint, card.episode.metric)
    return _Entry(card, split, taskset.tasks, key, row)


def _corpus(source: str) -> str:
    """Return the name of the corpus in the description of a split's files."""
    _, comma, corpus = source.rpartition(", corpus: ")
    if not comma:
        return "generated"
    # A file's name holds no slash, so it never equals that of a data set on the hub.
    return corpus.split(":")[1] if corpus.startswith(HUB) else Path(corpus).name


def _board(group: Sequence[_Entry], cited: Sequence[PublishedResult]) -> Board:
    first = group[0]
    metric = first.card.episode.metric

    def rank_key(row: Row) -> tuple[bool, float, str]:
        assert row.scores is not None  # noqa: S101  # published rows are added after sorting
        estimate = row.scores.metrics.get(metric)
        # Ranked runs first; the name decides ties, so that the board does not depend on the order of the arguments.
        return not row.scores.ranked, -estimate.mean if estimate else 0.0, row.policy

    rows = sorted((entry.row for entry in group), key=rank_key)
    rows += [
        Row(row.policy, row.source, cited=row.means, setting=row.setting, model=row.model, k=row.k, corpus=row.corpus)
        for row in cited
        if row.environment == first.card.name
    ]
    return Board(first.card.name, first.split, len(first.tasks), metric, tuple(rows))


def _markdown(board: Board) -> str:
    metrics = board.metrics
    settings = {row.setting for row in board.rows if row.scores or row.setting}
    heads = ["#", "Policy", *(COLUMNS[name] for name in metrics), "Searches", "Scored"]
    heads += ["Tokens", "Cost, $"] if board.has_tokens else []
    # Only where they differ: a column of equal cells says nothing.
    heads += ["Setting"] if len(settings) > 1 else []
    lines = [
        f"### {for_markdown(board.environment)}, {for_markdown(board.split)} split, {board.questions} questions",
        "",
        _line(heads),
        _line(["---:" if head == "#" else "---" for head in heads]),
    ]
    for place, row in enumerate(board.rows, 1):
        cells = _cells(row, place, metrics)
        if board.has_tokens:
            scores = row.scores
            cells.append(f"{scores.tokens:,}" if scores else "")
            cells.append(f"{scores.cost:.4f}" if scores and scores.cost is not None else "")
        cells += [for_markdown(row.setting)] if len(settings) > 1 else []
        lines.append(_line(cells))
    return "\n".join([*lines, "", " ".join(_notes(board, for_markdown))])


def _notes(board: Board, text: Callable[..., str]) -> list[str]:
    """Return the sentences below a board. `text` makes names and reasons fit for the place that shows them."""
    notes = [f"Ranked by {COLUMNS[board.metric]}; 95 % bootstrap intervals, or Wilson's where all scores are 0 or 1."]
    settings = {row.setting for row in board.rows if row.scores}
    if len(settings) == 1 and (setting := settings.pop()):
        notes.append(f"Setting: {text(setting)}.")
    if any(row.scores and not row.scores.complete for row in board.rows):
        notes.append("Runs in which not every question is scored are not ranked; their means are over the scored ones.")
    notes += [
        f"{text(row.policy)}: {row.unknown:,} of its predictions are for other questions and not scored."
        for row in board.rows
        if row.unknown
    ]
    notes += [note for row in board.rows if (note := _no_action_note(row, text))]
    if any(row.cited for row in board.rows):
        notes.append("Cited rows are published results on the publication's questions; they are never ranked.")
        notes += filter(None, [_differences(board.rows, text)])
    return notes


def _differences(rows: Sequence[Row], text: Callable[..., str]) -> str:
    """Return `Board.differences`. `text` is as for `_notes`."""
    attributes: dict[str, Callable[[Row], str]] = {
        "model": lambda row: _model(row.model),
        "k": lambda row: str(row.k or ""),
        "corpus": lambda row: row.corpus,
    }
    parts = []
    for name, value in attributes.items():
        runs = dict.fromkeys(value(row) or "not recorded" for row in rows if row.cited is None)
        cited = [value(row) for row in rows if row.cited is not None and value(row)]
        others = dict.fromkeys(one for one in cited if any(one.casefold() != run.casefold() for run in runs))
        if others:
            count = sum(one in others for one in cited)
            listed, here = (", ".join(text(one, length=100) for one in values) for values in (others, runs))
            parts.append(f"the {name} of {count} cited rows is {listed}, that of the runs {here}")
    return f"Warning, not comparable: {'; '.join(parts)}." if parts else ""


def _model(name: str) -> str:
    """Return the part of a model's name that two ways to write it share.

    >>> _model("openai:meta-llama/Llama-3.1-8B-Instruct@http://localhost:8000/v1")
    'Llama-3.1-8B-Instruct'
    """
    backend, _, rest = name.partition(":")
    # `hf:BASE+ADAPTER` is tuned, which published rows say by the name of their policy.
    return (rest if backend in LLMS else name).partition("@")[0].partition("+")[0].rpartition("/")[2]


def _no_action_note(row: Row, text: Callable[..., str]) -> str:
    """Return a sentence on the outputs of a run that were no action; empty if there were none."""
    scores = row.scores
    if scores is None or not scores.no_action:
        return ""
    verdict = f"{scores.no_action:,} outputs could not be read as an action and score 0"
    if scores.no_action == scores.questions:
        verdict = "no output could be read as an action, so it is not ranked"
    reason = next(iter(scores.no_action_reasons), "unknown")  # a record of an older version has none
    return f"{text(row.policy)}: {verdict}. Most frequent reason: {text(reason, length=200).rstrip('.')}."


def _cells(row: Row, place: int, metrics: Sequence[str]) -> list[str]:
    figures = [_figure(row.figure(name)) for name in metrics]
    if row.scores is None:
        return ["", f"{for_markdown(row.policy)} (cited: {for_markdown(row.source)})", *figures, "", ""]
    scores = row.scores
    scored = f"{scores.scored}/{scores.questions}"
    scored += f", {scores.no_action} no action" if scores.no_action else ""
    scored += f", {scores.failed} failed" if scores.failed else ""
    return [
        str(place) if scores.ranked else "",
        for_markdown(row.policy),
        *figures,
        "" if scores.searches is None else f"{scores.searches:.2f}",
        scored,
    ]


def _figure(figure: tuple[float, float | None, float | None] | None) -> str:
    if figure is None:
        return ""
    mean, low, high = figure
    return f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
