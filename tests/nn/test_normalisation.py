import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from nnunet_iac.nn.search_cell import normalised, normalised_sum

EPS = 1e-3


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def samples(features, dtype=torch.float64):
    return torch.randn(2, 5, features, dtype=dtype) * 3 + 1


def test_normalised_is_instance_norm():
    x = samples(3)
    expected = functional.instance_norm(x.mT, eps=EPS).mT
    torch.testing.assert_close(normalised(x, EPS), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normalised(x, EPS, rectify=True), expected.relu())


@pytest.mark.parametrize("rectify", [False, True])
def test_the_gradient_of_normalised_is_that_of_finite_differences(rectify):
    assert gradcheck(lambda x: normalised(x, EPS, rectify), samples(3).requires_grad_())


def test_a_normalised_sum_is_the_sum_of_products_of_normalised_terms():
    terms, total = [samples(3), samples(2)], samples(4)
    weight = torch.randn(5, 4, dtype=torch.float64)
    first, second = (normalised(x, EPS) for x in terms)
    expected = total + first @ weight[:3] + second @ weight[3:]
    torch.testing.assert_close(normalised_sum(terms, weight, total, EPS), expected)


def test_the_gradients_of_a_normalised_sum_are_those_of_finite_differences():
    operands = (samples(3), samples(2), torch.randn(5, 4, dtype=torch.float64), samples(4))
    assert gradcheck(
        lambda x, y, weight, total: normalised_sum([x, y], weight, total, EPS),
        [operand.requires_grad_() for operand in operands],
    )


def test_a_large_mean_does_not_spoil_float32():
    x = samples(3)
    far = (x + 1000).float()
    torch.testing.assert_close(
        normalised(far, EPS).double(), normalised(x, EPS), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_and_statistics_are_taken_in_float32(dtype):
    x = samples(3).to(dtype)
    weight, total = torch.randn(3, 4), samples(4).to(dtype)
    result = normalised_sum([x.requires_grad_()], weight.requires_grad_(), total, EPS)
    result.float().square().sum().backward()
    assert result.dtype == x.grad.dtype == dtype
    assert weight.grad.dtype == torch.float32
    exact = normalised_sum([x.float()], weight, total.float(), EPS)
    torch.testing.assert_close(result.float(), exact, rtol=3e-2, atol=3e-2)


def test_squares_do_not_overflow_half_precision():
    x = samples(3)
    large = (x * 300).half()
    torch.testing.assert_close(
        normalised(large, EPS).double(), normalised(x * 300, EPS), rtol=1e-2, atol=1e-2
    )
