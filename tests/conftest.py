"""Shared by all tests: a small model, and whether the real files are at hand."""

import pytest
import torch

from helpers import assets
from helpers.model import GPT, GPTConfig

torch.set_num_threads(1)  # tiny tensors: sharing them out costs more than it gives
TINY = GPTConfig(vocab_size=101, n_positions=16, n_embd=32, n_layer=3, n_head=4)


@pytest.fixture
def tiny():
    """A small GPT whose every parameter is perturbed, so that biases and LayerNorms matter too."""
    torch.manual_seed(0)
    model = GPT(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def real_files():
    """The folder of real files (COURSE_ASSETS); a test that needs it is skipped without."""
    folder = assets.assets_folder()
    if folder is None:
        pytest.skip("COURSE_ASSETS is not set")
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No assets folder, an empty cache, and nothing answers."""
    monkeypatch.delenv("COURSE_ASSETS", raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    remembered = (assets.reachable_hosts, assets._say_once)  # a test may put another function in their place
    for function in remembered:
        function.cache_clear()
    yield tmp_path
    for function in remembered:
        function.cache_clear()
