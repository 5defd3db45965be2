"""Several processes that train one model: who is who, what they exchange, and how to start them (notebook 08).

torchrun starts the processes and tells each its number, the rank. A process that is alone notices nothing of it.
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
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from helpers import assets, runtime

TIMEOUT = datetime.timedelta(minutes=10)  # a process that hangs ends the job after this; one that is killed, at once
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # the network interface on which a machine speaks to itself
CALL = """
import json, pathlib, sys
from helpers import parallel
with parallel.joined() as ranks:
    pathlib.Path(sys.argv[2], str(ranks.rank)).write_text(json.dumps({}(**json.loads(sys.argv[1]))), "utf-8")
"""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    def share(self, rows):
        """This process's rows of a batch (B, ...), next to those of the others. size must divide B."""
        return rows.chunk(self.size)[self.rank]  # (B, ...) -> (B / size, ...)

    def total(self, number):
        """The sum of a number over all processes. All of them must call it."""
        if self.size == 1:
            return number
        number = torch.tensor(number, dtype=torch.float64)  # on the CPU, so that a GPU's queue is not waited for
        dist.all_reduce(number)
        return number.item()

    def agree(self, thing):
        """What rank 0 gives, in all processes. All of them must call it."""
        things = [thing]
        if self.size > 1:
            dist.broadcast_object_list(things)
        return things[0]

    def replicate(self, model):
        """The model such that a backward pass leaves each gradient's mean over all processes; their weights become
        those of rank 0."""
        return model if self.size == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)


def current():
    """The Ranks of this process: those of the group that it has joined, or Ranks(0, 1)."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


@contextlib.contextmanager
def joined():
    """A context that joins the other processes of a job if torchrun has started this one, and yields the Ranks.

    They speak over gloo on a CPU, over nccl on GPUs, of which each takes its own.
    Raises ValueError where that cannot be, RuntimeError when another process has stopped.
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
            os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    lost = (f"Process {rank} of {size} (counted from 0) stops, because another one has stopped or the job was told to. "
            "A checkpoint written earlier is whole: resume it, with any number of processes.")

    def stop(signum, frame):  # torchrun tells the others so when it has lost a process
        raise RuntimeError(lost)

    signal.signal(signal.SIGTERM, stop)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank, size)
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is time to say what happened
        if not any(sign in str(error) for sign in ("gloo", "NCCL", "Connection")):
            raise
        raise RuntimeError(lost) from error
    dist.destroy_process_group()


def torchrun(arguments, processes=2, threads=1, device="cpu", show=True):
    """Runs `torchrun --standalone --nproc-per-node PROCESSES ARGUMENTS` on this machine, each process with so many
    threads. Returns its exit status and all that was printed; show: also print it as it comes."""
    meet = ["--standalone"]
    if sys.platform == "win32":  # PyTorch's builds for Windows lack libuv, on which --standalone rests: meet in a file
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint={tempfile.mkdtemp()}/meet", "--rdzv-conf=store_type=file"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, *meet, *arguments]
    path = os.pathsep.join(filter(None, (str(assets.ROOT), os.environ.get("PYTHONPATH"))))
    environment = {"USE_LIBUV": str(int(sys.platform != "win32")), **os.environ, "OMP_NUM_THREADS": str(threads),
                   "COURSE_DEVICE": device, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    said = ""
    with subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, encoding="utf-8", errors="replace") as job:
        try:
            for line in job.stdout:
                said += line
                print(line if show else "", end="")
        except BaseException:  # the stop button: leave no process behind
            job.terminate()
            raise
    return job.returncode, said


def run(function, processes=2, threads=1, device="cpu", uses=(), **arguments):
    """Calls function(**arguments) in so many processes, joined by torchrun. Returns what each returned, by rank.

    Only its source goes there, and that of the functions in uses: they must import what they need, and function must
    take and return what JSON can hold.
    Raises RuntimeError with all that was printed if a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "work.py")
        source = "\n".join(textwrap.dedent(inspect.getsource(one)) for one in (*uses, function))
        script.write_text(source + CALL.format(function.__name__), encoding="utf-8")
        status, said = torchrun([script, json.dumps(arguments), folder], processes, threads, device, show=False)
        if status:
            raise RuntimeError(f"The job of {processes} processes ended with status {status}. It said:\n{said}")
        return [json.loads(Path(folder, str(rank)).read_text("utf-8")) for rank in range(processes)]
