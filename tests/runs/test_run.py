import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from raggym_env.core import Answer
from raggym_env.errors import CardError, MalformedData, RewardError, RunError
from raggym_env.evaluation import Run, evaluate
from raggym_env.protocols import Proposal
from towns import Reader, write_jsonl, write_towns


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


def contents(run):
    """The episodes as a set, without the wall time, which is never the same."""
    return {json.dumps({k: v for k, v in record.items() if k != "seconds"}, sort_keys=True) for record in run.records()}


def test_a_run_folder_says_what_was_run_and_holds_every_episode(towns, tmp_path):
    run, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    record = json.loads((run.path / "run.json").read_text())
    assert (record["format"], record["status"]) == (1, "complete")
    assert record["config"]["policy"]["name"] == "reader"
    assert record["packages"]["gymnasium"]
    assert (scores.complete, scores.metrics["em"].mean, scores.metrics["recall"].mean) == (True, 1.0, 1.0)
    assert len(run.records()) == 12


def test_a_finished_run_is_not_run_again(towns, tmp_path):
    first, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    before = first.episodes_file.read_bytes()
    _, again = evaluate(towns, Reader(fails={"q0"}), out=tmp_path / "run")
    assert first.episodes_file.read_bytes() == before
    assert again == scores


def test_failed_episodes_are_tried_again_and_nothing_is_counted_twice(towns, tmp_path):
    run, scores = evaluate(towns, Reader(fails={"q3", "q5"}), out=tmp_path / "run")
    assert (scores.scored, scores.failed) == (10, 2)
    assert json.loads((run.path / "run.json").read_text())["status"] == "incomplete"
    run, scores = evaluate(towns, Reader(), out=tmp_path / "run")
    assert (scores.scored, scores.failed, scores.metrics["em"].mean) == (12, 0, 1.0)
    assert len(run.records()) == 14


def test_progress_counts_what_was_done_before(towns, tmp_path):
    evaluate(towns, Reader(fails={"q3"}), out=tmp_path / "run")
    seen = []
    evaluate(
        towns,
        Reader(),
        out=tmp_path / "run",
        progress=lambda done, total, record: seen.append((done, total, record["id"])),
    )
    assert seen == [(12, 12, "q3")]


def test_limit_takes_the_first_questions(towns, tmp_path):
    run, scores = evaluate(towns, Reader(), limit=5, out=tmp_path / "run")
    assert scores.questions == 5
    assert {record["id"] for record in run.records()} == {f"q{i}" for i in range(5)}
    with pytest.raises(ValueError, match="limit must be at least 1"):
        evaluate(towns, Reader(), limit=0)


def test_another_run_in_the_same_folder_is_refused_with_what_differs(towns, tmp_path):
    evaluate(towns, Reader(), limit=5, out=tmp_path / "run")
    with pytest.raises(RunError, match="limit is 5 there and 6 here") as error:
        evaluate(towns, Reader(), limit=6, out=tmp_path / "run", settings={"retrieval.k": 3})
    assert "environment.retrieval.k is 5 there and 3 here" in str(error.value)


def test_changed_questions_are_another_run(towns, tmp_path):
    evaluate(towns, Reader(), out=tmp_path / "run")
    rows = [json.loads(line) for line in (towns.parent / "questions.jsonl").read_text().splitlines()]
    write_jsonl(towns.parent / "questions.jsonl", [*rows[1:], {**rows[0], "golden_answers": ["Other"]}])
    with pytest.raises(RunError, match="dataset is"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_a_folder_that_holds_something_else_is_left_alone(towns, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "episodes.jsonl").write_text("precious")
    with pytest.raises(RunError, match="is not a run folder"):
        evaluate(towns, Reader(), out=tmp_path / "mine")
    assert (tmp_path / "mine" / "episodes.jsonl").read_text() == "precious"


@pytest.mark.parametrize("content", [None, "{", '{"format": 99}'])
def test_reading_what_is_no_run_says_so(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json"):
        Run.read(tmp_path)


def test_a_damaged_episode_is_named_not_dropped(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    lines = run.episodes_file.read_text().splitlines(keepends=True)
    run.episodes_file.write_text("".join([lines[0], "garbage\n", *lines[1:]]))
    with pytest.raises(MalformedData, match=r"episodes\.jsonl, line 2"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_two_processes_cannot_write_to_one_run(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    # A lock through another file handle excludes as one of another process does.
    with FileLock(run.path / ".lock"), pytest.raises(RunError, match="Another process is writing"):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_settings_change_the_card_and_the_policy(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run", settings={"episode.max_searches": 1, "retrieval.k": 2})
    assert run.card.episode.max_searches == 1
    with pytest.raises(CardError, match=r"retrieval\.kk"):
        evaluate(towns, Reader(), settings={"retrieval.kk": 2})
    with pytest.raises(RunError, match="policy object"):
        evaluate(towns, Reader(), settings={"policy.options.x": 2})


def test_the_default_folder_is_named_after_the_run(towns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = evaluate(towns, "random")
    again, _ = evaluate(towns, "random")
    other, _ = evaluate(towns, "random", seed=1)
    assert run.path == again.path != other.path
    assert run.path.name.startswith("Towns-v0_test_random_")


class Anonymous(Reader):
    fingerprint = None


def test_a_policy_object_without_a_fingerprint_runs_but_is_never_mixed_with_another(towns, tmp_path):
    _, scores = evaluate(towns, Anonymous(fails={"q1"}), out=tmp_path / "run")
    assert scores.failed == 1
    with pytest.raises(RunError, match="no `fingerprint`"):
        evaluate(towns, Anonymous(), out=tmp_path / "run")


def test_a_policy_object_with_another_fingerprint_is_another_run(towns, tmp_path):
    evaluate(towns, Reader(), out=tmp_path / "run")
    other = Reader()
    other.fingerprint = "other weights"
    with pytest.raises(RunError, match=r"policy\.fingerprint is 'reader' there and 'other weights' here"):
        evaluate(towns, other, out=tmp_path / "run")


def test_an_object_with_propose_is_a_policy_and_a_class_is_not(towns, tmp_path):
    class OnlyPropose:
        def propose(self, states, n=1):
            return [[Proposal(Answer("x"))] for _ in states]

    assert evaluate(towns, OnlyPropose(), out=tmp_path / "run")[1].complete
    with pytest.raises(TypeError, match="object with propose"):
        evaluate(towns, OnlyPropose, out=tmp_path / "other")


def test_a_folder_with_other_files_is_not_written_to(towns, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not a run folder"):
        evaluate(towns, Reader(), out=tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 3}, "id"),
        ({"answer": 5}, "answer"),
        ({"steps": None}, "steps"),
        ({"steps": [{}]}, r"steps\[0\].search"),
        ({"steps": [{"search": "x", "passages": [["only one"]]}]}, r"steps\[0\].passages\[0\]"),
        ({"usage": {"calls": 1}}, "usage.prompt_tokens"),
    ],
)
def test_a_tampered_record_is_named_by_line_and_field(towns, tmp_path, change, field):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    records = run.records()
    write_jsonl(run.episodes_file, [records[0], {**records[1], **change}])
    with pytest.raises(MalformedData, match=f"line 2: field '{field}'"):
        run.records()


def test_a_run_json_without_its_config_is_refused(towns, tmp_path):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    content = json.loads((run.path / "run.json").read_text())
    del content["config"]["limit"]
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="changed by hand"):
        Run.read(run.path)


def test_the_name_of_a_card_cannot_be_set_so_a_run_stays_below_its_folder(towns):
    for key in ("name", "policy.name", "path"):
        with pytest.raises(CardError, match="cannot be set"):
            evaluate(towns, "random", settings={key: "../../escaped"})


def test_a_record_is_whole_or_an_error(tmp_path):
    """A disk that fills up in the middle of a line must not be passed over in silence."""
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal, sys; from pathlib import Path; from raggym_env.mdp.records import append_record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "append_record(Path(sys.argv[1]), {'text': 'x' * 5000})"
    )
    assert resource
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "e.jsonl"], capture_output=True, text=True)
    assert "OSError" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lexical", "single_search", "random"])
def test_episodes_do_not_depend_on_the_hash_seed_or_the_number_in_flight(tmp_path, policy):
    outcomes = set()
    for hash_seed, in_flight in (("1", "32"), ("2", "5"), ("3", "32")):
        out = tmp_path / f"{hash_seed}"
        command = [*eval_command("RAGGym-Synth-v0", out), "--limit", "60", "--in-flight", in_flight]
        command[command.index("lexical")] = policy
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        outcomes.add(tuple(sorted(contents(Run.read(out)))))
    assert len(outcomes) == 1


def test_a_price_learnt_later_prices_the_finished_run(towns, tmp_path):
    evaluate(towns, "random", out=tmp_path / "run")
    price = {"policy.price": {"prompt": 1.0, "completion": 2.0}}
    run, scores = evaluate(towns, "random", out=tmp_path / "run", settings=price)
    assert scores.cost == 0.0
    assert Run.read(run.path).price.completion == 2.0


@pytest.mark.parametrize("key", ["dataset", "corpus", "retriever", "version", "split", "seed", "policy", "environment"])
def test_whatever_changes_a_run_is_part_of_what_it_is(towns, tmp_path, key):
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run")
    content = json.loads((run.path / "run.json").read_text())
    content["config"][key] = {} if isinstance(content["config"][key], dict) else "other"
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=key):
        evaluate(towns, Reader(), out=tmp_path / "run")


def test_the_process_reward_of_the_card_is_recorded(towns, tmp_path):
    settings = {"reward.process_reward": "random", "reward.options": {"seed": 5}}
    run, _ = evaluate(towns, Reader(), out=tmp_path / "run", settings=settings)
    assert 0 < run.records()[0]["steps"][0]["process_reward"] < 1


def test_evidence_is_refused_on_the_test_split_through_the_card(towns):
    with pytest.raises(RewardError, match="splits named train"):
        evaluate(towns, Reader(), settings={"reward.process_reward": "evidence"})
    with pytest.raises(RewardError, match="splits named train"):
        evaluate(towns, "lexical", settings={"policy.search": {"best_of": 2, "critic": "evidence"}})


def test_a_policy_name_cannot_lead_out_of_the_runs_folder(towns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = Reader()
    policy.name = "../../escaped"
    run, _ = evaluate(towns, policy)
    assert run.path.resolve().parent == (tmp_path / "runs").resolve()


def eval_command(card, out):
    command = ["-m", "raggym_env", "eval", str(card), "--policy", "lexical", "--out", str(out), "--in-flight", "4"]
    return [sys.executable, *command]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_an_evaluation_killed_ten_times_at_random_moments_ends_with_the_same_episodes_and_scores(tmp_path):
    card = write_towns(tmp_path / "towns", questions=1500)
    subprocess.run(eval_command(card, tmp_path / "undisturbed"), check=True, capture_output=True)
    rng = random.Random(0)
    episodes = tmp_path / "killed" / "episodes.jsonl"
    for kill in range(10):
        process = subprocess.Popen(
            eval_command(card, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The first before there is anything, the others in the middle of the work.
        target = lines(episodes) + rng.randrange(1, 100) if kill else 0
        while lines(episodes) < target and process.poll() is None:
            pass
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 0 < lines(episodes) < 1500
    subprocess.run(eval_command(card, tmp_path / "killed"), check=True, capture_output=True)
    killed, undisturbed = Run.read(tmp_path / "killed"), Run.read(tmp_path / "undisturbed")
    assert len(killed.records()) == len(undisturbed.records()) == 1500
    assert contents(killed) == contents(undisturbed)
    scores = [json.loads((run.path / "run.json").read_text())["scores"] for run in (killed, undisturbed)]
    assert scores[0] == scores[1]
