import pytest
import torch
from torch import nn

from fncb.callbacks.model_summary import model_summary
from fncb.callbacks.rich_model_summary import rich_model_summary
from fncb.callbacks.summary import OWN, Passed, Row, Summary, as_text, sizes, summarize
from fncb.effects import Examine, Print
from fncb.events import FitStart
from tests.conformance.runs import batches, notes, task, train
from tests.folding import fold


class Net(nn.Module):
    """Tied weights, a part that is called twice, one that is not called, parameters outside of all parts."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Dropout(0.5))
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Linear(1, 1)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x, *, scale=1.0):
        return self.head(self.body(self.body(self.embed(x)))) * scale


def modes_of(model):
    return {name: module.training for name, module in model.named_modules()}


def summed_up(model, max_depth=1, example_input=None):
    modes = modes_of(model)
    with torch.no_grad():
        return summarize(model.eval(), modes, max_depth, example_input)


def test_a_row_for_each_part_and_one_for_what_is_outside_of_them():
    summary = summed_up(Net())

    assert summary == Summary(
        rows=(
            Row(OWN, "Net", 3, True),
            Row("embed", "Embedding", 40, True),
            Row("body", "Sequential", 16, True),
            Row("head", "Linear", 40, True),
            Row("unused", "Linear", 2, True),
        ),
        trainable=3 + 40 + 16 + 2,  # what is tied counts once
        frozen=0,
        bytes=4 * 61,
        modes=(6, 0),
    )


@pytest.mark.parametrize(("max_depth", "n"), [(1, 4), (2, 6), (-1, 6), (9, 6)])
def test_levels_of_parts(max_depth, n):
    names = [row.name for row in summed_up(Net(), max_depth).rows if row.name != OWN]

    assert len(names) == n
    assert ("body.0" in names) == (n == 6)


def test_a_model_without_parts_is_a_row_itself():
    summary = summed_up(nn.Linear(32, 2), example_input=torch.ones(1, 32))

    assert summary.rows == (Row(OWN, "Linear", 66, True, Passed(128, "[1, 32]", "[1, 2]")),)
    assert (summary.modes, summary.flops) == ((1, 0), 128)


def test_a_model_of_nothing_is_a_row_too():
    assert summed_up(nn.ReLU()).rows == (Row(OWN, "ReLU", 0, True),)


def test_an_example_input_tells_sizes_and_operations():
    summary = summed_up(Net(), 2, torch.zeros(2, 5, dtype=torch.long))

    assert [(row.name, row.passed) for row in summary.rows] == [
        (OWN, None),
        ("embed", Passed(0, "[2, 5]", "[2, 5, 4]")),
        ("body", Passed(2 * 320, "[2, 5, 4]", "[2, 5, 4]")),  # 2 calls of 2 * 10 * 4 * 4 operations
        ("body.0", Passed(2 * 320, "[2, 5, 4]", "[2, 5, 4]")),
        ("body.1", Passed(0, "[2, 5, 4]", "[2, 5, 4]")),
        ("head", Passed(800, "[2, 5, 4]", "[2, 5, 10]")),
        ("unused", None),
    ]
    assert summary.flops == 2 * 320 + 800


@pytest.mark.parametrize(
    "example_input",
    [(torch.zeros(2, 5, dtype=torch.long),), {"x": torch.zeros(2, 5, dtype=torch.long), "scale": 2.0}],
)
def test_an_example_input_may_be_several_arguments(example_input):
    assert summed_up(Net(), 1, example_input).flops == 1440


def test_floating_point_inputs_have_the_precision_of_the_model():
    assert summed_up(nn.Sequential(nn.Linear(3, 1)).double(), example_input=torch.ones(2, 3)).flops == 12


def test_attention_is_counted_as_its_parts():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    summary = summed_up(nn.Sequential(layer), -1, torch.ones(2, 5, 8))
    passed = {row.name: row.passed for row in summary.rows}

    # projections of 10 vectors: 3 in, 1 out, and the two layers after them
    assert summary.flops >= 2 * 10 * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    assert passed["0.self_attn"].inputs == "[[2, 5, 8], [2, 5, 8], [2, 5, 8]]"
    assert passed["0.self_attn"].flops > 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_pass_that_fails_leaves_no_hook_behind():
    model = Net()
    with pytest.raises(RuntimeError):
        summed_up(model, -1, torch.ones(2, 5))

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_frozen_parameters_and_the_modes_of_training_are_told():
    model = Net()
    model.embed.weight.requires_grad_(False)
    model.body.eval()
    summary = summed_up(model)

    assert (summary.trainable, summary.frozen, summary.modes) == (21, 40, (3, 3))
    assert [row.training for row in summary.rows] == [True, True, False, True, True]


def test_what_is_not_initialised_yet_counts_as_0():
    lazy = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    summary = summed_up(lazy)

    assert [row.params for row in summary.rows] == [0, 3]
    assert (summary.trainable, summary.bytes) == (3, 12)
    assert [row.params for row in summed_up(lazy, example_input=torch.ones(1, 4)).rows] == [10, 3]


def test_the_table_as_text():
    summary = Summary(
        rows=(
            Row(OWN, "Net", 3, True),
            Row("body", "Sequential", 1_234_567, False, Passed(12_345, "[2, 4]", "[[2, 4], {x: [1]}]")),
            Row("rest", "Linear", 2, True),
        ),
        trainable=3,
        frozen=1_234_569,
        bytes=4_938_288,
        modes=(1, 1),
        flops=12_345,
    )

    assert as_text(summary).split("\n") == [
        "  │ Name             │ Type       │    Params │ Mode  │  FLOPs │ In sizes │ Out sizes",
        "──┼──────────────────┼────────────┼───────────┼───────┼────────┼──────────┼───────────────────",
        "0 │ (own parameters) │ Net        │         3 │ train │        │          │",
        "1 │ body             │ Sequential │ 1,234,567 │ eval  │ 12.3 K │ [2, 4]   │ [[2, 4], {x: [1]}]",
        "2 │ rest             │ Linear     │         2 │ train │      ? │ ?        │ ?",
        "",
        "Trainable params               3",
        "Non-trainable params   1,234,569",
        "Total params           1,234,572",
        "Size of params           4.94 MB",
        "Modules in train mode          1",
        "Modules in eval mode           1",
        "Total FLOPs               12.3 K",
    ]


def test_sizes_leave_out_what_is_no_tensor():
    assert sizes([torch.ones(1), (torch.ones(2, 2), None), "text", {"a": 1}]) == "[[1], [[2, 2]]]"
    assert sizes((None, 1)) == ""


def test_it_looks_at_the_start_of_a_fit_and_not_at_all_with_no_levels():
    assert fold(model_summary(), [FitStart()]).effects == (Examine("modes", eval_mode=False),)
    assert not model_summary(0).hears(FitStart)
    assert model_summary(0).emits == (Examine, Print)


def test_a_run_prints_it_and_is_not_changed_by_it(capsys):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    summary = model_summary(example_input=torch.ones(3, 32))

    train(task(model), batches(2), callbacks=[summary, sees_the_same(model, before)], max_steps=0)

    out = capsys.readouterr().out.splitlines()
    assert [line.split("│")[4].strip() for line in out[2:6]] == ["train", "eval", "train", "train"]
    assert out[2].split("│")[6].strip() == "[3, 32]"
    assert [module.training for module in model] == [True, False, True, True]


def sees_the_same(model, before):
    """A callback that checks at each event that all tensors of a model are as they were."""
    return notes(lambda event: torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0))[0]


@pytest.mark.parametrize("make", [model_summary, rich_model_summary])
@pytest.mark.parametrize(("max_depth", "error"), [(-2, ValueError), (True, TypeError), (1.0, TypeError)])
def test_wrong_levels_are_refused(make, max_depth, error):
    with pytest.raises(
        error, match=rf"^{make.__name__}: max_depth must be (-1 \(all levels\) or more|an int), got {max_depth}"
    ):
        make(max_depth)
