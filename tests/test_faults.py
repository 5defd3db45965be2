"""What goes wrong outside of the course's own code, injected: networks, disks, processes, memory, Windows."""

import ast
import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import assets, corpus, training
from helpers.model import GPT
from helpers.training import CHECKPOINT, HISTORY
from tests.test_training import CONFIG, MODEL, new_model, train, weights

uninterrupted = functools.cache(train)  # a model and its history, computed once


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(out=folder)
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A folder of its own with the checkpoint and the history of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "trained"))


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows os.kill(..., SIGTERM) ends a process just as suddenly
WINDOWS = sys.platform == "win32"


# --- downloads: a server on this machine that misbehaves -------------------------------------------------------------

BOOK = b"*** START OF X ***\n" + b"GULLIVER went to sea. " * 30_000 + b"\n*** END OF X ***\nlicence"
PAGE = b"<html>Welcome to the hotel. Please log in.</html>"


def answer(request, body, length=None, status=200, **headers):
    """Sends a status, headers and a body. length: what Content-Length says; "none" leaves it out."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if length != "none":
        request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


def altered(body):
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]


def redirect(request):
    if request.path == "/login":
        return answer(request, PAGE, Content_Type="text/html")
    answer(request, b"", status=302, Location="/login")


def silent_half(request):
    answer(request, BOOK[:5000], len(BOOK))
    request.server.healed.wait(20)


FAULTS = {
    "interrupted": (lambda request: answer(request, BOOK[:5000], len(BOOK)), "IncompleteRead|broken"),
    "altered": (lambda request: answer(request, altered(BOOK)), "wrong hash"),
    "redirected to a page": (redirect, "login page"),
    "length too small": (lambda request: answer(request, BOOK, 5000), "wrong hash"),
    "length is no number": (lambda request: answer(request, BOOK, "many"), "wrong hash|many"),
    "no length and cut": (lambda request: answer(request, BOOK[:-1000], "none"), "wrong hash"),
    "nothing in it": (lambda request: answer(request, b""), "wrong hash"),
    "silent": (lambda request: request.server.healed.wait(20), "[Tt]imed out"),
    "silent in the middle": (silent_half, "[Tt]imed out"),
    "not found": (lambda request: answer(request, PAGE, status=404), "404"),
    "out of order": (lambda request: answer(request, PAGE, status=503), "503"),
    "no HTTP": (lambda request: request.wfile.write(b"220 mail.example.org ESMTP\r\n"), "BadStatusLine|aborted"),
    "damaged compression": (
        lambda request: answer(request, gzip.compress(BOOK)[:-50][::-1], Content_Encoding="gzip"), "gzip"),
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine, which is all of the internet, and an empty cache. server.fault: how it answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has given up
                self.server.fault(self)

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.fault, serving.healed = None, threading.Event()
        host = f"127.0.0.1:{serving.server_port}"
        serving.address = f"http://{host}"
        threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.delenv("COURSE_ASSETS", raising=False)
        monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(assets, "reachable_hosts", lambda: frozenset({host}))
        monkeypatch.setattr(assets, "PATIENCE", 1)
        monkeypatch.setattr(assets, "STALL", 0.5)
        monkeypatch.setattr(assets, "GULLIVER_URL", f"{serving.address}/829-0.txt")
        monkeypatch.setattr(assets, "GULLIVER_SHA256", hashlib.sha256(BOOK).hexdigest())
        monkeypatch.setattr(assets, "GUTENBERG_URL", f"{serving.address}/gutenberg.txt")
        assets._say_once.cache_clear()
        yield serving
        serving.healed.set()
        serving.shutdown()
        assets._say_once.cache_clear()


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_download_is_named_leaves_nothing_and_can_be_repeated(server, name):
    server.fault, said = FAULTS[name]
    files = {"829-0.txt": (assets.GULLIVER_URL, assets.GULLIVER_SHA256)}
    start = time.monotonic()
    with pytest.raises(assets.AssetUnavailable, match=said) as error:
        assets.locate("gulliver", files)
    assert time.monotonic() - start < 10
    assert assets.GULLIVER_URL in str(error.value) and "restart the kernel" in str(error.value)
    assert list((assets.cache_folder() / "gulliver").iterdir()) == []
    server.healed.set()
    server.fault = lambda request: answer(request, BOOK)
    assert (assets.locate("gulliver", files) / "829-0.txt").read_bytes() == BOOK


@pytest.mark.parametrize("name", ["interrupted", "redirected to a page", "length too small", "no length and cut"])
def test_where_no_hash_is_known_a_faulty_book_is_not_used_either(server, name, capsys):
    """Both sources fail in the same way; the second one has no stable hash."""
    server.fault, _ = FAULTS[name]
    assert assets.gulliver().is_stand_in
    assert list((assets.cache_folder() / "gulliver").iterdir()) == []
    assert capsys.readouterr().out.count("STAND-IN") == 1


def test_a_process_killed_in_the_middle_of_a_download_leaves_nothing_that_is_used(server, tmp_path):
    half_sent = threading.Event()

    def half(request):
        answer(request, BOOK[:5000], len(BOOK))
        half_sent.set()
        server.healed.wait(30)

    server.fault = half
    code = (f"from helpers import assets; assets.reachable_hosts = lambda: {{{server.address[7:]!r}}}; "
            f"assets.locate('gulliver', {{'829-0.txt': ({assets.GULLIVER_URL!r}, {assets.GULLIVER_SHA256!r})}})")
    with subprocess.Popen([sys.executable, "-c", code], cwd=assets.ROOT, stderr=subprocess.DEVNULL) as process:
        assert half_sent.wait(120)
        time.sleep(0.2)
        process.send_signal(KILL)
    server.healed.set()
    server.fault = lambda request: answer(request, BOOK)
    assert assets.gulliver().path.read_bytes() == BOOK


def test_an_empty_or_damaged_tokenizer_file_never_gives_an_empty_tokenizer(server, monkeypatch, tmp_path, capsys):
    """An interrupted first use leaves an empty vocab.bpe in some programs' caches, which then encode nothing."""
    for name in assets.TIKTOKEN_FILES:
        path = tmp_path / "mine" / "tiktoken" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv("COURSE_ASSETS", str(tmp_path / "mine"))
    monkeypatch.setattr(assets, "TIKTOKEN_URL", f"{server.address}/")
    server.fault = FAULTS["nothing in it"][0]
    corpus.load_tokenizer.cache_clear()
    tokenizer = corpus.load_tokenizer("gpt2")
    corpus.load_tokenizer.cache_clear()
    said = capsys.readouterr().out
    assert said.count("DAMAGED") == 2 and "STAND-IN" in said and "wrong hash" in said
    assert tokenizer.vocab_size == 4096 and len(tokenizer.encode("The Brass Yard")) > 0


# --- disks: full, read only ------------------------------------------------------------------------------------------

@contextlib.contextmanager
def disk_of(size):
    """A context in which no file can grow beyond so many bytes: the system refuses the rest, as on a full disk."""
    resource = pytest.importorskip("resource", reason="this system has no limit of a file's size")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_to_a_full_device(state, path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path.symlink_to("/dev/full")  # every write to it fails with ENOSPC
    SAVE(state, path)


def write_beyond_the_limit(state, path):
    with disk_of(100_000):
        SAVE(state, path)


def write_half(state, path):
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


SAVE = torch.save


@pytest.mark.parametrize("write", [write_to_a_full_device, write_beyond_the_limit, write_half])
def test_a_disk_that_gets_full_in_a_checkpoint_keeps_the_one_before(tmp_path, monkeypatch, write):
    _, whole = uninterrupted()
    saves = iter(range(1, 99))
    monkeypatch.setattr(torch, "save", lambda *a: (write if next(saves) == 2 else SAVE)(*a))
    said = rf"{CHECKPOINT} could not be written .*What was there before is whole. Make room"
    with pytest.raises(OSError, match=said):
        train(out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, HISTORY]
    monkeypatch.setattr(torch, "save", SAVE)
    assert len(training.load_checkpoint(tmp_path)["history"]["train_loss"]) == 4
    _, history = train(model=GPT(MODEL), out=tmp_path, resume=True)
    assert history.train_loss == whole.train_loss


def test_a_disk_that_gets_full_in_a_download_gives_the_stand_in(server, capsys):
    server.fault = lambda request: answer(request, BOOK)
    with disk_of(100_000):
        assert assets.gulliver().is_stand_in
    assert "it cannot be kept in" in capsys.readouterr().out
    assert list((assets.cache_folder() / "gulliver").iterdir()) == []
    assert not assets.gulliver().is_stand_in


def test_a_cache_that_cannot_be_made_is_named(server, monkeypatch, tmp_path, capsys):
    server.fault = lambda request: answer(request, BOOK)
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert assets.gulliver().is_stand_in
    assert "it cannot be kept in" in (said := capsys.readouterr().out) and "COURSE_CACHE" in said


READ_ONLY = """
from helpers import assets
assets.reachable_hosts = lambda: {{{host!r}}}
assets.GULLIVER_URL = assets.GUTENBERG_URL = "http://{host}/829-0.txt"
assets.GULLIVER_SHA256 = {sha256!r}
damaged = assets.cache_folder() / "gulliver" / "829-0.txt"
print(damaged.read_bytes(), assets.gulliver().is_stand_in, damaged.read_bytes())
try:
    assets.write_atomically(assets.DATA / "new.txt", lambda path: path.write_bytes(b"x"))
except OSError as error:
    print(error)
"""


def check_read_only(said, cache):
    assert "DAMAGED" in said and "replace it or delete it" in said and "removed" not in said
    assert f"it cannot be kept in {cache / 'gulliver'}" in said and "STAND-IN" in said
    assert "b'wrong' True b'wrong'" in said
    assert "new.txt could not be written" in said and "choose a folder that you may write to" in said


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no mounts of one's own without unshare (Linux)")
def test_a_read_only_data_folder_with_a_damaged_file_in_its_cache(server, tmp_path):
    """A mount that is read only, for the administrator too."""
    shutil.copytree(assets.ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data" / "cache" / "gulliver").mkdir(parents=True)
    for name in ("SHA256SUMS", "voyage.txt"):
        shutil.copy(assets.DATA / name, tmp_path / "data")
    (tmp_path / "data" / "cache" / "gulliver" / "829-0.txt").write_bytes(b"wrong")
    server.fault = lambda request: answer(request, BOOK)
    code = READ_ONLY.format(host=server.address[7:], sha256=assets.GULLIVER_SHA256)
    mount = 'mount --bind data data && mount -o remount,bind,ro data && echo mounted && exec "$0" -c "$1"'
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_CACHE"}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount, sys.executable, code], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    if "mounted" not in done.stdout:
        pytest.skip(f"this system allows no mounts of one's own: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    check_read_only(done.stdout, tmp_path / "data" / "cache")


@pytest.mark.skipif(WINDOWS or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_cache_without_permission_to_write(server, monkeypatch, tmp_path, capsys):
    server.fault = lambda request: answer(request, BOOK)
    folder = assets.cache_folder() / "gulliver"
    folder.mkdir(parents=True)
    (folder / "829-0.txt").write_bytes(b"wrong")
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(assets, "DATA", tmp_path / "data")
    for name in ("SHA256SUMS", "voyage.txt"):
        shutil.copy(assets.ROOT / "data" / name, tmp_path / "data")
    for path in (folder, tmp_path / "data"):
        path.chmod(0o555)
    try:
        exec(READ_ONLY.partition("damaged =")[2].join(["damaged =", ""]), {"assets": assets})
    finally:
        for path in (folder, tmp_path / "data"):
            path.chmod(0o755)
    check_read_only(capsys.readouterr().out, assets.cache_folder())


# --- processes that are killed ---------------------------------------------------------------------------------------

def die(*_, **__):
    os.kill(os.getpid(), KILL)


def at_call(number, real, instead):
    calls = iter(range(1, 10**6))
    return lambda *a, **k: (instead if next(calls) == number else real)(*a, **k)


def half_a_checkpoint(state, path):
    SAVE(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
    die()


MOMENTS = {  # what is replaced, at which call, by what: the second checkpoint is written after step 8
    "half of a checkpoint is written": (torch, "save", 2, half_a_checkpoint),
    "a step has its gradient, no update": (torch.nn.utils, "clip_grad_norm_", 7, die),
}


def train_and_be_killed(folder, moment):
    """What a process of the next test does."""
    where, name, number, instead = MOMENTS[moment]
    setattr(where, name, at_call(number, getattr(where, name), instead))
    train(out=folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Processes that train and are killed at each of MOMENTS, all at the same time."""
    running = {}
    for moment in MOMENTS:
        folder = tmp_path_factory.mktemp("killed")
        code = "import sys; from tests import test_faults; test_faults.train_and_be_killed(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(folder), moment]
        options = {"cwd": assets.ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        running[moment] = folder, subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    yield running
    for _, process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(killed, moment):
    folder, process = killed[moment]
    _, error = process.communicate(timeout=300)
    assert process.returncode in (-KILL, KILL), error
    assert len(training.load_checkpoint(folder)["history"]["train_loss"]) == 4
    left = [path for path in folder.iterdir() if path.name not in (CHECKPOINT, HISTORY)]
    assert bool(left) == ("checkpoint" in moment), "the process was not killed while it wrote"
    whole_model, whole = uninterrupted()
    model, history = train(model=GPT(MODEL), out=folder, resume=True)
    assert history.train_loss == whole.train_loss and history.test_loss == whole.test_loss
    assert torch.equal(weights(model), weights(whole_model))
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT, HISTORY], "what a killed writer left stays"


def test_the_stop_button_of_a_notebook_ends_a_run_that_can_go_on(tmp_path):
    """A real kernel, interrupted as JupyterLab and Colab do it."""
    manager = pytest.importorskip("jupyter_client").manager
    environment = {**os.environ, "PYTHONPATH": str(assets.ROOT), "COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=environment)
    try:
        cell = ("from dataclasses import replace; from tests.test_training import CONFIG, train\n"
                "model, history = train(replace(CONFIG, steps=100_000), out='run')\n"
                "print('steps:', len(history.train_loss), history.interrupted)")
        said = []
        waits_for = tmp_path / "run" / CHECKPOINT, kernel
        threading.Thread(target=interrupt_when_there_is, args=waits_for, daemon=True).start()
        reply = client.execute_interactive(cell, timeout=300, allow_stdin=False, output_hook=said.append)
        assert reply["content"]["status"] == "ok", reply["content"]
        said = "".join(message["content"].get("text", "") for message in said)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert "go on with resume=True" in said and "True" in said
    done = len(training.load_checkpoint(tmp_path / "run")["history"]["train_loss"])
    assert f"steps: {done} True" in said and 0 < done < 100_000
    _, history = train(replace(CONFIG, steps=done + 3), out=tmp_path / "run", resume=True)
    assert len(history.train_loss) == done + 3


def interrupt_when_there_is(path, kernel):
    while not path.exists():
        time.sleep(0.05)
    kernel.interrupt_kernel()


# --- checkpoints that are not what they should be --------------------------------------------------------------------

@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99, 0.99999])
def test_a_truncated_checkpoint_is_named(trained, share):
    os.truncate(trained / CHECKPOINT, int(share * os.path.getsize(trained / CHECKPOINT)))
    for read in (training.load_checkpoint, training.load_trained, lambda out: train(out=out, resume=True)):
        with pytest.raises(ValueError, match=rf"(?s){CHECKPOINT} is damaged .* Delete it and train again"):
            read(trained)


@pytest.mark.parametrize("change, said", [
    (lambda state: state.update(format=2), "format 2; this one reads format 1"),
    (lambda state: state["train_config"].update(optimizer="muon"), "with optimizer"),
    (lambda state: state["model_config"].update(n_expert=8), "with n_expert"),
])
def test_a_checkpoint_of_a_newer_version_is_named_and_not_called_damaged(trained, change, said):
    state = training.load_checkpoint(trained)
    change(state)
    torch.save(state, trained / CHECKPOINT)
    for read in (training.load_checkpoint, training.load_trained, lambda out: train(out=out, resume=True)):
        with pytest.raises(ValueError, match=rf"newer version of this course .*{said}.* git pull"):
            read(trained)


def test_a_checkpoint_from_before_formats_had_numbers_is_read(trained):
    _, whole = uninterrupted()
    state = training.load_checkpoint(trained)
    del state["format"], state["train_config"]["precision"], state["matmul"]
    torch.save(state, trained / CHECKPOINT)
    assert train(replace(CONFIG, steps=14), out=trained, resume=True)[1].train_loss[:12] == whole.train_loss


class Bomb:
    """An object that, when unpickled, writes a file: somebody else's code would run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("pack", [
    lambda state, path: torch.save(state, path),
    lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    lambda state, path: path.write_bytes(pickle.dumps(state)),
], ids=["torch.save", "old torch.save", "pickle"])
def test_a_checkpoint_runs_no_code(trained, pack):
    state = {**training.load_checkpoint(trained), "data": Bomb(trained / "exploded")}
    pack(state, trained / CHECKPOINT)
    with pytest.raises(ValueError, match="is damaged"):
        train(out=trained, resume=True)
    assert not (trained / "exploded").exists()
    if zipfile.is_zipfile(trained / CHECKPOINT):
        torch.load(trained / CHECKPOINT, weights_only=False)["data"].close()
        assert (trained / "exploded").exists(), "the bomb is a dud: this test shows nothing"


SUFFIXES = (".py", ".ipynb")


def calls(path):
    """All calls in a file of Python or in a notebook: (dotted name, node)."""
    text = path.read_text(encoding="utf-8")
    sources = [text]
    if path.suffix == ".ipynb":
        import nbformat

        cells = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
        sources = ["\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!")))
                   for cell in cells]
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


FOLDERS = ("benchmarks", "data/recipes", "helpers", "notebooks", "scripts")
CODE = [path for folder in FOLDERS for path in sorted((assets.ROOT / folder).rglob("*.*")) if path.suffix in SUFFIXES]


def test_nothing_is_unpickled_anywhere():
    found = []
    for path in CODE:
        text, forbidden = path.read_text(encoding="utf-8"), ("import pickle", "allow_pickle=True", "import joblib")
        found += [f"{path.name}: {word}" for word in forbidden if word in text]
        for name, node in calls(path):
            safe = any(word.arg == "weights_only" and getattr(word.value, "value", 0) is True for word in node.keywords)
            if name.endswith("torch.load") and not safe:
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert not found


# --- memory and numbers ----------------------------------------------------------------------------------------------

def memory_for(model, rows):
    """Makes the model raise CUDA's own error when a batch has more rows than that."""

    def pretend(module, inputs):
        if inputs[0].shape[0] > rows and module.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity "
                                         "of 14.74 GiB of which 812.06 MiB is free.")

    model.register_forward_pre_hook(pretend)
    return model


@pytest.mark.parametrize("rows, batch, said, works", [
    (2, 4, "2 x 16 fits, as was just tried: use accumulate=2", {"accumulate": 2}),
    (5, 12, "4 x 16 fits, as was just tried: use accumulate=3", {"accumulate": 3}),
    (1, 7, "1 x 16 fits, as was just tried: use accumulate=7.* or batch_size=1", {"batch_size": 1}),
])
def test_a_full_gpu_is_answered_with_the_batch_that_fits(rows, batch, said, works):
    config = replace(CONFIG, batch_size=batch)
    model = memory_for(new_model(), rows)
    with pytest.raises(RuntimeError, match=f"not have enough memory for {batch} x 16 tokens at once. {said}"):
        train(config, model)
    assert all(parameter.grad is None for parameter in model.parameters()), "the trial keeps memory"
    _, history = train(replace(config, **works), memory_for(new_model(), rows))
    assert len(history.train_loss) == 12


def test_a_gpu_that_gets_full_later_keeps_the_checkpoint_and_the_run_goes_on_in_parts(tmp_path, monkeypatch):
    _, whole = uninterrupted()
    model, real = new_model(), training.update
    steps = iter(range(1, 99))
    monkeypatch.setattr(training, "update", lambda m, *a: real(memory_for(m, 2) if next(steps) == 7 else m, *a))
    with pytest.raises(RuntimeError, match="use accumulate=2, .* A checkpoint written earlier is whole"):
        train(model=model, out=tmp_path)
    monkeypatch.setattr(training, "update", real)
    _, history = train(replace(CONFIG, accumulate=2), memory_for(GPT(MODEL), 2), out=tmp_path, resume=True)
    assert history.train_loss[:4] == whole.train_loss[:4] and len(history.train_loss) == 12


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_names_its_step_and_never_reaches_a_checkpoint(tmp_path, spoil):
    """In step 8, after which a checkpoint would be written. A gradient spoils the weights one step before the loss."""
    model, steps = new_model(), iter(range(1, 99))

    def forward(module, inputs, loss):
        if module.training and next(steps) == 8:
            if spoil == "loss":
                return loss * float("nan")
            model.transformer.ln_f.bias.register_hook(lambda grad: grad * float("inf"))

    model.register_forward_hook(forward)
    with pytest.raises(FloatingPointError, match="Step 8 of 12: .*learning rate of .* holds the weights after step 4"):
        train(model=model, out=tmp_path)
    saved = training.load_checkpoint(tmp_path)
    assert len(saved["history"]["train_loss"]) == 4
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    _, whole = uninterrupted()
    assert train(model=GPT(MODEL), out=tmp_path, resume=True)[1].train_loss == whole.train_loss


def test_without_a_checkpoint_none_is_promised():
    model = new_model()
    model.register_forward_hook(lambda module, inputs, loss: loss * float("nan") if module.training else None)
    with pytest.raises(FloatingPointError, match="Step 1 of 12: the loss became nan") as error:
        train(model=model)
    assert "holds" not in str(error.value)


def test_in_colab_a_folder_that_ends_with_the_session_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    train(out=tmp_path / "runs")
    assert 'drive.mount("/content/drive")' in capsys.readouterr().out
    train(out=tmp_path / "drive" / "MyDrive" / "runs")
    assert capsys.readouterr().out == ""


# --- Windows ---------------------------------------------------------------------------------------------------------

def test_utf16_and_zero_bytes_are_no_text(tmp_path):
    """Windows' editors call UTF-16 "Unicode". Without its mark it is valid UTF-8 with a zero byte after each letter."""
    for name, content in {"mark": "A ship.".encode("utf-16"), "bare": "A ship.".encode("utf-16-le"),
                          "code page": "naïve".encode("cp1252"), "binary": b"PK\x03\x04\0\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is not UTF-8 text \(byte \d+\). Save it as UTF-8"):
            corpus.read_text(tmp_path / name)


def test_the_command_line_works_on_a_console_with_a_code_page(tmp_path, encoding="cp437"):
    """Quotation marks, and whatever a young model writes, cannot be shown there; files must not depend on it."""
    text = tmp_path / "ελληνικά.txt"
    text.write_bytes("“Ναί”, said the captain — and the Houyhnhnms …\r\n".encode() * 200)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                   "LC_ALL": "C", "COURSE_OFFLINE": "1", "COURSE_ASSETS": "", "COURSE_CACHE": str(tmp_path / "cache"),
                   "OMP_NUM_THREADS": "1"}
    code = ("import sys; from helpers import corpus, training; corpus.load_tokenizer('gpt2'); "
            "sys.exit(training.main(sys.argv[1:]))")
    arguments = ["--size", "smoke", "--steps", "2", "--text", str(text), "--out", str(tmp_path)]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=assets.ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")
    said = done.stdout.decode(encoding)
    assert "STAND-IN" in said and "bits per byte" in said and "after 2 steps" in said


def test_every_text_file_is_opened_with_its_encoding():
    """Without one Windows takes its code page, and the course's letters are lost."""
    found = []
    for path in CODE:
        for name, node in calls(path) if path.suffix == ".py" else ():
            method = name.rpartition(".")[2]
            named = any(word.arg == "encoding" for word in node.keywords)
            named |= len(node.args) > {"read_text": 0, "write_text": 1}.get(method, 99)
            binary = name == "open" and any("b" in str(getattr(mode, "value", "")) for mode in node.args[1:2])
            if (name == "open" or method in ("read_text", "write_text")) and not (named or binary):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert not found
