"""R6: a damaged recording gives an exact prefix of what was recorded, or an error."""

import logging

import pytest

from fncb import events as ev
from fncb.effects import Save, Stop
from fncb.recorder import Recorder
from fncb.recording import DamagedRecording, read

ENTRIES = (
    ev.TrainStart(),
    *(ev.TrainBatchEnd(step=i, seconds=i / 8, batch_idx=i, metrics={"loss": 1 / (i + 1)}) for i in range(5)),
    ev.ValidationEnd(step=5, metrics={"val_loss": 0.5}),
    Save("runs/a.safetensors"),
    Stop("enough"),
)


@pytest.fixture
def log(tmp_path):
    recorder = Recorder(tmp_path / "events.jsonl", {"keys": ["a"]})
    for entry in ENTRIES:
        (recorder.event if isinstance(entry, ev.Event) else recorder.effect)(entry)
    recorder.close()
    return recorder.path


def outcome(path) -> str:
    """ "whole", "prefix", "refused", or what is wrong."""
    try:
        recording = read(path)
    except DamagedRecording as error:
        return "refused" if str(path) in str(error) and "line" in str(error) else f"unclear: {error}"
    except Exception as error:
        return repr(error)
    n = len(recording.entries)
    if recording.entries != ENTRIES[:n]:
        return f"other entries: {recording.entries}"
    if n == len(ENTRIES):
        return "whole"
    return "prefix" if recording.torn or path.read_bytes().endswith(b"\n") else "cut without a word"


def test_every_truncation_gives_a_prefix_and_can_be_gone_on_from(log, record_property):
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    ends = []
    for size in range(len(whole)):
        log.write_bytes(whole[:size])
        ends.append(outcome(log))
        if size >= first:
            n = len(read(log).entries)
            recorder = Recorder(log, {}, resume_at=n)
            recorder.event(ev.TrainEnd())
            recorder.close()
            assert read(log).entries == (*ENTRIES[:n], ev.TrainEnd())

    assert ends == ["refused"] * first + ["prefix"] * (len(whole) - first)
    record_property("count", f"R6: {len(whole)} truncations, {ends.count('prefix')} exact prefixes, the rest refused")


def test_every_flipped_bit_gives_a_prefix_or_an_error(log, record_property, caplog):
    caplog.set_level(logging.ERROR)
    data = bytearray(log.read_bytes())
    ends: dict[str, int] = {}
    for i in range(8 * len(data)):
        data[i // 8] ^= 1 << i % 8
        log.write_bytes(data)
        end = outcome(log)
        ends[end] = ends.get(end, 0) + 1
        data[i // 8] ^= 1 << i % 8

    assert set(ends) == {"prefix", "refused"}
    assert ends["prefix"] == 8  # of the last byte: a tail that a crash tore looks the same
    record_property("count", f"R6: {8 * len(data)} flipped bits, {ends['prefix']} exact prefixes, the rest refused")
