import io

import pytest
from rich.console import Console
from rich.text import Text

from fncb.bars.lines import filled, show, show_line
from fncb.effects import Render
from fncb.events import TrainEpochEnd

METRICS = {"loss": 0.123456, "accuracy": 0.75, "lr-SGD": 1e-5}


def printed(width, terminal=False, metrics=METRICS):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal)
    show_line(console, Render("epoch 3", 4, 8, done=True, metrics=metrics), TrainEpochEnd(step=24, seconds=1.25))
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 200])
def test_a_part_that_is_over_is_one_line_in_a_file(width):
    said = "epoch 3: 4/8 batches, step 24, 1.2 s, loss 0.1235  accuracy 0.75  lr-SGD 1e-05\n"

    assert printed(width) == said


def test_a_narrow_terminal_gets_several_lines_and_whole_metrics():
    assert printed(60, terminal=True) == (
        "epoch 3: 4/8 batches, step 24, 1.2 s, loss 0.1235\n  accuracy 0.75  lr-SGD 1e-05\n"
    )
    assert printed(80, terminal=True) == printed(80)


def test_without_metrics_there_is_no_comma_at_the_end():
    assert printed(80, metrics=None) == "epoch 3: 4/8 batches, step 24, 1.2 s\n"


@pytest.mark.parametrize(
    ("width", "lines"),
    [(4, ["aa", "bb", "ccc", "d"]), (5, ["aa bb", "ccc d"]), (1, ["aa", "bb", "ccc", "d"]), (99, ["aa bb ccc d"])],
)
def test_lines_are_filled_up_to_their_width(width, lines):
    assert filled(["aa", "bb", "ccc", "d"], width, between=" ") == lines


def test_text_is_shown_as_it_is_and_what_is_rich_on_terminals_only():
    said = {}
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, width=20, force_terminal=terminal, color_system=None)
        show(console, "[not markup] " * 3)
        show(console, "plain", rich=Text("rich"))
        said[terminal] = file.getvalue().splitlines()

    assert said == {True: ["[not markup] " * 3, "rich"], False: ["[not markup] " * 3, "plain"]}
