"""Checkpoints written behind a run's back: it waits for a copy in memory, not for the disk."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread, current_thread
from time import perf_counter
from typing import Any

import attrs
import torch

from fncb import store
from fncb.callback import note
from fncb.packing import pack


@attrs.frozen
class Written:
    """A checkpoint that is on the disk: where, its size in bytes, and for how many seconds it was written."""

    path: Path
    size: int
    took: float = attrs.field(default=0.0, eq=False)


class Saver:
    """Writes checkpoints in a thread of its own, one at a time.

    What became of a save is told once, by whichever of `finished`, `save_async` and `close` is called first when it is
    known. An error keeps its type and names the path. A process that ends without `close` still completes its write,
    but nobody is told of an error.

    The copy of a tree stays in memory for the next one: fresh memory costs more than the copying itself.

    Example:
      >>> import tempfile
      >>> weight, saver = torch.ones(2), Saver()
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     saver.save_async(Path(folder, "a.safetensors"), {"weight": weight})
      ...     weight.zero_()
      ...     written = saver.finished(wait=True)
      ...     store.read(written.path)
      tensor([0., 0.])
      {'weight': tensor([1., 1.])}
      >>> saver.close()
    """

    def __init__(self):
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._job: _Job | None = None
        self._buffers = _Buffers()
        # an executor would do the same, for a tenth of a millisecond more each time that a step waits
        thread = Thread(target=_work, args=(self._jobs,), name="fncb.Saver", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._jobs, thread)  # also when the process ends: it is waited for

    def save_async(
        self, path: str | Path, tree: Any, *, before: Callable[[], object] | None = None, within: Any = None
    ) -> Written | None:
        """Returns once the tree is copied; what is done to its tensors and containers afterwards is not saved.

        If a write is under way, it is waited for first.

        Args:
          path: where, as for `store.write`.
          tree: what, as for `store.write`. Tensors are copied to host memory.
          before: called in the thread before anything is written, for what must be on the disk earlier.
          within: passed on to `store.write_packed`, unless None.

        Returns:
          What was written before, if that had not been told, or None.

        Raises:
          TypeError: if the tree holds what cannot be written, naming where. Nothing was begun.
          Exception: the error of the write before, if that had not been told. Nothing was begun.
          RuntimeError: if the saver is closed.
        """
        if not self._stop.alive:
            raise RuntimeError(f"Saver: it must be open to save {path}, got a closed one. Make a new one.")
        earlier = self._outcome(wait=True)
        copied, self._buffers = self._buffers.copy(tree)
        self._job = _Job(Path(path), copied, before, within)
        self._jobs.put(self._job)
        return earlier

    def finished(self, *, wait: bool = False) -> Written | None:
        """What was written, told once; None if nothing was asked for, or if the write is under way still.

        Args:
          wait: for the write under way.

        Raises:
          Exception: what the write, or `before`, raised; once.
        """
        if self._job is None:  # as nearly always, and this is asked at every event
            return None
        written = self._outcome(wait)
        if written is not None:
            self._job = None
        return written

    def close(self) -> Written | None:
        """Waits for the write under way, answers as `finished`, and gives the thread and the memory back."""
        try:
            return self.finished(wait=True)
        finally:
            self._stop()
            self._buffers = _Buffers()

    def _outcome(self, wait: bool) -> Written | None:
        """What is to be told. An error is told by this, a `Written` is not: it is kept for when it is passed on."""
        job = self._job
        if job is None or not (wait or job.done.is_set()):
            return None
        job.done.wait()
        if job.error is None:
            return job.written
        self._job = None
        raise job.error


@attrs.define(eq=False)
class _Job:
    """A write, and what became of it once it is done."""

    path: Path
    tree: Any
    before: Callable[[], object] | None
    within: Any
    done: Event = attrs.field(factory=Event)
    written: Written | None = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            if self.before is not None:
                self.before()
            options, began = {} if self.within is None else {"within": self.within}, perf_counter()
            size = store.write_packed(self.path, pack(self.tree), **options)
            self.written = Written(self.path, size, round(perf_counter() - began, 6))
        except BaseException as error:  # whatever it is, somebody waits for it
            note(error, f"Saver: {self.path} could not be written.")
            self.error = error
        finally:
            self.tree = self.before = None
            self.done.set()


def _work(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job


def _stop(jobs: "SimpleQueue[_Job | None]", thread: Thread) -> None:
    jobs.put(None)
    if thread is not current_thread():  # as it is when the saver is garbage that this thread happened to collect
        thread.join()


_PLAIN = frozenset((type(None), bool, int, float, str))
_KEYS = frozenset((str, int))
_MAPPINGS = (dict, Mapping)  # dicts first: asking the abstract class takes ten times as long
_of_kind = attrgetter("dtype", "shape", "device")


@attrs.frozen
class _Buffers:
    """Host memory for the tensors of a tree, in the order of a walk through it.

    Attributes:
      kinds: of each tensor what its buffer depends on, and where in the walk its memory was met first, so
        that they are equal for the same view of the same memory only.
      hosts: where each is copied to; once for equal kinds, since `pack` stores a view once.
    """

    kinds: list[tuple[Any, ...]] = attrs.field(factory=list)
    hosts: list[torch.Tensor] = attrs.field(factory=list)
    devices: frozenset[torch.device] = frozenset()

    def copy(self, tree: Any) -> tuple[Any, "_Buffers"]:
        """A tree's copy and the buffers that it is in: these, if they fit.

        All of this is waited for, and for a small model the walk takes as long as the memory. So the tree is walked as
        if these buffers fitted, what was met is compared in one go, and seldom there is a second walk.
        """
        found: list[torch.Tensor] = []
        try:
            copied = _copied(tree, found, iter(self.hosts))
            first: dict[int, int] = {}
            places = [first.setdefault(tensor.data_ptr(), i) for i, tensor in enumerate(found)]
            kinds = list(zip(map(_of_kind, found), map(torch.Tensor.stride, found), places, strict=True))
            if len(first) < len(found):
                kinds = [(*kind, t.is_conj(), t.is_neg()) for kind, t in zip(kinds, found, strict=True)]
        except Exception:  # of any kind, from a tensor that is not dense; it goes on, unless `pack` says it better
            pack(tree)  # refuses, saying where
            raise
        buffers = self
        if kinds != self.kinds:
            pack(tree)  # refuses tensors that are not dense
            buffers = self._made_to_fit(kinds, found)
            copied = _copied(tree, [], iter(buffers.hosts))
        buffers._fill(found)
        return copied, buffers

    def _made_to_fit(self, kinds: list[tuple[Any, ...]], tensors: list[torch.Tensor]) -> "_Buffers":
        free: dict[tuple[Any, ...], list[torch.Tensor]] = defaultdict(list)
        for kind, host in dict(zip(self.kinds, self.hosts, strict=True)).items():
            free[kind[:2]].append(host)
        hosts = {
            kind: free[kind[:2]].pop() if free[kind[:2]] else _room_for(tensor)
            for kind, tensor in dict(zip(kinds, tensors, strict=True)).items()
        }
        devices = {tensor.device for tensor in tensors if not tensor.is_cpu}
        return _Buffers(kinds, [hosts[kind] for kind in kinds], frozenset(devices))

    def _fill(self, tensors: list[torch.Tensor]) -> None:
        if not tensors:
            return
        with torch.no_grad():
            _copy_all(self.hosts, tensors)
        for device in self.devices:
            torch.accelerator.synchronize(device)  # waits for the device, once for all tensors


def _copy_all(hosts: list[torch.Tensor], tensors: list[torch.Tensor]) -> None:
    together = getattr(torch, "_foreach_copy_", None)  # private: a call for all, in half the time of one for each
    if together is not None:
        together(hosts, tensors, non_blocking=True)
        return
    for host, tensor in zip(hosts, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)


def _copied(value: Any, found: list[torch.Tensor], hosts: Iterator[torch.Tensor]) -> Any:
    """A copy of containers; each tensor is added to those found, and the next host tensor, if any, takes its place."""
    if isinstance(value, torch.Tensor):
        found.append(value)
        return next(hosts, None)
    if isinstance(value, _MAPPINGS):
        if not _KEYS.issuperset(map(type, value)):
            pack(value)  # refuses
        return {k: item if type(item) in _PLAIN else _copied(item, found, hosts) for k, item in value.items()}
    if isinstance(value, list | tuple):
        items = [item if type(item) in _PLAIN else _copied(item, found, hosts) for item in value]
        return items if isinstance(value, list) else tuple(items)
    pack(value)  # refuses, or it is plain
    return value


def _room_for(tensor: torch.Tensor) -> torch.Tensor:
    """Host memory for a tensor's values: of its layout if it has no gaps, else contiguous."""
    pin = not tensor.is_cpu and torch.accelerator.is_available()  # or copies from a device wait for each other
    with torch.inference_mode(mode=False):  # or it could be filled in that mode only
        alike = torch.empty_like(tensor.detach(), device="cpu", pin_memory=pin)
        if alike.stride() == tensor.stride():
            return alike
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pin)
