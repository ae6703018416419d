"""The template language of cards: the part of Jinja that prompts need, and nothing that could grow without bound.

A card may come from somebody else, so its templates are checked when they are compiled. They may

- show variables, their attributes, items and slices, and texts written in the template, joined by `+` or `~`;
- compare them, with `and`, `or`, `not`, `in`, `is` and `if`;
- loop over a variable (`{% for turn in turns %}`) and, inside, over an attribute of its items
  (`{% for passage in turn.passages %}`);
- use the filters of `FILTERS`; `join` once in an expression, with a short separator, and `map` with an attribute.

Calls, macros, assignments, products and other filters are refused: with them a line of a template can fill the memory
or never end. The template itself, its loops, and the text that it renders have limits too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from jinja2 import StrictUndefined, Template, TemplateRuntimeError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["FILTERS", "MAX_RENDERED", "CardTemplates"]

FILTERS = (
    *("capitalize", "count", "d", "default", "first", "int", "join", "last", "length", "list", "lower", "map"),
    *("reverse", "string", "title", "trim", "upper", "wordcount"),
)
"""The filters that a card's template may use."""

MAX_RENDERED = 4_000_000
"""Maximum number of characters that a template renders: about a million tokens."""

_MAX_SOURCE = 50_000  # characters
_MAX_DEPTH = 30  # levels of nesting in the template's syntax; Python compiles no more than 100
_MAX_LOOPED = 300  # nodes of the syntax (variables, filters, texts) in all loops together
_MAX_SEPARATOR = 20  # characters

_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos, nodes.Concat),
    *(nodes.If, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Test),
    *(nodes.For, nodes.Filter, nodes.Keyword),
)


class _Bounded(Template):
    """A template whose rendering ends in a `TemplateError` if it fails in any way, or where it exceeds the limit."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        parts, length = [], 0
        try:
            for part in self.generate(*args, **kwargs):
                length += len(part)
                if length > MAX_RENDERED:
                    raise TemplateRuntimeError(f"the text is longer than {MAX_RENDERED:,} characters")
                parts.append(part)
        # It is text of a card, not of the library: it may use wrong types or positions.
        except (TypeError, ArithmeticError, LookupError, ValueError) as error:
            raise TemplateRuntimeError(str(error)) from error
        return "".join(parts)


class CardTemplates(ImmutableSandboxedEnvironment):
    """The Jinja environment of cards' templates: restricted, sandboxed, and strict about undefined variables.

    >>> CardTemplates().from_string("{{ 'a' * 3000000000 }}")
    Traceback (most recent call last):
    jinja2.exceptions.TemplateSyntaxError: a card's template cannot use '*'
      line 1
    """

    template_class = _Bounded

    def __init__(self) -> None:
        # autoescape is for HTML.
        super().__init__(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
        self.filters = {**{name: self.filters[name] for name in FILTERS}, _ITEMS: _items}
        self.globals = {}  # range, lipsum, cycler, ...

    def from_string(self, source: str | nodes.Template, *args: Any, **kwargs: Any) -> Template:
        """Compile a template.

        Raises:
            TemplateError: It is not a template, or uses what a card's template must not.
        """
        try:
            if len(str(source)) > _MAX_SOURCE:
                raise TemplateSyntaxError(f"a card's template has at most {_MAX_SOURCE:,} characters", 1)
            template = self.parse(str(source))
            _check(template)
            for loop in template.find_all(nodes.For):
                loop.iter = nodes.Filter(loop.iter, _ITEMS, [], [], None, None, lineno=loop.lineno)
            template.set_environment(self)
            return super().from_string(template, *args, **kwargs)
        except RecursionError:
            raise TemplateSyntaxError("nested too deeply", 1) from None
        except ValueError as error:  # a number of thousands of digits
            raise TemplateSyntaxError(str(error), 1) from error


_ITEMS = "items of a loop"  # no name that a template could write


def _items(value: Any) -> Any:
    # The thousands of characters of a text would be as many turns of the loop.
    if isinstance(value, str):
        raise TemplateRuntimeError(f"a loop over the text {value!r:.40}; loops are over lists, such as turns")
    return value


def _check(template: nodes.Template) -> None:
    """Raise `TemplateSyntaxError` at the first node that a card's template must not have."""
    looped = 0
    for node, parents in _walk(template):
        problem, loops = None, [parent for parent in parents if isinstance(parent, nodes.For)]
        looped += bool(loops)
        if not isinstance(node, _ALLOWED):
            problem = f"cannot use {getattr(node, 'operator', None) or type(node).__name__.lower()!r}"
        elif len(parents) > _MAX_DEPTH or looped > _MAX_LOOPED:
            problem = f"has at most {_MAX_DEPTH} levels, and {_MAX_LOOPED} variables, filters and texts in its loops"
        elif isinstance(node, nodes.For):
            problem = _loop_problem(node, loops)
        elif isinstance(node, nodes.Filter):
            problem = _filter_problem(node)
        if problem:
            raise TemplateSyntaxError(f"a card's template {problem}", node.lineno or 1)


def _walk(template: nodes.Template) -> Iterator[tuple[nodes.Node, tuple[nodes.Node, ...]]]:
    """Yield every node in the order of the text, with the nodes around it."""
    stack: list[tuple[nodes.Node, tuple[nodes.Node, ...]]] = [(template, ())]
    while stack:
        node, parents = stack.pop()
        yield node, parents
        stack += [(child, (*parents, node)) for child in reversed(list(node.iter_child_nodes()))]


def _loop_problem(loop: nodes.For, outer: Sequence[nodes.For]) -> str | None:
    source: nodes.Node | None = loop.iter
    while isinstance(source, nodes.Getattr | nodes.Getitem | nodes.Filter) and getattr(source, "name", "") != "join":
        source = source.node
    if loop.recursive or not isinstance(source, nodes.Name):
        return "loops over a variable or its attribute only"
    # Two levels over the same history cost no more than to show it. More, or over anything else, would multiply.
    targets = {name.name for around in outer for name in _all(around.target, nodes.Name)}
    if len(outer) > 1 or (outer and source.name not in targets):
        return "loops inside a loop over an attribute of that loop's item only, and in two levels"
    return None


def _filter_problem(node: nodes.Filter) -> str | None:
    if node.name not in FILTERS:
        return f"cannot use the filter {node.name!r}; the filters are {', '.join(FILTERS)}"
    if node.name == "map" and (node.args or [option.key for option in node.kwargs] != ["attribute"]):
        return 'uses the filter map in the form map(attribute="name") only'
    if node.name == "join":
        values = [*node.args, *(option.value for option in node.kwargs)]
        short = all(isinstance(value, nodes.Const) and len(str(value.value)) <= _MAX_SEPARATOR for value in values)
        # One in another would multiply what the inner one has made.
        again = node.node is not None and any(inner.name == "join" for inner in _all(node.node, nodes.Filter))
        if not short or again or node.dyn_args or node.dyn_kwargs:
            return f"uses the filter join once, with a separator of at most {_MAX_SEPARATOR} characters"
    return None


N = TypeVar("N", bound=nodes.Node)


def _all(node: nodes.Node, kind: type[N]) -> list[N]:
    """Return the nodes of a kind below a node, itself included."""
    return [*([node] if isinstance(node, kind) else []), *node.find_all(kind)]
