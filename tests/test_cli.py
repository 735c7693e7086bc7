"""The program: what each command prints, its JSON and its exit status, and that none of it needs torch."""

import gzip
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import zlib
from functools import partial
from math import inf, nan
from pathlib import Path

import pytest

from fncb import events as ev
from fncb.cli import main, show, tail
from fncb.effects import Delete, Effect, Save, Stop
from fncb.recorder import Recorder

EXPRESSIONS = {"early_stop(val_loss)": "early_stop('val_loss', patience=1)", "mine": None}
HEADER = {
    "fncb": "0.1.0",
    "keys": [*EXPRESSIONS],
    "configs": {"early_stop(val_loss)": {"monitor": "val_loss", "mode": "min", "patience": 1}, "mine": {"n": 3}},
    "callbacks": EXPRESSIONS,
    "recorded": [kind.__name__ for kind in ev.HOOKS.values() if kind is not ev.ValidationBatchEnd],
}


def check(epoch, loss, **metrics):
    return ev.ValidationEnd(
        epoch=epoch, step=10 * epoch + 10, seconds=60.0 * epoch, metrics={"val_loss": loss, **metrics}
    )


REASON = "val_loss has not improved on 0.5 in 1 check"
RUN = [
    ev.FitStart(max_epochs=5),
    ev.SanityCheckStart(),
    ev.ValidationEnd(metrics={"val_loss": 9.0}),
    ev.SanityCheckEnd(),
    ev.TrainBatchEnd(step=10, metrics={"loss": 2.0}),
    check(0, 0.5, grad=nan),
    Save("runs/a.safetensors", key="checkpoint"),
    ev.Saved(step=10, path="runs/a-v1.safetensors", requested="runs/a.safetensors", bytes=2_000, took=0.5),
    ev.TrainBatchEnd(epoch=1, step=20, metrics={"loss": 1.0}),
    check(1, 0.75, grad=0.25),
    Save("runs/b.safetensors", key="checkpoint"),
    Stop(REASON, key="early_stop(val_loss)"),
    ev.StopRequested(epoch=1, step=20, seconds=60.0, reason=REASON),
    ev.Saved(epoch=1, step=20, path="runs/b.safetensors", requested="runs/b.safetensors", bytes=3_000_000),
    Delete("runs/a-v1.safetensors"),
    ev.TrainEnd(epoch=1, step=20, seconds=61.5),
    ev.FitEnd(epoch=1, step=20, seconds=61.5),
    ev.Teardown(epoch=1, step=20, seconds=61.5),
]


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def write(path, entries=RUN, header=HEADER, **settings):
    recorder = Recorder(path, header, **settings)
    for entry in entries:
        (recorder.effect if isinstance(entry, Effect) else recorder.event)(entry)
    recorder.close()
    return recorder.path


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "events.jsonl")


@pytest.fixture
def asked(capsys):
    """The status, and what is printed to both streams."""

    def ask(*arguments):
        status = main([str(each) for each in arguments])
        return status, *capsys.readouterr()

    return ask


@pytest.fixture
def printed(asked):
    """The lines that a command prints without complaint."""

    def ask(*arguments, status=0):
        *of, errors = asked(*arguments)
        assert (of[0], errors) == (status, "")
        return of[1].splitlines()

    return ask


@pytest.fixture
def data(printed):
    """The JSON that a command prints, which is JSON as others read it."""

    def not_json(name):
        raise AssertionError(f"{name} is no JSON")

    def ask(*arguments, status=0):
        return [json.loads(line, parse_constant=not_json) for line in printed(*arguments, "--json", status=status)]

    return ask


# What a run was.


def test_show_tells_how_it_ended_how_far_it_came_and_what_it_wrote(log, printed):
    size = log.stat().st_size / 1000
    lines = printed("show", log)

    assert lines[:4] == [
        f"run      {log} ({size:.1f} kB, 14 events, 4 effects)",
        f"ended    stopped by early_stop(val_loss) at epoch 1, step 20: {REASON}",
        "made     2 of 5 epochs, 20 steps in 1 min 2 s",
        "best     val_loss 0.5 (min) at epoch 0, step 10",
    ]
    assert lines[5:8] == ["callbacks", "  early_stop('val_loss', patience=1)", "  mine: n=3"]
    table = [" ".join(line.split()) for line in lines[8:]]
    assert table == [
        "",
        "metric last lowest epoch step highest epoch step not finite",
        "val_loss 0.75 0.5 0 10 0.75 1 20",  # 9.0 is of the sanity check
        "loss 1 1 1 20 2 0 10",
        "grad 0.25 0.25 1 20 0.25 1 20 1",
        "",
        "checkpoint size epoch step by path",
        "deleted 2.0 kB 0 10 checkpoint runs/a-v1.safetensors",
        "kept 3.0 MB 1 20 checkpoint runs/b.safetensors",
    ]
    assert not any(line.endswith(" ") for line in lines)


def test_show_as_json_holds_the_same(log, data):
    (shown,) = data("show", log)

    assert shown["path"] == str(log)
    assert shown["callbacks"] == EXPRESSIONS
    assert (shown["epochs"], shown["steps"], shown["torn"]) == (2, 20, 0)
    assert shown["ending"]["how"] == "stopped"
    assert shown["metrics"]["val_loss"]["best"] == {"value": 0.5, "epoch": 0, "step": 10}
    assert shown["metrics"]["grad"]["not_finite"] == 1
    assert [(file["path"], file["bytes"], file["kept"]) for file in shown["files"]] == [
        ("runs/a-v1.safetensors", 2_000, False),
        ("runs/b.safetensors", 3_000_000, True),
    ]


@pytest.mark.parametrize(
    ("entries", "ended"),
    [
        (RUN[:5], "cut off at epoch 0, step 10: the recording has no end"),
        (
            [*RUN[:5], ev.ExceptionRaised(step=10, error="ValueError", message="a\nb")],
            r"raised at .*: ValueError: a\\nb",
        ),
        ([*RUN[:5], ev.ExceptionRaised(step=10, error="X", signal="SIGTERM")], "signal at epoch 0, step 10: SIGTERM"),
        ([*RUN[:5], *RUN[-3:]], "finished at epoch 1, step 20: max_epochs=5"),
        ([], "empty at epoch 0, step 0: there are no events"),
    ],
)
def test_show_knows_the_other_endings(entries, ended, tmp_path, printed):
    lines = printed("show", write(tmp_path / "a", entries, {}))

    assert re.match(f"ended    {ended}", lines[1])


def test_show_tells_since_when_nothing_came(tmp_path, printed):
    path = write(tmp_path / "a", RUN[:5])
    os.utime(path, (time.time() - 7300, time.time() - 7300))

    assert printed("show", path)[2].endswith(", 2 h 1 min ago")


def test_show_tells_of_resumes_and_of_what_is_torn(log, printed):
    write(log, RUN[8:], resume_at=8)
    with open(log, "ab") as file:
        file.write(b'["TrainEnd",[0')
    lines = printed("show", log)

    assert "resumed  at epoch 1, step 20" in lines
    assert "torn     the last 14 bytes, which are left out" in lines


def test_of_equal_values_the_first_is_the_best(tmp_path, data):
    (shown,) = data("show", write(tmp_path / "a", [check(0, 0.5), check(1, 0.5)]))

    assert [shown["metrics"]["val_loss"][name]["step"] for name in ("best", "lowest", "highest", "last")] == [
        10,
        10,
        10,
        20,
    ]


def test_a_callback_that_a_package_added_is_told_with_it(tmp_path, printed):
    recorder = Recorder(tmp_path / "a", {"keys": ["mine", "theirs"], "plugins": {"theirs": "package 1.2"}})
    recorder.close()
    lines = printed("show", tmp_path / "a")

    assert "  theirs  (added by package 1.2)" in lines
    assert "  mine" in lines


def test_a_long_name_is_not_cut(tmp_path, printed):
    assert any(
        "a" * 300 in line for line in printed("show", write(tmp_path / "a", [ev.TrainEnd(metrics={"a" * 300: 1})]))
    )


def test_metrics_that_were_not_recorded_are_not_made_up(tmp_path, asked, printed, data):
    recorder = Recorder(tmp_path / "a", {}, metrics_every_n_steps=2)
    recorder.event(ev.TrainBatchEnd(step=1, metrics={"loss": 0.5}))
    recorder.close()

    assert printed("events", recorder.path)[1].endswith("on_train_batch_end         metrics not recorded")
    assert data("events", recorder.path)[0]["metrics"] is None
    status, _, errors = asked("events", recorder.path, "--where", "step == 1 and loss > 0")
    assert (status, errors) == (
        0,
        "fncb: note: no event of this recording has loss, so the condition never holds. There are the metrics none. "
        "Those of 1 events were not recorded.\n",
    )
    assert data("show", recorder.path)[0]["metrics"] == {}


def test_a_run_of_a_loop_of_ones_own_is_shown(tmp_path, printed):
    lines = printed("show", write(tmp_path / "a", [check(0, 0.5)], {}))

    assert lines[1].startswith("ended    cut off")
    assert "callbacks" not in lines


# Events.


def test_events_are_lines_of_counters_hook_and_what_they_hold(log, printed):
    lines = printed("events", log, "--hook", "validation_end", "--hook", "on_saved", "--effects")

    assert lines == [
        "epoch     step    seconds  hook",
        "    0        0       0.00  on_validation_end          val_loss 9",
        "    0       10       0.00  on_validation_end          val_loss 0.5, grad nan",
        "                           -> Save(path='runs/a.safetensors', within=None, background=False, "
        "weights_only=False) by checkpoint",
        "    0       10       0.00  on_saved                   path 'runs/a-v1.safetensors', requested "
        "'runs/a.safetensors', bytes 2000, took 0.5",
        "    1       20      60.00  on_validation_end          val_loss 0.75, grad 0.25",
        "                           -> Save(path='runs/b.safetensors', within=None, background=False, "
        "weights_only=False) by checkpoint",
        f"                           -> Stop(reason={REASON!r}) by early_stop(val_loss)",
        "    1       20       0.00  on_saved                   path 'runs/b.safetensors', requested "
        "'runs/b.safetensors', bytes 3000000",
        "                           -> Delete(path='runs/a-v1.safetensors', within=None)",
    ]


def test_events_are_json_lines_in_which_an_effect_tells_where(log, data):
    lines = data("events", log, "--where", "val_loss < 1 and epoch == 0", "--effects")

    assert lines == [
        {
            "kind": "ValidationEnd",
            "epoch": 0,
            "step": 10,
            "seconds": 0.0,
            "metrics": {"val_loss": 0.5, "grad": "nan"},
            "epoch_is_over": False,
        },
        {
            "kind": "Save",
            "key": "checkpoint",
            "path": "runs/a.safetensors",
            "within": None,
            "background": False,
            "weights_only": False,
            "starting_version": 1,
            "at": "ValidationEnd",
            "epoch": 0,
            "step": 10,
            "seconds": 0.0,
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ([], 14),
        (["--limit", "3"], 3),
        (["--limit", "0"], 0),
        (["--effects"], 18),
        (["--where", "step == 20"], 7),
        (["--where", "step == 20", "--limit", "2"], 2),
        (["--where", "step == 20", "--hook", "train_batch_end"], 1),
        (["--where", "'not improved' in reason"], 1),
        (["--where", "metrics['grad'] == 0.25"], 1),
    ],
)
def test_events_can_be_chosen(arguments, count, log, data):
    assert len(data("events", log, *arguments)) == count


def test_what_a_resume_left_behind_is_not_among_the_events(log, data):
    write(log, RUN[-3:], resume_at=5)

    assert [line["kind"] for line in data("events", log)][-4:] == ["TrainBatchEnd", "TrainEnd", "FitEnd", "Teardown"]


@pytest.mark.parametrize(
    ("arguments", "noted"),
    [
        (
            ["--where", "val_lss < 1"],
            "no event of this recording has val_lss, so the condition never holds. Did you mean val_loss?",
        ),
        (
            ["--where", "metrics['zzz'] < 1"],
            "has metrics['zzz'], so the condition never holds. There are the metrics grad, loss, val_loss.",
        ),
        (
            ["--hook", "validation_batch_end"],
            "this recording holds no ValidationBatchEnd events, since nobody heard them.",
        ),
    ],
)
def test_what_cannot_be_found_is_noted(arguments, noted, log, asked):
    status, out, errors = asked("events", log, *arguments)

    assert (status, out) == (0, "epoch     step    seconds  hook\n")
    assert errors.startswith("fncb: note: ")
    assert errors.endswith(f"{noted}\n")


def test_a_name_that_only_other_events_have_is_not_noted(log, printed):
    assert len(printed("events", log, "--where", "signal == 'SIGTERM' or grad < 9 or val_loss > 0")) == 1


def test_what_is_torn_is_noted_once(log):
    with open(log, "ab") as file:
        file.write(b"[")
    done = run(["events", log])

    assert done.returncode == 0
    assert done.stderr.decode() == f"fncb: note: the last 1 bytes of {log} are torn and left out\n"


# The tail.


def test_tail_prints_the_last_lines(log, printed, data):
    assert printed("tail", log, "-n", "2")[1:] == [
        "    1       20      61.50  on_fit_end",
        "    1       20      61.50  teardown",
    ]
    assert len(printed("tail", log)) == 1 + 10
    assert len(printed("tail", log, "-n", "0")) == 1
    assert len(printed("tail", log, "-n", "999")) == 1 + len(RUN)
    assert [line["kind"] for line in data("tail", log, "-n", "5")] == [
        "Saved",
        "Delete",
        "TrainEnd",
        "FitEnd",
        "Teardown",
    ]
    assert data("tail", log, "-n", "4")[0]["at"] == "Saved"


def followed(monkeypatch, *meanwhile):
    """Has things done whenever the program waits; it is an error to wait more often."""
    left = list(meanwhile)
    monkeypatch.setattr(tail.time, "sleep", lambda _: left.pop(0)())
    return left


def test_tail_follows_until_the_run_ends(tmp_path, monkeypatch, data):
    path = tmp_path / "events.jsonl"
    recorder = Recorder(path, HEADER)
    for event in RUN[:6]:
        recorder.event(event)
    recorder.flush()
    whole = []

    def grow():
        recorder.event(RUN[5])
        recorder.effect(RUN[6])
        recorder.flush()

    def tear():  # a line that is half written is not there yet
        recorder.event(RUN[9])
        before = path.stat().st_size
        recorder.flush()
        whole.append(path.read_bytes())
        os.truncate(path, before + 9)

    def heal():
        with open(path, "r+b") as file:
            file.write(whole[0])

    def end():
        recorder.event(RUN[-1])
        recorder.close()

    left = followed(monkeypatch, grow, tear, heal, lambda: None, end)
    kinds = [line["kind"] for line in data("tail", path, "-n", "1", "--follow")]

    assert kinds == ["ValidationEnd", "ValidationEnd", "Save", "ValidationEnd", "Teardown"]
    assert left == []


def test_tail_of_a_run_that_is_over_does_not_wait(log, monkeypatch, printed):
    followed(monkeypatch)

    assert printed("tail", log, "-f", "-n", "1")[1:] == ["    1       20      61.50  teardown"]


def test_tail_waits_for_a_run_that_went_on_after_its_end(log, monkeypatch, printed):
    write(log, [check(2, 0.25)], resume_at=len(RUN))
    left = followed(monkeypatch, lambda: write(log, RUN[-1:], resume_at=len(RUN) + 1))

    assert len(printed("tail", log, "-f", "-n", "1")) == 1 + 2
    assert left == []


def test_ctrl_c_ends_following_and_is_no_failure(tmp_path, monkeypatch, printed):
    def interrupt():
        raise KeyboardInterrupt

    followed(monkeypatch, interrupt)

    assert len(printed("tail", write(tmp_path / "a", RUN[:4]), "-f")) == 1 + 4


def test_a_new_line_is_printed_as_soon_as_it_is_there(tmp_path):
    recorder = Recorder(tmp_path / "a", HEADER)
    recorder.event(RUN[4])
    recorder.flush()
    command = [sys.executable, "-m", "fncb", "tail", str(recorder.path), "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, bufsize=0) as program:

        def next_kind():
            assert program.stdout is not None
            assert select.select([program.stdout], [], [], 60)[0], "nothing came"  # long enough for a busy machine
            return json.loads(program.stdout.readline())["kind"]

        try:
            assert next_kind() == "TrainBatchEnd"
            recorder.event(RUN[5])
            recorder.flush()
            assert next_kind() == "ValidationEnd"
            recorder.event(RUN[-1])
            recorder.close()
            assert next_kind() == "Teardown"
            assert program.wait() == 0
        finally:
            program.kill()


def test_damage_that_comes_while_following_is_told(tmp_path, monkeypatch, asked):
    path = write(tmp_path / "a", RUN[:4])

    def damage():
        with open(path, "ab") as file:
            file.write(b"nonsense\n")

    followed(monkeypatch, damage)
    status, _, errors = asked("tail", path, "-f")

    assert status == 4
    assert "line 6: must have the checksum" in errors


# Questions.


def test_replay_prints_states_and_what_was_asked_for_where(log, printed):
    lines = printed("replay", log, "early_stop('val_loss', patience=1)", "compose(ema(0.5), checkpoint('x'))")

    assert lines[0] == "early_stop('val_loss', patience=1)"
    assert lines[1].startswith("  state of early_stop(val_loss): best 0.5, stale 1, reason 'patience'")
    assert lines[2:6] == [
        "  effects: 1",
        "  epoch     step    seconds  hook",
        "      1       20      60.00  on_validation_end          val_loss 0.75, grad 0.25",
        f"                             -> Stop(reason={REASON!r}) by early_stop(val_loss)",
    ]
    assert lines[6:8] == ["compose(ema(0.5), checkpoint('x'))", "  state of ema: it remembers nothing"]


def test_replay_as_json_has_a_state_and_effects_for_each_expression(log, data):
    text = "early_stop('val_loss', patience=1)"
    (found,) = data("replay", log, text, "history()")

    assert found[text]["state"]["best"] == 0.5
    assert [(effect["kind"], effect["at"], effect["step"]) for effect in found[text]["effects"]] == [
        ("Stop", "ValidationEnd", 20)
    ]
    assert found["history()"]["effects"] == []


def test_whatif_names_alternatives_by_their_expressions(log, printed, data):
    texts = [f"early_stop('val_loss', patience={n})" for n in (1, 5)]
    lines = printed("whatif", log, *texts)

    assert lines[0].split()[:2] == ["stops", "at"]
    assert lines[1].startswith(f"{texts[0]}  epoch 1, step 20  ")
    assert lines[2].startswith(f"{texts[1]}  never")
    (found,) = data("whatif", log, *texts)
    assert [found[text]["step"] for text in texts] == [20, None]
    assert found[texts[0]]["holds"] == "exact"


def test_explain_prints_why(log, printed, data):
    assert printed("explain", log)[0] == f"stopped by early_stop(val_loss) at epoch 1, step 20: {REASON}"
    assert data("explain", log)[0]["account"]["steps"] == 20


def test_diff_tells_where_two_runs_part_by_its_status_too(log, tmp_path, printed, data):
    same, other = write(tmp_path / "b"), write(tmp_path / "c", [*RUN[:5], check(0, 0.25, grad=nan), *RUN[6:]])

    assert printed("diff", log, same) == ["the runs are the same: 18 events and effects"]
    assert printed("diff", log, other, status=1)[-1] == "  metrics.val_loss 0.5 against 0.25"
    assert data("diff", log, other, status=1)[0]["fields"] == {"metrics.val_loss": [0.5, 0.25]}
    assert printed("diff", log, other, "--rtol", "0.5")


def test_diff_of_other_callbacks_is_a_difference(log, tmp_path, printed):
    fewer = write(tmp_path / "b", header={**HEADER, "configs": {}})
    others = write(tmp_path / "c", header={**HEADER, "configs": {**HEADER["configs"], "mine": {"n": 4}}})

    assert printed("diff", log, fewer, status=1)
    assert printed("diff", fewer, log, status=1)
    assert printed("diff", log, others, status=1)[0] == "callbacks: mine.n is 3 against 4"


def test_report_writes_a_page_beside_the_first_run(log, tmp_path, printed, asked, data):
    pytest.importorskip("plotly")
    page = tmp_path / "events.html"

    assert printed("report", log) == [str(page)]
    assert page.read_text().startswith("<!")
    status, _, errors = asked("report", log)
    assert (status, errors) == (
        2,
        f"fncb: the page must not exist, got {page}, which does. Pass --force to replace it.\n",
    )
    page.write_text("")
    assert data("report", log, "--force") == [{"path": str(page)}]
    assert page.read_text()
    other = tmp_path / "other.html"
    assert printed("report", log, log, "-o", other, "--whatif", "early_stop('val_loss', patience=3)") == [str(other)]
    assert other.exists()


def test_the_page_of_a_compressed_run_has_its_name(tmp_path, printed):
    pytest.importorskip("plotly")

    assert printed("report", write(tmp_path / "a.jsonl.gz")) == [str(tmp_path / "a.html")]


def test_report_without_plotly_names_the_extra(log, asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    from fncb.page import html

    html._plotly.cache_clear()
    status, _, errors = asked("report", log)

    assert status == 2
    assert "fncb[plotly]" in errors


# Files.


def test_a_directory_with_one_recording_will_do(log, printed):
    (log.parent / "metrics.jsonl").write_text('{"step": 1}\n')  # of a sink
    (log.parent / "run.jsonl").mkdir()

    assert printed("events", log.parent) == printed("events", log)


def test_a_directory_with_several_lists_them_with_their_times(log, asked):
    other = write(log.parent / "other.jsonl.gz")
    os.utime(log, (0, 0))
    status, out, errors = asked("show", log.parent)

    assert (status, out) == (2, "")
    assert errors.startswith(f"fncb: RUN must be one recording, got {log.parent} with 2: {other} (20")
    assert f"), {log} (19" in errors


def test_a_directory_without_any_says_what_there_is(tmp_path, asked):
    assert asked("show", tmp_path)[::2] == (
        3,
        f"fncb: RUN must be a recording or a directory with one, got {tmp_path} without any. It has nothing in it.\n",
    )
    (tmp_path / "a.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "b").mkdir()
    assert asked("show", tmp_path)[2].endswith("It has a.txt, b/.\n")
    path = write(tmp_path / "b" / "events.jsonl")
    assert f"Below it there are {path} (20" in asked("show", tmp_path)[2]


@pytest.mark.parametrize("command", [["show"], ["tail"], ["inspect"], ["report"]])
def test_a_missing_file_says_what_there_is(command, log, asked):
    status, out, errors = asked(*command, log.parent / "no" / "such")

    assert (status, out) == (3, "")
    assert errors.endswith(f" must exist, got {log.parent}/no/such, which does not. {log.parent}/ has events.jsonl.\n")


def damaged(path):
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)


COMMANDS = {
    "show": (),
    "events": (),
    "tail": (),
    "replay": ("history()",),
    "whatif": ("history()",),
    "explain": (),
    "report": (),
    "diff": (),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("spoil", "status", "message"),
    [
        (damaged, 4, "must have the checksum"),
        (lambda path: path.write_bytes(b""), 4, "must be a header"),
        (lambda path: path.write_bytes(b"\x7fELF\n\n"), 4, "The file is damaged, or no recording"),
        (lambda path: path.write_bytes(gzip.compress(b"")), 4, "must be a header"),
    ],
)
def test_a_damaged_recording_has_a_status_of_its_own(command, spoil, status, message, log, asked):
    spoil(log)
    more = COMMANDS[command] if command != "diff" else (log,)
    found, out, errors = asked(command, log, *more)

    assert (found, out.replace(tail.HEADS.rstrip(), "").strip()) == (status, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_newer_recording_is_of_another_kind(log, asked):
    body = b'["Header",{"format":99}'
    log.write_bytes(b'%s,"%08x"]\n' % (body, zlib.crc32(body)))

    assert asked("show", log)[0] == 4
    assert asked("show", log.parent)[0] == 4


def test_a_checkpoint_is_no_recording_and_a_recording_no_checkpoint(log, asked):
    status, _, errors = asked("inspect", log)
    assert (status, errors.count("\n")) == (4, 1)

    path = log.rename(log.with_suffix(".safetensors"))
    assert asked("show", path) == (
        4,
        "",
        f"fncb: RUN must be a recording, got {path}, a checkpoint. Look into it with fncb inspect.\n",
    )


def test_a_file_that_cannot_be_read_is_told(log, asked):
    status, _, errors = asked("show", log.parent / ("a" * 999))

    assert status == 3
    assert "File name too long" in errors


def test_inspect_of_a_directory_without_checkpoints(tmp_path, asked):
    assert asked("inspect", tmp_path)[0] == 3


# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND. See fncb --help."),
        (["shw"], "invalid choice: 'shw'"),
        (["show"], "the following arguments are required: RUN. See fncb show --help."),
        (["replay", "LOG"], "the following arguments are required: EXPR"),
        (["events", "LOG", "--limit", "-1"], "--limit: it must be 0 or more, got '-1'"),
        (["events", "LOG", "--hook", "nowhere"], "--hook: it must be the name of a hook, got 'nowhere'."),
        (["events", "LOG", "--where", "val_loss ="], "condition_of: it must be an expression such as val_loss < 0.3"),
        (["replay", "LOG", "erly_stop('a')"], "got 'erly_stop'. Did you mean early_stop?"),
        (["whatif", "LOG", "early_stop(val_loss)"], "text must stand in quotes, got val_loss"),
        (["report", "LOG", "--whatif", "1"], "callback_of: an expression must make a callback"),
        (["replay", "LOG", "early_stop('nope')"], "no metric 'nope' in "),
        (["replay", "LOG", "on(x=1)"], "cannot be made: on: it must be the name of a hook"),
        (["whatif", "LOG", "prune('no')"], "pruning_fn must be one of"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, message, log, asked):
    status, out, errors = asked(*[log if each == "LOG" else each for each in arguments])

    assert (status, out) == (2, "")
    assert errors.startswith("fncb: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_what_is_not_recorded_is_told(tmp_path, asked):
    path = write(tmp_path / "a", header={"recorded": ["TrainEnd"]})
    status, _, errors = asked("replay", path, "early_stop('val_loss')")

    assert status == 2
    assert errors.startswith("fncb: replay: early_stop(val_loss) must be given what setup hears")


def test_a_fault_of_the_program_is_not_hidden(log, monkeypatch):
    def fail(_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(show, "account_of", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["show", str(log)])


def test_help_tells_the_statuses(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    assert caught.value.code == 0
    out = capsys.readouterr().out
    for status, meaning in enumerate(["fine", "differences", "wrong usage", "missing", "damaged"]):
        assert [line for line in out.splitlines() if line.startswith(f"  {status}  ") and meaning in line]
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("fncb 0.")


# What a log holds is only text.

NASTY = "[bold]a\x1b[31m\r\n\u202ez"


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_a_log_is_taken_for_more_than_text(command, tmp_path, asked):
    events = [
        ev.ValidationEnd(metrics={NASTY: inf}),
        Save(NASTY, key=NASTY),
        ev.Saved(path=NASTY, requested=NASTY),
        Stop(NASTY, key=NASTY),
        ev.ExceptionRaised(error=NASTY, message=NASTY),
    ]
    header = {"keys": [NASTY], "configs": {NASTY: {NASTY: NASTY, "dirpath": "a"}}, "callbacks": {NASTY: None}}
    path = write(tmp_path / "a.jsonl", events, header)
    more = COMMANDS[command] if command != "diff" else (write(tmp_path / "b", events[1:], {}),)
    for as_json in ([], ["--json"]):
        _, out, errors = asked(command, path, *more, *as_json, *(["--force"] if command == "report" else []))
        assert "\x1b" not in out + errors
        assert "\u202e" not in out + errors
        assert "\r" not in out + errors
        if command in ("show", "events", "tail") and not as_json:
            assert r"[bold]a\x1b[31m\r\n\u202ez" in out
        if command == "show" and not as_json:
            assert any(line.startswith(r"[bold]a\x1b[31m\r\n\u202ez") for line in out.splitlines())  # in a table


def test_an_error_is_only_text_too(asked):
    assert r"got a\x1b[31m, which does not" in asked("show", "a\x1b[31m")[2]


def test_in_a_terminal_heads_are_bold_and_nothing_is_cut(log):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", "NO_COLOR": ""}
    subprocess.run([sys.executable, "-m", "fncb", "show", str(log)], stdout=follower, env=environment, check=True)
    os.close(follower)
    out = os.read(leader, 1 << 16).decode()
    os.close(leader)

    assert "\x1b[1m" in out  # the heads
    table = re.sub(r"\x1b\[[0-9;]*m", "", out.partition("mine: n=3")[2]).splitlines()
    assert table[-1].split() == ["kept", "3.0", "MB", "1", "20", "checkpoint", "runs/b.safetensors"]


def run(arguments, **settings):
    command = [sys.executable, "-m", "fncb", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **settings)


def test_there_are_no_colours_without_a_terminal_whatever_the_environment_says(log):
    done = run(["show", log], env={**ENVIRONMENT, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "20"})

    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert b"checkpoint  runs/b.safetensors" in done.stdout  # and nothing is folded


def test_a_stream_that_knows_few_characters_gets_the_others_spelled_out(tmp_path):
    path = write(tmp_path / "a", [ev.ValidationEnd(metrics={"Zürich": 0.5})])
    done = run(["events", path], env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})

    assert done.returncode == 0
    assert rb"Z\xfcrich 0.5" in done.stdout


@pytest.mark.parametrize("times", [1, 3000])  # less than a buffer, and more
def test_who_has_read_enough_may_stop(times, tmp_path):
    path = write(tmp_path / "a", RUN * times)
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "fncb", "events", str(path)]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    os.close(writes)

    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_is_no_traceback(log, monkeypatch, asked):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "account_of", interrupt)

    assert asked("show", log) == (130, "", "")


# A real run, and what is loaded to look at it.


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    import torch
    from torch import nn

    import fncb
    from fncb.callbacks import checkpoint, early_stop

    folder = tmp_path_factory.mktemp("real")
    task = fncb.Task(
        nn.Linear(2, 1), loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.5)
    )
    callbacks = [early_stop("val_loss", patience=1), checkpoint(folder, monitor="val_loss")]
    settings = {"max_epochs": 9, "compile": False, "progress": False, "record": folder / "events.jsonl"}
    fncb.fit(task, [torch.ones(1, 2)], [torch.ones(1, 2)], callbacks=callbacks, **settings)
    return folder


def test_a_real_run_is_shown(real, printed):
    text = "\n".join(printed("show", real))

    assert "ended    stopped by early_stop(val_loss) at epoch" in text
    assert "early_stop('val_loss', patience=1)" in text
    assert "checkpoint(" in text
    assert " of 9 epochs" in text


def test_what_the_header_says_of_a_real_run_can_be_asked_again(real, data):
    (shown,) = data("show", real)
    texts = list(shown["callbacks"].values())
    (found,) = data("replay", real, *texts)
    (tried,) = data("whatif", real, *texts)

    assert found[texts[0]]["effects"][-1]["reason"] == shown["ending"]["why"]
    assert tried[texts[0]]["step"] == shown["ending"]["step"]


def test_a_real_checkpoint_is_inspected(real, printed, data):
    assert any(line.startswith("model ") for line in printed("inspect", real))
    (found,) = data("inspect", real)
    assert found["tensors"]["model.weight"] == [[1, 2], "F32"]
    assert found["tree"]["metrics"]["val_loss"] >= 0


@pytest.mark.parametrize("command", [*COMMANDS, "inspect", "--help"])
def test_no_torch_is_loaded(command, real, tmp_path):
    more = {"diff": [real], "report": ["-o", tmp_path / "a.html"], "--help": []}.get(command, COMMANDS.get(command, ()))
    arguments = [command, *([] if command == "--help" else [real]), *more]
    code = (
        "import sys\n"
        "from fncb.cli import main\n"
        f"try: status = main({[str(each) for each in arguments]})\n"
        "except SystemExit as end: status = end.code\n"
        "print('torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_the_program_is_installed_under_its_name():
    program = Path(sys.executable).with_name("fncb")
    assert program.exists(), "install the package again, as make does: its program is new"
    assert subprocess.run([program, "--version"], capture_output=True, check=True).stdout.startswith(b"fncb ")
