"""How many questions each deviation of our metrics from the official scripts touches: the table of METRICS.md.

    python benchmarks/metrics.py [FOLDER]

Needs the data sets in the folder, in `$RAGGYM_DATA` or in `shared/data` beside the checkout. The rules of
hotpot_evaluate_v1.py, which 2WikiMultihopQA's script shares, are written out below. For EM and F1 a question counts if
some answer to it, made from its gold answer, is scored differently by the two.
"""

from __future__ import annotations

import html
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raggym_env.core import Task
from raggym_env.data import read_tasks
from raggym_env.data.files import json_records, tsv_records
from raggym_env.mdp.metrics import exact_match, normalize, option_key, token_f1
from retrieval import data_folder, row

FILES = [
    ("HotpotQA dev, open", "hotpotqa", "hotpotqa/hotpot_dev_open_v1.json"),
    ("HotpotQA dev, distractor", "hotpotqa", "hotpotqa/hotpot_dev_distractor_v1.json"),
    ("HotpotQA train", "hotpotqa", "hotpotqa/hotpot_train_v1.1.json"),
    ("2Wiki dev, open", "2wikimultihopqa", "2wikimultihopqa/dev_open.json"),
    ("2Wiki dev", "2wikimultihopqa", "2wikimultihopqa/dev.json"),
    ("2Wiki train", "2wikimultihopqa", "2wikimultihopqa/train.json"),
    ("Bamboogle", "bamboogle", "bamboogle/Bamboogle_Prerelease.tsv"),
    ("MedQA test", "medqa", "medqa/phrases_no_exclude_test.jsonl"),
    ("MedQA train", "medqa", "medqa/phrases_no_exclude_train.jsonl"),
]
VERDICTS = ("yes", "no", "noanswer")


def official_normalize(text: str) -> str:
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_em(prediction: str, gold: str) -> float:
    return float(official_normalize(prediction) == official_normalize(gold))


def official_f1(prediction: str, gold: str) -> float:
    predicted, expected = official_normalize(prediction), official_normalize(gold)
    shared = sum((Counter(predicted.split()) & Counter(expected.split())).values())
    if (predicted != expected and {predicted, expected} & {*VERDICTS}) or not shared:
        return 0.0
    precision, recall = shared / len(predicted.split()), shared / len(expected.split())
    return 2 * precision * recall / (precision + recall)


Probe = Callable[[str], str]
# Answers made from a question's gold answer.
PLAIN: Sequence[Probe] = (str, str.upper, "the {}.".format, lambda gold: "", lambda gold: "a", lambda gold: gold[:-1])
DECOMPOSED: Sequence[Probe] = (lambda gold: unicodedata.normalize("NFD", gold),)


def scored_otherwise(task: Task, probes: Sequence[Probe]) -> bool:
    """Whether EM or F1 of one of the probes differs between our metrics and the official ones."""
    gold = task.answers[0]
    pairs = ((exact_match, official_em), (token_f1, official_f1))
    return any(
        abs(ours(probe(gold), gold) - theirs(probe(gold), gold)) > 1e-9 for ours, theirs in pairs for probe in probes
    )


def is_letter_of_another(task: Task) -> bool:
    options = task.question.options
    letters = string.ascii_uppercase[: len(options)]
    return any(option in letters and letters.index(option) != index for index, option in enumerate(options))


TEXTS: Mapping[str, Callable[[Task], bool]] = {
    "EM or F1 of an answer in NFC": lambda task: scored_otherwise(task, PLAIN),
    "EM or F1 of an answer in NFD": lambda task: scored_otherwise(task, DECOMPOSED),
    "several gold answers": lambda task: len(task.answers) > 1,
    "gold yes, no or noanswer (cover EM)": lambda task: normalize(task.answers[0]) in VERDICTS,
    "titles with HTML escapes (recall)": lambda task: any(map(is_escaped, task.metadata["titles"])),
}
OPTIONS: Mapping[str, Callable[[Task], bool]] = {
    "options of equal texts": lambda task: len({*map(option_key, task.question.options)}) < len(task.question.options),
    "an option's text is the letter of another": is_letter_of_another,
}


def is_escaped(title: str) -> bool:
    return html.unescape(title) != title


def tasks_with_raw_titles(path: Path, format: str) -> list[Task]:
    """Return the tasks with the titles of their supporting facts as the file has them: the reader unescapes them."""
    records = tsv_records(path) if format == "bamboogle" else json_records(path)
    titles = [[title for title, *_ in record.fields.get("supporting_facts", ())] for record in records]
    tasks = read_tasks(path, format)
    return [replace(task, metadata={"titles": each}) for task, each in zip(tasks, titles, strict=True)]


def main() -> None:
    folder = data_folder(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    columns = {name: tasks_with_raw_titles(folder / path, format) for name, format, path in FILES}
    for with_options, cases in ((False, TEXTS), (True, OPTIONS)):
        shown = {name: tasks for name, tasks in columns.items() if bool(tasks[0].question.options) == with_options}
        row("questions touched", *shown)
        row("---", *["---:"] * len(shown))
        row("of", *(f"{len(tasks):,}" for tasks in shown.values()))
        for label, touches in cases.items():
            row(label, *(str(sum(map(touches, tasks))) for tasks in shown.values()))
        print()


if __name__ == "__main__":
    main()
