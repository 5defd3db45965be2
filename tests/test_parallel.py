"""Training in two processes (gloo, CPU): the losses of one, shares without overlap, one writer, and what a loss of a
process does. Every job takes seconds to start, so few jobs check much each."""

import csv
import json
import time
from dataclasses import replace

import pytest
import torch

from helpers import parallel, training
from helpers.model import GPT, GPTConfig
from helpers.training import CHECKPOINT, HISTORY, TrainConfig

MODEL = GPTConfig(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)
SETTINGS = dict(steps=12, batch_size=8, context=16, learning_rate=1e-2, warmup_steps=3, eval_every=4)
CONFIG = TrainConfig(**SETTINGS)
TRAIN, TEST = torch.arange(2000) * 7 % 64, torch.arange(301) * 7 % 64
# Two processes add the same float32 numbers in another order. Each sum then differs by some 1e-7 of its size. Twelve
# steps of AdamW, which divides by the gradient's size, let that grow: 7e-7 nats were measured. Other rows change the
# loss by 1e-2 and more (test_the_tolerance_can_tell_a_wrong_batch), so 1e-4 tells rounding from a mistake.
CLOSE = dict(abs=1e-4, rel=0)


def train(config=CONFIG, **settings):
    torch.manual_seed(1)
    model = GPT(MODEL)
    return model, training.train(model, TRAIN, TEST, config, progress=False, **settings)


def watched(folder, settings):
    """What a process does in a run, and in one with each share cut into two parts: losses, rows, exchanges, files."""
    import hashlib

    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from helpers import parallel, training
    from tests import test_parallel as here

    seen = {"rows": [], "exchanged": 0, "written": []}
    replicate, update, save = parallel.Ranks.replicate, training.update, torch.save

    def counting(group, bucket):
        seen["exchanged"] += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    def replicate_and_count(ranks, model):
        model = replicate(ranks, model)
        model.register_comm_hook(None, counting)
        return model

    def update_and_look(model, optimizer, scaler, x, y, *others):
        seen["rows"].append([x.tolist(), y.tolist()])
        return update(model, optimizer, scaler, x, y, *others)

    def save_and_tell(state, path):
        seen["written"].append(len(state["history"]["train_loss"]))
        save(state, path)

    parallel.Ranks.replicate, training.update, torch.save = replicate_and_count, update_and_look, save_and_tell
    found = []
    for accumulate in (1, 2):
        seen.update(rows=[], exchanged=0, written=[])
        config = here.TrainConfig(**settings, accumulate=accumulate)
        model, history = here.train(config, out=f"{folder}/{accumulate}")
        weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
        digest = hashlib.sha256(weights).hexdigest()
        found.append({**seen, "train": history.train_loss, "test": history.test_loss, "weights": digest})
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """watched() in two processes: [rank][0 for whole shares, 1 for two parts each], and the folder."""
    folder = tmp_path_factory.mktemp("two")
    return parallel.run(watched, processes=2, folder=str(folder), settings=SETTINGS), folder


@pytest.fixture(scope="module")
def one():
    """The model and the history of the same run in this process alone."""
    return train()


def test_two_processes_have_the_losses_of_one(one, two):
    for found in (*two[0][0], *two[0][1]):
        assert found["train"] == pytest.approx(one[1].train_loss, **CLOSE)
        assert found["test"] == pytest.approx(one[1].test_loss, **CLOSE)


def test_the_tolerance_can_tell_a_wrong_batch(one):
    half = train(replace(CONFIG, batch_size=4))[1]  # the first share twice, say
    assert max(abs(a - b) for a, b in zip(half.train_loss, one[1].train_loss)) > 1e-2


def test_shares_are_disjoint_and_make_the_batch(two):
    generator = torch.Generator().manual_seed(CONFIG.seed)
    for first, second in zip(two[0][0][0]["rows"], two[0][1][0]["rows"]):
        batch = training.corpus.random_batch(TRAIN, CONFIG.batch_size, CONFIG.context, generator)
        assert all(len(share) == 4 for share in (*first, *second))
        assert [a + b for a, b in zip(first, second)] == [rows.tolist() for rows in batch]


def test_weights_stay_the_same_in_both(two):
    for first, second in zip(*two[0]):
        assert first["weights"] == second["weights"]


def test_gradients_are_exchanged_once_per_step_however_many_parts(one, two):
    size = sum(4 * parameter.numel() for parameter in one[0].parameters())
    assert [found["exchanged"] for rank in two[0] for found in rank] == [CONFIG.steps * size] * 4


def test_only_rank_0_writes(two):
    (first, second), folder = two
    assert first[0]["written"] == [4, 8, 12] and second[0]["written"] == []
    assert sorted(path.name for path in (folder / "1").iterdir()) == [CHECKPOINT, HISTORY]
    with open(folder / "1" / HISTORY, newline="") as file:
        assert [float(row["train_loss"]) for row in list(csv.DictReader(file))[1:]] == first[0]["train"]
    assert list(training.load_checkpoint(folder / "1")["model"]) == list(GPT(MODEL).state_dict())  # a plain GPT's names


def test_parts_of_a_batch_give_the_losses_of_the_whole(one):
    for accumulate in (2, 4, 8):
        history = train(replace(CONFIG, accumulate=accumulate))[1]
        assert history.train_loss == pytest.approx(one[1].train_loss, **CLOSE)
        assert history.test_loss == pytest.approx(one[1].test_loss, **CLOSE)


def test_a_batch_that_cannot_be_shared_is_named(monkeypatch):
    with pytest.raises(ValueError, match="multiple of 3"):
        train(replace(CONFIG, accumulate=3))
    with pytest.raises(ValueError, match="accumulate=0"):
        replace(CONFIG, accumulate=0)
    monkeypatch.setattr(parallel, "current", lambda: parallel.Ranks(0, 5))
    with pytest.raises(ValueError, match=r"batch_size=8 cannot be cut into 5 \(processes\) x 1"):
        train()


def killed(folder, settings, rank, step):
    """A run in which one process is killed in a step; the time is left in a file."""
    import os
    import pathlib
    import signal
    import time

    from helpers import parallel, training
    from tests import test_parallel as here

    update, steps = training.update, iter(range(1, 1000))

    def update_or_die(*arguments):
        if next(steps) == step and parallel.current().rank == rank:
            pathlib.Path(folder, "killed").write_text(str(time.time()))
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return update(*arguments)

    training.update = update_or_die
    here.train(here.TrainConfig(**settings), out=folder)


def interrupted_and_resumed(folder, settings, killed_folder):
    """A run that Ctrl-C stops in one process, resumed; and a killed run, resumed."""
    import signal

    from helpers import parallel, training
    from tests import test_parallel as here

    config, update, steps = here.TrainConfig(**settings), training.update, iter(range(1, 1000))

    def update_or_stop(*arguments):
        if next(steps) == 6 and parallel.current().rank == 1:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    training.update = update_or_stop
    stopped = here.train(config, out=folder)[1]
    training.update = update
    found = [here.train(config, out=which, resume=True)[1].train_loss for which in (folder, killed_folder)]
    return [len(stopped.train_loss), stopped.interrupted, *found]


def test_a_killed_process_ends_the_job_and_its_checkpoint_resumes(one, two, tmp_path):
    with pytest.raises(RuntimeError, match="because another one has stopped") as error:
        parallel.run(killed, folder=str(tmp_path / "killed"), settings=SETTINGS, rank=1, step=7)
    assert time.time() - float((tmp_path / "killed" / "killed").read_text()) < 60
    assert "A checkpoint written earlier is whole" in str(error.value)
    assert len(training.load_checkpoint(tmp_path / "killed")["history"]["train_loss"]) == 4
    assert not list((tmp_path / "killed").glob("*.part"))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / CHECKPOINT).write_bytes((tmp_path / "killed" / CHECKPOINT).read_bytes())
    assert train(out=tmp_path / "alone", resume=True)[1].train_loss == pytest.approx(one[1].train_loss, **CLOSE)

    folders = {"folder": str(tmp_path / "stopped"), "killed_folder": str(tmp_path / "killed")}
    found = parallel.run(interrupted_and_resumed, settings=SETTINGS, **folders)
    whole = pytest.approx(two[0][0][0]["train"], **CLOSE)
    assert found == [[6, True, whole, whole]] * 2  # both stop in the same step; both processes resume


def test_the_command_line_in_two_processes(tmp_path, capsys):
    text = training.assets.DATA / "voyage.txt"
    arguments = ["-m", "helpers.training", "--size", "smoke", "--text", text, "--steps", 2, "--accumulate", 2]
    status, said = parallel.torchrun([*arguments, "--out", tmp_path])
    assert status == 0, said
    assert said.count("bits per byte") == said.count("366,336 parameters") == 1  # one process speaks
    assert said in capsys.readouterr().out
    assert training.load_checkpoint(tmp_path)["train_config"]["accumulate"] == 2


def test_alone_nothing_is_exchanged():
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
