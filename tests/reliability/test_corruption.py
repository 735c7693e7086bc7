"""R4, R5, R7: damage is refused with one kind of error, files made to do harm do none."""

import json
import os
import resource
from contextlib import contextmanager

import pytest
import torch

from fncb import store
from fncb.store import DamagedCheckpoint
from tests.reliability.corruption import a_small_tree, flips, mutations, passes, sealed, splices, surprises

ROOM = 64 << 20  # bytes


@pytest.fixture
def checkpoint(tmp_path):
    store.write(tmp_path / "a.safetensors", a_small_tree())
    return tmp_path / "a.safetensors"


@contextmanager
def room():
    """No more memory than there is, and a little."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_every_truncation_is_refused_with_the_sizes_and_the_one_before_is_found(checkpoint, record_property):
    whole = checkpoint.read_bytes()
    before = checkpoint.with_name("before.safetensors")
    store.write(before, a_small_tree(2))
    start = 8 + int.from_bytes(whole[:8], "little")
    for size in range(len(whole)):
        checkpoint.write_bytes(whole[:size])
        with pytest.raises(DamagedCheckpoint) as error:
            store.read(checkpoint)
        found = store.latest(checkpoint.parent)

        assert str(checkpoint) in str(error.value)
        assert (f"must have {len(whole)} bytes, got {size}." if size >= start else f"got {size}.") in str(error.value)
        assert found.path == before
        assert [(each.path, each.reason) for each in found.rejected] == [(checkpoint, str(error.value))]

    record_property("count", f"R4: {len(whole)} truncations, all refused, with path and sizes; the one before found")


def test_every_flipped_bit_is_refused(checkpoint, record_property):
    tried, wrong = passes(checkpoint, flips(checkpoint.read_bytes()))

    assert wrong == []
    record_property("count", f"R5: {tried} flipped bits, all of a file, all refused")


def test_what_was_cut_and_put_together_is_refused(checkpoint, record_property):
    whole = checkpoint.read_bytes()
    store.write(checkpoint, a_small_tree(4), overwrite=True)
    tried, wrong = passes(checkpoint, splices(whole, checkpoint.read_bytes(), 2000))

    assert wrong == []
    record_property("count", f"R5: {tried} splices, swaps and zeroed sectors, all refused")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory in use is read from Linux's /proc")
def test_a_file_made_to_do_harm_is_read_or_refused_in_bounded_memory(checkpoint, record_property):
    ends, wrong = surprises(checkpoint, mutations(checkpoint.read_bytes(), 2000), room)

    assert wrong == []
    assert min(ends["refused"], ends["read"]) > 100
    record_property("count", f"R7: 2000 mutations with right checksums, {ends}, 0 other errors, below {ROOM >> 20} MiB")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory in use is read from Linux's /proc")
@pytest.mark.parametrize("length", [1 << 20, 100_000_000, 100_000_001, 1 << 40, (1 << 64) - 1])
def test_a_length_that_is_only_claimed_takes_no_memory(length, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"__metadata__"')
    with room(), pytest.raises(DamagedCheckpoint):
        store.read(path)


def remade(path, **parts: str) -> None:
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] |= parts
    path.write_bytes(sealed(header, whole[8 + length :]))


@pytest.mark.parametrize(("levels", "is_read"), [(100, True), (101, False), (400, False), (50_000, False)])
def test_a_tree_is_read_down_to_100_levels_however_deep_the_caller_is(levels, is_read, checkpoint):
    remade(checkpoint, tree="[" * levels + "]" * levels)
    if is_read:
        assert store.read(checkpoint) is not None
    else:
        with pytest.raises(DamagedCheckpoint, match=r"levels|recursion"):
            store.read(checkpoint)


@pytest.mark.parametrize("name", ["_dynamo", "no_such_thing", "nn", "qint8", "load", "float32"])
def test_no_module_is_loaded_by_a_name_in_a_file(name, checkpoint, monkeypatch):
    touched = []
    monkeypatch.setattr(torch, "__getattr__", lambda name: touched.append(name))
    remade(checkpoint, layouts=json.dumps({"model.wide": {"dtype": name, "shape": [4, 5]}}))

    with pytest.raises(DamagedCheckpoint, match="must hold a tree, got KeyError"):
        store.read(checkpoint)
    assert touched == []
