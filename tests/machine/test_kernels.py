"""Every fast path gives the numbers of the plain one, in all shapes and states. Which path and precision is taken."""

import copy
import os
import shutil
import subprocess
import sys
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.exc import CppCompileError, GPUTooOldForTriton, InductorError, InvalidCxxCompiler, TritonMissing

from helpers.generation import generate
from helpers.machine import assets, kernels
from helpers.machine.kernels import SplitOneRow, split_linear
from helpers.model import GPTConfig
from tests.plain import SHAPES, assert_close, batch, plain_logits, plain_loss, plain_text
from tests.small import TINY

STATES = {
    "as made": lambda model: model,
    "double": lambda model: model.double(),
    "to double and back": lambda model: model.to(torch.float64).to(torch.device("cpu"), torch.float32),
    "train, eval, train": lambda model: model.train().eval().train(),
    "eval": lambda model: model.eval(),
    "a deep copy": copy.deepcopy,
}


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
    expected_gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert_close(model(ids), plain_logits(model, ids))
    assert_close(model(ids, last_only=True), plain_logits(model, ids)[:, -1:])
    loss = model(ids, targets)
    assert_close(loss, expected.to(loss.dtype))
    for gradient, expected_gradient in zip(torch.autograd.grad(loss, parameters), expected_gradients):
        assert_close(gradient, expected_gradient)


def test_greedy_tokens_up_to_and_past_the_context(model, shape):
    ids, _ = batch(*shape)
    new = TINY.n_positions - shape[1] + 3
    expected = plain_text(model, ids, new)
    assert torch.equal(generate(model, ids, new, top_k=1), expected)
    with SplitOneRow():
        assert torch.equal(generate(model, ids, new, top_k=1), expected)


# torch.compile


def test_whether_torch_compile_works_is_tried(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert kernels.can_compile("cpu")

    def no_compiler(function):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert not kernels.can_compile("cpu")
    assert kernels.compile_problem("cpu").endswith("The error was: no compiler")


def compiler_error(*lines):
    return CppCompileError(["g++", "main.cpp", "-std=c++20", "-I/usr/include/python3.11", "-fopenmp"], "\n".join(lines))


def test_what_torch_compile_lacks_is_named_with_the_line_that_says_so(monkeypatch):
    monkeypatch.setattr(kernels, "path_with_a_space", lambda: None)
    gpu = SimpleNamespace(name="Tesla K80", major=3, minor=7)
    for cause, remedy, line in [
        (InvalidCxxCompiler(), "C++ compiler: install", "No working C++ compiler found"),
        (compiler_error("g++: fatal error: cannot execute ‘cc1plus’: execvp: No such file or directory", "ended."),
         "C++ compiler: install", "cannot execute ‘cc1plus’"),
        (RuntimeError("Compiler: cl is not found."), "C++ compiler: install", "cl is not found"),
        (compiler_error("xcrun: error: invalid active developer path, missing xcrun"), "C++ compiler: ", "xcrun"),
        (compiler_error("In file included from a.h:1:", "a.cpp:62:10: fatal error: Python.h: No such file"),
         "install python3-dev", "a.cpp:62:10: fatal error: Python.h"),
        (compiler_error("a.cpp(62): fatal error C1083: Cannot open include file: 'Python.h': No such file"),
         "header files of Python", "C1083"),
        (CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), "header files of Python", "gcc"),
        (compiler_error("g++: error: unrecognized command line option ‘-std=c++20’"), "does not know C++20", "‘-std=c"),
        (compiler_error("a.h:3:10: fatal error: 'omp.h' file not found"), "lacks OpenMP", "omp.h"),
        (compiler_error("a.cpp:9:1: error: ‘f’ was not declared"), "It needs a C++ compiler (", "‘f’ was not declared"),
        (OSError(28, "No space left on device"), "disk is full", "Errno 28"),
        (OSError(30, "Read-only file system", "/cache/73"), "TORCHINDUCTOR_CACHE_DIR to another folder", "/cache/73"),
        (TritonMissing(None), "CUDA build again", "Cannot find a working triton installation"),
        (GPUTooOldForTriton(gpu, None), "does not support this GPU", "Tesla K80"),
    ]:
        error = InductorError(cause, None)
        assert kernels.is_compile_error(error)
        advice = kernels.compile_advice(error)
        assert remedy in advice.partition("Or train with compile=False.")[0], advice
        assert line in advice.partition("The error was: ")[2] and "\n" not in advice, advice


def test_a_path_with_a_space_is_named_only_when_the_compiler_was_reached(monkeypatch):
    monkeypatch.setattr(kernels, "path_with_a_space", lambda: "/opt/ann lee/.venv")
    for line in ("g++: fatal error: input file ‘/opt/ann’ is the same as output file", "ld: cannot find -ltorch",
                 "a.cpp:62:10: fatal error: Python.h: No such file or directory"):
        assert "must not contain a space: '/opt/ann lee/.venv'" in kernels.compile_advice(compiler_error(line))
    assert "space" not in kernels.compile_advice(InductorError(InvalidCxxCompiler(), None))
    assert "space" not in kernels.compile_advice(compiler_error("g++: fatal error: cannot execute ‘cc1plus’"))


PROBLEM = "from helpers.machine import kernels; print(kernels.compile_problem('cpu'))"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++")
def test_the_real_errors_of_torch_compile_get_their_own_advice(tmp_path):
    def problem(**environment):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **environment}
        done = subprocess.run([sys.executable, "-c", PROBLEM], cwd=assets.ROOT, env=environment, capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    spaced = tmp_path / "ann lee"
    (tmp_path / "file").touch()
    spaced.mkdir()
    assert "install g++" in problem(PATH=str(tmp_path))
    assert f"must not contain a space: '{spaced}" in problem(TORCHINDUCTOR_CACHE_DIR=str(spaced))
    assert f"must not contain a space: '{spaced}" in problem(TORCHINDUCTOR_CACHE_DIR=str(spaced), TMPDIR=str(spaced))
    assert "It cannot use its folder" in problem(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "file"))


def test_an_oserror_comes_from_torch_compile_only_if_it_was_raised_there(tmp_path):
    with pytest.raises(OSError) as own:
        (tmp_path / "missing" / "file").touch()
    assert not kernels.is_compile_error(own.value)
    code = compile("raise PermissionError(13, 'Permission denied', '/cache')", "<cache>", "exec")
    with pytest.raises(OSError) as compilers:
        exec(code, {"__name__": "torch._inductor.codecache"})
    assert kernels.is_compile_error(compilers.value)
    assert "cannot use its folder" in kernels.compile_advice(compilers.value)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 16)], ids=str)
def test_compiled_training_has_the_same_loss_and_gradients(tiny, shape):
    """All but the last stage of torch.compile, which writes machine code: one graph without a break. Two blocks
    of the model are enough, because its blocks are alike."""
    del tiny.transformer.h[2:]
    compiled = torch.compile(tiny, backend="aot_eager", fullgraph=True, dynamic=False)
    ids, targets = batch(*shape)
    loss, expected = compiled(ids, targets), tiny(ids, targets)
    assert_close(loss, expected)
    parameters = list(tiny.parameters())
    for gradient, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)):
        assert_close(gradient, other)


# One row at a time


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 101])
def test_a_split_row_gives_the_numbers_of_linear(monkeypatch, threads, rows):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 1, 6), torch.randn(rows, 6), torch.randn(rows)
    assert_close(split_linear(x, weight), F.linear(x, weight))
    assert_close(split_linear(x[0, 0], weight, bias), F.linear(x[0, 0], weight, bias))


def test_only_single_rows_are_split_and_only_inside_the_context(tiny, monkeypatch):
    shapes = []
    monkeypatch.setattr(kernels, "split_linear", lambda x, *others: shapes.append(x.shape) or F.linear(x, *others))
    with SplitOneRow():
        tiny(batch(1, 1)[0])
        layers = 4 * TINY.n_layer + 1
        assert len(shapes) == layers and all(shape[:-1].numel() == 1 for shape in shapes)
        tiny(batch(3, 1)[0])
        tiny(batch(1, 2)[0])
    tiny(batch(1, 1)[0])
    assert len(shapes) == layers


@pytest.mark.parametrize("helps", [True, False])
def test_generate_splits_rows_where_that_helps(tiny, monkeypatch, helps):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(kernels, "splitting_helps", lambda rows, width, threads: helps)
    calls = []
    monkeypatch.setattr(kernels, "split_linear", lambda *arguments: calls.append(1) or split_linear(*arguments))
    ids, _ = batch(1, 4)
    text = generate(tiny, ids, 5, top_k=1)
    assert torch.equal(text, plain_text(tiny, ids, 5)) and bool(calls) == helps


# The setting of float32 products


def tried(monkeypatch, seconds, errors, shape=(2, 8, 99)):
    """A trial with invented readings: seconds and errors are {outputs: {setting: number}}, others 1 s and 1e-6."""
    sizes = []

    def trial_product(outputs, inputs):
        sizes.append((outputs, inputs))
        return lambda setting: None, lambda setting: errors.get(outputs, {}).get(setting, 1e-6)

    def in_turns(functions, rounds):
        return {setting: [seconds.get(sizes[-1][0], {}).get(setting, 1.0)] * rounds for setting in functions}

    monkeypatch.setattr(kernels, "trial_product", trial_product)
    monkeypatch.setattr(kernels, "in_turns", in_turns)
    kernels.try_matmul.cache_clear()
    trial = kernels.try_matmul(1, shape)
    kernels.try_matmul.cache_clear()
    return trial, sizes


def test_the_trial_weighs_each_product_by_how_often_a_model_computes_it(monkeypatch):
    trial, sizes = tried(monkeypatch, seconds={99: {"medium": 2.0, "highest": 12.0}}, errors={})
    assert sizes == [(24, 8), (8, 8), (32, 8), (8, 32), (99, 8)]  # c_attn, c_proj, c_fc, c_proj, the vocabulary
    assert trial == {"times faster": pytest.approx((4 * 2 + 12) / (4 * 2 + 2)), "medium": 1e-6, "highest": 1e-6}
    trial, _ = tried(monkeypatch, {}, errors={32: {"medium": 9e-6, "highest": 3e-6}, 99: {"medium": 8e-6}})
    assert (trial["medium"], trial["highest"]) == (8e-6, 1e-6)  # not the largest error: the largest in comparison


@pytest.mark.parametrize("gain, error, expected", [
    (1.5, 1e-6, "medium"), (1.3, 1e-6, "highest"), (2.0, 3.9e-6, "medium"), (2.0, 4.1e-6, "highest")])
def test_the_setting_of_products_is_chosen_by_a_trial(monkeypatch, gain, error, expected):
    """Clearly faster and as exact: taken. Faster but rounded, or as exact but not clearly faster: not taken."""
    shapes = []

    def trial(threads, shape="the default"):
        shapes.append(shape)
        return {"times faster": gain, "medium": error, "highest": 1e-6}

    monkeypatch.setattr(kernels, "try_matmul", trial)
    assert kernels.fastest_matmul("cpu") == kernels.fastest_matmul("cpu", TINY) == expected
    assert kernels.fastest_matmul("cpu", GPTConfig()) == expected  # GPT-2 small is tried once, however it is named
    assert shapes == ["the default", (TINY.n_layer, TINY.n_embd, TINY.vocab_size), "the default"]
    assert kernels.fastest_matmul("cuda") is kernels.fastest_matmul("mps") is None


def test_the_errors_of_a_trial_are_those_of_its_products(monkeypatch):
    """A product that rounds is noticed, also where the matrix is larger than the part that is compared."""
    matmul = torch.Tensor.__matmul__

    def product(a, b):
        rounds = torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32
        return matmul(a, b) + (0.01 if rounds else 0.0)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    for outputs in (5, 4097):
        multiply, error = kernels.trial_product(outputs, 3)
        assert multiply("highest").shape == (kernels.TRIAL_ROWS, outputs)
        assert error("highest") < 1e-5 and error("medium") == pytest.approx(0.01, rel=0.01)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_learners_own_setting_by_the_newer_api_stays(tiny, monkeypatch):
    def mixed():
        raise RuntimeError("PyTorch is checking whether allow_tf32 is enabled: mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: pytest.fail("it was changed"))
    assert kernels.fastest_matmul("cpu") is None
    assert generate(tiny, batch(1, 3)[0], 2, top_k=1).shape == (1, 5)


def test_the_setting_of_products_is_restored():
    with pytest.raises(ZeroDivisionError), kernels.matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        1 / 0
    assert torch.get_float32_matmul_precision() == "highest"
    with kernels.matmul_precision(None):
        assert torch.get_float32_matmul_precision() == "highest"


# Precision


@pytest.mark.parametrize("has_bf16, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_t4_gets_float16_and_newer_gpus_bfloat16(monkeypatch, has_bf16, expected):
    settings = {}

    def is_bf16_supported(including_emulation=True):
        settings["emulation"] = including_emulation
        return has_bf16 or including_emulation  # a T4 emulates it

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert kernels.compute_dtype("cuda") == expected and settings == {"emulation": False}
    assert kernels.compute_dtype("cpu") == torch.float32
    with kernels.autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("capability, expected",
                         [((7, 5), ["fp32", "fp16"]), ((8, 0), ["fp32", "tf32", "bf16", "fp16"])])
def test_a_t4_has_neither_tf32_nor_bf16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert kernels.precisions("cuda") == expected
    assert all(kernels.dtype_of(name).is_floating_point for name in expected)


def test_each_precision_computes_in_its_type_and_the_setting_is_restored():
    torch.manual_seed(0)
    a, before = torch.randn(64, 64), torch.get_float32_matmul_precision()
    results = {}
    for name in kernels.precisions("cpu"):
        with kernels.precision(name, "cpu"):
            results[name] = a @ a
    assert results["fp32"].dtype == torch.float32 and results["bf16"].dtype == torch.bfloat16
    with kernels.precision("tf32", "cpu"):
        assert torch.get_float32_matmul_precision() == "high"
        assert (a @ a).dtype == torch.float32
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("precision", ["half", None, torch.float16])
def test_a_precision_that_does_not_exist_is_named(precision):
    with pytest.raises(ValueError, match="precision=.*expected one of auto, fp32, bf16, fp16"):
        kernels.compute_dtype("cpu", precision)
