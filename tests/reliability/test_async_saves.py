"""R13: what is done after `save_async` is not in the file, one write is in flight, and its error surfaces."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

import pytest
import torch
from torch import nn

from fncb import store
from fncb.saving import Saver


class SlowDisk:
    """In the place of `store.write_packed`: each write waits until it may go on, and overlaps are counted."""

    def __init__(self, failing: tuple[int, ...] = ()):
        self.real, self.failing = store.write_packed, failing
        self.may_go_on, self.begun = Event(), Event()
        self.lock, self.under_way, self.most, self.writes = Lock(), 0, 0, 0

    def __call__(self, path, packed, **options) -> int:
        with self.lock:
            self.writes += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            number = self.writes
        self.begun.set()
        try:
            assert self.may_go_on.wait(60)
            if number in self.failing:
                raise OSError(5, f"write {number} failed")
            return self.real(path, packed, **options)
        finally:
            with self.lock:
                self.under_way -= 1


@pytest.fixture
def slow(monkeypatch):
    disk = SlowDisk()
    monkeypatch.setattr(store, "write_packed", disk)
    return disk


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def tensors_of(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for each in inner for tensor in tensors_of(each)]


def spoil(tree: Any) -> None:
    """Overwrites every tensor where it is, then every container."""
    for tensor in tensors_of(tree):
        with torch.no_grad():
            tensor.logical_not_() if tensor.dtype is torch.bool else tensor.zero_().sub_(7)
    if isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            spoil(each)
        tree.clear()


def tied() -> dict[str, Any]:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    return {"model": model.state_dict(), "again": model.state_dict()}


TREES: dict[str, Callable[[], Any]] = {
    "plain": lambda: {"step": 3, "w": torch.randn(7, 5), "n": torch.arange(3), "mask": torch.ones(3).bool()},
    "optimizer": lambda: (lambda m, o: {"model": m.state_dict(), "optimizer": o.state_dict()})(*trained()),
    "parameters": lambda: dict(trained()[0].named_parameters()),
    "containers": lambda: {
        "list": [1, [2.5, {"a": "b"}], (torch.ones(2), [None])],
        "numbers": {0: [True], 1: {"$x": -0.0}},
        "ordered": OrderedDict(b=torch.zeros(1), a=[float("inf")]),
    },
    "tied": tied,
    "transposed": lambda: {"t": torch.randn(3, 4).T, "deep": torch.randn(2, 3, 4).permute(2, 0, 1)},
    "channels last": lambda: [
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(1, 1, 4, 5).contiguous(memory_format=torch.channels_last),
    ],
    "with gaps": lambda: (lambda base: [base[:, 1:3], base.T[1:3], base[::2, ::2], base])(torch.randn(6, 6)),
    "bfloat16": lambda: {"w": torch.randn(9).bfloat16(), "h": torch.randn(3, 2).half().T},
    "float8": lambda: [torch.randn(4).to(torch.float8_e4m3fn).view(torch.uint8), torch.randn(2).double()],
    "complex": lambda: (lambda z: [z, z.mT])(torch.randn(3, 2, dtype=torch.complex64)),
    "complex128": lambda: [torch.randn(3, 2, dtype=torch.complex128).mT],
    "tiny": lambda: [torch.tensor(2.5), torch.empty(0, 3), torch.empty(2, 0)],
    "random state": lambda: {"torch": torch.get_rng_state()},
}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_the_file_holds_the_values_of_the_moment_of_the_save(make, slow, tmp_path, record_property):
    saver = Saver()
    for turn in range(2):  # into new buffers, then into the same ones
        tree = make()
        slow.may_go_on.set()
        store.write(tmp_path / f"{turn}-before", tree)
        slow.may_go_on.clear()
        saver.save_async(tmp_path / f"{turn}", tree)
        count = len(tensors_of(tree))
        spoil(tree)
        slow.may_go_on.set()
        saver.finished(wait=True)

        assert (tmp_path / f"{turn}").read_bytes() == (tmp_path / f"{turn}-before").read_bytes()
    saver.close()
    record_property(
        "count", f"R13: {count} tensors overwritten right after each of 2 saves, 0 bits of the files differ"
    )


def test_views_that_overwrite_each_other_are_each_saved(slow, tmp_path):
    base = torch.zeros(3, 3)
    tree, saver = {"wide": base, "row": base[0], "broad": torch.zeros(1).expand(4)}, Saver()
    saver.save_async(tmp_path / "a", tree)
    base.fill_(1.0)
    slow.may_go_on.set()
    saver.close()

    assert {name: value.sum().item() for name, value in store.read(tmp_path / "a").items()} == dict.fromkeys(tree, 0.0)


def test_a_slow_disk_is_waited_for_by_the_next_save_only(slow, tmp_path):
    weight, saver, second_returned = torch.zeros(2), Saver(), Event()
    saver.save_async(tmp_path / "a", {"w": weight})  # returns, though the disk does not
    assert slow.begun.wait(60)
    assert saver.finished() is None

    def save_again():
        weight.fill_(1.0)
        saver.save_async(tmp_path / "b", {"w": weight})
        second_returned.set()

    thread = Thread(target=save_again)
    thread.start()
    assert not second_returned.wait(0.2)  # it would have returned at once
    assert slow.writes == 1
    slow.may_go_on.set()
    thread.join(60)
    saver.close()

    assert second_returned.is_set()
    assert [store.read(tmp_path / name)["w"].tolist() for name in "ab"] == [[0, 0], [1, 1]]
    assert slow.most == 1


def test_no_two_writes_overlap(monkeypatch, tmp_path, record_property):
    disk, saver = SlowDisk(), Saver()
    disk.may_go_on.set()
    monkeypatch.setattr(store, "write_packed", disk)
    weight = torch.zeros(1000)
    for step in range(100):
        weight.fill_(step)
        saver.save_async(tmp_path / f"{step}", {"step": step, "w": weight})
    weight.fill_(-1.0)
    saver.close()
    read = [store.read(tmp_path / f"{step}") for step in range(100)]

    assert disk.most == 1
    assert [(tree["step"], *tree["w"].unique().tolist()) for tree in read] == [(step, step) for step in range(100)]
    record_property("count", "R13: 100 saves as fast as they go, at most 1 write in flight, 0 values of a later save")


SURFACES = {
    "finished": lambda saver, _: saver.finished(wait=True),
    "save_async": lambda saver, path: saver.save_async(path, {}),
    "close": lambda saver, _: saver.close(),
}


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
def test_a_failed_write_surfaces_at_whatever_is_asked_next(ask, monkeypatch, tmp_path):
    disk, saver = SlowDisk(failing=(1,)), Saver()
    disk.may_go_on.set()
    monkeypatch.setattr(store, "write_packed", disk)
    saver.save_async(tmp_path / "a", {"step": 1})

    with pytest.raises(OSError, match="write 1 failed") as error:
        ask(saver, tmp_path / "b")
    assert f"{tmp_path / 'a'} could not be written" in error.value.__notes__[0]
    assert saver.close() is None  # it was told
    assert list(tmp_path.iterdir()) == []


def test_a_saver_goes_on_after_a_failed_write(monkeypatch, tmp_path, record_property):
    failing = tuple(range(1, 40, 3))
    disk, saver, errors = SlowDisk(failing), Saver(), 0
    disk.may_go_on.set()
    monkeypatch.setattr(store, "write_packed", disk)
    for step in range(1, 41):
        saver.save_async(tmp_path / f"{step}", {"step": step})
        try:
            saver.finished(wait=True)
        except OSError:
            errors += 1
    saver.close()

    assert errors == len(failing)
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(1, 41)) - set(failing)
    record_property("count", f"R13: {len(failing)} of 40 background writes failed, {errors} errors surfaced")


def test_an_error_that_nobody_asked_for_surfaces_when_all_ends(monkeypatch, tmp_path):
    disk, saver = SlowDisk(failing=(2,)), Saver()
    disk.may_go_on.set()
    monkeypatch.setattr(store, "write_packed", disk)
    saver.save_async(tmp_path / "a", {})
    saver.save_async(tmp_path / "b", {})

    with pytest.raises(OSError, match="write 2 failed"):
        saver.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
