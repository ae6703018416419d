"""A teacher for training splits: it reads the gold passages' titles and the gold answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from raggym_env.core import Action, Answer, Search, State, Task
from raggym_env.errors import PolicyError, check_option
from raggym_env.protocols import BasePolicy, Proposal, distinct
from raggym_env.reading.answers import answers
from raggym_env.rewards.evidence import title_key
from raggym_env.rewards.tasks import TaskIndex

__all__ = ["GoldPolicy", "Incomplete", "Reach"]

Reach = Literal["visible", "any"]
Incomplete = Literal["stop", "visible"]

_DISAMBIGUATION = re.compile(r"\s*\([^()]*\)$")  # "Alien (film)"


class GoldPolicy(BasePolicy):
    """Searches as a reader could who knows what to look for, and gives the gold answer once its evidence is at hand.

    - If all gold passages have been retrieved, it gives the gold answer; for a question with options, the right one.
    - Else it searches: for the question itself; then for a missing gold passage whose title stands in the question or
      in a retrieved passage, with or without its disambiguation in parentheses, in the form that stands there. Such
      searches can be learned, since a reader sees the words to search for.
    - If no missing title stands there, `reach` decides.

    No query is repeated, and no search has a draft. With `n > 1` the teacher's action is the first proposal. Those
    after it are what a reader might do in its place, for a critic to score: answer now, as `lexical` would; search
    for the question again; search for the title of a retrieved passage.

    It reads gold facts and answers, so it is for training splits only. It needs questions with supporting facts.

    Args:
        tasks: The tasks whose states it acts in. A state without a question id is matched by its question's text.
        reach: What it searches for if no missing title is visible: "any" missing title, or only "visible" ones.
        incomplete: What it does if it cannot search on and gold passages are missing. With "stop" it has no action,
            so the episode ends without an answer and is not kept; with "visible" it gives the gold answer if that
            stands in a retrieved passage.

    Raises:
        OptionError: `reach` or `incomplete` is not one of these values.
        PolicyError: A task names no supporting facts.
    """

    def __init__(self, tasks: Sequence[Task], *, reach: Reach = "any", incomplete: Incomplete = "stop") -> None:
        check_option("reach", reach, reach in get_args(Reach), f"one of {get_args(Reach)}")
        check_option("incomplete", incomplete, incomplete in get_args(Incomplete), f"one of {get_args(Incomplete)}")
        if unsupported := sum(not task.supporting for task in tasks):
            raise PolicyError(
                f"The gold policy needs supporting facts, and {unsupported} of {len(tasks)} questions name none."
            )
        self.reach = reach
        self.incomplete = incomplete
        self._tasks = TaskIndex(tasks)

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return at most `n` distinct proposals per state, the teacher's action first.

        A state in which it has no action gets one proposal, without an action.

        Raises:
            PolicyError: A question is not one of the tasks, or two of them have its text and the state has no id.
        """
        rows = []
        for state in states:
            if (action := self._action(state, self._task(state))) is None:
                failure = "no search is left that could retrieve the missing gold passages"
                rows.append([Proposal(None, failure=failure)])
            else:
                others = _other_actions(state) if n > 1 else ()
                rows.append(distinct([Proposal(action), *map(Proposal, others)])[:n])
        return rows

    def _action(self, state: State, task: Task) -> Action | None:
        """Return the teacher's action, or None if it has none."""
        answer = task.answers[0] if task.correct is None else task.question.option_answers[task.correct]
        retrieved = {title_key(passage.title) for passage in state.passages}
        missing = [title for title in task.gold_titles if title_key(title) not in retrieved]
        if not missing:
            return Answer(answer)
        searched = {title_key(turn.query) for turn in state.history}
        queries = self._queries(state, missing) if state.searches_left > 0 else iter(())
        query = next((query for query in queries if title_key(query) not in searched), None)
        if query is not None:
            return Search(query)
        # "yes" and "no" stand in most passages and mean nothing there.
        passages = title_key("\n".join(f"{passage.title}\n{passage.text}" for passage in state.passages))
        readable = title_key(answer) not in ("yes", "no") and _stands(answer, passages)
        return Answer(answer) if self.incomplete == "visible" and readable else None

    def _queries(self, state: State, missing: Sequence[str]) -> Iterator[str]:
        """Yield the queries that could be made for the missing titles, in order of preference."""
        yield state.question.text
        shown = [state.question.text, *(f"{passage.title}\n{passage.text}" for passage in state.passages)]
        text = title_key("\n".join(shown))
        for title in missing:
            forms = (title, _DISAMBIGUATION.sub("", title))
            yield from (form for form in forms if _stands(form, text))
        if self.reach == "any":
            yield from missing

    def _task(self, state: State) -> Task:
        tasks = self._tasks.matching(state)
        if len(tasks) != 1:
            raise PolicyError(
                f"The gold policy has {len(tasks) or 'no'} tasks with the question "
                f"{state.question.text!r:.100}, and needs exactly one. Use it on the tasks that it was made with."
            )
        return tasks[0]


def _stands(name: str, text: str) -> bool:
    """True if a name stands in a text, whose key is given, as whole words."""
    key = title_key(name)
    return bool(key) and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) is not None


def _other_actions(state: State) -> Iterator[Action]:
    """Yield what a reader might do instead: answer, repeat the question, search for the titles of passages."""
    first, *rest = (text for text, _ in answers(state))
    yield Answer(first)
    if state.searches_left > 0:
        searched = {title_key(turn.query) for turn in state.history}
        titles = dict.fromkeys(passage.title for passage in state.passages if title_key(passage.title) not in searched)
        yield from (Search(text) for text in (state.question.text, *titles) if text.strip())
    yield from map(Answer, rest)
