"""The session: effects after an event's hooks, in order; answers; what nobody can do is refused at the door."""

import io
import threading

import pytest
import torch
from rich.console import Console

from fncb import events as ev
from fncb import store
from fncb.callback import Callback, StepHooks, compose, emit
from fncb.callbacks import checkpoint, early_stop
from fncb.effects import Attach, Delete, Log, Print, Render, Save, SetLR, Stop
from fncb.events import Metrics, StopRequested, TrainBatchEnd, TrainEpochEnd, ValidationEnd
from fncb.interpret import Screen
from fncb.session import Session
from fncb.sinks import Sink


def asks(*effects, key="asks", emits=None, **hooks):
    return Callback(key=key, init=int, emits=emits, on_validation_end=lambda s, e: emit(s + 1, *effects), **hooks)


def paper(terminal=False):
    file = io.StringIO()
    return Screen(Console(file=file, force_terminal=terminal, width=120)), file


def test_the_first_stop_wins_and_is_announced():
    heard = []
    listener = Callback(key="listener", init=int, on_stop_requested=lambda s, e: heard.append(e) or s)

    with Session([asks(Stop("one"), Stop("two")), listener]) as session:
        session(ValidationEnd(step=3))

    assert session.stopped == Stop("one")
    assert [(event.reason, event.step) for event in heard] == [("one", 3)]


def test_a_checkpoint_holds_every_state_as_of_after_the_event(tmp_path):
    path = tmp_path / "saved.safetensors"
    late = Callback(key="late", init=int, on_validation_end=lambda s, e: s + 10)

    with Session([asks(Save(str(path))), late], objects={"model": torch.nn.Linear(2, 1)}) as session:
        session(ValidationEnd(epoch=2, step=7, metrics={"val_loss": 0.5}))

    tree = store.read(path)
    assert tree["callbacks"] == {"asks": 1, "late": 10}
    assert (tree["epoch"], tree["step"], tree["metrics"]) == (2, 7, {"val_loss": 0.5})
    assert set(tree["model"]) == {"weight", "bias"}


def test_a_save_is_answered_once_it_is_on_disk_with_its_real_name(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"taken")
    seen = []

    def on_saved(state, event):
        seen.append((event.path, event.requested, event.bytes))
        assert event.bytes == (tmp_path / "a-v1.safetensors").stat().st_size
        return state

    with Session(asks(Save(str(path)), on_saved=on_saved)) as session:
        session(ValidationEnd())

    assert [entry[:2] for entry in seen] == [(str(tmp_path / "a-v1.safetensors"), str(path))]
    assert path.read_bytes() == b"taken"


def test_two_saves_under_one_name_are_refused(tmp_path):
    twice = [asks(Save(str(tmp_path / "a.safetensors")), key=key) for key in ("one", "two")]

    with Session(twice) as session, pytest.raises(ValueError, match="must have names of their own"):
        session(ValidationEnd())


def test_going_on_from_a_file_deletes_none_that_came_after_it(tmp_path):
    best = checkpoint(tmp_path, monitor="val_loss", filename="best")
    with Session(best) as first:
        first(ValidationEnd(step=1, metrics={"val_loss": 2.0}))
        first(ValidationEnd(step=2, metrics={"val_loss": 1.0}))
    (older,) = tmp_path.glob("*.safetensors")
    (tmp_path / "best.safetensors").write_bytes(b"another run's")

    with Session(best) as again:
        again.load(store.read(older))

    assert older.exists()
    assert (tmp_path / "best.safetensors").read_bytes() == b"another run's"


def test_deleting_what_is_gone_is_no_error(tmp_path):
    with Session(asks(Delete(str(tmp_path / "gone.safetensors")))) as session:
        session(ValidationEnd())


def test_what_is_logged_joins_the_metrics_of_the_events_that_follow():
    seen = []
    listener = Callback(key="listener", init=int, on_train_epoch_end=lambda s, e: seen.append(dict(e.metrics)) or s)

    with Session([asks(Log({"extra": 1.5})), listener]) as session:
        session(ValidationEnd())
        session(TrainEpochEnd(metrics={"loss": 0.5}))

    assert seen == [{"loss": 0.5, "extra": 1.5}]


def test_an_effect_that_nobody_carries_out_is_refused_at_set_up():
    with pytest.raises(ValueError, match="asks: every effect must be one that this run carries out, got SetLR"):
        Session(asks(emits=(Stop, SetLR)))


def test_an_effect_that_was_not_declared_and_nobody_carries_out_is_refused_when_asked_for():
    with Session(asks(SetLR(0.5))) as session, pytest.raises(ValueError, match="nobody here carries it out"):
        session(ValidationEnd())


def test_a_loop_around_may_carry_out_more():
    done = []

    with Session(
        asks(SetLR(0.5), emits=(SetLR,)), carries_out={SetLR: lambda effect, event: done.append(effect)}
    ) as session:
        session(ValidationEnd())

    assert done == [SetLR(0.5)]


def test_step_hooks_that_nobody_would_run_are_refused():
    with pytest.raises(ValueError, match="average: step hooks must run inside a training step"):
        Session(Callback(key="average", step=StepHooks(init=dict)))


def test_a_hook_must_not_send_events():
    holder = []
    loops = Callback(key="loops", init=int, on_validation_end=lambda s, e: holder[0](TrainBatchEnd()) or s)

    with Session(loops) as session:
        holder.append(session)
        with pytest.raises(RuntimeError, match="a hook must not send events"):
            session(ValidationEnd())


def test_time_is_filled_in_where_the_event_has_none():
    seen = []
    listener = Callback(key="listener", init=int, on_validation_end=lambda s, e: seen.append(e.seconds) or s)

    with Session(listener) as session:
        session(ValidationEnd())
        session(ValidationEnd(seconds=12.5))

    assert seen[0] > 0.0
    assert seen[1] == 12.5


def test_metrics_reach_the_sinks_every_so_many_steps_and_at_the_end_of_each_part():
    seen, closed = [], []
    sink = Sink(log=lambda metrics, event: seen.append((event.step, dict(metrics))), close=lambda: closed.append(True))

    with Session(sinks=[sink], log_every_n_steps=2) as session:
        for step in (1, 2, 3):
            session(TrainBatchEnd(step=step, metrics={"loss": 0.5}))
        session(ValidationEnd(step=3, metrics={"val_loss": 1.5}))

    assert seen == [(2, {"loss": 0.5}), (3, {"val_loss": 1.5})]
    assert closed == [True]


def told(*events, callbacks=(), every=1):
    """The rows that a sink is given: step and metrics."""
    rows = []
    sink = Sink(log=lambda metrics, event: rows.append((event.step, dict(metrics))), close=lambda: None)
    with Session(callbacks, sinks=[sink], log_every_n_steps=every) as session:
        for event in events:
            session(event)
    return rows


def test_the_end_of_an_epoch_brings_a_sink_what_it_has_not_been_given():
    end = TrainEpochEnd(step=2, metrics={"loss": 0.5, "val_loss": 1.5, "loss_epoch": 0.75})
    batches = [TrainBatchEnd(step=step, metrics={"loss": 1.0 / step}) for step in (1, 2)]
    check = ValidationEnd(step=1, metrics={"val_loss": 1.5})  # in the middle of the epoch

    assert told(*batches, check, end) == [
        *[(1, {"loss": 1.0}), (2, {"loss": 0.5}), (1, {"val_loss": 1.5})],
        (2, {"loss_epoch": 0.75}),
    ]
    assert told(*batches, end, every=3) == [(2, {"loss": 0.5, "val_loss": 1.5, "loss_epoch": 0.75})]
    assert told(batches[0], end)[-1] == (2, {"loss": 0.5, "val_loss": 1.5, "loss_epoch": 0.75})


def test_the_batches_of_a_window_share_a_step_and_are_all_passed_on():
    window = [TrainBatchEnd(step=1, batch_idx=i, metrics={"loss": float(i)}) for i in range(2)]

    assert told(*window) == [(1, {"loss": 0.0}), (1, {"loss": 1.0})]


def test_what_a_hook_logs_reaches_a_sink_once():
    once = Callback(
        key="once", init=int, on_validation_end=lambda s, e: emit(s + 1, Log({"gap": 2.0})) if s == 0 else s + 1
    )
    checks = [ValidationEnd(step=step, metrics={"val_loss": 0.5}) for step in (1, 2)]

    assert told(*checks, callbacks=once) == [(1, {"val_loss": 0.5}), (1, {"gap": 2.0}), (2, {"val_loss": 0.5})]


def test_logging_metrics_does_not_read_them():
    seen = []
    metrics = Metrics(None, ("loss",), torch.tensor([1.0]))

    with Session(sinks=[Sink(log=lambda m, e: seen.append(m), close=lambda: None)], log_every_n_steps=1) as session:
        session(TrainBatchEnd(step=1, metrics=metrics))

    assert seen[0].pending is not None


def test_a_session_goes_on_where_another_saved(tmp_path):
    def callbacks():
        return compose(early_stop("val_loss", patience=5), checkpoint(tmp_path, monitor="val_loss"))

    losses = [4.0, 3.0, 3.5, 2.0, 2.5]
    with Session(callbacks()) as straight:
        for epoch, value in enumerate(losses):
            straight(ValidationEnd(epoch=epoch, step=epoch, metrics={"val_loss": value}))
    straight_state = str(straight.state).replace(str(tmp_path), "")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()

    with Session(callbacks()) as first:
        for epoch in range(2):
            first(ValidationEnd(epoch=epoch, step=epoch, metrics={"val_loss": losses[epoch]}))
    with Session(callbacks()) as second:
        second.load(store.read(tmp_path / "epoch=1-step=1.safetensors"))
        for epoch in range(2, 5):
            second(ValidationEnd(epoch=epoch, step=epoch, metrics={"val_loss": losses[epoch]}))

    assert str(second.state).replace(str(tmp_path), "") == straight_state
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["epoch=3-step=3.safetensors"]


def test_arguments_of_the_new_run_are_not_overridden_by_what_was_saved(tmp_path):
    with Session([early_stop("val_loss", patience=1), asks(Save(str(tmp_path / "a.safetensors")))]) as first:
        first(ValidationEnd(metrics={"val_loss": 1.0}))

    with Session(early_stop("val_loss", patience=2)) as second:
        second.load(store.read(tmp_path / "a.safetensors"))
        second(ValidationEnd(metrics={"val_loss": 1.0}))
        assert second.stopped is None
        second(ValidationEnd(metrics={"val_loss": 1.0}))
        assert second.stopped is not None


def test_where_there_is_no_terminal_a_part_that_is_done_is_one_plain_line():
    screen, file = paper()

    screen.render(Render("epoch 0", completed=1, total=4, metrics={"loss": 0.5}), TrainBatchEnd(step=1))
    screen.render(Render("epoch 0", completed=4, total=4, done=True, metrics={"loss": 0.25}), TrainEpochEnd(step=4))
    screen.close()

    assert file.getvalue() == "epoch 0: 4/4 batches, step 4, 0.0 s, loss 0.25\n"


@pytest.mark.parametrize("style", ["rich", "tqdm"])
def test_on_a_terminal_there_is_a_bar_in_its_style_and_text_is_shown_above_it(style):
    screen, file = paper(terminal=True)

    screen.render(Render("epoch 0", completed=1, total=4, style=style, metrics={"loss": 0.5}), TrainBatchEnd(step=1))
    screen.say("[not markup]")
    screen.close()

    shown = file.getvalue()
    assert all(said in shown for said in ("epoch 0", "1/4", "loss 0.5", "[not markup]"))
    assert ("25%" in shown) == (style == "tqdm")


def test_options_are_for_what_draws():
    screen, file = paper(terminal=True)
    options = {"leave": True, "theme": {"metrics_format": ".3f"}}

    screen.render(Render("epoch 0", 4, 4, done=True, metrics={"loss": 0.5}, options=options), TrainEpochEnd(step=4))
    screen.close()

    assert "loss 0.500" in file.getvalue()
    assert "batches" not in file.getvalue()


def test_an_unknown_style_is_refused():
    screen, _ = paper()

    with pytest.raises(ValueError, match=r"^Render: style must be 'rich' or 'tqdm', got 'ascii'. Another way to draw"):
        screen.render(Render("epoch 0", style="ascii"), TrainBatchEnd())


class Notes:
    """A renderer that notes what it is given, and may fail to close."""

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def render(self, effect, event):
        self.seen.append((effect, event))

    def close(self):
        self.seen.append("closed")
        if self.error is not None:
            raise self.error


def test_a_renderer_is_given_all_that_is_its_own_and_closed_once_with_no_terminal_too():
    screen, file = paper()
    one, other = Notes(), Notes()
    mine = [
        Render("epoch 0", 1, done=True, renderer=one),
        Render("validation", 1, renderer=other, part_of="epoch 0", done=True),
    ]
    rest = Render("epoch 0", 4, done=True)

    for effect in (*mine, rest, mine[0]):
        screen.render(effect, TrainBatchEnd(step=1))
    screen.say("hello")
    screen.close()
    screen.close()

    assert one.seen == [(mine[0], TrainBatchEnd(step=1))] * 2 + ["closed"]
    assert other.seen == [(mine[1], TrainBatchEnd(step=1)), "closed"]
    assert file.getvalue() == "epoch 0: 4 batches, step 1, 0.0 s\nhello\n"


def test_all_that_draw_are_closed_whatever_one_raises():
    screen, file = paper(terminal=True)
    one, other = Notes(OSError("no")), Notes()

    screen.render(Render("epoch 0", 1), TrainBatchEnd())
    for renderer in (other, one):
        screen.render(Render("epoch 0", 1, renderer=renderer), TrainBatchEnd())
    with pytest.raises(OSError, match="no"):
        screen.close()

    assert (one.seen[-1], other.seen[-1]) == ("closed", "closed")
    assert file.getvalue().count("\x1b[?25h") == 1  # the cursor is there again


def test_print_shows_its_text():
    screen, file = paper()

    with Session(asks(Print("hello")), screen=screen) as session:
        session(ValidationEnd())

    assert file.getvalue() == "hello\n"


def test_answers_come_after_all_effects_of_the_event():
    order = []
    callbacks = [
        asks(Stop("enough"), Log({"a": 1.0})),
        Callback(key="log", init=int, on_stop_requested=lambda s, e: order.append(type(e)) or s),
    ]

    with Session(callbacks, sinks=[Sink(log=lambda m, e: order.append("sink"), close=lambda: None)]) as session:
        session(ValidationEnd(metrics={"val_loss": 0.5}))

    assert order == ["sink", "sink", StopRequested]  # the event's own metrics, those of Log, the answer to Stop


def test_what_a_callback_attaches_when_saving_it_is_given_when_loading(tmp_path):
    path = tmp_path / "a.safetensors"
    heard = []
    notes = Callback(
        key="notes",
        init=int,
        emits=(Attach,),
        on_save_checkpoint=lambda s, e: emit(s + 1, Attach({"path": e.path, "values": (1, 2.5)})),
        on_load_checkpoint=lambda s, e: heard.append(e.attached["notes"]) or s,
    )

    with Session([asks(Save(str(path))), notes]) as session:
        session(ValidationEnd(step=3))
    with Session([asks(), notes]) as again:
        again.load(store.read(path))
        again(ev.LoadCheckpoint(path=str(path), attached=again.attached))

    assert store.read(path)["callbacks"]["notes"] == 1  # the state of after the hook
    assert heard == [{"path": str(path), "values": [1, 2.5]}]


def test_each_file_gets_what_was_attached_to_it(tmp_path):
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    notes = Callback(key="notes", init=int, on_save_checkpoint=lambda s, e: emit(s, Attach(e.path)))

    with Session([asks(*map(Save, paths)), notes]) as session:
        session(ValidationEnd())

    assert [store.read(path)["attached"] for path in paths] == [{"notes": path} for path in paths]


def test_a_checkpoint_holds_what_the_other_effects_of_its_event_changed(tmp_path):
    path = tmp_path / "a.safetensors"
    rates = {"lr": 0.5}
    holder = torch.nn.Module()
    holder.state_dict = lambda: dict(rates)

    with Session(
        asks(Save(str(path)), SetLR(0.25), emits=(Save, SetLR)),
        objects={"rates": holder},
        carries_out={SetLR: lambda effect, _: rates.update(lr=effect.lr)},
    ) as session:
        session(ValidationEnd())

    assert store.read(path)["rates"] == {"lr": 0.25}


@pytest.mark.parametrize(
    "kind",
    [
        *(ev.BeforeZeroGrad, ev.BeforeBackward, ev.AfterBackward),
        *(ev.BeforeOptimizerStep, ev.AfterOptimizerStep),
    ],
)
def test_a_save_while_a_batch_is_under_way_is_refused(tmp_path, kind):
    hook = {ev.hook_name(kind): lambda s, e: emit(s, Save(str(tmp_path / "a")))}
    callback = Callback(key="saves", init=int, **hook)

    with Session(callback) as session, pytest.raises(ValueError, match=f"between batches, got {ev.hook_name(kind)}"):
        session(kind())


def test_saving_while_saving_and_attaching_elsewhere_are_refused(tmp_path):
    again = Callback(key="again", init=int, on_save_checkpoint=lambda s, e: emit(s, Save("b")))

    with Session([asks(Save(str(tmp_path / "a"))), again]) as one, pytest.raises(ValueError, match="must not save"):
        one(ValidationEnd())
    with Session(asks(Attach(1))) as other, pytest.raises(ValueError, match="asked for at on_save_checkpoint, got it"):
        other(ValidationEnd())


def test_what_is_logged_in_a_sanity_check_reaches_no_sink_and_is_forgotten():
    lines = []
    sink = Sink(log=lambda metrics, event: lines.append(dict(metrics)), close=lambda: None)

    with Session(asks(Log({"a": 1.0})), sinks=[sink]) as session:
        with session.sanity_check():
            session(ValidationEnd(metrics={"val_loss": 1.0}))
        assert (lines, session.logged) == ([], {})
        session(ValidationEnd(metrics={"val_loss": 2.0}))

    assert session.logged == {"a": 1.0}
    assert lines == [{"val_loss": 2.0}, {"a": 1.0}]


# Checkpoints in the background, held moments, what is not saved.


def saves(path, **how):
    """Asks for a save at each validation, and notes what it hears of it."""
    return Callback(
        key="saves",
        init=tuple,
        on_validation_end=lambda seen, e: emit(seen, Save(f"{path}/{e.step}.safetensors", **how)),
        on_saved=lambda seen, e: (*seen, e.requested.split("/")[-1]),
        on_train_batch_end=lambda seen, e: seen,
    )


def slow(monkeypatch):
    go, write = threading.Event(), store.write_packed
    monkeypatch.setattr(store, "write_packed", lambda *given, **more: go.wait(20) and write(*given, **more))
    return go


def test_a_tensor_is_not_attached(tmp_path):
    torch = pytest.importorskip("torch")
    notes = Callback(key="notes", on_save_checkpoint=lambda s, e: emit(s, Attach({"a": [torch.ones(2)]})))
    refused = pytest.raises(TypeError, match="Attach: data must be plain, got a tensor from notes")
    with Session([saves(tmp_path), notes]) as session, refused:
        session(ValidationEnd(step=1))


def test_a_save_in_the_background_is_answered_before_the_first_event_after_it(tmp_path, monkeypatch):
    model, go = torch.nn.Linear(1, 1, bias=False), slow(monkeypatch)
    torch.nn.init.ones_(model.weight)

    with Session(saves(tmp_path, background=True), objects={"model": model}) as session:
        session(ValidationEnd(step=1))
        torch.nn.init.zeros_(model.weight)
        session(TrainBatchEnd(step=2))
        assert (session.state["saves"], session.is_writing) == ((), True)
        go.set()
        session.settle()
        assert (session.state["saves"], session.is_writing) == (("1.safetensors",), False)
        session(TrainBatchEnd(step=3))

    saved = store.read(tmp_path / "1.safetensors")
    assert saved["model"]["weight"].tolist() == [[1.0]]
    assert saved["callbacks"] == {"saves": []}


def test_a_save_waits_for_the_one_before_it_and_knows_of_it(tmp_path):
    with Session(saves(tmp_path, background=True)) as session:
        for step in range(5):
            session(ValidationEnd(step=step))
        session.settle()
        assert session.state["saves"] == tuple(f"{step}.safetensors" for step in range(5))

    assert store.read(tmp_path / "4.safetensors")["callbacks"] == {
        "saves": [f"{step}.safetensors" for step in range(4)]
    }


def test_an_error_in_the_background_surfaces_at_the_next_event_or_at_the_end(tmp_path):
    callback = saves(tmp_path, background=True, within=str(tmp_path / "elsewhere"))

    with Session(callback) as session:
        session(ValidationEnd(step=1))
        with pytest.raises(ValueError, match="inside"):
            session(ValidationEnd(step=2))
    with pytest.raises(ValueError, match="inside"), Session(callback) as session:
        session(ValidationEnd(step=1))


def test_what_is_saved_while_a_moment_is_held_is_of_that_moment(tmp_path):
    counts = Callback(key="counts", init=int, on_train_batch_end=lambda n, e: emit(n + 1, Log({"n": n + 1})))

    with Session([counts, saves(tmp_path)], record=tmp_path / "events.jsonl") as session:
        session(TrainBatchEnd(step=1))
        session.hold(epoch=0, step=1)
        session(TrainBatchEnd(step=2))
        session(ValidationEnd(step=3))
        session.release()
        session(ValidationEnd(step=4))

    held, free = (store.read(tmp_path / f"{step}.safetensors") for step in (3, 4))
    assert [(s["step"], s["callbacks"]["counts"], s["logged"], s["recorded"]["lines"]) for s in (held, free)] == [
        (1, 1, {"n": 1}, 2),
        (4, 2, {"n": 2}, 11),
    ]


def test_a_save_that_is_answered_belongs_to_the_held_moment_too(tmp_path):
    with Session(saves(tmp_path)) as session:
        session.hold(epoch=0, step=1)
        session(ValidationEnd(step=1))
        session(ValidationEnd(step=2))

    assert store.read(tmp_path / "2.safetensors")["callbacks"]["saves"] == ["1.safetensors"]


@pytest.mark.parametrize("background", [False, True])
def test_a_model_that_is_not_finite_is_not_saved_and_replaces_nothing(tmp_path, caplog, background):
    model = torch.nn.Linear(1, 1)
    best = checkpoint(tmp_path, monitor="val_loss", save_last=True, save="async" if background else "sync")

    with Session(best, objects={"model": model}) as session:
        session(ValidationEnd(epoch=0, step=1, metrics={"val_loss": 2.0}))
        with torch.no_grad():
            model.bias.fill_(float("nan"))
        session(ValidationEnd(epoch=1, step=2, metrics={"val_loss": 1.0}))
        session.settle()
        kept = session.state["checkpoint(val_loss)"].best_model_path

    assert (
        "no checkpoint at epoch 1, step 2: parameters must be finite to be saved, got others in ['bias']" in caplog.text
    )
    assert kept == str(tmp_path / "epoch=0-step=1.safetensors")
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "epoch=0-step=1.safetensors",
        "last-epoch=0-step=1.safetensors",
    }


def test_a_session_closes_all_that_it_opened_whatever_raises(tmp_path):
    def fails():
        raise OSError("no")

    closed = []
    sinks = [Sink(log=lambda *_: None, close=fails), Sink(log=lambda *_: None, close=lambda: closed.append("second"))]
    with pytest.raises(OSError, match="no"), Session(saves(tmp_path), sinks=sinks) as session:
        session(ValidationEnd(step=1))

    with Session(saves(tmp_path)) as again:  # the folder is free
        again(ValidationEnd(step=2))
    assert closed == ["second"]


def three_epochs(folder, model, start, end):
    """What a loop of one's own does: goes on, moves the model, sends events."""
    counts = Callback(key="counts", init=int, on_validation_end=lambda s, e: s + 1)
    with Session([counts, checkpoint(folder, save_top_k=-1)], objects={"model": model}) as session:
        resumed = session.resume(start)
        for epoch in range(resumed.epoch + 1 if resumed else 0, end):
            torch.nn.init.constant_(model.weight, epoch)
            session(ValidationEnd(epoch=epoch, step=10 * epoch))
            session(TrainEpochEnd(epoch=epoch, step=10 * epoch))
    return session, resumed


def test_a_loop_of_ones_own_goes_on_from_its_newest_checkpoint(tmp_path, caplog):
    first, begun = three_epochs(tmp_path, torch.nn.Linear(1, 1), "last", 3)
    model = torch.nn.Linear(1, 1)
    second, resumed = three_epochs(tmp_path, model, "last", 3)

    assert begun is None
    assert (resumed.epoch, resumed.step, resumed.restored) == (2, 20, ("model", "callbacks"))
    assert second.state["counts"] == first.state["counts"] == 3
    assert model.weight.item() == 2.0
    assert f"going on from {resumed.path}" in caplog.text


def test_a_named_checkpoint_or_directory_is_taken_and_one_that_is_not_there_refused(tmp_path):
    three_epochs(tmp_path, torch.nn.Linear(1, 1), "last", 3)
    model = torch.nn.Linear(1, 1)

    _, resumed = three_epochs(tmp_path / "b", model, tmp_path / "epoch=1-step=10.safetensors", 2)
    assert (resumed.epoch, model.weight.item()) == (1, 1.0)
    assert three_epochs(tmp_path / "b", model, tmp_path, 2)[1].epoch == 2
    with pytest.raises(FileNotFoundError, match=r"Session\.resume: resume must be a checkpoint"):
        three_epochs(tmp_path, model, "elsewhere", 1)


def test_a_model_that_does_not_fit_is_refused_and_nothing_is_changed(tmp_path):
    three_epochs(tmp_path, torch.nn.Linear(1, 1), "last", 3)
    session = Session([Callback(key="counts", init=int)], objects={"model": torch.nn.Linear(2, 1)})

    with pytest.raises(ValueError, match="weight"):
        session.resume(tmp_path)
    assert (session.state, session.attempt) == ({"counts": 0}, 0)
