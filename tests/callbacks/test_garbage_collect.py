import pytest

from fncb.callbacks.garbage_collect import GarbageCollectState, garbage_collect
from fncb.effects import CollectGarbage
from fncb.events import TrainBatchEnd, TrainStart, ValidationStart
from tests.folding import fold


def test_it_collects_all_as_training_starts():
    assert fold(garbage_collect(generation=0), [TrainStart()]).effects == (CollectGarbage(2),)


def test_it_collects_as_validation_starts():
    assert fold(garbage_collect(generation=0), [ValidationStart()]).effects == (CollectGarbage(0),)


def test_it_collects_every_so_many_steps_and_each_once():
    collect, state, steps = garbage_collect(every_n_steps=2), GarbageCollectState(), []
    for i, step in enumerate([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]):  # two batches are accumulated
        state, asked = collect.transition(state, TrainBatchEnd(step=step))
        steps += [(i, step, effect) for effect in asked]

    assert steps == [(4, 2, CollectGarbage(1)), (8, 4, CollectGarbage(1))]
    assert state == GarbageCollectState(collected=4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every_n_steps": 0}, ValueError, "every_n_steps must be 1 step or more, got 0"),
        ({"every_n_steps": 0.5}, TypeError, "every_n_steps must be an int, got 0.5"),
        ({"generation": -1}, ValueError, "generation must be 0 or more, got -1"),
        ({"generation": 3}, ValueError, "generation must be 0, 1 or 2, got 3"),
        ({"generation": None}, TypeError, "generation must be an int, got None"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^garbage_collect: {message}"):
        garbage_collect(**arguments)
