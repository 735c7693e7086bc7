from math import inf, nan

import pytest

from fncb.callbacks.file_name import check_template, fields_of, file_name


@pytest.mark.parametrize(("insert_names", "name"), [(True, "a{}b-epoch=003/val/acc=0.50"), (False, "a{}b-003/0.50")])
def test_fields_are_filled_in_with_their_names_or_without(insert_names, name):
    template = "a{}b-{epoch:03d}/{val/acc:.2f}"

    assert file_name(template, {"epoch": 3, "val/acc": 0.5}.__getitem__, insert_names) == name
    assert fields_of(template) == {"epoch", "val/acc"}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (3.0, "n=003"),
        (1e6, "n=1000000"),  # not 1e+06
        (0.5, "n=0.5"),  # an integer format must not end a run because a metric is not whole
        (nan, "n=nan"),
        (-inf, "n=-inf"),
    ],
)
def test_an_integer_format_takes_any_metric(value, name):
    assert file_name("{n:03d}", {"n": value}.__getitem__) == name


@pytest.mark.parametrize(
    "template",
    ["best", "{epoch}", "a/b/{step}", "{val/loss:.2f}", "..{epoch}", "{mAP@0.50}", "{x:<8.3g}", "été {epoch}"],
)
def test_templates_that_are_fine(template):
    check_template("checkpoint", template)


@pytest.mark.parametrize("insert_names", [True, False])
@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{epoch", "fields as"),
        ("epoch}", "fields as"),
        ("{}", "fields as"),
        ("{:d}", "fields as"),
        ("{{epoch}}", "fields as"),
        ("{epoch!r}", "fields as"),
        ("{epoch:{step}}", "fields as"),
        ("{epoch:s}", "formats such as"),
        ("{epoch:.2d}", "formats such as"),
        ("{acc:z}", "formats such as"),
        ("{acc:999999999f}", "formats such as"),  # a name of 1 GB
        ("{acc:.999f}", "formats such as"),
        ("../{epoch}", "inside its folder"),
        ("a/../../{epoch}", "inside its folder"),
        ("..", "inside its folder"),
        ("/tmp/{epoch}", "inside its folder"),
        ("\\tmp\\{epoch}", "inside its folder"),
        ("a\\..\\..\\{epoch}", "inside its folder"),
        ("C:{epoch}", "inside its folder"),
        ("{epoch}/", "inside its folder"),
        ("{epoch}\0", "inside its folder"),
        ("a\n{epoch}", "inside its folder"),
        ("a\x1b[2J", "inside its folder"),
        ("", "inside its folder"),
    ],
)
def test_templates_that_are_refused(template, message, insert_names):
    with pytest.raises(ValueError, match=rf"^checkpoint: filename must .*{message}"):
        check_template("checkpoint", template, insert_names)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "x\0"])
def test_a_metric_cannot_leave_the_folder(name):  # promise 12
    with pytest.raises(ValueError, match="inside its folder"):
        check_template("checkpoint", f"{{{name}}}")

    check_template("checkpoint", f"{{{name}}}", insert_names=False)  # its name is not in the file's
    assert file_name(f"{{{name}}}", {name: 0.5}.__getitem__, insert_names=False) == "0.5"


def test_a_template_is_text():
    with pytest.raises(TypeError, match=r"^checkpoint: last_filename must be text, got 3\."):
        check_template("checkpoint", 3, what="last_filename")
