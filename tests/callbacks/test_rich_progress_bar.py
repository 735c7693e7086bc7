import pytest

from fncb import events as ev
from fncb.bars.rich import THEME
from fncb.callbacks.progress_bar import progress_bar
from fncb.callbacks.rich_progress_bar import rich_progress_bar
from fncb.callbacks.tqdm_progress_bar import tqdm_progress_bar
from fncb.effects import Render
from tests.folding import fold

EVENTS = [
    ev.TrainEpochStart(batches=8),
    *[ev.TrainBatchEnd(batch_idx=i, seconds=i / 4) for i in range(8)],
    ev.TrainEpochEnd(seconds=2.0),
]


def test_it_shows_what_the_plain_bar_shows():
    assert fold(rich_progress_bar(refresh_rate=2), EVENTS) == fold(progress_bar(refresh_rate=2), EVENTS)


def test_how_it_looks_goes_along():
    theme, console = {"metrics": "italic", "metrics_format": ".2f"}, {"stderr": True, "width": 80}
    bar = rich_progress_bar(leave=True, theme=theme, console_kwargs=console)
    run = fold(bar, EVENTS)

    assert {effect.style for effect in run.of(Render)} == {"rich"}
    assert run.effects[0].options == {"leave": True, "theme": theme, "console_kwargs": console}
    assert bar.config == {
        "refresh_rate": 10.0,
        "leave": True,
        "metrics": "*",
        "theme": theme,
        "console_kwargs": console,
    }


def test_a_theme_may_name_all_that_is_drawn():
    assert rich_progress_bar(theme=THEME).config["theme"] == THEME


def test_a_rate_of_0_turns_it_off():
    assert not rich_progress_bar(refresh_rate=0).hears(ev.TrainBatchEnd)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"refresh_rate": -1}, ValueError, "refresh_rate must be 0 a second or more, got -1"),
        ({"theme": {"colour": "red"}}, ValueError, "theme must be of description, .*, metrics_format, got 'colour'"),
        ({"theme": {"time": "loud"}}, ValueError, r"theme\['time'\] must be a style of rich, got 'loud'"),
        ({"theme": {"metrics_format": ".4q"}}, ValueError, r"theme\['metrics_format'\] must be a format, got '.4q'"),
        ({"theme": {"time": 1}}, TypeError, r"theme\['time'\] must be a string, got 1"),
        ({"theme": "dark"}, TypeError, "theme must be a mapping or None, got 'dark'"),
        ({"console_kwargs": ["stderr"]}, TypeError, "console_kwargs must be a mapping or None"),
        (
            {"console_kwargs": {"wdith": 1}},
            TypeError,
            r"console_kwargs must be arguments of rich's Console, got \['wdith'\]",
        ),
        ({"console_kwargs": {"file": object()}}, TypeError, "console_kwargs must be plain data"),
    ],
)
def test_wrong_arguments_are_refused(given, error, message):
    with pytest.raises(error, match=f"^rich_progress_bar: {message}"):
        rich_progress_bar(**given)


def test_two_bars_have_one_key():
    assert rich_progress_bar().key == tqdm_progress_bar().key == progress_bar().key == "progress_bar"
