"""Probes: what is found out, under which names, and what happens where something is not known."""

import sys

import psutil
import pytest
import torch

from fncb import events as ev
from fncb import probes, store
from fncb.callback import Callback, emit
from fncb.effects import Probe, Save
from fncb.probes import device_stats, probing
from fncb.session import Session

CPU = ["cpu_percent", "cpu_vm_percent", "cpu_swap_percent"]
HERE = torch.device("cpu")


def test_an_answer_tells_who_asked_for_what_at_which_hook():
    event = ev.ValidationEnd(epoch=2, step=7, seconds=1.5)

    answer = probing(other=lambda argument, event: {"x": argument})(Probe("other", 0.5, key="me"), event)

    assert answer == ev.Probed(
        epoch=2, step=7, seconds=1.5, what="other", key="me", at="on_validation_end", metrics={"x": 0.5}
    )


def test_nothing_found_is_no_answer():
    assert probing(other=lambda argument, event: None)(Probe("other"), ev.Event()) is None


def test_a_question_that_nobody_can_answer_is_told():
    with pytest.raises(ValueError, match=r"^Probe: what must be one of \['device', 'file'\] here, got 'optimizer'"):
        probing()(Probe("optimizer"), ev.Event())


def test_a_file_is_there_or_not(tmp_path):
    (tmp_path / "a").touch()

    answers = [probing()(Probe("file", str(tmp_path / name)), ev.Event()) for name in "ab"]
    assert answers == [ev.Probed(what="file", at="on_event"), None]


@pytest.mark.parametrize(("cpu", "names"), [(None, CPU), (True, CPU), (False, [])])
def test_the_cpu_is_looked_at_if_it_is_all_there_is_or_asked_for(cpu, names):
    found = device_stats(cpu, HERE)

    assert list(found) == names
    assert all(type(value) is float and 0 <= value <= 100 for value in found.values())


def test_the_device_is_that_of_the_run(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "memory_stats", lambda: {"num_ooms": 1})

    on_the_cpu, anywhere = (probing(where)(Probe("device"), ev.TrainBatchEnd()) for where in (HERE, None))

    assert list(on_the_cpu.metrics) == CPU
    assert list(anywhere.metrics) == ["num_ooms"]


def test_an_accelerator_tells_its_memory_and_the_cpu_only_if_asked(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "memory_stats", lambda: {"num_ooms": 1})

    assert device_stats(None, torch.device("xpu")) == {"num_ooms": 1.0}
    assert list(device_stats(True, torch.device("xpu"))) == ["num_ooms", *CPU]


def test_what_is_not_known_of_an_accelerator_is_left_out(monkeypatch):
    def fails():
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")

    monkeypatch.setattr(torch.accelerator, "memory_stats", fails)
    monkeypatch.setattr(torch.cuda, "utilization", fails)
    monkeypatch.setattr(torch.cuda, "temperature", lambda: 40)

    assert device_stats(False, torch.device("mps")) == {}
    assert device_stats(False, torch.device("cuda")) == {"gpu_celsius": 40.0}


def test_without_psutil_the_error_says_what_to_install(monkeypatch):
    probes._psutil.cache_clear()
    monkeypatch.setitem(sys.modules, "psutil", None)

    with pytest.raises(ModuleNotFoundError, match=r"^Probe: .* got none\. pip install 'fncb\[monitor\]', or leave"):
        device_stats(True, HERE)
    assert device_stats(False, HERE) == {}


def test_the_first_reading_is_of_some_time(monkeypatch):
    readings = iter([0.0, 12.5])  # psutil's first is of no time at all
    probes._psutil.cache_clear()
    monkeypatch.setattr(psutil, "cpu_percent", lambda: next(readings))

    assert device_stats(True, HERE)["cpu_percent"] == 12.5


def test_a_checkpoint_of_the_same_event_holds_what_the_answer_changed(tmp_path):
    asks = Callback(
        key="asks",
        init=int,
        on_validation_end=lambda state, event: emit(
            state + 1, Save(str(tmp_path / "a.safetensors")), Probe("file", str(tmp_path))
        ),
        on_probed=lambda state, event: state + 10,
    )

    with Session(asks, objects={"model": torch.nn.Linear(1, 1)}) as session:
        session(ev.ValidationEnd())

    assert store.read(tmp_path / "a.safetensors")["callbacks"] == {"asks": 11} == session.state
