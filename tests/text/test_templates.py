"""What a card's template may do: show the state, and nothing that grows or runs without bound."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raggym_env.cards import policy_card
from raggym_env.storage.paths import card_names
from raggym_env.text.templates import FILTERS, MAX_RENDERED, CardTemplates

PASSAGE = {"title": "Dawn", "text": "x" * 600}
TURNS = [{"query": "q" * 100, "passages": [PASSAGE] * 32, "note": None}] * 10
STATE = {"question": "Q" * 200, "history": "h" * 12_000, "searches_left": 3, "can_search": True, "turns": TURNS}


def render(template):
    return CardTemplates().from_string(template).render(**STATE)


# Each of these, let through, takes gigabytes or minutes, or reaches what the template was not given.
BOMBS = [
    "{{ 'a' * 3000000000 }}",
    "{{ [0] * 3000000000 }}",
    "{{ history * searches_left }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ history % turns }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ question|center(1000000000) }}",
    "{{ question|indent(1000000000) }}",
    "{{ turns|batch(1000000000, 'x')|list }}",
    "{{ history|replace('h', history) }}",
    "{{ history|join(history) }}",
    "{{ history|join('12345678901234567890')|join('12345678901234567890') }}",
    "{{ (history|join('xx') ~ '')|join('yy') }}",
    "{{ history|join(*turns) }}",
    "{{ turns|map('join', history)|list }}",
    "{{ turns|map(attribute='query', default=history)|list }}",
    "{{ turns|sum(start=history) }}",
    "{{ history|tojson|tojson|tojson }}",
    "{{ history|wordwrap(1) }}",
    "{{ history|urlize }}",
    "{{ 3000000000|filesizeformat }}",
    "{{ history.join(history) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ range(1000000000)|list }}",
    "{{ lipsum(n=1000000) }}",
    "{{ cycler('a').next() }}",
    "{{ namespace(a=1) }}",
    "{{ {'a': history} }}",
    "{% set x = history ~ history %}{% set x = x ~ x %}{{ x }}",
    "{% set x %}{{ history }}{% endset %}",
    "{% with x = history ~ history %}{{ x ~ x }}{% endwith %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% call m() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% block a %}x{% endblock %}{{ self.a() }}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in 'aaaa' %}x{% endfor %}",
    "{% for i in [turns, turns] %}x{% endfor %}",
    "{% for c in history %}x{% endfor %}",
    "{% for c in turns[0].query %}x{% endfor %}",
    "{% for a in turns recursive %}{{ loop(turns) }}{% endfor %}",
    "{% for a in turns %}{% for b in turns %}x{% endfor %}{% endfor %}",
    "{% for a in turns %}{% for b in loop %}x{% endfor %}{% endfor %}",
    "{% for a in turns %}{% for b in a.passages %}{% for c in b %}x{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in turns %}" + "{% if history ~ history == '' %}{% endif %}" * 200 + "{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ turns.__init__.__globals__ }}",
    "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
    "{{ " + "-" * 10_000 + "1 }}",
    "{{ " + "not " * 5_000 + "1 }}",
    "{{ question" + "|upper" * 5_000 + " }}",
    "{{ question" + ".a" * 5_000 + " }}",
    "{{ " + "[" * 5_000 + " }}",
    "{% if can_search %}" * 200 + "{% endif %}" * 200,
    "{{ " + "9" * 40_000 + " }}",
    "{{ history }}" * 3_000,
    "{{ " + " ~ ".join(["history"] * 4_000) + " }}",
    "a" * 60_000,
]


@pytest.mark.parametrize("template", BOMBS, ids=lambda text: text[:60])
def test_a_template_that_grows_or_reaches_out_is_one_error_at_once(template):
    start = time.process_time()
    with pytest.raises(TemplateError):
        render(template)
    assert time.process_time() - start < 10  # measured: 0.4 s at most


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a\n{{ 'a' * 9 }}", r"cannot use '\*'"),
        ("a\n{% macro m() %}{% endmacro %}", "cannot use 'macro'"),
        ("a\n{{ range(9) }}", "cannot use 'call'"),
        ("a\n{{ question|center(9) }}", "cannot use the filter 'center'; the filters are .*join"),
        ("a\n{% for i in [1] %}{% endfor %}", "loops over a variable or its attribute only"),
    ],
)
def test_the_error_names_the_line_and_what_cannot_be_used(template, problem):
    with pytest.raises(TemplateSyntaxError, match=problem) as error:
        CardTemplates().from_string(template)
    assert error.value.lineno == 2


NEEDED = [
    "{{ question }}\n{{ history or 'nothing' }}",
    "{% if can_search %}Searches left: {{ searches_left }}.{% elif turns %}b{% else %}No search is left.{% endif %}",
    "{{ 'search' if can_search and not searches_left == 0 else 'answer' }}",
    "{% for turn in turns %}{{ loop.index }}. {{ turn.query }}{% for passage in turn.passages %}"
    "{{ passage.title|upper }}: {{ passage.text[:50] }}{% endfor %}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for turn in turns[-3:]|reverse if turn.note is none %}{{ turn['query'] }}{% else %}none{% endfor %}",
    "{{ turns|length }}, {{ turns[-1].query|trim }}, {{ turns|map(attribute='query')|join('; ') }}",
    "{{ searches_left - 1 }} {{ searches_left + 1 }} {{ question ~ '!' }} {{ question + '!' }}",
    "{% if searches_left in [1, 2, 3] and searches_left > 0 and turns is defined %}x{% endif %}",
    "{# a comment #}{% raw %}{{ not a variable }}{% endraw %}{{ turns[0].note|default('no note') }}",
]


@pytest.mark.parametrize("template", NEEDED, ids=range(len(NEEDED)))
def test_what_prompts_need_is_rendered_as_jinja_does(template):
    whole = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    assert render(template) == whole.render(**STATE)


@pytest.mark.parametrize("name", card_names("policies"))
def test_the_prompts_of_every_shipped_card_are_such_templates(name):
    for template in policy_card(name).options.get("prompts", {}).values():
        CardTemplates().from_string(template)


def test_wrong_types_in_a_template_are_template_errors():
    for template in ("{{ question + 1 }}", "{{ -question }}", "{{ question[::0] }}", "{{ question < 1 }}"):
        with pytest.raises(TemplateError):
            render(template)


VARIABLES = st.sampled_from(["question", "history", "searches_left", "can_search", "turns", "turns[0].query"])
LITERALS = st.sampled_from(["'a'", "'%99999999d'", "1", "1000000000", "none", "[]"])


def expressions(inner):
    two = st.tuples(inner, st.sampled_from(["+", "-", "*", "**", "%", "//", "~", "==", "<", "in"]), inner).map(" ".join)
    filters = [*FILTERS, "center(99999999)", "join(history)", "join('ab')", "replace('h', history)", "map('join')"]
    return st.one_of(
        two.map("({})".format),
        st.tuples(inner, st.sampled_from(filters)).map("|".join),
        st.tuples(inner, st.sampled_from(["[0]", "[:5]", ".join(history)", ".format(1)", "(1)"])).map("".join),
        inner.map("(not {})".format),
    )


EXPRESSIONS = st.recursive(VARIABLES | LITERALS, expressions, max_leaves=12)


@settings(max_examples=300, deadline=5_000)
@given(st.lists(EXPRESSIONS, max_size=3), EXPRESSIONS, st.booleans())
def test_no_combination_of_expressions_and_loops_is_slow_or_long_or_an_untyped_error(shown, source, nested):
    body = "".join(f"{{{{ {text} }}}}" for text in shown)
    loop = f"{{% for x in {source} %}}{body}{{% endfor %}}"
    if nested:
        loop = f"{{% for x in turns %}}{{% for y in x.passages %}}{loop}{{% endfor %}}{{% endfor %}}"
    for template in (body, loop):
        try:
            text = render(template)
        except TemplateError:
            continue
        assert len(text) <= MAX_RENDERED
