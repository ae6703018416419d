from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggym_env.core import Evidence, Fact, Passage, Task
from raggym_env.data.formats import read_contexts, read_tasks
from raggym_env.errors import MalformedData, UnknownName
from raggym_env.mdp.metrics import score

HOTPOT = {
    "_id": "h1",
    "question": "Who?",
    "answer": "Ant",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Ant &amp; Dec", 0], ["Byker", 2]],
    "context": [["Ant &amp; Dec", ["Two men.", " From Newcastle."]], ["Byker", ["A place."]]],
}
WIKI = {
    "_id": "w1",
    "type": "compositional",
    "question": "Whose?",
    "context": [],
    "supporting_facts": [["A", 0]],
    "evidences": [["A", "father", "B"]],
    "answer": "B",
}
MEDQA = {
    "question": "What next?",
    "answer": "Rest",
    "options": {"B": "Rest", "A": "Run", "D": "Sit", "C": "Eat"},
    "meta_info": "step1",
    "answer_idx": "B",
}
GENERIC = {"id": "g1", "question": "Where?", "golden_answers": ["Here", "There"]}


def written(folder: Path, *rows: dict, name: str = "file.json") -> Path:
    path = folder / name
    text = json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def one(folder: Path, format: str, row: dict, name: str = "file.json") -> Task:
    return read_tasks(written(folder, row, name=name), format)[0]


def test_a_hotpotqa_record_becomes_a_task_with_unescaped_titles(tmp_path):
    task = one(tmp_path, "hotpotqa", HOTPOT)
    assert (task.id, task.question.text, task.answers, task.type) == ("h1", "Who?", ("Ant",), "bridge")
    assert task.supporting == (Fact("Ant & Dec", 0), Fact("Byker", 2))
    assert task.metadata == {"level": "hard"}


def test_the_contexts_title_equals_the_supporting_facts_title(tmp_path):
    path = written(tmp_path, HOTPOT)
    titles = {passage.title for passage in read_contexts(path, "hotpotqa")}
    assert set(read_tasks(path, "hotpotqa")[0].gold_titles) <= titles


def test_contexts_are_pooled_once_each_by_title_and_text(tmp_path):
    other = {**HOTPOT, "_id": "h2", "context": [["Byker", ["A place."]], ["Byker", ["Another place."]]]}
    passages = list(read_contexts(written(tmp_path, HOTPOT, other), "hotpotqa"))
    assert [(passage.title, passage.text) for passage in passages] == [
        ("Ant & Dec", "Two men. From Newcastle."),
        ("Byker", "A place."),
        ("Byker", "Another place."),
    ]
    assert len({passage.id for passage in passages}) == 3


def test_spellings_of_one_paragraph_in_two_unicode_forms_are_one_passage(tmp_path):
    context = [["Caf\u00e9", ["A pl\u00e4ce."]], ["Cafe\u0301", ["A pla\u0308ce."]], ["Cafe", ["A place."]]]
    passages = list(read_contexts(written(tmp_path, {**HOTPOT, "context": context}), "hotpotqa"))
    assert [passage.title for passage in passages] == ["Caf\u00e9", "Cafe"]


def test_a_file_without_any_context_cannot_be_the_corpus(tmp_path):
    with pytest.raises(MalformedData, match="every context is empty: name a corpus"):
        list(read_contexts(written(tmp_path, {**HOTPOT, "context": []}), "hotpotqa"))
    with pytest.raises(MalformedData, match="'medqa' hold no contexts"):
        list(read_contexts(written(tmp_path, MEDQA), "medqa"))


def test_rows_stored_by_column_as_on_the_hub_read_the_same(tmp_path):
    hub = {
        **HOTPOT,
        "id": "h1",
        "supporting_facts": {"title": ["Ant &amp; Dec", "Byker"], "sent_id": [0, 2]},
        "context": {"title": ["Ant &amp; Dec", "Byker"], "sentences": [["Two men.", " From Newcastle."], ["A place."]]},
    }
    del hub["_id"]
    official, by_column = written(tmp_path, HOTPOT), written(tmp_path, hub, name="hub.jsonl")
    assert read_tasks(by_column, "hotpotqa") == read_tasks(official, "hotpotqa")
    assert list(read_contexts(by_column, "hotpotqa")) == list(read_contexts(official, "hotpotqa"))


def test_2wikimultihopqa_adds_the_reasoning_chain(tmp_path):
    assert one(tmp_path, "2wikimultihopqa", WIKI).evidences == (Evidence("A", "father", "B"),)
    by_column = {**WIKI, "evidences": {"fact": ["A"], "relation": ["father"], "entity": ["B"]}}
    assert one(tmp_path, "2wikimultihopqa", by_column).evidences == (Evidence("A", "father", "B"),)


def test_aliases_and_demonyms_of_the_answer_are_correct_if_their_file_is_beside_the_questions(tmp_path):
    row = {**WIKI, "answer": "France", "answer_id": "Q142"}
    assert one(tmp_path, "2wikimultihopqa", row).answers == ("France",)
    rows = [
        {"Q_id": "Q1", "aliases": ["x"], "demonyms": []},
        {"Q_id": "Q142", "aliases": ["FR", "France"], "demonyms": ["French"]},
    ]
    # The official alias file is JSON lines in spite of its name.
    (tmp_path / "id_aliases.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert one(tmp_path, "2wikimultihopqa", row).answers == ("France", "FR", "French")
    assert one(tmp_path, "2wikimultihopqa", WIKI).answers == ("B",)


def test_bamboogle_reads_its_named_columns_and_nothing_of_the_canary(tmp_path):
    path = tmp_path / "sheet.tsv"
    path.write_bytes(b"Question\t\tAnswer\tAnswer 2\tcanary: 26b5\r\nQ one?\t\tA1\t\t\r\n\r\nQ two?\t\tB1\tB2\tc\r\n")
    tasks = read_tasks(path, "bamboogle")
    assert [(task.id, task.question.text, task.answers) for task in tasks] == [
        ("bamboogle-000", "Q one?", ("A1",)),
        ("bamboogle-001", "Q two?", ("B1", "B2")),
    ]


def test_a_bamboogle_sheet_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "sheet.tsv"
    path.write_bytes(b"Frage\tAntwort\nQ?\tA\n")
    with pytest.raises(MalformedData, match=r"line 2: field 'Answer' is missing|line 2: field 'Question' is missing"):
        read_tasks(path, "bamboogle")


def test_medqa_options_are_in_letter_order_and_ids_are_positions(tmp_path):
    path = written(tmp_path, MEDQA, {**MEDQA, "question": "And then?"}, name="phrases_no_exclude_test.jsonl")
    first, second = read_tasks(path, "medqa")
    assert first.question.options == ("Run", "Rest", "Eat", "Sit")
    assert (first.correct, first.answers, first.type) == (1, ("Rest",), "step1")
    assert [first.id, second.id] == ["medqa-test-0000", "medqa-test-0001"]


@pytest.mark.parametrize(
    ("options", "golden", "correct"),
    [(["x", "y"], ["y"], 1), (["x", "y"], ["B"], 1), ({"B": "y", "A": "x"}, ["B", "y"], 1)],
)
def test_a_golden_answer_may_be_a_letter_or_an_options_text(tmp_path, options, golden, correct):
    task = one(tmp_path, "jsonl", {**GENERIC, "options": options, "golden_answers": golden}, "f.jsonl")
    assert (task.correct, task.answers) == (correct, ("y",))


@pytest.mark.parametrize(
    ("fields", "golden", "correct"),
    [
        ({"choices": ["Oslo", "Rome"]}, ["B"], 1),
        ({"choices": ["Oslo", "Rome"]}, ["rome"], 1),
        ({"choices": {"A": "Oslo", "B": "Rome"}}, ["Rome", "B"], 1),
        ({"choices": ["Oslo", "Rome"], "options": ["Oslo", "Rome"]}, ["A"], 0),
        ({"choices": None, "options": ["Oslo", "Rome"]}, ["A"], 0),
        ({"metadata": {"choices": ["Oslo", "Rome"]}}, ["A"], 0),
        ({"choices": ["I", "I, IV", "I, IV."]}, ["C"], 2),
        ({"choices": ["I", "I, IV", "I, IV."]}, ["I, IV", "C"], 1),
        ({"choices": ["Caf\u00e9", "Bar"]}, ["Cafe\u0301"], 0),
    ],
)
def test_choices_are_options_and_golden_answers_name_one_of_them(tmp_path, fields, golden, correct):
    task = one(tmp_path, "jsonl", {**GENERIC, **fields, "golden_answers": golden}, "f.jsonl")
    assert task.correct == correct
    assert task.answers == (task.question.options[correct],)
    assert score("accuracy", golden[0], task) == 1.0


def test_choices_that_contradict_the_options_are_refused(tmp_path):
    row = {**GENERIC, "options": ["x", "y"], "choices": ["y", "x"], "golden_answers": ["A"]}
    with pytest.raises(MalformedData, match="fields 'options' and 'choices' differ"):
        one(tmp_path, "jsonl", row)
    with pytest.raises(MalformedData, match="field 'choices' should be 2 to 26 options"):
        one(tmp_path, "jsonl", {**GENERIC, "choices": ["x"], "golden_answers": ["A"]})
    with pytest.raises(MalformedData, match="the letter or the text of exactly one option"):
        one(tmp_path, "jsonl", {**GENERIC, "choices": ["B", "A"], "golden_answers": ["A"]})


@pytest.mark.parametrize("name", ["candidates", "history", "image", "messages", "opa", "answer_choices"])
@pytest.mark.parametrize(("format", "row"), [("jsonl", GENERIC), ("hotpotqa", HOTPOT), ("medqa", MEDQA)])
def test_a_field_that_changes_the_question_is_refused_by_name(tmp_path, recwarn, format, row, name):
    with pytest.raises(MalformedData, match=f"record 1: field '{name}' changes the question"):
        one(tmp_path, format, {**row, name: ["x", "y"]})
    one(tmp_path, format, {**row, name: []})


def test_other_fields_that_are_not_read_are_named_once(tmp_path):
    rows = [{**GENERIC, "id": str(number), "difficulty": 1, f"note{number % 20:02}": "x"} for number in range(40)]
    with pytest.warns(UserWarning, match=r"does not read: 'difficulty', 'note00'.* and 9 more") as seen:
        read_tasks(written(tmp_path, *rows), "jsonl")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("format", "row"), [("jsonl", GENERIC), ("hotpotqa", HOTPOT), ("2wikimultihopqa", WIKI), ("medqa", MEDQA)]
)
def test_the_fields_of_official_records_give_no_warning(tmp_path, recwarn, format, row):
    one(tmp_path, format, row)
    assert not recwarn.list


def test_generic_records_may_keep_their_facts_in_the_metadata(tmp_path):
    facts = {"title": ["T"], "sent_id": [3]}
    row = {**GENERIC, "metadata": {"supporting_facts": facts, "context": {"title": [], "sentences": []}, "n": 1}}
    task = one(tmp_path, "jsonl", row)
    assert (task.supporting, task.metadata) == ((Fact("T", 3),), {"n": 1})
    assert one(tmp_path, "jsonl", {**GENERIC, "supporting_facts": ["T"]}).supporting == (Fact("T"),)


BROKEN = [
    ("hotpotqa", HOTPOT, "answer", None, "field 'answer' should be a string, found None"),
    ("hotpotqa", HOTPOT, "question", "  ", "field 'question' should be a string that is not blank"),
    ("hotpotqa", HOTPOT, "_id", 5, "field '_id' should be a string, found 5"),
    ("hotpotqa", HOTPOT, "type", 5, "field 'type' should be a string"),
    ("hotpotqa", HOTPOT, "supporting_facts", "x", "field 'supporting_facts' should be a list"),
    ("hotpotqa", HOTPOT, "supporting_facts", [["T"]], "field 'supporting_facts' should be [title, sentence]"),
    ("hotpotqa", HOTPOT, "supporting_facts", [["T", "0"]], "a title and a sentence number"),
    ("hotpotqa", HOTPOT, "supporting_facts", [["T", True]], "a title and a sentence number"),
    ("hotpotqa", HOTPOT, "supporting_facts", {"title": ["T"], "sent_id": []}, "equally long lists"),
    ("hotpotqa", HOTPOT, "supporting_facts", {"title": ["T"]}, "equally long lists"),
    ("2wikimultihopqa", WIKI, "evidences", [["A", "B"]], "[subject, relation, object]"),
    ("2wikimultihopqa", WIKI, "evidences", [["A", "r", 3]], "field 'evidences' should be a string"),
    ("2wikimultihopqa", WIKI, "answer_id", 3, "field 'answer_id' should be a string"),
    ("medqa", MEDQA, "answer_idx", "E", "field 'answer_idx' should be the letter of the option 'Rest'"),
    ("medqa", MEDQA, "answer_idx", "A", "field 'answer_idx' should be the letter of the option 'Rest'"),
    ("medqa", MEDQA, "options", {"A": "x", "C": "y"}, "keys A, B, ... and no gap"),
    ("medqa", MEDQA, "options", None, "field 'answer_idx'"),
    ("jsonl", GENERIC, "golden_answers", [], "at least one answer, found []"),
    ("jsonl", GENERIC, "golden_answers", "Here", "field 'golden_answers' should be a list"),
    ("jsonl", GENERIC, "golden_answers", [1], "field 'golden_answers' should be a string"),
    ("jsonl", GENERIC, "golden_answers", [" "], "field 'golden_answers' should be strings that are not blank"),
    ("jsonl", GENERIC, "options", ["x"], "2 to 26 options"),
    ("jsonl", GENERIC, "options", ["x", " "], "field 'options' should be strings that are not blank"),
    ("jsonl", GENERIC, "options", ["x", "y"], "the letter or the text of exactly one option"),
    ("jsonl", {**GENERIC, "golden_answers": ["A", "y"]}, "options", ["x", "y"], "exactly one option"),
    ("jsonl", GENERIC, "metadata", [], "field 'metadata' should be an object"),
]


@pytest.mark.parametrize(("format", "row", "field", "value", "message"), BROKEN)
def test_the_error_for_a_wrong_field_names_the_record_the_field_and_the_value(
    tmp_path, format, row, field, value, message
):
    path = written(tmp_path, {**row, "_id": "0", "id": "0", "question": "First?"}, {**row, field: value})
    with pytest.raises(MalformedData) as caught:
        read_tasks(path, format)
    assert str(caught.value).startswith(f"{path}, record ")
    assert message in str(caught.value)


def test_the_error_for_a_missing_field_lists_the_fields_of_the_record(tmp_path):
    with pytest.raises(MalformedData, match=r"record 1: field 'golden_answers' should be .* found None"):
        one(tmp_path, "jsonl", {"id": "1", "question": "Q?"})
    with pytest.raises(MalformedData, match=r"record 1: field 'question' is missing; the record has \['_id'\]"):
        one(tmp_path, "hotpotqa", {"_id": "1"})


@pytest.mark.parametrize("item", ["x", ["T"], ["T", "x"], ["T", [1]], [1, ["x"]]])
def test_a_wrong_context_is_refused(tmp_path, item):
    with pytest.raises(MalformedData, match="record 1: field 'context'"):
        list(read_contexts(written(tmp_path, {**HOTPOT, "context": [item]}), "hotpotqa"))


def test_an_id_that_occurs_twice_is_an_error(tmp_path):
    with pytest.raises(MalformedData, match="record 2: id 'h1' occurred in an earlier record"):
        read_tasks(written(tmp_path, HOTPOT, HOTPOT), "hotpotqa")


def test_an_unknown_format_and_a_file_without_questions_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'hotpotqa'"):
        read_tasks(written(tmp_path, HOTPOT), "hotpot")
    with pytest.raises(MalformedData, match="the file holds no question"):
        read_tasks(written(tmp_path), "hotpotqa")


MUSIQUE = {
    "id": "3hop1__11_22_33",
    "question": "Where was the spouse of the Green performer born?",
    "answer": "Nice",
    "answer_aliases": ["Nice, France"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Nice &amp; more", "paragraph_text": "She was born in Nice.", "is_supporting": True},
        {"idx": 1, "title": "Blue", "paragraph_text": "Blue is an album.", "is_supporting": False},
        {"idx": 2, "title": "Green", "paragraph_text": "Green is by Steve.", "is_supporting": True},
        {"idx": 3, "title": "Steve", "paragraph_text": "Steve married Miquette.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 11, "question": "Green >> performer", "answer": "Steve", "paragraph_support_idx": 2},
        {"id": 22, "question": "Who married #1 ?", "answer": "Miquette", "paragraph_support_idx": 3},
        {"id": 33, "question": "#2 >> born in", "answer": "Nice", "paragraph_support_idx": 0},
    ],
}
LINKS = (
    Evidence("Green", "performer", "Steve"),
    Evidence("Steve", "Who married Steve ?", "Miquette"),
    Evidence("Miquette", "born in", "Nice"),
)


def test_a_musique_record_keeps_its_decomposition_as_evidences_and_its_gold_in_the_order_of_the_steps(tmp_path):
    path = written(tmp_path, MUSIQUE, name="musique_ans_v1.0_dev.jsonl")
    task = read_tasks(path, "musique")[0]
    assert (task.answers, task.type, task.metadata) == (("Nice", "Nice, France"), "3hop1", {"hops": 3})
    assert task.gold_titles == ("Green", "Steve", "Nice & more")
    assert task.evidences == LINKS
    passages = list(read_contexts(path, "musique"))
    assert [passage.title for passage in passages] == ["Nice & more", "Blue", "Green", "Steve"]
    assert passages[1].text == "Blue is an album."


def test_musique_is_read_from_the_columns_that_the_hub_makes_of_it(tmp_path):
    columns = {
        name: {key: [row[key] for row in MUSIQUE[name]] for key in MUSIQUE[name][0]}
        for name in ("paragraphs", "question_decomposition")
    }
    path = written(tmp_path, {**MUSIQUE, **columns}, name="hub.jsonl")
    assert read_tasks(path, "musique")[0].evidences == LINKS
    assert len(list(read_contexts(path, "musique"))) == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answerable": False}, "musique_ans_v1.0"),
        ({"answer": None}, "'answer'"),
        ({"paragraphs": ["text"]}, "a list of objects"),
        ({"paragraphs": {"idx": [1], "title": []}}, "equally long"),
        ({"paragraphs": None}, "at least one paragraph"),
        ({"paragraphs": [{**MUSIQUE["paragraphs"][0], "idx": [1]}]}, "'idx'"),
        ({"question_decomposition": [{"question": "Q", "answer": "A", "paragraph_support_idx": 9}]}, "the idx"),
        ({"question_decomposition": [{"question": "Q", "answer": "A", "paragraph_support_idx": True}]}, "a string"),
        ({"question_decomposition": [{"question": "Q", "paragraph_support_idx": 1}]}, "'answer'"),
        ({"answer_aliases": "Nice"}, "a list"),
    ],
)
def test_a_musique_record_with_a_fault_is_refused_with_the_line(tmp_path, change, problem):
    with pytest.raises(MalformedData, match="line 1") as error:
        one(tmp_path, "musique", {**MUSIQUE, **change}, name="file.jsonl")
    assert problem in str(error.value)


@pytest.mark.parametrize("question", ["#9 >> x", "#0 >> x", "#12", "No. #1 of #2"])
def test_a_reference_to_a_step_that_has_no_answer_yet_stays_as_it_is(tmp_path, question):
    steps = [{"question": question, "answer": "A", "paragraph_support_idx": 1}]
    task = one(tmp_path, "musique", {**MUSIQUE, "question_decomposition": steps}, name="file.jsonl")
    assert " ".join(task.evidences[0]).replace("Blue ", "").startswith(question.partition(" >>")[0])


def test_the_real_musique_file_has_a_link_and_a_gold_passage_for_each_hop(real_data):
    path = real_data / "musique" / "musique_ans_v1.0_train.jsonl"
    tasks = read_tasks(path, "musique")
    titles = {passage.title for passage in read_contexts(path, "musique")}
    for task in tasks:
        assert str(len(task.evidences)) == task.type[0]
        assert len(task.gold_titles) in (len(task.evidences), len(task.evidences) - 1)  # two may be of one page
        assert set(task.gold_titles) <= titles
        assert task.evidences[-1].object in task.answers
        assert not any("#" in link.subject for link in task.evidences)


def test_flashrags_musique_has_the_paragraphs_in_the_steps(tmp_path):
    titles = {paragraph["idx"]: paragraph["title"] for paragraph in MUSIQUE["paragraphs"]}
    steps = [
        {**step, "support_paragraph": {"title": titles[step["paragraph_support_idx"]], "paragraph_text": "It is so."}}
        for step in MUSIQUE["question_decomposition"]
    ]
    for step in steps:
        del step["paragraph_support_idx"]
    row = {"id": "dev_0", "question": "Where?", "golden_answers": ["Nice"]}
    row["metadata"] = {"answerable": True, "question_decomposition": steps}
    task = one(tmp_path, "jsonl", row, name="dev.jsonl")
    assert (task.evidences, task.metadata) == (LINKS, {"answerable": True, "hops": 3})
    assert task.gold_titles == ("Green", "Steve", "Nice & more")
    # One of a comparison has no paragraph of its own.
    del steps[2]["support_paragraph"]
    assert one(tmp_path, "jsonl", row, name="dev.jsonl").gold_titles == ("Green", "Steve")


@pytest.mark.parametrize("value", [["Who?"], [], "Who?", [{"q": "Who?"}], None, 3])
def test_metadata_that_only_shares_musiques_names_stays_metadata(tmp_path, value):
    row = {**GENERIC, "metadata": {"question_decomposition": value, "paragraphs": ["x"]}}
    task = one(tmp_path, "jsonl", row, name="dev.jsonl")
    assert (task.metadata, task.evidences) == (row["metadata"], ())


BROWSECOMP = {
    "query_id": "1",
    "query": "Who is it?",
    "answer": "Ada",
    "evidence_docs": [{"docid": "7", "text": "---\ntitle: Ant\n---\nAn ant.", "url": "u"}],
    "gold_docs": [],
    "negative_docs": [],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.text("ab #1>-\n", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["idx", "title", "docid", "text", "question", "answer"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("format", "row", "field"),
    [
        *(("musique", MUSIQUE, field) for field in MUSIQUE),
        *(("browsecomp", BROWSECOMP, field) for field in BROWSECOMP),
        *(("jsonl", {**GENERIC, "metadata": MUSIQUE}, field) for field in ("metadata", "golden_answers")),
    ],
)
@settings(max_examples=25, deadline=None)
@given(value=JSON)
def test_a_field_of_any_value_is_read_or_refused_with_the_line(tmp_path_factory, format, row, field, value):
    path = written(tmp_path_factory.mktemp("any"), {**row, field: value}, name="file.jsonl")
    problem = fault(lambda: read_tasks(path, format)) or (format == "musique" and fault(lambda: passages_of(path)))
    assert not problem or "line 1" in problem or "every context is empty" in problem


def fault(read: Callable[[], object]) -> str:
    """Return the message of the error that reading ends in; "" without one."""
    try:
        read()
    except MalformedData as error:
        return str(error)
    return ""


def passages_of(path: Path) -> list[Passage]:
    return list(read_contexts(path, "musique"))


@settings(max_examples=50, deadline=None)
@given(steps=JSON, paragraphs=JSON)
def test_metadata_with_musiques_names_is_kept_or_read_as_musiques(tmp_path_factory, steps, paragraphs):
    metadata = {"question_decomposition": steps, "paragraphs": paragraphs}
    path = written(tmp_path_factory.mktemp("own"), {**GENERIC, "metadata": metadata}, name="file.jsonl")
    if problem := fault(lambda: read_tasks(path, "jsonl")):
        assert re.search("'(question|answer|title|idx)'", problem)
    else:
        (task,) = read_tasks(path, "jsonl")
        assert task.metadata == metadata or "hops" in task.metadata
