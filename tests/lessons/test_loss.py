"""The loss: cross-entropy as its formula has it, and the same value and gradients a few rows at a time."""

import pytest
import torch
import torch.nn.functional as F

from helpers.loss import chunked_cross_entropy, cross_entropy
from helpers.model import GPT, GPTConfig
from tests.plain import assert_close


def random_inputs(rows, vocabulary, width=8):
    """x (rows, width), weight (vocabulary, width) and targets (rows,): the logits are x @ weight.T."""
    torch.manual_seed(0)
    x, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    return x, weight, torch.randint(vocabulary, (rows,))


# The formula


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 7), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("vocabulary", [2, 33, 1003])
def test_cross_entropy_and_its_gradient_are_pytorchs(shape, vocabulary):
    torch.manual_seed(0)
    logits, targets = torch.randn(*shape, vocabulary, requires_grad=True), torch.randint(vocabulary, shape)
    loss, expected = cross_entropy(logits, targets), F.cross_entropy(logits.reshape(-1, vocabulary), targets.flatten())
    assert loss.shape == ()
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_very_large_logits_do_not_overflow(size):
    """exp(100) is more than float32 can hold. It rounds a logit by up to 6e-8 of its size, hence the tolerance."""
    logits = torch.tensor([[size, -size, 0.0], [size, size, size], [-size, -size, -size]], requires_grad=True)
    close = {"rtol": 1e-5, "atol": 2e-7 * size}
    for targets in (torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]), torch.tensor([2, 0, 1])):
        loss, expected = cross_entropy(logits, targets), F.cross_entropy(logits, targets)
        torch.testing.assert_close(loss, expected, **close)
        gradients = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
        torch.testing.assert_close(*gradients, **close)
    assert torch.isfinite(cross_entropy(logits * 1e30, targets))


# A few rows at a time


@pytest.mark.parametrize("rows", [1, 3, 7, 25, 50, 64, None])
@pytest.mark.parametrize("vocabulary", [2, 33, 1003])
def test_the_loss_in_chunks_has_the_same_value_and_gradients(rows, vocabulary):
    x, weight, targets = random_inputs(50, vocabulary)
    plain = cross_entropy(x @ weight.T, targets)
    expected = torch.autograd.grad(plain, (x, weight))
    loss = chunked_cross_entropy(x, weight, targets, rows)
    assert_close(loss, plain)
    for _ in range(2):  # backward may run twice, and multiplies by the gradient of the loss
        gradients = torch.autograd.grad(loss, (x, weight), torch.tensor(3.0), retain_graph=True)
        for gradient, other in zip(gradients, expected):
            assert_close(gradient, 3 * other)


@pytest.mark.parametrize("ignored", [(0,), (0, 1, 2), range(49), range(1, 50, 2), range(50)], ids=str)
@pytest.mark.parametrize("rows", [3, 50, None])
def test_targets_of_minus_100_do_not_count_as_in_pytorch(rows, ignored):
    """With all targets ignored the loss is nan; the gradient is then 0, so that a part of a batch adds nothing."""
    x, weight, targets = random_inputs(50, 33)
    targets[list(ignored)] = -100
    loss, expected = chunked_cross_entropy(x, weight, targets, rows), F.cross_entropy(x @ weight.T, targets)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    gradients = torch.autograd.grad(loss, (x, weight))
    for gradient, other in zip(gradients, torch.autograd.grad(expected, (x, weight))):
        assert_close(gradient, other.nan_to_num() if len(ignored) == 50 else other)
    assert not gradients[0][list(ignored)].any()


def test_very_large_logits_in_chunks_do_not_overflow():
    x, weight, targets = random_inputs(50, 33)
    x = (x * 1e4).detach().requires_grad_()
    plain, loss = cross_entropy(x @ weight.T, targets), chunked_cross_entropy(x, weight, targets, 7)
    assert torch.isfinite(loss) and loss > 1e3
    assert_close(loss, plain)
    for gradient, expected in zip(torch.autograd.grad(loss, (x, weight)), torch.autograd.grad(plain, (x, weight))):
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_the_loss_in_chunks_with_a_frozen_input(frozen):
    x, weight, targets = random_inputs(9, 5)
    (x if frozen == "x" else weight).requires_grad_(False)
    free = weight if frozen == "x" else x
    expected = torch.autograd.grad(cross_entropy(x @ weight.T, targets), free)
    gradient = torch.autograd.grad(chunked_cross_entropy(x, weight, targets, 4), free)
    assert_close(gradient[0], expected[0])


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_under_autocast_chunks_are_as_exact_as_one_product(dtype, tolerance):
    """In 16 bits the products round. The sums over chunks and the softmax must not, and nothing may underflow."""
    x, weight, targets = random_inputs(300, 2000, width=16)
    expected = torch.autograd.grad(F.cross_entropy(x @ weight.T, targets), (x, weight))
    with torch.autocast("cpu", dtype):
        loss = chunked_cross_entropy(x, weight, targets, 32)
    assert loss.dtype == torch.float32
    for gradient, exact in zip(torch.autograd.grad(loss, (x, weight)), expected):
        assert (gradient - exact).norm() / exact.norm() < tolerance


def test_without_gradients_the_loss_computes_none():
    x, weight, targets = random_inputs(9, 5)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = chunked_cross_entropy(x, weight, targets, 4)
        assert not loss.requires_grad and loss.item() == pytest.approx(F.cross_entropy(x @ weight.T, targets).item())


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
def test_the_loss_in_chunks_is_pytorchs_linear_cross_entropy():
    x, weight, targets = random_inputs(70, 99)
    theirs, ours = F.linear_cross_entropy(x, weight, targets), chunked_cross_entropy(x, weight, targets, 16)
    assert_close(ours, theirs)
    for gradient, other in zip(torch.autograd.grad(ours, (x, weight)), torch.autograd.grad(theirs, (x, weight))):
        assert_close(gradient, other)


def test_a_second_derivative_is_refused():
    """The gradients are constants by then, so a second derivative would silently lack a term."""
    x, weight, targets = random_inputs(4, 5)
    loss = chunked_cross_entropy(x, weight, targets)
    slope = torch.autograd.grad(loss, x, torch.tensor(2.0, requires_grad=True), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_a_training_step_never_holds_all_logits():
    config = GPTConfig(vocab_size=2000, n_positions=512, n_embd=16, n_layer=1, n_head=1)
    model, ids, largest = GPT(config), torch.randint(2000, (8, 512)), 0

    class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with LargestTensor():
        model(ids, ids).backward()
    assert largest < ids.numel() * config.vocab_size / 2
