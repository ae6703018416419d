"""The agent that prompts a language model: six architectures, one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from raggym_env.core import Action, Answer, Search, State, Usage
from raggym_env.errors import OptionError, check_option
from raggym_env.llm import make
from raggym_env.policies.prompt.components import Components
from raggym_env.policies.prompt.notes import Notes
from raggym_env.policies.prompt.parse import Failure, Keys, Parsed, Reason, parse
from raggym_env.policies.prompt.templates import Example, PassageText, PromptLimits, Prompts
from raggym_env.protocols import LLM, BasePolicy, Completion, Messages, Proposal, Sampling
from raggym_env.text.replies import with_reasoning

__all__ = ["OnFailure", "PromptAgent", "note_options"]

OnFailure = Literal["retry", "search", "fail"]


@dataclass(slots=True)
class _Attempt:
    """One reply to a state's prompt, and its outcome."""

    state: State
    messages: Messages
    """The prompt: extended by the reply and a complaint when the model is asked again."""
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    outcome: Action | Failure | None = None
    """None until the model has replied."""


class PromptAgent(BasePolicy):
    """Proposes what a language model replies to the prompts of a card.

    Batched at every stage: one call of the model writes all missing notes, one call gets all replies, and at most
    one more repeats those prompts whose reply could not be parsed.

    Args:
        llm: A model, or the spec of one (`hf:smollm2`).
        llm_options: Options of the back end where `llm` is a spec, e.g. `{"timeout": 60}` of `openai:`.
        note_llm: The model that writes the notes, or the spec of one, which gets `llm_options` too if it has the back
            end of `llm`. None is `llm` itself.
        prompts: Jinja templates by name; see `templates`.
        reasoning, retrieval, queries, summaries, reflection: Whether the agent has the component; see `Components`.
            `summaries` needs the prompts `note_system` and `note_user`.
        keys: The keys `answer`, `search` and `draft` of a reply's JSON object where they are others, e.g.
            `{"answer": "final"}`; see `parse.Keys`.
        examples: Steps shown to the model as earlier turns; see `templates.Example`. False shows none of the card's:
            `--set policy.options.examples=false` is zero-shot.
        max_searches: Most searches of an episode, where the environment's budget is larger. After them the model has
            to answer; of a search all the same, the draft is the answer. None leaves it to the environment.
        temperature: Sampling temperature where several proposals are requested (arXiv 2502.13957, algorithm 1). A
            single proposal is decoded greedily.
        top_p: As in `Sampling`, where several proposals are requested.
        max_tokens, note_tokens: Maximum number of tokens of a reply, and of a note.
        passage_chars, history_chars, passages: What a prompt shows of passages; see `templates.PromptLimits`.
        on_failure: The handling of a reply that is not an action. "retry": the model is shown the reply and its
            problem, once; if that fails too, there is no action. "search": a search for the question itself,
            if one is left and that search was not made before, else no action. "fail": no action.
        seed: Seed of the sampling.

    Raises:
        OptionError: An option is out of range, or the prompts do not fit.
        LLMError: The model cannot be loaded or reached.
    """

    def __init__(
        self,
        llm: LLM | str,
        *,
        prompts: Mapping[str, str],
        llm_options: Mapping[str, Any] | None = None,
        note_llm: LLM | str | None = None,
        reasoning: bool = False,
        retrieval: bool = False,
        queries: bool = False,
        summaries: bool = False,
        reflection: bool = False,
        keys: Mapping[str, str] | None = None,
        examples: Sequence[Mapping[str, Any]] | Literal[False] = (),
        max_searches: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        note_tokens: int = 128,
        passage_chars: int = 600,
        history_chars: int = 12_000,
        passages: PassageText = "start",
        on_failure: OnFailure = "retry",
        seed: int = 0,
    ) -> None:
        check_option("on_failure", on_failure, on_failure in get_args(OnFailure), f"one of {get_args(OnFailure)}")
        check_option("max_searches", max_searches, max_searches is None or max_searches >= 0, "0 or more")
        self.max_searches = max_searches
        self.components = Components(reasoning, retrieval, queries, summaries, reflection)
        self.keys = Keys.from_card(keys or {})
        limits = PromptLimits(passage_chars, history_chars, passages)
        self.prompts = Prompts(prompts, [Example.from_card(example) for example in examples or ()], limits)
        if summaries and not self.prompts.summarises:
            raise OptionError("summaries = true needs the prompts note_system and note_user.")
        self.on_failure = on_failure
        self.sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
        # A single proposal is the policy's own choice, so it is the model's best guess and not a sample.
        self._greedy = replace(self.sampling, temperature=0.0, top_p=1.0)
        note_sampling = Sampling(max_tokens=note_tokens, seed=seed)
        # Last: loading a model can take minutes, and every other mistake should show before.
        self.llm = make(llm, **(llm_options or {})) if isinstance(llm, str) else llm
        writer = self.llm
        if summaries and note_llm is not None and note_llm != llm:
            options = note_options(llm, llm_options, note_llm)
            writer = make(note_llm, **options) if isinstance(note_llm, str) else note_llm
        self._notes = Notes(writer, self.prompts, note_sampling)
        self.failures: Counter[Reason] = Counter()
        """Replies that were not actions, by reason; one that is repeated and fails again counts twice."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return `n` proposals per state from `n` replies, in the model's order, duplicates included.

        The usage of a state's notes is part of its first proposal's.
        """
        if self.components.queries or not self.components.retrieval:
            return self._propose(states, n)
        # Without query generation the first action is a search for the question; the model is not needed for it.
        first = [not state.history and self.within_limit(state).searches_left > 0 for state in states]
        rows = iter(self._propose([state for state, search in zip(states, first, strict=True) if not search], n))
        return [
            [Proposal(Search(state.question.text))] if search else next(rows)
            for state, search in zip(states, first, strict=True)
        ]

    def within_limit(self, state: State) -> State:
        """Return the state with the searches left that this agent may use; the prompt shows this one."""
        if self.max_searches is None:
            return state
        left = min(state.searches_left, max(0, self.max_searches - len(state.history)))
        return replace(state, searches_left=left)

    def _propose(self, states: Sequence[State], n: int) -> list[list[Proposal]]:
        if not states:
            return []
        notes = self._notes.of(states) if self.components.summaries else [None] * len(states)
        rows = [self._begin(state, written, n) for state, written in zip(states, notes, strict=True)]
        # The n attempts of a state share one prompt. Without its notes a state has failed already.
        open_rows = [row for row in rows if row[0].outcome is None]
        sampling = self._greedy if n == 1 else replace(self.sampling, n=n)
        replies = self._generate([row[0].messages for row in open_rows], sampling)
        for row, completions in zip(open_rows, replies, strict=True):
            for attempt, completion in zip(row, completions, strict=True):
                self._read(attempt, completion)
        self._recover([attempt for row in rows for attempt in row])
        return [[_proposal(attempt) for attempt in row] for row in rows]

    def _begin(self, state: State, notes: Sequence[Completion] | None, n: int) -> list[_Attempt]:
        """Return the state's `n` attempts before the model replies; all failed if one of the state's notes did."""
        texts = None if notes is None else [note.text for note in notes]
        messages = self.prompts.messages(self.within_limit(state), texts, can_search=self._can_search(state))
        failure = None
        if failed := [note for note in notes or () if note.failure is not None]:
            failure = _no_reply(failed[-1], "the model wrote no note")
            self.failures[failure.reason] += n
        attempts = [_Attempt(state, messages, outcome=failure) for _ in range(n)]
        # The notes serve all attempts, so their cost counts once.
        attempts[0].usage = sum((note.usage for note in notes or ()), Usage())
        return attempts

    def _generate(self, prompts: list[Messages], sampling: Sampling) -> list[list[Completion]]:
        return self.llm.generate(prompts, sampling) if prompts else []

    def _read(self, attempt: _Attempt, completion: Completion) -> None:
        attempt.reply = with_reasoning(completion.text, completion.reasoning, completion.finish)
        attempt.usage += completion.usage
        attempt.outcome = self._outcome(attempt, completion)
        if isinstance(attempt.outcome, Failure):
            self.failures[attempt.outcome.reason] += 1

    def _outcome(self, attempt: _Attempt, completion: Completion) -> Action | Failure:
        if completion.failure is not None:
            return _no_reply(completion, "the model gave no reply")
        # In a finished reply that is all reasoning, only what ends it can be the action.
        strict = "length" if completion.reasoning and not completion.text.strip() else completion.finish
        parsed = parse(attempt.reply, strict, self.keys)
        if isinstance(parsed, Parsed):
            return self._action(attempt.state, parsed)
        if completion.finish == "length":
            # Usually the reason why it cannot be parsed; the model may then reply more briefly.
            cut = f"the reply was cut off at {self.sampling.max_tokens} tokens"
            return replace(parsed, detail=f"{parsed.detail}; {cut}")
        return parsed

    def _action(self, state: State, parsed: Parsed) -> Action | Failure:
        # The details are shown to the model when it is asked again.
        if parsed.answer is not None:
            return Answer(parsed.answer)
        if not self.components.queries:
            return Failure(Reason.NOT_ALLOWED, "this agent cannot search, so the reply must answer")
        if self.components.reflection and parsed.draft is None:
            needed = f'a search needs a "{self.keys.draft}": the answer as far as it is known'
            return Failure(Reason.NO_DRAFT, needed)
        if self.within_limit(state).searches_left < 1:
            if parsed.draft is None:
                return Failure(Reason.NO_SEARCHES_LEFT, "no search is left, so the reply must answer")
            # The environment would run it, if it has searches left. Where it has none, the search ends the episode and
            # its draft is graded.
            if state.searches_left > 0:
                return Answer(parsed.draft)
        return Search(parsed.search or "", parsed.draft)

    def _can_search(self, state: State) -> bool:
        return self.components.queries and self.within_limit(state).searches_left > 0

    def _recover(self, attempts: Sequence[_Attempt]) -> None:
        """Handle the replies that could not be parsed, as `on_failure` says."""
        # Without a reply there is nothing to repair. After an outage, a resumed run repeats the whole episode.
        failed = [
            (attempt, attempt.outcome)
            for attempt in attempts
            if isinstance(attempt.outcome, Failure) and attempt.outcome.reason not in (Reason.NO_REPLY, Reason.OUTAGE)
        ]
        if self.on_failure == "search":
            for attempt, _ in failed:
                state = attempt.state
                # Once: the same search again would find the same, and the model would fail on it again.
                searched = any(turn.query == state.question.text for turn in state.history)
                if self._can_search(state) and not searched:
                    attempt.outcome = Search(state.question.text)
        elif self.on_failure == "retry":
            for attempt, failure in failed:
                attempt.messages = self.prompts.again(
                    attempt.messages, attempt.reply, failure.detail, can_search=self._can_search(attempt.state)
                )
            replies = self._generate([attempt.messages for attempt, _ in failed], self._greedy)
            for (attempt, _), completions in zip(failed, replies, strict=True):
                self._read(attempt, completions[0])


def note_options(llm: object, llm_options: Mapping[str, Any] | None, note_llm: object) -> dict[str, Any]:
    """Return the options of the model that writes the notes: those of `llm` if both are of one back end."""
    specs = [spec.partition(":")[0] for spec in (llm, note_llm) if isinstance(spec, str)]
    return dict(llm_options or {}) if len(specs) == 2 and specs[0] == specs[1] else {}


def _proposal(attempt: _Attempt) -> Proposal:
    proposal = Proposal(None, attempt.reply, tuple(attempt.messages), attempt.usage)
    if isinstance(attempt.outcome, Failure):
        return replace(proposal, failure=str(attempt.outcome), outage=attempt.outcome.reason == Reason.OUTAGE)
    return replace(proposal, action=attempt.outcome)


def _no_reply(completion: Completion, problem: str) -> Failure:
    return Failure(Reason.OUTAGE if completion.outage else Reason.NO_REPLY, f"{problem}: {completion.failure}")
