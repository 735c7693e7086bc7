"""R9: the laws of design.md, section 8, for any composition of the built-ins and any events."""

import copy
import random
from functools import partial
from math import inf, nan

import attrs
import hypothesis.strategies as st
import pytest
import rich.style  # noqa: F401 - draws from `random` when it is imported, which must not be in a strategy
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import fncb
from docs.tables import built_ins
from fncb import events as ev
from fncb import store
from fncb.callback import compose
from fncb.callbacks import clip_grad_norm, ema, skip_nonfinite
from fncb.recorder import Recorder
from fncb.recording import read
from fncb.testing.comparing import unlike
from fncb.testing.laws import broken_laws
from fncb.tree import leaves
from tests.built_ins import BUILT_INS, METRICS

EACH = st.one_of(*BUILT_INS.values())
CALLBACKS = st.lists(EACH, max_size=9).map(lambda found: list({each.key: each for each in found}.values()))
NUMBERS = (0.0, 0.5, -0.5, 1.0, 1.5, -1.5, 1e30, nan, inf, -inf)
HEARD = [kind for kind in ev.HOOKS.values() if kind not in (ev.SaveCheckpoint, ev.LoadCheckpoint)]


def a_run(seed):
    """Events as a run has them, or in any order; a `Saved` may answer any `Save`, or none."""
    rng = random.Random(seed)
    kinds = _in_order(rng) if rng.random() < 0.8 else rng.choices(HEARD, k=rng.randrange(20))
    epoch, step, seconds, found = 0, 0, 0.0, []
    for kind in kinds:
        seconds += rng.choice([0.0, 0.125, 0.5, 4.0])
        step += kind is ev.TrainBatchEnd
        metrics = {name: rng.choice(NUMBERS) for name in METRICS if rng.random() < 0.95} | {"lr-SGD": 0.5}
        name = f"runs/a/{rng.choice(['', '', 'last-', 'rescue-'])}epoch={epoch}-step={step}"
        known = {
            "epoch": epoch,
            "step": step,
            "seconds": seconds,
            "batch_idx": step % 3,
            "batches": 3,
            "metrics": metrics,
            "epoch_is_over": rng.random() < 0.5,
            "error": "KeyError",
            "stage": "fit",
            "fast_dev_run": rng.random() < 0.05,
            "path": f"{name}{rng.choice(['', '-v1'])}.safetensors",
            "requested": f"{name}.safetensors",
            "samples": rng.choice([1, 4]),
            "waited": rng.choice([0.0, 0.25]),
            "max_epochs": rng.choice([-1, 4]),
            "time": seconds + 8.0,
            "what": rng.choice(["file", "device", "optimizer", "flops"]),
            "key": rng.choice(["stop_file", "device_stats_monitor", "lr_monitor", "throughput_monitor"]),
            "at": rng.choice(["on_train_batch_start", "on_train_batch_end"]),
            "graphs": step,
            "recompilations": step // 2,
            "reason": "enough",
        }
        names = {field.alias or field.name for field in attrs.fields(kind)}
        found.append(kind(**{name: value for name, value in known.items() if name in names}))
        epoch += kind is ev.EpochEnd
    return found


def _in_order(rng):
    kinds = [ev.InitStart, ev.Setup, ev.FitStart, ev.TrainStart]
    for _ in range(rng.randint(1, 5)):
        kinds += [ev.EpochStart, ev.TrainEpochStart]
        for _ in range(rng.randint(1, 3)):
            kinds += [ev.TrainBatchStart, ev.TrainBatchEnd, *rng.choice([[], [ev.Saved], [ev.Saved, ev.Saved]])]
        if rng.random() < 0.8:
            kinds += [ev.ValidationStart, ev.ValidationBatchEnd, ev.ValidationEnd, ev.Saved]
        kinds += [ev.TrainEpochEnd, ev.Saved, ev.EpochEnd]
    return [*kinds, *rng.choice([[ev.TrainEnd, ev.FitEnd, ev.Teardown], [ev.ExceptionRaised, ev.Teardown]])]


EVENTS = st.integers(0, 2**32).map(a_run)


def folded(callback, events, state=None):
    """The state, the effects, and the type of what was raised, after which nothing is heard."""
    state, effects = callback.init() if state is None else state, []
    for event in events:
        try:
            state, asked = callback.transition(state, event)
        except ev.MissingMetric as error:
            return state, effects, str(error)
        effects += asked
    return state, effects, None


SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
law = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=SLOW)


@pytest.fixture(autouse=True)
def counts(request, record_property):
    """Has it told which law holds, and for how many examples."""
    asked = getattr(request.function, "_hypothesis_internal_use_settings", None)
    named = getattr(request.node, "callspec", None)
    if asked is None and named is None:
        return
    examples = f"{asked.max_examples} examples" if asked else named.id
    record_property("count", f"R9: {request.function.__name__.removeprefix('test_').replace('_', ' ')}: {examples}")


@law
@given(CALLBACKS, EVENTS)
def test_hooks_are_pure(callbacks, events):
    """Law 1: same state, same event, same result; inputs unchanged."""
    composed = compose(*callbacks)
    state = composed.init()
    for event in events:
        before = copy.deepcopy(state)
        one, other = (folded(composed, [event], state) for _ in range(2))
        assert unlike(one, other) == []
        assert unlike(before, state) == []
        state = one[0]


@law
@given(CALLBACKS, EVENTS, st.data())
def test_a_run_goes_on_from_any_cut(callbacks, events, data):
    """Laws 2 and 5: replaying a + b equals replaying b from what was saved after a."""
    composed, cut = compose(*callbacks), data.draw(st.integers(0, len(events)))
    state, first, error = folded(composed, events[:cut])
    again = fncb.load_state_dict(composed, fncb.state_dict(state))

    assert unlike(state, again) == []
    if error is None:
        last, second, error = folded(composed, events[cut:], again)
        assert unlike(folded(composed, events), (last, first + second, error)) == []


@law
@given(CALLBACKS, EVENTS)
def test_an_event_that_nobody_hears_changes_nothing(callbacks, events):
    """Law 3: it returns the very same state, in a composition too."""
    for callback in (*callbacks, compose(*callbacks)):
        state = callback.init()
        for event in events:
            new = folded(callback, [event], state)[0]
            assert callback.hears(type(event)) or new is state
            state = new


@law
@given(CALLBACKS, CALLBACKS, CALLBACKS, EVENTS)
def test_composition_is_associative_and_has_an_identity(some, more, others, events):
    """Law 4."""
    taken = {callback.key for callback in some}
    more = [callback for callback in more if callback.key not in taken]
    taken |= {callback.key for callback in more}
    a, b, c = compose(*some), compose(*more), compose(*(each for each in others if each.key not in taken))
    whole = folded(compose(a, b, c), events)

    assert unlike(whole, folded(compose(compose(a, b), c), events)) == []
    assert unlike(whole, folded(compose(a, compose(b, c)), events)) == []
    assert unlike(whole, folded(compose(compose(), a, compose(), b, c, compose()), events)) == []
    for callback in some:
        state, effects, error = folded(callback, events)
        assert unlike(folded(compose(callback), events), ({callback.key: state}, effects, error)) == []


@settings(law, max_examples=60)
@given(CALLBACKS, EVENTS)
def test_a_state_survives_a_file(tmp_path_factory, callbacks, events):
    """Law 5."""
    composed, path = compose(*callbacks), tmp_path_factory.mktemp("states") / "state.safetensors"
    state = folded(composed, events)[0]
    store.write(path, {"state": fncb.state_dict(state)})

    assert unlike(state, fncb.load_state_dict(composed, store.read(path)["state"])) == []


@settings(law, max_examples=60)
@given(CALLBACKS, EVENTS)
def test_a_recording_replays_to_the_same_states_and_effects(tmp_path_factory, callbacks, events):
    """Law 6."""
    composed, path = compose(*callbacks), tmp_path_factory.mktemp("recorded") / "events.jsonl"
    state, effects, error = folded(composed, events)
    heard = events if error is None else events[: _failed_at(composed, events)]
    recorder = Recorder(path, {})
    for event in heard:
        recorder.event(event)
    recorder.close()
    recorded = read(path)
    replayed = fncb.replay(composed, recorded)
    moments = [*fncb.history(composed, recorded)]

    assert unlike([*recorded.events], heard) == []
    assert unlike((state, effects), (replayed.state, [*replayed.effects])) == []
    assert unlike(effects, [effect for moment in moments for effect in moment.effects]) == []


def _failed_at(composed, events):
    return next(i for i in range(len(events)) if folded(composed, events[: i + 1])[2])


def test_every_built_in_has_a_row():
    assert [*BUILT_INS] == [*built_ins()]


@pytest.mark.parametrize("name", BUILT_INS)
def test_each_built_in_obeys_the_laws_of_the_host(name):
    """Laws 1 to 6, of each row by itself."""

    @settings(law, max_examples=6, database=None)
    @given(BUILT_INS[name], EVENTS)
    def obeys(callback, events):
        assert broken_laws(callback, events) == []

    obeys()


STEP_CALLBACKS = {
    "all": (ema(0.5), clip_grad_norm(0.5), skip_nonfinite()),
    "all, in another order": (skip_nonfinite(), clip_grad_norm(0.5), ema(0.9, update_every_n_steps=2)),
}


def trained(callbacks, compile):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    batches = [torch.randn(4, 3) for _ in range(6)]
    batches[4] = batches[4].fill_(nan) if any(each.key == "skip_nonfinite" for each in callbacks) else batches[4]
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    task = fncb.Task(model, loss=lambda model, x: model(x).square().mean(), optimizer=optimizer)
    made = compose(*callbacks).step
    first = {} if made is None else made.init({name: p.detach() for name, p in model.named_parameters()})
    kinds = [(path, leaf.shape, leaf.dtype) for path, leaf in leaves(first)]
    run = fncb.fit(task, batches, callbacks=callbacks, max_epochs=1, compile=compile, progress=False)
    same = kinds == [(path, leaf.shape, leaf.dtype) for path, leaf in leaves(run.step_state)]
    return run.compiled, same, {**model.state_dict(), **dict(leaves(run.step_state))}, dict(run.metrics)


@pytest.mark.parametrize("name", STEP_CALLBACKS)
def test_compiled_step_hooks_give_what_eager_ones_give(name):
    """Law 7."""
    compiled, eager = (trained(STEP_CALLBACKS[name], compile) for compile in (True, False))

    assert (compiled[0], eager[0]) == ("one graph", "eager")
    assert compiled[1] == eager[1] is True
    torch.testing.assert_close(compiled[2], eager[2], rtol=1e-5, atol=1e-6)
    assert compiled[3] == pytest.approx(eager[3], rel=1e-5)


@law
@given(CALLBACKS, EVENTS)
def test_order_does_not_matter_to_callbacks_that_share_nothing(callbacks, events):
    """Law 8: states are the same, whatever the order."""
    one, other = folded(compose(*callbacks), events), folded(compose(*callbacks[::-1]), events)

    if one[2] is None:
        assert unlike(one[0], other[0]) == []
