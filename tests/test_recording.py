"""Recordings: exact, compact, and never silently wrong."""

import json
import logging
import re
import resource
import signal
import subprocess
import sys
import types
import typing
import zlib
from collections.abc import Mapping
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fncb import effects as ef
from fncb import events as ev
from fncb.effects import Effect, LogImage, Save, Stop
from fncb.events import LiveFieldError, Metrics, TrainBatchEnd, ValidationEnd
from fncb.frames import pieces
from fncb.live import recorded_fields
from fncb.metrics import UnrecordedMetrics
from fncb.recorder import Recorder
from fncb.recording import DamagedRecording, Foreign, follow, read

EFFECTS = [cls for cls in vars(ef).values() if isinstance(cls, type) and issubclass(cls, Effect) and cls is not Effect]


def values(hint: Any) -> st.SearchStrategy:
    """Values of a field's type, as long as they equal themselves."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(inner)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*map(values, inner))
    if hint == Mapping[str, Any]:
        return st.dictionaries(st.text(), values(Any), max_size=3)
    if hint is Any:
        leaves = (
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.sampled_from(["!", "!inf", "inf"])
        )
        return st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(st.text(), v, max_size=3), max_leaves=5)
    if typing.get_origin(hint) is Mapping:
        return st.dictionaries(st.text(), values(float) | st.integers(-(2**53), 2**53), max_size=4)
    return {
        int: st.integers(-(2**63), 2**63),
        float: st.floats(allow_nan=False),
        str: st.text() | st.sampled_from(["null", "nan", "inf", "1", "true", '"]\n["']),
        bool: st.booleans(),
    }.get(hint, st.none())


def made(cls: type) -> st.SearchStrategy:
    hints = typing.get_type_hints(cls)
    fields = recorded_fields(cls)
    required = {field.alias: values(hints[field.name]) for field in fields if field.default is attrs.NOTHING}
    optional = {field.alias: values(hints[field.name]) for field in fields if field.default is not attrs.NOTHING}
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: cls(**given))


records = st.lists(st.sampled_from([*ev.HOOKS.values(), *EFFECTS]).flatmap(made), max_size=30)


def record(path: Path, entries, header=(), **settings) -> Path:
    recorder = Recorder(path, dict(header), **settings)
    for entry in entries:
        (recorder.effect if isinstance(entry, Effect) else recorder.event)(entry)
    recorder.close()
    return recorder.path


def checks(*losses: float) -> list[ValidationEnd]:
    return [ValidationEnd(epoch=i, step=10 * i, metrics={"val_loss": loss}) for i, loss in enumerate(losses)]


ENTRIES = (*checks(0.5, 0.25), Stop("enough"), *checks(nan))


@pytest.fixture
def log(tmp_path):
    return record(tmp_path / "events.jsonl", ENTRIES, {"keys": ["a"]})


@pytest.fixture(params=["events.jsonl", "events.jsonl.gz", "events.jsonl.zst"])
def any_log(request, tmp_path):
    return record(tmp_path / request.param, ENTRIES, {"keys": ["a"]})


def write_lines(path: Path, lines: list[tuple[str, str]]) -> None:
    """Writes lines whose checksums are right."""
    crc, text = 0, b""
    for name, fields in lines:
        body = f'["{name}",{fields}'.encode()
        crc = zlib.crc32(body, crc)
        text += body + b',"%08x"]\n' % crc
    path.write_bytes(text)


HEADER = ("Header", '{"format":1}')


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(entries=records)
def test_every_event_and_effect_comes_back_equal(entries, tmp_path):
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    record(path, entries)
    recording = read(path)

    assert recording.entries == tuple(entries)
    assert [type(entry) for entry in recording.entries] == [type(entry) for entry in entries]
    assert recording.events == tuple(entry for entry in entries if isinstance(entry, ev.Event))
    assert recording.effects == tuple(entry for entry in entries if isinstance(entry, Effect))
    assert recording.torn == 0


@given(value=st.floats())
def test_every_float_comes_back_exactly(value, tmp_path_factory):
    path = record(tmp_path_factory.mktemp("one") / "a", [ValidationEnd(seconds=value, metrics={"x": value})])
    event = read(path).events[0]

    assert repr(event.seconds) == repr(value)
    assert repr(event.metrics["x"]) == repr(value)


def test_a_line_is_a_class_and_its_fields_in_order(tmp_path):
    entries = [
        ev.TrainEnd(),
        ValidationEnd(step=12, metrics={"a": nan, "b": -inf}),
        Stop("enough", key="patience"),
        ef.SetLR(inf),
    ]
    lines = record(tmp_path / "a", entries, {"keys": ["x"]}).read_text().splitlines()

    assert [json.loads(line)[:2] for line in lines] == [
        ["Header", {"keys": ["x"], "format": 2}],
        ["TrainEnd", [0, 0, 0.0, {}]],
        ["ValidationEnd", [0, 12, 0.0, {"a": "nan", "b": "-inf"}, False]],
        ["Stop", ["patience", "enough"]],
        ["SetLR", [None, "inf", None, None]],
    ]


def test_a_batch_takes_at_most_120_bytes(tmp_path):
    metrics = {"loss": 0.6931471824645996, "acc": 0.984375}
    batch = TrainBatchEnd(epoch=123, step=1234567, seconds=123456.789012, batch_idx=23456, metrics=metrics)
    lines = record(tmp_path / "a", [batch]).read_bytes().splitlines(keepends=True)

    assert len(lines[1]) <= 120


def test_live_fields_are_neither_recorded_nor_kept(tmp_path):
    class Thing:
        pass

    recorder, thing = Recorder(tmp_path / "a", {}), Thing()
    before = sys.getrefcount(thing)
    recorder.event(TrainBatchEnd(step=1, batch=thing, outputs=thing, params={"secret": thing}))
    recorder.event(ev.ExceptionRaised(error="ValueError", message="no", exception=ValueError(thing)))

    assert sys.getrefcount(thing) == before
    recorder.close()
    assert "secret" not in recorder.path.read_text()
    with pytest.raises(LiveFieldError, match="TrainBatchEnd at step 1: `outputs` is a live field"):
        _ = read(recorder.path).events[0].outputs


def test_a_live_field_of_an_effect_is_noted_by_its_shape(tmp_path):
    image = types.SimpleNamespace(shape=(3, 8, 8))
    entries = [LogImage("digits", image), ef.Apply("prune", print), ef.Render("x", metrics={})]
    path = record(tmp_path / "a", entries)

    assert '["LogImage",[null,"digits",[3,8,8]],' in path.read_text()
    assert '["Apply",[null,"prune",null],' in path.read_text()
    assert read(path).entries == tuple(entries)
    assert read(path).effects[0].image is None


def test_an_effect_of_another_package_comes_back_if_it_is_loaded(tmp_path):
    @attrs.frozen
    class Ring(Effect):
        times: int
        tunes: tuple[float, ...] = ()

    path = record(tmp_path / "a", [Ring(2, (0.5, inf)), Ring(3)])

    assert read(path).effects == (Ring(2, (0.5, inf)), Ring(3))


@pytest.mark.parametrize("name", ["Explode", "Event", "os.system", "recording.Recorder"])
def test_an_effect_of_a_package_that_is_not_loaded_is_kept_as_it_is_written(name, tmp_path):
    write_lines(tmp_path / "a", [HEADER, (name, '["mine",{"n":1}]'), ("TrainEnd", "[0,7]"), (name, "{}")])
    recording = read(tmp_path / "a")

    assert recording.entries == (Foreign(name, ["mine", {"n": 1}]), ev.TrainEnd(step=7), Foreign(name, {}))
    assert [effect.key for effect in recording.effects] == ["mine", None]
    assert read(tmp_path / "a", only=["TrainEnd"]).entries == (ev.TrainEnd(step=7),)


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (ef.Print(42), "Print must have fields of its types, got others: Expected `str`, got `int`"),
        (Stop(None), "Stop must have fields of its types"),
        (ef.SetLR("fast"), "SetLR must have fields of its types"),
        (ef.Log({"a": "high"}), "Log must have fields of its types"),
        (ef.Log({"a": object()}), "Log must have fields of its types, got others: record: a field must be plain"),
    ],
)
def test_an_effect_that_could_not_be_read_again_is_refused_when_it_is_recorded(effect, said, tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    with pytest.raises(TypeError, match=re.escape(said)):
        recorder.effect(effect)
    recorder.effect(Stop("enough"))
    recorder.close()

    assert read(tmp_path / "a").entries == (Stop("enough"),)


def test_true_among_metrics_is_1_and_a_path_is_text(tmp_path):
    effects = [ef.Log({"is_best": True}), Save(Path("runs/a"), within=Path("runs")), ef.Append(Path("b"), "line")]
    found = read(record(tmp_path / "a", effects)).entries

    assert found == (ef.Log({"is_best": 1.0}), Save("runs/a", within="runs"), ef.Append("b", "line"))
    assert type(effects[1].path) is str


def test_a_metric_name_that_is_no_text_does_not_stop_a_run(tmp_path):
    path = record(tmp_path / "a", [ValidationEnd(metrics={"caf\udce9": 0.5})])

    assert dict(read(path).events[0].metrics) == {"caf?": 0.5}


def test_what_is_neither_event_nor_effect_is_refused(tmp_path):
    recorder = Recorder(tmp_path / "a", {})

    with pytest.raises(TypeError, match="every record must be an event or an effect, got one of class object"):
        recorder.event(object())
    recorder.close()


def test_the_header_keeps_plain_data_and_notes_the_rest(tmp_path):
    header = {"fncb": "0.1.0", "keys": ["a"], "configs": {"a": {"patience": 3, "when": len}}, "recorded": ["TrainEnd"]}
    path = record(tmp_path / "a", [], header)

    noted = {**header, "configs": {"a": {"patience": 3, "when": "<built-in function len>"}}}
    assert read(path).header == {**noted, "format": 2}


def test_records_are_written_in_bulk(tmp_path, monkeypatch):
    monkeypatch.setattr("fncb.recorder.BUFFERED", 3)
    recorder = Recorder(tmp_path / "a", {})
    seen = []
    for event in checks(1, 2, 3, 4):
        recorder.event(event)
        seen.append((recorder.lines, len(read(recorder.path).events)))
    recorder.flush()

    assert seen == [(1, 0), (2, 0), (3, 3), (4, 3)]
    assert len(read(recorder.path).events) == 4
    recorder.close()
    recorder.close()
    assert len(read(recorder.path).events) == 4


def test_pending_metrics_are_read_once_per_flush(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    moved, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: moved.append(tensor.shape) or tolist(tensor))
    pairs = [Metrics({"lr": 0.5}, ("loss", "acc"), torch.tensor([float(i), 0.1])) for i in range(5)]
    lone = Metrics(names=("a", "b"), pending=torch.tensor([0.1, 0.25], dtype=torch.float64))
    recorder = Recorder(tmp_path / "a", {})
    for metrics in [*pairs, lone, pairs[0]]:
        recorder.event(ValidationEnd(metrics=metrics))
    recorder.effect(ef.Log(lone))
    assert moved == []
    recorder.close()

    assert moved == [(6, 2), (1, 2)]
    events = read(recorder.path).events
    assert [dict(event.metrics) for event in events[1:6:4]] == [
        {"lr": 0.5, "loss": 1.0, "acc": torch.tensor(0.1).item()},
        {"a": 0.1, "b": 0.25},
    ]
    assert pairs[3].pending is None


def test_scalar_tensors_among_the_metrics_become_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    path = record(tmp_path / "a", [ValidationEnd(metrics={"a": torch.tensor(0.1)}), ef.Log({"b": torch.tensor(2)})])

    assert read(path).entries == (ValidationEnd(metrics={"a": torch.tensor(0.1).item()}), ef.Log({"b": 2.0}))


def test_text_that_is_no_text_does_not_stop_a_run(tmp_path):
    path = record(tmp_path / "a", [ev.ExceptionRaised(message="caf\udce9 é", epoch=1)])

    assert read(path).entries == (ev.ExceptionRaised(message="caf? é", epoch=1),)


def test_a_taken_name_is_never_overwritten(tmp_path):
    names = [record(tmp_path / "run" / "events.jsonl", checks(i)).name for i in range(3)]

    assert names == ["events.jsonl", "events-v1.jsonl", "events-v2.jsonl"]
    assert [read(tmp_path / "run" / name).events for name in names] == [tuple(checks(i)) for i in range(3)]


# Resuming.


def test_a_resume_keeps_the_lines_before_it_and_goes_on(any_log):
    log = any_log
    recorder = Recorder(log, {"keys": ["b"]}, resume_at=3)
    assert (recorder.path, recorder.lines) == (log, 3)
    recorder.event(ev.TrainEnd(step=7))
    assert recorder.lines == 4
    recorder.close()

    assert read(log).entries == (*checks(0.5, 0.25), Stop("enough"), ev.TrainEnd(step=7))
    assert read(log).header == {"keys": ["b"], "format": 2, "after": 3}


def test_resumes_of_resumes_count_what_is_left(any_log):
    log = any_log
    record(log, checks(1, 2), resume_at=1)
    record(log, checks(3), resume_at=2)
    record(log, [], resume_at=0)
    record(log, checks(4), resume_at=0)

    assert read(log).entries == tuple(checks(4))
    with pytest.raises(ValueError, match=r"must hold the 2 lines to go on after, got 1\. It is another run's or lost"):
        Recorder(log, {}, resume_at=2)
    assert read(log).entries == tuple(checks(4))


def test_a_resume_cuts_a_torn_tail(log, caplog):
    before = read(log).entries
    with log.open("ab") as file:
        file.write(b'["TrainEnd",{"st')
    with caplog.at_level(logging.WARNING, "fncb"):
        record(log, [ev.TrainEnd()], resume_at=4)

    assert "its last 16 bytes are torn and cut off" in caplog.text
    assert same(read(log).entries, (*before, ev.TrainEnd()))


def test_a_resume_without_a_file_begins_one(tmp_path):
    recorder = Recorder(tmp_path / "a", {}, resume_at=3)
    recorder.event(ev.TrainEnd())
    recorder.close()

    assert recorder.lines == 1
    assert read(tmp_path / "a").header == {"format": 2}


def test_a_resume_of_a_damaged_recording_is_refused_and_changes_nothing(log):
    damaged = log.read_bytes().replace(b"0.25", b"0.75")
    log.write_bytes(damaged)

    with pytest.raises(DamagedRecording, match="line 3"):
        Recorder(log, {}, resume_at=1)
    assert log.read_bytes() == damaged


def test_recorded_classes_are_those_that_every_run_recorded(tmp_path):
    path = record(tmp_path / "a", [], {"recorded": ["TrainEnd", "ValidationEnd"]})
    record(path, [], {"recorded": ["ValidationEnd", "Saved"]}, resume_at=0)

    assert read(path).header["recorded"] == ["ValidationEnd"]


# Damage.


def same(a, b) -> bool:
    return repr(a) == repr(b)  # as NaN does not equal itself


def test_every_truncation_is_an_exact_prefix_or_an_error(log, caplog):
    whole, entries = log.read_bytes(), read(log).entries
    first = whole.index(b"\n") + 1
    for size in range(len(whole)):
        log.write_bytes(whole[:size])
        caplog.clear()
        if size < first:
            with pytest.raises(DamagedRecording, match=r"line 1: must be a header, got"):
                read(log)
            continue
        recording = read(log)
        lines = whole[:size].count(b"\n") - 1

        assert same(recording.entries, entries[:lines])
        assert recording.torn == size - (whole[:size].rindex(b"\n") + 1)
        assert ("torn" in caplog.text) == (recording.torn > 0)


def test_every_flipped_bit_is_an_exact_prefix_or_an_error(log):
    whole, entries = log.read_bytes(), read(log).entries
    refused = 0
    for place in range(len(whole)):
        for bits in (0xFF, *(1 << bit for bit in range(8))):
            data = bytearray(whole)
            data[place] ^= bits
            log.write_bytes(data)
            try:
                found = read(log).entries
            except DamagedRecording as error:
                assert str(log) in str(error)  # noqa: PT017 - others are read, as a prefix
                refused += 1
            else:
                assert same(found, entries[: len(found)])
                assert len(found) < len(entries)
    assert refused > 8.9 * len(whole)  # what is not is in the last newline


@pytest.mark.parametrize("change", ["remove", "swap", "repeat"])
def test_lines_that_were_moved_are_damage(change, log):
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1:3] = {"remove": lines[2:3], "swap": [lines[2], lines[1]], "repeat": [lines[1], *lines[1:3]]}[change]
    log.write_bytes(b"".join(lines))

    with pytest.raises(DamagedRecording, match=r"line [23]: must have the checksum"):
        read(log)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([("TrainEnd", "{}")], "line 1: must be a header, got"),
        ([("TrainEnd", "{}"), HEADER], "line 1: must be a header, got"),
        ([HEADER, ("TrainBatchEnds", '[0,[1],[0.5,1],[0],null,["a"],[[0.5]]]')], "columns that do not fit together"),
        ([HEADER, ("TrainBatchEnds", '[0,[1],[0.5],[0],null,["a"],[[0.5,1]]]')], "columns that do not fit together"),
        ([HEADER, ("TrainBatchEnds", '[0,[1],[0.5],[0],null,["a","b"],[[0.5]]]')], "columns that do not fit together"),
        ([HEADER, ("TrainBatchEnds", '[0,[1],[0.5],[0],[1],["a"],[[0.5]]]')], "columns that do not fit together"),
        ([HEADER, ("TrainBatchEnds", '[0,[1],[0.5],[0],[-1],["a"],[[0.5]]]')], "columns that do not fit together"),
        ([HEADER, ("TrainBatchEnds", '[0,["x"],[0.5],[0],null,["a"],[[0.5]]]')], "line 2: .* Expected `int`"),
        ([HEADER, ("TrainBatchEnds", "[0]")], "line 2: .* Expected `array` of at least length"),
        ([HEADER, ("Explode", "[" * 33 + "]" * 33)], "line 2: .* nested deeper than 32"),
        ([HEADER, ("Explode", "{")], "line 2: .* truncated"),
        ([HEADER, ("TrainEnd", '{"pace":1}')], "line 2: .* unknown field `pace`"),
        ([HEADER, ("TrainEnd", '{"step":"x"}')], "line 2: .* Expected `int`"),
        ([HEADER, ("TrainEnd", '{"metrics":{"a":[]}}')], "line 2: .* Expected `float`"),
        ([HEADER, ("TrainBatchEnd", '{"batch":1}')], "line 2: .* unknown field `batch`"),
        ([HEADER, ("Stop", "{}")], "line 2: .* missing required field `reason`"),
        ([HEADER, ("Stop", "7")], "line 2: .* Expected `object`"),
        ([HEADER, ("Stop", '{"reason":"a"')], "line 2: .* truncated"),
        ([HEADER, ("Stop", '{"reason":' + "[" * 100_000)], "line 2:"),
        ([HEADER, ("Stop", '{"reason":"' + "a" * (1 << 20) + '"}')], "line 2: must have at most 1048576 bytes"),
        ([("Header", "{}")], "line 1: .* missing required field `format`"),
        ([("Header", '{"format":1,"after":1}')], "line 1: .* after must be one of the 0 lines before, got 1"),
        ([("Header", '{"format":1,"after":-1}')], "line 1: .* after must be one of the 0 lines before, got -1"),
        ([("Header", '{"format":1,"recorded":[1]}')], "line 1: .* Expected `str`"),
        ([("Header", '{"format":1,"x":' + "[" * 32 + "]" * 32 + "}")], "line 1: .* nested deeper than 32"),
        ([("Header", '{"format":1,"x":' + "[" * 9999 + "]" * 9999 + "}")], "line 1: .* recursion"),
    ],
)
def test_a_forged_line_is_refused(lines, message, tmp_path):
    write_lines(tmp_path / "a", lines)

    with pytest.raises(DamagedRecording, match=message):
        read(tmp_path / "a")


def test_a_newer_format_says_who_wrote_it(tmp_path):
    write_lines(tmp_path / "a", [("Header", '{"format":9,"fncb":"7.0"}')])

    with pytest.raises(ValueError, match=r"must be of format 2 or older, got format 9, written by fncb 7\.0") as error:
        read(tmp_path / "a")
    assert type(error.value) is ValueError


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\0" * (2 << 20), b"epoch,loss\n1,0.5\n", b"\n\n"])
def test_another_kind_of_file_is_refused(content, tmp_path):
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(DamagedRecording, match="line 1"):
        read(tmp_path / "a")


def test_a_line_that_could_not_be_read_is_not_written(tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    recorder.event(ev.TrainEnd())
    recorder.effect(Stop("a" * (1 << 20)))

    for finish in (recorder.flush, recorder.close):
        with pytest.raises(
            ValueError, match=r"a line must have at most 1048576 bytes, got \d+ that begin b'\[\"Stop\""
        ):
            finish()
    recorder.close()
    assert read(recorder.path).entries == ()


def test_a_full_disk_leaves_whole_lines_and_loses_nothing_once_there_is_room(tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    recorder.event(ev.TrainEnd(step=1))
    recorder.flush()
    size = recorder.path.stat().st_size
    recorder.event(ev.TrainEnd(step=2))
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            recorder.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)

    assert recorder.path.stat().st_size == size
    recorder.close()
    assert read(recorder.path).entries == (ev.TrainEnd(step=1), ev.TrainEnd(step=2))


def test_only_some_classes_can_be_read_and_resumes_still_count_all(log):
    record(log, [*checks(1), Save("a")], resume_at=3)
    some = read(log, only=["ValidationEnd", "Save"])

    assert some.entries == (*checks(0.5, 0.25), *checks(1), Save("a"))
    assert read(log, only=[]).entries == ()


def test_recording_and_reading_need_no_torch():
    code = (
        "import sys, tempfile, pathlib\n"
        "import fncb.recorder, fncb.recording, fncb.hindsight, fncb.snapshot, fncb.callback\n"
        "from fncb.events import ValidationEnd\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'a'\n"
        "recorder = fncb.recorder.Recorder(path, {})\n"
        "recorder.event(ValidationEnd(metrics={'x': 1.0}))\n"
        "recorder.close()\n"
        "count = fncb.callback.Callback(key='c', init=int, on_validation_end=lambda state, event: state + 1)\n"
        "assert fncb.hindsight.replay(count, path).state == 1\n"
        "assert 'torch' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_nan_is_read_as_nan(log):
    assert isnan(read(log).events[2].metrics["val_loss"])


# Compressed.


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_recording_has_the_same_lines(suffix, tmp_path):
    entries = [*checks(0.5, nan), Stop("enough", key="mine"), ev.TrainEnd(step=3)]
    plain, packed = record(tmp_path / "a.jsonl", entries), record(tmp_path / f"a.jsonl.{suffix}", entries)

    assert same(read(packed), read(plain))
    lines = [line for piece in _pieces(packed) for line in piece.splitlines()]
    assert lines == plain.read_bytes().splitlines()


def _pieces(path):
    with open(path, "rb") as file:
        for piece in pieces(file, path):
            if piece is None:
                return
            yield piece[0]


def test_a_compressed_recording_is_much_smaller(tmp_path):
    batches = [TrainBatchEnd(step=i, seconds=i / 7, batch_idx=i, metrics={"loss": 1 / (i + 1)}) for i in range(2560)]
    sizes = [record(tmp_path / f"a.{suffix}", batches).stat().st_size for suffix in ("jsonl", "jsonl.gz", "jsonl.zst")]

    assert 3 * max(sizes[1:]) < sizes[0]


@pytest.mark.parametrize("name", ["events.jsonl.gz", "events.jsonl.zst"])
def test_a_taken_compressed_name_gets_its_number_before_both_suffixes(name, tmp_path):
    record(tmp_path / name, [])

    assert record(tmp_path / name, []).name == name.replace("events", "events-v1")


def test_a_flush_of_many_long_lines_is_written_in_pieces_that_can_be_read(tmp_path):
    long = [Stop(f"{i}" + "a" * 900_000) for i in range(8)]

    assert read(record(tmp_path / "a.gz", long)).entries == tuple(long)


@pytest.fixture(params=["gz", "zst"])
def packed(request, tmp_path):
    """A compressed recording of three pieces."""
    path = record(tmp_path / f"events.jsonl.{request.param}", ENTRIES[:2])
    return record(path, ENTRIES[2:], resume_at=2)


def test_every_truncation_of_a_compressed_one_is_an_exact_prefix_and_can_be_gone_on_from(packed):
    whole = packed.read_bytes()
    lengths = set()
    for size in range(len(whole)):
        packed.write_bytes(whole[:size])
        try:
            found = read(packed)
        except DamagedRecording as error:
            assert "line 1: must be a header" in str(error)  # noqa: PT017 - others are read, as a prefix
            continue
        n = len(found.entries)
        assert same(found.entries, ENTRIES[:n])
        lengths.add(n)
        record(packed, [ev.TrainEnd()], resume_at=n)
        assert same(read(packed).entries, (*ENTRIES[:n], ev.TrainEnd()))
    assert lengths == {0, 2}  # those in the last piece are whole or not there


def test_every_flipped_bit_of_a_compressed_one_is_an_exact_prefix_or_an_error(packed):
    whole = packed.read_bytes()
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            packed.write_bytes(data)
            try:
                found = read(packed).entries
            except DamagedRecording:
                refused += 1
            else:
                assert same(found, ENTRIES[: len(found)])
    assert refused > 5 * len(whole)


# Metrics of some steps only.


def test_metrics_that_were_left_out_are_refused_when_they_are_asked_for(tmp_path):
    recorder = Recorder(tmp_path / "a", {}, metrics_every_n_steps=4)
    batch = TrainBatchEnd(step=8, metrics={"loss": 0.5})
    recorder.event(attrs.evolve(batch, step=7))
    recorder.event(batch)
    recorder.close()
    left_out, kept = read(tmp_path / "a").events

    assert kept == batch
    assert repr(left_out.metrics) == "<not recorded>"
    for ask in (lambda m: m["loss"], lambda m: m.get("loss"), lambda m: "loss" in m, len, list, dict):
        with pytest.raises(UnrecordedMetrics, match="TrainBatchEnd at step 7: metrics must be recorded to be read"):
            ask(left_out.metrics)


def test_metrics_that_are_left_out_are_never_moved_from_the_device(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    moved, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: moved.append(tensor.shape) or tolist(tensor))
    recorder = Recorder(tmp_path / "a", {}, metrics_every_n_steps=4)
    for step in range(1, 5):
        recorder.event(TrainBatchEnd(step=step, metrics=Metrics(None, ("loss",), torch.zeros(1))))
    recorder.close()

    assert moved == [(1, 1)]


# Ends of batches that nobody hears.


def ends(recorder, n=3, names=("loss",), device=None, epoch=0):
    torch = pytest.importorskip("torch")
    for i in range(n):
        vector = torch.arange(len(names), dtype=torch.float64) + i / 7
        metrics = Metrics(None, names, vector if device is None else device(vector))
        recorder.batch_end(epoch, i + 1, i / 3, i, metrics)


def the_same(n=3, names=("loss",), epoch=0):
    return [
        TrainBatchEnd(
            epoch=epoch,
            step=i + 1,
            seconds=round(i / 3, 6),
            batch_idx=i,
            metrics={name: j + i / 7 for j, name in enumerate(names)},
        )
        for i in range(n)
    ]


class OnDevice:
    """A vector that can only be read with others, as one on a device should be."""

    is_cpu = False

    def __init__(self, vector):
        self.vector = vector


@pytest.fixture(params=["cpu", "device"])
def device(request, monkeypatch):
    if request.param == "cpu":
        return None
    torch = pytest.importorskip("torch")
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda vectors: stack([each.vector for each in vectors]))
    return OnDevice


def test_ends_of_batches_come_back_as_events(device, tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    ends(recorder, 3, device=device)
    recorder.event(ev.TrainEpochEnd())
    ends(recorder, 2, ("loss", "acc"), device, epoch=1)
    ends(recorder, 2, epoch=2, device=device)
    assert recorder.lines == 8
    recorder.close()

    expected = [*the_same(), ev.TrainEpochEnd(), *the_same(2, ("loss", "acc"), epoch=1), *the_same(2, epoch=2)]
    assert read(recorder.path).entries == tuple(expected)
    assert [type(event.step) for event in read(recorder.path).events] == [int] * 8
    assert (tmp_path / "a").read_text().count("TrainBatchEnds") == 3


def test_ends_of_batches_share_a_line_of_less_than_60_bytes_each(tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    ends(recorder, 256)
    recorder.close()
    _header, *lines = recorder.path.read_bytes().splitlines()

    assert len(lines) == 1
    assert len(lines[0]) < 60 * 256


def test_values_on_a_device_are_moved_in_one_go_for_all_that_are_held(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    moved, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda v: moved.append(len(v)) or stack([each.vector for each in v]))
    recorder = Recorder(tmp_path / "a", {})
    for epoch in range(3):
        ends(recorder, 2, device=OnDevice, epoch=epoch)
        recorder.event(ev.TrainEpochEnd())
    assert moved == []
    recorder.close()

    assert moved == [6]


def test_values_that_are_not_finite_come_back_and_so_do_those_beside_them(tmp_path):
    torch = pytest.importorskip("torch")
    recorder = Recorder(tmp_path / "a", {})
    for value in (nan, 0.5, inf, -inf):
        recorder.batch_end(0, 1, 0.0, 0, Metrics(None, ("a", "b"), torch.tensor([value, 0.25])))
    recorder.close()

    assert [repr(dict(event.metrics)) for event in read(recorder.path).events] == [
        f"{{'a': {value!r}, 'b': 0.25}}" for value in (nan, 0.5, inf, -inf)
    ]


def test_metrics_of_ends_that_share_a_line_can_be_left_out_of_most(tmp_path):
    recorder = Recorder(tmp_path / "a", {}, metrics_every_n_steps=2)
    ends(recorder, 5)
    recorder.close()
    events = read(recorder.path).events

    assert [repr(event.metrics) for event in events] == [
        "<not recorded>" if event.step % 2 else repr(event.metrics) for event in the_same(5)
    ]
    with pytest.raises(UnrecordedMetrics, match="TrainBatchEnd at step 3"):
        _ = events[2].metrics["loss"]


def test_a_batch_with_metrics_that_are_known_already_is_recorded_alone(tmp_path):
    torch = pytest.importorskip("torch")
    recorder = Recorder(tmp_path / "a", {})
    recorder.batch_end(1, 2, 1 / 3, 4, Metrics({"mine": 1.0}, ("loss",), torch.tensor([0.5])))
    recorder.close()

    metrics = {"mine": 1.0, "loss": 0.5}
    assert read(recorder.path).entries == (
        TrainBatchEnd(epoch=1, step=2, seconds=0.333333, batch_idx=4, metrics=metrics),
    )


def test_many_metrics_make_more_lines_and_none_that_is_too_long(tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    names = tuple(f"metric number {i}" for i in range(500))
    ends(recorder, 50, names)
    recorder.close()

    assert [dict(event.metrics)["metric number 7"] for event in read(recorder.path).events] == [
        7 + i / 7 for i in range(50)
    ]
    assert max(map(len, recorder.path.read_bytes().splitlines())) < 1 << 19


def test_a_resume_may_go_on_in_the_middle_of_a_shared_line(tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    ends(recorder, 4)
    recorder.close()
    again = Recorder(tmp_path / "a", {}, resume_at=2)
    again.event(ev.TrainEnd())
    assert again.lines == 3
    again.close()

    assert read(tmp_path / "a").entries == (*the_same(2), ev.TrainEnd())
    assert read(tmp_path / "a", only=["TrainEnd"]).resumed == (0,)


def test_what_a_full_disk_refused_is_written_later(device, tmp_path):
    recorder = Recorder(tmp_path / "a", {})
    ends(recorder, 2, device=device)
    file, recorder._file = (
        recorder._file,
        types.SimpleNamespace(
            write=lambda data: (_ for _ in ()).throw(OSError("full")), truncate=lambda _: 0, seek=lambda _: 0
        ),
    )
    with pytest.raises(OSError, match="full"):
        recorder.flush()
    recorder._file = file
    recorder.close()

    assert read(tmp_path / "a").entries == tuple(the_same(2))


# A run that is under way.


def test_following_gives_what_is_there_and_then_what_comes(any_log):
    following = follow(any_log)
    before = [next(following) for _ in range(4)]
    assert same(tuple(before), read(any_log).entries)
    assert [next(following), next(following)] == [None, None]

    recorder = Recorder(any_log, {}, resume_at=4)
    assert next(following) is None
    recorder.event(ev.TrainEnd(step=7))
    recorder.flush()
    assert [next(following), next(following)] == [ev.TrainEnd(step=7), None]
    recorder.close()


def test_following_passes_over_a_line_that_is_not_whole_yet(any_log):
    data = any_log.read_bytes()
    any_log.write_bytes(data[:-5])
    following = follow(any_log)
    got = [entry for entry in (next(following) for _ in range(8)) if entry is not None]
    any_log.write_bytes(data)
    got += [entry for entry in (next(following) for _ in range(8)) if entry is not None]

    assert same(tuple(got), read(any_log).entries)


def test_following_tells_of_damage(log):
    log.write_bytes(log.read_bytes()[:-20] + b"x" * 19 + b"\n")

    with pytest.raises(DamagedRecording, match="line 5"):
        list(zip(range(9), follow(log), strict=False))


def test_where_a_run_went_on_is_known(any_log):
    record(any_log, [*checks(1, 2), ev.TrainEnd()], resume_at=2)
    record(any_log, checks(3), resume_at=4)

    assert read(any_log).resumed == (2, 4)
    assert read(any_log, only=["ValidationEnd"]).resumed == (2, 4)
    assert read(any_log, only=["TrainEnd"]).resumed == (0, 0)
    record(any_log, checks(4), resume_at=1)
    assert read(any_log).resumed == (1,)
