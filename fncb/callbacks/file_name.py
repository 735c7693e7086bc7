"""File names from templates: `{epoch}`, `{step}` and metrics, each with a format of numbers, and nothing else."""

import re
from collections.abc import Callable
from pathlib import PureWindowsPath

_FIELD = re.compile(r"\{([^{}:!]+)(?::([^{}]*))?\}")
_FORMAT = re.compile(r"[<>^=]?[-+]?0?\d{0,2}(\.\d{1,2})?[deEfFgG]?")  # a width of three digits is no file name


def file_name(template: str, value_of: Callable[[str], float], insert_names: bool = True) -> str:
    """Fills in the fields of a template.

    A metric with an integer format, such as `03d`, is shown as an integer if it is whole, otherwise as with `03g`.

    Args:
      template: text with fields `{name}` or `{name:format}`.
      value_of: gives the value of a name.
      insert_names: whether a field becomes `name=value` and not just `value`.

    Example:
      >>> file_name("{epoch:03d}-{val/acc:.2f}", {"epoch": 3, "val/acc": 0.5}.__getitem__)
      'epoch=003-val/acc=0.50'
    """

    def filled(field: re.Match[str]) -> str:
        name, spec = field[1], field[2] or ""
        value = value_of(name)
        if spec.endswith("d") and isinstance(value, float):
            value, spec = (int(value), spec) if value.is_integer() else (value, spec[:-1] + "g")
        return f"{name}={value:{spec}}" if insert_names else f"{value:{spec}}"

    return _FIELD.sub(filled, template)


def fields_of(template: str) -> set[str]:
    """The names of a template's fields."""
    return {name for name, _ in _FIELD.findall(template)}


def check_template(who: str, template: str, insert_names: bool = True, what: str = "filename") -> None:
    """Raises if a template is malformed or could name a file outside the folder that it is for.

    `what` is the name of the argument. What a field becomes is a number, so an example tells: values bring no slash and
    no second dot in a row.

    Raises:
      TypeError: if it is not text.
      ValueError: for anything but fields in braces, a format that is not a number's, an absolute path, a drive, a `..`
        folder, a folder without a file, or characters that cannot be printed.

    Example:
      >>> check_template("checkpoint", "../{epoch}")
      Traceback (most recent call last):
      ValueError: checkpoint: filename must name a file inside its folder, got '../{epoch}'.
    """
    if not isinstance(template, str):
        raise TypeError(f"{who}: {what} must be text, got {template!r}.")
    between = _FIELD.sub("", template)
    if "{" in between or "}" in between:
        raise ValueError(f"{who}: {what} must hold fields as {{name}} or {{name:format}}, got {template!r}.")
    try:
        for name, spec in _FIELD.findall(template):
            if not _FORMAT.fullmatch(spec):
                raise ValueError(f"Unknown format {spec!r} of {name!r}")
        example = file_name(template, lambda name: 0 if name in ("epoch", "step") else 0.5, insert_names)
    except ValueError as error:
        raise ValueError(f"{who}: {what} must hold formats such as 03d or .2f, got {template!r}. {error}.") from None
    path = PureWindowsPath(example)  # knows both kinds of slash, and drives
    if path.anchor or ".." in path.parts or example[-1:] in ("", "/", "\\") or not example.isprintable():
        raise ValueError(f"{who}: {what} must name a file inside its folder, got {template!r}.")
