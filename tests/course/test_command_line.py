"""python -m helpers.training: training without a notebook."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import training
from helpers.course import command_line
from helpers.machine import assets
from helpers.machine.checkpoints import CHECKPOINT

TEXT = assets.DATA / "voyage.txt"


def start(*arguments):
    command = [sys.executable, "-m", "helpers.training", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=assets.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to another process")
def test_a_run_stops_at_ctrl_c_and_resumes(tmp_path):
    process = start("--out", tmp_path, "--size", "smoke", "--steps", 3000, "--text", TEXT)
    while not (tmp_path / CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "continue with" in output + errors and "--resume" in output + errors
    done = len(training.load_checkpoint(tmp_path)["history"]["train_loss"])
    assert command_line.main(["--out", str(tmp_path), "--resume", "--steps", str(done + 5), "--text", str(TEXT)]) == 0
    assert len(training.load_checkpoint(tmp_path)["history"]["train_loss"]) == done + 5


def test_the_result_is_the_validation_loss_and_the_test_loss_once(tmp_path, capsys):
    assert command_line.main(["--out", str(tmp_path), "--size", "smoke", "--steps", "2", "--text", str(TEXT)]) == 0
    output = capsys.readouterr().out
    assert "366,336 parameters" in output and "bits per byte" in output.splitlines()[-1]
    assert " training, " in output and " validation and " in output
    assert output.splitlines()[-2].startswith("validation loss after ") and output.count("test loss") == 1


def test_errors_are_one_line(tmp_path, capsys):
    assert command_line.main(["--out", str(tmp_path), "--resume"]) == 1
    assert "to resume from" in capsys.readouterr().err
    assert command_line.main(["--out", str(tmp_path), "--size", "smoke", "--text", str(tmp_path / "none.txt")]) == 1
    assert "none.txt" in capsys.readouterr().err
    for setting in (["--seed", "3"], ["--compile"], ["--precision", "fp32"]):
        with pytest.raises(SystemExit):
            command_line.main(["--resume", *setting])
        assert f"leave out {setting[0]}" in capsys.readouterr().err


def test_a_console_with_a_code_page_stops_nothing(tmp_path, encoding="cp437"):
    """It cannot show the quotation marks, nor all that a young model writes, and no file may depend on it."""
    text = tmp_path / "ελληνικά.txt"
    text.write_bytes("“Ναί”, said the captain — and the Houyhnhnms …\r\n".encode() * 200)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                   "LC_ALL": "C", "COURSE_OFFLINE": "1", "COURSE_ASSETS": "", "COURSE_CACHE": str(tmp_path / "cache"),
                   "OMP_NUM_THREADS": "1"}
    code = ("import sys; from helpers import corpus; from helpers.course import command_line; "
            "corpus.load_tokenizer('gpt2'); sys.exit(command_line.main(sys.argv[1:]))")
    arguments = ["--size", "smoke", "--steps", "2", "--text", str(text), "--out", str(tmp_path)]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=assets.ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")
    output = done.stdout.decode(encoding)
    assert "Stand-in" in output and "bits per byte" in output and "after 2 steps" in output
