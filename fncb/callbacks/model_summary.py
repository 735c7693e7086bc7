"""Say what a model consists of."""

from typing import Any

from fncb.callback import Callback, EmptyState
from fncb.callbacks.summary import summarizing


def model_summary(max_depth: int = 1, *, example_input: Any = None, key: str = "model_summary") -> Callback[EmptyState]:
    """Asks for a table of the model's submodules and its totals, printed when a fit starts.

    A submodule has a row with its name, class, number of parameters and mode: `train`, or `eval` where it was put into
    that before. What the model holds outside of them has one too. With an example input there are also the
    floating-point operations of a forward pass, as torch's flop counter counts them (an addition and a multiplication
    are two; what is no product of matrices, convolution or attention is none), and the shapes that a submodule is
    called with and gives; `?` stands where it is not called. That pass is made in eval mode and without gradients, and
    changes nothing but lazy parameters, which it initialises; without it they count as 0. In the totals, and within a
    row, a parameter that is used twice counts once.

    Args:
      max_depth: levels of submodules that have a row, -1 or more; 0 turns the summary off, -1 is all.
      example_input: what the model is called with: one argument, a tuple of arguments, or a mapping of arguments by
        name. Its tensors are moved to the model. None makes no call.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: if `max_depth` is below -1, or no int.

    Example:
      >>> import torch
      >>> from torch import nn
      >>> import fncb
      >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
      >>> task = fncb.Task(model, loss=lambda model, x: model(x).mean(),
      ...                  optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
      >>> _ = fncb.fit(task, [torch.ones(2, 8)], max_epochs=1, compile=False, progress=False,
      ...              callbacks=model_summary(example_input=torch.ones(2, 8)))
        │ Name │ Type   │ Params │ Mode  │ FLOPs │ In sizes │ Out sizes
      ──┼──────┼────────┼────────┼───────┼───────┼──────────┼──────────
      0 │ 0    │ Linear │     36 │ train │   128 │ [2, 8]   │ [2, 4]
      1 │ 1    │ ReLU   │      0 │ train │     0 │ [2, 4]   │ [2, 4]
      2 │ 2    │ Linear │      5 │ train │    16 │ [2, 4]   │ [2, 1]
      <BLANKLINE>
      Trainable params          41
      Non-trainable params       0
      Total params              41
      Size of params         164 B
      Modules in train mode      3
      Modules in eval mode       0
      Total FLOPs              144

    Known as:
      `ModelSummary` in Lightning.
    """
    return summarizing("model_summary", key, max_depth, example_input)
