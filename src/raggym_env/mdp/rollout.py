"""Policy and process to episode records: the one episode loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, TypeVar

from raggym_env.core import Action, State, StopReason, Task, Usage
from raggym_env.errors import InvalidAction, LLMError, OptionError, PolicyError, RAGGymError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.records import Candidate, Episode, Step
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Policy, Proposal, propose

__all__ = ["complete", "rollout"]

T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    """An episode in flight."""

    task: Task
    state: State
    steps: list[Step] = field(default_factory=list)
    error: str | None = None
    output: str = ""
    usage: Usage = field(default_factory=Usage)
    started: float = field(default_factory=time.perf_counter)

    @property
    def over(self) -> bool:
        return self.error is not None or self.state.stop is not None

    def fail(self, error: RAGGymError) -> None:
        self.error = f"{type(error).__name__}: {error}"

    def record(self) -> Episode:
        seconds = time.perf_counter() - self.started
        steps = tuple(self.steps)
        return Episode.of(self.state, steps, error=self.error, output=self.output, usage=self.usage, seconds=seconds)


def rollout(
    policy: Policy,
    tasks: Iterable[Task],
    dynamics: Dynamics,
    reward: StepReward | None = None,
    *,
    in_flight: int = 32,
) -> Iterator[Episode]:
    """Run the policy on every task, many at a time, and yield each episode as it ends.

    An episode that fails (a search, a reward or a server failed) is yielded with its reason, without a score, and
    the others go on. Only errors of this library count as such; a bug raises. An episode in which the policy's
    output is no action has ended: `StopReason.NO_ACTION`, with nothing to grade.

    Args:
        policy: Proposes one action per state.
        tasks: Read lazily; may be endless.
        dynamics: The transition.
        reward: How steps are rewarded; by default exact match of the answer.
        in_flight: Episodes that run side by side, at least 1. Policies, searches and rewards see batches of up to
            this size. Results do not depend on it unless the policy's do.
    """
    if in_flight < 1:
        raise OptionError(f"in_flight must be at least 1, got {in_flight}.")
    starting = (_Running(task, dynamics.start(task.question)) for task in tasks)
    for ended in _run(starting, policy, dynamics, reward or StepReward(), in_flight):
        yield from [episode.record() for episode in ended]


def complete(
    policy: Policy,
    tasks: Sequence[Task],
    states: Sequence[State],
    dynamics: Dynamics,
    reward: StepReward | None = None,
) -> list[Episode]:
    """Run the policy from given states to the end, all side by side. Failures are recorded as by `rollout`.

    Args:
        policy: Proposes one action per state.
        tasks: `n` tasks, which may repeat.
        states: `n` states of these tasks' questions; those that have ended stay as they are.
        dynamics: The transition.
        reward: How steps are rewarded; by default exact match of the answer.

    Returns:
        `n` episodes, in the order of the states. Their steps are those taken here.
    """
    episodes = [_Running(task, state) for task, state in zip(tasks, states, strict=True)]
    starting = iter([episode for episode in episodes if not episode.over])
    for _ in _run(starting, policy, dynamics, reward or StepReward(), max(1, len(episodes))):
        pass
    return [episode.record() for episode in episodes]


def _run(
    waiting: Iterator[_Running], policy: Policy, dynamics: Dynamics, reward: StepReward, in_flight: int
) -> Iterator[list[_Running]]:
    """Run episodes, at most `in_flight` at a time, and yield after each step those that ended."""
    running: list[_Running] = []
    while True:
        running += islice(waiting, in_flight - len(running))
        if not running:
            return
        _advance(running, policy, dynamics, reward)
        yield [episode for episode in running if episode.over]
        running = [episode for episode in running if not episode.over]


class _Chosen(NamedTuple):
    """What the policy chose in an episode."""

    episode: _Running
    proposal: Proposal
    action: Action


def _advance(running: Sequence[_Running], policy: Policy, dynamics: Dynamics, reward: StepReward) -> None:
    """Take one step in each episode."""
    chosen: list[_Chosen] = []
    _isolated(lambda part: chosen.extend(_propose(part, policy)), running, lambda episode: episode)
    _isolated(lambda part: _apply(part, dynamics, reward), chosen, lambda choice: choice.episode)


def _isolated(act: Callable[[Sequence[T]], None], batch: Sequence[T], episode: Callable[[T], _Running]) -> None:
    """Do it for the whole batch, or, if that fails, for each alone, so that only the culprits fail."""
    if not batch:
        return
    try:
        act(batch)
    except LLMError:
        raise  # no episode can work without the model: better to stop than to fail them all
    except RAGGymError as error:
        if len(batch) == 1:
            episode(batch[0]).fail(error)
            return
        for one in batch:
            _isolated(act, [one], episode)


def _propose(running: Sequence[_Running], policy: Policy) -> list[_Chosen]:
    """The episodes that go on, with what the policy chose. One whose output is no action fails by itself."""
    proposed = propose(policy, [episode.state for episode in running])
    chosen = []
    for episode, proposals in zip(running, proposed, strict=True):
        proposal = proposals[0] if proposals else Proposal(None, failure="the policy proposed nothing")
        episode.usage += proposal.usage
        try:
            chosen.append(_Chosen(episode, proposal, proposal.chosen()))
        except (PolicyError, InvalidAction) as error:
            if proposal.outage:
                episode.fail(error)
            else:
                episode.output = proposal.text or str(error)
                episode.state = replace(episode.state, stop=StopReason.NO_ACTION)
    return chosen


def _apply(chosen: Sequence[_Chosen], dynamics: Dynamics, reward: StepReward) -> None:
    states = [choice.episode.state for choice in chosen]
    actions = [choice.action for choice in chosen]
    after = dynamics.transition(states, actions)
    rewards = reward.score([choice.episode.task for choice in chosen], states, actions, after)
    # From here on nothing can fail, so no episode is left half-stepped.
    for (episode, proposal, action), state, part in zip(chosen, after, rewards, strict=True):
        step = Step.of(episode.state, action, state, part.outcome, part.process_reward, **_provenance(proposal))
        episode.steps.append(step)
        episode.state = state


def _provenance(proposal: Proposal) -> dict[str, object]:
    return {
        "text": proposal.text,
        "score": proposal.score,
        "candidates": tuple(Candidate(c.action, c.score, c.text) for c in proposal.candidates),
        "messages": proposal.messages,
        "usage": proposal.usage,
    }
