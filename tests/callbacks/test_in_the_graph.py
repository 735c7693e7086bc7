"""Callbacks that work inside the step, together in one compiled graph."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import fncb
from fncb.callback import compose
from fncb.callbacks import clip_grad_norm, ema, skip_nonfinite
from fncb.callbacks.activation_stats import activation_stats
from fncb.callbacks.adaptive_clip import adaptive_clip
from fncb.callbacks.clip_grad_value import clip_grad_value
from fncb.callbacks.cutmix import cutmix
from fncb.callbacks.grad_noise import grad_noise
from fncb.callbacks.grad_norms import grad_norms
from fncb.callbacks.label_smoothing import label_smoothing
from fncb.callbacks.lookahead import lookahead
from fncb.callbacks.mixup import mixup
from fncb.callbacks.sam import sam
from fncb.callbacks.skip_large_updates import skip_large_updates
from fncb.masking import masked
from fncb.schedules import every, when
from fncb.step import Step
from fncb.task import Turn
from fncb.tree import leaves


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(body, nn.Linear(8, 3))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(n=6, large_at=()):
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(8, 1, 6, 6, generator=generator) for _ in range(n)]
    for i in large_at:
        x[i][0] *= float("inf")
    return [(each, torch.randint(0, 3, (8,), generator=generator)) for each in x]


def make(callbacks, compile):
    model = network()
    turn = Turn(None, loss, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return Step(model, [turn], compose(callbacks).step, torch.device("cpu"), compile)


def test_all_that_draw_nothing_compile_into_one_graph_that_gives_what_the_eager_step_gives():
    callbacks = [
        label_smoothing(0.1, num_classes=3),
        sam(0.05, adaptive=True),
        activation_stats("0.3", "1"),
        grad_norms(),
        masked(grad_norms(1.0, per="parameter", key="of head"), "1.*"),
        skip_large_updates(50.0, factor=3.0, warmup=2, decay=0.5),
        when(every(steps=2), clip_grad_value(0.05)),
        masked(adaptive_clip(0.1), "0.*"),
        clip_grad_norm(0.5),
        masked(clip_grad_norm(0.25, key="of body"), "0.*"),
        lookahead(2),
        ema(0.5),
        skip_nonfinite(),
    ]
    compiled, eager = make(callbacks, True), make(callbacks, False)
    for batch in batches(7, large_at=(3,)):
        one, other = dict(compiled(batch)), dict(eager(batch))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)

    assert (compiled.level, compiled.compilations, compiled.recompilations) == ("one graph", 1, 0)
    assert one["skipped_updates"] == 1.0
    found, wanted = ({**step.params, **step.buffers, **dict(leaves(step.states))} for step in (compiled, eager))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_those_that_draw_compile_into_one_graph_and_draw_anew_for_each_batch():
    callbacks = [mixup(0.4, num_classes=3), cutmix(), label_smoothing(0.1), grad_noise(0.01)]
    torch.manual_seed(0)
    task = fncb.Task(network(), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.0))
    noting = fncb.Callback(
        key="noting",
        init=tuple,
        on_train_batch_end=lambda s, e: (*s, (e.metrics["mixup_lambda"], e.metrics["cutmix_lambda"])),
    )
    settings = {"max_epochs": 2, "progress": False}
    run = fncb.fit(task, batches() * 5, callbacks=[*callbacks, noting], seed=0, **settings)
    again = fncb.fit(task, batches() * 5, callbacks=[*callbacks, noting], seed=0, **settings)

    drawn = torch.tensor(run.state["noting"])
    assert (run.compiled, run.recompilations) == ("one graph", 0)
    assert len({*drawn[:, 0].tolist()}) == 60
    assert len({*drawn[:, 1].tolist()}) > 8  # of 36 areas
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert run.metrics == again.metrics  # with the same seed all over again
