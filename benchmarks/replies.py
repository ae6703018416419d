"""Whether replies in every known form are read as what the model said, and as nothing else.

    python benchmarks/replies.py [--replies N] [--seed S]

Generates bodies of chat-completions servers and runs an episode on each: `read_reply`, the parser, the agent and the
record of the run. The forms are those of chat templates and servers: content as a text, a list or null, reasoning in
brackets, in a channel or in a field of its own, every finish reason, control tokens of chat templates at both ends,
fences, labels, bullets, wrong case, invisible characters, several actions, unused keys, invented search results and
turns, tool calls, and a cut at any place. The generator knows which actions it wrote and where it cut; where the whole
content is one line of plain JSON, `json.loads` is a second witness. To expect for 20,000 replies, in about 60 s:

    crashes                               0
    answers that the model did not give   0
    outages scored                        0
    good actions unread                   0
    no outage, but recorded as one        0
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raggym_env import policies
from raggym_env.core import Action, Answer, Passage, Question, Search, Task
from raggym_env.llm.openai.replies import Reply, read_reply
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.records import Episode
from raggym_env.mdp.rollout import rollout
from raggym_env.protocols import Completion, Hit, Messages, Sampling

FAULTS = (
    "crashes",
    "answers that the model did not give",
    "outages scored",
    "good actions unread",
    "no outage, but recorded as one",
    "json.loads disagrees",
)

Outcome = Action | Literal["unread", "outage"]

TEXTS = [
    *(
        "Oslo",
        "Ada Berg",
        "yes",
        "1931",
        "São Paulo",
        "O'Neill's \"Ah, Wilderness!\"",
        "東京",
        "3.50 km",
        "C++",
        "a < b",
    ),
    *(
        "Ångström",
        "B",
        "Rock 'n' Roll",
        "{braces}",
        "path\\to",
        "50%",
        "Who directed Dawn?",
        "https://example.org/a?b=c",
    ),
    *('director of "Ed Wood" (1994)', "naïve café", "#1 hit", "[1]", "see // this", "null", "User: name", "x" * 90),
]
PROSE = [
    "I need her birthplace.",
    "Passage 1 says Bergen, which is in Norway.",
    "Let me think: it could be <b>either</b> one [1].",
    "1. Reason: the film is from 1994.\n2. Unsupported: its director.",
    "The passage tells me to write <answer>42</answer>, which I ignore.",
    'A form such as {"answer": "..."} is what I was shown.',
    "好的，我需要找到导演。",
    '<passages query="x">\n[1] T: text\n</passages>\nThat is what I was shown.',
    "Observation: the note is silent.",
]
HEADS = [
    *("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n", "<s>"),
    *("<|assistant|>\n", "<｜Assistant｜>", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|turn>model\n", "[/INST] "),
]
ENDS = [
    *(
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<|return|>",
        "</s>",
        "<eos>",
        "<end_of_turn>",
        "<turn|>",
        "<|endoftext|>",
    ),
    *(
        "<｜end▁of▁sentence｜>",
        "<|END_OF_TURN_TOKEN|>",
        "<end_of_utterance>",
        "<|eom_id|>",
        "[/INST]",
        "<|end_of_text|>",
    ),
    *("<|im_end|>\n<|endoftext|>", "<|eot|>", "[EOS]", "<seed:eos>", "<|end_of_role|>"),
]
BRACKETS = [
    *(("<think>\n", "\n</think>\n\n"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>")),
    *(("<thought>", "</thought>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<seed:think>", "</seed:think>")),
    *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>")),
    *(("<|channel>thought\n", "<channel|>"), ("<reflection>", "</reflection>"), ("<Think>", "</Think>")),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe think. ", "assistantfinal"),
]
RESULTS = [
    *('<passages query="Ada">\n[1] Ada: Bergen.\n</passages>', "<information>\nBergen\n</information>"),
    *('<note query="Ada">\nBergen\n</note>', "<result>Bergen</result>", "<tool_response>\nBergen\n</tool_response>"),
    *("<documents>\nBergen\n</documents>", "Observation: Bergen", "Search results:\nBergen", "[1] Ada: Bergen"),
]
TURNS = [
    *("<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n", "User: More?", "Human: More?"),
    *(
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMore?<|eot_id|>",
        "<end_of_turn>\n<start_of_turn>user\nMore?",
    ),
    *(
        "</s>[INST] More? [/INST]",
        "<|user|>\nMore?<|assistant|>\n",
        "<｜User｜>More?<｜Assistant｜>",
        "Question: More?",
    ),
    "<|end|><|start|>user<|message|>More?<|end|>",
]
FINISHED = ["stop", "stop", "stop", "eos", "eos_token", "end_turn", "STOP", "stop_sequence", None, "", "tool_calls"]
CUT_OFF = ["length", "length", "max_tokens", "MAX_TOKENS", "model_length"]
ABORTED = ["abort", "error", "ABORT", "network_error", "insufficient_system_resource", "cancelled"]
FILTERED = ["content_filter", "SAFETY", "sensitive"]
INVISIBLE = ["\ufeff", "\u200b", "\xa0", "\u2060", "\u3000", "\u200e", "\xad"]


@dataclass
class Written:
    """A reply under construction: its text, and where in it an action ends or the model's own turn does."""

    text: str = ""
    actions: list[tuple[int, int, Action]] = field(default_factory=list)
    """Start, end and content of each action that the model wrote in its own turn, outside of its reasoning."""
    turn_end: int | None = None
    """Where it goes on into a result or a turn that it invents."""
    open_until: int = 0
    """A reply that is cut off before this offset ends inside its reasoning."""

    tentative_end: int = -1
    """Where a tentative action ends in reasoning whose opening bracket the chat template wrote."""

    def action(self, text: str, action: Action) -> None:
        self.actions.append((len(self.text), len(self.text) + len(text), action))
        self.text += text

    def outcome(self, length: int, *, cut: bool) -> Outcome:
        """Return the outcome of the first `length` characters."""
        complete = [(end, action) for _, end, action in self.actions if end <= length]
        if length < self.open_until or not complete or any(start < length < end for start, end, _ in self.actions):
            return "unread"
        end, action = complete[-1]
        went_on = self.turn_end is not None and length > self.turn_end
        # Behind the last action of a reply that was cut off, anything but closing marks makes it tentative.
        rest = re.sub("|".join(map(re.escape, ENDS)), "", self.text[end:length])
        return "unread" if cut and not went_on and rest.strip(_CLOSING_MARKS) else action

    def cuts(self) -> list[int]:
        """Return where the reply can be cut off: not inside a token, nor where nothing tells what it was part of."""
        inside = [match.span() for match in _TOKENS.finditer(self.text)]
        if self.turn_end is not None:
            inside.append((self.turn_end - 1, self.turn_end + _LONGEST_MARK))
        if self.tentative_end >= 0:
            rest = self.text[self.tentative_end :]
            inside.append((self.tentative_end - 1, self.tentative_end + len(rest) - len(rest.lstrip()) + 1))
        return [
            place for place in range(len(self.text) + 1) if not any(start < place < end for start, end in inside)
        ] or [0]


@dataclass(frozen=True)
class Case:
    """A body of a server, and what a run must record."""

    body: str
    expected: Outcome
    form: str


class Generator:
    """Draws replies."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def cases(self, count: int) -> list[Case]:
        return [self.case() for _ in range(count)]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def pick(self, items: Sequence[Any]) -> Any:
        return self.random.choice(items)

    def an_action(self) -> Action:
        if self.chance(0.5):
            return Answer(self.pick(TEXTS))
        return Search(self.pick(TEXTS), self.pick(TEXTS) if self.chance(0.4) else None)

    def written_action(self, action: Action) -> str:
        """An action in JSON, in what models write for JSON, or in tags."""
        form = self.random.randrange(8)
        if form >= 6 and not any("<" in text for text in _texts(action)):
            return self.tags(action)
        members: dict[str, Any] = _members(action)
        if self.chance(0.2):
            members = {"reason": "since", **members}
        if self.chance(0.2):
            unused = "search" if isinstance(action, Answer) else "answer"
            members[unused] = self.pick(["", None, " ", "\u200b"])
        if isinstance(action, Search) and action.draft is None and self.chance(0.2):
            members["draft"] = self.pick(["", None])
        if form == 0:
            return repr(members)
        if form == 1:
            return json.dumps(members, indent=2)[:-2] + ",\n}"
        if form == 2:
            return re.sub(r'"(\w+)": ', r"\1: ", json.dumps(members), count=1)
        if form == 3:
            members = {self.pick([str.upper, str.title])(name): value for name, value in members.items()}
        return json.dumps(members, ensure_ascii=self.chance(0.5), indent=self.pick([None, None, 1]))

    def tags(self, action: Action) -> str:
        case = self.pick([str.lower, str.lower, str.upper, str.title])
        tags = [f"<{case(name)}>{text}</{case(name)}>" for name, text in _members(action).items()]
        # The draft last would count as what a cut-off search lacks.
        return self.pick(["\n", "\n\n"]).join(reversed(tags))

    def decorated(self, text: str) -> tuple[str, str]:
        """What stands before and after an action on its lines."""
        kind = self.random.randrange(9)
        if kind == 0:
            return f"```{self.pick(['', 'json'])}\n", "\n```"
        if kind == 1 and "\n" not in text:
            return self.pick(["Answer: ", "Final answer: ", "**Action:** ", "Output: ", "assistant: "]), ""
        if kind == 2:
            return self.pick(["- ", "* ", "3. ", "• ", "2) "]), self.pick(["", "."])
        if kind == 3:
            return "**", "**"
        if kind == 4:
            return "".join(self.random.choices(INVISIBLE, k=2)), self.pick(INVISIBLE)
        return "", ""

    def reply(self) -> Written:
        """A whole reply, before any cut."""
        written = Written(self.pick(HEADS) if self.chance(0.1) else "")
        self.reason(written)
        if self.chance(0.5):
            written.text += self.pick(PROSE) + "\n"
        for number in range(self.pick([0, 1, 1, 1, 1, 1, 1, 2])):
            if number:
                written.text += "\nOr rather, to be precise:\n"
            self.act(written)
        if written.actions:
            self.go_on(written)
        return written

    def reason(self, written: Written) -> None:
        """Reasoning in brackets, with a tentative action in it as often as not."""
        if not self.chance(0.35):
            return
        opening, closing = self.pick(BRACKETS)
        if opening[0] == "a" and written.text:  # the channel without its tokens begins a reply
            return
        bare = self.chance(0.2) and not closing.startswith("<|end|>")  # the template wrote the opening bracket
        written.text += ("" if bare else opening) + self.pick(PROSE) + "\n"
        if self.chance(0.5):
            written.text += self.written_action(self.an_action())
            written.tentative_end = len(written.text) if bare else -1
            # Without its opening bracket, a label behind a search is what a model invents.
            written.text += "\n" + self.pick(PROSE[:7] if bare else PROSE)
        written.text += closing
        written.open_until = len(written.text)

    def act(self, written: Written) -> None:
        action = self.an_action()
        text = self.written_action(action)
        before, after = self.decorated(text)
        # A head, or the end of reasoning, may stand on the line of the action.
        follows = written.text in HEADS or len(written.text) == written.open_until
        if written.text and not written.text.endswith("\n") and not (follows and self.chance(0.5)):
            written.text += "\n"
        written.text += before
        written.action(text, action)
        written.text += after

    def go_on(self, written: Written) -> None:
        """What follows the last action: nothing, a control token, words, or what the model invents."""
        kind = self.random.randrange(8)
        last = written.actions[-1][2]
        if kind == 0:
            written.text += self.pick(["", "\n"]) + self.pick(ENDS)
        elif kind == 1:
            written.text += "\n" + self.pick(["That is all.", "I am fairly sure, since passage 2 says so."])
        elif kind == 2:
            invented = self.pick(RESULTS + TURNS) if isinstance(last, Search) else self.pick(TURNS + RESULTS[:5])
            written.text += "\n"
            written.turn_end = len(written.text)
            written.text += f"{invented}\nSo it is Bergen.\n" + self.written_action(Answer("Bergen"))
        elif kind == 3:
            written.text += "\n\n"

    def case(self) -> Case:
        if self.chance(0.05):
            return self.tool_call()
        written = self.reply()
        cut = self.chance(0.3)
        length = self.random.choice(written.cuts()) if cut else len(written.text)
        finish = self.pick(CUT_OFF if cut else FINISHED)
        expected = written.outcome(length, cut=cut)
        text = written.text[:length]
        kind = self.random.randrange(30)
        if kind == 0:
            return self.body(text, self.pick(ABORTED), "outage", "aborted")
        if kind == 1:
            return self.body(text, finish, "outage", "error", error={"code": 502, "message": "upstream died"})
        if kind == 2:
            return self.body(text, self.pick(FILTERED), "unread", "filtered")
        if kind == 3:
            return self.all_reasoning(written)
        return self.body(text, finish, expected, "cut off" if cut else "finished")

    def all_reasoning(self, written: Written) -> Case:
        """A reply that a server files as reasoning: cut off, or finished with the action at its very end."""
        if self.chance(0.5):
            return self.body(None, self.pick(CUT_OFF), "unread", "reasoning, cut off", reasoning_content=written.text)
        action = self.an_action()
        thought = "Hm.\n" + self.written_action(action)
        return self.body(self.pick([None, ""]), "stop", action, "reasoning, finished", reasoning=thought)

    def tool_call(self) -> Case:
        action = self.an_action()
        members = _members(action)
        name = "search" if "search" in members else "answer"
        if name == "search":
            members["query"] = members.pop("search")
        arguments = self.pick([json.dumps(members), members])
        calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}]
        return self.body(self.pick([None, ""]), "tool_calls", action, "tool call", tool_calls=calls)

    def body(self, text: str | None, finish: str | None, expected: Outcome, form: str, **more: Any) -> Case:
        error = more.pop("error", None)
        message: dict[str, Any] = {"role": "assistant", "content": self.content(text), "refusal": None, **more}
        if text and self.chance(0.15):
            message[self.pick(["reasoning_content", "reasoning", "thinking"])] = "Hm. " + self.pick(PROSE)
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        if error is not None:
            choice["error"] = error
        if finish is None and self.chance(0.5):
            del choice["finish_reason"]
        usage = self.pick(
            [{"prompt_tokens": 9, "completion_tokens": 4}, None, {"prompt_tokens": -1}, "x", {"a": float("nan")}]
        )
        body = json.dumps(
            {"object": "chat.completion", "choices": [choice], "usage": usage}, ensure_ascii=self.chance(0.5)
        )
        return Case(body, expected, form)

    def content(self, text: str | None) -> Any:
        if text is None or self.chance(0.7):
            return text
        middle = len(text) // 2
        return self.pick(
            [
                [{"type": "text", "text": text}],
                [{"type": "text", "text": text[:middle]}, {"type": "text", "text": text[middle:]}],
                [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": text}],
            ]
        )


# Tokens and brackets, in which no cut is made.
_TOKENS = re.compile("|".join(map(re.escape, {mark for pair in BRACKETS for mark in pair} | {*ENDS, *HEADS})))
_LONGEST_MARK = max(map(len, RESULTS + TURNS)) + 1
_CLOSING_MARKS = "` \n\t.*" + "".join(INVISIBLE)


def _members(action: Action) -> dict[str, str]:
    if isinstance(action, Answer):
        return {"answer": action.text}
    return {"search": action.query} | ({} if action.draft is None else {"draft": action.draft})


def _texts(action: Action) -> list[str]:
    return list(_members(action).values())


def plain_json(body: str) -> Action | None:
    """The action of a content that is one line of plain JSON by itself, by the json module; None for any other."""
    choice = json.loads(body)["choices"][0]
    content = choice["message"]["content"]
    try:
        members = json.loads(content)
    except (TypeError, ValueError):
        return None
    if not isinstance(members, dict):
        return None
    filled = {name: text for name, text in members.items() if isinstance(text, str) and text.strip(" \u200b")}
    if (
        choice.get("finish_reason") not in FINISHED
        or choice.get("error")
        or len(filled.keys() & {"search", "answer"}) != 1
    ):
        return None
    return Answer(filled["answer"]) if "answer" in filled else Search(filled["search"], filled.get("draft"))


class Server:
    """A model that returns the bodies, as the client of a server does: the case is named in the question."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.used: set[int] = set()

    def generate(self, prompts: Sequence[Messages], params: Sampling) -> list[list[Completion]]:
        return [[self.completion(prompt[-1]["content"])] for prompt in prompts]

    def completion(self, prompt: str) -> Completion:
        number = int(re.findall(r"Case (\d+)", prompt)[0])
        if number in self.used:
            return Completion('{"answer": "later"}')
        self.used.add(number)
        reply = read_reply(self.cases[number].body, ())
        if isinstance(reply, Reply):
            return reply.completions[0]
        return Completion("", failure=reply.message, outage=reply.retry)


class Nothing:
    """A retriever that finds the same passage at once."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(Passage("1", "Title", "Text."), 1.0)] for _ in queries]


def recorded(episode: Episode) -> Outcome:
    """What a run records of the first reply of an episode."""
    if episode.error is not None:
        return "outage"
    return episode.steps[0].action if episode.steps else "unread"


def study(count: int, seed: int = 0) -> tuple[Counter[str], list[tuple[Case, Outcome]], Counter[str]]:
    """Run all cases. Returns the faults by kind, the cases that went wrong, and the cases by form."""
    cases = Generator(seed).cases(count)
    faults: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    agent = policies.make("react", llm=Server(cases), on_failure="fail")
    tasks = (Task(Question(str(number), f"Case {number}"), ("later",)) for number in range(count))
    outcomes: dict[str, Outcome] = {}
    try:
        for episode in rollout(agent, tasks, Dynamics(Nothing(), k=1, max_searches=2)):
            outcomes[episode.id] = recorded(episode)
    except Exception as error:  # noqa: BLE001  # any crash at all is what the study looks for
        faults["crashes"] += 1
        print(f"crash: {error!r}")
    wrong = []
    for number, case in enumerate(cases):
        outcome = outcomes.get(str(number), "unread")
        witness = plain_json(case.body)
        faults["json.loads disagrees"] += witness is not None and witness != outcome
        if outcome != case.expected:
            wrong.append((case, outcome))
            faults[_fault(case.expected, outcome)] += 1
    return faults, wrong, Counter(case.form for case in cases)


def _fault(expected: Outcome, outcome: Outcome) -> str:
    if expected == "outage":
        return "outages scored"
    if outcome == "outage":
        return "no outage, but recorded as one"
    return "good actions unread" if outcome == "unread" else "answers that the model did not give"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    faults, wrong, forms = study(options.replies, options.seed)
    for form, number in forms.most_common():
        print(f"{form:<38}{number:>7,}")
    print()
    for fault, number in faults.items():
        print(f"{fault:<38}{number:>7,}")
    print(f"\n{options.replies:,} replies in {time.perf_counter() - started:.0f} s")
    for case, outcome in wrong[:10]:
        print(f"\nexpected {case.expected!r}, recorded {outcome!r}:\n{case.body}")
    raise SystemExit(bool(wrong) or any(faults.values()))


if __name__ == "__main__":
    main()
