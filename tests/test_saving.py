"""A saver copies before it returns, writes one file at a time, and tells once what became of it."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, get_ident, main_thread
from threading import enumerate as enumerate_threads

import pytest
import torch

from fncb import store
from fncb.saving import Saver, Written


@pytest.fixture
def saver():
    saver = Saver()
    yield saver
    saver.close()


def full(_: Path, *__, **___) -> int:
    raise OSError(28, "No space left on device")


def test_what_was_written_is_told_once(saver, tmp_path):
    saver.save_async(tmp_path / "a", {"step": 1})
    told = [saver.finished(wait=True), saver.finished(wait=True), saver.finished()]

    assert told == [Written(tmp_path / "a", (tmp_path / "a").stat().st_size), None, None]


def test_nothing_asked_is_nothing_told():
    saver = Saver()

    assert saver.finished() is None
    assert saver.finished(wait=True) is None
    assert saver.close() is None


def test_a_write_under_way_is_not_told(saver, tmp_path):
    go_on = Event()
    saver.save_async(tmp_path / "a", {}, before=go_on.wait)
    under_way = saver.finished()
    go_on.set()

    assert under_way is None
    assert saver.finished(wait=True).path == tmp_path / "a"


def test_the_next_save_tells_what_nobody_asked_for(saver, tmp_path):
    assert saver.save_async(str(tmp_path / "a"), {}) is None
    assert saver.save_async(tmp_path / "b", {}).path == tmp_path / "a"
    assert saver.close().path == tmp_path / "b"


def test_what_comes_before_is_done_in_the_thread_and_first(saver, tmp_path):
    seen = []
    saver.save_async(tmp_path / "a", {}, before=lambda: seen.append((get_ident(), (tmp_path / "a").exists())))
    saver.finished(wait=True)

    assert len(seen) == 1
    assert seen[0][0] != get_ident()
    assert not seen[0][1]


def test_within_is_passed_on_if_it_is_given(saver, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(store, "write_packed", lambda path, packed, **options: seen.append(options) or 1)
    saver.save_async(tmp_path / "a", {})
    saver.save_async(tmp_path / "a", {}, within=tmp_path)
    saver.close()

    assert seen == [{}, {"within": tmp_path}]


def test_an_error_keeps_its_type_names_the_path_and_is_raised_once(saver, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "write_packed", full)
    saver.save_async(tmp_path / "a", {})

    with pytest.raises(OSError, match="No space left on device") as error:
        saver.finished(wait=True)
    assert error.value.errno == 28
    assert error.value.__notes__ == [f"Saver: {tmp_path / 'a'} could not be written."]
    assert saver.finished(wait=True) is None


def test_nothing_is_written_if_what_comes_before_fails(saver, tmp_path):
    saver.save_async(tmp_path / "a", {}, before=lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        saver.finished(wait=True)
    assert not (tmp_path / "a").exists()


def test_a_name_that_is_taken_is_an_error_as_in_the_store(saver, tmp_path):
    store.write(tmp_path / "a", {"step": 1})
    saver.save_async(tmp_path / "a", {"step": 2})

    with pytest.raises(FileExistsError, match="the name must be free"):
        saver.finished(wait=True)
    assert store.read(tmp_path / "a") == {"step": 1}


@pytest.mark.parametrize("known", [False, True], ids=["first save", "after one alike"])
@pytest.mark.parametrize(
    "odd",
    [object(), {1, 2}, {2.5: 1}, {True: 1}, torch.ones(2).to_sparse(), torch.ones(2, device="meta"), [[object()]]],
    ids=lambda odd: str(odd)[:20],
)
def test_what_cannot_be_written_is_refused_at_once_and_where_it_is(known, odd, saver, tmp_path):
    weight = torch.ones(2)
    if known:
        saver.save_async(tmp_path / "a", {"w": weight, "deep": {"odd": weight}})

    with pytest.raises(TypeError, match="deep"):
        saver.save_async(tmp_path / "b", {"w": weight, "deep": {"odd": odd}})
    assert not (tmp_path / "b").exists()
    assert (saver.finished(wait=True) is not None) == known  # the save before is still to be told


def test_buffers_are_used_again_when_tensors_are_alike(saver, tmp_path):
    tree = {"w": torch.ones(3, 2), "t": torch.ones(2, 3).T, "n": torch.tensor(1)}
    places = []
    for i in range(2):
        saver.save_async(tmp_path / f"{i}", {name: value + i for name, value in tree.items()})
        places.append([host.data_ptr() for host in saver._buffers.hosts])

    assert places[0] == places[1]


def test_buffers_of_before_serve_in_another_tree(saver, tmp_path):
    a, b = torch.arange(2.0), torch.arange(3.0)
    saver.save_async(tmp_path / "0", [a, b])
    before = {host.data_ptr() for host in saver._buffers.hosts}
    saver.save_async(tmp_path / "1", {"new": torch.arange(4), "b": b, "a": a})
    after = {host.data_ptr() for host in saver._buffers.hosts}
    saver.finished(wait=True)

    assert before < after
    assert [value.tolist() for value in store.read(tmp_path / "1").values()] == [[0, 1, 2, 3], [0, 1, 2], [0, 1]]


def test_tensors_that_come_apart_or_together_get_buffers_accordingly(saver, tmp_path):
    number = torch.complex(torch.ones(2), torch.ones(2))
    trees = [[number, number], [number, number.conj()], [number, number.clone()], [number, number.resolve_conj()]]
    for i, tree in enumerate(trees):
        saver.save_async(tmp_path / f"{i}", tree)
        store.write(tmp_path / f"{i}s", tree)
    saver.finished(wait=True)

    for i in range(len(trees)):
        assert (tmp_path / f"{i}").read_bytes() == (tmp_path / f"{i}s").read_bytes()


def test_buffers_made_in_inference_mode_serve_outside(saver, tmp_path):
    weight = torch.nn.Parameter(torch.zeros(2))
    with torch.inference_mode():
        saver.save_async(tmp_path / "0", [weight, torch.ones(2)])
    saver.save_async(tmp_path / "1", [weight + 1, weight])
    saver.finished(wait=True)

    assert [value.tolist() for value in store.read(tmp_path / "1")] == [[1, 1], [0, 0]]
    assert not any(host.requires_grad for host in saver._buffers.hosts)


def test_a_closed_saver_saves_no_more(tmp_path):
    saver = Saver()
    saver.close()

    with pytest.raises(RuntimeError, match="it must be open to save"):
        saver.save_async(tmp_path / "a", {})
    assert saver.close() is None


WAITS = {
    "finished": lambda saver, _: saver.finished(wait=True),
    "save_async": lambda saver, path: saver.save_async(path, {"step": 2}),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_an_interrupted_wait_changes_nothing(wait, saver, tmp_path):
    waiting, go_on, interrupts = Event(), Event(), []

    def once(*_: object) -> None:
        interrupts.append(True)
        if len(interrupts) == 1:
            raise KeyboardInterrupt

    def interrupt() -> None:
        waiting.wait()
        while not interrupts:  # one that comes just before a lock is waited for is not noticed
            signal.pthread_kill(main_thread().ident, signal.SIGINT)
            go_on.wait(0.01)
        go_on.wait()

    usual = signal.signal(signal.SIGINT, once)
    saver.save_async(tmp_path / "a", {"step": 1}, before=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come a little earlier than the wait
        waiting.set()
        wait(saver, tmp_path / "b")
    go_on.set()

    assert saver.finished(wait=True).path == tmp_path / "a"
    assert not (tmp_path / "b").exists()
    signal.signal(signal.SIGINT, usual)


def test_the_thread_of_a_saver_that_is_forgotten_ends_after_its_write(tmp_path):
    before = set(enumerate_threads())
    saver = Saver()
    saver.save_async(tmp_path / "a", {"step": 1})
    (thread,) = set(enumerate_threads()) - before
    del saver
    gc.collect()
    thread.join(60)

    assert not thread.is_alive()
    assert store.read(tmp_path / "a") == {"step": 1}


def test_without_the_call_that_copies_all_at_once_the_same_is_written(saver, monkeypatch, tmp_path):
    tree = {"a": torch.ones(2), "b": torch.arange(6).reshape(2, 3).T}
    saver.save_async(tmp_path / "a", tree)
    saver.finished(wait=True)
    monkeypatch.delattr(torch, "_foreach_copy_")
    saver.save_async(tmp_path / "b", tree)
    saver.finished(wait=True)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_process_that_ends_without_close_completes_its_write(tmp_path):
    code = """
import sys, threading, torch
from fncb.saving import Saver

ended = threading.Event()
threading._register_atexit(ended.set)  # called when the main thread has run to its end, before others are waited for
saver = Saver()
saver.save_async(sys.argv[1], {"w": torch.arange(100_000)}, before=ended.wait)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, env=environment, timeout=60)

    assert torch.equal(store.read(tmp_path / "a")["w"], torch.arange(100_000))
