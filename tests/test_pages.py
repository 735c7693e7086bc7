"""docs/callbacks.md is what the code says and lacks no built-in; code in the pages runs."""

import re

from docs.tables import PAGE, built_ins, filled, made
from fncb.callback import Callback
from fncb.callbacks import checkpoint


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


def test_the_code_on_the_page_runs():
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(code, {})


def test_the_code_of_the_page_on_hindsight_runs_and_shows_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (PAGE.parent / "replay.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    exec(code.replace("progress=False", "progress=False, compile=False"), {})
    shown = capsys.readouterr().out

    assert re.search(r"^stopped by early_stop\(val_loss\) at epoch \d+, step \d+: val_loss has not improved", shown)
    assert re.search(r"\d+ times val_loss rose", shown)
    assert re.search(r"^patience=5, min_delta=0\.01 +(never|epoch)", shown, re.MULTILINE)
    assert "the runs part after" in shown


def test_the_code_of_the_page_on_best_practices_prints_what_it_says(capsys):
    page = (PAGE.parent / "best_practices.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), {"__name__": "best practices"})
    shown = capsys.readouterr().out.splitlines()

    assert shown == re.findall(r"^It prints `(.*?)`", page, flags=re.MULTILINE)
    assert len(shown) == 3
