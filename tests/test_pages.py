"""docs/callbacks.md is what the code says; no page, built-in or public name is missing, and no link leads nowhere."""

import re

import pytest

import fncb
from docs.tables import PAGE, built_ins, filled, made
from fncb import effects
from fncb.callback import Callback
from fncb.callbacks import checkpoint

ROOT = PAGE.parent.parent
PAGES = [*ROOT.glob("*.md"), *PAGE.parent.rglob("*.md"), *ROOT.glob("examples/**/*.md")]


def test_the_tables_are_as_the_code_has_them():
    page = PAGE.read_text()

    assert filled(page) == page, "run: python docs/tables.py"


def test_every_built_in_is_listed():
    files = {path.stem: path.read_text() for path in PAGE.parent.parent.glob("fncb/callbacks/*.py")}
    constructors = [
        name
        for name, text in files.items()
        if re.search(rf"^def {name}\([^)]*(\(.*\)[^)]*)*\) -> Callback", text, re.M)
    ]
    listed = re.findall(r"^\| `(\w+)` \| .*\| (?:host|step|host and step) \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(constructors) == [*built_ins()] == listed


def test_every_built_in_can_be_made_with_little():
    assert [name for name in built_ins() if not isinstance(made(name), Callback)] == []


def test_a_built_in_that_is_missing_from_the_page_is_noticed():
    page = PAGE.read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `early_stop` |"))

    assert filled(page.replace(row + "\n", "")) == page
    assert row.endswith("| `EarlyStopping` in Lightning and Keras |")
    assert "`Save`" in row.replace("early_stop", checkpoint.__name__) or "`Stop`" in row


def test_every_public_name_has_its_place_on_a_page_of_the_api():
    pages = "".join(page.read_text() for page in (PAGE.parent / "api").glob("*.md"))
    modules = set(re.findall(r"^\.\. automodule:: (\S+)$", pages, re.MULTILINE))
    single = re.findall(r"^\.\. auto(?:function|class):: fncb\.(\w+)", pages, re.MULTILINE)

    assert modules == {"fncb.callbacks", "fncb.effects", "fncb.events", "fncb.sinks", "fncb.testing"}
    assert {*fncb.__all__} - {*single, *dir(effects)} == {"callbacks", "effects", "events", "sinks"}
    assert len(single) == len(set(single))
    assert [name for name in single if name not in fncb.__all__] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for path, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        file = page.parent / path if path else page
        assert file.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


def test_each_page_is_in_a_table_of_contents():
    docs = PAGE.parent
    listed = [docs / "index.md"]
    for page in docs.rglob("*.md"):
        for names in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.DOTALL):
            entries = [re.sub(r".*<(.*)>", r"\1", line) for line in names.splitlines() if line and line[0] != ":"]
            listed += [page.parent / f"{name}.md" for name in entries]

    assert sorted(listed) == sorted(docs.rglob("*.md"))
