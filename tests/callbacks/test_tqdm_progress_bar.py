import pytest

from fncb import events as ev
from fncb.callbacks.tqdm_progress_bar import tqdm_progress_bar
from fncb.effects import Render
from tests.folding import fold


def an_epoch(n, batches):
    return [
        ev.TrainEpochStart(batches=batches),
        *[ev.TrainBatchEnd(batch_idx=i) for i in range(n)],
        ev.ValidationStart(batches=batches),
        *[ev.ValidationBatchEnd(batch_idx=i) for i in range(n)],
        ev.ValidationEnd(),
        ev.TrainEpochEnd(),
    ]


@pytest.mark.parametrize(
    ("refresh_rate", "batches", "shown"),
    [
        (1, 5, [1, 2, 3, 4, 5]),
        (2, 5, [2, 4, 5]),  # and when there are all
        (7, 5, [5]),
        (2, None, [2, 4]),
    ],
)
def test_every_so_many_batches_are_shown_whatever_the_time(refresh_rate, batches, shown):
    run = fold(tqdm_progress_bar(refresh_rate=refresh_rate), an_epoch(5, batches))

    drawn = [effect for effect in run.of(Render) if not effect.done]
    assert [effect.completed for effect in drawn if effect.part_of is None] == shown
    assert [effect.completed for effect in drawn if effect.part_of == "epoch 0"] == shown
    assert [effect.label for effect in run.of(Render) if effect.done] == ["validation", "epoch 0"]


def test_how_it_looks_goes_along():
    run = fold(tqdm_progress_bar(process_position=2, leave=True), an_epoch(1, 1))
    plain = fold(tqdm_progress_bar(), an_epoch(1, 1))

    assert {effect.style for effect in run.of(Render)} == {"tqdm"}
    assert run.effects[0].options == {"process_position": 2, "leave": True}
    assert plain.effects[0].options == {}


def test_a_rate_of_0_turns_it_off():
    assert not tqdm_progress_bar(refresh_rate=0).hears(ev.TrainBatchEnd)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"refresh_rate": -1}, ValueError, "refresh_rate must be 0 batches or more, got -1"),
        ({"refresh_rate": 0.5}, TypeError, "refresh_rate must be an int, got 0.5"),
        ({"refresh_rate": True}, TypeError, "refresh_rate must be an int, got True"),
        ({"process_position": -1}, ValueError, "process_position must be 0 lines or more, got -1"),
    ],
)
def test_wrong_arguments_are_refused(given, error, message):
    with pytest.raises(error, match=f"^tqdm_progress_bar: {message}"):
        tqdm_progress_bar(**given)
