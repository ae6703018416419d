"""The agent that prompts a language model: six architectures, one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from raggym_env.core import Action, Answer, Search, State, Usage
from raggym_env.errors import OptionError
from raggym_env.llm import make
from raggym_env.policies.prompt.components import Components
from raggym_env.policies.prompt.notes import Notes
from raggym_env.policies.prompt.parse import Failure, Parsed, Reason, parse
from raggym_env.policies.prompt.templates import Example, Prompts, Shown
from raggym_env.protocols import LLM, BasePolicy, Completion, Messages, Proposal, Sampling

__all__ = ["OnFailure", "PromptAgent"]

OnFailure = Literal["retry", "search", "fail"]


@dataclass(slots=True)
class _Draft:
    """A proposal in the making: one reply to one state's prompt."""

    state: State
    messages: Messages
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    outcome: Action | Failure | None = None


class PromptAgent(BasePolicy):
    """Proposes what a language model replies to the prompts of a card.

    Batched at every stage: one call of the model writes all missing notes, one asks for all proposals, and at most
    one asks again for those that could not be read.

    Args:
        llm: A model, or the spec of one (`hf:smollm2`).
        llm_options: Options of the back end where `llm` is a spec, e.g. `{"timeout": 60}` of `openai:`.
        prompts: Jinja templates by name; see `templates`.
        reasoning: See `Components`, as for the next four.
        retrieval: Whether it sees passages.
        queries: Whether it writes its own queries.
        summaries: Whether it sees notes in place of passages; needs the prompts `note_system` and `note_user`.
        reflection: Whether a search carries a draft answer; a search without one is then a failure.
        examples: Steps shown to the model as earlier turns; see `templates.Example`.
        temperature: Of the proposals where several are asked for (arXiv 2502.13957, algorithm 1). A single
            proposal is decoded greedily.
        top_p: As in `Sampling`, where several are asked for.
        max_tokens: Tokens per reply.
        note_tokens: Tokens per note.
        passage_chars: Characters shown of each passage.
        history_chars: Characters shown of all searches; what does not fit is left out from the oldest search on.
        on_failure: What a reply that is no action turns into. "retry": the model is shown what is wrong, once; if
            that fails too, there is no action. "search": a search for the question itself, if one is left and that
            search was not made yet, else no action. "fail": no action.
        seed: Of the sampling.

    Raises:
        ValueError: An option is out of range, or the prompts do not fit.
        LLMError: The model cannot be had.
    """

    def __init__(
        self,
        llm: LLM | str,
        *,
        prompts: Mapping[str, str],
        llm_options: Mapping[str, Any] | None = None,
        reasoning: bool = False,
        retrieval: bool = False,
        queries: bool = False,
        summaries: bool = False,
        reflection: bool = False,
        examples: Sequence[Mapping[str, Any]] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        note_tokens: int = 128,
        passage_chars: int = 600,
        history_chars: int = 12_000,
        on_failure: OnFailure = "retry",
        seed: int = 0,
    ) -> None:
        if on_failure not in get_args(OnFailure):
            raise OptionError(f"on_failure must be one of {get_args(OnFailure)}, got {on_failure!r}.")
        for name, value in (("passage_chars", passage_chars), ("history_chars", history_chars)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        self.components = Components(reasoning, retrieval, queries, summaries, reflection)
        self.prompts = Prompts(
            prompts, [Example.from_card(example) for example in examples], Shown(passage_chars, history_chars)
        )
        if summaries and not self.prompts.summarises:
            raise OptionError("summaries = true needs the prompts note_system and note_user.")
        self.on_failure = on_failure
        self.sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
        self._greedy = replace(self.sampling, temperature=0.0, top_p=1.0)
        note_sampling = Sampling(max_tokens=note_tokens, seed=seed)
        self.llm = make(llm, **(llm_options or {})) if isinstance(llm, str) else llm
        self._notes = Notes(self.llm, self.prompts, note_sampling)
        self.failures: Counter[Reason] = Counter()
        """Replies that were no action, by reason; one that was asked for again counts each time."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """`n` proposals per state from `n` replies, in the model's order; duplicates stay.

        The usage of a state's notes is part of its first proposal's.
        """
        if self.components.retrieval and not self.components.queries:
            return self._propose_after_search(states, n)
        return self._ask(states, n)

    def _propose_after_search(self, states: Sequence[State], n: int) -> list[list[Proposal]]:
        """Without query generation the first action is a search for the question, and the model is not asked."""
        asked = iter(self._ask([state for state in states if not _unsearched(state)], n))
        return [[Proposal(Search(state.question.text))] if _unsearched(state) else next(asked) for state in states]

    def _ask(self, states: Sequence[State], n: int) -> list[list[Proposal]]:
        if not states:
            return []
        notes = self._notes.of(states) if self.components.summaries else None
        rows = [self._begin(state, None if notes is None else notes[i], n) for i, state in enumerate(states)]
        self._fill(rows, n)
        flat = [draft for row in rows for draft in row]
        self._recover([draft for draft in flat if isinstance(draft.outcome, Failure)])
        return [[self._proposal(draft) for draft in row] for row in rows]

    def _begin(self, state: State, notes: Sequence[Completion] | None, n: int) -> list[_Draft]:
        """The state's `n` drafts, before the model is asked; all failed if a note of the state did."""
        texts = None if notes is None else [note.text for note in notes]
        messages = self.prompts.messages(state, texts, can_search=self._can_search(state))
        drafts = [_Draft(state, messages) for _ in range(n)]
        for note in notes or ():
            drafts[0].usage += note.usage
            if note.failure is not None:
                for draft in drafts:
                    draft.outcome = _no_reply(note, "the model wrote no note")
        return drafts

    def _fill(self, rows: Sequence[Sequence[_Draft]], n: int) -> None:
        asked = [row for row in rows if row[0].outcome is None]
        sampling = self._greedy if n == 1 else replace(self.sampling, n=n)
        replies = self._generate([row[0].messages for row in asked], sampling)
        for row, completions in zip(asked, replies, strict=True):
            for draft, completion in zip(row, completions, strict=True):
                self._read(draft, completion)
        for row in rows:
            if row not in asked:
                self.failures.update(reason for draft in row if (reason := _reason(draft)))

    def _generate(self, prompts: list[Messages], sampling: Sampling) -> list[list[Completion]]:
        return self.llm.generate(prompts, sampling) if prompts else []

    def _read(self, draft: _Draft, completion: Completion) -> None:
        draft.reply = completion.text
        draft.usage += completion.usage
        draft.outcome = self._outcome(draft.state, completion)
        if isinstance(draft.outcome, Failure):
            self.failures[draft.outcome.reason] += 1

    def _outcome(self, state: State, completion: Completion) -> Action | Failure:
        if completion.failure is not None:
            return _no_reply(completion, "the model gave no reply")
        found = parse(completion.text)
        if isinstance(found, Parsed):
            return self._action(state, found)
        if completion.finish == "length":
            cut = f"the reply was cut off at {self.sampling.max_tokens} tokens"
            return replace(found, detail=f"{found.detail}; {cut}")
        return found

    def _action(self, state: State, parsed: Parsed) -> Action | Failure:
        if parsed.answer is not None:
            return Answer(parsed.answer)
        if not self.components.queries:
            return Failure(Reason.NOT_ALLOWED, "this agent cannot search, so the reply must answer")
        if self.components.reflection and parsed.draft is None:
            return Failure(Reason.NO_DRAFT, 'a search needs a "draft": the answer as far as it is known')
        if state.searches_left < 1 and parsed.draft is None:
            return Failure(Reason.NO_SEARCHES_LEFT, "no search is left, so the reply must answer")
        return Search(parsed.search or "", parsed.draft)

    def _can_search(self, state: State) -> bool:
        return self.components.queries and state.searches_left > 0

    def _recover(self, failed: Sequence[_Draft]) -> None:
        # Asking again cannot help where there is no reply; after an outage, a resumed run tries the episode again.
        unread = [draft for draft in failed if _reason(draft) not in (Reason.NO_REPLY, Reason.OUTAGE)]
        if self.on_failure == "retry":
            self._retry(unread)
        elif self.on_failure == "search":
            for draft in unread:
                if self._may_search_question(draft.state):
                    draft.outcome = Search(draft.state.question.text)

    def _retry(self, failed: Sequence[_Draft]) -> None:
        for draft in failed:
            problem = draft.outcome.detail if isinstance(draft.outcome, Failure) else ""
            draft.messages = self.prompts.again(
                draft.messages, draft.reply, problem, can_search=self._can_search(draft.state)
            )
        replies = self._generate([draft.messages for draft in failed], self._greedy)
        for draft, completions in zip(failed, replies, strict=True):
            self._read(draft, completions[0])

    def _may_search_question(self, state: State) -> bool:
        made = any(turn.query == state.question.text for turn in state.history)
        return self._can_search(state) and not made

    def _proposal(self, draft: _Draft) -> Proposal:
        action = None if isinstance(draft.outcome, Failure) else draft.outcome
        return Proposal(
            action,
            draft.reply,
            tuple(draft.messages),
            draft.usage,
            failure=str(draft.outcome) if action is None else None,
            outage=_reason(draft) == Reason.OUTAGE,
        )


def _no_reply(completion: Completion, what: str) -> Failure:
    return Failure(Reason.OUTAGE if completion.outage else Reason.NO_REPLY, f"{what}: {completion.failure}")


def _reason(draft: _Draft) -> Reason | None:
    return draft.outcome.reason if isinstance(draft.outcome, Failure) else None


def _unsearched(state: State) -> bool:
    return not state.history and state.searches_left > 0
