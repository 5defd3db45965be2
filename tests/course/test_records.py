"""Records of other machines, as the lessons read them."""

import functools
from dataclasses import asdict

import pytest

from helpers import corpus
from helpers.course import experiments, full_size, induction, records, speedrun
from helpers.machine import timing
from helpers.model import GPTConfig
from helpers.training import TrainConfig

GPU = {"device": "Fake GPU", "type": "cuda", "driver": "1.2", "torch": "2.0", "python": "3.11.7", "date": "2030-01-02"}
OTHER_GPU = {**GPU, "device": "Other fake GPU", "date": "2030-03-04"}
CPU = {"device": "Fake CPU", "type": "cpu", "threads": 4, "torch": "2.0", "python": "3.11.7", "date": "2030-01-02"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a fake record, which the lessons then find in place of the real ones."""
    monkeypatch.setattr(timing, "recorded", functools.partial(timing.recorded, folder=tmp_path))
    return lambda kind, origin, **results: timing.write_record(kind, {**origin, **results}, tmp_path)


def test_an_origin_in_words():
    assert records.origin(GPU) == "Fake GPU, driver 1.2, torch 2.0, 2030-01-02"
    assert records.origin(CPU) == "Fake CPU, 4 threads, torch 2.0, 2030-01-02"
    apple = {"device": "Apple GPU (MPS)", "type": "mps", "torch": "2.0", "date": "2030-01-02"}
    assert records.origin(apple) == "Apple GPU (MPS), torch 2.0, 2030-01-02"
    assert records.label(GPU) == "Fake GPU, 2030-01-02"


def test_only_records_of_the_kind_and_of_gpus(write):
    assert records.of_gpus("speed") == []
    for origin in (GPU, OTHER_GPU, CPU):
        write("speed", origin, model="Model 5", rows=[])
    write("bench", GPU, rows=[])
    assert [record["device"] for record in records.of_gpus("speed")] == ["Fake GPU", "Other fake GPU"]


ROWS = [["cuda", "forward pass", [0.02, 0.01, 0.03], "s"], ["cpu", "forward pass", 2.5, "s"],
        ["cuda", "forward pass by T", {"64": 0.1}, "s"]]


@pytest.fixture
def speeds_written(write):
    """Speeds of Model 5 on a fake GPU, and two records that the lessons must not use: a rehearsal and a CPU's."""
    write("speed", GPU, model="Model 5", rows=ROWS)
    write("speed", OTHER_GPU, model="a small model", rows=ROWS)
    write("speed", CPU, model="Model 5", rows=ROWS)


def test_speeds_of_the_gpu_and_of_the_cpu_beside_it(speeds_written):
    assert [(record["device"], value) for record, value in records.speeds("forward pass")] == [
        ("Fake GPU", [0.02, 0.01, 0.03])]
    assert [value for _, value in records.speeds("forward pass", on="cpu")] == [2.5]
    assert [value for _, value in records.speeds("forward pass by T")] == [{"64": 0.1}]
    assert records.speeds("something else") == []


def test_both_devices_of_one_machine(speeds_written):
    assert [(record["device"], cpu, gpu) for record, cpu, gpu in records.on_both("forward pass")] == [
        ("Fake GPU", 2.5, 0.02)]
    ((_, cpu, _),) = records.on_both("forward pass by T")
    assert cpu is None


def test_all_speeds_of_the_gpus(speeds_written):
    assert records.gpu_speeds() == {"Fake GPU, 2030-01-02": {
        "forward pass": ([0.02, 0.01, 0.03], "s"), "forward pass by T": ({"64": 0.1}, "s")}}


def test_this_cpu_beside_a_gpu():
    gpu = {"time": ([0.5, 0.4, 0.6], "s"), "speed": (300, "TFLOP/s"), "share": (0.4, "ratio"), "not here": (1, "s")}
    rows = records.beside({"time": (2.0, "s"), "speed": (3, "TFLOP/s"), "share": (0.8, "ratio")}, gpu,
                          ["time", "speed", "share", "not here", "not there"])
    assert [list(row.values()) for row in rows] == [
        ["time", "s", 2.0, 0.5, 4.0], ["speed", "TFLOP/s", 3, 300, 100.0], ["share", "ratio", 0.8, 0.4, None],
        ["not here", "s", None, 1, None]]


def test_the_middle_of_a_value():
    assert records.middle([0.02, 0.01, 0.03]) == 0.02 and records.middle(2.5) == 2.5


def test_findings_of_the_tests_on_a_gpu(write):
    tests = [{"test": "one", "outcome": "passed", "seconds": 0.1, "largest difference": 0.001},
             {"test": "two", "outcome": "passed", "seconds": 0.1}]
    write("cuda", GPU, tests=tests)
    ((record, value),) = records.gpu_findings("largest difference")
    assert record["device"] == "Fake GPU" and value == 0.001
    assert records.gpu_findings("something else") == []


def test_the_error_is_quoted_until_a_gpu_has_been_recorded(write):
    write("cuda", GPU, tests=[{"test": "one", "outcome": "skipped", "seconds": 0.1}])
    text, origin = records.same_device_error()
    assert text == records.QUOTED_ERROR and origin.startswith("quoted from") and records.QUOTED_FROM in origin


def test_the_error_of_the_newest_record_with_its_origin(write):
    for origin, text in ((OTHER_GPU, "the newer message"), (GPU, "the older message")):
        write("cuda", origin, tests=[{"test": "one", "outcome": "passed", "seconds": 0.1, "same device error": text}])
    assert records.same_device_error() == (
        "the newer message", "recorded on another machine: Other fake GPU, driver 1.2, torch 2.0, 2030-03-04")


def test_training_runs_of_the_real_size_with_most_batches_first(write):
    real = {"size": "full", "text": "Gulliver's Travels", "model": {"vocab_size": 50_257}}
    write("training", CPU, **real, runs={"course-0": {"batches": 60}})
    write("training", GPU, **real, runs={"course-0": {"batches": 500}, "course-1": {"batches": 500}})
    write("training", OTHER_GPU, **{**real, "size": "laptop"}, runs={"course-0": {"batches": 900}})
    write("training", {**CPU, "device": "another CPU"}, **{**real, "text": "a stand-in"},
          runs={"course-0": {"batches": 900}})
    found = [(record["device"], run["batches"]) for record, run in records.training_runs("course-0")]
    assert found == [("Fake GPU", 500), ("Fake CPU", 60)]
    assert [record["device"] for record, _ in records.training_runs("course-1")] == ["Fake GPU"]
    assert records.training_runs("lectures-0") == []


BOOK = {"size": "full", "text": "Gulliver's Travels", "model": {"vocab_size": 50_257}}


def test_the_full_size_record_is_that_with_the_most_batches_and_the_gpus_of_two_alike(write):
    assert records.full_size() is None
    write("training", GPU, **{**BOOK, "model": {"vocab_size": 4096}}, runs={"course-0": {"batches": 500}})
    write("training", {**GPU, "device": "Third"}, **{**BOOK, "text": "a stand-in"}, runs={"course-0": {"batches": 500}})
    write("training", {**GPU, "device": "Fourth"}, **BOOK, runs={"course-0": {"batches": 0}})
    assert records.full_size() is None
    write("training", CPU, **BOOK, runs={"course-0": {"batches": 60}, "course-1": {"batches": 40}})
    assert records.full_size()["device"] == "Fake CPU"
    write("training", OTHER_GPU, **BOOK, runs={"course-0": {"batches": 100}})
    assert records.full_size()["device"] == "Other fake GPU"


def test_the_median_time_of_a_batch_and_of_how_many(write):
    write("training", CPU, **BOOK, runs={"course-0": {"batches": 4, "seconds": [None, 9.0, 7.0, 8.0]}})
    write("training", GPU, **BOOK, runs={"course-0": {"batches": 2, "seconds": [None, None]}})
    ((record, run, seconds, timed),) = records.batch_times("course-0")
    assert (record["device"], run["batches"], seconds, timed) == ("Fake CPU", 4, 8.0, 3)


def test_settings_that_a_record_does_not_know_yet_count_as_their_defaults():
    now = {"size": "laptop", "training": asdict(TrainConfig(steps=7)), "model": asdict(GPTConfig())}
    older = {**now, "training": {key: value for key, value in now["training"].items() if key not in ("noise", "beta2")}}
    assert records.same_settings(older, now) and records.same_settings({**older, "more": 1}, now)
    assert not records.same_settings(older, {**now, "training": asdict(TrainConfig(steps=7, noise=0.1))})
    assert not records.same_settings({**older, "size": "full"}, now) and not records.same_settings({}, now)
    extra = {**older, "training": {**older["training"], "noise": 0.1}}
    assert not records.same_settings(extra, now)


def test_the_records_that_ship_are_still_valid(real_files):
    book = corpus.load_gulliver("course")
    for name in experiments.load_records():
        runs = experiments.recorded(name, "laptop", book)["runs"]
        chosen = experiments.rate_of(name, "laptop", book)
        assert len(experiments.counting(runs, chosen)) == experiments.ARMS[name].seeds, name
    for name, attempt in speedrun.ATTEMPTS.items():
        seeds = len(speedrun.losses_of(name))
        assert seeds >= (len(speedrun.SEEDS) if attempt.kind == "record" else 2), name
        assert name == "today" or speedrun.is_record(name) == (attempt.kind == "record"), name
    assert all(len(speedrun.losses_of(name, prefix="final_")) == len(speedrun.SEEDS) for name in speedrun.FINAL)
    for record in timing.recorded("induction"):
        path = timing.record_path("induction", record)
        assert induction.recorded_runs(path, induction.describe())
    for record in records.of_gpus("training"):
        assert set(full_size.still_valid(record["runs"], "full")) == set(record["runs"])
