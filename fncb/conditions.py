"""Text to questions about events, as in `val_loss < 0.3 and epoch > 2`. Nothing is evaluated but comparisons."""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from fncb.events import Event
from fncb.expressions import DEEPEST, parsed, shown, too_deep

Need = tuple[str, str | None]
"""What a condition reads of an event: a name, and what stands in brackets behind it, or None."""

_Known = Mapping[Need, Any]

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_NUMBERS = {"inf": float("inf"), "nan": float("nan")}


@attrs.frozen
class Condition:
    """A question about an event, made of text.

    Attributes:
      text: the expression.
      needs: what it reads of an event, each once.
    """

    text: str
    needs: tuple[Need, ...]
    _ask: Callable[[_Known], Any] = attrs.field(repr=False, eq=False)

    def __call__(self, event: Event) -> bool:
        """Whether it holds for an event."""
        try:
            return bool(self._ask({need: _read(event, need) for need in self.needs}))
        except (LookupError, TypeError, ArithmeticError):  # a name that it has not, text below a number, by zero
            return False


def condition_of(text: str) -> Condition:
    """What tells events for which an expression holds from the others.

    A name is a field of the event that is no live one, such as `step` or `reason`, or else one of its metrics; a metric
    whose name is no word is `metrics['val_loss/a']`. Besides there are numbers, text, `inf`, `nan`, True, False, None,
    lists and tuples; comparisons, also in chains, `in` and `not in`; `and`, `or` and `not`; `+`, `-`, `*`, `/`, `//`
    and `%` of numbers, and `+` of text.

    For an event that has not every name of the expression, the answer is False, wherever in it the name stands: under
    `not` and beside `or` too. So it is where text is compared with a number, or a number divided by zero.

    Args:
      text: of at most `LONGEST` characters and `DEEPEST` levels.

    Raises:
      ValueError: for anything else.

    Example:
      >>> from fncb.events import TrainEnd, ValidationEnd
      >>> is_good = condition_of("val_loss < 0.3 and step % 100 == 0")
      >>> [is_good(ValidationEnd(step=step, metrics={"val_loss": 0.25})) for step in (100, 150)], is_good(TrainEnd())
      ([True, False], False)
      >>> condition_of("val_loss ** 2 < 1")
      Traceback (most recent call last):
      ValueError: condition_of: it must be made of comparisons, names, numbers and text, got 'val_loss ** 2'.
    """
    tree = parsed("condition_of", text, "val_loss < 0.3")
    ask = _question(text, tree, DEEPEST)
    return Condition(text, tuple(dict.fromkeys(_needs(tree))), ask)


def has(event: Event, need: Need) -> bool:
    """Whether an event has what a condition needs.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> check = ValidationEnd(metrics={"acc": 0.5})
      >>> has(check, ("acc", None)), has(check, ("metrics", "acc")), has(check, ("val_loss", None))
      (True, True, False)
    """
    try:
        _read(event, need)
    except (LookupError, TypeError):
        return False
    return True


def _needs(tree: ast.expr) -> Iterator[Need]:
    within = {each.value for each in ast.walk(tree) if isinstance(each, ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and node not in within):
            need = _need(node)
            if need and need[0] not in _NUMBERS:
                yield need


def _need(node: ast.expr) -> Need | None:
    match node:
        case ast.Name(id=name):
            return (name, None)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as key)):
            return (name, key)
    return None


def _read(event: Event, need: Need) -> Any:
    """What an event has under a name.

    Raises:
      LookupError: if there is no such name.
    """
    name, key = need
    fields = event.__dict__  # in which live fields have an underscore
    value = fields[name] if name in fields and not name.startswith("_") else fields["metrics"][name]
    return value if key is None else value[key]


def _question(text: str, node: ast.expr, levels: int) -> Callable[[_Known], Any]:
    if not levels:
        raise too_deep("condition_of")

    def inner(node: ast.expr) -> Callable[[_Known], Any]:
        return _question(text, node, levels - 1)

    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return lambda _: value
        case ast.Name(id=name) if name in _NUMBERS:
            return lambda _: _NUMBERS[name]
        case ast.Name() | ast.Subscript() if need := _need(node):
            return operator.itemgetter(need)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            parts = [inner(each) for each in elements]
            return lambda known: [part(known) for part in parts]
        case ast.BoolOp(op=op, values=values):
            return _joined([inner(each) for each in values], isinstance(op, ast.And))
        case ast.UnaryOp(op=ast.Not()):
            operand = inner(node.operand)
            return lambda known: not operand(known)
        case ast.UnaryOp(op=ast.USub()):
            operand = inner(node.operand)
            return lambda known: -_number(operand(known))
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return _calculation(_ARITHMETIC[type(op)], inner(node.left), inner(node.right))
        case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
            parts = [inner(each) for each in (node.left, *node.comparators)]
            return _comparison([_COMPARISONS[type(op)] for op in ops], parts)
    raise ValueError(f"condition_of: it must be made of comparisons, names, numbers and text, got {shown(text, node)}.")


def _joined(parts: list[Callable[[_Known], Any]], by_and: bool) -> Callable[[_Known], Any]:
    def result(known: _Known) -> Any:
        value = None
        for part in parts:
            value = part(known)
            if bool(value) is not by_and:  # the rest changes nothing
                break
        return value

    return result


def _comparison(
    compare: list[Callable[[Any, Any], Any]], parts: list[Callable[[_Known], Any]]
) -> Callable[[_Known], bool]:
    def holds(known: _Known) -> bool:
        left = parts[0](known)
        for does, part in zip(compare, parts[1:], strict=True):
            right = part(known)
            if not does(left, right):
                return False
            left = right
        return True

    return holds


def _calculation(
    calculate: Callable[[Any, Any], Any], one: Callable[[_Known], Any], other: Callable[[_Known], Any]
) -> Callable[[_Known], Any]:
    def result(known: _Known) -> Any:
        left, right = one(known), other(known)
        if calculate is operator.add and isinstance(left, str) and isinstance(right, str):
            return left + right
        return calculate(_number(left), _number(right))  # `%` and `*` of text could make a lot of it

    return result


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise TypeError(f"it must be a number, got {value!r}")
    return value
