import io

import pytest
import torch
from rich.console import Console
from torch import nn

from fncb.callbacks.model_summary import model_summary
from fncb.callbacks.rich_model_summary import rich_model_summary
from fncb.events import FitStart
from fncb.interpret import Screen
from fncb.session import Session
from fncb.sight import Sight

MODEL = nn.ModuleDict({"[bold]": nn.Linear(3, 2), "body": nn.Sequential(nn.Linear(1234, 1))})


def screen_of(callback, width=100, terminal=True, model=MODEL):
    """What a screen shows once a fit has started."""
    file = io.StringIO()
    screen = Screen(Console(file=file, force_terminal=terminal, width=width, color_system=None))
    with Session(callback, carries_out=Sight(model).carries_out(), screen=screen) as session:
        session(FitStart())
    return file.getvalue()


def test_a_terminal_shows_a_table_with_all_that_the_text_has():
    shown = screen_of(rich_model_summary(-1))

    assert "[bold]" in shown  # no markup
    assert all(said in shown for said in ("body.0", "Sequential", "1,235", "Total params", "1,243", "4.97 KB"))
    assert "│" not in shown


def test_elsewhere_there_is_the_text_of_the_plain_summary():
    assert screen_of(rich_model_summary(), terminal=False) == screen_of(model_summary(), terminal=False)
    assert screen_of(model_summary()) == screen_of(model_summary(), terminal=False)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_cuts_no_number(width):
    model = nn.Sequential(nn.Sequential(nn.Linear(1000, 1000)))
    shown = screen_of(rich_model_summary(-1, example_input=torch.ones(2, 1000)), width, model=model)

    assert all(said in shown for said in ("1,001,000", "train", "4 M"))
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_header_style_is_a_style():
    assert rich_model_summary(header_style="italic").config["header_style"] == "italic"
    with pytest.raises(ValueError, match=r"^rich_model_summary: header_style must be a style of rich, got .loud"):
        rich_model_summary(header_style="loud")
