from functools import partial

import pytest
import torch
from torch import nn

from fncb.callback import EmptyState
from fncb.callbacks.recompile_monitor import recompile_monitor
from fncb.callbacks.schedule import schedule
from fncb.callbacks.throughput_monitor import throughput_monitor
from fncb.effects import Log, Print, Stop
from fncb.events import StepCompiled
from fncb.loop import fit
from fncb.task import Task
from tests.folding import fold


def compiled(graphs, recompilations):
    batch = f"float32[{graphs}, 2] int64[]"
    return StepCompiled(step=9, graphs=graphs, recompilations=recompilations, level="one graph", batch=batch)


def test_it_logs_every_compilation_and_says_nothing_of_the_usual_ones():
    run = fold(recompile_monitor(), [compiled(1, 0), compiled(2, 1), compiled(3, 2)])

    assert run.state == EmptyState()
    assert run.effects == tuple(Log({"step_graphs": n, "step_recompilations": n - 1}) for n in (1, 2, 3))


@pytest.mark.parametrize(("most", "said"), [(0, [2, 3, 4]), (2, [4]), (3, [])])
def test_beyond_the_limit_each_prints_the_batch_at_which_it_came(most, said):
    run = fold(recompile_monitor(max_recompilations=most), [compiled(n, n - 1) for n in (1, 2, 3, 4)])

    assert [each.text.split(" for ")[1] for each in run.of(Print)] == [f"float32[{n}, 2] int64[]" for n in said]


def test_it_prints_all_if_it_is_asked_to():
    run = fold(recompile_monitor(verbose=True), [compiled(1, 0), compiled(2, 1)])

    assert [effect.text for effect in run.of(Print)] == [
        "recompile_monitor: step 9 compiled graph 1 (one graph, 0 recompilations) for float32[1, 2] int64[]",
        "recompile_monitor: step 9 compiled graph 2 (one graph, 1 recompilation) for float32[2, 2] int64[]",
    ]


def test_it_stops_a_run_if_it_is_asked_to():
    run = fold(recompile_monitor(max_recompilations=0, stop=True), [compiled(1, 0), compiled(2, 1)])

    (stop,) = run.of(Stop)
    assert stop.reason == (
        "step 9 compiled graph 2 (one graph, 1 recompilation) for float32[2, 2] int64[]: more than max_recompilations=0"
    )
    assert (recompile_monitor(stop=True).emits, recompile_monitor().emits) == ((Log, Print, Stop), (Log, Print))


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (1.0, TypeError)])
def test_a_number_that_is_none_is_refused(n, error):
    with pytest.raises(error, match=f"^recompile_monitor: max_recompilations must be (0 or more|an int), got {n}"):
        recompile_monitor(max_recompilations=n)


def test_a_run_tells_that_a_number_of_the_model_was_changed(capsys):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    task = Task(model, loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.1))
    callbacks = [
        recompile_monitor(max_recompilations=0),
        schedule("model.1.p", lambda epoch: 0.5 if epoch == 0 else 0.25),
        throughput_monitor(window_size=2, log_every_n_steps=1),  # which counts operations before the first batch
    ]

    run = fit(task, [torch.ones(4, 2)] * 2, callbacks=callbacks, max_epochs=2, progress=False, device="cpu")

    assert (run.metrics["step_graphs"], run.metrics["step_recompilations"]) == (2, 1)
    assert (run.compiled, run.recompilations) == ("one graph", 1)
    assert capsys.readouterr().out == (
        "recompile_monitor: step 3 compiled graph 2 (one graph, 1 recompilation) for float32[4, 2]\n"
    )
    # two operations for each of the four weights, forward and for the gradient
    assert run.state["throughput_monitor"].flops == 16
