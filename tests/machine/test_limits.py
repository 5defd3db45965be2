"""Processors and memory of a container: what its files say, real control groups, and what the course does about it."""

import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from helpers.machine import assets, environment, limits, runtime, timing

GIB = 2**30
V1 = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n"
HALF_V1 = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
FREE_V1 = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups(own, {folder: {file: text}}): the files in which Linux tells the limits of a process."""

    def make(own, folders):
        monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
        put(tmp_path, {"own": own})
        for folder, files in folders.items():
            put(tmp_path / "cgroup" / folder, files)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return make


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("own, folders, quota", [
    ("0::/\n", {".": {"cpu.max": "50000 100000\n"}}, 0.5),  # version 2, seen from inside of a container
    ("0::/a/b\n", {"a/b": {"cpu.max": "max 100000\n"}, "a": {"cpu.max": "150000 100000\n"}}, 1.5),  # of the outer group
    ("0::/a/b\n", {"a/b": {"cpu.max": "200000 100000\n"}, "a": {"cpu.max": "300000 100000\n"}}, 2.0),
    ("0::/a/b\n", {".": {"cpu.max": "25000 50000\n"}}, 0.5),  # the folder of the own group cannot be seen
    ("0::/\n", {".": {"cpu.max": "max 100000\n"}}, None),
    (V1, {"cpu/docker/abc": HALF_V1, "cpu": FREE_V1}, 0.5),
    (V1, {"cpu": HALF_V1}, 0.5),
    (V1, {"cpu/docker/abc": FREE_V1}, None),
    (V1, {"memory": HALF_V1, "cpu/docker/other": HALF_V1}, None),  # not the group of this process
    ("", {".": {"cpu.max": "50000 100000\n"}}, None),
    ("0::/\n", {".": {"cpu.max": ""}}, None),
    ("nonsense\n", {}, None),
])
def test_the_quota_is_read_from_both_versions_of_control_groups(groups, own, folders, quota):
    groups(own, folders)
    assert limits.cpu_quota() == quota and limits.processors() == (quota or 8)
    assert limits.described() == (f"may use {quota:g} of 8 processors" if quota else "")


def test_without_control_groups_the_scheduler_decides(groups, monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "nowhere")
    assert limits.cpu_quota() is None and limits.processors() == 8 and limits.described() == ""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    assert limits.processors() == 3 and limits.described() == "may use 3 of 8 processors"
    groups("0::/\n", {".": {"cpu.max": "450000 100000\n"}})  # more than the scheduler's three
    assert limits.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "nowhere")
    assert limits.processors() == 8


@pytest.mark.parametrize("quota, before, after, pauses", [
    (50_000, 4, 1, True), (100_000, 4, 1, False), (250_000, 4, 2, False), (300_000, 2, 2, False), (50_000, 1, 1, True)])
def test_threads_follow_the_quota_and_the_setup_line_says_so(groups, threads, monkeypatch, capsys, quota, before, after,
                                                             pauses):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    groups("0::/\n", {".": {"cpu.max": f"{quota} 100000\n"}})
    torch.set_num_threads(before)
    runtime.describe()
    first, *more = capsys.readouterr().out.splitlines()
    assert torch.get_num_threads() == after
    assert f"CPU, {after} thread" in first and f"; may use {quota / 1e5:g} of 8 processors; run size" in first
    assert ("(a quota allows 0.5 processors)" in first) == pauses == ("quota" in timing.origin("cpu"))
    assert len(more) == pauses and ("UNEVEN TIMES" in "".join(more)) == pauses


def test_without_a_limit_threads_and_lines_stay_as_they_are(groups, threads, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    groups("0::/\n", {})
    torch.set_num_threads(3)
    runtime.describe()
    assert capsys.readouterr().out.startswith("Ready: CPU, 3 threads; run size") and torch.get_num_threads() == 3
    assert "quota" not in timing.origin("cpu")


@pytest.mark.parametrize("own, folder, files, available, total", [
    ("0::/\n", ".", {"memory.max": 2 * GIB, "memory.current": GIB, "memory.stat": "anon 5\ninactive_file 0\n"}, 1, 2),
    ("0::/\n", ".", {"memory.max": 4 * GIB, "memory.current": 3 * GIB,
                     "memory.stat": f"inactive_file {GIB}\n"}, 2, 4),  # a cache of files is given up when needed
    (V1, "memory/docker/abc", {"memory.limit_in_bytes": 2 * GIB, "memory.usage_in_bytes": GIB,
                               "memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB // 2}\n"}, 1.5, 2),
    (V1, "memory", {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": GIB}, 16, 32),
    ("0::/\n", ".", {"memory.max": "max", "memory.current": GIB}, 16, 32),
    ("0::/\n", ".", {"memory.max": 2 * GIB, "memory.current": 3 * GIB}, 0, 2),
    ("0::/\n", ".", {"memory.max": 20 * GIB, "memory.current": GIB}, 16, 20),  # others have taken more
])
def test_memory_is_what_a_container_may_use(groups, monkeypatch, own, folder, files, available, total):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB, total=32 * GIB))
    groups(own, {folder: {name: str(value) for name, value in files.items()}})
    assert limits.memory() == (available * GIB, total * GIB)
    (mark, _, text, to_do), = environment._memory()
    assert f"{available:.1f} of {total:.1f} GiB free" in text
    assert ("container" in text) == (total < 32) and (mark == "note") == (available * GIB <= 4e9) == bool(to_do)


def test_the_report_names_a_limit_of_processors(groups, threads):
    groups("0::/\n", {".": {"cpu.max": "50000 100000\n"}})
    rows = {label: text for _, label, text, _ in environment._machine()}
    assert "may use 0.5 of 8 processors" in rows["processors"]
    groups("0::/\n", {".": {"cpu.max": "max 100000\n"}})
    assert "processors" not in {label for _, label, _, _ in environment._machine()}


@pytest.fixture
def real_group():
    """A real control group with a quota of half a processor. Skips where none can be made."""
    for base, quota in (("/sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "50000")),
                        ("/sys/fs/cgroup", ("cpu.max", "50000 100000"))):
        folder = Path(base) / f"course_test_{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
            (folder / quota[0]).write_text(quota[1], encoding="utf-8")
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("this process may not make a control group with a quota")


def test_a_real_quota_is_seen_and_named(real_group):
    code = ("import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
            "from helpers.machine import limits, runtime\n"
            "runtime.describe(); print(limits.cpu_quota())")
    environ = {**os.environ, "COURSE_DEVICE": "cpu", "COURSE_SIZE": "smoke", "OMP_NUM_THREADS": "2"}
    result = subprocess.run([sys.executable, "-c", code, str(real_group / "cgroup.procs")], capture_output=True,
                            text=True, cwd=assets.ROOT, env=environ, check=True)
    assert "CPU, 1 thread (a quota allows 0.5 processors); may use 0.5 of" in result.stdout
    assert "UNEVEN TIMES" in result.stdout and result.stdout.endswith("0.5\n")
