"""Ctrl-C and SIGTERM: the batch under way ends, hooks are told, what they save is saved, the caller is told."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb import events as ev
from fncb import store
from fncb.callback import Callback, emit
from fncb.effects import Save
from fncb.loop import fit, validate
from fncb.signals import Signals, Terminated
from fncb.task import Task

run = partial(fit, compile=False, progress=False, max_epochs=2, num_sanity_val_steps=0)


def task():
    return Task(
        nn.Linear(2, 1), loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.1)
    )


def data(n=4):
    return [torch.ones(4, 2)] * n


def sends(number, times=1, **when):
    """A callback that sends a signal to this process at one hook, and the names of the hooks heard from then on."""
    seen = []
    (hook, at) = next(iter(when.items()))

    def note(state, event):
        if seen:
            seen.append(ev.hook_name(type(event)))
        elif ev.hook_name(type(event)) == hook and getattr(event, "batch_idx", at) == at:
            seen.append(hook)
            for _ in range(times):
                os.kill(os.getpid(), number)
        return state

    return Callback(key="sends", init=int, **dict.fromkeys(ev.HOOKS, note)), seen


@pytest.fixture(autouse=True)
def handlers():
    """Handlers that are not those of a fresh process, to see that they are put back."""

    def mine(*_):
        pass

    before = [signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    assert found == [mine, mine]


IN_STEP = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]
END = ["on_exception", "teardown"]


def test_after_sigterm_the_batch_under_way_ends_and_the_exit_code_is_143():
    callback, seen = sends(signal.SIGTERM, on_train_batch_start=1)

    with pytest.raises(SystemExit) as caught:
        run(task(), data(), callbacks=callback)

    assert caught.value.code == 128 + 15
    assert seen == ["on_train_batch_start", *IN_STEP, "on_after_optimizer_step", "on_train_batch_end", *END]


def test_after_ctrl_c_the_batch_under_way_ends_and_the_caller_is_interrupted():
    callback, seen = sends(signal.SIGINT, on_train_batch_end=0)

    with pytest.raises(KeyboardInterrupt):
        run(task(), data(), callbacks=callback)

    assert seen == ["on_train_batch_end", "on_keyboard_interrupt", *END]


def test_a_second_ctrl_c_is_not_held_up():
    callback, seen = sends(signal.SIGINT, times=2, on_train_batch_start=0)

    with pytest.raises(KeyboardInterrupt):
        run(task(), data(), callbacks=callback)

    assert seen == ["on_train_batch_start", "on_keyboard_interrupt", *END]


@pytest.mark.parametrize(
    ("hook", "then"),
    [
        ("setup", ["on_configure_sharded_model"]),
        ("on_validation_batch_start", ["on_validation_batch_end"]),
    ],
)
def test_signals_are_acted_on_in_set_up_and_in_validation_too(hook, then):
    callback, seen = sends(signal.SIGTERM, **{hook: 0})

    with pytest.raises(Terminated):
        run(task(), data(), data(), callbacks=callback)

    assert seen == [hook, *then, *END]


def test_a_sanity_check_can_be_left():
    callback, seen = sends(signal.SIGTERM, on_sanity_check_start=0)

    with pytest.raises(Terminated):
        run(task(), data(), data(), callbacks=callback, num_sanity_val_steps=1)

    assert "on_train_start" not in seen


def test_a_validation_on_its_own_can_be_left():
    callback, seen = sends(signal.SIGTERM, on_validation_batch_end=1)

    with pytest.raises(Terminated):
        validate(task(), data(), callbacks=callback)

    assert seen == ["on_validation_batch_end", *END]


def test_a_signal_at_the_very_end_is_not_swallowed():
    for hook, then in (("on_fit_end", END), ("teardown", [])):
        callback, seen = sends(signal.SIGTERM, **{hook: 0})

        with pytest.raises(Terminated):
            run(task(), data(), callbacks=callback)

        assert seen == [hook, *then]


def test_in_another_thread_no_handler_is_touched():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with Signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert inside == [before]


def test_what_is_saved_after_sigterm_goes_on_as_if_nothing_had_been(tmp_path):
    path = tmp_path / "left.safetensors"
    saves = Callback(key="saves", init=int, emits=(Save,), on_exception=lambda s, e: emit(s, Save(str(path))))
    callback, _ = sends(signal.SIGTERM, on_train_batch_start=2)
    straight, left, again = task(), task(), task()
    left.model.load_state_dict(straight.model.state_dict())

    whole = run(straight, data())
    with pytest.raises(Terminated):
        run(left, data(), callbacks=[callback, saves])
    resumed = run(again, data(), callbacks=saves, resume=path)

    assert store.read_header(path)["step"] == 3
    assert (resumed.step, resumed.epoch) == (whole.step, whole.epoch)
    assert torch.equal(again.model.weight, straight.model.weight)
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_process_ends_as_the_signal_says(number, code):
    script = f"""
        import os, torch, fncb
        from functools import partial

        def kill(state, event):
            if event.step == 3:
                os.kill(os.getpid(), {int(number)})
            return state

        kills = fncb.Callback(
            key="kills", init=int, on_train_batch_end=kill, emits=(fncb.Print,),
            on_exception=lambda s, e: fncb.emit(s, fncb.Print(f"{{e.error}} at step {{e.step}}")),
        )
        loss = lambda model, x: model(x).square().mean()
        task = fncb.Task(torch.nn.Linear(2, 1), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.1))
        fncb.fit(task, [torch.ones(4, 2)] * 9, callbacks=kills, compile=False, progress=False)
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.path.dirname(os.path.dirname(fncb.__file__)),
    )

    assert done.returncode == code
    assert done.stdout in ("Terminated at step 3\n", "KeyboardInterrupt at step 3\n")
