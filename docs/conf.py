"""Sphinx configuration. `make docs` builds the site into docs/_build; warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.ext.napoleon import GoogleDocstring

sys.path.insert(0, str(Path(__file__).parent))

import generate

import raggym_env

project = "raggym-env"
author = "The raggym-env developers"
copyright = "The raggym-env developers"
release = raggym_env.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "templates"]
html_theme = "furo"
html_title = "raggym-env"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["generated/llms.txt"]

myst_enable_extensions = ["colon_fence", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

# Quotes and dashes in the names of options stay as they are.
smartquotes = False
# MathJax would come from a server: see `setup`.
html_math_renderer = "mathml"

# Docstrings mark code with single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
autoclass_content = "both"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The prompt is not part of a command that is copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

generate.write_all(Path(__file__).parent / "generated")


def setup(app: Any) -> None:
    """Write formulas as MathML, which browsers show without scripts and without a network; tidy the API reference."""

    def visit(writer: Any, node: nodes.math | nodes.math_block) -> None:
        formula = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
        writer.body.append(formula)
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (visit, None), (visit, None))

    def skip(app: Any, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
        is_plain_field = (getattr(member, "__doc__", None) or "").startswith("Alias for field number")
        return True if is_plain_field or name == "__new__" else None

    app.connect("autodoc-skip-member", skip)
    # Napoleon reads an attribute's "text: more text" as a type and its description; ours is all text.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
