"""Data sections of a prompt. Their use in the prompts of an agent is tested in `policies/prompt/test_templates.py`."""

import pytest
from jinja2 import TemplateError

from raggym_env.core import Passage, Turn
from raggym_env.text.sections import history_sections, shown_again, template_environment
from raggym_env.text.untrusted import passage_lines

PASSAGES = (Passage("1", "Dawn", "A film."), Passage("2", "Dusk", "word " * 9))


def test_passages_are_one_numbered_line_each():
    assert passage_lines(PASSAGES, 12) == ["[1] Dawn: A film.", "[2] Dusk: word word…"]
    assert passage_lines(PASSAGES, numbered=False)[0] == "- Dawn: A film."
    assert passage_lines(PASSAGES)[1] == "[2] Dusk: word word word word word word word word word"


def test_once_a_search_is_left_out_all_older_ones_are_too():
    history = (Turn("short", ()), Turn("long", PASSAGES * 20), Turn("new", ()))
    lines = history_sections(history, passage_chars=99, history_chars=200).splitlines()
    assert lines[:2] == ['<passages query="short">left out</passages>', '<passages query="long">left out</passages>']
    assert lines[2:] == ['<passages query="new">', "nothing", "</passages>"]


def test_a_long_reply_is_cut_before_it_is_shown_again():
    assert len(shown_again("word\n" * 1_000)) <= 2_000


@pytest.mark.parametrize("template", ["{{ missing }}", "{{ ''.__class__.__mro__ }}", "{{ items.append(1) }}"])
def test_a_template_cannot_reach_what_it_was_not_given_nor_change_it(template):
    with pytest.raises(TemplateError):
        template_environment().from_string(template).render(items=[])
