"""Every fast path gives the numbers of the plain one: forward, loss, gradients and tokens, in all shapes and states."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from helpers import attention, generation, runtime
from helpers.generation import KeyValueCache, RecordedStep, SplitOneRow, generate, split_linear
from helpers.model import chunked_cross_entropy
from tests.conftest import TINY

SHAPES = [(1, 1), (3, 1), (1, 7), (3, 7), (2, TINY.n_positions)]
STATES = {
    "as made": lambda model: model,
    "double": lambda model: model.double(),
    "there and back": lambda model: model.to(torch.float64).to(torch.device("cpu"), torch.float32),
    "train, eval, train": lambda model: model.train().eval().train(),
    "eval": lambda model: model.eval(),
    "a deep copy": copy.deepcopy,
}


def batch(rows, length):
    ids = torch.randint(TINY.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(7))
    return ids[:, :-1], ids[:, 1:]


def plain_norm(x, norm):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def plain_logits(model, ids):
    """GPT-2 from raw tensors, nothing fused: (B, T) -> (B, T, V)."""
    x = model.transformer.wte.weight[ids] + model.transformer.wpe.weight[: ids.shape[1]]
    for block in model.transformer.h:
        c_attn, c_proj = block.attn.c_attn, block.attn.c_proj
        weights = c_attn.weight, c_attn.bias, c_proj.weight, c_proj.bias
        x = x + attention.multi_head_attention(plain_norm(x, block.ln_1), *weights, TINY.n_head)
        h = plain_norm(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    return plain_norm(x, model.transformer.ln_f) @ model.transformer.wte.weight.T


def plain_loss(model, ids, targets):
    log_p = torch.log_softmax(plain_logits(model, ids), dim=-1)
    return -log_p.gather(-1, targets[..., None]).mean()


def plain_text(model, ids, new):
    for _ in range(new):
        best = plain_logits(model, ids[:, -TINY.n_positions :])[:, -1].argmax(dim=-1)
        ids = torch.cat([ids, best[:, None]], dim=1)
    return ids


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.fixture(params=STATES)
def model(request, tiny):
    return STATES[request.param](tiny)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def test_forward_loss_and_gradients(model, shape):
    ids, targets = batch(*shape)
    parameters = list(model.parameters())
    expected = plain_loss(model, ids, targets)
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    close(model(ids), plain_logits(model, ids))
    close(model(ids, last_only=True), plain_logits(model, ids)[:, -1:])
    loss = model(ids, targets)
    close(loss, expected.to(loss.dtype))
    for found, wanted in zip(torch.autograd.grad(loss, parameters), gradients):
        close(found, wanted)


def test_greedy_tokens_up_to_and_past_the_context(model, shape):
    ids, _ = batch(*shape)
    new = TINY.n_positions - shape[1] + 3
    expected = plain_text(model, ids, new)
    assert torch.equal(generate(model, ids, new, top_k=1), expected)
    with SplitOneRow():
        assert torch.equal(generate(model, ids, new, top_k=1), expected)


@pytest.mark.parametrize("rows", [1, 3, 7, 50, 64, None])
@pytest.mark.parametrize("vocabulary", [2, 33, 1003])
def test_loss_in_pieces(rows, vocabulary):
    torch.manual_seed(0)
    x, weight = torch.randn(50, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
    targets = torch.randint(vocabulary, (50,))
    whole = F.cross_entropy(x @ weight.T, targets)
    expected = torch.autograd.grad(whole, (x, weight))
    loss = chunked_cross_entropy(x, weight, targets, rows)
    close(loss, whole)
    for _ in range(2):  # backward may run twice, and what comes back is multiplied by the gradient of the loss
        found = torch.autograd.grad(loss, (x, weight), torch.tensor(3.0), retain_graph=True)
        for mine, other in zip(found, expected):
            close(mine, 3 * other)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_loss_in_pieces_with_a_frozen_input(frozen):
    torch.manual_seed(0)
    x, weight = torch.randn(9, 4, requires_grad=frozen != "x"), torch.randn(5, 4, requires_grad=frozen != "weight")
    targets, free = torch.randint(5, (9,)), weight if frozen == "x" else x
    expected = torch.autograd.grad(F.cross_entropy(x @ weight.T, targets), free)
    found = torch.autograd.grad(chunked_cross_entropy(x, weight, targets, 4), free)
    close(found[0], expected[0])


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_loss_in_pieces_under_autocast_is_as_exact_as_whole(dtype, tolerance):
    """In 16 bits the products round; the sums over pieces and the softmax must not, and nothing may underflow."""
    torch.manual_seed(0)
    x, weight = torch.randn(300, 16, requires_grad=True), torch.randn(2000, 16, requires_grad=True)
    targets = torch.randint(2000, (300,))
    expected = torch.autograd.grad(F.cross_entropy(x @ weight.T, targets), (x, weight))
    with torch.autocast("cpu", dtype):
        loss = chunked_cross_entropy(x, weight, targets, 32)
    assert loss.dtype == torch.float32
    for found, wanted in zip(torch.autograd.grad(loss, (x, weight)), expected):
        assert (found - wanted).norm() / wanted.norm() < tolerance


def test_loss_without_gradients_makes_none():
    x, weight, targets = torch.randn(9, 4), torch.randn(5, 4, requires_grad=True), torch.randint(5, (9,))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = chunked_cross_entropy(x, weight, targets, 4)
        assert not loss.requires_grad and loss.item() == pytest.approx(F.cross_entropy(x @ weight.T, targets).item())


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy")
def test_loss_in_pieces_is_pytorchs_linear_cross_entropy():
    torch.manual_seed(0)
    x, weight = torch.randn(70, 8, requires_grad=True), torch.randn(99, 8, requires_grad=True)
    targets = torch.randint(99, (70,))
    theirs = F.linear_cross_entropy(x, weight, targets)
    ours = chunked_cross_entropy(x, weight, targets, 16)
    close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, (x, weight)), torch.autograd.grad(theirs, (x, weight))):
        close(mine, other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_training_has_the_same_loss_and_gradients(tiny, shape):
    """All but the last stage of torch.compile, which writes machine code: one graph, without a break."""
    compiled, (ids, targets) = torch.compile(tiny, backend="aot_eager", fullgraph=True), batch(*shape)
    expected = torch.autograd.grad(tiny(ids, targets), list(tiny.parameters()))
    close(compiled(ids, targets), tiny(ids, targets))
    for found, wanted in zip(torch.autograd.grad(compiled(ids, targets), list(tiny.parameters())), expected):
        close(found, wanted)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 101])
def test_a_split_row_is_linear(monkeypatch, threads, rows):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 1, 6), torch.randn(rows, 6), torch.randn(rows)
    close(split_linear(x, weight), F.linear(x, weight))
    close(split_linear(x[0, 0], weight, bias), F.linear(x[0, 0], weight, bias))


def test_only_single_rows_are_split_and_only_inside_the_context(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(generation, "split_linear", lambda x, *rest: calls.append(x.shape) or F.linear(x, *rest))
    with SplitOneRow():
        tiny(batch(1, 1)[0])
        layers = 4 * TINY.n_layer + 1
        assert len(calls) == layers and all(shape[:-1].numel() == 1 for shape in calls)
        tiny(batch(3, 1)[0])
        tiny(batch(1, 2)[0])
    tiny(batch(1, 1)[0])
    assert len(calls) == layers


@pytest.mark.parametrize("helps", [True, False])
def test_generate_splits_rows_where_that_helps(tiny, monkeypatch, helps):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(generation, "splitting_helps", lambda rows, width, threads: helps)
    calls, real = [], generation.split_linear
    monkeypatch.setattr(generation, "split_linear", lambda *arguments: calls.append(1) or real(*arguments))
    ids, _ = batch(1, 4)
    text = generate(tiny, ids, 5, top_k=1)
    assert torch.equal(text, plain_text(tiny, ids, 5)) and bool(calls) == helps


def test_a_kernel_is_chosen_by_trying_both(monkeypatch):
    """Clearly faster and as exact: taken. Faster but rounded, or as exact but no faster: not."""
    for error, gain, expected in ((1e-6, 2.0, "medium"), (1e-6, 1.2, "highest"), (1e-2, 2.0, "highest")):
        runtime.try_matmul.cache_clear()
        monkeypatch.setattr(runtime, "times_faster", lambda new, old: gain)
        real = torch.Tensor.__matmul__

        def product(a, b):
            rounded = torch.get_float32_matmul_precision() == "medium"
            return real(a, b) + (error if rounded and a.dtype == torch.float32 else 0.0)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__matmul__", product)
            assert runtime.fastest_matmul("cpu") == expected
        assert torch.get_float32_matmul_precision() == "highest"
    runtime.try_matmul.cache_clear()
    assert runtime.fastest_matmul("cuda") is runtime.fastest_matmul("mps") is None


def test_a_learners_own_setting_by_the_newer_api_is_left_alone(tiny, monkeypatch):
    def mixed():
        raise RuntimeError("PyTorch is checking whether allow_tf32 is enabled: mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: pytest.fail("it was changed"))
    assert runtime.fastest_matmul("cpu") is None
    assert generate(tiny, batch(1, 3)[0], 2, top_k=1).shape == (1, 5)


def test_the_matmul_setting_comes_back():
    with pytest.raises(ZeroDivisionError), runtime.matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        1 / 0
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_faster_function_is_found():
    short, long = (torch.randn(n, n) for n in (32, 400))
    assert runtime.times_faster(lambda: short @ short, lambda: long @ long) > 3


def test_functions_take_turns_and_the_first_run_does_not_count(monkeypatch):
    clock, order, waits = [0.0], [], []
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runtime, "wait_for", waits.append)

    def working(name, first, usual):
        def run():
            clock[0] += usual if name in order else first
            order.append(name)

        return run

    found = runtime.in_turns({"a": working("a", 9.0, 1.0), "b": working("b", 7.0, 4.0)}, 3, "cuda")
    assert order == ["a", "b"] * 4 and set(waits) == {"cuda"} and len(waits) == 16
    assert found == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert runtime.quartiles_of_ratios(found["b"], found["a"]) == (4.0, 4.0, 4.0)
    assert runtime.quartiles_of_ratios([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (1.5, 2.0, 2.5)
    assert runtime.quartiles_of_ratios([6.0], [2.0]) == (3.0, 3.0, 3.0)


def test_the_loss_refuses_a_second_derivative():
    """Its gradients are numbers by then, so a second derivative would silently lack a part."""
    x, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = chunked_cross_entropy(x, weight, torch.zeros(4, dtype=torch.int64))
    slope = torch.autograd.grad(loss, x, torch.tensor(2.0, requires_grad=True), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.fixture
def recorded(monkeypatch):
    """A stand-in for a CUDA graph: replaying computes again, into the memory of the recording."""

    def record(function, device):
        result = function().clone()
        return lambda: result.copy_(function()), result

    monkeypatch.setattr(RecordedStep, "record", staticmethod(record))


@pytest.mark.parametrize("rows, length", [(1, 1), (3, 1), (3, 7), (2, TINY.n_positions - 1)])
def test_a_recorded_step_gives_the_logits_of_a_full_pass(tiny, recorded, rows, length):
    tiny.eval()
    ids, cache = batch(rows, TINY.n_positions)[0], KeyValueCache(TINY)
    with torch.inference_mode():
        tiny(ids[:, :length], cache=cache)
        step = RecordedStep(tiny, cache, ids[:, :1])
        for end in range(length + 1, TINY.n_positions + 1):
            close(step(ids[:, end - 1 : end]), plain_logits(tiny, ids[:, :end])[:, -1:])


def test_a_recorded_step_works_with_numbers_left_over_in_memory(tiny, recorded):
    """Attention reads the whole buffers; what the mask hides must not matter."""
    tiny.eval()
    ids, cache = batch(1, 6)[0], KeyValueCache(TINY)
    with torch.inference_mode():
        tiny(ids[:, :5], cache=cache)
        for layer in cache.layers:
            layer.keys[:, :, 5:] = 1e4
            layer.values[:, :, 5:] = 1e4
        close(RecordedStep(tiny, cache, ids[:, :1])(ids[:, 5:6]), plain_logits(tiny, ids)[:, -1:])


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_generate_records_where_it_may(tiny, recorded, monkeypatch, shape, hooked):
    """The path of a GPU, on the CPU: ids that say they are on CUDA. At a full context there is no room for a step."""
    made, seen, real = [], [], RecordedStep.__init__
    monkeypatch.setattr(RecordedStep, "__init__", lambda self, *given: made.append(1) or real(self, *given))
    if hooked:
        tiny.lm_head.register_forward_hook(lambda *_: seen.append(1))
    ids, new = batch(*shape)[0], TINY.n_positions - shape[1] + 6

    class OnCuda(torch.Tensor):
        is_cuda = True

    text = generate(tiny, ids.as_subclass(OnCuda), new, top_k=1).as_subclass(torch.Tensor)
    assert torch.equal(text, plain_text(tiny, ids, new))
    assert len(made) == (not hooked and shape[1] < TINY.n_positions) and len(seen) == (new if hooked else 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_recorded_text_on_a_gpu_is_the_plain_text(tiny, shape):
    gpu, ids = copy.deepcopy(tiny).cuda(), batch(*shape)[0]
    new = TINY.n_positions - shape[1] + 6
    assert torch.equal(generate(gpu, ids.cuda(), new, top_k=1).cpu(), plain_text(tiny, ids, new))
