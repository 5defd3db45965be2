"""What an NVIDIA GPU computes: the numbers of the CPU, text from a recorded step, training in 16 bits, and its errors.

    pytest -m cuda tests/machine/test_cuda.py    on a machine with a GPU
    pytest -k cpu tests/machine/test_cuda.py     the same tests on a CPU, where they have a counterpart

Most results are compared with plain arithmetic on the CPU, so that the CPU's half of a test can fail, too.
"""

import contextlib
import copy
import gc
import re
import signal
import statistics
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from helpers import corpus, generation, training
from helpers.generation import KeyValueCache, generate
from helpers.machine import checkpoints, kernels, memory, parallel, runtime
from helpers.machine.decoding import RecordedStep
from helpers.model import GPT, GPTConfig
from tests import small
from tests.plain import SHAPES, batch, plain_logits, plain_loss, plain_text
from tests.small import TEST, TINY, OnCuda, computed_again

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
each_device = pytest.mark.parametrize("device", ["cpu", CUDA])
only_cuda = pytest.mark.parametrize("device", [CUDA])

MODEL = replace(small.MODEL, dropout=0.0)  # every device draws its own random numbers for dropout
CONFIG = replace(small.CONFIG, learning_rate=3e-3)
CLOSE = {"cpu": dict(abs=1e-6, rel=0), "cuda": dict(abs=1e-3, rel=0)}  # a GPU may add in another order each time


def train(device, config=CONFIG, shape=MODEL, **settings):
    """A training run on a device, always from the same weights. Returns the model and its history."""
    torch.manual_seed(1)
    return small.train(config, GPT(shape).to(device), **settings)


def train_until_step(stop, device, config, out, shape=MODEL):
    """A run that Ctrl-C ends after step `stop`. Its checkpoint is in the folder out. Returns the history."""
    train_step, steps = training.train_step, iter(range(1, 999))

    def step_and_interrupt(*arguments):
        if next(steps) == stop:
            signal.raise_signal(signal.SIGINT)
        return train_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", step_and_interrupt)
        _, history = train(device, config, shape, out=out)
    assert history.interrupted and len(history.train_loss) == stop
    return history


# The same numbers


@only_cuda
def test_attention_on_the_gpu_is_right(device):
    assert runtime.computes_like_the_cpu(device)
    assert runtime.device_name(device) == torch.cuda.get_device_name()


@each_device
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_loss_and_gradients_are_those_of_plain_arithmetic(tiny, device, shape):
    model, (ids, targets) = copy.deepcopy(tiny).to(device), batch(*shape)
    assert model.lm_head.weight is model.transformer.wte.weight, "the move has cut the tie"
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(ids.to(device)).cpu(), plain_logits(tiny, ids), **close)
    loss, expected = model(ids.to(device), targets.to(device)), plain_loss(tiny, ids, targets)
    torch.testing.assert_close(loss.cpu(), expected, **close)
    loss.backward()
    expected.backward()
    for parameter, other in zip(model.parameters(), tiny.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), other.grad, **close)


@each_device
def test_evaluation_gives_the_loss_of_plain_arithmetic(tiny, device):
    windows = [(TEST[None, i : i + 16], TEST[None, i + 1 : i + 17]) for i in range(0, 288, 16)]
    windows.append((TEST[None, 288:-1], TEST[None, 289:]))
    with torch.no_grad():
        total = sum(plain_loss(tiny, x, y).item() * y.numel() for x, y in windows)
    model = tiny.to(device)
    for precision, tolerance in (("fp32", 1e-4), ("auto", 1e-2), ("bf16", 1e-2)):
        assert training.evaluate(model, TEST, 16, 4, precision) == pytest.approx(total / 300, rel=tolerance)


@each_device
def test_each_precision_rounds_as_it_should_and_the_setting_is_restored(device, record_property):
    x, w = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ w.double()
    expected = {"fp32": (0, 3e-6), "tf32": (1e-4, 2e-3), "fp16": (1e-4, 2e-3), "bf16": (1e-3, 2e-2)}
    for name in kernels.precisions(device):
        with kernels.precision(name, device):
            y = x.to(device) @ w.to(device)
        assert y.dtype == kernels.dtype_of(name)
        error = ((y.double().cpu() - exact).norm() / exact.norm()).item()
        record_property(f"relative error in {name}", error)
        assert expected[name][0] <= error < expected[name][1], name
        assert torch.get_float32_matmul_precision() == "highest"


# Two devices


@pytest.mark.parametrize("device", [pytest.param("meta", id="cpu and meta"), CUDA])
def test_a_model_and_ids_on_two_devices_are_named(device):
    model, ids = GPT(MODEL).to(device), torch.zeros(1, 4, dtype=torch.int64)
    for use in (model, lambda ids: generate(model, ids, 3)):
        with pytest.raises(ValueError, match=rf"ids are on cpu, the model is on {device}.*ids.to\(device\)"):
            use(ids)
    with pytest.raises(ValueError, match=r"targets are on cpu.*targets.to\(device\)"):
        model(ids.to(device), ids)
    with pytest.raises(ValueError, match=f"ids are on {device}.*the model is on cpu"):
        GPT(MODEL)(ids.to(device))


@only_cuda
def test_an_embedding_on_the_gpu_refuses_positions_from_elsewhere(device, record_property):
    """The mistake of notebook 02: torch.arange(T) without device=."""
    wpe = torch.nn.Embedding(8, 4, device=device)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device") as error:
        wpe(torch.arange(3))
    record_property("same device error", str(error.value))


@pytest.mark.parametrize("device", [pytest.param("meta", id="cpu and meta"), CUDA])
def test_tensors_on_two_devices_cannot_be_multiplied(device, record_property):
    message = "Expected all tensors to be on the same device" if device == "cuda" else "not on the expected device"
    with pytest.raises(RuntimeError, match=message) as error:
        torch.ones(2, 3, device=device) * torch.ones(3)
    name = "same device error of a product" if device == "cuda" else "two devices error"
    record_property(name, str(error.value))


# Clock and memory


@each_device
def test_a_clock_that_does_not_wait_shows_the_launches_only(device, record_property):
    size = 4096 if device == "cuda" else 128
    x = torch.randn(size, size, device=device)

    def seconds(wait):
        runtime.wait_for(device)
        start = time.perf_counter()
        for _ in range(10):
            x @ x
        wait()
        return time.perf_counter() - start

    seconds(lambda: None)  # a warm-up
    launches = statistics.median(seconds(lambda: None) for _ in range(5))
    synchronized = statistics.median(seconds(lambda: runtime.wait_for(device)) for _ in range(5))
    record_property("launches only (ms)", round(1e3 * launches, 4))
    record_property("with synchronize (ms)", round(1e3 * synchronized, 4))
    assert launches > 0 and synchronized > 0
    if device == "cuda":
        assert launches < synchronized / 2


@each_device
def test_the_peak_counts_what_is_freed_again(device):
    peak = memory.peak_memory(lambda: torch.ones(2**24, device=device).sum().item(), device)  # 64 MB
    if peak is None:
        pytest.skip("this system reports no peak")
    assert 2**26 * (1 if device == "cuda" else 0.9) <= peak < 2**26 + 2**23


@contextlib.contextmanager
def little_memory(more):
    """A context in which this process gets only so many bytes more of the GPU, so that memory really is not enough."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@only_cuda
def test_a_batch_that_is_too_large_gets_advice_that_works(device):
    """254 rows need several times the memory that is left, half of them still too much, and the next part is 2 rows."""
    shape = GPTConfig(vocab_size=64, n_positions=64, n_embd=64, n_layer=4, n_head=4)
    config = replace(CONFIG, steps=1, batch_size=254, context=64, precision="fp32")
    train(device, replace(config, batch_size=2), shape)  # a warm-up, in which libraries take memory for themselves
    with little_memory(more=60 * 2**20):
        with pytest.raises(RuntimeError, match="does not have enough memory for 254 x 64 tokens at once") as error:
            train(device, config, shape)
        advice = re.search(r"(\d+) x 64 fits \(this was just tried\): use accumulate=(\d+)", str(error.value))
        assert advice and advice.groups() == ("2", "127"), str(error.value)
        _, history = train(device, replace(config, accumulate=127), shape)
    assert len(history.train_loss) == 1 and history.train_loss[0] == pytest.approx(4.16, abs=0.3)


# The recorded decoding step


def put(ids, device):
    """ids on a GPU, or on the CPU as a tensor for which a step is recorded, too."""
    return ids.to(device) if device == "cuda" else ids.as_subclass(OnCuda)


@pytest.fixture
def recordings(device, monkeypatch):
    """One entry for each step that is recorded. On the CPU, a substitute for a CUDA graph computes the step again."""
    made, make = [], RecordedStep.__init__
    monkeypatch.setattr(RecordedStep, "__init__", lambda self, *arguments: made.append(1) or make(self, *arguments))
    if device == "cpu":
        monkeypatch.setattr(RecordedStep, "record", staticmethod(computed_again))
    return made


@each_device
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_recorded_text_is_the_plain_text(tiny, device, recordings, shape):
    ids, new = batch(*shape)[0], TINY.n_positions - shape[1] + 6
    expected, model = plain_text(tiny, ids, new), copy.deepcopy(tiny).to(device)
    for _ in range(2):  # the second time the stream exists and memory is used again
        assert torch.equal(generate(model, put(ids, device), new, top_k=1).cpu().as_subclass(torch.Tensor), expected)
    assert len(recordings) == 2 * (shape[1] < TINY.n_positions)


@each_device
def test_text_drawn_from_a_recorded_step_is_that_of_a_plain_step(tiny, device, recordings):
    """The generator is one of the CPU, which draws the same random numbers for every device."""

    def sample(model, ids):
        return generate(model, ids, 15, temperature=0.8, top_k=50, generator=torch.Generator().manual_seed(3))

    ids = batch(3, 1)[0]
    expected = sample(tiny, ids)  # from the plain step
    assert not recordings
    text = sample(tiny.to(device), put(ids, device)).cpu()
    assert torch.equal(text.as_subclass(torch.Tensor), expected) and len(recordings) == 1


@each_device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_recorded_step_in_16_bits_gives_the_logits_of_a_plain_step(tiny, device, recordings, precision):
    """The recording uses the 16-bit copies of the weights that autocast has made for the prompt."""
    model, ids = tiny.to(device).eval(), batch(3, TINY.n_positions)[0]
    expected, ids = plain_logits(copy.deepcopy(tiny).cpu(), ids).detach(), put(ids, device)
    with torch.inference_mode(), kernels.autocast(device, precision):
        cache = KeyValueCache(TINY)
        model(ids[:, :7], cache=cache)
        step = RecordedStep(model, cache, ids[:, :1])
        for end in range(8, TINY.n_positions + 1):
            logits = step(ids[:, end - 1 : end])
            assert logits.dtype == kernels.DTYPES[precision]
            difference = (logits[:, 0].float().cpu().as_subclass(torch.Tensor) - expected[:, end - 1]).norm()
            assert difference < 0.03 * expected[:, end - 1].norm()


@pytest.fixture(scope="module")
def trained():
    """A model that has learned from TRAIN which token follows which, almost without doubt."""
    return train("cpu", replace(CONFIG, steps=120, batch_size=8, learning_rate=2e-2, eval_every=120))[0]


@each_device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("rows, length", [(1, 1), (3, 1), (3, 7)])
def test_text_in_16_bits_continues_what_was_learned(trained, device, recordings, precision, rows, length):
    model = copy.deepcopy(trained).to(device)
    expected = (torch.arange(rows)[:, None] + torch.arange(16) * 7) % 64
    with kernels.autocast(device, precision):
        generator = torch.Generator().manual_seed(0)
        text = generate(model, put(expected[:, :length], device), 16 - length, temperature=0.5, generator=generator)
    assert torch.equal(text.cpu().as_subclass(torch.Tensor), expected) and len(recordings) == 1


@each_device
def test_recorded_samples_during_a_run_change_no_loss(device, recordings, monkeypatch):
    """With dropout, whose random numbers must continue as if nothing had been recorded."""
    monkeypatch.setattr(generation, "generate", lambda model, ids, *others, **settings: generate(
        model, put(ids, device), *others, **settings).as_subclass(torch.Tensor))
    tokenizer = corpus.load_tokenizer("course")
    shape = replace(small.MODEL, vocab_size=tokenizer.vocab_size)
    _, expected = train(device, shape=shape)
    assert not recordings
    _, history = train(device, replace(CONFIG, sample_tokens=8), shape, tokenizer=tokenizer)
    assert [step for step, _ in history.samples] == [0, 4, 8, 12] and len(recordings) == 4
    assert history.train_loss == pytest.approx(expected.train_loss, **CLOSE[device])


# Training in 16 bits


@each_device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_16_bits_ends_near_the_loss_of_32_bits(device, precision, tmp_path):
    config = replace(CONFIG, steps=60, eval_every=20)
    _, expected = train(device, replace(config, precision="fp32"))
    model, history = train(device, replace(config, precision=precision), out=tmp_path)
    assert history.train_loss != expected.train_loss, "nothing was rounded differently: this test shows nothing"
    assert all(map(torch.isfinite, map(torch.tensor, history.train_loss)))
    assert history.validation_loss[-1] < history.validation_loss[0] - 1
    assert history.validation_loss[-1] == pytest.approx(expected.validation_loss[-1], rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (training.load_checkpoint(tmp_path)["scaler"].get("scale", 0) > 1) == (precision == "fp16")


@only_cuda
def test_a_gpu_chooses_bfloat16_exactly_where_it_has_it(device):
    has_bf16 = "bf16" in kernels.precisions(device)
    assert kernels.compute_dtype(device) == (torch.bfloat16 if has_bf16 else torch.float16)
    assert training.make_scaler(device, CONFIG).is_enabled() != has_bf16


@each_device
def test_a_gradient_that_overflows_in_float16_skips_the_step_and_halves_the_scale(device):
    config, model = replace(CONFIG, precision="fp16"), GPT(MODEL).to(device)
    optimizer, scaler = training.make_optimizer(model, config), torch.amp.GradScaler(device, init_scale=2.0**40)
    x, y = corpus.random_batch(small.TRAIN, 4, 16, torch.Generator().manual_seed(0), device)
    before = small.weights(model).clone()
    loss = training.train_step(model, optimizer, scaler, x, y, 1e-3, config)
    assert loss == pytest.approx(4.16, abs=0.3), "the loss itself is not scaled"
    assert scaler.get_scale() == 2.0**39 and torch.equal(small.weights(model), before)
    assert {state["step"].item() for state in optimizer.state.values()} <= {0}, "Adam has counted the skipped step"
    for _ in range(40):  # until the gradient fits
        training.train_step(model, optimizer, scaler, x, y, 1e-3, config)
    assert 1 < scaler.get_scale() < 2.0**39 and not torch.equal(small.weights(model), before)
    assert torch.isfinite(small.weights(model)).all()


@each_device
def test_a_batch_in_parts_has_the_losses_of_the_whole_batch(device):
    config = replace(CONFIG, precision="fp32")
    _, expected = train(device, config)
    for accumulate in (2, 4):
        _, history = train(device, replace(config, accumulate=accumulate))
        assert history.train_loss == pytest.approx(expected.train_loss, abs=1e-4)
    _, other = train(device, replace(config, batch_size=2))  # other batches: the tolerance would reveal them
    assert max(abs(a - b) for a, b in zip(other.train_loss, expected.train_loss)) > 1e-2


# Checkpoints


@each_device
def test_a_resumed_run_draws_the_dropout_of_an_uninterrupted_one(device, tmp_path):
    config, shape = replace(CONFIG, learning_rate=1e-2), replace(small.MODEL, dropout=0.3)
    _, expected = train(device, config, shape)
    train_until_step(7, device, config, tmp_path, shape)
    state = training.load_checkpoint(tmp_path)
    if device == "cuda":
        assert len(state["dropout_cuda"]) == torch.cuda.device_count()
    resumed = train(device, config, shape, out=tmp_path, resume=True)[1].train_loss
    assert resumed == pytest.approx(expected.train_loss, **CLOSE[device])

    torch.manual_seed(999)  # other random numbers for dropout: the tolerance would reveal them
    state["dropout"] = torch.get_rng_state()
    state["dropout_cuda"] = torch.cuda.get_rng_state_all() if device == "cuda" else []
    torch.save(state, tmp_path / checkpoints.CHECKPOINT)
    other = train(device, config, shape, out=tmp_path, resume=True)[1].train_loss
    assert max(abs(a - b) for a, b in zip(other, expected.train_loss)) > 1e-2


@each_device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_that_named_its_precision_does_not_resume_in_another(device, precision, tmp_path):
    train_until_step(1, device, replace(CONFIG, precision=precision), tmp_path)
    for other in ("fp32", "auto"):
        with pytest.raises(ValueError, match=rf"'precision': '{precision}'.*'precision': '{other}'"):
            train(device, replace(CONFIG, precision=other), out=tmp_path, resume=True)


@each_device
@pytest.mark.parametrize("to_cpu", [True, False], ids=["to 32 bits", "to 16 bits"])
def test_a_run_may_continue_on_another_device(device, to_cpu, tmp_path, monkeypatch):
    """Where precision="auto" means 16 bits on a GPU and 32 on a CPU. Parameters and optimizer have 32 bits on both, so
    only late digits of the losses change. Without a GPU, the CPU takes its part, too."""
    if device == "cpu":
        dtypes = [torch.bfloat16, torch.float32] if to_cpu else [torch.float32, torch.bfloat16]
    devices = (device, "cpu") if to_cpu else ("cpu", device)
    _, expected = train("cpu")
    for part in (0, 1):
        if device == "cpu":
            monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision, dtype=dtypes[part]: dtype)
        if part == 0:
            stopped = train_until_step(7, devices[0], CONFIG, tmp_path)
        else:
            model, history = train(devices[1], out=tmp_path, resume=True)
    assert history.train_loss[:7] == stopped.train_loss and len(history.train_loss) == CONFIG.steps
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history.train_loss == pytest.approx(expected.train_loss, rel=0.01)
    assert history.train_loss != expected.train_loss, "nothing was rounded differently: this test shows nothing"


# What starts other processes or a compiler, and takes the longest


def call(name, **arguments):
    """Calls a function of this file by its name. Only the source of this one is sent to the process."""
    from tests.machine import test_cuda

    return getattr(test_cuda, name)(**arguments)


def run_in_a_group_of_one():
    """A run whose gradients are exchanged although there is one process only. Returns what the test compares."""
    device, exchanged = runtime.best_device().type, []  # as the caller has set it

    def count_bytes(group, bucket):
        exchanged.append(bucket.buffer().nbytes)
        return allreduce_hook(group, bucket)

    def replicate(ranks, model):
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        model.register_comm_hook(None, count_bytes)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel.Ranks, "replicate", replicate)
        model, history = train(device, replace(CONFIG, precision="fp32"))
    total = torch.ones((), dtype=torch.float64)
    dist.all_reduce(total)  # on the CPU, as Ranks.total does it
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    return [history.train_loss, sum(exchanged) / size, dist.get_backend_config(), total.item()]


@only_cuda
def test_a_group_of_one_process_exchanges_its_gradients_by_nccl(device):
    [[losses, exchanged, backends, total]] = parallel.run(call, 1, device=device, name="run_in_a_group_of_one")
    expected = train(device, replace(CONFIG, precision="fp32"))[1].train_loss
    assert losses == pytest.approx(expected, abs=1e-4)
    assert exchanged == CONFIG.steps and total == 1
    assert "cuda:nccl" in backends


@only_cuda
def test_compiled_training_has_the_losses_of_eager_training(device, tmp_path):
    if not kernels.can_compile(device):
        pytest.skip("torch.compile does not work: it needs a C++ compiler and Triton")
    config, shape = replace(CONFIG, precision="fp32"), replace(MODEL, n_layer=1)
    _, expected = train(device, config, shape)
    _, history = train(device, replace(config, compile=True), shape, out=tmp_path)
    assert history.train_loss == pytest.approx(expected.train_loss, **CLOSE[device])
    assert list(training.load_checkpoint(tmp_path)["model"]) == list(GPT(shape).state_dict())
