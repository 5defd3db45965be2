"""What goes wrong outside of the course's own code, injected: networks, disks, processes that are killed."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import corpus, training
from helpers.machine import assets
from helpers.machine.checkpoints import CHECKPOINT, HISTORY
from helpers.model import GPT
from tests.small import CONFIG, MODEL, train, uninterrupted, weights

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL, and SIGTERM is as sudden
WINDOWS = sys.platform == "win32"


# Downloads: a server on this machine that misbehaves


BOOK = b"*** START OF X ***\n" + b"GULLIVER went to sea. " * 30_000 + b"\n*** END OF X ***\nlicence"
PAGE = b"<html>Welcome to the hotel. Please log in.</html>"


def answer(request, body, length=None, status=200, **headers):
    """Sends a status, headers and a body. length: the value of Content-Length; "none" omits it."""
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
    """A server on this machine in place of the internet, and an empty cache. server.fault is how it answers."""

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
    server.fault, message = FAULTS[name]
    files = {"829-0.txt": (assets.GULLIVER_URL, assets.GULLIVER_SHA256)}
    start = time.monotonic()
    with pytest.raises(assets.AssetUnavailable, match=message) as error:
        assets.locate("gulliver", files)
    assert time.monotonic() - start < 10
    assert assets.GULLIVER_URL in str(error.value) and "restart the kernel" in str(error.value)
    assert list((assets.cache_folder() / "gulliver").iterdir()) == []
    server.healed.set()
    server.fault = lambda request: answer(request, BOOK)
    assert (assets.locate("gulliver", files) / "829-0.txt").read_bytes() == BOOK


@pytest.mark.parametrize("name", ["interrupted", "redirected to a page", "length too small", "no length and cut"])
def test_a_faulty_book_without_a_known_hash_is_not_used_either(server, name, capsys):
    """Both sources fail in the same way. The second one has no stable hash."""
    server.fault, _ = FAULTS[name]
    assert assets.gulliver().is_stand_in
    assert list((assets.cache_folder() / "gulliver").iterdir()) == []
    assert capsys.readouterr().out.count("Stand-in") == 1


def test_after_a_process_killed_during_a_download_the_half_file_is_not_used(server, tmp_path):
    half_sent = threading.Event()

    def half(request):
        answer(request, BOOK[:5000], len(BOOK))
        half_sent.set()
        server.healed.wait(30)

    server.fault = half
    code = (f"from helpers.machine import assets; assets.reachable_hosts = lambda: {{{server.address[7:]!r}}}; "
            f"assets.locate('gulliver', {{'829-0.txt': ({assets.GULLIVER_URL!r}, {assets.GULLIVER_SHA256!r})}})")
    with subprocess.Popen([sys.executable, "-c", code], cwd=assets.ROOT, stderr=subprocess.DEVNULL) as process:
        assert half_sent.wait(60), "the process has not begun to download"
        time.sleep(0.2)
        process.send_signal(KILL)
    server.healed.set()
    server.fault = lambda request: answer(request, BOOK)
    assert assets.gulliver().path.read_bytes() == BOOK


def test_an_empty_or_damaged_tokenizer_file_never_gives_an_empty_tokenizer(server, monkeypatch, tmp_path, capsys):
    """Some programs leave an empty vocab.bpe in their cache when their first use is interrupted."""
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
    output = capsys.readouterr().out
    assert output.count("DAMAGED") == 2 and "Stand-in" in output and "wrong hash" in output
    assert tokenizer.vocab_size == 4096 and len(tokenizer.encode("The Brass Yard")) > 0


# Disks: full, read only


@contextlib.contextmanager
def disk_of(size):
    """A context in which no file can grow beyond size bytes: the system refuses the rest, as on a full disk."""
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of a file")
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
def test_a_disk_that_fills_up_during_a_checkpoint_keeps_the_previous_one(tmp_path, monkeypatch, write):
    _, expected = uninterrupted()
    saves = iter(range(1, 99))
    monkeypatch.setattr(torch, "save", lambda *a: (write if next(saves) == 2 else SAVE)(*a))
    message = rf"{CHECKPOINT} could not be written .*An earlier version of it is intact. Make room"
    with pytest.raises(OSError, match=message):
        train(out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, HISTORY]
    monkeypatch.setattr(torch, "save", SAVE)
    assert len(training.load_checkpoint(tmp_path)["history"]["train_loss"]) == 4
    _, history = train(model=GPT(MODEL), out=tmp_path, resume=True)
    assert history.train_loss == expected.train_loss


def test_a_disk_that_fills_up_during_a_download_gives_the_stand_in(server, capsys):
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
    output = capsys.readouterr().out
    assert "it cannot be kept in" in output and "COURSE_CACHE" in output


READ_ONLY = """
from helpers.machine import assets
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


def check_read_only(output, cache):
    assert "DAMAGED" in output and "replace it or delete it" in output and "removed" not in output
    assert f"it cannot be kept in {cache / 'gulliver'}" in output and "Stand-in" in output
    assert "b'wrong' True b'wrong'" in output
    assert "new.txt could not be written" in output and "choose a folder that you may write to" in output


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a private mount needs unshare (Linux)")
def test_a_read_only_data_folder_with_a_damaged_file_in_its_cache(server, tmp_path):
    """A read-only mount, which refuses the administrator too."""
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
        pytest.skip(f"this system allows no private mounts: {done.stderr.strip()[:100]}")
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


# Processes that are killed


def die(*_, **__):
    os.kill(os.getpid(), KILL)


def at_call(number, real, instead):
    calls = iter(range(1, 10**6))
    return lambda *a, **k: (instead if next(calls) == number else real)(*a, **k)


def half_a_checkpoint(state, path):
    SAVE(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
    die()


MOMENTS = {  # (module, its function, which call is replaced, by what); the second checkpoint is written after step 8
    "half of a checkpoint is written": (torch, "save", 2, half_a_checkpoint),
    "a step has its gradient but no update": (torch.nn.utils, "clip_grad_norm_", 7, die),
}


def train_and_be_killed(folder, moment):
    """What a process of the next test does."""
    module, name, number, instead = MOMENTS[moment]
    setattr(module, name, at_call(number, getattr(module, name), instead))
    train(out=folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Processes that train and are killed at each of MOMENTS, all at the same time: {moment: (folder, process)}."""
    running = {}
    for moment in MOMENTS:
        folder = tmp_path_factory.mktemp("killed")
        code = "import sys; from tests.machine import test_faults; test_faults.train_and_be_killed(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(folder), moment]
        options = {"cwd": assets.ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        running[moment] = folder, subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    yield running
    for _, process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_with_the_losses_of_an_uninterrupted_one(killed, moment):
    folder, process = killed[moment]
    _, error = process.communicate(timeout=300)
    assert process.returncode in (-KILL, KILL), error
    assert len(training.load_checkpoint(folder)["history"]["train_loss"]) == 4
    leftovers = list(folder.glob("*.part"))
    assert bool(leftovers) == ("checkpoint" in moment), "the process was not killed while it wrote"
    expected_model, expected = uninterrupted()
    model, history = train(model=GPT(MODEL), out=folder, resume=True)
    assert history.train_loss == expected.train_loss and history.validation_loss == expected.validation_loss
    assert torch.equal(weights(model), weights(expected_model))
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT, HISTORY], "leftovers were not removed"


@pytest.mark.slow
def test_a_run_stopped_by_a_notebooks_stop_button_can_continue(tmp_path):
    """A real kernel, interrupted as JupyterLab and Colab do it."""
    manager = pytest.importorskip("jupyter_client").manager
    environment = {**os.environ, "PYTHONPATH": str(assets.ROOT), "COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=environment)
    try:
        cell = ("from dataclasses import replace; from tests.small import CONFIG, train\n"
                "model, history = train(replace(CONFIG, steps=100_000), out='run')\n"
                "print('steps:', len(history.train_loss), history.interrupted)")
        messages = []
        awaited = tmp_path / "run" / CHECKPOINT, kernel
        threading.Thread(target=interrupt_when_it_exists, args=awaited, daemon=True).start()
        reply = client.execute_interactive(cell, timeout=300, allow_stdin=False, output_hook=messages.append)
        assert reply["content"]["status"] == "ok", reply["content"]
        output = "".join(message["content"].get("text", "") for message in messages)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert "continue with resume=True" in output
    done = len(training.load_checkpoint(tmp_path / "run")["history"]["train_loss"])
    assert f"steps: {done} True" in output and 0 < done < 100_000
    _, history = train(replace(CONFIG, steps=done + 3), out=tmp_path / "run", resume=True)
    assert len(history.train_loss) == done + 3


def interrupt_when_it_exists(path, kernel):
    while not path.exists():
        time.sleep(0.05)
    kernel.interrupt_kernel()
