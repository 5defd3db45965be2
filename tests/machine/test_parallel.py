"""Training in two processes (gloo, CPU): the losses of one, shares without overlap, one writer, and what happens when a
process is lost. A job takes seconds to start, so there are few jobs, and each checks much."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from helpers import corpus, training
from helpers.machine import assets, parallel
from helpers.machine.checkpoints import CHECKPOINT, HISTORY
from helpers.model import GPT
from helpers.training import TrainConfig
from tests import small

pytestmark = pytest.mark.slow

MODEL = replace(small.MODEL, dropout=0.0)  # each process has its own dropout
CONFIG = TrainConfig(steps=12, batch_size=8, context=16, learning_rate=1e-2, warmup_steps=3, eval_every=4)
# Two processes add the same float32 numbers in another order. Each sum then differs by some 1e-7 of its size. Twelve
# steps of AdamW, which divides by the gradient's size, let that grow: 7e-7 nats were measured. Other rows change the
# loss by 1e-2 and more (test_the_tolerance_would_reveal_a_wrong_batch), so 1e-4 separates rounding from a mistake.
CLOSE = dict(abs=1e-4, rel=0)


def train(config=CONFIG, **settings):
    torch.manual_seed(1)
    return small.train(config, GPT(MODEL), **settings)


def observed_run(out, config):
    """Trains, and returns what this process did: its rows of each batch, how many bytes it exchanged, after which steps
    it wrote a checkpoint, its losses, and the hash of its final weights."""
    seen = {"rows": [], "exchanged": 0, "written": []}
    replicate, train_step, save = parallel.Ranks.replicate, training.train_step, torch.save

    def count_bytes(group, bucket):
        seen["exchanged"] += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    def replicate_and_count(ranks, model):
        model = replicate(ranks, model)
        model.register_comm_hook(None, count_bytes)
        return model

    def step_and_record(model, optimizer, scaler, x, y, *others):
        seen["rows"].append([x.tolist(), y.tolist()])
        return train_step(model, optimizer, scaler, x, y, *others)

    def save_and_record(state, path):
        seen["written"].append(len(state["history"]["train_loss"]))
        save(state, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel.Ranks, "replicate", replicate_and_count)
        patch.setattr(training, "train_step", step_and_record)
        patch.setattr(torch, "save", save_and_record)
        model, history = train(config, out=out)
    weights = hashlib.sha256(small.weights(model).detach().numpy().tobytes()).hexdigest()
    return {**seen, "train": history.train_loss, "test": history.validation_loss, "weights": weights}


def observed_runs(folder):
    """What a process does in a run, and in another with its share cut into two parts."""
    return [observed_run(f"{folder}/{accumulate}", replace(CONFIG, accumulate=accumulate)) for accumulate in (1, 2)]


def call(name, **arguments):
    """Calls a function of this file by its name. Only the source of this one is sent to the processes."""
    from tests.machine import test_parallel

    return getattr(test_parallel, name)(**arguments)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """observed_runs() in two processes: [rank][0 for undivided shares, 1 for two parts each], and the folder."""
    folder = tmp_path_factory.mktemp("two")
    return parallel.run(call, name="observed_runs", folder=str(folder)), folder


@pytest.fixture(scope="module")
def one():
    """The model and the history of the same run in a single process."""
    return train()


def test_two_processes_have_the_losses_of_one(one, two):
    for run in (*two[0][0], *two[0][1]):
        assert run["train"] == pytest.approx(one[1].train_loss, **CLOSE)
        assert run["test"] == pytest.approx(one[1].validation_loss, **CLOSE)


def test_the_tolerance_would_reveal_a_wrong_batch(one):
    half = train(replace(CONFIG, batch_size=4))[1]  # as if both processes had the same share
    assert max(abs(a - b) for a, b in zip(half.train_loss, one[1].train_loss)) > 1e-2


def test_shares_are_disjoint_and_make_the_batch(two):
    generator = torch.Generator().manual_seed(CONFIG.seed)
    for first, second in zip(two[0][0][0]["rows"], two[0][1][0]["rows"]):
        batch = corpus.random_batch(small.TRAIN, CONFIG.batch_size, CONFIG.context, generator)
        assert all(len(share) == 4 for share in (*first, *second))
        assert [a + b for a, b in zip(first, second)] == [rows.tolist() for rows in batch]


def test_both_processes_have_the_same_weights_at_the_end(two):
    for first, second in zip(*two[0]):
        assert first["weights"] == second["weights"]


def test_gradients_are_exchanged_once_per_step_however_many_parts(one, two):
    size = sum(4 * parameter.numel() for parameter in one[0].parameters())
    assert [run["exchanged"] for rank in two[0] for run in rank] == [CONFIG.steps * size] * 4


def test_only_rank_0_writes(two):
    (first, second), folder = two
    assert first[0]["written"] == [4, 8, 12] and second[0]["written"] == []
    assert sorted(path.name for path in (folder / "1").iterdir()) == [CHECKPOINT, HISTORY]
    with open(folder / "1" / HISTORY, newline="") as file:
        assert [float(row["train_loss"]) for row in list(csv.DictReader(file))[1:]] == first[0]["train"]
    assert list(training.load_checkpoint(folder / "1")["model"]) == list(GPT(MODEL).state_dict())  # a plain GPT's names


def test_a_batch_in_parts_gives_the_same_losses(one):
    for accumulate in (2, 4, 8):
        history = train(replace(CONFIG, accumulate=accumulate))[1]
        assert history.train_loss == pytest.approx(one[1].train_loss, **CLOSE)
        assert history.validation_loss == pytest.approx(one[1].validation_loss, **CLOSE)


def test_a_batch_that_cannot_be_divided_is_named(monkeypatch):
    monkeypatch.setattr(parallel, "current", lambda: parallel.Ranks(0, 5))
    with pytest.raises(ValueError, match=r"batch_size=8 cannot be divided into 5 \(processes\) x 1"):
        train()


def killed(folder, rank, step):
    """A run in which one process is killed in a step. It writes the time into a file before."""
    train_step, steps = training.train_step, iter(range(1, 1000))

    def step_or_die(*arguments):
        if next(steps) == step and parallel.current().rank == rank:
            Path(folder, "killed").write_text(str(time.time()))
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return train_step(*arguments)

    training.train_step = step_or_die
    train(out=folder)


def interrupted_and_resumed(folder, killed_folder):
    """A run that Ctrl-C stops in one process, then resumed. A killed run, resumed. Returns what the test compares."""
    train_step, steps = training.train_step, iter(range(1, 1000))

    def step_or_stop(*arguments):
        if next(steps) == 6 and parallel.current().rank == 1:
            signal.raise_signal(signal.SIGINT)
        return train_step(*arguments)

    training.train_step = step_or_stop
    stopped = train(out=folder)[1]
    training.train_step = train_step
    losses = [train(out=out, resume=True)[1].train_loss for out in (folder, killed_folder)]
    return [len(stopped.train_loss), stopped.interrupted, *losses]


def test_a_killed_process_ends_the_job_and_its_checkpoint_resumes(one, tmp_path):
    with pytest.raises(RuntimeError, match="because another one has stopped") as error:
        parallel.run(call, name="killed", folder=str(tmp_path / "killed"), rank=1, step=7)
    assert time.time() - float((tmp_path / "killed" / "killed").read_text()) < 60
    assert "Any checkpoint written earlier is complete" in str(error.value)
    assert len(training.load_checkpoint(tmp_path / "killed")["history"]["train_loss"]) == 4
    assert not list((tmp_path / "killed").glob("*.part"))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / CHECKPOINT).write_bytes((tmp_path / "killed" / CHECKPOINT).read_bytes())
    assert train(out=tmp_path / "alone", resume=True)[1].train_loss == pytest.approx(one[1].train_loss, **CLOSE)

    folders = {"folder": str(tmp_path / "stopped"), "killed_folder": str(tmp_path / "killed")}
    results = parallel.run(call, name="interrupted_and_resumed", **folders)
    expected = pytest.approx(one[1].train_loss, **CLOSE)
    assert results == [[6, True, expected, expected]] * 2, "both processes stop in the same step, and both resume"


def test_the_command_line_in_two_processes(tmp_path, capsys):
    text = assets.DATA / "voyage.txt"
    arguments = ["-m", "helpers.training", "--size", "smoke", "--text", text, "--steps", 2, "--accumulate", 2]
    status, output = parallel.torchrun([*arguments, "--out", tmp_path])
    assert status == 0, output
    assert output.count("bits per byte") == output.count("366,336 parameters") == 1, "only one process reports"
    assert output in capsys.readouterr().out
    assert training.load_checkpoint(tmp_path)["train_config"]["accumulate"] == 2


def joined_with(environment):
    """The environment variables of a process of a job that are named, and the sum of a number over all processes."""
    return [parallel.current().total(1), *map(os.environ.get, environment)]


def test_what_a_cluster_has_left_in_the_environment_changes_nothing(monkeypatch):
    left = {"MASTER_ADDR": "node17", "MASTER_PORT": "29500", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4", "PET_NNODES": "2", "PET_RDZV_ENDPOINT": "node17:29500", "SLURM_PROCID": "3",
            "GLOO_SOCKET_IFNAME": "ib0", "http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with parallel.joined() as ranks:
        assert ranks == parallel.Ranks(0, 1), "without torchrun there is one process"
    results = parallel.run(call, name="joined_with", environment=["MASTER_ADDR", "WORLD_SIZE", "PET_NNODES"])
    assert results == [[2, "127.0.0.1", "2", None]] * 2


WITHOUT_A_NAME = """
hostname no-entry && mount --bind {hosts} /etc/hosts && mount --bind {switch} /etc/nsswitch.conf && exec "$@"
"""
SCRIPT = """
from helpers.machine import parallel
with parallel.joined() as ranks:
    print(f"joined {ranks.total(1):.0f}\\n", end="")  # one write: two processes print into one pipe
"""


@pytest.mark.parametrize("hosts", ["", "127.0.0.1 localhost\n"], ids=["no-names", "localhost-only"])
def test_a_job_starts_on_a_machine_whose_name_has_no_entry(tmp_path, hosts):
    """In namespaces of its own, the process may rename the machine: nothing outside it changes."""
    unshare = shutil.which("unshare")
    files = {"hosts": hosts, "switch": "hosts: files\n", "script": SCRIPT}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: tmp_path / name for name in files}
    inside = [unshare, "--mount", "--uts", "sh", "-c", WITHOUT_A_NAME.format(**paths), "sh"]
    if unshare is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process rename its machine: that needs Linux and root")
    code = f"from helpers.machine import parallel; print(parallel.torchrun([{str(tmp_path / 'script')!r}]))"
    done = subprocess.run([*inside, sys.executable, "-c", code], cwd=assets.ROOT, capture_output=True, text=True,
                          timeout=100)
    assert done.stdout.count("joined 2") == 2 * 2, done.stdout + done.stderr  # printed, and in the output


def test_processes_that_cannot_meet_end_with_a_message(monkeypatch, capsys):
    monkeypatch.setattr(parallel, "MEETING", 6)
    start = time.monotonic()
    status, output = parallel.torchrun(["--nnodes", 2, "-m", "helpers.training"])  # the other machine never comes
    assert status and time.monotonic() - start < 60
    assert "2 processes have not met within 6 seconds. They meet at 127.0.0.1" in output
    assert output in capsys.readouterr().out


def test_a_single_process_exchanges_nothing():
    ranks, model, rows = parallel.current(), GPT(MODEL), torch.zeros(4, 2)
    assert ranks == parallel.Ranks(0, 1) and ranks.replicate(model) is model and torch.equal(ranks.share(rows), rows)
    assert ranks.total(0.1) == 0.1 and ranks.agree("x") == "x" and json.dumps(ranks.size) == "1"
    with parallel.joined() as ranks:
        assert ranks == parallel.Ranks(0, 1)


@pytest.mark.parametrize("device, gpus", [("mps", 0), ("cuda", 1)])
def test_a_process_without_a_gpu_of_its_own_is_named(monkeypatch, device, gpus):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(parallel.runtime, "best_device", lambda: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match="COURSE_DEVICE=cpu"), parallel.joined():
        pass
