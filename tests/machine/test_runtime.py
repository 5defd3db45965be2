"""The machine: run size and device, from the environment or by themselves."""

import os
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from helpers.machine import assets, limits, runtime


def test_the_run_size_comes_from_the_environment(monkeypatch):
    for size in runtime.RUN_SIZES:
        monkeypatch.setenv("COURSE_SIZE", size)
        assert runtime.run_size() == size == runtime.by_size("smoke", "laptop", "full")
    monkeypatch.delenv("COURSE_SIZE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.run_size() == "laptop"
    monkeypatch.setenv("COURSE_SIZE", "huge")
    with pytest.raises(ValueError, match="COURSE_SIZE=huge: .*smoke, laptop, full"):
        runtime.run_size()


def test_the_device_can_be_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert runtime.best_device() == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="COURSE_DEVICE=tpu: this machine has cpu"):
        runtime.best_device()


@pytest.mark.parametrize("gigabytes, device, expected", [(16, "", "full"), (4, "", "laptop"), (16, "cpu", "laptop")])
def test_only_a_large_gpu_in_use_means_full(monkeypatch, gigabytes, device, expected):
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    monkeypatch.setenv("COURSE_DEVICE", device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = type("Properties", (), {"total_memory": gigabytes * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    assert runtime.run_size() == expected


def test_the_description_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    runtime.describe()
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "run size" in output and torch.__version__ in output


def test_a_device_with_wrong_attention_is_noticed(monkeypatch):
    assert runtime.computes_like_the_cpu("cpu") and runtime.computes_like_the_cpu(runtime.best_device())
    attention, calls = torch.nn.functional.scaled_dot_product_attention, []

    def wrong_on_the_first_device(q, k, v, is_causal):
        calls.append(is_causal)
        return attention(q, k, v, is_causal=is_causal and len(calls) > 1)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong_on_the_first_device)
    assert not runtime.computes_like_the_cpu("cpu") and calls == [True, True]


def test_the_setup_cell_warns_of_such_a_device(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("mps"))
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)
    for is_right, lines in ((True, 1), (False, 2)):
        monkeypatch.setattr(runtime, "computes_like_the_cpu", lambda device, is_right=is_right: is_right)
        runtime.describe()
        output = capsys.readouterr().out
        assert len(output.splitlines()) == lines
    assert "WRONG NUMBERS" in output and "COURSE_DEVICE=cpu" in output


@pytest.mark.parametrize("chosen, stays", [("agg", False), ("TkAgg", False), ("", False), ("nonsense", False),
                                           ("widget", True), ("module://ipympl.backend_nbagg", True)])
def test_a_kernel_draws_into_the_notebook(monkeypatch, chosen, stays):
    monkeypatch.setenv("MPLBACKEND", chosen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    runtime.draw_into_the_notebook()
    assert os.environ["MPLBACKEND"] == chosen, "outside of a notebook the learner's choice holds"
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    runtime.draw_into_the_notebook()
    assert os.environ["MPLBACKEND"] == (chosen if stays else "module://matplotlib_inline.backend_inline")


@pytest.mark.slow
def test_a_notebook_shows_its_figures_where_the_server_draws_into_files(monkeypatch):
    """Servers set MPLBACKEND=agg for all programs: a notebook then showed no figure, and no error."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = ["from helpers.machine import runtime; runtime.describe()",
             "import matplotlib.pyplot as plt; plt.plot([0, 1]); plt.show()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(assets.ROOT)}}).execute()
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[1].outputs)
