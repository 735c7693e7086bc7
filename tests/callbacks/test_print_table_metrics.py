from math import nan

import pytest

from fncb import events as ev
from fncb.callbacks.print_table_metrics import PrintTableMetricsState, print_table_metrics
from fncb.effects import Print
from fncb.snapshot import load_state_dict, state_dict
from tests.conformance.runs import batches, task, train
from tests.folding import fold


def lines(run):
    return [line for effect in run.of(Print) for line in effect.text.split("\n")]


def test_heads_come_once_and_then_a_row_each_epoch():
    events = [
        ev.TrainEpochEnd(epoch=0, metrics={"loss": 0.5, "a_longer_name": 2.0}),
        ev.TrainEpochEnd(epoch=1, metrics={"loss": 0.123456789, "a_longer_name": nan}),
        ev.TrainEpochEnd(epoch=2, metrics={"loss": -0.0000123456}),
    ]
    run = fold(print_table_metrics(), events)

    assert lines(run) == [
        "epoch │        loss │ a_longer_name",
        "──────┼─────────────┼──────────────",
        "    0 │         0.5 │             2",
        "    1 │     0.12346 │           nan",
        "    2 │ -1.2346e-05 │              ",
    ]
    assert run.state == PrintTableMetricsState(("loss", "a_longer_name"))


def test_a_metric_that_the_table_has_not_begins_another():
    events = [ev.TrainEpochEnd(epoch=i, metrics=dict.fromkeys(names, 1.0)) for i, names in enumerate(["a", "ab", "b"])]
    run = fold(print_table_metrics(), events)

    assert [len(effect.text.split("\n")) for effect in run.of(Print)] == [3, 3, 1]
    assert run.state == PrintTableMetricsState(("a", "b"))


def test_heads_come_again_every_twentieth_epoch():
    events = [ev.TrainEpochEnd(epoch=i, metrics={"loss": 0.5}) for i in range(41)]

    run = fold(print_table_metrics(), events)

    assert [i for i, effect in enumerate(run.of(Print)) if "epoch" in effect.text] == [0, 20, 40]


def test_a_run_that_goes_on_goes_on_with_its_table():
    state = PrintTableMetricsState(("loss",))
    table = print_table_metrics()
    again = load_state_dict(table, state_dict(state))

    assert again == state
    assert len(lines(fold(table, [ev.TrainEpochEnd(epoch=5, metrics={"loss": 0.5})], again))) == 1


@pytest.mark.parametrize("metrics", [{}, {"loss": 0.5}])
def test_heads_do_not_come_again_however_few_columns_there_are(metrics):
    run = fold(print_table_metrics(), [ev.TrainEpochEnd(epoch=i, metrics=metrics) for i in range(3)])

    assert len(lines(run)) == 5


def test_a_run_prints_it(capsys):
    train(task(), batches(2), batches(2), callbacks=print_table_metrics(), max_epochs=2)

    heads, rule, first, second = capsys.readouterr().out.splitlines()
    assert [head.strip() for head in heads.split("│")] == ["epoch", "loss", "loss_epoch", "val_loss", "lr-SGD"]
    assert set(rule) == {"─", "┼"}
    assert [row.split("│")[0] for row in (first, second)] == ["    0 ", "    1 "]


def test_only_the_metrics_that_are_asked_for_are_columns():
    metrics = {"loss": 0.5, "grad_norm/0": 1.0, "val_loss": 0.25}
    (printed,) = fold(print_table_metrics(metrics="*loss"), [ev.TrainEpochEnd(metrics=metrics)]).of(Print)

    assert printed.text.splitlines()[0].split() == ["epoch", "│", "loss", "│", "val_loss"]
    with pytest.raises(TypeError, match=r"^print_table_metrics: metrics must be a pattern such as"):
        print_table_metrics(metrics=())
