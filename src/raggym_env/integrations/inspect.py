"""Environments as tasks of inspect_ai, and runs as its logs.

    inspect eval raggym_env/search_qa -T env=RAGGym-HotpotQA-v0 --model openai/gpt-4o-mini
    raggym export runs/RUN --to inspect --out logs/RUN && inspect view --log-dir logs

A task has a card's questions as its data set, and two tools, `search` and `answer`, which take the steps of the episode
that `RAGEnv` would run. Its scorers are the metrics of `raggym eval`. The episode, with the outcome and the process
reward of every step, is in the store of each sample, in the form of a run's records; an exported run has it there too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

from raggym_env.build import load_mdp
from raggym_env.core import Action, Answer, Search, State, Task, Usage
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, MissingExtra
from raggym_env.evaluation.scored_run import LoadTasks, ScoredRun
from raggym_env.evaluation.scores import score_record
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.instructions import ENDED, INSTRUCTIONS, REMINDER
from raggym_env.integrations.recording import RecordedSession
from raggym_env.integrations.session import Session
from raggym_env.mdp.records import Episode
from raggym_env.storage.atomic import atomic_folder, new_folder
from raggym_env.storage.work_folder import installed_version
from raggym_env.text.exits import for_file_name, for_page
from raggym_env.text.tagged import tagged_text
from raggym_env.text.untrusted import as_data

try:
    from inspect_ai import Task as InspectTask
    from inspect_ai import log as logs
    from inspect_ai import task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        ModelOutput,
        ModelUsage,
    )
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver
    from inspect_ai.tool import ToolCall, ToolDef, ToolError
except ImportError as error:
    raise MissingExtra("inspect_ai", "inspect") from error

Json = dict[str, Any]

__all__ = ["EPISODE", "METRICS", "SCORES", "export_log", "open_episode", "run_episode", "run_log", "search_qa"]

EPISODE = "raggym_episode"
"""Key of the episode's record in the store of a sample."""
SCORES = "raggym_scores"
"""Key of the episode's scores, by metric, in the store of a sample."""
METRICS = ("em", "f1", "cover_em", "answer_precision", "answer_recall", "accuracy", "recall")
"""Names of the scorers; a question has those that `raggym eval` gives it."""

_REMINDERS = 3  # replies without a step, or with one that is refused, that an episode may have


# -- a card as a task ---------------------------------------------------------------------------------------------


@task  # type: ignore[untyped-decorator]
def search_qa(
    env: str = "RAGGym-Synth-v0",
    split: str | None = None,
    k: int | None = None,
    max_searches: int | None = None,
    process_reward: str | None = None,
    trust_card: bool = False,
) -> InspectTask:
    """Return the task of an environment's card. Arguments and errors are those of `raggym_env.build.load_mdp`."""
    settings: dict[str, Any] = {"k": k, "max_searches": max_searches, "process_reward": process_reward}
    settings = {name: value for name, value in settings.items() if value is not None}
    mdp = load_mdp(env, split, trust=trust_card, **settings)
    world = Episodes(mdp.tasks, mdp.dynamics, mdp.reward)
    # A question has the same metrics whatever its answer is.
    names = {name for gold in mdp.tasks for name in score_record(Episode("", "", (), "", None), gold)}
    texts = [tagged_text(mdp.dynamics.start(gold.question)) for gold in mdp.tasks]
    samples = [
        Sample(text, target=list(gold.answers), id=gold.id, metadata={"row": row})
        for row, (text, gold) in enumerate(zip(texts, mdp.tasks, strict=True))
    ]
    return InspectTask(
        MemoryDataset(samples, name=mdp.card.name, location=mdp.split),
        setup=open_episode(world),
        solver=run_episode(mdp.dynamics.max_searches),
        scorer=[_scorer(name)() for name in METRICS if name in names],
        name=mdp.card.name,
        version=mdp.dataset.fingerprint,
        metadata={"split": mdp.split, "metric": mdp.card.episode.metric, "retriever": mdp.card.retrieval.name},
    )


def open_episode(world: Episodes) -> Solver:
    """Return a solver that gives a sample the tools `search` and `answer`, and keeps its episode in the store."""
    batcher = cache(lambda: StepBatcher(world))  # made for the first sample; a task that is only listed needs none

    # inspect_ai writes the arguments of a decorated function into the log, and the world has thousands of questions.
    @solver(name="open_episode")  # type: ignore[untyped-decorator]
    def setup() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            episode = _Episode(Session(world, batcher=batcher()), state)
            state.messages.insert(0, ChatMessageSystem(content=INSTRUCTIONS))
            state.tools = [ToolDef(tool, parallel=False).as_tool() for tool in episode.tools()]
            return state

        return solve

    return setup()


class _Episode:
    """The tools of a sample."""

    def __init__(self, session: Session, state: TaskState) -> None:
        session.reset(row=state.metadata["row"])
        self._recorded, self._sample = RecordedSession(session), state
        self._save()

    def tools(self) -> Iterator[Callable[[str], Awaitable[str]]]:
        """Yield the two tools. inspect_ai reads their names and docstrings, and sets attributes that methods lack."""

        async def search(query: str) -> str:
            """Search the encyclopedia. The result is the passages that match best, and how many searches are left.

            Args:
                query: What to look for: a few words, or the name of a person or a thing.
            """
            return await self._take(Search(query))

        async def answer(text: str) -> str:
            """Answer the question, which ends the episode.

            Args:
                text: The answer alone, as short as it can be.
            """
            return await self._take(Answer(text))

        yield search
        yield answer

    async def _take(self, action: Action) -> str:
        if self._recorded.session.done:
            raise ToolError(ENDED)
        try:
            text = await self._recorded.take(action)
        except InvalidAction as error:
            raise ToolError(str(error)) from error
        self._save()
        return text

    def _save(self) -> None:
        episode = self._recorded.episode()
        self._sample.store.set(EPISODE, episode.to_json())
        self._sample.store.set(SCORES, self._recorded.scores())
        self._sample.completed = episode.stop is not None  # other solvers stop there, too


@solver  # type: ignore[untyped-decorator]
def run_episode(max_searches: int) -> Solver:
    """Return the solver that lets the model call the tools of `open_episode` until its episode ends.

    A reply that takes no step is answered with a reminder, three times at most; then the episode ends without answer.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for _ in range(max_searches + 1 + _REMINDERS):
            state = await generate(state, tool_calls="single")
            record = state.store.get(EPISODE)
            if record["stop"] is not None:
                state.output.completion = record["answer"] or state.output.completion
                break
            if not state.output.message.tool_calls:
                state.messages.append(ChatMessageUser(content=REMINDER))
        state.completed = True
        return state

    return solve


@cache
def _scorer(name: str) -> Any:
    """Return the scorer of a metric, under the metric's name, which is what inspect_ai tells scorers apart by."""

    @scorer(metrics=[mean(), stderr()], name=name)  # type: ignore[untyped-decorator]
    def metric() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            return _score(name, state.store.get(EPISODE), state.store.get(SCORES, {}))

        return score

    return metric


def _score(name: str, record: Json, scores: Json) -> Score:
    about = {"answer": record["answer"], "explanation": f"The episode ended by: {record['stop'] or 'no answer'}."}
    # What is not scored is left out of inspect_ai's means, as it is by `raggym eval`.
    return Score(value=scores[name], **about) if name in scores else Score.unscored(reason="not_applicable", **about)


for _name in METRICS:
    _scorer(_name)  # registered, so that logs can be scored anew


# -- a run as a log -----------------------------------------------------------------------------------------------

# By the status of a run.
_STATUSES: dict[str, logs.EvalStatus] = {"running": "started", "incomplete": "error", "complete": "success"}


def export_log(run: str | Path, out: str | Path, *, load_tasks: LoadTasks | None = None) -> Path:
    """Write a run folder as a log in the folder `out`, whole or not at all, and return the log's path.

    Raises:
        RunError: `out` exists, or `run` holds no evaluation.
        DataError: The data set is not here.
    """
    out = new_folder(out)
    log = run_log(ScoredRun.read(run, load_tasks))
    # The names of inspect_ai's own logs have three parts with "_" between them.
    parts = (log.eval.created.replace(":", "-"), log.eval.task, log.eval.task_id)
    name = "_".join(for_file_name(part.replace("_", "-"), length=60) for part in parts) + ".eval"
    with atomic_folder(out) as folder:
        logs.write_eval_log(log, str(folder / name))
    return out / name


def run_log(scored: ScoredRun) -> logs.EvalLog:
    """Return the log of a run: a sample for each recorded episode, and the means that inspect_ai computes of them."""
    by_id = {task.id: task for task in scored.tasks}
    names = _distinct(for_file_name(id, length=200) for id in scored.episodes)
    samples = [
        _sample(scored, name, episode, by_id[episode.id])
        for name, episode in zip(names, scored.episodes.values(), strict=True)
    ]
    log = logs.EvalLog(status=_STATUSES[scored.run.status], eval=_spec(scored), plan=logs.EvalPlan(), samples=samples)
    if log.status == "error":
        log.error = _error("Some questions of this run have no score; `raggym eval` with its options runs them again.")
    logs.recompute_metrics(log)
    assert log.results is not None  # noqa: S101  # made by the line above
    log.results.total_samples = len(scored.tasks)
    usage = {log.eval.model: _usage(scored.scores.usage)}
    log.stats = logs.EvalStats(started_at=log.eval.created, completed_at=log.eval.created, model_usage=usage)
    return log


def _model(scored: ScoredRun) -> str:
    policy = scored.run.config["policy"]
    # inspect_ai's names of models have two parts.
    return str(for_page(str(policy.get("options", {}).get("llm") or f"raggym/{policy['name']}")))


def _spec(scored: ScoredRun) -> logs.EvalSpec:
    config = scored.run.config
    file = scored.run.episodes_file
    # The folder records no time of its start; the file changes when an episode ends.
    ended = datetime.fromtimestamp((file if file.exists() else scored.run.path).stat().st_mtime, UTC)
    names = [name for name in METRICS if any(name in scores for scores in scored.by_question.values())]
    measured = [{"name": f"inspect_ai/{name}"} for name in ("mean", "stderr")]
    about = {"split": scored.split, "setting": scored.setting, "policy": scored.label}
    card, location = for_page(scored.card.name), for_page(scored.split)
    return logs.EvalSpec(
        created=ended.isoformat(timespec="seconds"),
        task=card,
        task_id=for_file_name(scored.label, length=40),
        task_version=for_page(scored.taskset.fingerprint),
        model=_model(scored),
        dataset=logs.EvalDataset(name=card, location=location, samples=len(scored.tasks)),
        config=logs.EvalConfig(limit=config["limit"]),
        packages={name: version for name in ("raggym-env", "inspect-ai") if (version := installed_version(name))},
        metadata=for_page({**about, "metric": scored.card.episode.metric}),
        scorers=[{"name": name, "metrics": measured} for name in names],
    )


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """Yield the names, of equal or empty ones with a number. In a log, they become parts of names of files."""
    taken: set[str] = set()
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        free = next(candidate for candidate in chain([name], numbered) if candidate and candidate not in taken)
        taken.add(free)
        yield free


def _sample(scored: ScoredRun, name: str, episode: Episode, task: Task) -> logs.EvalSample:
    scores = dict(scored.by_question.get(episode.id, {}))
    model = _model(scored)
    record = for_page(episode.to_json())
    return logs.EvalSample(
        id=name,
        epoch=1,
        input=for_page(task.question.text),
        choices=for_page(task.question.options) or None,
        target=for_page(task.answers),
        messages=[*_messages(scored, episode, task)],
        output=ModelOutput.from_content(model, for_page(episode.answer or episode.output)),
        scores={metric: _score(metric, record, scores) for metric in scores},
        metadata={"question_id": for_page(task.id), "type": for_page(task.type)},
        store={EPISODE: record, SCORES: scores},
        model_usage={model: _usage(episode.usage)} if episode.usage != Usage() else {},
        total_time=episode.seconds,
        error=None if episode.error is None else _error(episode.error),
    )


def _messages(scored: ScoredRun, episode: Episode, task: Task) -> Iterator[ChatMessage]:
    """Yield an episode as the chat of a model with tools, whatever the policy is."""
    yield ChatMessageUser(content=for_page(tagged_text(State(task.question, (), scored.card.episode.max_searches))))
    for number, step in enumerate(episode.steps, 1):
        name = "search" if isinstance(step.action, Search) else "answer"
        argument = {"query": step.action.query} if isinstance(step.action, Search) else {"text": step.action.text}
        about = {"outcome": step.outcome, "process_reward": step.process_reward, "score": step.score}
        prompt = [dict(message) for message in scored.messages(step)]
        yield ChatMessageAssistant(
            content=for_page(step.text),
            tool_calls=[ToolCall(id=f"step-{number}", function=name, arguments=for_page(argument))],
            metadata={**about, **({"prompt": for_page(prompt)} if prompt else {})},
        )
        if isinstance(step.action, Search):
            # A run records no texts of passages, so their titles are all there is.
            titles = "\n".join(f"[{rank}] {as_data(passage.title)}" for rank, passage in enumerate(step.passages, 1))
            yield ChatMessageTool(content=for_page(titles or "nothing"), tool_call_id=f"step-{number}", function=name)
    if episode.output:
        yield ChatMessageAssistant(content=for_page(episode.output))


def _usage(usage: Usage) -> ModelUsage:
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    return ModelUsage(
        input_tokens=usage.prompt_tokens - cached,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        input_tokens_cache_read=cached or None,
    )


def _error(message: str) -> logs.EvalError:
    return logs.EvalError(message=for_page(message), traceback="", traceback_ansi="")
