"""R11: a signal at any moment ends a run with the right exit code, and what it saved goes on exactly."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fncb import events as ev
from fncb import store
from fncb.callback import Callback
from fncb.callbacks import checkpoint
from tests.reliability.resuming import RICH, callbacks_of, train, unlike

ROOT = Path(__file__).parent.parent.parent
CASE = {
    **RICH,
    "seed": 6,
    "batches": 6,
    "callbacks": ["tally", "lr_monitor", "ema", "skip_nonfinite"],
    "settings": {"max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 3, "num_sanity_val_steps": 2},
}


def callbacks_in(folder, tell=lambda event: None):
    """Those of the case, one that saves on a signal, and one that tells of each event, which it is the last to hear."""

    def tells(state, event):
        tell(event)
        return state

    hears = Callback(key="tells", init=int, emits=(), **dict.fromkeys(ev.HOOKS, tells))
    return {
        **callbacks_of(CASE, folder),
        "saves": checkpoint(folder / "kept", every_n_epochs=1000, save_on_signal=True),
        "tells": hears,
    }


def in_child(folder, report):
    """Trains; tells of each event: its name, the steps made."""

    def tell(event):
        os.write(report, f"{type(event).__name__} {event.step}\n".encode())
        time.sleep(0.0005)  # so that a moment can be met

    train(CASE, folder, callbacks=callbacks_in(folder, tell))


def child_with_signal(folder, number, at, delay):
    """Forks a child, sends it a signal some time after so many events; what came of it."""
    folder.mkdir()
    reports, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reports)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = 0
        try:
            in_child(folder, report)
        except KeyboardInterrupt:  # as Python ends a program
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            sys.stderr.write(repr(error))
            code = 99
        os._exit(code)
    os.close(report)
    text, sent = b"", None
    while select.select([reports], [], [], 30)[0]:
        more = os.read(reports, 1 << 16 if sent else 64)
        if not more:
            break
        text += more
        if sent is None and text.count(b"\n") >= at:
            time.sleep(delay)  # a random one, so that it comes in the middle of something
            os.kill(child, number)
            sent = text.count(b"\n")
    _, status = os.waitpid(child, 0)
    os.close(reports)
    code = os.waitstatus_to_exitcode(status)
    heard = [line.split() for line in text.decode().splitlines()]
    return {"folder": str(folder), "signal": number, "code": code, "heard": heard, "sent": sent}


def main(root, n, seed):
    """Prints what came of signals, one a line, until so many came before the run was over."""
    torch.set_num_threads(1)
    train({**CASE, "settings": {"max_epochs": 1}}, root, callbacks={})  # so that all is imported before a fork
    rng = random.Random(seed)
    in_time = 0
    for i in range(2 * n):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        came = child_with_signal(root / str(i), int(number), rng.randrange(1, 150), rng.uniform(0, 0.002))
        sys.stdout.write(json.dumps(came) + "\n")
        in_time += where(came) != "late"
        if in_time == n:
            break


def after_signals(root, n, seed):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.reliability.test_signals_anywhere", str(root), str(n), str(seed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b'{"folder"')]


def where(came):
    """Where in the run the signal was acted on: "late" is when it was over already."""
    names = [name for name, _ in came["heard"]]
    until = names[: names.index("ExceptionRaised")] if "ExceptionRaised" in names else names
    if "ExceptionRaised" not in names:
        return "late"
    if "SanityCheckStart" not in until:
        return "set-up"
    if "SanityCheckEnd" not in until:
        return "sanity check"
    if "TrainEnd" in until:
        return "the end"
    starts = max((i for i, name in enumerate(until) if name == "ValidationStart"), default=-1)
    inside = starts > until.index("SanityCheckEnd") and "ValidationEnd" not in until[starts:]
    return "validation" if inside else "training"


def finished_steps(came):
    """The last step that the child told of before the signal was acted on, or, in a validation, before that."""
    steps = [int(step) for name, step in came["heard"] if name == "TrainBatchEnd"]
    return max(steps, default=0)


def faults(came, whole):
    """What is wrong with what came of a signal: the exit code, what is saved, how it goes on."""
    folder, kind = Path(came["folder"]), where(came)
    wrong = [] if came["code"] == {2: -2, 15: 143}[came["signal"]] else [f"exit code {came['code']}"]
    paths = [*folder.glob("kept/*.safetensors")]
    # in a sanity check `checkpoint` rests, as nothing has been trained
    if len(paths) != (kind != "sanity check"):
        return [*wrong, f"in {kind}: {[path.name for path in paths]}"]
    for path in paths:
        if store.read_header(path)["step"] != finished_steps(came):
            wrong.append(f"in {kind}: {path.name}, and step {finished_steps(came)} was finished")
        moved = train(CASE, folder, callbacks=callbacks_in(folder), resume=path)
        if kind == "the end":  # whose events are heard again
            moved = {**moved, "events": whole["events"]}
        wrong += [f"in {kind}: {each}" for each in unlike(whole, moved)]
    return wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork, and the children are forked")
def test_a_signal_at_any_moment_saves_the_last_finished_step(tmp_path, record_property):
    (tmp_path / "whole").mkdir()
    whole = train(CASE, tmp_path / "whole", callbacks=callbacks_in(tmp_path / "whole"))
    came = after_signals(tmp_path, 100, seed=0)
    ended = [each for each in came if where(each) != "late"]

    assert len(ended) == 100
    assert [(each["folder"], each["sent"], wrong) for each in ended if (wrong := faults(each, whole))] == []
    kinds = {kind: sum(where(each) == kind for each in came) for kind in sorted({*map(where, came)})}
    assert {"set-up", "sanity check", "training", "validation"} <= {*kinds}
    late = [each for each in came if where(each) == "late"]
    # when the run is over, the handlers are those of before: SIGTERM kills, unless it came while they were put back
    assert [each["code"] for each in late if each["code"] not in (-2, -15, 143, 0)] == []
    numbers = [sum(each["signal"] == number for each in ended) for number in (signal.SIGTERM, signal.SIGINT)]
    told = ", ".join(f"{n} in {kind}" for kind, n in kinds.items())
    record_property("count", f"R11: {numbers[0]} SIGTERM and {numbers[1]} SIGINT ({told}): exit codes right, exact")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
