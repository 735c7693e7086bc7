import pytest
import torch

from fncb.callbacks.norms import total_norm

TENSORS = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [-12.0]]), torch.tensor(84.0)]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(2.0, 85.0), (1.0, 103.0), (float("inf"), 84.0), (3.0, (27.0 + 64.0 + 1728.0 + 592704.0) ** (1 / 3))],
)
@pytest.mark.parametrize("order", [TENSORS, TENSORS[::-1]])
def test_it_is_the_norm_of_all_of_them_as_one_vector(p, expected, order):
    assert total_norm(order, p).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_of_one_it_is_its_own(p):
    one = torch.randn(7, generator=torch.Generator().manual_seed(0))

    assert torch.equal(total_norm([one], p), torch.linalg.vector_norm(one, p))
    assert total_norm([torch.tensor([2.0**100])], p).item() == 2.0**100  # whose square there is none of


def test_it_agrees_with_torch():
    grads = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in range(1, 9)]

    for p in (1.0, 2.0, 2.5, float("inf")):
        torch.testing.assert_close(total_norm(grads, p), torch.nn.utils.get_total_norm(grads, p))


@pytest.mark.parametrize(
    ("dtype", "of"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_half_precision_does_not_overflow_and_double_stays(dtype, of):
    norm = total_norm([torch.full((2,), 60000.0, dtype=dtype)] * 2)  # whose square is more than float16 holds

    assert norm.dtype == of
    assert norm.item() == pytest.approx(120000.0, rel=1e-2)


def test_what_is_not_finite_is_seen_in_it():
    bad = [torch.ones(2), torch.tensor([1.0, float("nan")]), torch.ones(1)]

    for p in (1.0, 2.0, float("inf")):
        assert total_norm(bad, p).isnan()
        assert total_norm([torch.ones(1), torch.tensor([float("inf")])], p).isinf()


def test_zeros_have_the_norm_zero():
    assert total_norm([torch.zeros(3), torch.zeros(1)]).item() == 0.0
