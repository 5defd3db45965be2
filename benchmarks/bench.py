"""Model 5 against Hugging Face's GPT-2 on this machine, side by side.

    make bench                                   or: python benchmarks/bench.py
    python benchmarks/bench.py --record          also keep the result in data/measurements/ and in README.md
    python benchmarks/bench.py --arms hf course  less memory: two processes instead of four or five
    python benchmarks/bench.py --size small      a tiny model: it only shows that the program works

Every arm is a process of its own, because settings such as the precision of matrix products belong to a whole process.
All arms have the same weights and inputs and take turns, so that a machine that changes its speed changes it for all of
them. A row's ratio is the median of the ratios within each round, with its quartiles. "Share" is the row's speed as a
share of what this machine reached in the same rounds: of one large matrix product (FLOP/s) where a model computes, of
reading a large tensor (bytes/s) where it reads all weights for each token.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FOLDER = ROOT / "data" / "measurements"
BEGIN, END = "<!-- bench: benchmarks/bench.py --record writes these tables -->\n", "<!-- end of bench -->"
MARK = "@@"  # begins the lines that a worker answers with; libraries may print others

ARMS = {
    "hf": "Hugging Face as it comes",
    "hf_tuned": "Hugging Face under our settings",
    "course": "Model 5",
    "course_bf16": "Model 5, bf16",
    "course_compiled": "Model 5, compiled",
}
TASKS = ("construct", "forward", "decode", "train")
SIZES = {
    "gpt2": {
        "model": {},
        "cpu": {"forward": (1, 1024), "train": (4, 256), "prompt": 16, "new": 64},
        "cuda": {"forward": (8, 1024), "train": (16, 1024), "prompt": 16, "new": 256},
        "small cuda": {"forward": (1, 1024), "train": (4, 256), "prompt": 16, "new": 256},
    },
    "small": {
        "model": {"vocab_size": 1003, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2},
        "cpu": {"forward": (1, 64), "train": (3, 32), "prompt": 5, "new": 20},
    },
}


# --- a worker: one arm in a process of its own -----------------------------------------------------------------------


class Worker:
    """What all arms have in common. Each task has a function that is timed; prepare() makes what it needs before."""

    def __init__(self, arm, setup):
        import torch

        self.torch, self.arm, self.setup = torch, arm, setup
        self.device = torch.device(setup["device"])
        self.sizes = setup["shapes"]
        self.folder = Path(setup["folder"])
        self.model = self.run = None

    def ids(self, rows, length, seed):
        vocabulary = SIZES[self.setup["size"]]["model"].get("vocab_size", 50257)
        generator = self.torch.Generator().manual_seed(seed)
        return self.torch.randint(vocabulary, (rows, length), generator=generator).to(self.device)

    def wait(self):
        if self.device.type != "cpu":
            getattr(self.torch, self.device.type).synchronize()

    def prepare(self, task):
        """Makes what a task needs, runs it once, and says what came out. Returns that, to be compared between arms."""
        self.run = None
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()
        if self.model is None and task != "construct":
            self.model = self.load().to(self.device)
        result = getattr(self, task)()
        self.run()
        self.wait()
        start = time.perf_counter()
        self.run()
        self.wait()
        # A reading lasts a quarter of a second at least, so that the clock and a launch do not matter.
        self.repeats = max(1, round(0.25 / max(1e-6, time.perf_counter() - start)))
        return result

    def measure(self):
        """Seconds for one run."""
        self.wait()
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.run()
        self.wait()
        return (time.perf_counter() - start) / self.repeats

    def memory(self):
        """The most bytes that this process has needed: of the GPU, or of the system; None where nobody counts them."""
        if self.device.type == "cuda":
            return self.torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):  # Linux; its getrusage would also count the program that started this one
            return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("ascii"))[1])
        with contextlib.suppress(ImportError):  # macOS
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None

    def save(self, task, tensor):
        path = self.folder / f"{task}_{self.arm}.pt"
        self.torch.save(tensor.detach().float().cpu(), path)
        return str(path)


class Course(Worker):
    """Model 5, with the helpers' own functions."""

    def __init__(self, arm, setup):
        super().__init__(arm, setup)
        from helpers import generation, model, runtime, training

        self.training, self.generation = training, generation
        self.GPT, self.config = model.GPT, model.GPTConfig(**SIZES[setup["size"]]["model"])
        precision = "bf16" if arm == "course_bf16" else "auto"
        self.recipe = training.TrainConfig(precision=precision, compile=arm == "course_compiled")
        self.torch.set_float32_matmul_precision(runtime.fastest_matmul(self.device) or "highest")

    def load(self):
        model = self.GPT(self.config)
        model.load_state_dict(self.torch.load(self.folder / "course.pt", mmap=True, weights_only=True))
        return model.eval()

    def construct(self):
        def run():
            with self.device:
                return self.GPT(self.config)

        self.run = run

    def forward(self):
        ids = self.ids(*self.sizes["forward"], seed=1)

        def run():
            with self.torch.inference_mode():
                return self.model(ids)

        self.run = run
        return self.save("forward", run()[:1])

    def decode(self):
        ids = self.ids(1, self.sizes["prompt"], seed=2)
        self.run = lambda: self.generation.generate(self.model, ids, self.sizes["new"], top_k=1)
        return self.run()[0].tolist()

    def train(self):
        rows, length = self.sizes["train"]
        x, y = self.ids(rows, length, seed=3), self.ids(rows, length, seed=4)
        optimizer = self.training.make_optimizer(self.model, self.recipe)
        scaler = self.training.make_scaler(self.device, self.recipe)
        model = self.torch.compile(self.model.train()) if self.recipe.compile else self.model.train()
        self.run = lambda: self.training.update(model, optimizer, scaler, x, y, 1e-4, self.recipe)
        return [self.run(), self.run()]


class HuggingFace(Worker):
    """transformers' GPT2LMHeadModel. Tuned: the settings that the course's helpers use, as far as they fit."""

    def __init__(self, arm, setup):
        super().__init__(arm, setup)
        import transformers

        self.transformers, self.tuned = transformers, arm == "hf_tuned"
        self.precision, self.scaler = contextlib.nullcontext, self.torch.amp.GradScaler(enabled=False)
        if self.tuned:
            from helpers import runtime, training

            self.precision = lambda: runtime.autocast(self.device)
            self.scaler = training.make_scaler(self.device, training.TrainConfig())
            self.torch.set_float32_matmul_precision(runtime.fastest_matmul(self.device) or "highest")

    def load(self):
        return self.transformers.GPT2LMHeadModel.from_pretrained(self.folder / "hf").eval()

    def construct(self):
        config = self.transformers.GPT2Config.from_pretrained(self.folder / "hf")

        def run():
            with self.device:
                return self.transformers.GPT2LMHeadModel(config)

        self.run = run

    def forward(self):
        ids = self.ids(*self.sizes["forward"], seed=1)

        def run():
            with self.torch.inference_mode() if self.tuned else self.torch.no_grad():
                return self.model(ids, use_cache=not self.tuned).logits

        self.run = run
        return self.save("forward", run()[:1])

    def decode(self):
        ids, new = self.ids(1, self.sizes["prompt"], seed=2), self.sizes["new"]
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        self.run = lambda: self.model.generate(ids, attention_mask=self.torch.ones_like(ids), **settings)
        return self.run()[0].tolist()

    def train(self):
        rows, length = self.sizes["train"]
        x, y = self.ids(rows, length, seed=3), self.ids(rows, length, seed=4)
        parameters = list(self.model.train().parameters())
        settings = {"betas": (0.9, 0.95), "lr": 1e-4, **({"fused": True} if self.tuned else {})}
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) == matrix] for matrix in (True, False))
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = self.torch.optim.AdamW(groups, **settings)
        scaler = self.scaler

        def run():
            with self.precision():
                loss = self.model(x, labels=y, shift_labels=y).loss
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            self.torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return loss.item()

        self.run = run
        return [run(), run()]


class Machine(Worker):
    """Not a model: how fast this machine multiplies matrices, and reads memory."""

    def prepare(self, task):
        torch, n = self.torch, 2048 if self.device.type == "cpu" else 8192
        precisions = {"fp32": torch.float32}
        if self.setup["bf16"]:
            precisions["bf16"] = torch.bfloat16
        if self.device.type == "cuda" and not self.setup["bf16"]:
            precisions["fp16"] = torch.float16
        squares = {name: torch.randn(n, n, device=self.device, dtype=dtype) for name, dtype in precisions.items()}
        stripes = torch.ones(31_250, 4_000, device=self.device)  # 500 MB, as the weights of GPT-2 small
        one, self.repeats = torch.ones(4_000, device=self.device), 2 if self.device.type == "cpu" else 20

        def seconds(function):
            self.run = function
            self.measure()  # a first reading that does not count
            return min(self.measure() for _ in range(3))

        def rates():
            found = {"bytes": 4 * stripes.numel() / seconds(lambda: torch.mv(stripes, one))}
            for name, x in squares.items():
                settings = ("highest", "medium") if name == "fp32" and self.device.type == "cpu" else ("highest",)
                best = 0
                for setting in settings:
                    torch.set_float32_matmul_precision(setting)
                    best = max(best, 2 * n**3 / seconds(lambda: x @ x))
                torch.set_float32_matmul_precision("highest")
                found[name] = best
            return found

        self.rates = rates

    def measure_rates(self):
        return self.rates()


def work(arm, setup):
    """The worker's loop: one command a line on standard input, one answer a line on standard output."""
    kinds = {"machine": Machine, "hf": HuggingFace, "hf_tuned": HuggingFace}
    worker = kinds.get(arm, Course)(arm, setup)
    print(MARK + json.dumps(worker.torch.get_float32_matmul_precision()), flush=True)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(MARK + json.dumps(getattr(worker, command)(*arguments)), flush=True)


# --- the conductor ---------------------------------------------------------------------------------------------------


class Arm:
    """A worker, seen from the outside."""

    def __init__(self, name, setup):
        self.name = name
        self.errors = open(Path(setup["folder"]) / f"{name}.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--setup", json.dumps(setup)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8", cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self.matmul = self.answer()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK):])
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()[-12:]
        raise SystemExit(f"bench: the process of {self.name!r} ended. It said:\n" + "\n".join(said))

    def __call__(self, command, *arguments):
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def prepare_weights(size, folder):
    """The weights that all arms share, in both forms: GPT-2's initialisation, and biases and norms that matter."""
    import torch

    from helpers import pretrained
    from helpers.model import GPT, GPTConfig

    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES[size]["model"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    torch.save(model.state_dict(), folder / "course.pt")
    pretrained.to_huggingface(model).save_pretrained(folder / "hf")


def describe(device):
    """This machine and its versions, in words."""
    import torch
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        if device == "cpu":
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "device": name,
        "type": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def shapes_for(size, device):
    """What is computed: more on a large GPU."""
    if device == "cuda" and "cuda" in SIZES[size]:
        import torch

        return SIZES[size]["cuda" if torch.cuda.get_device_properties(0).total_memory > 100e9 else "small cuda"]
    return SIZES[size]["cpu"]


def flops(size, shapes):
    """FLOPs of the matrix products of each task, counted on tensors without numbers. Training: three forward passes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from helpers.model import GPTConfig
    from helpers.parameters import meta_model

    def forward(shape):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            meta_model(config)(torch.zeros(shape, dtype=torch.int64, device="meta"))
        return counter.get_total_flops()

    config = GPTConfig(**SIZES[size]["model"])
    parameters = sum(p.numel() for p in meta_model(config).parameters())
    return {"forward": forward(shapes["forward"]), "train": 3 * forward(shapes["train"]), "parameters": parameters}


def say(text):
    print(text, file=sys.stderr, flush=True)


def bench(size, device, names, tasks, rounds):
    """Runs the rounds. Returns what --record writes: the machine, and for each task and arm its readings."""
    from helpers import runtime

    result = {**describe(device), "size": size, "rounds": rounds, "rows": []}
    bf16 = "course_bf16" in names or runtime.compute_dtype(device) == runtime.DTYPES["bf16"]
    shapes = shapes_for(size, device)
    counts = flops(size, shapes)
    result |= {"parameters": counts["parameters"], "shapes": shapes}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        prepare_weights(size, Path(folder))
        setup = {"size": size, "device": device, "folder": folder, "bf16": bf16, "shapes": shapes}
        arms = {}
        for name in ("machine", *names):
            say(f"starting {ARMS.get(name, 'the measurement of the machine')}")
            arms[name] = Arm(name, setup)
            stack.callback(arms[name].close)
        arms["machine"]("prepare", None)
        result["matmul"] = {name: arms[name].matmul for name in names}  # chosen by trying, in each process
        for task in tasks:
            taking_part = [n for n in names if task == "train" or n in ("hf", "hf_tuned", "course")]
            outcomes, seconds, rates = {}, {n: [] for n in taking_part}, []
            for name in taking_part:
                say(f"{task}: a first run of {name}")
                outcomes[name] = arms[name]("prepare", task)
            for turn in range(rounds):
                rates.append(arms["machine"]("measure_rates"))
                order = taking_part[turn % len(taking_part):] + taking_part[: turn % len(taking_part)]
                for name in order:
                    seconds[name].append(arms[name]("measure"))
                say(f"{task}: round {turn + 1} of {rounds}: "
                    + ", ".join(f"{n} {seconds[n][-1]:.3g} s" for n in taking_part))
            for name in taking_part:
                row = {"task": task, "arm": name, "seconds": seconds[name]}
                row["memory"] = arms[name]("memory") if task == "train" else None
                row["difference"] = difference(task, outcomes["hf"], outcomes[name]) if "hf" in outcomes else None
                row["share"], row["of"] = share(task, name, seconds[name], rates, counts, shapes, device, bf16)
                result["rows"].append(row)
    return result


def difference(task, one, other):
    """How far an arm's result is from Hugging Face's: logits and losses in their unit, decoding in tokens."""
    if task == "forward":
        import torch

        one, other = (torch.load(path, weights_only=True) for path in (one, other))
        return (one - other).abs().max().item()
    if task == "decode":
        return sum(a != b for a, b in zip(one, other, strict=True))
    return max(abs(a - b) for a, b in zip(one, other)) if task == "train" else None


def share(task, arm, seconds, rates, counts, shapes, device, bf16):
    """The median share of the machine's measured speed in the same rounds, and what it is a share of."""
    if task in ("construct", "decode"):
        unit, work_done = "bytes", 4 * counts["parameters"] * (shapes["new"] if task == "decode" else 1)
    else:
        mixed = task == "train" and (arm == "course_bf16" or (device == "cuda" and arm != "hf"))
        unit, work_done = ("bf16" if bf16 else "fp16") if mixed else "fp32", counts[task]
    return statistics.median(work_done / s / rate[unit] for s, rate in zip(seconds, rates)), unit


def ratios(rows, row):
    """This row's time against Hugging Face's as it comes, as quartile, median and quartile, and its memory likewise."""
    base = next((r for r in rows if r["task"] == row["task"] and r["arm"] == "hf"), None)
    if base is None:
        return None, None
    from helpers import runtime

    memory = row["memory"] / base["memory"] if row["memory"] else None
    return runtime.quartiles_of_ratios(row["seconds"], base["seconds"]), memory


def table(result):
    """The result as a table in Markdown."""
    shapes, rows = result["shapes"], result["rows"]
    what = {
        "construct": "construct",
        "forward": "forward pass, {} x {} tokens".format(*shapes["forward"]),
        "decode": f"greedy decoding, {shapes['new']} new tokens",
        "train": "training step, {} x {} tokens".format(*shapes["train"]),
    }
    lines = ["| work | arm | median | of Hugging Face's time | share of this machine | difference |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        median, (ratio, _) = statistics.median(row["seconds"]), ratios(rows, row)
        compared = "" if ratio is None else "1" if row["arm"] == "hf" else "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratio)
        took = f"{shapes['new'] / median:.1f} tokens/s" if row["task"] == "decode" else f"{median:.3g} s"
        of = {"bytes": "memory"}.get(row["of"], f"{row['of']} peak")
        unit = {"decode": " of the tokens", "train": " nats", "forward": " (logits)"}.get(row["task"], "")
        apart = "" if row["difference"] is None or row["arm"] == "hf" else f"{row['difference']:.1g}{unit}"
        reached = f"{row['share']:.0%} of the {of}"
        lines.append(f"| {what[row['task']]} | {ARMS[row['arm']]} | {took} | {compared} | {reached} | {apart} |")
    for row in rows:
        if row["memory"]:
            _, ratio = ratios(rows, row)
            least = row["memory"] / (16 * result["parameters"])  # 4 bytes for each weight and gradient, 8 for Adam
            lines.append(f"| peak memory of training | {ARMS[row['arm']]} | {row['memory'] / 2**20:,.0f} MiB "
                         f"| {'' if ratio is None else f'{ratio:.2f}'} "
                         f"| {least:.2f} times weights, gradients, Adam | |")
    threads = f", {result['threads']} threads" if result["type"] == "cpu" else ""
    return (f"**{result['device']}**{threads}; torch {result['torch']}, transformers {result['transformers']}, "
            f"{result['date']}; {result['rounds']} rounds\n\n" + "\n".join(lines) + "\n")


def readme_block(folder=FOLDER):
    """The tables of all recorded results, for README.md."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("bench_*.json"))]
    return "\n" + "\n".join(table(result) for result in found)


def write_readme(root=ROOT):
    """Puts the recorded tables into README.md."""
    path = root / "README.md"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"bench: README.md needs the lines {BEGIN.strip()} and {END}")
    text = before + BEGIN + readme_block(root / "data" / "measurements") + "\n" + END + after
    path.write_text(text, encoding="utf-8", newline="\n")


def check_memory(arms, size, device):
    """Stops before the memory is not enough: each arm trains in a process of its own."""
    needed, free = 4.5e9 * len(arms) if size == "gpt2" else 0, psutil.virtual_memory().available
    if device == "cuda":
        import torch

        free = torch.cuda.mem_get_info()[0]
        needed *= 5 if shapes_for(size, device) is SIZES[size].get("cuda") else 1
    if free < needed:
        raise SystemExit(f"bench: {len(arms)} arms need about {needed / 1e9:.0f} GB of free memory, and "
                         f"{free / 1e9:.0f} GB are free. Close other programs, or compare fewer: --arms hf course")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=SIZES, default="gpt2", help="gpt2: GPT-2 small; small: a tiny model")
    add("--device", choices=("cpu", "cuda", "mps"), help="default: the fastest that is there")
    add("--arms", nargs="+", choices=ARMS, help="default: all but course_compiled on a CPU, course_bf16 on a GPU")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--rounds", type=int, default=5, help="how often the arms take turns (default: 5)")
    add("--out", type=Path, default=ROOT / "build" / "bench.json", help="the result (default: build/bench.json)")
    add("--record", action="store_true", help="also write it into data/measurements/ and README.md")
    add("--worker", help=argparse.SUPPRESS)
    add("--setup", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        return work(given.worker, json.loads(given.setup))
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: at least 1 was expected")
    if given.record and (given.size != "gpt2" or set(given.tasks) != set(TASKS) or "hf" not in (given.arms or ARMS)):
        parser.error("--record keeps whole results only: GPT-2 small, all tasks, and the arm hf to compare with")

    from helpers import runtime, timing

    device = given.device or runtime.best_device().type
    arms = given.arms or [name for name in ARMS if name != ("course_bf16" if device == "cuda" else "course_compiled")]
    if "course_bf16" in arms and not (device == "cpu" and runtime.fast_bf16(device) > 1.2):
        say("this processor is not clearly faster in bf16, or a GPU uses 16 bits anyway: course_bf16 is left out")
        arms.remove("course_bf16")
    if "course_compiled" in arms and not runtime.can_compile(device):
        say("torch.compile does not work here (a compiler or Triton is missing): that arm is left out")
        arms.remove("course_compiled")
    check_memory(arms, given.size, device)
    result = bench(given.size, device, arms, given.tasks, given.rounds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.record:
        timing.write_record("bench", result)
        write_readme()
    print("\n" + table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
