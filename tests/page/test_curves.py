"""Which metrics become curves, in which plots, and by which points."""

from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fncb import events as ev
from fncb.metrics import Unrecorded
from fncb.page.curves import MOST_CURVES, MOST_POINTS, curves_of, plot_named, spans_of, thinned


def test_a_metric_is_drawn_from_where_it_is_measured():
    events = [
        ev.TrainBatchEnd(step=1, metrics={"loss": 4.0}),
        ev.TrainBatchEnd(step=2, metrics={"loss": 2.0}),
        ev.ValidationEnd(step=2, metrics={"val_loss": 3.0}),
        ev.TrainEpochEnd(step=2, metrics={"loss": 2.0, "loss_epoch": 3.0, "val_loss": 3.0}),
    ]
    curves, more = curves_of(events)

    assert [(c["name"], c["batch"], [*c["at"]], [*c["value"]]) for c in curves] == [
        ("val_loss", False, [2], [3.0]),
        ("loss_epoch", False, [3], [3.0]),
        ("loss", True, [0, 1], [4.0, 2.0]),
    ]
    assert more == 0


def test_what_a_sanity_check_measures_is_no_point():
    check = [ev.SanityCheckStart(), ev.ValidationEnd(metrics={"val_loss": 9.0}), ev.SanityCheckEnd()]
    curves, _ = curves_of([*check, ev.ValidationEnd(step=5, metrics={"val_loss": 1.0})])

    assert [[*curve["at"]] for curve in curves] == [[3]]


def test_losses_come_first_and_learning_rates_last():
    batch = ev.TrainBatchEnd(metrics={"grad_norm": 1.0, "loss": 1.0})
    events = [ev.TrainEpochStart(metrics={"lr-SGD": 0.1}), batch, ev.ValidationEnd(metrics={"val_acc": 1.0})]

    assert [curve["plot"] for curve in curves_of(events)[0]] == ["loss", "acc", "grad_norm", "learning rate"]


@pytest.mark.parametrize(
    ("name", "plot"),
    [
        ("val_loss", "loss"),
        ("train_loss", "loss"),
        ("kl_loss", "loss"),
        ("loss/generator", "loss"),
        ("test_loss_epoch", "loss"),
        ("glossy", "glossy"),
        ("val_acc", "acc"),
        ("acc_epoch", "acc"),
        ("val/acc", "acc"),
        ("validate/time", "time"),
        ("lr", "learning rate"),
        ("lr-AdamW/pg1", "learning rate"),
        ("lrx", "lrx"),
        ("grad_norm/0.weight", "grad_norm"),
        ("/", "/"),
        ("", ""),
        ("val_", ""),
    ],
)
def test_names_that_belong_together_share_a_plot(name, plot):
    assert plot_named(name) == plot


def test_values_that_are_not_finite_are_counted_and_stay():
    values = [0.5, nan, inf, 0.25]
    (curve,), _ = curves_of([ev.ValidationEnd(step=i, metrics={"a": value}) for i, value in enumerate(values)])

    assert (curve["odd"], curve["odd_at"], curve["of"]) == (2, 1, 4)
    assert isnan(curve["value"][1])


@given(st.lists(st.floats(), min_size=1, max_size=60), st.integers(2, 20))
def test_thinning_keeps_the_extremes_the_ends_and_a_gap_where_there_is_one(values, most):
    kept = thinned(values, most)

    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert len(kept) <= max(len(values) if len(values) <= most else 0, 3 * (most // 2) + 2)
    finite = [value for value in values if -inf < value < inf]
    if finite:
        assert {min(finite), max(finite)} <= {values[i] for i in kept}
    assert len(finite) == len(values) or any(not -inf < values[i] < inf for i in kept)


def test_a_long_curve_is_drawn_by_about_two_thousand_points():
    events = [ev.TrainBatchEnd(step=i, metrics={"loss": float(i % 100)}) for i in range(10_000)]
    (curve,), _ = curves_of(events)

    assert curve["of"] == 10_000
    assert MOST_POINTS * 0.9 < len(curve["at"]) <= MOST_POINTS + 2
    assert [*curve["value"]] == [float(i % 100) for i in curve["at"]]


def test_of_too_many_metrics_some_are_only_counted():
    curves, more = curves_of([ev.TrainEnd(), ev.ValidationEnd(metrics={f"m{i}": 0.5 for i in range(MOST_CURVES + 7)})])

    assert (len(curves), more) == (MOST_CURVES, 7)


def test_metrics_that_were_not_recorded_are_no_points():
    events = [ev.TrainBatchEnd(step=1, metrics=Unrecorded("it")), ev.TrainBatchEnd(step=2, metrics={"loss": 0.5})]

    assert [[*curve["at"]] for curve in curves_of(events)[0]] == [[1]]


def test_an_epoch_goes_from_the_last_step_of_the_one_before_to_its_own():
    spans = spans_of([ev.TrainBatchEnd(epoch=0, step=5), ev.ValidationEnd(epoch=1, step=9), ev.FitEnd(epoch=2, step=9)])

    assert {name: [*values] for name, values in spans.items()} == {
        "epochs": [0, 1, 2],
        "begins": [0, 5, 9],
        "ends": [5, 9, 9],
    }


def test_nothing_has_no_curves():
    assert curves_of([]) == ([], 0)
    assert not spans_of([])["epochs"]
