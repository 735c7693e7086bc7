"""The callbacks of a recording: given again, or made again from the expressions that it has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from fncb.callback import Callback, compose
from fncb.expressions import callback_of
from fncb.hindsight import Callbacks


@attrs.frozen
class Recalled:
    """A callback of a recorded run, and what there is to fold with.

    Attributes:
      key: its name in the recording.
      text: the expression that the recording has for it; None without.
      callback: it itself, given or made again; None if that is not possible.
      why: why not; empty if it is.
    """

    key: str
    text: str | None = None
    callback: Callback[Any] | None = None
    why: str = ""


def recalled(header: Mapping[str, Any], callbacks: Callbacks[Any] | None) -> list[Recalled]:
    """The callbacks of a run by its header, each with what it can be folded with.

    Args:
      header: that of the recording, which may be of a newer fncb.
      callbacks: what is taken in place of the expressions; None for none.

    Example:
      >>> [each] = recalled({"keys": ["mine"], "callbacks": {"mine": None}}, None)
      >>> each.why
      'it has an argument that is no plain value, or is no built-in: pass it as `callbacks=`'
    """
    texts = header.get("callbacks")
    texts = texts if isinstance(texts, Mapping) else {}
    keys = header.get("keys")
    keys = [key for key in keys if isinstance(key, str)] if isinstance(keys, list | tuple) else [*texts]
    if callbacks is None:
        return [_made_again(key, texts.get(key), bool(texts)) for key in keys]
    given = {part.key: part for part in compose(callbacks).parts or ()}
    missing = [Recalled(key, texts.get(key), None, "it is not among `callbacks=`") for key in keys if key not in given]
    return [*(Recalled(key, texts.get(key), part) for key, part in given.items()), *missing]


def _made_again(key: str, text: Any, has_texts: bool) -> Recalled:
    if not isinstance(text, str):
        no_text = "it has an argument that is no plain value, or is no built-in"
        why = f"{no_text if has_texts else 'the recording does not tell how'}: pass it as `callbacks=`"
        return Recalled(key, why=why)
    try:
        callback = callback_of(text)
    except ValueError as error:
        return Recalled(key, text, None, f"{error} Pass it as `callbacks=`.")
    if callback.key != key:
        why = f"its expression makes one with the key {callback.key!r}: pass it as `callbacks=`"
        return Recalled(key, text, None, why)
    return Recalled(key, text, callback)
