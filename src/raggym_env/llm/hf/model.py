"""The `hf:` back end: a transformers model in this process.

These are computed once: a prompt for its `n` samples, a prompt that occurs several times in a call, the first tokens
that many prompts of a call share (instructions, examples), and a state's prompt for all the candidates scored after it.
See `engine` for how, and how much faster that is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Usage
from raggym_env.errors import LLMError, MissingExtra, check_option
from raggym_env.llm.hf.batching import Tokens, groups, runs, uniforms
from raggym_env.protocols import Completion, Messages, Sampling

try:
    import torch
    from transformers.cache_utils import Cache

    from raggym_env.llm.hf.chat import Chat, PromptError
    from raggym_env.llm.hf.engine import Engine, Prefilled, Sample, unsupported
    from raggym_env.llm.hf.loading import Dtype, context_length, load_parts
except ImportError as error:
    raise MissingExtra("The hf: back end", "llm") from error

__all__ = ["HFModel", "load"]

_log = logging.getLogger(__name__)

# Tokens of keys and values in memory, and tokens prefilled together. Measured: on a CPU, prompts of a thousand tokens
# gain nothing from being prefilled together.
_BUDGET = {"cuda": 131_072, "cpu": 32_768}
_PREFILL = {"cuda": 16_384, "cpu": 1_024}
# Logits in memory at once while continuations are scored: half a gigabyte in float32.
_LOGITS = 1 << 27


def load(name: str, *, device: str = "auto", dtype: Dtype = "auto", token_budget: int | None = None) -> HFModel:
    """Load a model. No code that comes with a model is run.

    Args:
        name: A model of `raggym models list`, a folder with safetensors, a `.gguf` file, or a name on the hub; with
            `+ADAPTER`, a LoRA adapter is merged into it.
        device: "auto" is the GPU if there is one. Otherwise a torch device, e.g. "cpu" or "cuda:1".
        dtype: "auto" is bfloat16 if the device computes in it (float16 on older GPUs), else float32. Only float32
            gives the same samples however requests are batched, up to rare ties.
        token_budget: Tokens of keys and values, prompts and completions together, in memory at once. None is 131,072
            on a GPU and 32,768 on a CPU. It is halved whenever the GPU's memory runs out.

    Raises:
        LLMError: The model cannot be loaded or run; the message says what was tried.
        OptionError: An option is out of range.
        MissingExtra: It has an adapter, and PEFT is not installed.
    """
    model, tokenizer = load_parts(name, device, dtype)
    return HFModel(model, tokenizer, name=name, token_budget=token_budget)


@dataclass(slots=True)
class _Job:
    """One distinct prompt of a call, and what is computed for it."""

    tokens: Tokens
    samples: list[Sample] = field(default_factory=list)  # completions to draw
    continuations: list[Tokens] = field(default_factory=list)  # distinct ones to score
    scores: list[float] = field(default_factory=list)  # one per continuation, once computed
    cached: int = 0  # tokens of the prompt that were computed with another one
    seconds: float = 0.0  # its share of the computing time
    failure: str | None = None  # why it could not be computed

    @property
    def room(self) -> int:
        """Tokens that may follow the prompt."""
        return sum(sample.max_tokens for sample in self.samples) + sum(map(len, self.continuations))


class HFModel:
    """A transformers causal language model, on its device and in its dtype, as `LLM` and `Scorer`.

    `name` is used in error messages. `token_budget` is that of `load`.

    Raises:
        LLMError: The engine cannot run this kind of model.
        OptionError: The token budget is less than 1.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model", token_budget: int | None = None) -> None:
        check_option("token_budget", token_budget, token_budget is None or token_budget >= 1, "at least 1")
        if reasons := unsupported(model):
            raise LLMError(
                f"The hf: back end runs decoders with plain attention; {name} differs in {', '.join(sorted(reasons))}. "
                "Serve it with vLLM or another server and use openai:."
            )
        kind = "cpu" if model.device.type == "cpu" else "cuda"
        self.name = name
        self.model = model.eval()
        self.token_budget = token_budget or _BUDGET[kind]
        self.context = context_length(model.config)
        # The model's generation settings often list more end tokens than the tokenizer, e.g. one that ends a turn.
        ends = model.generation_config.eos_token_id if model.generation_config else None
        eos = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self.chat = Chat(tokenizer, sorted(eos))
        self.engine = Engine(model, _PREFILL[kind])

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        """Complete every prompt `params.n` times; see `LLM.generate`.

        Completions depend on the seed, the prompt and their number, not on the rest of the call: exactly so in float32,
        up to ties that rounding decides. A prompt that leaves no room in the context fails and says so; one that leaves
        less than `max_tokens` is completed as far as there is room.
        """
        n = params.n if params.temperature > 0 else 1  # greedy completions are alike
        jobs: dict[Tokens, _Job] = {}
        job_of_prompt = [self._job(jobs, messages) for messages in prompts]
        ended = self.chat.ended(params.stop)
        for job in jobs.values():
            self._check_fit(job, 1)
            max_tokens = min(params.max_tokens, self.context - len(job.tokens))
            for number in range(n if job.failure is None else 0):
                draws = uniforms(params.seed, job.tokens, number, max_tokens) if params.temperature > 0 else None
                job.samples.append(Sample(draws, ended, max_tokens))
        self._run(jobs.values(), lambda batch, prefix: self._decode(batch, prefix, params))
        # A prompt that occurs again in the call cost nothing, so only its first occurrence carries the usage.
        uncharged = set(map(id, jobs.values()))
        completions = []
        for job in job_of_prompt:
            completions.append(self._completions(job, params, computed=id(job) in uncharged))
            uncharged.discard(id(job))
        return completions

    def loglikelihood(
        self, prompts: Sequence[Messages], continuations: Sequence[Sequence[str]], *, per_token: bool = False
    ) -> list[NDArray[np.float32]]:
        """Return the sum, or the mean, of the log-probabilities of continuations; see `Scorer.loglikelihood`.

        A continuation is tokenised by itself and has no end token; an empty one scores 0.

        Raises:
            LLMError: A prompt cannot be scored, e.g. because it is longer than the model's context.
        """
        jobs: dict[Tokens, _Job] = {}
        job_of_prompt = [self._job(jobs, messages) for messages in prompts]
        tokens = [[self.chat.continuation(text) for text in texts] for texts in continuations]
        for job, row in zip(job_of_prompt, tokens, strict=True):
            job.continuations = list(dict.fromkeys([*job.continuations, *row]))
        for job in job_of_prompt:
            self._check_fit(job, max(map(len, job.continuations), default=0))
        _raise_failure(job_of_prompt)
        self._run([job for job in jobs.values() if job.room], self._score)
        _raise_failure(job_of_prompt)
        scores = {id(job): dict(zip(job.continuations, job.scores, strict=False)) for job in job_of_prompt}
        return [
            np.array(
                [scores[id(job)].get(text, 0.0) / (max(1, len(text)) if per_token else 1) for text in row],
                dtype=np.float32,
            )
            for job, row in zip(job_of_prompt, tokens, strict=True)
        ]

    def _job(self, jobs: dict[Tokens, _Job], messages: Messages) -> _Job:
        """Return the job of a prompt, which is shared by prompts with the same tokens; or a new one that failed."""
        try:
            tokens = self.chat.encode(messages)
        except PromptError as error:
            return _Job((), failure=str(error))
        return jobs.setdefault(tokens, _Job(tokens))

    def _check_fit(self, job: _Job, room: int) -> None:
        """Fail the job if its prompt and the tokens that must follow it exceed the context."""
        if len(job.tokens) + room > self.context and job.failure is None:
            job.failure = (
                f"the prompt has {len(job.tokens):,} tokens and {room:,} must follow, but the context of "
                f"{self.name} is {self.context:,}: give it fewer passages or a shorter history"
            )

    def _run(self, jobs: Iterable[_Job], compute: Callable[[list[_Job], Cache | None], None]) -> None:
        """Compute all jobs that have not failed, in batches of those that start alike."""
        ready = [job for job in jobs if job.failure is None]
        for group in groups([job.tokens for job in ready]):
            members = [ready[member] for member in group.members]
            prefix = self._prefix(members, group.prefix) if group.prefix else None
            for cut in runs([len(job.tokens) + job.room for job in members], self.token_budget):
                self._batch(members[cut], prefix, compute)

    def _prefix(self, jobs: list[_Job], length: int) -> Cache | None:
        """Compute the first tokens of the jobs once; None if they do not fit into memory even by themselves."""
        started = time.perf_counter()
        try:
            prefix = self.engine.prefix(jobs[0].tokens[:length])
        except torch.OutOfMemoryError:
            return None
        # The first job is charged for the prefix; the others count it as cached.
        jobs[0].seconds += time.perf_counter() - started
        for job in jobs[1:]:
            job.cached = length
        return prefix

    def _batch(self, jobs: list[_Job], prefix: Cache | None, compute: Callable[..., None]) -> None:
        """Compute a batch; if memory runs out, its halves, down to single prompts, which then fail."""
        started = time.perf_counter()
        try:
            compute(jobs, prefix)
            for job in jobs:
                job.seconds += (time.perf_counter() - started) / len(jobs)
            return
        except torch.OutOfMemoryError as error:
            if len(jobs) == 1:
                jobs[0].failure = f"out of memory with this prompt alone ({error}): lower n or max_tokens"
                return
        # Outside the handler, which would keep the failed batch's tensors alive.
        torch.cuda.empty_cache()
        # What did not fit now will not fit later, so the budget stays lower.
        self.token_budget = max(1, self.token_budget // 2)
        _log.warning("out of memory: token_budget is now %d", self.token_budget)
        middle = len(jobs) // 2
        self._batch(jobs[:middle], prefix, compute)
        self._batch(jobs[middle:], prefix, compute)

    def _decode(self, jobs: list[_Job], prefix: Cache | None, params: Sampling) -> None:
        for job in jobs:
            for sample in job.samples:  # a batch that ran out of memory starts again
                sample.tokens, sample.finish = [], None
        self.engine.decode(self._prefill(jobs, prefix), [job.samples for job in jobs], params.temperature, params.top_p)

    def _score(self, jobs: list[_Job], prefix: Cache | None) -> None:
        # Every token of a continuation has logits over the whole vocabulary, which the token budget does not bound:
        # many short prompts with long continuations would need more memory than their keys and values.
        most = max(1, _LOGITS // self.model.config.get_text_config(decoder=True).vocab_size)
        for cut in runs([job.room for job in jobs], most):
            batch = jobs[cut]
            rows = self.engine.score(self._prefill(batch, prefix), [job.continuations for job in batch])
            for job, scores in zip(batch, rows, strict=True):
                job.scores = scores

    def _prefill(self, jobs: list[_Job], prefix: Cache | None) -> Prefilled:
        shared = 0 if prefix is None else prefix.get_seq_length()
        return self.engine.prefill([job.tokens[shared:] for job in jobs], prefix)

    def _completions(self, job: _Job, params: Sampling, *, computed: bool) -> list[Completion]:
        """Return the completions of a prompt; `computed` is False if it occurred before in the call."""
        if job.failure is not None:
            return [Completion("", failure=job.failure)] * params.n
        completions = []
        for number, sample in enumerate(job.samples):
            usage = Usage()
            if number == 0:
                cached = job.cached if computed else len(job.tokens)
                usage = Usage(calls=1, prompt_tokens=len(job.tokens), cached_tokens=cached)
            if computed:
                usage += Usage(completion_tokens=len(sample.tokens), seconds=job.seconds / len(job.samples))
            text = self.chat.text(sample.tokens, params.stop)
            completions.append(Completion(text, sample.finish or "stop", usage))
        # Greedy decoding drew one: the others are copies of it that cost nothing.
        return completions + [Completion(completions[0].text, completions[0].finish)] * (params.n - len(completions))


def _raise_failure(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        if job.failure is not None:
            raise LLMError(f"Cannot score continuations: {job.failure}.")
