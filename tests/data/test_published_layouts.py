"""Every shipped card of a data set that is searched in the open, on small invented files laid out as published ones."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from raggym_env import Search, data
from raggym_env.cards import env_card
from raggym_env.cli import app
from raggym_env.envs import make_env
from raggym_env.errors import MalformedData
from raggym_env.evaluation import evaluate

WIKI18 = [
    {"id": "0", "contents": '"The Salt Road"\nThe Salt Road is a film directed by Ines Quarrel.'},
    {"id": "1", "contents": '"Ines Quarrel"\nInes Quarrel was born in Velmora.'},
    {"id": "2", "contents": '"Velmora"\nVelmora is a city on the Anse.'},
]
QUESTION = {"id": "test_0", "question": "Where was the director of The Salt Road born?", "golden_answers": ["Velmora"]}
HOTPOT = {
    "type": "bridge",
    "level": "hard",
    "supporting_facts": {"title": ["The Salt Road", "Ines Quarrel"], "sent_id": [0, 0]},
    "context": {"title": ["The Salt Road"], "sentences": [["The Salt Road is a film."]]},
}
WIKI = {
    "type": "compositional",
    "supporting_facts": {"title": ["The Salt Road", "Ines Quarrel"], "sent_id": [0, 0]},
    "context": {"title": ["The Salt Road"], "content": [["The Salt Road is a film."]]},
    "evidences": {"fact": ["The Salt Road"], "relation": ["director"], "entity": ["Ines Quarrel"]},
}
STEPS = [
    ("The Salt Road >> director", "Ines Quarrel", "The Salt Road"),
    ("#1 >> place of birth", "Velmora", "Ines Quarrel"),
]
MUSIQUE = {
    "question_decomposition": [
        {"id": id, "question": question, "answer": answer, "support_paragraph": {"title": title, "paragraph_text": "x"}}
        for id, (question, answer, title) in enumerate(STEPS)
    ]
}
POPQA = {"subj": "The Salt Road", "prop": "director", "obj": "Ines Quarrel", "s_pop": 12, "possible_answers": "[]"}
# The data set's folder in FlashRAG's collection, its file of test questions, and what its `metadata` holds.
FLASHRAG = {
    "RAGGym-NQ-v0": ("nq", "test", None),
    "RAGGym-TriviaQA-v0": ("triviaqa", "test", {}),
    "RAGGym-PopQA-v0": ("popqa", "test", POPQA),
    "RAGGym-HotpotQA-Wiki18-v0": ("hotpotqa", "dev", HOTPOT),
    "RAGGym-2WikiMultihopQA-Wiki18-v0": ("2wikimultihopqa", "dev", WIKI),
    "RAGGym-MuSiQue-Wiki18-v0": ("musique", "dev", MUSIQUE),
    "RAGGym-Bamboogle-Wiki18-v0": ("bamboogle", "test", {}),
}
WITH_GOLD = {"RAGGym-HotpotQA-Wiki18-v0", "RAGGym-2WikiMultihopQA-Wiki18-v0", "RAGGym-MuSiQue-Wiki18-v0"}


@pytest.fixture(autouse=True)
def user_data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    return tmp_path / "user"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def scores_of(name: str, tmp_path: Path, **settings: Any) -> Mapping[str, float]:
    _, scores = evaluate(name, "lexical", out=tmp_path / "run", settings=settings)
    assert scores.complete
    return {metric: estimate.mean for metric, estimate in scores.metrics.items()}


def test_musique_is_evaluated_over_the_paragraphs_of_its_own_files(user_data, tmp_path):
    paragraphs = [
        {"idx": index, "title": title, "paragraph_text": text, "is_supporting": index < 2}
        for index, (title, text) in enumerate(
            [
                ("The Salt Road", "The Salt Road is a film directed by Ines Quarrel."),
                ("Ines Quarrel", "Ines Quarrel was born in Velmora."),
                ("Ost", "Ost is a town."),
            ]
        )
    ]
    steps = [
        {"id": index, "question": question, "answer": answer, "paragraph_support_idx": index}
        for index, (question, answer, _) in enumerate(STEPS)
    ]
    row = {"id": "2hop__1_2", "question": QUESTION["question"], "answer": "Velmora", "answer_aliases": []}
    row |= {"answerable": True, "paragraphs": paragraphs, "question_decomposition": steps}
    for part in ("train", "dev"):
        write(user_data / "musique" / f"musique_ans_v1.0_{part}.jsonl", [row])
    result = CliRunner().invoke(
        app, ["eval", "RAGGym-MuSiQue-v0", "--policy", "lexical", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0
    assert "1 of 1 questions scored" in result.output
    gold = evaluate("RAGGym-MuSiQue-v0", "gold", split="train", out=tmp_path / "gold")[1]
    assert (gold.metrics["em"].mean, gold.metrics["recall"].mean) == (1.0, 1.0)
    env = make_env("RAGGym-MuSiQue-v0", split="train", process_reward="evidence")
    env.reset(seed=0)
    assert env.step(Search(QUESTION["question"]))[1] > 0.9  # all evidence, less the cost of a search


@pytest.mark.parametrize("name", FLASHRAG)
def test_flashrags_files_are_evaluated_over_wiki_18(user_data, tmp_path, name):
    folder, part, metadata = FLASHRAG[name]
    write(user_data / "flashrag" / folder / f"{part}.jsonl", [{**QUESTION, "metadata": metadata}])
    write(user_data / "flashrag" / "wiki-18.jsonl.gz", WIKI18)
    assert ("recall" in scores_of(name, tmp_path)) == (name in WITH_GOLD)
    dataset = data.load(name, "test")
    assert [passage.title for passage in dataset.corpus] == ["The Salt Road", "Ines Quarrel", "Velmora"]
    if name in WITH_GOLD:
        assert dataset.tasks[0].gold_titles == ("The Salt Road", "Ines Quarrel")


def document(docid: str, title: str, text: str) -> dict[str, str]:
    return {"docid": docid, "text": f"---\ntitle: {title}\ndate: 2020-01-01\n---\n{text}", "url": f"https://{docid}"}


PAGES = [
    document("31", "The Salt Road", "The Salt Road is a film directed by Ines Quarrel."),
    document("48", "Ines Quarrel", "Ines Quarrel was born in Velmora."),
    document("52", "Ines Quarrel", "Another person of that name."),
    document("77", "Ost", "Ost is a town of sailors."),
]
BROWSECOMP = {"query_id": "1", "query": QUESTION["question"], "answer": "Velmora", "negative_docs": PAGES[3:]}
BROWSECOMP |= {"gold_docs": PAGES[1:2], "evidence_docs": PAGES[:2]}


def test_browsecomp_plus_is_evaluated_over_its_corpus_by_its_evidence_documents(user_data, tmp_path):
    write(user_data / "browsecomp_plus" / "browsecomp_plus_decrypted.jsonl", [BROWSECOMP])
    write(user_data / "browsecomp_plus" / "corpus.jsonl", PAGES)
    scores = scores_of("RAGGym-BrowseCompPlus-v0", tmp_path, **{"retrieval.k": 2})
    assert scores["recall"] == 1.0
    task = data.load("RAGGym-BrowseCompPlus-v0").tasks[0]
    # The other document of that title is no evidence.
    assert (task.id, task.gold_titles) == ("1", ("The Salt Road (31)", "Ines Quarrel (48)"))


def test_encrypted_rows_of_browsecomp_plus_are_refused_with_the_way_to_decrypt_them(user_data):
    encrypted = base64.b64encode(b"a question that is not readable").decode()
    path = user_data / "browsecomp_plus" / "browsecomp_plus_decrypted.jsonl"
    write(path, [{**BROWSECOMP, "query": encrypted}])
    with pytest.raises(MalformedData, match=r"encrypted.*github\.com/texttron/BrowseComp-Plus"):
        data.load_tasks("RAGGym-BrowseCompPlus-v0")


def test_hotpotqas_dump_of_abstracts_is_searched_as_it_is_published(user_data, tmp_path):
    row = {"_id": "5a", "question": QUESTION["question"], "answer": "Velmora", "type": "bridge", "level": "hard"}
    row |= {"supporting_facts": [["The Salt Road", 0], ["Ines Quarrel", 0]], "context": []}
    folder = user_data / "hotpotqa"
    folder.mkdir(parents=True)
    (folder / "hotpot_dev_fullwiki_v1.json").write_text(json.dumps([row]))
    text = "".join(
        json.dumps({"id": row["id"], "url": "u", "title": title.strip('"'), "text": [body[:9], body[9:]]}) + "\n"
        for row in WIKI18
        for title, _, body in [row["contents"].partition("\n")]
    )
    content = bz2.compress(text.encode())
    dump = folder / "enwiki-20171001-pages-meta-current-withlinks-abstracts.tar.bz2"
    with tarfile.open(dump, "w:bz2") as file:
        member = tarfile.TarInfo("enwiki-20171001/AA/wiki_00.bz2")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    assert scores_of("RAGGym-HotpotQA-Fullwiki-v0", tmp_path)["recall"] == 1.0


class FakeHub:
    """Stands in for the `datasets` package: rows by data set, configuration and split."""

    def __init__(self, rows: Mapping[tuple[str, str | None, str], list[dict[str, Any]]]) -> None:
        self.rows = rows
        self.exceptions = SimpleNamespace(DatasetsError=ZeroDivisionError)

    def load_dataset(self, path: str, name: str | None, *, split: str) -> list[dict[str, Any]]:
        return self.rows[path, name, split]


@pytest.mark.parametrize("name", FLASHRAG)
def test_what_is_missing_comes_from_the_hub_where_flashrag_and_search_r1_have_it(tmp_path, monkeypatch, name):
    folder, part, metadata = FLASHRAG[name]
    hub = FakeHub(
        {
            ("RUC-NLPIR/FlashRAG_datasets", folder, part): [{**QUESTION, "metadata": metadata}],
            ("PeterJinGo/wiki-18-corpus", None, "train"): WIKI18,
        }
    )
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (len(data.load(name, "test").tasks), len(data.load(name, "test").corpus)) == (1, 3)


def test_the_list_says_what_is_missing_and_how_to_get_it(user_data):
    result = CliRunner().invoke(app, ["data", "list", "--json"])
    problems = {(row["card"], row["split"]): row["problem"] for row in json.loads(result.output)}
    for name in FLASHRAG:
        assert f"{user_data / 'flashrag'} has no {FLASHRAG[name][0]}/" in problems[name, "test"]
        assert f"run `raggym data get {name}` where there is a network" in problems[name, "test"]
    assert "musique_ans_v1.0_dev.jsonl" in problems["RAGGym-MuSiQue-v0", "test"]
    assert "https://github.com/StonyBrookNLP/musique" in problems["RAGGym-MuSiQue-v0", "test"]


def test_seven_cards_share_one_corpus(user_data):
    write(user_data / "flashrag" / "wiki-18.jsonl", WIKI18)
    for name in FLASHRAG:
        folder, part, metadata = FLASHRAG[name]
        write(user_data / "flashrag" / folder / f"{part}.jsonl", [{**QUESTION, "metadata": metadata}])
    assert len({data.load(name, "test").corpus.path for name in FLASHRAG}) == 1
    assert {env_card(name).dataset.folder for name in FLASHRAG} == {"flashrag"}
