"""Several processes that train one model: their ranks, what they exchange, and how to start them (notebook 08).

torchrun starts the processes and gives each its number, the rank. Everything works unchanged in a single process.
"""

import contextlib
import datetime
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from helpers.machine import assets, runtime

TIMEOUT = datetime.timedelta(minutes=10)  # then a process that hangs ends the job; one that is killed ends it at once
MEETING = 120  # seconds; torchrun itself would wait silently for ten minutes or more until its processes meet
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # the network interface on which a machine speaks to itself
CALL = """
import json, pathlib, sys
from helpers.machine import parallel
with parallel.joined() as ranks:
    pathlib.Path(sys.argv[2], str(ranks.rank)).write_text(json.dumps({}(**json.loads(sys.argv[1]))), "utf-8")
"""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the world size (the number of processes)."""

    rank: int = 0
    size: int = 1

    def share(self, rows):
        """This process's rows of a batch (B, ...); those of the next rank follow. size must divide B."""
        return rows.chunk(self.size)[self.rank]  # (B, ...) -> (B / size, ...)

    def total(self, number):
        """The sum of a number over all processes. All of them must call it."""
        if self.size == 1:
            return number
        number = torch.tensor(number, dtype=torch.float64)  # on the CPU, so that a GPU's queue is not waited for
        dist.all_reduce(number)
        return number.item()

    def agree(self, value):
        """Rank 0's value, in all processes. All of them must call it."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def replicate(self, model):
        """Wraps the model so that a backward pass averages each gradient over all processes. Their weights become those
        of rank 0."""
        return model if self.size == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)

    def exchange(self, model, is_last=True):
        """A context for a forward and a backward pass: gradients are exchanged after the last part of a batch only."""
        return contextlib.nullcontext() if self.size == 1 or is_last else model.no_sync()

    def seed_dropout(self, seed, step):
        """Gives each process but rank 0 random numbers of its own for dropout; rank 0's are in the checkpoint."""
        if self.rank:
            torch.manual_seed(hash((seed, step, self.rank)) % 2**63)


def current():
    """The Ranks of this process: those of the group that it has joined, or Ranks(0, 1)."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


@contextlib.contextmanager
def joined():
    """A context that joins the other processes of a job if torchrun has started this one, and yields the Ranks.

    They communicate by gloo on CPUs and by nccl on GPUs, of which each process takes its own.
    Raises ValueError when there are too few GPUs, RuntimeError when another process has stopped.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield current()
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = runtime.best_device().type
    if device != "cpu" and local >= torch.cuda.device_count():
        raise ValueError(f"Process {local} finds no NVIDIA GPU of its own. Start fewer, or set COURSE_DEVICE=cpu.")
    if device == "cuda":
        torch.cuda.set_device(local)
    if os.environ["LOCAL_WORLD_SIZE"] == str(size):  # one machine: it needs no network and no name
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        if sys.platform in LOOPBACK:
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]  # a cluster names the one to its other machines
    lost = (f"Process {rank} of {size} (counted from 0) stops, because another one has stopped or the job was ended. "
            "Any checkpoint written earlier is complete: resume it, with any number of processes.")

    def stop(signum, frame):  # torchrun sends this to the others when it has lost a process
        raise RuntimeError(lost)

    signal.signal(signal.SIGTERM, stop)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank, size)
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that there is time to report what happened
        if not any(sign in str(error) for sign in ("gloo", "NCCL", "Connection")):
            raise
        raise RuntimeError(lost) from error
    dist.destroy_process_group()


def torchrun(arguments, processes=2, threads=1, device="cpu", show=True):
    """Runs `torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node PROCESSES ARGUMENTS` on this machine, each
    process with the given number of threads. Returns its exit status and its output; show: also print the output at
    once. A job whose processes cannot meet is ended after two minutes, and its output says so."""
    output, late = "", threading.Event()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, subprocess.Popen(
            torchrun_command(arguments, processes, folder), env=torchrun_environment(threads, device),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace") as job:
        def end_if_late():
            if not any(Path(folder, "logs").glob("*")):  # torchrun writes there when it starts the processes
                late.set()
                job.kill()

        watch = threading.Timer(MEETING, end_if_late)
        watch.start()
        try:
            for line in job.stdout:
                output += line
                print(line if show else "", end="")
        except BaseException:  # the stop button must leave no process behind
            job.terminate()
            raise
        finally:
            watch.cancel()
    if late.is_set():
        message = (f"The job was ended, because its {processes} processes have not met within {MEETING} seconds. They "
                   "meet at 127.0.0.1, this machine's own address. Does a firewall close it, or is the machine very "
                   "busy? Lines above this one are torchrun's.\n")
        output += message
        print(message if show else "", end="")
    return job.returncode, output


def torchrun_command(arguments, processes, folder):
    """The command line of a job of one machine. folder: for torchrun's own files.

    The processes meet at an address, because torchrun would look up this machine's name, which may have no entry.
    """
    meet = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]  # as --standalone, but without the name localhost
    if sys.platform == "win32":  # PyTorch's builds for Windows lack libuv, on which that rests: meet in a file
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint={folder}/meet", "--rdzv-conf=store_type=file"]
    meet += ["--local-addr", "127.0.0.1", "--log-dir", Path(folder, "logs")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, *meet, *arguments]
    return list(map(str, command))


def torchrun_environment(threads, device):
    """The environment of a job: this one, without a cluster's settings for torchrun (PET_NNODES and others)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    path = os.pathsep.join(filter(None, (str(assets.ROOT), os.environ.get("PYTHONPATH"))))
    return {"USE_LIBUV": str(int(sys.platform != "win32")), **kept, "OMP_NUM_THREADS": str(threads),
            "COURSE_DEVICE": device, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}


def run(function, processes=2, threads=1, device="cpu", uses=(), **arguments):
    """Calls function(**arguments) in several processes, joined by torchrun. Returns their results, by rank.

    The processes get only the source of function and of the functions in uses, which must import what they need.
    Arguments and results must be representable in JSON.
    Raises RuntimeError with the output if a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "work.py")
        source = "\n".join(textwrap.dedent(inspect.getsource(one)) for one in (*uses, function))
        script.write_text(source + CALL.format(function.__name__), encoding="utf-8")
        status, output = torchrun([script, json.dumps(arguments), folder], processes, threads, device, show=False)
        if status:
            raise RuntimeError(f"The job of {processes} processes ended with status {status}. Its output:\n{output}")
        return [json.loads(Path(folder, str(rank)).read_text("utf-8")) for rank in range(processes)]
