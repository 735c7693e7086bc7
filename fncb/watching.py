"""What submodules return while a batch is trained on, for step hooks that watch them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fncb.batch import tensors


def watching(model: nn.Module, patterns: Iterable[str], seen: dict[str, Tensor]) -> list[RemovableHandle]:
    """Has submodules put what they return into `seen`, by their names, whenever the model is called in training mode.

    Of several tensors that one returns, the first counts; of several calls, the last.

    Args:
      model: whose submodules they are.
      patterns: shell patterns of their names; each must match one.
      seen: is written to, and nothing is taken out of it.

    Returns:
      Handles whose `remove()` ends it.

    Raises:
      ValueError: if a pattern matches no submodule.
    """
    named = {name: module for name, module in model.named_modules() if name}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(f"watch: pattern must match a submodule, got {pattern!r}. There are {list(named)}.")

    def watch(name: str) -> Any:
        def note(module: nn.Module, _: Any, output: Any) -> None:
            found = tensors(output)
            if found and model.training and module is named[name]:  # and not its copy in a view
                seen[name] = found[0]

        return note

    matching = [name for name in named if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [named[name].register_forward_hook(watch(name)) for name in matching]
