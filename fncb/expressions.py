"""Text to callbacks, as in `early_stop('val_loss', patience=2)`, and callbacks to text.

Nothing is evaluated: an expression names built-in callbacks and gives them literals, and all else is refused.
"""

import ast
import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from fncb import callbacks
from fncb.callback import Callback, compose
from fncb.fields import hook_names
from fncb.schedules import Predicate

LONGEST = 10_000
"""How many characters an expression may have."""

DEEPEST = 50
"""How many levels it may have: calls within calls, and operands in a row."""

_CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    name: value
    for name, value in sorted({**vars(callbacks), "compose": compose}.items())
    if isinstance(value, FunctionType)  # and no room of the folder
}
_NUMBERS = {"inf": float("inf"), "nan": float("nan")}
_WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, ImportError)
"""What comes of a constructor that is given something that it is not made for, or needs what is not installed."""


def callback_of(text: str) -> Callback[Any]:
    """The callback that an expression makes.

    It is made of calls of the built-in callbacks and of `compose`, `when`, `masked`, `every`, `after`, `first` and
    `between`; of text, numbers, `inf`, `nan`, True, False, None, lists, tuples, dicts and sets; and of predicates
    combined with `&`, `|` and `~`. There are no other names, and no attributes, so that nothing else can be reached.

    Args:
      text: of at most `LONGEST` characters and `DEEPEST` levels.

    Raises:
      ValueError: for anything else, and for arguments that a constructor refuses, with what is wrong.

    Example:
      >>> callback_of("compose(early_stop('val_loss', patience=2), when(every(steps=100), ema(0.9)))")
      ... # doctest: +ELLIPSIS
      compose(Callback('early_stop(val_loss)', monitor='val_loss', ...patience=2, ...when='every(steps=100)'))
      >>> callback_of("erly_stop('val_loss')")
      Traceback (most recent call last):
      ValueError: callback_of: every name must be a built-in callback, got 'erly_stop'. Did you mean early_stop?
    """
    made = _made(text, parsed("callback_of", text, "early_stop('val_loss')"), DEEPEST)
    if not isinstance(made, Callback):
        raise ValueError(
            f"callback_of: an expression must make a callback, got {text!r}, which makes {made!r}. "
            "Write one such as early_stop('val_loss'), or several in compose(...)."
        )
    return made


def written(callback: Callback[Any]) -> str | None:
    """The expression that makes a built-in callback again, so that `callback_of` gives its like.

    Arguments that are as the signature has them by default are left out.

    Returns:
      The expression; None for a composition, a callback made by hand, or one with an argument that is no literal, such
      as a function or a tensor, or of which its `config` keeps too little to tell.

    Example:
      >>> from fncb.callbacks import early_stop, every, weight_averaging, when
      >>> written(when(every(epochs=2), early_stop("val_loss", patience=2)))
      "when(every(epochs=2), early_stop('val_loss', patience=2))"
      >>> written(weight_averaging(lambda **counters: True)) is None
      True
    """
    if callback.constructor not in _CONSTRUCTORS:
        return None
    try:
        arguments = _arguments(_CONSTRUCTORS[callback.constructor], callback.config)
        for given in (arguments, [*arguments, f"key={_literal(callback.key)}"]):
            text = _restricted(f"{callback.constructor}({', '.join(given)})", callback.config)
            if _are_alike(callback_of(text), callback):
                return text
    except (TypeError, ValueError):
        pass
    return None


def parsed(who: str, text: str, such_as: str) -> ast.expr:
    """The tree of an expression, of which nothing is known yet but that it is one.

    Raises:
      ValueError: naming who must be given one and an expression such as it takes.
    """
    if not isinstance(text, str):
        raise TypeError(f"{who}: an expression must be text such as {such_as!r}, got {text!r}.")
    if len(text) > LONGEST:
        raise ValueError(f"{who}: an expression must have at most {LONGEST} characters, got {len(text)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash that starts nothing is meant as it stands
        try:
            return ast.parse(text.strip(), mode="eval").body
        except (MemoryError, RecursionError):
            raise too_deep(who) from None
        except (SyntaxError, ValueError) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"{who}: it must be an expression such as {such_as}, got {text!r}: {why}.") from None


def too_deep(who: str) -> ValueError:
    """The error for more than `DEEPEST` levels."""
    return ValueError(f"{who}: an expression must have at most {DEEPEST} levels, got more.")


def shown(text: str, node: ast.AST) -> str:
    """A part of an expression, as it was written."""
    part = ast.get_source_segment(text.strip(), node) or ""
    return repr(part if len(part) <= 200 else f"{part[:200]}...")


def _made(text: str, node: ast.expr, levels: int) -> Any:
    if not levels:
        raise too_deep("callback_of")

    def inner(node: ast.expr) -> Any:
        return _made(text, node, levels - 1)

    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Call(func=ast.Name(id=name)):
            return _called(text, node, name, [inner(each) for each in node.args], _by_name(text, node, inner))
        case ast.Name(id=name) if name in _NUMBERS:
            return _NUMBERS[name]
        case ast.Name(id=name) if name in _CONSTRUCTORS:
            raise ValueError(f"callback_of: {name} must be called, got it without arguments. Write {name}(...).")
        case ast.Name(id=name):
            raise ValueError(f"callback_of: text must stand in quotes, got {name}. Write {name!r}.")
        case ast.UnaryOp(op=ast.USub()) if type(number := inner(node.operand)) in (int, float):
            return -number
        case ast.UnaryOp(op=ast.Invert()) if isinstance(predicate := inner(node.operand), Predicate):
            return ~predicate
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op):
            one, other = inner(node.left), inner(node.right)
            if isinstance(one, Predicate) and isinstance(other, Predicate):
                return one & other if isinstance(op, ast.BitAnd) else one | other
        case ast.List(elts=elements):
            return [inner(each) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple([inner(each) for each in elements])
        case ast.Set(elts=elements):
            return _hashed(set, text, node, [inner(each) for each in elements])
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return _hashed(dict, text, node, [(inner(k), inner(v)) for k, v in zip(keys, values, strict=True) if k])
    raise ValueError(
        f"callback_of: it must be made of calls, literals, and predicates with & | ~, got {shown(text, node)}."
    )


def _hashed(kind: Callable[[list[Any]], Any], text: str, node: ast.expr, elements: list[Any]) -> Any:
    try:
        return kind(elements)
    except TypeError as error:
        raise ValueError(f"callback_of: {shown(text, node)}: {error}.") from None


def _by_name(text: str, node: ast.Call, inner: Callable[[ast.expr], Any]) -> dict[str, Any]:
    names = [keyword.arg for keyword in node.keywords]
    if None in names or len({*names}) < len(names):
        raise ValueError(f"callback_of: every argument must have a name of its own, got {shown(text, node)}.")
    return {keyword.arg: inner(keyword.value) for keyword in node.keywords if keyword.arg}


def _called(text: str, node: ast.Call, name: str, given: list[Any], by_name: dict[str, Any]) -> Any:
    _must_be_known(name)
    parameters = inspect.signature(_CONSTRUCTORS[name]).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
    for argument in by_name if all(each.kind is not each.VAR_KEYWORD for each in parameters) else ():
        if argument not in known:
            hint = _meant(argument, known)
            raise ValueError(f"callback_of: every argument must be one of {name}'s, got {argument!r}. {hint}")
    try:
        return _CONSTRUCTORS[name](*given, **by_name)
    except _WRONG as error:
        raise ValueError(f"callback_of: {shown(text, node)} cannot be made: {error}") from error


def _must_be_known(name: str) -> None:
    if name not in _CONSTRUCTORS:
        hint = _meant(name, [*_CONSTRUCTORS])
        raise ValueError(f"callback_of: every name must be a built-in callback, got {name!r}. {hint}")


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"There are {', '.join(known)}."


def _arguments(constructor: Callable[..., Any], config: Mapping[str, Any]) -> list[str]:
    """The arguments of a call that makes a config.

    Raises:
      TypeError: if one of them is no literal, or if the config does not tell all of them.
    """
    parameters = {name: each for name, each in inspect.signature(constructor).parameters.items() if name != "key"}
    if parameters.keys() ^ (config.keys() - {"when", "masked"}):
        raise TypeError("a config must hold every argument and nothing else")
    arguments, by_position = [], True
    for name, parameter in parameters.items():
        value = config[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += [_literal(each) for each in value]
            continue
        by_position = by_position and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if _is_default(value, parameter.default):
            by_position = False
        else:
            arguments.append(_literal(value) if by_position else f"{name}={_literal(value)}")
    return arguments


def _is_default(value: Any, default: Any) -> bool:
    if value is default:
        return True
    try:
        return _literal(value) == _literal(default)
    except TypeError:
        return False


def _literal(value: Any) -> str:
    """A value as text that is read as its equal, of the same type. Predicates have a name that makes them."""
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    if isinstance(value, float):
        return repr(float(value))  # also of a number of numpy's
    if isinstance(value, Predicate):
        return value.name
    if type(value) in (list, tuple, set):
        inner = ", ".join(map(_literal, value))
        begin, end = {list: "[]", tuple: "()", set: "{}"}[type(value)]
        return f"{begin}{inner}{',' if type(value) is tuple and len(value) == 1 else ''}{end}"
    if type(value) is dict:
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    raise TypeError(f"a literal must be plain data, got {value!r}")


def _restricted(text: str, config: Mapping[str, Any]) -> str:
    """An expression within what `when` and `masked` noted in a config, in the order in which they did."""
    for name in config:
        if name == "masked":
            patterns = config[name]
            text = f"masked({text}, {_literal(patterns[0] if len(patterns) == 1 else tuple(patterns))})"
        elif name == "when":
            for predicate in reversed(_conjuncts(config[name])):
                text = f"when({predicate}, {text})"
    return text


def _conjuncts(names: str) -> list[str]:
    """The predicates, outermost first, of `when` within `when`; one that is made with `&` stands in parentheses."""
    node, found = parsed("written", names, "every(steps=100)"), []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd) and node.col_offset == 0:
        found.append(ast.get_source_segment(names, node.right) or "")
        node = node.left
    return [ast.get_source_segment(names, node) or "", *reversed(found)]


def _are_alike(one: Callback[Any], other: Callback[Any]) -> bool:
    """Whether two callbacks are equal in all that can be compared: their functions cannot."""
    fields = ("key", "constructor", "config", "emits")
    if any(getattr(one, name) != getattr(other, name) for name in fields):
        return False
    return hook_names(one) == hook_names(other) and hook_names(one.step) == hook_names(other.step)
