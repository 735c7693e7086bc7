import io
import sys
import threading

import pytest
from rich.console import Console

from fncb.bars import tqdm
from fncb.bars.tqdm import TqdmBar
from fncb.effects import Render
from fncb.events import Metrics, TrainBatchEnd, TrainEpochEnd


def drawing(width=120, terminal=True, **options):
    """A bar, and the file that it draws to."""
    file = io.StringIO()
    return TqdmBar(Console(file=file, force_terminal=terminal, width=width, color_system=None), **options), file


def drawn(file):
    """What was drawn since this was last called, each time the cursor went back; empty lines left out."""
    said = file.getvalue().replace("\x1b[A", "")
    file.seek(0)
    file.truncate()
    return [line.rstrip() for line in said.replace("\n", "\r").split("\r") if line.strip()]


def part(label="epoch 0", completed=1, total=4, **given):
    return Render(label, completed, total, **{"metrics": {"loss": 0.5}, **given})


BATCH, END = TrainBatchEnd(step=1), TrainEpochEnd(step=4)


def test_a_bar_shows_label_count_and_metrics():
    bar, file = drawing()

    bar.render(part(), BATCH)
    bar.render(part(completed=4), BATCH)

    first, last = drawn(file)[-2:]
    assert first.startswith("epoch 0:  25%|##")
    assert "| 1/4 [00:00<" in first
    assert last.startswith("epoch 0: 100%|##")
    assert last.endswith("it/s, loss 0.5]")


def test_it_is_drawn_ten_times_a_second_at_most_and_when_it_is_full():
    bar, file = drawing()
    seconds = [0.0, 0.0625, 0.125, 0.25, 0.25]

    for i, second in enumerate(seconds):
        unread = Metrics(None, ("x",), None) if i in (1,) else {"loss": 0.5}
        bar.render(part(completed=i + 1, total=5, metrics=unread), TrainBatchEnd(seconds=second))

    counts = [line.split("| ")[1][:3] for line in drawn(file)]
    assert sorted({*counts}) == ["1/5", "3/5", "4/5", "5/5"]


def test_a_part_has_its_bar_below_and_its_metrics_are_not_read():
    bar, file = drawing()
    bar.render(part(), BATCH)
    drawn(file)

    bar.render(part("validation", 1, 2, part_of="epoch 0", metrics=Metrics(None, ("x",), None)), BATCH)

    assert file.getvalue().startswith("\n")  # one line down
    assert drawn(file)[0].startswith("validation:  50%|##")
    bar.close()


def test_a_part_that_is_over_leaves_its_epoch_and_no_line():
    bar, file = drawing()
    bar.render(part(), BATCH)
    bar.render(part("validation", 2, 2, part_of="epoch 0"), BATCH)
    drawn(file)

    bar.render(part("validation", 2, 2, part_of="epoch 0", done=True), BATCH)
    assert drawn(file) == []
    bar.render(part(completed=4), BATCH)

    assert [line[:7] for line in drawn(file)] == ["epoch 0"]


def test_when_an_epoch_is_over_its_line_is_printed_and_the_next_begins_anew():
    bar, file = drawing()
    bar.render(part(), BATCH)
    bar.render(part("validation", 1, 2, part_of="epoch 0"), BATCH)
    drawn(file)

    bar.render(part(completed=4, done=True), END)
    over = drawn(file)
    bar.render(part("epoch 1"), BATCH)

    assert over == ["epoch 0: 4/4 batches, step 4, 0.0 s, loss 0.5"]
    assert {line[:7] for line in drawn(file)} == {"epoch 1"}


def test_a_bar_that_is_to_stay_has_its_metrics_below():
    bar, file = drawing(leave=True)
    bar.render(part(), BATCH)

    bar.render(part(completed=4, done=True, metrics={"loss": 0.25, "val_loss": 0.5}), END)

    left, metrics = drawn(file)[-2:]
    assert left.startswith("epoch 0: 100%|##")
    assert "| 4/4 [" in left
    assert metrics == "  loss 0.25  val_loss 0.5"
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (140, "loss 0.5, accuracy 0.5, val_loss 0.5]"),
        (80, "loss 0.5, accuracy 0.5, ...]"),
        (68, "loss 0.5, ...]"),
    ],
)
def test_metrics_that_do_not_fit_are_left_out(width, shown):
    bar, file = drawing(width)

    bar.render(part(metrics=dict.fromkeys(["loss", "accuracy", "val_loss"], 0.5)), BATCH)

    line = drawn(file)[-1]
    assert line.endswith(f", {shown}")
    assert len(line) <= width
    assert len(line.split("|")[1]) >= 10
    bar.close()


def test_process_position_leaves_lines_free():
    bar, file = drawing(process_position=2)

    bar.render(part(), BATCH)

    assert file.getvalue().startswith("\n\n")
    bar.close()


def test_what_is_said_stands_above_the_bar():
    bar, file = drawing()
    bar.render(part(), BATCH)
    drawn(file)

    bar.say("[hello]")

    said, line = drawn(file)
    assert said == "[hello]"
    assert line.startswith("epoch 0:  25%|##")
    bar.close()
    bar.say("there is no bar")
    assert drawn(file) == ["there is no bar"]


def test_where_there_is_no_terminal_only_what_is_over_has_a_line_but_parts_of_it(monkeypatch):
    monkeypatch.setattr(tqdm, "_tqdm", None)  # it is not needed
    bar, file = drawing(terminal=False, leave=True)

    bar.render(part(metrics=Metrics(None, ("x",), None)), BATCH)
    bar.render(part("validation", 1, 2, part_of="epoch 0", done=True), BATCH)
    bar.render(part(done=True, total=None), END)
    bar.say("hello")
    bar.close()

    assert file.getvalue() == "epoch 0: 1 batches, step 4, 0.0 s, loss 0.5\nhello\n"


def test_without_tqdm_an_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    tqdm._tqdm.cache_clear()
    bar, _ = drawing()

    with pytest.raises(ModuleNotFoundError, match=r"^tqdm_progress_bar: tqdm must be installed, got none. pip install"):
        bar.render(part(), BATCH)


def test_no_thread_is_left_behind():
    before = threading.active_count()
    bar, _ = drawing()

    bar.render(part(), BATCH)

    assert threading.active_count() == before
    bar.close()
