"""Cards of runs and replays, as notebooks show them."""

from html.parser import HTMLParser

import attrs
import pytest

from fncb.callbacks import checkpoint, early_stop
from fncb.cards import card, curve_of, kept_files
from fncb.effects import Delete, Stop
from fncb.events import SanityCheckEnd, SanityCheckStart, Saved, TrainEpochEnd, ValidationEnd
from fncb.hindsight import Replay, replay
from fncb.metrics import Unrecorded
from tests.looking_back import checks, trained

EVIL = "<img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """The tags, attributes and text of a page; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, _attributes):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, _attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def train(folder, record=True, **settings):
    callbacks = [early_stop("val_loss", patience=2), checkpoint(folder / "kept", monitor="val_loss")]
    record = folder / "events.jsonl" if record else None
    return trained([3.0, 1.0, 2.0, 2.5], callbacks=callbacks, record=record, **settings), callbacks


def test_a_run_shows_its_end_its_curve_and_its_checkpoints(tmp_path):
    run, _ = train(tmp_path)
    page = Page(run._repr_html_())

    assert page.text[0] == "stopped by early_stop(val_loss): val_loss has not improved on 1 in 2 checks"
    assert "polyline" in page.tags
    assert "val_loss: 3 to 2.5, between 1 and 3" in page.text
    assert run.state["checkpoint(val_loss)"].best_model_path in page.text
    assert page.text.count("checkpoints") == 1


def test_a_replay_shows_the_same_stop_curve_and_checkpoints(tmp_path):
    run, callbacks = train(tmp_path)
    page = Page(replay(callbacks, run.recording)._repr_html_())

    assert page.text[0] == "asked to stop by early_stop(val_loss): val_loss has not improved on 1 in 2 checks"
    assert "val_loss: 3 to 2.5, between 1 and 3" in page.text
    assert run.state["checkpoint(val_loss)"].best_model_path in page.text


@pytest.mark.parametrize("gone", ["not recorded", "deleted", "damaged"])
def test_a_run_without_its_recording_shows_what_it_knows(gone, tmp_path):
    run, _ = train(tmp_path, record=gone != "not recorded", max_epochs=1)
    if gone == "deleted":
        run.recording.unlink()
    if gone == "damaged":
        run.recording.write_bytes(b"x" * 100)
    page = Page(run._repr_html_())

    assert page.text[0] == "all was done"
    assert "svg" not in page.tags
    assert "val_loss" in page.text


def test_no_name_becomes_markup(tmp_path):
    run, _ = train(tmp_path, max_epochs=1)
    evil = attrs.evolve(run, stopped=Stop(EVIL, key=EVIL), metrics={EVIL: 1.0}, compiled=EVIL)
    events = [ValidationEnd(step=i, metrics={EVIL: float(i)}) for i in range(3)]
    for html in (
        evil._repr_html_(),
        Replay(None, (Stop(EVIL, key=EVIL),), [*events, Saved(path=EVIL)])._repr_html_(),
        card(EVIL, (EVIL, [(0, 1), (1, 2)]), {EVIL: 0.0}, [EVIL], [EVIL]),
    ):
        page = Page(html)
        assert "img" not in page.tags
        assert any(EVIL in text for text in page.text)


def test_the_curve_is_the_monitored_metric_or_the_loss():
    events = [TrainEpochEnd(step=i, metrics={"a": 1.0, "loss_epoch": 2.0, "acc": 3.0}) for i in (1, 2)]

    assert curve_of(events, "acc") == ("acc", [(1, 3.0), (2, 3.0)])
    assert curve_of(events) == ("loss_epoch", [(1, 2.0), (2, 2.0)])
    assert curve_of([*events, *checks(1.0)])[0] == "val_loss"
    assert curve_of([]) == ("", [])


def test_a_curve_leaves_out_what_is_not_finite_not_recorded_or_of_a_sanity_check():
    sanity_check = [SanityCheckStart(), *checks(9.0), SanityCheckEnd()]
    rest = [*checks(float("nan"), 2.0, float("inf"), 4.0), ValidationEnd(metrics=Unrecorded("this"))]

    assert curve_of([*sanity_check, *rest]) == ("val_loss", [(10, 2.0), (30, 4.0)])


def test_a_curve_of_one_value_or_of_equal_ones_can_be_drawn():
    assert "svg" not in card("a", curve_of(checks(1.0)))
    assert "nan" not in card("a", curve_of(checks(1.0, 1.0)))


def test_long_lists_are_cut_with_a_word():
    page = Page(card("a", metrics={f"m{i}": 1.0 for i in range(12)}, files=[f"f{i}" for i in range(20)]))

    assert "and 4 more" in page.text
    assert "and 12 more" in page.text


def test_files_that_were_deleted_are_not_kept():
    assert kept_files([Saved(path="a"), Saved(path="b"), Delete("a"), Saved(path="c")]) == ["c", "b"]
