import re

from raggym_env.core import Answer, Search
from raggym_env.evaluation import build_leaderboard, evaluate, html_report
from raggym_env.protocols import Proposal
from towns import Reader, write_towns


class Hostile(Reader):
    """Answers with markup."""

    name = "<script>alert(1)</script>"

    def _proposal(self, state):
        return Proposal(Answer("<img src=x onerror=alert(1)>") if state.history else Search("<b>Town1</b>"))


def page(tmp_path, policy, **options):
    run, _ = evaluate(write_towns(tmp_path / "towns"), policy, out=tmp_path / "run")
    return html_report(build_leaderboard([run.path]), **options)


def test_the_page_shows_the_table_and_every_trajectory(tmp_path):
    text = page(tmp_path, Reader(fails={"q3"}))
    assert "Towns-v0, test split, 12 questions" in text
    assert text.count('<details class="episode">') == 12
    for part in ("search: On which river does Town1 lie?", "answer: River1", "gold: River1", "failed: PolicyError"):
        assert part in text
    assert (text.count('class="right"'), text.count('class="failed"')) == (11, 1)


def test_the_number_of_trajectories_is_bounded_and_said(tmp_path):
    text = page(tmp_path, Reader(), episodes=5)
    assert text.count('<details class="episode">') == 5
    assert "reader: 5 of 12 episodes" in text
    assert '<details class="episode">' not in page(tmp_path, Reader(), episodes=0)


def test_recorded_text_cannot_become_markup_and_the_page_loads_nothing(tmp_path):
    text = page(tmp_path, Hostile())
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;script&gt;" in text
    assert re.findall(r"<(?:script|img|b|link|iframe)\b", text) == []
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?https?:", text) == []
    assert "default-src 'none'" in text


def test_what_a_person_cannot_see_and_what_would_fill_the_page_is_taken_out(tmp_path):
    class Hidden(Reader):
        name = fingerprint = "hidden\u202e\U000e0041\x1b[2J\x00"

        def _proposal(self, state):
            return Proposal(Answer("\ud800\u200b" + "x" * 50_000))

    text = page(tmp_path, Hidden())
    text.encode("utf-8")
    assert "hidden[2J: 12 of 12 episodes" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\U000e0041]", text)
    assert len(text) < 100_000
