"""What all tests share: a small model, the real files, a machine that is offline, and two markers."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from nbclient import NotebookClient

from helpers.machine import assets, hosts
from helpers.model import GPT
from tests.small import TINY

# Checks in tests and notebooks record what is solved here, not in the learner's own file.
SCRATCH = tempfile.TemporaryDirectory()
os.environ["COURSE_PROGRESS"] = str(Path(SCRATCH.name) / "progress.json")

create_kernel_manager = NotebookClient.create_kernel_manager


def create_kernel_manager_without_ports(client):
    """What starts a notebook's kernel and talks to it: through files, since TCP ports are chosen some time before the
    kernel opens them. Of several kernels that start together, two may get the same port, and then one of them dies."""
    manager = create_kernel_manager(client)
    if client.startup_timeout == 60:  # the default, which nbmake leaves, and which a busy machine may pass
        client.startup_timeout = 600
    if os.name != "nt":  # Windows has no such files
        manager.transport, manager.ip = "ipc", str(Path(tempfile.mkdtemp(dir=SCRATCH.name)) / "kernel")
    return manager


NotebookClient.create_kernel_manager = create_kernel_manager_without_ports


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """One thread, whatever the test before has left: several would make work on such small tensors slower."""
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """A notebook has no place for a marker, and each must also run without files and network: it is marked offline.
    What is marked cuda is skipped on a machine without a GPU."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("offline")
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def tiny():
    """A small GPT with every parameter perturbed, so that biases and LayerNorms matter too."""
    torch.manual_seed(0)
    model = GPT(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def real_files():
    """The folder of real files (COURSE_ASSETS). A test that needs it is skipped where it is not set."""
    folder = assets.assets_folder()
    if folder is None:
        pytest.skip("COURSE_ASSETS is not set")
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No assets folder, an empty cache, and no host that answers. Returns the folder that holds the cache."""
    monkeypatch.delenv("COURSE_ASSETS", raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    remembered = (hosts.problems, assets._say_once)  # a test may replace these functions
    for function in remembered:
        function.cache_clear()
    yield tmp_path
    for function in remembered:
        function.cache_clear()
