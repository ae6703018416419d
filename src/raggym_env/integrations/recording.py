"""A session that keeps the record of its episode, for frameworks that log more than the last reward."""

from __future__ import annotations

from dataclasses import dataclass, field

from raggym_env.core import Action, State
from raggym_env.evaluation.scores import score_record
from raggym_env.integrations.session import Session
from raggym_env.mdp.records import Episode, Step

__all__ = ["RecordedSession"]


@dataclass(slots=True)
class RecordedSession:
    """A session after `Session.reset`, and the steps of its episode."""

    session: Session
    steps: list[Step] = field(default_factory=list)

    @property
    def state(self) -> State:
        assert self.session.state is not None, "reset the session first"  # noqa: S101
        return self.session.state

    async def take(self, action: Action) -> str:
        """Take an action like `Session.step_async`, whose errors these are too, and record the step."""
        before = self.state
        text = await self.session.step_async(action)
        self.steps.append(Step.of(before, action, self.state, self.session.outcome, self.session.process))
        return text

    def episode(self) -> Episode:
        """Return the record of the episode so far."""
        return Episode.of(self.state, tuple(self.steps))

    def scores(self) -> dict[str, float]:
        """Return the scores of the episode so far by metric, those of `raggym eval`."""
        assert self.session.task is not None, "reset the session first"  # noqa: S101
        return score_record(self.episode(), self.session.task)
