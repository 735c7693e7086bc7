"""Figures: what is drawn where."""

import sys
from math import inf, log10, nan

import pytest

from fncb.batch_fit import BatchSizeFound, SizeTried
from fncb.lr_range import LRFound

LRS = tuple(2.0**i for i in range(14))
SMOOTHED = (*(float(14 - i) for i in range(13)), 30.0)  # least, 2.0, at 4096
RATES = LRFound("exponential", LRS, (*SMOOTHED[:13], 900.0), SMOOTHED)
SIZES = BatchSizeFound(6, (SizeTried(4, True, 0.5), SizeTried(8, False), SizeTried(6, True, 0.25)))


def drawn(figure):
    return {trace.name: ([*trace.x], [*trace.y]) for trace in figure.data}


def test_losses_are_drawn_over_rates_with_the_suggestion():
    figure = RATES.plot()

    assert drawn(figure) == {
        "loss": ([*LRS], [*RATES.losses]),
        "smoothed": ([*LRS], [*SMOOTHED]),
        "suggestion 410": ([409.6, 409.6], [2.0, 14.0]),
    }
    assert (figure.layout.xaxis.type, figure.layout.xaxis.title.text) == ("log", "learning rate")


def test_an_explosion_does_not_flatten_the_fall():
    low, high = RATES.plot().layout.yaxis.range

    assert (low, high) == pytest.approx((2.0 - 12 / 20, 14.0 + 12))


@pytest.mark.parametrize("smoothed", [SMOOTHED, (1.0,) * 14, (*SMOOTHED[:13], nan), (*SMOOTHED[:13], -inf)])
def test_a_plot_is_possible_whatever_was_measured(smoothed):
    low, high = LRFound("linear", LRS, smoothed, smoothed).plot().layout.yaxis.range

    assert -inf < low < high < inf


def test_the_suggestion_can_be_left_out_and_linear_rates_are_linear():
    figure = LRFound("linear", LRS, SMOOTHED, SMOOTHED).plot(suggest=False)

    assert list(drawn(figure)) == ["loss", "smoothed"]
    assert figure.layout.xaxis.type == "linear"


def test_speeds_are_drawn_over_sizes_and_those_that_did_not_fit_below():
    figure = SIZES.plot()

    assert drawn(figure) == {
        "fits": ([4, 6], [8.0, 24.0]),
        "does not fit": ([8], [0.0]),
        "batch size 6": ([6, 6], [0.0, 24.0]),
    }
    assert (figure.layout.xaxis.type, figure.layout.xaxis.dtick) == ("log", log10(2))


def test_without_failures_there_are_no_crosses():
    assert list(drawn(BatchSizeFound(4, SIZES.trials[:1]).plot())) == ["fits", "batch size 4"]


@pytest.mark.parametrize("found", [RATES, SIZES])
def test_without_plotly_it_is_told_what_to_install(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)

    with pytest.raises(ModuleNotFoundError) as raised:
        found.plot()
    assert raised.value.__notes__ == ["plot: figures are drawn by plotly. Run pip install 'fncb[plotly]'."]
