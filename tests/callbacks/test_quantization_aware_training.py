"""Quantization-aware training: which batches are fake-quantized, what is put into the model, and what is left in it."""

import io
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import fncb
from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint
from fncb.callbacks.quantization_aware_training import QuantizationAwareTrainingState as State
from fncb.callbacks.quantization_aware_training import quantization_aware_training
from fncb.effects import Examine, Transform
from fncb.events import FitEnd, FitStart, Setup, Teardown, TrainBatchStart, ValidationBatchStart
from fncb.schedules import after
from tests.folding import fold

ON, OFF = Transform("switch fake quantization on"), Transform("switch fake quantization off")
PREPARE, QUANTIZE = Transform("prepare for quantization"), Transform("quantize")


def model(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *more, nn.Linear(16, 4))


def train(net, *callbacks, n=4, **settings):
    torch.manual_seed(1)
    data = [torch.randn(4, 8) for _ in range(n)]
    task = fncb.Task(net, loss=lambda m, x: m(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.1))
    return fncb.fit(
        task, data, callbacks=callbacks, **{"max_epochs": 1, "compile": False, "progress": False, **settings}
    )


def quantizers(net):
    return [each for module in net.modules() if (each := getattr(module, "weight_fake_quantizer", None)) is not None]


def prepared(net, callback=None, **state):
    """The model as it is once a fit has started."""
    (effect,) = fold(callback or quantization_aware_training(), [FitStart()], State(**state)).effects
    effect.fn(net)
    return net


# Which batches.


def test_all_batches_are_quantized_unless_it_is_said_which():
    events = [Setup(), FitStart(), ValidationBatchStart(), TrainBatchStart(), TrainBatchStart(step=1), FitEnd()]

    assert fold(quantization_aware_training(), events).effects == (PREPARE, QUANTIZE)
    assert fold(quantization_aware_training(quantize_on_fit_end=False), events).effects == (PREPARE,)


def test_a_number_counts_batches_of_training_and_validation_and_switches_once():
    events = [FitStart(), ValidationBatchStart(), TrainBatchStart(), TrainBatchStart(step=1), ValidationBatchStart()]

    folded = fold(quantization_aware_training(collect_quantization=2), events)

    assert folded.effects == (PREPARE, OFF)
    assert folded.state == State(quantized=2, enabled=False, fitting=True)


def test_a_function_is_asked_at_each_batch_and_switches_where_its_answer_changes():
    events = [FitStart(), ValidationBatchStart(), *(TrainBatchStart(step=step) for step in range(4))]
    callback = quantization_aware_training(collect_quantization=after(steps=2))

    folded = fold(callback, events)

    assert folded.effects == (PREPARE, OFF, ON)
    assert folded.state == State(quantized=2, enabled=True, fitting=True)


@pytest.mark.parametrize("end", [Teardown(), Setup(stage="validate")])
def test_nothing_is_switched_outside_of_a_fit(end):
    callback = quantization_aware_training(collect_quantization=0, quantize_on_fit_end=False)

    folded = fold(callback, [FitStart(), end, ValidationBatchStart(), TrainBatchStart()])

    assert folded.effects == (PREPARE,)
    assert folded.state == State()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"collect_quantization": -1}, ValueError, "collect_quantization must be 0 batches or more, got -1"),
        ({"collect_quantization": True}, TypeError, "collect_quantization must be a number of batches, .*got True"),
        ({"collect_quantization": 0.5}, TypeError, "collect_quantization must be a number of batches, .*got 0.5"),
        ({"filter_fn": "head"}, TypeError, "filter_fn must be a function of a module and its name, .*got 'head'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^quantization_aware_training: {message}"):
        quantization_aware_training(**arguments)


# What is put into the model.


def test_weights_and_inputs_are_rounded_to_int8_and_gradients_pass_as_if_they_were_not():
    net = prepared(nn.Sequential(nn.Linear(2, 1, bias=False)))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-127.5, 2.25]]))  # 127.5 either way in 255 steps: whole numbers

    out = net(torch.tensor([[255.0, 0.25]]))  # 255 in as many steps, likewise
    out.sum().backward()

    assert out.tolist() == [[-128.0 * 255.0 + 2.0 * 0.0]]
    assert net[0].weight.grad.tolist() == [[255.0, 0.0]]  # the rounded inputs, nothing for the weights' own rounding


def test_parameters_names_modes_hooks_and_random_state_stay():
    net = model()
    net[2].eval()
    seen = []
    handle = net[0].register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    before, random = dict(net.named_parameters()), torch.get_rng_state()

    prepared(net)
    net(torch.ones(1, 8))
    handle.remove()
    net(torch.ones(1, 8))

    assert {name: id(p) for name, p in net.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert [*net.state_dict()] == [*model().state_dict()]
    assert torch.equal(torch.get_rng_state(), random)
    assert (net[0].training, net[2].training) == (True, False)
    assert seen == ["FakeQuantizedLinear"]


def test_a_filter_tells_which_layers_are_meant():
    callback = quantization_aware_training(filter_fn=lambda module, name: name == "2")

    net = prepared(model(), callback)

    assert [type(each).__name__ for each in net] == ["Linear", "ReLU", "FakeQuantizedLinear"]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_run_that_goes_on_has_it_as_it_was(enabled):
    net = prepared(model(), enabled=enabled)

    assert [each.enabled for each in quantizers(net)] == [enabled, enabled]
    assert [net[0].activation_fake_quantizer.enabled, net[2].activation_fake_quantizer.enabled] == [enabled, enabled]


@pytest.mark.parametrize("net", [nn.Linear(8, 4), nn.Sequential(nn.Conv2d(1, 1, 1))])
def test_a_model_without_a_layer_to_quantize_is_refused(net):
    with pytest.raises(ValueError, match="the model must have a submodule that is meant, got "):
        prepared(net)


@pytest.mark.skipif(find_spec("mslk") is not None, reason="it may be quantized so here")
def test_what_cannot_be_quantized_on_this_machine_fails_before_training():
    from torchao.quantization import Int4WeightOnlyConfig

    config, net = Int4WeightOnlyConfig(group_size=8), model()
    with pytest.raises(ImportError, match="Requires"):
        train(net, quantization_aware_training(config))

    assert torch.equal(net[0].weight, model()[0].weight)
    assert train(model(), quantization_aware_training(config, quantize_on_fit_end=False)).step == 4


# What is left.


def test_the_quantized_model_computes_as_in_training_and_is_a_quarter_of_the_size():
    net, x, outputs = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128)), torch.randn(3, 8), []
    before = size(net)

    def look(state, event):
        return emit(state, Examine("look", lambda net, event, _: outputs.append(net(x))))

    looks = Callback(key="looks", init=int, emits=(Examine,), on_train_end=look)
    train(net, looks, quantization_aware_training())

    assert torch.equal(net(x), outputs[0])
    assert size(net) / before < 0.4
    assert quantizers(net) == []


def size(net):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    return len(file.getvalue())


def test_without_quantization_in_the_end_the_layers_stay_as_they_were_trained():
    net = model()

    run = train(net, quantization_aware_training(quantize_on_fit_end=False, collect_quantization=2))

    assert [each.enabled for each in quantizers(net)] == [False, False]
    assert run.state["quantization_aware_training"] == State(quantized=2, enabled=False)


def test_a_resumed_run_ends_where_the_straight_one_does(tmp_path):
    def run(net, folder, **settings):
        qat = quantization_aware_training(collect_quantization=6, quantize_on_fit_end=False)
        saves = checkpoint(tmp_path / folder, save_top_k=-1, every_n_train_steps=1)
        return train(net, qat, saves, max_epochs=2, **settings)

    straight, cut = model(nn.Dropout(0.5)), model(nn.Dropout(0.5))
    run(straight, "straight", seed=3)
    run(cut, "cut", seed=3, max_steps=5)
    resumed = model(nn.Dropout(0.5))
    with torch.no_grad():
        resumed[0].weight.zero_()
    made = run(resumed, "cut", resume="last")

    assert made.state["quantization_aware_training"] == State(quantized=6, enabled=False)
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_checkpoint_is_one_of_the_plain_model(tmp_path):
    train(model(), quantization_aware_training(), checkpoint(tmp_path))
    plain = model()

    run = train(plain, resume=tmp_path, max_epochs=1)

    assert run.resumed.removed == ("checkpoint", "quantization_aware_training")
    assert run.step == 4


# torch's own tracer makes an object of a class that torchao calls, which torch deprecates
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning")
def test_compiled_it_is_one_graph_that_a_switch_compiles_anew():
    nets, runs = [model(), model()], []
    for net, compiles in zip(nets, (False, True), strict=True):
        qat = quantization_aware_training(collect_quantization=5, quantize_on_fit_end=False)
        runs.append(train(net, qat, n=10, compile=compiles))

    assert (runs[1].compiled, runs[1].recompilations) == ("one graph", 1)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
