import pytest
import torch

from fncb.callbacks.ema import ema
from fncb.events import AfterOptimizerStep


def after(step, **params):
    return AfterOptimizerStep(step=torch.tensor(step), params={name: torch.tensor(p) for name, p in params.items()})


def averages(callback, values, start=0.0):
    """The average after each step, the parameter being `start` at first and then one of `values` after each."""
    state, found = callback.step.init({"w": torch.tensor(start)}), []
    for i, value in enumerate(values):
        state = callback.step.on_after_optimizer_step(state, after(i + 1, w=value))
        found.append(state["w"].item())
    return found


def test_it_starts_with_a_copy_of_the_parameters():
    model = torch.nn.Linear(2, 1)
    state = ema().step.init(dict(model.named_parameters()))

    assert {name: (value.shape, value.requires_grad) for name, value in state.items()} == {
        "weight": ((1, 2), False),
        "bias": ((1,), False),
    }
    assert torch.equal(state["weight"], model.weight)
    assert state["weight"].data_ptr() != model.weight.data_ptr()


def test_each_step_moves_it_by_what_is_left_of_the_decay():
    # .75 * 4 + .25 * 8 = 5, .75 * 5 + .25 * 1 = 4
    assert averages(ema(0.75), [8.0, 1.0], start=4.0) == [5.0, 4.0]


def test_without_decay_it_is_the_parameters():
    assert averages(ema(0.0), [8.0, 1.0], start=4.0) == [8.0, 1.0]


def test_every_parameter_has_its_own():
    step = ema(0.5).step
    state = step.init({"a": torch.tensor([0.0, 2.0]), "b": torch.tensor(8.0)})

    state = step.on_after_optimizer_step(state, after(1, a=[4.0, 4.0], b=0.0))
    assert {name: value.tolist() for name, value in state.items()} == {"a": [2.0, 3.0], "b": 4.0}


def test_the_state_before_is_left_as_it_was():
    step = ema(0.5).step
    state = step.init({"w": torch.tensor(4.0)})
    step.on_after_optimizer_step(state, after(1, w=0.0))

    assert state["w"].item() == 4.0


@pytest.mark.parametrize(
    ("every", "start", "updates"),
    [
        (5, 10, [10, 15]),  # not 5, 9, 11, 14
        (5, None, [0, 5, 10, 15]),
        (1, 10, [10, 11, 12, 13, 14, 15]),
        (5, 9, [10, 15]),  # 9 is no multiple of 5
        (1, None, list(range(16))),
    ],
)
def test_which_steps_update(every, start, updates):  # F48, steps counted from 0
    values = [float(2**i) for i in range(16)]  # each update is seen
    found = [0.0, *averages(ema(0.5, update_every_n_steps=every, update_starting_at_step=start), values)]

    assert [step for step in range(16) if found[step + 1] != found[step]] == updates


def test_updates_after_a_late_start():
    values = [float(2**i) for i in range(6)]  # 1, 2, 4, 8, 16, 32 after steps 0 to 5

    # step 2 copies 4, step 4 averages: .5 * 4 + .5 * 16
    late = ema(0.5, update_every_n_steps=2, update_starting_at_step=2)
    assert averages(late, values, start=100.0) == [100.0, 100.0, 4.0, 4.0, 10.0, 10.0]
    # step 1 is no multiple of 2: step 2 is the first
    odd = ema(0.5, update_every_n_steps=2, update_starting_at_step=1)
    assert averages(odd, values, start=100.0) == averages(late, values, start=100.0)
    # steps 0, 2, 4: .5 * 3 + .5 * 1, .5 * 2 + .5 * 4, .5 * 3 + .5 * 16
    assert averages(ema(0.5, update_every_n_steps=2), values, start=3.0) == [2.0, 2.0, 3.0, 3.0, 9.5, 9.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("every", [1, 2])
def test_dtypes_stay(dtype, every):
    step = ema(0.5, update_every_n_steps=every, update_starting_at_step=2).step
    state = step.init({"w": torch.ones(3, dtype=dtype)})
    event = AfterOptimizerStep(step=torch.tensor(3), params={"w": torch.zeros(3, dtype=dtype)})

    assert step.on_after_optimizer_step(state, event)["w"].dtype == dtype


def test_it_agrees_with_torch():
    model = torch.nn.Linear(3, 2)
    torch_average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    torch_average.update_parameters(model)  # its first update copies, as our `init` does
    step = ema(0.9).step
    state = step.init(dict(model.named_parameters()))
    for i in range(5):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param))
        torch_average.update_parameters(model)
        params = {name: param.detach() for name, param in model.named_parameters()}
        state = step.on_after_optimizer_step(state, AfterOptimizerStep(step=torch.tensor(i + 1), params=params))

    for name, average in torch_average.module.named_parameters():
        torch.testing.assert_close(state[name], average.detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": -0.1}, r"decay must be in \[0, 1\), got -0.1"),
        ({"decay": float("nan")}, r"decay must be in \[0, 1\), got nan"),
        ({"update_every_n_steps": 0}, "update_every_n_steps must be 1 step or more, got 0"),
        ({"update_every_n_steps": 0.5}, "update_every_n_steps must be 1 step or more, got 0.5"),
        ({"update_starting_at_step": -1}, "update_starting_at_step must be step 0 or a later one, got -1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=f"^ema: {message}"):
        ema(**arguments)
