import subprocess
import sys
from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

import fncb
from fncb import store
from fncb.callbacks import checkpoint, early_stop


def printed(path):
    console = Console(file=StringIO(), width=120)
    fncb.inspect(path, console)
    return console.file.getvalue()


@pytest.fixture
def path(tmp_path):
    task = fncb.Task(
        nn.Linear(2, 1), loss=lambda model, x: model(x).mean(), optimizer=partial(torch.optim.Adam, lr=0.5)
    )
    callbacks = [early_stop("val_loss"), checkpoint(tmp_path)]
    fncb.fit(task, [torch.ones(1, 2)], [torch.ones(1, 2)], callbacks=callbacks, max_epochs=1, compile=False)
    return tmp_path / "epoch=0-step=1.safetensors"


def test_a_checkpoint_is_described_by_step_metrics_parts_and_callbacks(path):
    lines = printed(path).splitlines()

    assert lines[0].startswith("epoch=0-step=1.safetensors: ")
    assert lines[1].startswith("epoch 0, step 1, seconds ")
    assert lines[2].startswith("metrics: ")
    assert "lr-Adam 0.5" in lines[2]
    rows = {line.split()[0]: line.split() for line in lines[3:]}
    assert rows["model"] == ["model", "2", "tensors", "3", "values", "12", "B"]
    assert rows["optimizer"] == ["optimizer", "6", "tensors", "8", "values", "32", "B"]
    assert [*rows["early_stop(val_loss):"][:2]] == ["early_stop(val_loss):", "best"]


def test_tensors_are_not_read(path):
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))

    assert "model" in printed(path)
    with pytest.raises(store.DamagedCheckpoint):
        fncb.load(path)


def test_of_a_directory_the_newest_is_described(path, tmp_path):
    (tmp_path / "zzz.safetensors").write_bytes(b"damaged")
    empty = tmp_path / "empty"
    empty.mkdir()

    assert printed(tmp_path) == printed(path)
    with pytest.raises(ValueError, match="inspect: path must be a checkpoint or a directory with one"):
        printed(empty)


def test_a_damaged_header_is_refused(path):
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(store.DamagedCheckpoint):
        printed(path)


def test_what_is_no_run_is_described_too(tmp_path):
    store.write(tmp_path / "a.safetensors", [torch.ones(2), 3])

    assert printed(tmp_path / "a.safetensors").startswith("a.safetensors: ")


def test_nothing_of_a_file_is_taken_for_more_than_text(tmp_path):
    tree = {
        "[red]a\x1b[2J": torch.ones(2),
        "callbacks": {"[b]\n": {"x": "\x1b]0;title\x07"}},
        "metrics": {"[i]\r": 0.5},
    }
    store.write(tmp_path / "a.safetensors", tree)
    lines = printed(tmp_path / "a.safetensors").splitlines()

    assert lines[1:] == [
        r"metrics: [i]\r 0.5",
        r"[red]a\x1b[2J   1 tensor   2 values   8 B",
        r'[b]\n: x "\u001b]0;title\u0007"',
    ]


@pytest.mark.parametrize("name", ["metrics", "callbacks", "step"])
def test_names_of_a_run_may_hold_something_else(name, tmp_path):
    store.write(tmp_path / "a.safetensors", {name: [1, (2.5, {3: None})]})

    assert "a.safetensors: " in printed(tmp_path / "a.safetensors")


def test_no_torch_is_needed_to_look_into_a_file(path):
    code = f"import sys, fncb; fncb.inspect({str(path)!r}); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
