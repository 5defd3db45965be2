"""Measure the course on this machine's NVIDIA GPU, in five steps: make gpu

    python -m scripts.gpu                            all steps; results go to build/gpu, in at most 12 minutes
    python -m scripts.gpu --device cpu --quick       the same steps in small, on any machine: a rehearsal
    python -m scripts.gpu --pack FOLDER              on a machine with a network: collect what one without it needs
    python -m scripts.gpu --bring FOLDER             on that machine: install from FOLDER, fetch nothing, then measure
    python -m scripts.gpu --keep [RESULTS]           copy the records into data/measurements and renew BENCHMARKS.md

Each step is a program of its own with a time limit. It writes what it has measured as it goes along, so a step that is
stopped loses at most what it was measuring at that moment. CONTRIBUTING.md explains the steps and their records.
This file imports nothing but Python's standard library, because PyTorch may be all that the machine has.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from scripts import gpu_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS, REHEARSAL, BUNDLE = ROOT / "build" / "gpu", ROOT / "build" / "gpu_rehearsal", "results.zip"
EARLIER = ".earlier"  # the suffix of a record while its step runs again
SUMMARY = "summary.log"
PATIENCE = 20  # seconds that a program gets to finish after it was interrupted, before it is killed
ORIGIN = "import json, sys; from helpers.machine import timing; print(json.dumps(timing.origin(sys.argv[1])))"
GPU = "import json, torch; print(json.dumps(torch.cuda.is_available()))"


@dataclass(frozen=True)
class Step:
    """A program to run: its name, what it measures, its command after `python -m`, its time limit in seconds,
    environment variables of its own, and the records that it replaces."""

    name: str
    what: str
    command: list
    limit: int
    environment: dict = field(default_factory=dict)
    replaces: str = ""


def steps_for(device, quick, results):
    """The steps, the most valuable first. quick: small models and few rounds."""
    records, notebooks = results / "records", ["--build", str(results / "notebooks")]
    size = {"COURSE_SIZE": "smoke" if quick else "full"}
    tests = ["-m", "cuda"] if device == "cuda" else ["-k", "cpu and (precision or devices or clock)"]
    arms = ["hf", "course"] if quick else ["hf", "hf_tuned", "course", "course_compiled"]
    bench = ["--size", "small", "--rounds", "1"]
    if not quick:
        bench = ["--rounds", "3", "--tasks", "forward", "decode", "train"]
    small = ["--size", "smoke", "--every", "5", "--runs", "course-0", "lectures-0"] if quick else ["--every", "100"]
    return [
        Step("tests", "do the paths that only a GPU takes give the right numbers",
             ["pytest", "-q", *tests, "-p", "no:cacheprovider", "-o", "junit_family=xunit1",
              f"--junitxml={results / 'tests.xml'}", "tests/machine/test_cuda.py"], 100, replaces="cuda.json"),
        Step("bench", "Model 5 against Hugging Face's GPT-2",
             ["benchmarks.bench", "--device", device, *bench, "--arms", *arms, "--out", str(records / "bench.json")],
             160, replaces="bench.json"),
        Step("speed", "notebook 03: construct, forward, backward, one matrix or three, by batch and by length",
             ["scripts.run_notebooks", "notebooks/03_cpu_versus_gpu.ipynb", *notebooks], 200,
             {**size, "COURSE_RECORD": str(records)}, "speed_*.json"),
        Step("training", "Model 5 learns Gulliver's Travels: 500 batches, three seeds, and the lectures' recipe",
             ["helpers.course.full_size", "--device", device, "--folder", str(records), "--checkpoints",
              str(results / "checkpoints"), *small], 330),
        Step("notebooks", "notebooks 02 and 07 as outputs to look at (in a rehearsal only 02)",
             ["scripts.run_notebooks", "notebooks/02_model5_on_the_gpu.ipynb",
              *([] if quick else ["notebooks/07_training_on_gulliver.ipynb"]), *notebooks], 150, size),
    ]


# --- running ---------------------------------------------------------------------------------------------------------


def environment_for(device, results, bring):
    """The environment of all steps: the device, the files and packages that were brought along, and no downloads."""
    own = {**os.environ, "COURSE_DEVICE": device, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if bring:
        site = gpu_folder.install(bring, results / "site")
        own |= {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [own.get("PYTHONPATH")])]),
                "JUPYTER_DATA_DIR": str(site / "share" / "jupyter"),  # nbconvert's templates
                "COURSE_ASSETS": str((bring / "assets").resolve()), "COURSE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    return own


def ask(code, environment, *arguments):
    """What a short program prints, read as JSON. Raises SystemExit with its last line if it fails."""
    answer = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True,
                            text=True)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
        raise SystemExit(f"gpu: {sys.executable} cannot run the course ({reason}). Use a Python that has PyTorch, with "
                         "the packages of requirements.txt, or bring them along: see CONTRIBUTING.md, “With a GPU”.")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def start(step, environment, results):
    """Starts one step, without waiting. Its output goes to a file of its own."""
    if step.name == "tests":
        (results / "tests.xml").unlink(missing_ok=True)
    for old in results.glob(f"records/{step.replaces}") if step.replaces else []:
        old.rename(old.with_suffix(EARLIER))  # until there is a new one
    command = [sys.executable, "-m", *map(str, step.command)]
    with open(results / f"{step.name}.log", "w", encoding="utf-8") as output:
        output.write(f"{step.name}: {step.what}\n$ {' '.join(command)}\n")
        output.flush()
        return subprocess.Popen(command, cwd=ROOT, env={**environment, **step.environment}, stdout=output,
                                stderr=output, process_group=0)


def finish(step, process, began, limit, results, origin):
    """Waits at most `limit` seconds for a step that began at `began`, and bundles all results, also when it is
    interrupted. Returns how it ended."""
    outcome = "INTERRUPTED"
    try:
        status = process.wait(max(0, limit))
        outcome = "done" if status == 0 else f"FAILED with exit status {status}"
    except subprocess.TimeoutExpired:
        outcome = f"STOPPED at its limit of {limit:.0f} s"
    finally:
        end(process)
        if step.name == "tests":
            tests_record(results, origin)
        replace_or_restore(step, results)
        say(f"{step.name:10} {outcome} ({time.monotonic() - began:.0f} s)", results)
        if outcome != "done":
            lines = (results / f"{step.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            say("\n".join(["The last lines of its output:", *lines[-12:]]), results)
        bundle(results)
    return outcome


def replace_or_restore(step, results):
    """Removes the earlier record of a step if the step has left a new one, and restores it otherwise."""
    if step.replaces:
        is_replaced = any(results.glob(f"records/{step.replaces}"))
        for old in results.glob(f"records/{step.replaces.removesuffix('.json')}{EARLIER}"):
            old.unlink() if is_replaced else old.rename(old.with_suffix(".json"))


def end(process):
    """Interrupts a program if it still runs, waits, and kills what is left of it and of what it has started. Meanwhile
    further interrupts are ignored, or something would be left."""
    before = {kind: signal.signal(kind, signal.SIG_IGN) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def tests_record(results, origin):
    """Writes the record of the tests: how each ended, how long it took, and what it has noted. Without the tests'
    report, or with half of one, there is no record."""
    cases, report = [], results / "tests.xml"
    with contextlib.suppress(OSError, ElementTree.ParseError):
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            noted = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
            cases.append({"test": case.get("name"), "outcome": min(kinds, default="passed"),
                          "seconds": float(case.get("time")), **noted})
        text = json.dumps({**origin, "tests": cases}, indent=1, ensure_ascii=False) + "\n"
        (results / "records" / "cuda.json").write_text(text, encoding="utf-8")
    report.unlink(missing_ok=True)


def measure(options):
    """Runs the steps, one after the other; a rehearsal, which times nothing, runs them all at once. Returns the exit
    status: 0 if all of them are done."""
    results, begin = options.out.resolve(), time.monotonic()
    if options.quick:  # begins anew, so that every step has something to do
        if results != REHEARSAL and any(results.glob("records/*")):
            raise SystemExit(f"gpu: {results} holds records already. Choose another folder for the rehearsal.")
        for name in ("records", "checkpoints"):
            shutil.rmtree(results / name, ignore_errors=True)
    (results / "records").mkdir(parents=True, exist_ok=True)
    environment = environment_for(options.device, results, options.bring)
    if options.device == "cuda" and not ask(GPU, environment):
        raise SystemExit("gpu: PyTorch finds no NVIDIA GPU on this machine. A rehearsal on the CPU: "
                         'make gpu ARGS="--device cpu --quick"')
    origin = ask(ORIGIN, environment, options.device)
    say(f"{time.strftime('%Y-%m-%d %H:%M')}: {origin['device']}, torch {origin['torch']}; results: {results}", results)
    steps = [step for step in steps_for(options.device, options.quick, results) if step.name in options.steps]
    running = {step.name: start(step, environment, results) for step in steps if options.quick}
    outcomes = []
    try:
        for step in steps:
            began = begin if options.quick else time.monotonic()
            left = 60 * options.minutes - (time.monotonic() - begin)
            if left < 10 and not options.quick:
                outcomes.append("LEFT OUT: the time is over")
                say(f"{step.name:10} {outcomes[-1]}", results)
                continue
            process = running.get(step.name) or start(step, environment, results)
            limit = min(step.limit * options.minutes / 12, left)
            limit = left if options.quick else limit  # all at once, each takes longer
            outcomes.append(finish(step, process, began, limit, results, origin))
    finally:
        for process in running.values():
            end(process)
    kept = sorted(path.name for path in (results / "records").glob("*.json"))
    say(f"records: {', '.join(kept) or 'none'}. {results / BUNDLE} holds all results.", results)
    return int(any(outcome != "done" for outcome in outcomes))


def bundle(results):
    """Puts logs, records and notebooks into one file, to copy from the machine. It is replaced in one step."""
    unfinished = results / f".{BUNDLE}.part"
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted([*results.glob("*.log"), *results.glob("records/*.json"), *results.glob("notebooks/*")]):
            file.write(path, path.relative_to(results))
    unfinished.replace(results / BUNDLE)


def say(line, results):
    """Prints a line, and adds it to the summary."""
    print(line, flush=True)
    with open(results / SUMMARY, "a", encoding="utf-8") as log:
        log.write(f"{line}\n")


# --- keeping ---------------------------------------------------------------------------------------------------------


def keep(results, target=None):
    """Copies the records of a GPU into data/measurements, and renews BENCHMARKS.md. Returns the exit status.

    results: the folder of the results, or its results.zip. A rehearsal is refused, because its numbers are of small
    models or of a CPU, and so is a record that holds less than the one that it would replace.
    """
    from benchmarks import tables
    from helpers.machine import timing

    target, records = target or timing.RECORDS, read_records(results)
    paths = {name: timing.record_path(name.partition("_")[0], record, target) for name, record in records.items()}
    for name, record in records.items():
        is_small = record.get("size") in ("small", "smoke") or name.startswith("speed") and record["model"] != "Model 5"
        if record["type"] != "cuda" or is_small:
            raise SystemExit(f"gpu: {name}.json is a rehearsal (a small model, or a CPU), not a measurement of a GPU.")
        if paths[name].is_file() and (more := extent(json.loads(paths[name].read_text("utf-8")))) > extent(record):
            raise SystemExit(f"gpu: {paths[name]} holds {more} results, and {name}.json only {extent(record)}. Delete "
                             "the one that you do not want.")
    for name, record in records.items():
        timing.write_json(paths[name], record)
        print(f"kept {paths[name]} of {record['date']}")
    if target == timing.RECORDS:
        tables.write_page(ROOT)
        print("BENCHMARKS.md was renewed. Now run notebooks 01, 02, 03 and 07 again: see CONTRIBUTING.md")
    return 0


def read_records(results):
    """The records in the folder of results, or in a results.zip: {name: record}. SystemExit if there are none."""
    try:
        with tempfile.TemporaryDirectory() as unpacked:
            folder = results
            if results.suffix == ".zip":
                shutil.unpack_archive(results, unpacked)
                folder = Path(unpacked)
            records = {path.stem: json.loads(path.read_text(encoding="utf-8"))
                       for path in sorted(folder.glob("records/*.json"))}
        complete = all({"device", "type", "date"} <= set(record) for record in records.values())
    except (OSError, ValueError, TypeError, shutil.ReadError) as error:
        raise SystemExit(f"gpu: {results} cannot be read ({error}). Expected the folder of make gpu's results, or its "
                         f"{BUNDLE}.") from None
    if not records or not complete:
        raise SystemExit(f"gpu: {results} holds no records of make gpu. Expected the folder of its results, or its "
                         f"{BUNDLE}. Run make gpu first.")
    return records


def extent(record):
    """How much a record holds: batches, tests, or measured rows."""
    if "runs" in record:
        return sum(run["batches"] for run in record["runs"].values())
    return len(record.get("tests", record.get("rows", [])))


# --- the command line ------------------------------------------------------------------------------------------------


def parse(arguments):
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add, names = parser.add_argument, [step.name for step in steps_for("cuda", False, RESULTS)]
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    add("--quick", action="store_true", help="small models, few rounds: shows that every step works")
    add("--steps", nargs="+", choices=names, default=names, help="only these steps (default: all)")
    add("--minutes", type=float, default=12, help="time for all steps together (default: 12)")
    add("--out", type=Path, help="the folder of the results (default: build/gpu, for a rehearsal build/gpu_rehearsal)")
    add("--bring", type=Path, metavar="FOLDER", help="packages and files for a machine without a network")
    add("--pack", type=Path, metavar="FOLDER", help="collect these packages and files, and measure nothing")
    add("--python", default="3.12.3", help="for --pack: the other machine's version of Python (default: 3.12.3)")
    add("--installed", type=Path, metavar="FILE", help="for --pack: what `pip list` prints on the other machine")
    add("--keep", type=Path, nargs="?", const=RESULTS, metavar="RESULTS",
        help="keep the records of these results, a folder or a results.zip (default: build/gpu)")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes}: expected a number above 0")
    options.out = options.out or (REHEARSAL if options.quick or options.device == "cpu" else RESULTS)
    return options


def main(arguments=None):
    """The command line. Returns its exit status."""
    options = parse(arguments)
    try:
        if options.pack:
            return gpu_folder.pack(options.pack, options.python, options.installed)
        return keep(options.keep) if options.keep else measure(options)
    except KeyboardInterrupt:
        print(f"gpu: interrupted. What was measured until now is in {options.out}.", file=sys.stderr)
        return 130
    except (OSError, ImportError) as error:
        raise SystemExit(f"gpu: {error}") from None


if __name__ == "__main__":
    for kind in (signal.SIGTERM, signal.SIGHUP):  # so that the step in hand ends, too
        signal.signal(kind, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup would let all steps ignore it
    sys.exit(main())
