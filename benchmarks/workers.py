"""The processes of the benchmark: each runs one program, and does what bench.py asks on standard input.

Each class has one function per task. It makes what the task needs, sets self.run to the function that is timed, and
returns the result of a first run, which is compared between the programs. A class imports its own libraries only, so
that the peak memory of a process is that of one program.
"""

import contextlib
import json
import re
import sys
import time
from pathlib import Path

import torch

ANSWER = "@@"  # begins each line that answers; libraries may print others
WORKLOADS = {
    "gpt2": {
        "model": {},
        "cpu": {"forward": (1, 1024), "train": (4, 256), "prompt": 16, "new": 64},
        "cuda": {"forward": (8, 1024), "train": (16, 1024), "prompt": 16, "new": 128},
        "small cuda": {"forward": (1, 1024), "train": (4, 256), "prompt": 16, "new": 128},
    },
    "small": {
        "model": {"vocab_size": 1003, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2},
        "cpu": {"forward": (1, 64), "train": (3, 32), "prompt": 5, "new": 20},
    },
}


class Worker:
    """What all programs have in common: inputs, a clock, and the peak memory."""

    def __init__(self, name, setup):
        self.name, self.setup = name, setup
        self.device = torch.device(setup["device"])
        self.shapes = setup["shapes"]
        self.folder = Path(setup["folder"])
        self.model = self.run = self.once = None

    def random_ids(self, rows, length, seed):
        """Random token ids, (rows, length) int64, on the device."""
        vocabulary = WORKLOADS[self.setup["size"]]["model"].get("vocab_size", 50257)
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(vocabulary, (rows, length), generator=generator).to(self.device)

    def training_batch(self):
        """Inputs and targets of a training step, (B, T) each."""
        rows, length = self.shapes["train"]
        return self.random_ids(rows, length, seed=3), self.random_ids(rows, length, seed=4)

    def wait(self):
        """Waits until the device has finished."""
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def seconds(self, repeats):
        """The seconds of one run: the mean of `repeats` runs in a row."""
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            self.run()
        self.wait()
        return (time.perf_counter() - start) / repeats

    def prepare(self, task):
        """Makes what a task needs and runs it once. Returns the result, to be compared between the programs."""
        self.run = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if self.model is None and task != "construct":
            self.model = self.load().to(self.device)
        result = getattr(self, task)()
        self.run()
        # A reading lasts at least a quarter of a second, so that the clock and the launches do not matter.
        self.once = self.seconds(repeats=1)
        self.repeats = max(1, round(0.25 / max(1e-6, self.once)))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return result

    def measure(self):
        """The seconds of one run of the task that was prepared. Afterwards a GPU's memory is free for the others."""
        if self.device.type != "cuda":
            return self.seconds(self.repeats)
        if self.once < 1:
            self.run()  # takes the memory again; in a longer run that does not matter
        seconds = self.seconds(self.repeats)
        torch.cuda.empty_cache()
        return seconds

    def memory(self):
        """The peak memory of this process in bytes, on the GPU or in the system; None where it is not counted."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):  # Linux, whose getrusage would also count the program that started this one
            return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("ascii"))[1])
        with contextlib.suppress(ImportError):  # macOS
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None

    def save(self, task, tensor):
        """Saves a result that is too large for a line of text. Returns its path."""
        path = self.folder / f"{task}_{self.name}.pt"
        torch.save(tensor.detach().float().cpu(), path)
        return str(path)


class Course(Worker):
    """Model 5, with the helpers' own functions."""

    def __init__(self, name, setup):
        super().__init__(name, setup)
        from helpers import generation, model, training
        from helpers.machine import kernels

        self.training, self.generation = training, generation
        self.GPT, self.config = model.GPT, model.GPTConfig(**WORKLOADS[setup["size"]]["model"])
        precision = "bf16" if name == "course_bf16" else "auto"
        self.recipe = training.TrainConfig(precision=precision, compile=name == "course_compiled")
        torch.set_float32_matmul_precision(kernels.fastest_matmul(self.device, self.config) or "highest")

    def load(self):
        model = self.GPT(self.config)
        model.load_state_dict(torch.load(self.folder / "course.pt", mmap=True, weights_only=True))
        return model.eval()

    def construct(self):
        def run():
            with self.device:
                return self.GPT(self.config)

        self.run = run

    def forward(self):
        ids = self.random_ids(*self.shapes["forward"], seed=1)

        def run():
            with torch.inference_mode():
                return self.model(ids)

        self.run = run
        return self.save("forward", run()[:1])

    def decode(self):
        ids = self.random_ids(1, self.shapes["prompt"], seed=2)
        self.run = lambda: self.generation.generate(self.model, ids, self.shapes["new"], top_k=1)
        return self.run()[0].tolist()

    def train(self):
        x, y = self.training_batch()
        optimizer = self.training.make_optimizer(self.model, self.recipe)
        scaler = self.training.make_scaler(self.device, self.recipe)
        model = torch.compile(self.model.train()) if self.recipe.compile else self.model.train()
        self.run = lambda: self.training.train_step(model, optimizer, scaler, x, y, 1e-4, self.recipe)
        return [self.run(), self.run()]


class HuggingFace(Worker):
    """GPT2LMHeadModel of transformers: with default settings, or tuned as the course's helpers are, where possible."""

    def __init__(self, name, setup):
        super().__init__(name, setup)
        import transformers

        self.transformers, self.is_tuned = transformers, name == "hf_tuned"
        self.autocast, self.scaler = contextlib.nullcontext, torch.amp.GradScaler(enabled=False)
        if self.is_tuned:
            from helpers import model, training
            from helpers.machine import kernels

            self.autocast = lambda: kernels.autocast(self.device)
            self.scaler = training.make_scaler(self.device, training.TrainConfig())
            config = model.GPTConfig(**WORKLOADS[setup["size"]]["model"])
            torch.set_float32_matmul_precision(kernels.fastest_matmul(self.device, config) or "highest")

    def load(self):
        return self.transformers.GPT2LMHeadModel.from_pretrained(self.folder / "hf").eval()

    def construct(self):
        config = self.transformers.GPT2Config.from_pretrained(self.folder / "hf")

        def run():
            with self.device:
                return self.transformers.GPT2LMHeadModel(config)

        self.run = run

    def forward(self):
        ids = self.random_ids(*self.shapes["forward"], seed=1)

        def run():
            with torch.inference_mode() if self.is_tuned else torch.no_grad():
                return self.model(ids, use_cache=not self.is_tuned).logits

        self.run = run
        return self.save("forward", run()[:1])

    def decode(self):
        ids, new = self.random_ids(1, self.shapes["prompt"], seed=2), self.shapes["new"]
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        self.run = lambda: self.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return self.run()[0].tolist()

    def train(self):
        x, y = self.training_batch()
        parameters = list(self.model.train().parameters())
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        settings = {"fused": True} if self.is_tuned else {}
        optimizer, scaler = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), **settings), self.scaler

        def run():
            with self.autocast():
                loss = self.model(x, labels=y, shift_labels=y).loss
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return loss.item()

        self.run = run
        return [run(), run()]


class Machine(Worker):
    """Not a model: how fast this machine multiplies matrices and reads memory."""

    def prepare(self, task):
        """Makes the tensors to multiply and to read."""
        n, dtypes = 2048 if self.device.type == "cpu" else 8192, {"fp32": torch.float32}
        if self.setup["bf16"]:
            dtypes["bf16"] = torch.bfloat16
        elif self.device.type == "cuda":
            dtypes["fp16"] = torch.float16
        self.squares = {name: torch.randn(n, n, device=self.device, dtype=dtype) for name, dtype in dtypes.items()}
        self.large = torch.ones(31_250, 4_000, device=self.device)  # 500 MB, like the weights of GPT-2 small
        self.vector = torch.ones(4_000, device=self.device)

    def best_of_three(self, function):
        """The seconds of one run, after a first reading that does not count."""
        self.run, repeats = function, 2 if self.device.type == "cpu" else 10
        self.seconds(repeats)
        return min(self.seconds(repeats) for _ in range(3))

    def measure_rates(self):
        """{"bytes": bytes read per second, and for each precision: FLOP/s of one large matrix product}."""
        rates = {"bytes": 4 * self.large.numel() / self.best_of_three(lambda: torch.mv(self.large, self.vector))}
        for name, x in self.squares.items():
            settings = ("highest", "medium") if name == "fp32" and self.device.type == "cpu" else ("highest",)
            seconds = []
            for setting in settings:
                torch.set_float32_matmul_precision(setting)
                seconds.append(self.best_of_three(lambda: x @ x))
            torch.set_float32_matmul_precision("highest")
            rates[name] = 2 * len(x) ** 3 / min(seconds)
        return rates


def work(name, setup):
    """The loop of a worker: one command per line on standard input, one answer per line on standard output."""
    kinds = {"machine": Machine, "hf": HuggingFace, "hf_tuned": HuggingFace}
    worker = kinds.get(name, Course)(name, setup)
    print(ANSWER + json.dumps(torch.get_float32_matmul_precision()), flush=True)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(ANSWER + json.dumps(getattr(worker, command)(*arguments)), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], json.loads(sys.argv[2]))
