from functools import partial
from math import inf, nan
from pathlib import Path

import pytest
import torch

import fncb
from fncb import events as ev
from fncb.callback import Callback, compose, emit
from fncb.callbacks.checkpoint import Asked, CheckpointState, checkpoint
from fncb.effects import Delete, Link, Print, Save, Stop
from tests.conformance.runs import batches, task, train
from tests.folding import fold

SAVE, DELETE = partial(Save, within="d"), partial(Delete, within="d")


def training(epochs, batches, validate_every=None, values=None, accumulate=1, **more):
    """The events of a run. Each validation takes the next of `values` as its `val_loss`; none without `values`."""
    values = iter(values) if values is not None else None
    step = 0
    for epoch in range(epochs):
        measured = {}
        for batch in range(batches):
            step += (batch + 1) % accumulate == 0 or batch + 1 == batches
            at = {"epoch": epoch, "step": step}
            yield ev.TrainBatchEnd(**at, batch_idx=batch, metrics={"loss": 1.0})
            if values is not None and (batch + 1) % (validate_every or batches) == 0:
                measured = {"val_loss": next(values), **more}
                yield ev.ValidationEnd(**at, metrics=measured)
        yield ev.TrainEpochEnd(**at, metrics={"loss_epoch": 1.0, **measured})


def checks(*values):
    return [ev.ValidationEnd(epoch=i, step=5 * (i + 1), metrics={"val_loss": v}) for i, v in enumerate(values)]


def at(*epochs, last=False):
    """The names of the files that `checks` leads to, by epoch."""
    return tuple(f"d/{'last-' * last}epoch={epoch}-step={5 * (epoch + 1)}.safetensors" for epoch in epochs)


CUT = {"epoch": 1, "step": 7, "error": "ValueError", "message": "no"}
CTRL_C = {**CUT, "error": "KeyboardInterrupt"}
RESCUE = "d/rescue-epoch=1-step=7.safetensors"

better = [1 / 2**i for i in range(20)]


# Which states are kept.


@pytest.mark.parametrize(
    ("mode", "k", "values", "kept"),
    [
        ("min", 1, (3.0, 2.0, 4.0, 1.0), (3,)),
        ("max", 1, (3.0, 2.0, 4.0, 1.0), (2,)),
        ("min", 2, (3.0, 2.0, 4.0, 1.0), (1, 3)),
        ("max", 2, (3.0, 2.0, 4.0, 1.0), (0, 2)),
        ("min", -1, (3.0, 2.0, 4.0, 1.0), (0, 1, 2, 3)),
        ("min", 0, (3.0, 2.0, 4.0, 1.0), ()),
        ("min", 1, (1.0, 1.0), (0,)),  # a tie is not saved
        ("min", 2, (2.0, 1.0, 2.0), (0, 1)),  # neither is a tie with the worst kept
        ("min", 2, (2.0, 2.0, 1.0), (1, 2)),  # of equals, the oldest goes
        ("min", 1, (nan, 1.0), (1,)),  # NaN is the worst
        ("max", 1, (nan, 1.0), (1,)),
        ("min", 1, (1.0, nan), (0,)),
        ("max", 1, (1.0, inf), (0,)),  # not finite is no good score
        ("min", 1, (1.0, -inf), (0,)),
        ("min", 1, (nan, nan), (0,)),  # a tie
        ("min", 2, (nan, 1.0, 2.0), (1, 2)),
        ("min", -1, (1.0, nan), (0, 1)),
    ],
)
def test_which_states_are_kept(mode, k, values, kept):
    assert fold(checkpoint("d", monitor="val_loss", mode=mode, save_top_k=k), checks(*values)).files == at(*kept)


def test_each_file_is_remembered_with_its_score():
    run = fold(checkpoint("d", monitor="val_loss", save_top_k=3), checks(0.1, 0.2, 0.3))

    assert run.state == CheckpointState(
        best_model_path=at(0)[0],
        best_model_score=0.1,
        best_k_models=dict(zip(at(0, 1, 2), (0.1, 0.2, 0.3), strict=True)),
        current_score=0.3,
        epoch=2,
        step=15,
        validated=2,
    )


def test_a_score_that_is_not_finite_is_remembered_as_none():  # a state with NaN would equal nothing, itself included
    run = fold(checkpoint("d", monitor="val_loss", save_top_k=2), checks(1.0, nan))

    assert run.state.best_k_models == dict(zip(at(0, 1), (1.0, None), strict=True))
    assert (run.state.best_model_path, run.state.best_model_score, run.state.current_score) == (at(0)[0], 1.0, None)


def test_the_step_can_be_monitored():
    run = fold(checkpoint("d", monitor="step", mode="max"), checks(0.1, 0.2, 0.3))

    assert (run.files, run.state.best_model_score) == (at(2), 15)


def test_without_a_metric_the_newest_is_kept():
    run = fold(checkpoint("d"), training(epochs=3, batches=5))

    assert run.files == at(2)
    assert run.state == CheckpointState(best_model_path=at(2)[0], epoch=2, step=15)


def test_without_a_metric_all_can_be_kept():
    assert fold(checkpoint("d", save_top_k=-1), training(epochs=3, batches=5)).files == at(0, 1, 2)


# When.


def test_batches_that_share_a_step_are_saved_once():
    # steps 1 to 5 an epoch; the first batch of the next epoch still is at the step of the last one
    run = fold(checkpoint("d", save_top_k=-1, every_n_train_steps=5, filename="{step}"), training(2, 10, accumulate=2))

    assert run.files == ("d/step=5.safetensors", "d/step=10.safetensors")


@pytest.mark.parametrize("moment", [ev.ValidationEnd, ev.TrainEpochEnd])
def test_the_same_state_is_saved_once(moment):
    assert len(fold(checkpoint("d", save_top_k=-1), [moment(epoch=1, step=10)] * 2).of(Save)) == 1


def test_an_epoch_that_was_cut_short_and_goes_on_is_saved_at_its_end_too():
    events = [ev.TrainEpochEnd(epoch=1, step=15), ev.TrainEpochEnd(epoch=1, step=20)]

    assert len(fold(checkpoint("d", save_top_k=-1), events).of(Save)) == 2


def test_nothing_is_saved_at_step_0():
    assert fold(checkpoint("d", every_n_train_steps=2), [ev.TrainBatchEnd(step=0)]).effects == ()


def test_every_n_steps_waits_for_a_metric_of_the_validation():
    # due at 4, 8, ... and measured at 6, 12, 18: the state that was measured is the one that is saved
    best = checkpoint("d", monitor="val_loss", save_top_k=-1, every_n_train_steps=4, filename="{step}")
    often = checkpoint("d", monitor="val_loss", save_top_k=-1, every_n_train_steps=12, filename="{step}")

    assert fold(best, training(3, 6, values=better)).files == tuple(f"d/step={n}.safetensors" for n in (6, 12, 18))
    assert fold(often, training(3, 6, values=better)).files == ("d/step=12.safetensors",)


def test_every_n_steps_uses_a_metric_of_the_batch_where_it_is():
    run = fold(checkpoint("d", monitor="loss", save_top_k=-1, every_n_train_steps=4, filename="{step}"), training(1, 9))

    assert run.files == ("d/step=4.safetensors", "d/step=8.safetensors")


def test_it_saves_every_n_epochs():
    assert fold(checkpoint("d", save_top_k=-1, every_n_epochs=2), training(5, 5)).files == at(1, 3)
    assert fold(
        checkpoint("d", monitor="val_loss", save_top_k=-1, every_n_epochs=2), training(5, 5, values=better)
    ).files == at(1, 3)


MINUTE = {"minutes": 1}


def timed(*seconds, accumulate=1):
    """Batches that end at so many seconds; `val_loss` is measured where the batch's number is a multiple of 4."""
    for i, second in enumerate(seconds, 1):
        at = {"step": -(-i // accumulate), "seconds": second}
        yield ev.TrainBatchEnd(**at, metrics={"loss": 1.0})
        if i % 4 == 0:
            yield ev.ValidationEnd(**at, metrics={"val_loss": 1 / i})


@pytest.mark.parametrize(
    ("seconds", "saved"),
    [
        ((59.5, 60.0, 119.5, 120.0, 121.0), (2, 4)),  # once it is reached exactly
        ((61.0, 120.0, 120.5, 121.0), (1, 4)),  # counted from the last check, not from when it was due
        ((200.0, 201.0, 260.0), (1, 3)),  # what was missed is not made up for
    ],
)
def test_it_saves_when_so_much_time_has_passed(seconds, saved):
    run = fold(checkpoint("d", save_top_k=-1, train_time_interval=MINUTE, filename="{step}"), timed(*seconds))

    assert run.files == tuple(f"d/step={step}.safetensors" for step in saved)
    assert run.state.seconds == seconds[saved[-1] - 1]


def test_when_its_time_has_come_it_waits_for_a_metric_of_the_validation():
    best = checkpoint("d", monitor="val_loss", save_top_k=-1, train_time_interval=MINUTE, filename="{step}")

    assert fold(best, timed(61, 62, 63, 64, 65, 66, 67, 68)).files == ("d/step=4.safetensors",)
    assert fold(best, timed(1, 2, 3, 4, 5, 6, 7, 60)).files == ("d/step=8.safetensors",)


def test_the_time_of_a_run_goes_on_when_it_is_resumed():
    newest = checkpoint("d", train_time_interval=MINUTE)
    cut = fold(newest, [ev.TrainBatchEnd(step=9, seconds=70.0)]).state
    again = [ev.TrainBatchEnd(step=10, seconds=129.5), ev.TrainBatchEnd(step=11, seconds=130.0)]

    assert fold(newest, again, cut, files=[cut.best_model_path]).files == ("d/epoch=0-step=11.safetensors",)


def test_batches_that_share_a_step_are_saved_once_whatever_the_time():
    every = checkpoint("d", save_top_k=-1, train_time_interval={"seconds": 1}, filename="{step}")

    assert fold(every, timed(2, 4, 6, 8, accumulate=2)).files == ("d/step=1.safetensors", "d/step=2.safetensors")


@pytest.mark.parametrize(
    ("arguments", "heard"),
    [
        ({}, {ev.ValidationEnd, ev.TrainEpochEnd}),
        ({"monitor": "x"}, {ev.ValidationEnd}),
        ({"save_on_train_epoch_end": True}, {ev.TrainEpochEnd}),
        ({"save_on_train_epoch_end": False}, {ev.ValidationEnd}),
        ({"monitor": "x", "save_on_train_epoch_end": True}, {ev.TrainEpochEnd}),
        ({"monitor": "x", "save_on_train_epoch_end": False}, {ev.ValidationEnd}),
        ({"every_n_train_steps": 3}, {ev.TrainBatchEnd}),
        ({"monitor": "x", "every_n_train_steps": 3}, {ev.TrainBatchEnd, ev.ValidationEnd}),
        ({"train_time_interval": {"hours": 1}}, {ev.TrainBatchEnd}),
        ({"monitor": "x", "train_time_interval": {"hours": 1}}, {ev.TrainBatchEnd, ev.ValidationEnd}),
        ({"every_n_train_steps": 0}, set()),  # 0 turns a trigger off, and there is no other
        ({"every_n_epochs": 0}, set()),
        ({"monitor": "x", "every_n_epochs": 0}, set()),
        ({"save_on_train_epoch_end": True, "every_n_epochs": 0}, set()),
        ({"every_n_epochs": 0, "every_n_train_steps": 3}, {ev.TrainBatchEnd}),
        ({"every_n_train_steps": 0, "every_n_epochs": 1}, {ev.ValidationEnd, ev.TrainEpochEnd}),
    ],
)
def test_which_events_it_checks_at(arguments, heard):
    callback = checkpoint("d", **arguments)

    assert {kind for kind in (ev.TrainBatchEnd, ev.ValidationEnd, ev.TrainEpochEnd) if callback.hears(kind)} == heard


def test_a_metric_of_the_whole_epoch_is_taken_at_its_end():
    best = checkpoint("d", monitor="loss_epoch", save_on_train_epoch_end=True)

    assert fold(best, training(1, 5)).files == at(0)


@pytest.mark.parametrize(
    ("before", "after"),
    [([ev.SanityCheckStart()], [ev.SanityCheckEnd()]), ([ev.Setup(stage="validate")], [ev.Teardown(stage="validate")])],
)
def test_validation_outside_training_saves_nothing(before, after):
    run = fold(checkpoint("d", monitor="val_loss"), before + checks(0.5) + after)

    assert (run.state, run.effects) == (CheckpointState(), ())


def test_a_run_that_never_measured_the_metric_is_told():
    events = [*training(2, 5), ev.TrainEnd()]

    assert fold(checkpoint("d", monitor="val_loss"), events).effects == (
        Print("checkpoint(val_loss): nothing was saved: no check was due at an event with 'val_loss'"),
    )


@pytest.mark.parametrize("off", [{"every_n_epochs": 0}, {"every_n_train_steps": 0}])
def test_a_run_whose_triggers_are_off_is_not_told_of_it(off):
    assert fold(checkpoint("d", monitor="val_loss", **off), [*training(2, 5), ev.TrainEnd(step=10)]).effects == ()


# Last.


def test_the_last_state_is_kept_in_a_file_of_its_own():
    run = fold(checkpoint("d", monitor="val_loss", save_last=True), checks(1.0, 2.0, 3.0))

    assert run.files == (*at(0), *at(2, last=True))
    assert run.state.last_model_path == at(2, last=True)[0]
    assert run.state.best_model_path == at(0)[0]


def test_the_name_of_the_last_file_can_be_chosen():
    run = fold(checkpoint("d", save_top_k=0, save_last=True, last_filename="newest-{epoch:02d}"), training(3, 5))

    assert run.files == ("d/newest-epoch=02.safetensors",)


def test_the_last_state_is_saved_when_training_ends_if_no_check_was_due():
    end = ev.TrainEnd(epoch=1, step=5)
    saved = at(0, last=True)[0].replace("epoch=0", "epoch=1")

    assert fold(checkpoint("d", every_n_epochs=9, save_last=True), [*training(1, 5), end]).files == (saved,)
    assert fold(checkpoint("d", monitor="val_loss", save_last=True), [*training(1, 5), end]).files == (saved,)
    assert fold(checkpoint("d", save_top_k=0, save_last=True), [*training(1, 5), end]).files == at(0, last=True)
    assert fold(checkpoint("d", every_n_epochs=9, save_last=True), [ev.TrainEnd()]).files == ()  # nothing was trained
    assert fold(checkpoint("d", every_n_epochs=9, save_last="link"), [end]).files == ()
    dev_run = [ev.Setup(fast_dev_run=True), end]
    assert fold(checkpoint("d", every_n_epochs=9, save_last=True), dev_run).files == ()


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ({"every_n_train_steps": 4}, ["epoch=1-step=8", "last-epoch=1-step=10"]),
        ({"every_n_train_steps": 4, "save_last": True}, ["epoch=1-step=8", "last-epoch=1-step=10"]),
        ({"every_n_train_steps": 5}, ["epoch=1-step=10"]),  # a check kept that very state
        ({"every_n_train_steps": 5, "save_top_k": 0}, ["last-epoch=1-step=10"]),
        ({"monitor": "val_loss"}, ["epoch=0-step=5", "last-epoch=1-step=10"]),  # the last check was not the best
        ({"monitor": "val_loss", "save_last": True}, ["epoch=0-step=5", "last-epoch=1-step=10"]),
        ({"every_n_epochs": 9}, ["last-epoch=1-step=10"]),
    ],
)
def test_what_came_after_the_last_check_may_be_saved_when_training_ends(arguments, files):
    run = [*training(2, 5, values=(1.0, 2.0)), ev.TrainEnd(epoch=1, step=10, metrics={"val_loss": 2.0})]

    folded = fold(checkpoint("d", save_on_train_end=True, **arguments), run)
    assert sorted(folded.files) == [f"d/{name}.safetensors" for name in files]


def test_nothing_is_saved_at_the_end_of_a_trial_or_of_no_training():
    assert fold(checkpoint("d", save_on_train_end=True), [ev.TrainEnd()]).files == ()
    trial = [ev.Setup(fast_dev_run=True), *training(1, 1), ev.TrainEnd(step=1)]
    assert fold(checkpoint("d", save_on_train_end=True), trial).files == ()


def test_a_run_that_was_stopped_between_checks_goes_on_from_its_end_as_if_it_had_not_been(tmp_path):
    def weights(stop_at, folder, resume=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        stops = Callback(
            key="stops",
            init=int,
            on_train_batch_end=lambda s, e: emit(s + 1, Stop("enough")) if e.step == stop_at else s + 1,
        )
        run = fncb.fit(
            fncb.Task(model, loss=lambda m, x: m(x[0]).square().mean(), optimizer=partial(torch.optim.Adam, lr=0.01)),
            fncb.batches(torch.utils.data.TensorDataset(torch.arange(80.0).reshape(20, 4) / 80), 2, shuffle=True),
            callbacks=[stops, checkpoint(folder, every_n_train_steps=4, save_on_train_end=True)],
            max_epochs=3,
            resume=resume,
            seed=0,
            compile=False,
            progress=False,
        )
        return [*model.parameters()], run

    straight, _ = weights(-1, tmp_path / "a")
    _, cut = weights(13, tmp_path / "b")
    gone_on, run = weights(-1, tmp_path / "b", resume="last")

    assert cut.step == 13
    assert (run.resumed.step, run.resumed.path.name, run.state["stops"]) == (13, "last-epoch=2-step=13.safetensors", 30)
    assert all(map(torch.equal, straight, gone_on))


LINK = partial(Link, "d/last.safetensors", within="d")


def test_a_link_leads_to_the_newest_file_before_others_are_deleted():
    run = fold(checkpoint("d", monitor="val_loss", save_last="link"), checks(2.0, 3.0, 1.0))

    assert run.effects == (SAVE(at(0)[0]), LINK(to=at(0)[0]), SAVE(at(2)[0]), LINK(to=at(2)[0]), DELETE(at(0)[0]))
    assert run.files == at(2)
    assert run.state.last_model_path is None


def test_a_link_leads_to_a_rescue_until_the_next_file():
    run = fold(checkpoint("d", save_last="link", save_on_exception=True), [ev.ExceptionRaised(**CUT)])

    assert run.of(Link) == (LINK(to=RESCUE),)


def test_only_who_keeps_a_link_may_ask_for_one():
    assert Link in checkpoint("d", save_last="link").emits
    assert Link not in checkpoint("d", save_last=True).emits


def test_a_score_that_is_not_finite_does_not_replace_the_last_state():  # promise 8
    run = fold(checkpoint("d", monitor="val_loss", save_top_k=0, save_last=True), checks(1.0, nan))

    assert run.files == at(0, last=True)


# Weights alone.


def test_files_may_hold_weights_alone_but_a_rescue_is_whole():
    light = checkpoint("d", save_last=True, save_weights_only=True, save_on_exception=True)
    cut = fold(light, [*training(1, 5), ev.ExceptionRaised(**CUT)])

    assert cut.of(Save) == (
        SAVE(at(0)[0], weights_only=True),
        SAVE(at(0, last=True)[0], weights_only=True),
        SAVE(RESCUE),
    )


def test_a_rescue_stays_until_there_is_another_file_to_go_on_from():
    light = checkpoint("d", save_weights_only=True, save_on_exception=True)
    cut = fold(light, [*training(1, 5), ev.ExceptionRaised(**CUT)])
    on = fold(light, [ev.TrainEpochEnd(epoch=1, step=10)], cut.state, files=cut.files)
    again = fold(light, [ev.ExceptionRaised(epoch=2, step=12, error="ValueError")], on.state, files=on.files)

    assert on.files == (RESCUE, at(1)[0])
    assert again.files == (at(1)[0], "d/rescue-epoch=2-step=12.safetensors")


# What happens on disk.


def test_old_files_are_deleted_only_after_the_new_one_is_on_disk():  # promise 4
    best = checkpoint("d", monitor="val_loss", save_last=True)
    run = fold(best, checks(2.0, 1.0))

    assert run.effects == (
        *map(SAVE, at(0) + at(0, last=True)),
        *map(SAVE, at(1) + at(1, last=True)),
        *map(DELETE, at(0) + at(0, last=True)),
    )
    assert best.transition(run.state, checks(0, 0, 0.5)[2])[1] == tuple(map(SAVE, at(2) + at(2, last=True)))


def test_until_it_is_on_disk_a_file_is_only_asked_for():
    best = checkpoint("d", monitor="val_loss")
    state, _ = best.transition(best.init(), checks(0.5)[0])

    assert state == CheckpointState(current_score=0.5, epoch=0, step=5, validated=0, asked=(Asked(at(0)[0], 0.5),))


def test_a_name_that_is_taken_gets_a_version():
    best = checkpoint("d", monitor="val_loss", filename="best")
    run = fold(best, checks(3.0, 2.0, 1.0), files=["d/best.safetensors"])

    assert run.of(Save) == (SAVE("d/best.safetensors"),) * 3
    assert run.files == ("d/best.safetensors", "d/best-v1.safetensors")  # the first is not its own
    assert run.state.best_k_models == {"d/best-v1.safetensors": 1.0}


def test_a_file_that_was_removed_by_hand_and_made_again_is_not_deleted():
    newest = checkpoint("d", filename="newest")
    first = fold(newest, training(1, 5))
    again = fold(newest, [ev.TrainEpochEnd(epoch=1, step=10)], state=first.state, files=())

    assert first.files == again.files == ("d/newest.safetensors",)


def test_the_files_of_others_are_left_alone():
    best = checkpoint("d", monitor="val_loss")
    state = fold(best, checks(0.5)).state

    assert best.transition(state, ev.Saved(path="d/other.safetensors", requested="d/other.safetensors")) == (state, ())


def test_two_in_one_folder_keep_to_their_own_files():
    both = compose(
        checkpoint("d", monitor="val_loss"), checkpoint("d", monitor="loss_epoch", save_on_train_epoch_end=True)
    )
    run = fold(both, training(2, 5, values=(2.0, 1.0)))  # `loss_epoch` does not improve

    assert run.files == ("d/epoch=0-step=5-v1.safetensors", *at(1))
    assert run.state["checkpoint(loss_epoch)"].best_k_models == {"d/epoch=0-step=5-v1.safetensors": 1.0}
    assert run.state["checkpoint(val_loss)"].best_k_models == {at(1)[0]: 1.0}


def test_files_of_an_earlier_folder_are_not_deleted():
    old = fold(checkpoint("d", monitor="val_loss"), checks(1.0))
    run = fold(checkpoint("e", monitor="val_loss"), checks(9.0, 0.5)[1:], state=old.state, files=old.files)

    assert run.files == (*at(0), "e/epoch=1-step=10.safetensors")
    assert run.state.best_model_path == "e/epoch=1-step=10.safetensors"


def test_fewer_files_than_before_are_kept_after_a_change_of_mind():
    old = fold(checkpoint("d", monitor="val_loss", save_top_k=3), checks(3.0, 2.0, 4.0))
    run = fold(checkpoint("d", monitor="val_loss"), checks(0, 0, 0, 1.0)[3:], state=old.state, files=old.files)

    assert run.files == at(3)


@pytest.mark.parametrize("monitor", [None, "val_loss"])
def test_a_file_holds_what_is_needed_to_go_on_from_it(monitor):
    callback = checkpoint("d", monitor=monitor, save_last=True)
    events = checks(4.0, 3.0, 2.0)
    straight = fold(callback, events)

    before = fold(callback, events[:2])
    in_file, _ = callback.transition(before.state, events[2])  # a file is written before its own `Saved` is heard
    answers = [ev.Saved(epoch=2, step=15, path=path, requested=path) for path in straight.files]
    assert fold(callback, answers, state=in_file, files=before.files).state == straight.state


def test_saves_may_be_answered_later():
    best = checkpoint("d", monitor="val_loss", save_top_k=2)
    state = best.init()
    for event in checks(2.0, 1.0):
        state, _ = best.transition(state, event)

    answers = [ev.Saved(step=15, path=path, requested=path) for path in at(0, 1)]
    assert fold(best, answers, state=state).state.best_k_models == dict(zip(at(0, 1), (2.0, 1.0), strict=True))


def test_a_save_that_failed_is_forgotten_once_a_later_one_is_on_disk():
    best = checkpoint("d", monitor="val_loss", save_top_k=2)
    state, _ = best.transition(best.init(), checks(1.0)[0])  # never answered

    assert fold(best, checks(0, 2.0)[1:], state=state).state.best_k_models == {at(1)[0]: 2.0}
    assert fold(best, checks(0, 2.0)[1:], state=state).state.asked == ()


# Names.


def test_file_names_hold_metrics():
    name = "{epoch:02d}-{val_loss:.2f}-{val/acc}"
    run = fold(checkpoint(Path("runs") / "a", filename=name, monitor="val_loss"), _with_acc(checks(0.125)))

    assert run.files == ("runs/a/epoch=00-val_loss=0.12-val/acc=0.5.safetensors",)


def _with_acc(events):
    return [ev.ValidationEnd(epoch=e.epoch, step=e.step, metrics={**e.metrics, "val/acc": 0.5}) for e in events]


@pytest.mark.parametrize("settings", [{"monitor": "acc"}, {"filename": "{acc}"}, {"filename": "{acc.__class__}"}])
def test_an_unknown_metric_is_an_error_that_names_what_is_there(settings):
    callback = checkpoint("d", **settings)

    with pytest.raises(
        ev.MissingMetric, match=r"checkpoint: no metric 'acc.*' in ValidationEnd at step 5. It has \['val_loss'\]"
    ):
        callback.transition(callback.init(), checks(0.5)[0])


def test_names_come_without_their_names_if_asked():
    assert fold(checkpoint("d", filename="{epoch}", auto_insert_metric_name=False), training(1, 5)).files == (
        "d/0.safetensors",
    )


def test_files_go_to_a_folder_of_their_own_by_default():
    assert checkpoint().config["dirpath"] == "checkpoints"
    assert fold(checkpoint(), training(1, 5)).files == ("checkpoints/epoch=0-step=5.safetensors",)


def test_the_first_version_of_a_name_can_be_chosen():
    (save,) = fold(checkpoint("d", starting_version=9), training(1, 5)).of(Save)

    assert save.starting_version == 9


def test_a_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert checkpoint("~/runs").config["dirpath"] == "/home/me/runs"


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": "x", "save_top_k": -3}, ValueError, "save_top_k must be -1 or more, got -3"),
        ({"every_n_epochs": -3}, ValueError, "every_n_epochs must be 0 or more, got -3"),
        ({"every_n_train_steps": -3}, ValueError, "every_n_train_steps must be 0 or more, got -3"),
        ({"every_n_epochs": 1.0}, TypeError, "every_n_epochs must be an int, got 1.0"),
        ({"save_top_k": 3}, ValueError, "save_top_k must be -1, 0 or 1, got 3. Pass `monitor=`"),
        (
            {"every_n_epochs": 1, "every_n_train_steps": 5},
            ValueError,
            "there must be one trigger, got every_n_epochs and every_n_train_steps. Drop one",
        ),
        ({"every_n_train_steps": 1, "train_time_interval": "00:00:00:09"}, ValueError, "there must be one trigger"),
        ({"every_n_epochs": 1, "train_time_interval": {"hours": 1}}, ValueError, "there must be one trigger"),
        ({"save_on_train_epoch_end": True, "every_n_train_steps": 5}, ValueError, "there must be one trigger"),
        ({"save_on_train_epoch_end": False, "train_time_interval": {"hours": 1}}, ValueError, "there must be one trig"),
        ({"train_time_interval": "1 hour"}, ValueError, "train_time_interval must be 'DD:HH:MM:SS', got '1 hour'"),
        ({"train_time_interval": 60}, TypeError, "train_time_interval must be 'DD:HH:MM:SS', a timedelta or"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"save_last": "always"}, ValueError, "save_last must be True, False or 'link', got 'always'"),
        ({"save_last": 1}, ValueError, "save_last must be True, False or 'link', got 1"),
        ({"save_last": "link", "save_top_k": 0}, ValueError, "save_last='link' must have files .*, got save_top_k=0"),
        ({"save_last": "link", "filename": "last"}, ValueError, "save_last='link' must have files .*, got filename="),
        ({"save_top_k": True}, TypeError, "save_top_k must be an int, got True"),
        ({"save_top_k": None}, TypeError, "save_top_k must be an int, got None"),
        ({"starting_version": -1}, ValueError, "starting_version must be 0 or more, got -1"),
        ({"starting_version": None}, TypeError, "starting_version must be an int, got None"),
        ({"save_weights_only": 1}, ValueError, "save_weights_only must be True or False, got 1"),
        ({"monitor": 3}, TypeError, "monitor must be a metric's name, got 3"),
        ({"dirpath": None}, TypeError, "dirpath must be a path, got None"),
        ({"filename": "../{epoch}"}, ValueError, "filename must name a file inside its folder"),
        ({"filename": "{epoch"}, ValueError, "filename must hold fields"),
        ({"last_filename": "../{epoch}"}, ValueError, "last_filename must name a file inside its folder"),
        ({"rescue_filename": "/{epoch}"}, ValueError, "rescue_filename must name a file inside its folder"),
        ({"rescue_filename": "{loss}"}, ValueError, "rescue_filename must have no fields but {epoch} and {step}, got"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^checkpoint: {message}"):
        checkpoint(**{"dirpath": "d", **arguments})


def test_verbose_says_what_was_saved_and_what_was_not():
    run = fold(checkpoint("d", monitor="val_loss", verbose=True), checks(1.0, 2.0))

    assert run.of(Print) == (
        Print("checkpoint(val_loss): saved d/epoch=0-step=5.safetensors"),
        Print("checkpoint(val_loss): val_loss 2 at step 10 is not among the best 1"),
    )


def test_verbose_does_not_mourn_what_nobody_wants():
    assert fold(checkpoint("d", monitor="val_loss", save_top_k=0, verbose=True), checks(1.0)).effects == ()


def test_keys_name_the_metric():
    assert [checkpoint("d").key, checkpoint("d", monitor="x").key, checkpoint("d", key="mine").key] == [
        "checkpoint",
        "checkpoint(x)",
        "mine",
    ]


def test_its_arguments_are_its_config():
    assert checkpoint("d", filename="").config == {
        "save": "sync",
        "save_on_train_end": False,
        "save_on_exception": False,
        "save_on_signal": False,
        "dirpath": "d",
        "monitor": None,
        "mode": "min",
        "save_top_k": 1,
        "save_last": False,
        "save_weights_only": False,
        "every_n_epochs": None,
        "every_n_train_steps": None,
        "train_time_interval": None,
        "filename": "{epoch}-{step}",
        "last_filename": "last-{epoch}-{step}",
        "rescue_filename": "rescue-{epoch}-{step}",
        "auto_insert_metric_name": True,
        "starting_version": 1,
        "save_on_train_epoch_end": None,
        "verbose": False,
    }


@pytest.mark.parametrize(
    ("interval", "per_epoch", "at"),
    [
        (4, 4, ["ValidationEnd", "ValidationEnd", "ValidationEnd", "TrainEpochEnd"]),  # val_check_interval=0.25
        (5, 3, ["ValidationEnd", "ValidationEnd", "ValidationEnd"]),  # 0.3, none at the end of the epoch
        (16, 1, ["TrainEpochEnd"]),
    ],
)
def test_without_a_monitor_a_validation_at_the_end_of_an_epoch_leaves_the_save_to_the_epoch(interval, per_epoch, at):
    saves, state, seen = checkpoint("runs"), checkpoint("runs").init(), []
    events = [ev.ValidationEnd(epoch=0, step=step, epoch_is_over=step == 16) for step in range(interval, 17, interval)]

    for event in [*events, ev.TrainEpochEnd(epoch=0, step=16)]:
        state, effects = saves.transition(state, event)
        seen += [type(event).__name__ for effect in effects if isinstance(effect, Save)]

    assert (len(seen), seen) == (per_epoch, at)


# What cuts a run off.


@pytest.mark.parametrize(
    ("asked", "raised", "saves"),
    [
        ({"save_on_exception": True}, CUT, True),
        ({"save_on_exception": True}, {**CUT, "error": "Terminated", "signal": "SIGTERM"}, True),
        ({"save_on_exception": True}, {**CTRL_C, "signal": "SIGINT"}, True),
        ({"save_on_exception": True}, CTRL_C, False),  # a second Ctrl-C comes in the middle of something
        ({"save_on_signal": True}, {**CTRL_C, "signal": "SIGINT"}, True),
        ({"save_on_signal": True}, CUT, False),
        ({}, CUT, False),
    ],
)
def test_what_cuts_a_run_off_is_a_check_if_that_was_asked_for(asked, raised, saves):
    run = fold(checkpoint("d", save="async", **asked), [ev.ExceptionRaised(**raised)])

    assert run.of(Save) == ((SAVE(RESCUE),) if saves else ())  # not in the background: the process is about to end


def test_a_rescue_goes_when_the_next_file_is_on_disk():
    callback = checkpoint("d", monitor="val_loss", save_on_exception=True)
    cut = fold(callback, [*checks(1.0), ev.ExceptionRaised(**CUT)])

    assert cut.files == (*at(0), RESCUE)
    assert cut.state.rescue_path == RESCUE
    assert fold(callback, checks(1.0, 0.5)[1:], cut.state, files=cut.files).files == at(1)


@pytest.mark.parametrize("before", [ev.Setup(stage="validate"), ev.Setup(fast_dev_run=True), ev.SanityCheckStart()])
def test_nothing_is_rescued_of_a_run_that_does_not_train(before):
    assert fold(checkpoint("d", save_on_exception=True), [before, ev.ExceptionRaised(**CUT)]).of(Save) == ()


def test_the_name_of_a_rescue_can_be_chosen():
    saves = checkpoint("d", save_on_exception=True, rescue_filename="cut-{step}")

    assert fold(saves, [ev.ExceptionRaised(**CUT)]).files == ("d/cut-step=7.safetensors",)


def test_a_rescue_at_the_step_of_another_takes_its_place():
    saves = checkpoint("d", save_on_exception=True)

    assert len(fold(saves, [ev.ExceptionRaised(**CUT)] * 3).files) == 1


def test_saving_in_the_background_is_asked_for():
    assert fold(checkpoint("d", save="async"), training(1, 5)).of(Save) == (SAVE(at(0)[0], background=True),)


@pytest.mark.parametrize(
    "bad", [{"save": "later"}, {"save_on_exception": "yes"}, {"save_on_signal": 1}, {"save_on_train_end": 1}]
)
def test_when_to_save_is_checked_at_construction(bad):
    with pytest.raises(ValueError, match=f"checkpoint: {next(iter(bad))} must be"):
        checkpoint("d", **bad)


# In a run.


def test_a_file_that_has_the_name_of_the_link_stays(tmp_path, caplog):
    last = tmp_path / "last.safetensors"
    last.write_bytes(b"mine")

    train(task(), batches(2), callbacks=checkpoint(tmp_path, save_last="link"), max_epochs=1)

    assert last.read_bytes() == b"mine"
    assert "no link: store.point: the name must be free or a symbolic link" in caplog.text


def test_a_run_goes_on_exactly_from_what_was_saved_when_training_ended(tmp_path):
    saves = checkpoint(tmp_path, every_n_epochs=0, save_last=True)
    whole, cut = task(), task()
    train(whole, batches(3), max_epochs=4)

    train(task(), batches(3), callbacks=saves, max_epochs=2)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["last-epoch=2-step=6.safetensors"]
    run = train(cut, batches(3), callbacks=saves, max_epochs=4, resume="last")

    assert run.step == 12
    assert all(torch.equal(each, whole.model.state_dict()[name]) for name, each in cut.model.state_dict().items())
