import io

import pytest
from rich.console import Console

from fncb.bars.rich import RichBar
from fncb.effects import Render
from fncb.events import Metrics, TrainBatchEnd, TrainEpochEnd


def drawing(width=120, terminal=True, color=None, **options):
    """A bar, and the file that it draws to."""
    file = io.StringIO()
    return RichBar(Console(file=file, force_terminal=terminal, width=width, color_system=color), **options), file


def drawn(file):
    """What was drawn since this was last called: the lines that are left, without what moves the cursor."""
    said = file.getvalue()
    file.seek(0)
    file.truncate()
    for control in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A"):
        said = said.replace(control, "")
    return [line.split("\r")[-1].rstrip() for line in said.split("\n") if line.strip()]


def part(label="epoch 0", completed=1, total=4, **given):
    return Render(label, completed, total, **{"metrics": {"loss": 0.5}, **given})


BATCH, END = TrainBatchEnd(step=1), TrainEpochEnd(step=4)


def test_a_bar_shows_label_count_and_metrics():
    bar, file = drawing()

    bar.render(part(), BATCH)

    (line,) = drawn(file)
    assert line.startswith("epoch 0 ━━━━━━━━━╸ ")  # a quarter of 40
    assert line.split()[3:] == ["1/4", "-:--:--", "loss", "0.5"]


def test_a_part_has_its_bar_below_and_its_metrics_are_not_read():
    bar, file = drawing()
    bar.render(part(), BATCH)
    drawn(file)

    bar.render(part("validation", 1, 2, part_of="epoch 0", metrics=Metrics(None, ("x",), None)), BATCH)

    epoch, validation = drawn(file)
    assert epoch.endswith("loss 0.5")
    assert validation.startswith("validation ━")
    assert "1/2" in validation


def test_a_part_that_is_over_leaves_its_epoch_and_no_line():
    bar, file = drawing()
    bar.render(part(), BATCH)
    bar.render(part("validation", 2, 2, part_of="epoch 0"), BATCH)
    drawn(file)

    bar.render(part("validation", 2, 2, part_of="epoch 0", done=True), BATCH)

    (line,) = drawn(file)
    assert line.startswith("epoch 0 ━")


def test_when_an_epoch_is_over_its_line_is_printed_and_the_next_begins_anew():
    bar, file = drawing()
    bar.render(part(), BATCH)
    bar.render(part("validation", 1, 2, part_of="epoch 0"), BATCH)
    drawn(file)

    bar.render(part(completed=4, done=True), END)
    over = drawn(file)
    bar.render(part("epoch 1"), BATCH)

    assert over[-1] == "epoch 0: 4/4 batches, step 4, 0.0 s, loss 0.5"
    assert [line[:7] for line in drawn(file)] == ["epoch 1"]


def test_a_bar_that_is_to_stay_is_printed_in_place_of_its_line():
    bar, file = drawing(leave=True)

    bar.render(part(completed=2), BATCH)
    bar.render(part(completed=4, done=True, metrics={"loss": 0.25}), END)

    left = drawn(file)[-1]
    assert left.startswith("epoch 0 ━")
    assert "4/4" in left
    assert left.endswith("loss 0.25")


def test_the_bar_of_a_part_does_not_stay():
    bar, file = drawing(leave=True)
    bar.render(part(), BATCH)
    bar.render(part("validation", 1, 2, part_of="epoch 0"), BATCH)
    drawn(file)

    bar.render(part("validation", 2, 2, part_of="epoch 0", done=True), BATCH)

    assert [line[:9] for line in drawn(file)] == ["epoch 0 ━"]


def test_metrics_that_do_not_fit_beside_the_bar_stand_below_it_from_then_on():
    bar, file = drawing(width=70)

    shown = []
    for names in (["a"], ["accuracy", "loss", "val_accuracy", "val_loss"], ["a"]):
        bar.render(part(metrics=dict.fromkeys(names, 0.5)), BATCH)
        shown.append(drawn(file))

    assert [len(lines) for lines in shown] == [1, 2, 2]
    assert shown[1][1] == "  accuracy 0.5  loss 0.5  val_accuracy 0.5  val_loss 0.5"


@pytest.mark.parametrize("width", [60, 40])
def test_nothing_is_wider_than_a_narrow_terminal(width):
    bar, file = drawing(width=width)

    bar.render(part("validation", metrics=dict.fromkeys(["accuracy", "loss", "val_accuracy", "val_loss"], 0.5)), BATCH)

    lines = drawn(file)
    assert max(map(len, lines)) <= width
    assert sum("0.5" in line for line in lines) >= 1


def test_a_theme_changes_how_it_looks():
    theme = {"description": "red", "metrics": "italic", "metrics_text_delimiter": " | ", "metrics_format": ".3f"}
    bar, file = drawing(color="standard", theme=theme)

    bar.render(part(metrics={"loss": 0.5, "acc": 0.25}), BATCH)
    bar.render(part(metrics={"loss": 0.5}, done=True), END)

    said = file.getvalue()
    assert "\x1b[31mepoch 0\x1b[0m" in said
    assert "\x1b[3mloss 0.500 | acc 0.250\x1b[0m" in said
    assert said.endswith("loss 0.500\n")


def test_what_is_said_stands_above_the_bar():
    bar, file = drawing()
    bar.render(part(), BATCH)
    drawn(file)

    bar.say("[hello]")

    said, line = drawn(file)
    assert said == "[hello]"
    assert line.startswith("epoch 0 ━")


def test_where_there_is_no_terminal_only_what_is_over_has_a_line_but_parts_of_it():
    bar, file = drawing(terminal=False, leave=True)

    bar.render(part(metrics=Metrics(None, ("x",), None)), BATCH)
    bar.render(part("validation", 1, 2, part_of="epoch 0", done=True), BATCH)
    bar.render(part(done=True, total=None), END)
    bar.close()

    assert file.getvalue() == "epoch 0: 1 batches, step 4, 0.0 s, loss 0.5\n"


def test_a_console_of_its_own_takes_the_place_of_the_other(capsys):
    bar, file = drawing(terminal=False, console_kwargs={"stderr": True})

    bar.render(part(done=True), END)

    assert (file.getvalue(), capsys.readouterr().err) == ("", "epoch 0: 1/4 batches, step 4, 0.0 s, loss 0.5\n")


def test_closing_leaves_nothing_and_may_be_done_twice():
    bar, file = drawing()

    bar.render(part(), BATCH)
    bar.close()
    bar.close()

    assert file.getvalue().count("\x1b[?25h") == 1  # the cursor is there again
    assert file.getvalue().endswith("\x1b[1A\x1b[2K")  # and the line is gone
