import pytest

from fncb.callbacks.profile import ProfileState, profile
from fncb.effects import StartProfiler, StopProfiler
from fncb.events import TrainBatchEnd, TrainBatchStart, TrainEnd
from tests.folding import fold


def spans(callback, steps, accumulate=1):
    """The path of each profile, and the steps made when it began and ended."""
    state, found = callback.init(), []
    for step in range(steps):
        for i in range(accumulate):
            done = step + (i == accumulate - 1)
            for event in (TrainBatchStart(step=step), TrainBatchEnd(step=done)):
                state, effects = callback.transition(state, event)
                for effect in effects:
                    found += [[effect.path, step]] if type(effect) is StartProfiler else []
                    if type(effect) is StopProfiler:
                        found[-1].append(done)
    return [tuple(span) for span in found]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_profile_is_of_whole_steps(accumulate):
    callback = profile("a/{step}.json", skip_first=2, active=3)

    assert spans(callback, 20, accumulate) == [("a/2.json", 2, 5)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"skip_first": 0}, [(0, 2)]),
        ({"skip_first": 3, "wait": 2}, [(5, 7)]),
        ({"skip_first": 1, "wait": 3, "repeat": 2}, [(4, 6), (9, 11)]),
        ({"skip_first": 0, "wait": 4, "repeat": 0}, [(4, 6), (10, 12), (16, 18)]),
        ({"skip_first": 0, "wait": 0, "repeat": 3}, [(0, 2), (2, 4), (4, 6)]),
        ({"skip_first": 30}, []),
    ],
)
def test_cycles_follow_what_is_skipped(settings, expected):
    found = spans(profile("a/{step}.json", active=2, **settings), 20)

    assert [span[1:] for span in found] == expected
    assert [span[0] for span in found] == [f"a/{begin}.json" for begin, _ in expected]


def test_the_last_one_ends_with_training():
    callback = profile("a.json", skip_first=0, active=8)

    run = fold(callback, [TrainBatchStart(step=0), TrainBatchEnd(step=1), TrainEnd(step=1)])

    assert run.effects == (StartProfiler("a.json"), StopProfiler())
    assert run.state == ProfileState()
    assert fold(callback, [TrainEnd(step=1)]).effects == ()


def test_a_run_that_goes_on_in_the_middle_of_one_leaves_it_out():
    callback = profile("a.json", skip_first=0, active=4, wait=1, repeat=0)

    run = fold(callback, [TrainBatchStart(step=3), TrainBatchEnd(step=4)], ProfileState(began=1))
    assert run.effects == ()

    # also if it began to be saved before it did
    assert fold(callback, [TrainBatchStart(step=3)]).effects == ()


def test_what_is_asked_of_the_profiler_goes_along():
    settings = {"record_shapes": True, "profile_memory": True, "with_stack": True}

    assert fold(profile("a.json", skip_first=0, **settings), [TrainBatchStart()]).effects == (
        StartProfiler("a.json", **settings),
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "runs/a"}, ValueError, "path must end in .json or .json.gz, got 'runs/a'"),
        ({"skip_first": -1}, ValueError, "skip_first must be 0 or more, got -1"),
        ({"wait": -1}, ValueError, "wait must be 0 or more, got -1"),
        ({"active": 0}, ValueError, "active must be 1 or more, got 0"),
        ({"repeat": -1}, ValueError, "repeat must be 0 or more, got -1"),
        ({"active": 1.5}, TypeError, "active must be an int, got 1.5"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^profile: {message}"):
        profile(**{"path": "a.json", **arguments})
