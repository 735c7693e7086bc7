"""Checkpoints: exact, atomic, and refused when a single bit is wrong."""

import errno
import hashlib
import json
import os
from collections import OrderedDict, namedtuple
from math import inf, nan

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from fncb import formats, packing, store
from fncb.disk import Disk
from fncb.packing import DEEPEST
from fncb.store import DamagedCheckpoint

DTYPES = dict.fromkeys(kind for kind in vars(torch).values() if isinstance(kind, torch.dtype))
DTYPES = [kind for kind in DTYPES if "q" not in str(kind)]  # quantized tensors are not dense values

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.sampled_from(["$tuple", "$dict", "$tensor"]), inner, max_size=4)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


def a_tree() -> dict:
    weight = torch.arange(6.0).reshape(2, 3)
    return {
        "step": 3,
        "epoch": 1,
        "model": {"conv.weight": weight, "head.weight": weight},
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "betas": (0.5, inf)},
        "callbacks": {"early_stop(val_loss)": {"best": 0.25, "stale": 1}},
    }


@pytest.fixture
def checkpoint(tmp_path):
    store.write(tmp_path / "a.safetensors", a_tree())
    return tmp_path / "a.safetensors"


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=trees)
def test_a_plain_tree_comes_back_exactly(tree, tmp_path):
    path = tmp_path / "a.safetensors"
    size = store.write(path, tree, overwrite=True)

    assert same(store.read(path), tree)
    assert size == path.stat().st_size


def test_numbers_that_json_lacks_come_back(tmp_path):
    tree = [nan, inf, -inf, -0.0, 0.1, 5e-324, 2**200, -(2**70), 1e16, (), {}, {"$": 1}, {1: 2, "1": 3}]
    store.write(tmp_path / "a", tree)
    back = store.read(tmp_path / "a")

    assert same(back, tree)
    assert str(back[3]) == "-0.0"


def test_other_mappings_and_named_tuples_become_plain(tmp_path):
    tree = OrderedDict(a=namedtuple("Point", "x y")(1, 2), b=torch.Size([3]))
    store.write(tmp_path / "a", tree)

    assert store.read(tmp_path / "a") == {"a": (1, 2), "b": (3,)}


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_by_bit(dtype, tmp_path):
    bits = torch.randint(0, 2, (16,), dtype=torch.uint8)
    tensor = bits.bool() if dtype is torch.bool else bits.view(dtype)
    store.write(tmp_path / "a", {"some": tensor, "none": tensor[:0], "one": tensor[0]})
    back = store.read(tmp_path / "a")

    assert [back[name].dtype for name in back] == [dtype] * 3
    assert [tuple(back[name].shape) for name in back] == [tuple(tensor.shape), (0,), ()]
    assert torch.equal(back["some"].view(torch.uint8), bits)
    assert torch.equal(back["one"].reshape(1).view(torch.uint8), bits[: tensor.itemsize])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4)[:, 1:3],
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(3.0).expand(4, 3),
        torch.arange(12.0)[::5],
        torch.complex(torch.arange(3.0), torch.ones(3)).conj(),
        torch.complex(torch.arange(3.0), torch.ones(3)).to(torch.complex128).conj(),
        torch.complex(torch.arange(3.0), torch.ones(3)).conj().imag,
        torch.nn.Parameter(torch.tensor(2.0)),
        torch.empty(2, 0, 3),
    ],
)
def test_every_stride_comes_back(tensor, tmp_path):
    store.write(tmp_path / "a", tensor)
    back = store.read(tmp_path / "a")

    assert torch.equal(back, tensor)
    assert not back.requires_grad
    if tensor.is_contiguous(memory_format=torch.channels_last) or (tensor.ndim == 2 and tensor.mT.is_contiguous()):
        assert back.stride() == tensor.stride()  # a dense layout is kept


def test_tied_tensors_are_stored_once_and_come_back_tied(checkpoint):
    back = store.read(checkpoint)["model"]
    with safe_open(checkpoint, "pt") as file:
        names = set(file.keys())

    assert names == {"model.conv.weight", "optimizer.state.0.step"}
    assert back["conv.weight"].data_ptr() == back["head.weight"].data_ptr()


def test_a_tied_transpose_comes_back_tied(tmp_path):
    table = torch.arange(6.0).reshape(2, 3).T
    store.write(tmp_path / "a", [table, table])
    back = store.read(tmp_path / "a")

    assert back[0] is back[1]
    assert torch.equal(back[0], table)


def test_overlapping_views_are_stored_as_copies(tmp_path):
    whole = torch.arange(6.0)
    tree = {"whole": whole, "head": whole[:4], "tail": whole[2:], "bits": whole.view(torch.int32), "e": [whole[:0]] * 2}
    store.write(tmp_path / "a", tree)
    back = store.read(tmp_path / "a")

    assert same(back, tree)
    assert len({value.data_ptr() for name, value in back.items() if name != "e"}) == 4


def test_a_tensor_and_its_conjugate_stay_apart(tmp_path):
    number = torch.complex(torch.ones(2), torch.ones(2))
    store.write(tmp_path / "a", [number, number.conj(), number])
    back = store.read(tmp_path / "a")

    assert same(back, [number, number.conj(), number])
    assert back[0] is back[2]


def test_what_was_read_does_not_depend_on_the_file(checkpoint):
    weight = store.read(checkpoint)["model"]["conv.weight"]
    checkpoint.write_bytes(b"\0" * checkpoint.stat().st_size)

    assert torch.equal(weight, torch.arange(6.0).reshape(2, 3))


def test_dotted_names_that_clash_stay_apart(tmp_path):
    tree = {"a": {"b.c": torch.zeros(1), "b": {"c": torch.ones(1)}}, "__metadata__": torch.ones(2)}
    store.write(tmp_path / "a", tree)

    assert same(store.read(tmp_path / "a"), tree)


def test_other_tools_find_the_model_and_the_rest_as_json(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        weight, metadata = file.get_tensor("model.conv.weight"), file.metadata()

    assert torch.equal(weight, torch.arange(6.0).reshape(2, 3))
    assert json.loads(metadata["tree"])["callbacks"] == {"early_stop(val_loss)": {"best": 0.25, "stale": 1}}
    assert json.loads(metadata["tree"])["model"]["head.weight"] == {"$tensor": "model.conv.weight"}


def test_the_body_is_aligned_for_every_dtype(tmp_path):
    store.write(tmp_path / "a", {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3, dtype=torch.float64)})
    raw = (tmp_path / "a").read_bytes()
    length = int.from_bytes(raw[:8], "little")

    assert length % 8 == 0
    assert json.loads(raw[8 : 8 + length])["b"]["data_offsets"] == [0, 24]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {None: 1}}, "keys must be strings or integers, got None at 'a'"),
        ({"a": {True: 1}}, "keys must be strings or integers, got True at 'a'"),
        ({"a": [b"x"]}, "got b'x' of type bytes at 'a.0'"),
        (
            {"a": torch.ones(2).to_sparse()},
            "must be dense and hold values, got torch.sparse_coo on cpu at 'a'",
        ),
        ({"a": torch.ones(2, device="meta")}, "got torch.strided on meta at 'a'"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_any_file_exists(tree, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        store.write(tmp_path / "a", tree)

    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_never_overwritten(checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match="the name must be free, got"):
        store.write(checkpoint, {"step": 4})

    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["a.safetensors"]


def test_overwriting_is_possible_when_asked_for(checkpoint):
    store.write(checkpoint, {"step": 4}, overwrite=True)

    assert store.read(checkpoint) == {"step": 4}
    assert os.listdir(checkpoint.parent) == ["a.safetensors"]


def test_without_hard_links_a_taken_name_is_not_overwritten_either(checkpoint, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    store.write(checkpoint.with_name("b.safetensors"), {"step": 4})
    with pytest.raises(FileExistsError):
        store.write(checkpoint, {"step": 4})

    assert store.read_header(checkpoint)["step"] == 3
    assert store.read(checkpoint.with_name("b.safetensors")) == {"step": 4}
    assert sorted(os.listdir(checkpoint.parent)) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("name", ["link", "replace", "fsync"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(name, checkpoint, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "broken")

    before = checkpoint.read_bytes()
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="broken"):
        store.write(checkpoint, {"step": 4}, overwrite=name != "link")

    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["a.safetensors"]


def test_a_full_disk_says_what_was_needed_and_what_is_free(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"the disk must have room for \d+ bytes, got \d+ free") as error:
        store.write(tmp_path / "a.safetensors", {"a": torch.ones(3)})

    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_file_and_directories_are_flushed_in_the_order_that_makes_them_durable(tmp_path, monkeypatch):
    seen = []
    link, fsync = os.link, os.fsync
    monkeypatch.setattr(os, "link", lambda *names: seen.append("link") or link(*names))
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    store.write(tmp_path / "run" / "a.safetensors", {"step": 1})

    made, temporary, *rest = seen
    assert made == str(tmp_path)
    assert temporary.startswith(str(tmp_path / "run" / ".fncb-"))
    assert rest == ["link", str(tmp_path / "run")]


def test_anything_after_the_end_is_refused(checkpoint):
    size = checkpoint.stat().st_size
    with checkpoint.open("ab") as file:
        file.write(b"\0")

    with pytest.raises(DamagedCheckpoint, match=f"must have {size} bytes, got {size + 1}"):
        store.read(checkpoint)


def test_a_damaged_header_is_refused_without_reading_the_tensors(checkpoint):
    whole = checkpoint.read_bytes()
    body = 8 + int.from_bytes(whole[:8], "little")
    checkpoint.write_bytes(whole.replace(rb"\"step\":3", rb"\"step\":9"))
    with pytest.raises(DamagedCheckpoint, match="must have the header that was written"):
        store.read_header(checkpoint)

    checkpoint.write_bytes(whole[: body + 1])
    assert store.read_header(checkpoint)["step"] == 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"\0" * 200, b"\x80\x02" * 100, b"{}", b"\0" * 100])
def test_another_kind_of_file_is_refused(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)

    with pytest.raises(DamagedCheckpoint, match=str(tmp_path)):
        store.read(tmp_path / "a.safetensors")


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")

    with pytest.raises(DamagedCheckpoint, match="must be a checkpoint of fncb, got no checksum in its header"):
        store.read(tmp_path / "a.safetensors")


def forge(path, old: bytes, new: bytes) -> None:
    """Changes a header without changing its length, and makes its checksum right again."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[: 8 + length].replace(old, new)
    assert len(header) == 8 + length
    assert header != raw[: 8 + length]
    place = header.index(b'"sha256":"') + 10
    blank = header[:place] + b"0" * 64 + header[place + 64 :]
    digest = hashlib.sha256(blank).hexdigest().encode()
    path.write_bytes(header[:place] + digest + header[place + 64 :] + raw[8 + length :])


def test_a_newer_format_says_who_wrote_it(checkpoint):
    forge(checkpoint, b'"fncb_format":"3"', b'"fncb_format":"9"')

    for refuse in (store.read, store.read_header, store.verify):
        with pytest.raises(ValueError, match="must be of format 3 or older, got format 9, written by fncb") as error:
            refuse(checkpoint)
        assert type(error.value) is ValueError


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"\"$tensor\":\"model.conv.weight\"", rb"\"$tensor\":\"model.conv.weighs\""),
        (rb"\"$dict\":[[0,", rb"\"$dict\":[0[,"),
        (rb"\"$tuple\"", rb"\"$float\""),
        (b'"dtype":"F32"', b'"dtype":"Q32"'),
        (b'"data_offsets":[0,24]', b'"data_offsets":[9,24]'),
        (b'"layouts":', b'"latoyus":'),
        (b'"fncb_format":"3"', b'"fncb_format":"x"'),
        (b'"fncb_format":"3"', b'"fncb_format":"0"'),
    ],
)
def test_a_forged_header_is_refused(old, new, checkpoint):
    forge(checkpoint, old, new)

    with pytest.raises(DamagedCheckpoint):
        store.read(checkpoint)


def test_a_header_tells_the_plain_top_of_the_tree(checkpoint):
    header = store.read_header(checkpoint)

    assert header == {
        "step": 3,
        "epoch": 1,
        "format": "fncb",
        "version": 3,
        "fncb": header["fncb"],
        "torch": torch.__version__,
    }


def test_checkpoints_are_ordered_by_step_and_attempt_never_by_time(tmp_path):
    files = {"z": (8, 0), "old": (2, 9), "b": (24, 0), "b-v10": (24, 0), "b-v9": (24, 0), "a": (24, 1), "none": None}
    for i, (name, counts) in enumerate(files.items()):
        path = tmp_path / f"{name}.safetensors"
        store.write(path, dict(zip(("step", "attempt"), counts, strict=True)) if counts else {"x": 1})
        os.utime(path, (1000 - i, 1000 - i))
    (tmp_path / "notes.txt").write_text("")

    assert [path.stem for path in store.checkpoints(tmp_path)] == ["a", "b-v10", "b-v9", "b", "z", "old", "none"]


def test_latest_passes_over_what_is_damaged_and_says_why(tmp_path):
    for step in (1, 2, 3, 4):
        store.write(tmp_path / f"{step}.safetensors", {"step": step, "w": torch.ones(3)})
    for step, place in ((3, -1), (4, 100)):  # in the body, in the header
        data = bytearray((tmp_path / f"{step}.safetensors").read_bytes())
        data[place] ^= 1
        (tmp_path / f"{step}.safetensors").write_bytes(data)
    found = store.latest(tmp_path)

    assert found.path == tmp_path / "2.safetensors"
    assert [rejected.path.stem for rejected in found.rejected] == ["4", "3"]
    assert "must have the header that was written" in found.rejected[0].reason
    assert "must hold the tensors that were written" in found.rejected[1].reason


def test_latest_of_nothing_is_none(tmp_path):
    assert store.latest(tmp_path) == store.Latest(None)
    assert store.latest(tmp_path / "missing") == store.Latest(None)


def test_deleting_what_is_gone_is_no_error(checkpoint):
    store.delete(checkpoint)
    store.delete(checkpoint)

    assert not checkpoint.exists()


# Links.


def test_a_link_leads_to_a_file_and_takes_the_place_of_one_in_one_step(checkpoint):
    folder, last = checkpoint.parent, checkpoint.parent / "last.safetensors"
    store.write(folder / "in" / "b.safetensors", {"step": 9})
    seen = []

    class Watched(Disk):
        def replace(self, path, new):
            seen.append(store.read_header(new).get("step") if new.exists() else None)
            super().replace(path, new)

    store.point(last, checkpoint, within=folder, disk=Watched())
    store.point(last, folder / "in" / "b.safetensors", within=folder, disk=Watched())

    assert seen == [None, 3]  # until it leads elsewhere it leads where it did
    assert store.read_header(last)["step"] == 9
    assert os.readlink(last) == "in/b.safetensors"  # so that the folder can be moved
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.name, "in", "last.safetensors"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_link_is_not_replaced_by_one(checkpoint, kind):
    name = checkpoint.parent / "last.safetensors"
    if kind == "directory":
        name.mkdir()
    else:
        name.write_bytes(b"mine")

    with pytest.raises(FileExistsError, match=r"store.point: the name must be free or a symbolic link, got .*last"):
        store.point(name, checkpoint)
    assert not name.is_symlink()


def test_a_link_and_what_it_leads_to_stay_within_a_folder(checkpoint, tmp_path_factory):
    folder, outside = checkpoint.parent, tmp_path_factory.mktemp("outside")
    store.write(outside / "b.safetensors", {})
    (folder / "leads-out").symlink_to(outside)
    (folder / "last.safetensors").symlink_to(outside / "b.safetensors")  # as somebody else left it

    for path, to in (
        (folder / "new.safetensors", outside / "b.safetensors"),
        (outside / "new.safetensors", checkpoint),
        (folder / "leads-out" / "new.safetensors", checkpoint),
        (folder / "new.safetensors", folder / "leads-out" / "b.safetensors"),
        (folder / ".." / "new.safetensors", checkpoint),
    ):
        with pytest.raises(ValueError, match=r"store\.point: the path must stay inside"):
            store.point(path, to, within=folder)
    store.point(folder / "last.safetensors", checkpoint, within=folder)

    assert os.readlink(folder / "last.safetensors") == checkpoint.name
    assert [path.name for path in outside.iterdir()] == ["b.safetensors"]


def test_where_there_are_no_links_the_error_names_the_path_and_nothing_is_left(checkpoint):
    class Without(Disk):
        def symlink(self, *_):
            raise OSError(errno.EPERM, "Operation not permitted")

    class Failing(Disk):
        def replace(self, *_):
            raise OSError(errno.EIO, "Input/output error")

    for disk in (Without(), Failing()):
        with pytest.raises(OSError, match=r"store.point: .*last\.safetensors"):
            store.point(checkpoint.parent / "last.safetensors", checkpoint, disk=disk)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_link_to_a_file_that_is_seen_itself_is_left_out(checkpoint, tmp_path_factory):
    folder, elsewhere = checkpoint.parent, tmp_path_factory.mktemp("elsewhere") / "b.safetensors"
    store.write(elsewhere, {"step": 5})
    store.point(folder / "last.safetensors", checkpoint)
    store.point(folder / "linked.safetensors", elsewhere)
    (folder / "broken.safetensors").symlink_to("nowhere")

    found, rejected = store.survey(folder)

    assert found == [folder / "linked.safetensors", checkpoint]
    assert [each.path.name for each in rejected] == ["broken.safetensors"]


# Weights alone.


def test_the_latest_to_go_on_from_is_no_file_of_weights_alone(tmp_path):
    whole, light = tmp_path / "whole.safetensors", tmp_path / "light.safetensors"
    store.write(tmp_path / "old.safetensors", {"step": 1, "weights_only": True})
    store.write(whole, {"step": 3})
    store.write(light, {"step": 5, "weights_only": True})

    assert store.latest(tmp_path).path == light
    found = store.latest(tmp_path, to_go_on=True)
    assert found.path == whole
    assert [each.path for each in found.rejected] == [light]
    assert "which holds weights alone. Load them with fncb.load" in found.rejected[0].reason


def nested(levels: int, leaf):
    for _ in range(levels):
        leaf = {"a": leaf}
    return leaf


@pytest.mark.parametrize("leaf", [1, inf, torch.tensor(1.0)])
def test_a_tree_that_is_too_deep_to_be_read_is_not_written(leaf, tmp_path):
    store.write(tmp_path / "a", nested(DEEPEST, leaf))
    with pytest.raises(ValueError, match=r"store\.write: a tree must have at most 100 levels, got more at 'a\.a"):
        store.write(tmp_path / "b", nested(DEEPEST + 1, leaf))

    assert same(store.read(tmp_path / "a"), nested(DEEPEST, leaf))
    assert os.listdir(tmp_path) == ["a"]


def test_a_tree_that_holds_itself_is_refused(tmp_path):
    tree: list = [1]
    tree.append(tree)

    with pytest.raises(ValueError, match="must have at most 100 levels"):
        store.write(tmp_path / "a", tree)


def test_a_header_that_is_too_long_to_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_LONGEST_HEADER", 1000)
    store.write(tmp_path / "a", {"text": "x" * 100})
    with pytest.raises(ValueError, match=r"all but the tensors must take at most 1000 bytes as JSON, got \d+"):
        store.write(tmp_path / "b", {"text": "x" * 1000})

    assert store.read(tmp_path / "a") == {"text": "x" * 100}
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [1, 1 << 16, (4 << 20) - 4, (4 << 20) + 4, 9 << 20])
def test_large_files_take_a_thread_and_are_the_same(size, tmp_path, monkeypatch):
    tree = {"a": torch.arange(size // 4), "b": torch.arange(10), "c": torch.arange(size // 4).view(-1, 1).mT}
    store.write(tmp_path / "a", tree)
    monkeypatch.setattr(formats, "LARGE", 1 << 60)
    monkeypatch.setattr(store, "LARGE", 1 << 60)
    store.write(tmp_path / "b", tree)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert same(store.read(tmp_path / "a"), tree)


def test_what_is_read_is_on_the_host_whatever_the_default_device_is(checkpoint):
    with torch.device("meta"):
        back = store.read(checkpoint)

    assert same(back, a_tree())


def test_a_file_that_is_replaced_while_it_is_read_is_one_or_the_other(checkpoint, monkeypatch):
    entry = formats.Entry.empty

    def empty(self):  # between header and body
        store.write(checkpoint, {"step": 4, "w": torch.ones(1000)}, overwrite=True)
        return entry(self)

    monkeypatch.setattr(formats.Entry, "empty", empty)

    assert same(store.read(checkpoint), a_tree())


def test_what_is_said_of_dtypes_is_true_of_torchs():
    named = {name: getattr(torch, of_torch) for name, (of_torch, _) in packing.DTYPES.items()}

    assert {name: packing.dtype_name(dtype) for name, dtype in named.items()} == {name: name for name in named}
    assert [dtype.itemsize for dtype in named.values()] == [size for _, size in packing.DTYPES.values()]
