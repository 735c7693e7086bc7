"""How `make docs` builds these pages."""

import re
from typing import Any

from sphinx.application import Sphinx

import fncb

project = "fncb"
author = copyright = "The fncb authors"
release = version = fncb.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

html_theme = "furo"
html_title = f"fncb {release}"
html_static_path = ["pages.css"]
html_css_files = ["pages.css"]

myst_heading_anchors = 3  # those of GitHub: `page.md#a-heading`

default_role = "py:obj"  # a name in backticks is a link where there is something of that name
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88  # characters; beyond it, an argument a line
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Known as", "notes_style"), ("Reference", "notes_style"), ("Attributes", "params_style")]


def as_restructured_text(_app: Sphinx, kind: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Has docstrings mean what they mean elsewhere: backticks are code, bars are bars. A module's is left out."""
    paragraphs = [] if kind == "module" else "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(each if each.lstrip().startswith(">>>") else _prose(each) for each in paragraphs).split("\n")


def _prose(text: str) -> str:
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(_code(part) if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def _code(text: str) -> str:
    if re.fullmatch(r"`[A-Z]\w+`", text):
        return f"`.{text[1:]}"  # that of any room: `Stop` is in `fncb.effects`
    return text if re.fullmatch(r"``.*|`[\w.]+(\(\))?`", text, re.DOTALL) else f"`{text}`"


_DEFAULTS = {r"\bNOTHING\b": "{}", "<absent>": "...", r"<function (\w+)>": r"\1", r"<class '(?:\w+\.)*(\w+)'>": r"\1"}
"""How defaults are shown that are no Python as they print themselves, which Sphinx cannot take apart."""


def with_readable_defaults(
    _app: Sphinx, _kind: str, _name: str, _of: object, _options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """A signature with defaults that can be read."""
    if signature is None:
        return None
    for pattern, shown in _DEFAULTS.items():
        signature = re.sub(pattern, shown, signature)
    return signature, returned


def without_live_properties(
    _app: Sphinx, _kind: str, _name: str, member: object, _skip: bool, _options: object
) -> bool | None:
    """Leaves out the properties behind live fields, which the signature has already."""
    return True if isinstance(member, property) and (member.__doc__ or "").startswith("Live:") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", with_readable_defaults)
    app.connect("autodoc-skip-member", without_live_properties)
    return {"parallel_read_safe": True}
