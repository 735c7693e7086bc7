from functools import partial
from math import inf, nan
from pathlib import Path

import pytest

from fncb import events as ev
from fncb.callback import compose
from fncb.callbacks.checkpoint import Asked, CheckpointState, checkpoint
from fncb.effects import Delete, Print, Save
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


def test_each_file_is_remembered_with_its_score():  # F36
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


def test_epoch_and_step_can_be_monitored():  # F34
    by_epoch = fold(checkpoint("d", monitor="epoch", mode="max", save_top_k=-1), checks(0.1, 0.2, 0.3))
    by_step = fold(checkpoint("d", monitor="step", mode="max"), checks(0.1, 0.2, 0.3))

    assert (by_epoch.state.best_model_path, by_epoch.state.best_model_score) == (at(2)[0], 2)
    assert min(by_epoch.state.best_k_models, key=by_epoch.state.best_k_models.get) == at(0)[0]
    assert by_epoch.files == at(0, 1, 2)
    assert (by_step.files, by_step.state.best_model_score) == (at(2), 15)


def test_without_a_metric_the_newest_is_kept():  # F31
    run = fold(checkpoint("d"), training(epochs=3, batches=5))

    assert run.of(Save) == tuple(map(SAVE, at(0, 1, 2)))
    assert run.files == at(2)
    assert run.state == CheckpointState(best_model_path=at(2)[0], epoch=2, step=15)


def test_without_a_metric_all_can_be_kept():
    assert fold(checkpoint("d", save_top_k=-1), training(epochs=3, batches=5)).files == at(0, 1, 2)


# When.


@pytest.mark.parametrize(
    ("k", "epochs", "every", "saves"), [(1, 1, 64, 1), (2, 2, 64, 2), (2, 1, 16, 4), (2, 2, 19, 6)]
)
def test_how_often_it_saves(k, epochs, every, saves):  # F25; 19 batches are .3 of 64
    def saved(**settings):
        events = training(epochs=epochs, batches=64, validate_every=every, values=better)
        return len(fold(checkpoint("d", **settings), events).of(Save))

    assert saved(monitor="val_loss", save_top_k=k) == saves
    assert saved(monitor="val_loss", save_top_k=k, save_last=True) == 2 * saves
    assert saved() == saves


def test_it_saves_every_n_steps():  # F27
    run = fold(checkpoint("d", save_top_k=-1, every_n_train_steps=16, filename="{step}"), training(2, 64))

    assert run.files == tuple(f"d/step={step}.safetensors" for step in (16, 32, 48, 64, 80, 96, 112, 128))


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


# Last.


def test_the_last_state_is_kept_in_a_file_of_its_own():
    run = fold(checkpoint("d", monitor="val_loss", save_last=True), checks(1.0, 2.0, 3.0))

    assert run.files == (*at(0), *at(2, last=True))
    assert run.state.last_model_path == at(2, last=True)[0]
    assert run.state.best_model_path == at(0)[0]


def test_only_the_last_state_can_be_kept():  # F33
    assert fold(checkpoint("d", save_top_k=0, save_last=True), training(3, 5)).files == at(2, last=True)


def test_a_new_run_in_the_same_folder_overwrites_nothing():  # F33, F38
    first = fold(checkpoint("d", save_top_k=0, save_last=True), training(1, 5)).files
    again = fold(checkpoint("d", save_top_k=0, save_last=True), training(1, 5), files=first)

    assert again.files == (*at(0, last=True), "d/last-epoch=0-step=5-v1.safetensors")
    assert again.state.last_model_path == "d/last-epoch=0-step=5-v1.safetensors"


def test_best_and_last_are_two_files():  # F40
    losses = [1 - 0.1 * e if e % 2 == 0 else 1 + 0.1 * e for e in range(4)]
    run = fold(checkpoint("d", monitor="val_loss", save_last=True), checks(*losses))

    assert run.files == (*at(2), *at(3, last=True))


def test_a_score_that_is_not_finite_does_not_replace_the_last_state():  # promise 8
    run = fold(checkpoint("d", monitor="val_loss", save_top_k=0, save_last=True), checks(1.0, nan))

    assert run.files == at(0, last=True)


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


def test_a_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert checkpoint("~/runs").config["dirpath"] == "/home/me/runs"


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": "x", "save_top_k": -3}, ValueError, "save_top_k must be -1 or more, got -3"),  # F42
        ({"every_n_epochs": -3}, ValueError, "every_n_epochs must be 1 or more, got -3"),
        ({"every_n_train_steps": -3}, ValueError, "every_n_train_steps must be 1 or more, got -3"),
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs must be 1 or more, got 0"),
        ({"save_top_k": 3}, ValueError, "save_top_k must be -1, 0 or 1, got 3. Pass `monitor=`"),
        ({"every_n_epochs": 1, "every_n_train_steps": 5}, ValueError, "there must be one trigger"),
        ({"save_on_train_epoch_end": True, "every_n_train_steps": 5}, ValueError, "there must be one trigger"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"save_last": "link"}, ValueError, "save_last must be True or False, got 'link'"),
        ({"save_top_k": True}, ValueError, "save_top_k must be -1 or more, got True"),
        ({"save_top_k": None}, ValueError, "save_top_k must be -1 or more, got None"),
        ({"monitor": 3}, TypeError, "monitor must be a metric's name or None, got 3"),
        ({"dirpath": None}, TypeError, "dirpath must be a path, got None"),
        ({"filename": "../{epoch}"}, ValueError, "filename must name a file inside its folder"),
        ({"filename": "{epoch"}, ValueError, "filename must hold fields"),
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
        "save_on_exception": False,
        "save_on_signal": False,
        "dirpath": "d",
        "monitor": None,
        "mode": "min",
        "save_top_k": 1,
        "save_last": False,
        "every_n_epochs": None,
        "every_n_train_steps": None,
        "filename": "{epoch}-{step}",
        "auto_insert_metric_name": True,
        "save_on_train_epoch_end": None,
        "verbose": False,
    }


@pytest.mark.parametrize(
    ("interval", "per_epoch", "at"),
    [
        (4, 4, ["ValidationEnd", "ValidationEnd", "ValidationEnd", "TrainEpochEnd"]),  # F25: val_check_interval=0.25
        (5, 3, ["ValidationEnd", "ValidationEnd", "ValidationEnd"]),  # F25: 0.3, none at the end of the epoch
        (16, 1, ["TrainEpochEnd"]),
    ],
)
def test_f25_without_a_monitor_a_validation_at_the_end_of_an_epoch_leaves_the_save_to_the_epoch(
    interval, per_epoch, at
):
    saves, state, seen = checkpoint("runs"), checkpoint("runs").init(), []
    events = [ev.ValidationEnd(epoch=0, step=step, epoch_is_over=step == 16) for step in range(interval, 17, interval)]

    for event in [*events, ev.TrainEpochEnd(epoch=0, step=16)]:
        state, effects = saves.transition(state, event)
        seen += [type(event).__name__ for effect in effects if isinstance(effect, Save)]

    assert (len(seen), seen) == (per_epoch, at)


# What cuts a run off.

CUT = {"epoch": 1, "step": 7, "error": "ValueError", "message": "no"}
CTRL_C = {**CUT, "error": "KeyboardInterrupt"}
RESCUE = "d/rescue-epoch=1-step=7.safetensors"


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


def test_nothing_is_rescued_of_a_run_that_does_not_train():
    events = [ev.Setup(stage="validate"), ev.ExceptionRaised(**CUT)]

    assert fold(checkpoint("d", save_on_exception=True), events).of(Save) == ()


def test_saving_in_the_background_is_asked_for():
    assert fold(checkpoint("d", save="async"), training(1, 5)).of(Save) == (SAVE(at(0)[0], background=True),)


@pytest.mark.parametrize("bad", [{"save": "later"}, {"save_on_exception": "yes"}, {"save_on_signal": 1}])
def test_when_to_save_is_checked_at_construction(bad):
    with pytest.raises(ValueError, match=f"checkpoint: {next(iter(bad))} must be"):
        checkpoint("d", **bad)
