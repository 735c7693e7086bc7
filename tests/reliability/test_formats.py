"""Files of every version of a format load for ever."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import fncb
from fncb import formats, store
from fncb.callbacks import checkpoint, ema
from fncb.effects import Save, Stop
from fncb.events import Saved, TrainBatchEnd
from fncb.notation import notation_named
from fncb.recorder import Recorder
from fncb.recording import read

GOLDEN = Path(__file__).parent.parent / "golden"


def test_an_older_format_is_made_new_step_by_step(tmp_path, monkeypatch):
    path = tmp_path / "a"
    monkeypatch.setattr(formats, "VERSION", 1)
    store.write(path, {"step": 3})
    monkeypatch.setattr(formats, "VERSION", 3)
    migrations = {1: lambda tree: {**tree, "seen": [1]}, 2: lambda tree: {**tree, "seen": [*tree["seen"], 2]}}
    monkeypatch.setattr(formats, "MIGRATIONS", migrations)
    old = store.read(path)
    store.write(path, {"step": 3}, overwrite=True)
    new = store.read(path)

    assert old == {"step": 3, "seen": [1, 2]}
    assert new == {"step": 3}
    assert store.read_header(path)["version"] == 3


def test_a_migration_that_does_not_fit_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "VERSION", 1)
    store.write(tmp_path / "a", [])
    monkeypatch.setattr(formats, "VERSION", 2)
    monkeypatch.setattr(formats, "MIGRATIONS", {1: lambda tree: tree["model"]})

    with pytest.raises(store.DamagedCheckpoint, match="must hold a tree, got TypeError"):
        store.read(tmp_path / "a")


def test_every_older_format_has_a_migration():
    assert list(formats.MIGRATIONS) == list(range(1, formats.VERSION))


def test_a_checkpoint_of_format_1_loads_for_ever():
    tree = store.read(GOLDEN / "checkpoint-1.safetensors")
    moments = tree["optimizer"]["state"]

    assert (tree["epoch"], tree["step"], tree["metrics"]["loss"]) == (0, 3, 4.045370101928711)
    assert tree["model"]["weight"].tolist() == [
        [0.5621745586395264, 0.04704425856471062],
        [0.8018829822540283, 1.626751184463501],
    ]
    assert tree["model"]["bias"].tolist() == [0.2970442771911621, 1.126751184463501]
    assert moments[0]["step"] == 3
    assert moments[0]["exp_avg"].tolist() == [
        [0.03713558241724968, -0.10518220067024231],
        [0.8554239273071289, 0.8574619293212891],
    ]
    assert moments[1]["exp_avg_sq"].tolist() == [0.0019777831621468067, 0.030699534341692924]
    assert tree["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert tree["random"]["now"]["torch"].numel() == 5056
    assert tree["callbacks"]["checkpoint"]["asked"][0]["path"] == "runs/golden/epoch=0-step=3.safetensors"


def test_a_checkpoint_of_format_2_loads_for_ever():
    tree = store.read(GOLDEN / "checkpoint-2.safetensors")

    assert (tree["epoch"], tree["step"], tree["heard"]) == (0, 3, 12)
    assert tree["model"]["weight"].tolist() == [
        [-0.01988769695162773, 0.3647291660308838],
        [-0.29487791657447815, -0.2332846224308014],
    ]
    assert tree["step_state"]["states"]["ema"]["bias"].shape == (2,)
    assert (tree["control"]["untracked"], tree["control"]["functions"]) == ([], {})
    assert tree["remembered"] == {}


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_older_format_goes_on_for_ever(tmp_path, monkeypatch, version):
    monkeypatch.chdir(tmp_path)
    task = fncb.Task(
        torch.nn.Linear(2, 2),
        loss=lambda model, x: model(x).square().mean(),
        optimizer=partial(torch.optim.Adam, lr=0.1),
    )
    run = fncb.fit(
        task,
        [torch.ones(1, 2)] * 3,
        callbacks=[checkpoint("runs/golden"), *([ema(0.5)] if version == 2 else [])],
        resume=GOLDEN / f"checkpoint-{version}.safetensors",
        max_epochs=2,
        compile=False,
        fast_dev_run=False,
        progress=False,
    )

    assert (run.step, run.epoch, run.resumed.step) == (6, 2, 3)
    assert (run.resumed.left_out, run.resumed.changed) == ((), {})


def test_a_recording_of_format_1_loads_for_ever():
    recording = read(GOLDEN / "events-1.jsonl")

    batches = [event for event in recording.events if isinstance(event, TrainBatchEnd)]
    assert [batch.metrics["loss"] for batch in batches] == [6.90625, 5.40625, 4.045370101928711]
    assert [batch.seconds for batch in batches] == [0.02051, 0.022648, 0.024001]
    assert recording.effects == (Save("runs/golden/epoch=0-step=3.safetensors"),)
    assert (len(recording.events), recording.torn, recording.header["format"]) == (18, 0, 1)


def test_a_recording_of_format_2_loads_for_ever():
    recording = read(GOLDEN / "events-2.jsonl")

    batches = [event for event in recording.events if isinstance(event, TrainBatchEnd)]
    assert [batch.seconds for batch in batches[:3]] == [0.017827, 0.018346, 0.018747]
    assert [repr(batch.metrics) for batch in batches[:2]] == ["<not recorded>", "{'loss': 0.18193969130516052}"]
    assert [(effect, effect.key) for effect in recording.effects] == [
        (Save("runs/golden/epoch=0-step=3.safetensors", within="runs/golden"), "checkpoint(val_loss)"),
        (Stop("val_loss is not finite: inf"), "early_stop(val_loss)"),
    ]
    assert [event.took for event in recording.events if isinstance(event, Saved)] == [0.006388]
    assert (len(recording.events), recording.torn, recording.header["format"]) == (38, 0, 2)


def test_the_fields_of_recordings_of_format_2_keep_their_places():
    """New ones come last: one that a class inherits would move those of its own."""
    old = json.loads((GOLDEN / "fields-2.json").read_text())
    now = {name: [*notation_named(name).names] for name in old}

    assert {name: now[name] for name, fields in old.items() if now[name][: len(fields)] != fields} == {}


@pytest.mark.parametrize("version", [1, 2])
def test_a_recording_of_an_older_format_is_gone_on_with(version, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes((GOLDEN / f"events-{version}.jsonl").read_bytes())
    before = read(path).entries
    recorder = Recorder(path, {}, resume_at=len(before))
    recorder.event(TrainBatchEnd(step=99))
    recorder.close()

    assert repr(read(path).entries) == repr((*before, TrainBatchEnd(step=99)))
