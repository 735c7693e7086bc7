"""The page as a file: what is in it, and what is not."""

import base64
import gzip
import html
import json
import re
import sys
from array import array
from importlib import resources
from pathlib import Path

import pytest

from fncb import events as ev
from fncb.callback import Callback
from fncb.callbacks import early_stop
from fncb.effects import Stop
from fncb.page import html as page_html
from fncb.page.html import report
from fncb.recorder import Recorder
from fncb.recording import Recording

ONE = Recording({}, (ev.ValidationEnd(step=10, metrics={"val_loss": 0.5}),))
NASTY = "</script><script>window.hacked=1</script><img src=http://example.org onerror=window.hacked=1>"


def recorded(path, *entries):
    recorder = Recorder(path, {})
    for entry in entries:
        (recorder.event if isinstance(entry, ev.Event) else recorder.effect)(entry)
    recorder.close()
    return recorder.path


def story_in(page):
    packed = re.search(r'id="data">([^<]*)<', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_a_page_is_written_where_it_is_asked_for(tmp_path):
    page = report(ONE, tmp_path / "new" / "a.html")

    assert page == tmp_path / "new" / "a.html"
    assert [run["name"] for run in story_in(page)["runs"]] == ["run 1"]


def test_a_run_is_named_by_the_end_of_its_path(tmp_path):
    events = ev.ValidationEnd(step=1)
    paths = [recorded(tmp_path / name / "events.jsonl", events) for name in ("one", "two")]
    page = report([paths[0], str(paths[1]), ONE, paths[0]], tmp_path / "a.html")

    names = [run["name"] for run in story_in(page)["runs"]]
    assert names == ["one/events.jsonl", "two/events.jsonl", "run 3", "one/events.jsonl (4)"]


def test_a_page_replaces_a_page_and_never_a_recording(tmp_path):
    path = recorded(tmp_path / "events.jsonl", ev.ValidationEnd(step=1))
    report(path, tmp_path / "a.html")
    report(path, tmp_path / "a.html")

    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"report: the page must have a file of its own, got .*events.jsonl, which is"):
        report([ONE, path], tmp_path / "events.jsonl")
    assert path.read_bytes() == before


def test_no_runs_are_told():
    with pytest.raises(ValueError, match="report: there must be a run or more, got none"):
        report([], "a.html")


def test_without_plotly_it_is_told_what_to_install(tmp_path, monkeypatch):
    page_html._plotly.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly", None)

    with pytest.raises(ImportError) as raised:
        report(ONE, tmp_path / "a.html")
    assert raised.value.__notes__ == ["report: curves are drawn by plotly. Run pip install 'fncb[plotly]'."]
    assert not (tmp_path / "a.html").exists()


def test_a_page_names_no_place_outside_of_itself(tmp_path):
    entries = (ev.ValidationEnd(metrics={NASTY: 0.5}), Stop(NASTY, key=NASTY))
    page = report(Recording({"keys": [NASTY], "fncb": NASTY}, entries), tmp_path / "a.html").read_text()

    assert re.findall(r"\w+://", page) == []
    assert re.findall(r'(?:src|href|url)\s*[=(]\s*(?!"#)', page) == []


def test_what_a_recording_holds_cannot_end_the_scripts_of_the_page(tmp_path):
    entries = (ev.ValidationEnd(metrics={NASTY: 0.5}), Stop(NASTY, key=NASTY))
    hostile = report(Recording({"keys": [NASTY]}, entries), tmp_path / "hostile.html").read_text()
    harmless = report(ONE, tmp_path / "harmless.html").read_text()

    assert hostile.count("<script") == harmless.count("<script")
    assert "hacked" not in hostile


def test_a_name_of_a_file_is_no_markup_in_the_title(tmp_path):
    path = recorded(tmp_path / "<b>&" / "e.jsonl", ev.ValidationEnd(step=1))
    page = report(path, tmp_path / "a.html").read_text()

    assert f"<title>{html.escape('<b>&/e.jsonl')}</title>" in page


def test_only_the_scripts_of_the_page_may_run(tmp_path):
    page = report(ONE, tmp_path / "a.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]

    assert re.fullmatch(
        "default-src 'none'; script-src 'sha256-[^ ']+' 'sha256-[^ ']+'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        policy,
    )


def test_the_same_runs_give_the_same_page(tmp_path):
    assert report(ONE, tmp_path / "a.html").read_bytes() == report(ONE, tmp_path / "b.html").read_bytes()


def test_alternatives_and_callbacks_reach_the_page(tmp_path):
    page = report(ONE, tmp_path / "a.html", callbacks=early_stop("val_loss"), whatif={"x": early_stop("val_loss")})
    (run,) = story_in(page)["runs"]

    assert [each["key"] for each in run["callbacks"]] == ["early_stop(val_loss)"]
    assert [each["name"] for each in run["whatif"]] == ["x"]


@pytest.mark.parametrize("numbers", [[0.5, -1.0], [1, 2**31 - 1], []])
def test_numbers_are_packed_byte_by_byte(numbers):
    code = "d" if any(isinstance(each, float) for each in numbers) else "i"
    data, blob = page_html._packed({"a": "x", "b": array(code, numbers)})
    ((_, offset, n),) = json.loads(data)["b"].values()

    width = array(code).itemsize
    assert offset == 0
    assert b"".join(blob[i::n] for i in range(n)) == array(code, numbers).tobytes()
    assert len(blob) == n * width


def test_a_page_is_small(tmp_path):
    assert report(ONE, tmp_path / "a.html").stat().st_size < 2_100_000


def test_the_log_of_a_long_run_fits_into_eight_megabytes(tmp_path):
    loss = (0.5 + (i * 0.61803398875) % 1 for i in range(100_000))  # nothing in it repeats
    events = [
        ev.TrainBatchEnd(step=i, seconds=i / 7, batch_idx=i % 999, metrics={"loss": x}) for i, x in enumerate(loss)
    ]
    mean = count_and_sum()

    assert report(Recording({}, tuple(events)), tmp_path / "a.html", callbacks=mean).stat().st_size < 8_000_000


def count_and_sum():
    def on_train_batch_end(state, event):
        return {"n": state["n"] + 1, "total": state["total"] + event.metrics["loss"]}

    return Callback(key="mean", init=lambda: {"n": 0, "total": 0.0}, on_train_batch_end=on_train_batch_end)


def test_the_package_has_what_the_page_is_made_of():
    names = {
        path.name
        for path in resources.files("fncb.page").iterdir()
        if Path(path.name).suffix in (".js", ".css", ".html")
    }

    assert names == {"page.html", "page.css", *(f"{name}.js" for name in page_html.SCRIPTS)}
