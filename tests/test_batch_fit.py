"""`batch_size_finder`: which sizes it tries, what it takes for too little memory, what it comes to."""

import errno
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fncb.batch_fit import BatchSizeFound, SizeTried, batch_size_finder, out_of_memory
from fncb.task import Task

SGD = partial(torch.optim.SGD, lr=0.1)


def task(most=None, error=torch.OutOfMemoryError, seen=None, optimizer=SGD):
    """Fits up to a size."""

    def loss(model, batch):
        if seen is not None:
            seen.append(len(batch))
        if most is not None and len(batch) > most:
            raise error(f"no memory for {len(batch)}")
        return model(batch).square().mean()

    return Task(nn.Linear(2, 1), loss=loss, optimizer=optimizer)


def endless(size):
    """A list of one batch, however large."""
    return [torch.ones(size, 2)]


def tried(found):
    return [(trial.batch_size, trial.fits) for trial in found.trials]


def test_sizes_are_doubled_until_one_does_not_fit():
    found = batch_size_finder(task(20), endless)

    assert tried(found) == [(2, True), (4, True), (8, True), (16, True), (32, False)]
    assert found.batch_size == 16


@pytest.mark.parametrize("most", [16, 17, 20, 23, 30, 31])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
def test_a_search_between_finds_the_largest_and_keeps_the_margin(most, margin):
    found = batch_size_finder(task(most), endless, mode="binsearch", margin=margin)

    assert max(size for size, fits in tried(found) if fits) == most
    assert min(size for size, fits in tried(found) if not fits) == most + 1
    assert found.batch_size == int(most * (1 - margin))


def test_a_search_goes_half_way():
    found = batch_size_finder(task(21), endless, mode="binsearch", init_val=16, margin=0.0)

    assert tried(found) == [(16, True), (32, False), (24, False), (20, True), (22, False), (21, True)]


def test_a_margin_leaves_at_least_one():
    assert batch_size_finder(task(1), endless, mode="binsearch", init_val=1, margin=0.9).batch_size == 1


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_without_a_size_that_fails_there_is_no_margin(mode):
    found = batch_size_finder(task(), endless, mode=mode, max_val=20)

    assert tried(found) == [(2, True), (4, True), (8, True), (16, True), (20, True)]
    assert found.batch_size == 20


def test_trials_end_when_there_were_so_many():
    assert tried(batch_size_finder(task(), endless, max_trials=2)) == [(2, True), (4, True)]
    some = batch_size_finder(task(20), endless, mode="binsearch", margin=0.0, max_trials=6)
    assert tried(some)[4:] == [(32, False), (24, False)]
    assert some.batch_size == 16  # one that was tried


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_all_data_in_one_batch_is_as_large_as_it_gets(mode):
    asked = []

    def make(size):
        asked.append(size)
        return DataLoader(torch.ones(12, 2), size)

    found = batch_size_finder(task(), make, mode=mode)

    assert asked == [2, 4, 8, 16]
    assert tried(found) == [(2, True), (4, True), (8, True), (12, True)]
    assert found.batch_size == 12
    assert tried(batch_size_finder(task(), torch.ones(8, 2), mode=mode)) == [(2, True), (4, True), (8, True)]
    assert tried(batch_size_finder(task(), torch.ones(8, 2), init_val=16)) == [(8, True)]


def test_a_batch_that_is_not_counted_by_its_first_tensor_ends_nothing():
    found = batch_size_finder(task(), lambda size: [torch.ones(3, size, 2)] * 2, max_val=8)

    assert found.batch_size == 8


@pytest.mark.parametrize(("steps", "n", "expected"), [(1, 100, [2]), (3, 100, [2, 2, 2]), (5, 3, [2, 1, 2, 1, 2])])
def test_so_many_steps_are_made_and_a_loader_is_begun_again(steps, n, expected):
    seen = []
    batch_size_finder(task(seen=seen), torch.ones(n, 2), steps_per_trial=steps, max_trials=1)

    assert seen == expected


def test_what_a_generator_gives_is_enough():
    seen = []
    batch_size_finder(task(seen=seen), lambda size: (torch.ones(size, 2) for _ in range(2)), max_trials=1)

    assert seen == [2, 2]


def test_a_batch_that_is_none_is_left_out():
    seen = []
    batch_size_finder(task(seen=seen), lambda size: [None, torch.ones(size, 2)], steps_per_trial=4, max_trials=1)

    assert seen == [2, 2]


def test_every_size_is_tried_on_a_new_copy_with_its_optimizer():
    values = []

    def loss(model, batch):
        values.append(model.weight.sum().item())
        return model(batch).sum()

    model = nn.Linear(2, 1)
    tried = Task(model, loss=loss, optimizer=torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5))
    batch_size_finder(tried, endless, steps_per_trial=2, max_trials=3)

    assert values[0] == values[2] == values[4] != values[1]


def test_a_trial_tells_its_speed():
    [one] = batch_size_finder(task(), endless, max_trials=1).trials

    assert one.seconds > 0
    assert one.samples_per_second == 2 / one.seconds
    assert SizeTried(4, fits=True, seconds=0.5).samples_per_second == 8.0
    assert SizeTried(4, fits=False).samples_per_second is None


def test_several_optimizers_step_all():
    model = nn.ModuleDict({"one": nn.Linear(2, 1), "two": nn.Linear(2, 1)})
    losses = {name: lambda model, batch, name=name: model[name](batch).mean() for name in model}
    tried = Task(model, loss=losses, optimizer=dict.fromkeys(model, SGD), every={"two": 5})

    assert batch_size_finder(tried, endless, max_val=4).batch_size == 4


def test_memory_that_there_really_is_not_is_noticed():
    def loss(model, batch):
        room = torch.empty(2**45, 2 if len(batch) > 4 else 0)
        return model(batch).mean() + room.numel()

    assert batch_size_finder(Task(nn.Linear(2, 1), loss=loss, optimizer=SGD), endless).batch_size == 4


def test_memory_that_runs_out_in_the_loader_is_noticed():
    def made(size):
        if size > 4:
            raise MemoryError
        return endless(size)

    assert batch_size_finder(task(), made).batch_size == 4


def test_tensors_of_a_trial_are_gone_in_the_next():
    """Whether it fitted or not."""
    alive = []

    class Counted(nn.Linear):
        def __deepcopy__(self, memo):
            copied = Counted(2, 1)
            alive.append(torch.utils.weak.weakref.ref(copied))
            return copied

    counts = []

    def loss(model, batch):
        counts.append(sum(each() is not None for each in alive))
        if len(batch) > 5:
            raise torch.OutOfMemoryError("no")
        return model(batch).mean()

    tried = Task(Counted(2, 1), loss=loss, optimizer=SGD)
    batch_size_finder(tried, endless, mode="binsearch", steps_per_trial=1)
    assert counts == [1] * 5  # 2, 4, 8, 6, 5


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("unable to mmap 128 bytes from file </torch_1>: Cannot allocate memory (12)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("Invalid buffer size: 74.51 GB"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x1)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_taken_for_too_little_memory(error, expected):
    assert out_of_memory(error) is expected


@pytest.mark.parametrize("error", [ValueError, partial(RuntimeError, "shapes"), KeyboardInterrupt, AssertionError])
def test_other_errors_go_on_to_the_caller(error):
    with pytest.raises(getattr(error, "func", error)):
        batch_size_finder(task(7, error), endless)


def test_a_first_size_that_does_not_fit_is_an_error():
    with pytest.raises(
        MemoryError, match=r"a batch of init_val=8 must fit into memory, got OutOfMemoryError.*smaller"
    ) as raised:
        batch_size_finder(task(7), endless, init_val=8)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"mode": "linear"}, ValueError, "mode must be 'power' or 'binsearch', got 'linear'"),
        ({"steps_per_trial": 0}, ValueError, "steps_per_trial must be 1 or more, got 0"),
        ({"init_val": 0}, ValueError, "init_val must be 1 or more, got 0"),
        ({"init_val": True}, TypeError, "init_val must be an int, got True"),
        ({"max_trials": 0}, ValueError, "max_trials must be 1 or more, got 0"),
        ({"max_val": 2.0}, TypeError, "max_val must be an int, got 2.0"),
        ({"init_val": 9, "max_val": 8}, ValueError, "init_val must be at most max_val, got 9 and 8"),
        ({"margin": 1.0}, ValueError, r"margin must be a number in \[0, 1\), got 1.0"),
        ({"margin": float("nan")}, ValueError, r"margin must be a number in \[0, 1\), got nan"),
        ({"margin": "5%"}, TypeError, "margin must be a number in .*, got '5%'"),
        ({"precision": "8"}, ValueError, "precision must be '32'"),
        (
            {"make_batches": DataLoader(torch.ones(2, 2))},
            TypeError,
            "make_batches must be a function .*, got DataLoader",
        ),
        (
            {"make_batches": lambda size: []},
            ValueError,
            "make_batches must give at least one batch, got none for size 2",
        ),
        ({"make_batches": lambda size: None}, TypeError, "make_batches must be an iterable of batches, got None"),
    ],
)
def test_what_cannot_be_is_refused(given, error, message):
    with pytest.raises(error, match=f"^batch_size_finder: {message}"):
        batch_size_finder(**{"task": task(), "make_batches": endless, **given})


def test_it_prints_as_a_table():
    trials = SizeTried(4, True, 0.5), SizeTried(8, True, 0.5), SizeTried(16, False), SizeTried(12, False)
    found = BatchSizeFound(8, trials)

    assert repr(found) == "BatchSizeFound(batch_size=8, trials=<4>)"
    assert str(found).splitlines() == [
        "batch size 8, of 4 tried",
        "       4        0.5 s a step          8 samples/s",
        "       8        0.5 s a step         16 samples/s",
        "      12 does not fit",
        "      16 does not fit",
    ]
