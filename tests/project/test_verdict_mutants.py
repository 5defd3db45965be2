"""For every claim at least one mutant: a changed number, model or text must flip its verdict, or keep it unsettled.

Where a helper decides, it is called. Where the rule stands in a notebook, that stored cell is executed, with measured
values instead of the cells before it. CASES has an entry for each claim; a claim without a mutant fails a test.
"""
import ast
import builtins
import dis
import math
import re
from types import CodeType, SimpleNamespace
from typing import NamedTuple

import pandas as pd
import pytest

from helpers.course import claims, coherence, experiment_results, model5_runs, pretraining, speed_verdicts
from helpers.machine import assets
from helpers.model import SIZES, GPTConfig
from helpers.parameters import count_parameters, meta_model
from scripts.ledgers import home_of, notebooks

HOLDS, FAILS, DEPENDS, OPEN, UNMEASURED = claims.VERDICTS[:5]
GROWS = {"append", "add", "update", "extend", "setdefault"}  # methods that change what they are called on


# --- a stored cell as a rule -----------------------------------------------------------------------------------------


def statements(cell):
    """The statements of a code cell, without the commands of IPython."""
    return ast.parse(re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", cell.source)).body


class Names(NamedTuple):
    """The names that a statement assigns, changes (an element, an attribute, a list) and needs from before."""

    assigned: set
    changed: set
    read: set


def events(code, is_top=True):
    """What code reads and assigns outside of its functions, in order: ("read" or "assigned", name). Names that belong
    to a function or a comprehension are not among them."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield "read", instruction.argval
        elif instruction.opname in ("STORE_NAME", "STORE_GLOBAL") and is_top:
            yield "assigned", instruction.argval
        elif isinstance(instruction.argval, CodeType):
            yield from events(instruction.argval, False)


def names(statement):
    """The Names of a statement."""
    assigned, changed, read = set(), set(), set()
    for what, name in events(compile(ast.Module([statement], []), "cell", "exec")):
        if what == "assigned":
            assigned.add(name)
        elif name not in assigned:
            read.add(name)
    for node in ast.walk(statement):
        base = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            base = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in GROWS:
            base = node.func.value
        elif isinstance(node, ast.AugAssign):
            base = node.target
        while isinstance(base, (ast.Subscript, ast.Attribute)):
            base = base.value
        changed |= {base.id} if isinstance(base, ast.Name) and base.id != "ledger" else set()
    if isinstance(statement, ast.If) and not statement.orelse:
        read |= assigned  # if the condition is false, the value from before remains
    return Names(assigned - changed, changed, (read | changed) - set(dir(builtins)))


def is_free(statement):
    """Whether a statement of an earlier cell may run here: an import, a definition, or a constant."""
    simple = not any(isinstance(node, (ast.Call, ast.For, ast.While)) for node in ast.walk(statement))
    return isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or simple


def needed(number, given):
    """The statements that a claim's row needs, in their order: those of its own cell, and from the cells before it
    imports, definitions and constants. given: the names that have values. Raises LookupError for any other name."""
    home = home_of(assets.ROOT, number)
    cells = notebooks(assets.ROOT)[home.path.stem[:2]][1].cells
    own = [cell.id for cell in cells].index(home.cell)
    last = [s for s in statements(cells[own]) if re.search(rf"ledger\.add\(\s*{number}\b", ast.unparse(s))][0]
    kept, open_names = [last], names(last).read - set(given)
    for k in range(own, -1, -1):
        body = statements(cells[k]) if cells[k].cell_type == "code" else []
        before = [s for s in body if k < own or s.lineno < last.lineno]
        for statement in reversed(before):
            assigned, changed, read = names(statement)
            found = (assigned | changed) & open_names
            if found and k < own and not is_free(statement):
                raise LookupError(f"claim {number}: give a value for {sorted(found)} of cell {cells[k].id}")
            if found:
                kept.append(statement)
                open_names = (open_names - assigned | read) - set(given)
    return kept[::-1]


def run_cell(number, ledger, given):
    """Runs what a claim's row needs of its stored cell. given: {name: value}, used instead of what binds the name."""
    namespace = {"ledger": ledger, **given}
    for statement in needed(number, namespace):
        exec(compile(ast.Module([statement], []), f"claim {number}", "exec"), namespace)  # noqa: S102
        namespace |= given


# --- cases -----------------------------------------------------------------------------------------------------------


class Mutant(NamedTuple):
    """A change, and the verdict that must follow: another one, or "unmeasured here" if it must not settle anything."""

    what: str
    verdict: str
    changes: dict


class Case(NamedTuple):
    """A claim's rule with values as they were measured. rule: a function of a helper with them as its arguments, or
    None for the stored cell."""

    verdict: str
    values: dict
    mutants: tuple[Mutant, ...]
    rule: object = None


BOOK = SimpleNamespace(title="a book")
RECORD = {"device": "FAKE CPU", "type": "cpu", "threads": 2, "torch": "9.9", "date": "2030-01-02"}
FOUR = dict(zip(SIZES, (124_439_808, 354_823_168, 774_030_080, 1_557_611_200)))
NORMS = dict(zip(SIZES, (38_400, 100_352, 186_880, 310_400)))
EMBEDDED = dict(zip(SIZES, (39_383_808, 52_511_744, 65_639_680, 82_049_600)))
SMALL = meta_model(GPTConfig())


def four(*values):
    return dict(zip(SIZES, values))


def shares(*attention, mlp=(45.54, 56.77, 60.99, 63.14)):
    return {name: {"attention": a, "MLP": m} for name, a, m in zip(SIZES, attention, mlp)}


def growth(embeddings=0, attention=0):
    """Parameters of 2, 4 and 8 blocks. embeddings, attention: what each block adds beyond a line."""
    return [{"attention": 10 * d + attention * d * d, "MLP": 20 * d, "embeddings": 99 + embeddings * d}
            for d in (2, 4, 6)]


SHAPES = {"one head": (768, 1), "gpt2": (768, 12), "gpt2-medium": (1024, 16), "gpt2-large": (1280, 20),
          "gpt2-xl": (1600, 25)}  # (width, heads)


def formula_errors(right):
    """{(shape, divided by the root of): largest difference from PyTorch}. right: the width by which PyTorch divides, of
    a head ("hs") or of the embedding ("C"), which are the same with one head."""
    return {(shape, width): 1e-7 if width == right or heads == 1 else 0.5
            for shape, (_, heads) in SHAPES.items() for width in ("hs", "C")}


def second_parameter(is_one):
    """What notebook 02 has measured of a tie by nn.Parameter(). is_one: whether it is the same tensor."""
    when = ("before", "then .double()", "then .to")
    return {"is_one_gradient": {"second Parameter": is_one, "tied": True},
            "states": {f"second Parameter, {each}": {"same memory": is_one} for each in when}}


INITIALISATIONS = ("GPT-2", "OpenAI's", "N(0, 1)")


def untrained(wide=0.05, narrow=0.9, normal=0.99, greedy=0.9, sampled=0.02):
    """Shares of positions that predict their own token, and of repeated tokens in texts, for three seeds."""
    own = {(12, 64): [narrow] * 3, (12, 768): [wide] * 3}
    return {"shares": {"GPT-2": own, "OpenAI's": own, "N(0, 1)": dict.fromkeys(own, [normal] * 3)},
            "repeats": {(name, way): [share] * 3 for name in INITIALISATIONS
                        for way, share in (("greedy", greedy), ("sampled", sampled))}}


def text_samples(repeated=0.8, balanced=0.0, surprise=12.0, exceptions=0):
    """Five samples at each temperature, and their means. exceptions: how many at 0.1 do not repeat themselves."""
    def sample(*values):
        return dict(zip(("entropy", "repeated", "distinct", "surprise"), values))
    results = {"temperature 0.1": [sample(0.02, repeated * (i >= exceptions), 0.1, 0.3) for i in range(5)],
               "temperature 1": [sample(3.8, balanced, 0.7, 3.8)] * 5,
               "temperature 10": [sample(9.0, 0.0, 1.0, surprise)] * 5}
    mean = {name: samples[-1] for name, samples in results.items()} | {"the book": sample(4.0, 0.0, 0.8, 4.2)}
    return {"results": results, "mean": mean}


def coherent(near=0.98, fit=0.5, returns=0.4, noise=0.01, is_openai=True):
    """A record of claim 27 with ten books. near, fit, returns: which share of the book's value a text keeps, of the fit
    of neighbouring words, of the fit of words far apart, and of the return of rare words."""
    def books(close, far):
        return [[close + noise * math.sin(k)] * 4 + [far + noise * math.sin(5 * k)] for k in range(10)]
    real = [[1.0] * 5] * 10
    return {"is_openai": is_openai, "model": "a model", "texts": 100, "tokens": 224,
            "books": [{"author": "an author"}] * 10, "measures": {
                "fit": {"temperature 1": books(near, fit), coherence.REAL: real},
                "recurrence": {"temperature 1": books(1.0, returns), coherence.REAL: real}}}


def trends(**correlations):
    known = {"c_attn": 0.0, "Q": -0.9, "K": -0.9, "V": 0.9, "W0": 0.9} | correlations
    return {(label, key): value for label, value in known.items() for key in ("std", "mad")}


MATRICES = ("c_attn", "Q", "K", "V", "W0", "MLP in", "MLP out")
CONCENTRATED, FRESH, WIDE = ({"within_0.05": share, "mad": mad, "std": 0.12, "kurtosis": 5.0, "median_abs": mad}
                             for share, mad in ((0.91, 0.0035), (0.99, 0.0135), (0.3, 0.09)))


def layer_widths(v_late=0.2, k=0.15):
    return {"Q": [0.15] * 12, "K": [k] * 12, "V": [0.1] * 8 + [v_late] * 4}


def book_cleaning(tokens):
    return {"tokens": {"as delivered": 159_368, "stripped": tokens}}


def run_23(first, early, last, seed):
    """A complete run of Model 5, whose test loss falls from first to early in a fifth of the run and ends at last."""
    steps = [0, 100, 200, 300, 400, 500]
    return {"batches": 500, "training": {"steps": 500, "batch_size": 16, "context": 256, "seed": seed},
            "test_step": steps, "test_loss": [first, early, last, last, last, last], "train_loss": [first, last],
            "bits_per_byte": [first, early, last, last, last, last], "seconds": [0.1], "dtype": "bfloat16"}


def record_23(*runs):
    baselines = {name: {"nats": nats, "bits_per_byte": 1.0} for name, nats in
                 {"uniform": 10.8, "unigram": 7.0, "bigram": 6.0}.items()}
    return {**RECORD, "text": "a book", "model": {}, "baselines": baselines,
            "runs": {f"course-{k}": run for k, run in enumerate(runs)}}


FLAT = [run_23(10.9, 5.0, 4.5, seed) for seed in range(3)]
SLOW = [run_23(10.9, 10.0, 4.5, seed) for seed in range(3)]


def fine_tuned(pretrained=1.45, scratch=2.25, noise=0.002):
    """A record of claim 36 with three seeds. pretrained, scratch: bits per byte of the two starts, and their noise."""
    runs = [{"start": start, "rate": 1e-3, "seed": seed, "step": [0, 120], "validation_bits": [first, last],
             "test_bits": last + noise * math.sin(9 * seed + last)}
            for start, first, last in (("pretrained", 1.6, pretrained), ("from scratch", 3.0, scratch))
            for seed in range(3)]
    return {**RECORD, "runs": runs, "seeds": [0, 1, 2], "training": {"steps": 120}, "trigram": {"test": 1.9},
            "before": {"test": 1.6}}


def runs_09(noise=0.001, **arms):
    """Ten seeds of each arm of notebook 09. arms: {arm: (test loss, test minus training loss)}. The noise of an arm
    differs from that of the others, so it does not cancel in a comparison seed by seed."""
    rows = [{"arm": name, "seed": seed, "test": test + swing, "gap": gap + swing}
            for k, (name, (test, gap)) in enumerate(arms.items()) for seed in range(10)
            for swing in [noise * math.sin((k + 1) * (seed + 1))]]
    return pd.DataFrame(rows).set_index(["arm", "seed"])


def tying(test, gap, noise=0.001):
    """Runs of claim 28: the untied model's test loss and gap, minus those of both tied models."""
    return runs_09(noise, base=(4.8, 0.1), tied_wider=(4.8, 0.1), untied=(4.8 + test, 0.1 + gap))


def positions(last, spread=0.01):
    """The losses of ten tenths of books by eight authors. last: how much higher that of the last tenth is."""
    books = {f"book {k}": {"author": f"author {k}", "trigram": [
        5 + spread * math.sin(k + 9 * tenth) + last * (tenth == 9) for tenth in range(10)]} for k in range(8)}
    return {"books": books, "tokenizer": "a tokenizer"}


def leak(value, half):
    return experiment_results.Comparison(value, half, 10)


def adam(each=8):
    return {"weights": 400, "gradients": 400, "Adam": 100 * each}


HERE = "Model 5; CPU and GPU"
SPEED = {  # the rules of claims 2, 6, 7, 8 and 25, in helpers/course/speed_verdicts.py
    2: Case(HOLDS, {"differences": {"whole numbers": 0, "random numbers": 1e-6}, "gpu": "GPU", "recorded": [],
                    "ratios": {("CPU", 1): (1.1, 1.2, 1.3), ("GPU", 1): (1.5, 1.6, 1.7)}}, (
        Mutant("one whole number differs", FAILS, {"differences": {"whole numbers": 1, "random numbers": 1e-6}}),
        Mutant("no GPU", UNMEASURED, {"gpu": None, "ratios": {("CPU", 1): (1.1, 1.2, 1.3)}}),
        Mutant("slower with many rows", DEPENDS,
               {"ratios": {("GPU", 1): (1.5, 1.6, 1.7), ("GPU", 9): (0.7, 0.8, 0.9)}}),
        Mutant("no clear difference", OPEN, {"ratios": {("GPU", 1): (0.99, 1.0, 1.01)}}),
    ), speed_verdicts.fused_qkv),
    6: Case(FAILS, {"claimed": (20, 0.03), "operations": 11.7e12, "fastest": 67e12, "own": None, "where": HERE,
                    "recorded": [], "times": 2}, (
        Mutant("another claim, and times that agree with it", HOLDS,
               {"claimed": (20, 0.001), "operations": 1e9, "own": speed_verdicts.live(HERE, 10, 0.0005)}),
        Mutant("another claim, and no GPU", UNMEASURED,
               {"claimed": (20, 0.001), "operations": 1e9, "own": speed_verdicts.live(HERE, 10)}),
    ), speed_verdicts.orders_of_magnitude),
    7: Case(HOLDS, {"own": speed_verdicts.live(HERE, 1.2, 1.5), "where": HERE, "recorded": []}, (
        Mutant("the GPU takes nine seconds", FAILS, {"own": speed_verdicts.live(HERE, 1.2, 9.0)}),
        Mutant("no GPU", UNMEASURED, {"own": speed_verdicts.live(HERE, 1.2)}),
        Mutant("a stand-in for Model 5", UNMEASURED, {"own": None}),
    ), speed_verdicts.construction),
    8: Case(FAILS, {"own": 17.4, "where": HERE, "recorded": [], "how": "one batch"}, (
        Mutant("a CPU that takes hours for a batch", HOLDS, {"own": 9_000.0}),
        Mutant("a stand-in for Model 5", UNMEASURED, {"own": None}),
    ), speed_verdicts.training_on_cpu),
    25: Case(FAILS, {"own": speed_verdicts.live(HERE, 4.95, 0.026), "where": HERE, "recorded": [],
                     "batch": "16 x 256"}, (
        Mutant("machines as slow as the article's", HOLDS, {"own": speed_verdicts.live(HERE, 44.0, 1.1)}),
        Mutant("no GPU, and a CPU as slow as the article's", UNMEASURED, {"own": speed_verdicts.live(HERE, 44.0)}),
        Mutant("a stand-in for Model 5", UNMEASURED, {"own": None}),
    ), speed_verdicts.training_forward),
}
PROCESSES = {  # the rules of claims 31 to 35, in the same file
    31: Case(UNMEASURED, {"ratios": {"one process": 1.5}, "where": "a CPU"}, (
        Mutant("three times as fast, on one CPU", UNMEASURED, {"ratios": {"one process": 3.0}}),
        Mutant("half as fast, on one CPU", UNMEASURED, {"ratios": {"one process": 0.5}}),
    ), speed_verdicts.two_processes),
    32: Case(HOLDS, {"losses": 1e-6, "weights": 1e-5, "control": 0.5, "steps": 40, "where": "a CPU"}, (
        Mutant("another loss", FAILS, {"losses": 0.1}),
        Mutant("other weights", FAILS, {"weights": 0.5}),
        Mutant("a control that shows nothing", OPEN, {"control": 0.0}),
    ), speed_verdicts.same_training),
    33: Case(FAILS, {"moved": {2: 1.0, 3: 4 / 3, 4: 1.5}, "where": "loopback"}, (
        Mutant("bytes that double", HOLDS, {"moved": {2: 1.0, 3: 1.5, 4: 2.0}}),
        Mutant("a system that does not count", UNMEASURED, {"moved": {2: None, 3: None, 4: None}}),
    ), speed_verdicts.bytes_sent),
    34: Case(HOLDS, {"parts": 8, "difference": 1e-6, "kept": (6.6, 1.0), "peaks": (None, None), "steps": 5,
                     "where": "a CPU"}, (
        Mutant("another loss", FAILS, {"difference": 0.1}),
        Mutant("as much memory", FAILS, {"kept": (6.6, 6.6)}),
    ), speed_verdicts.accumulation),
    35: Case(HOLDS, {"before": adam(0), "after": adam(), "parameters": 100, "where": "a CPU"}, (
        Mutant("an optimizer with one mean", FAILS, {"after": adam(4)}),
    ), speed_verdicts.adam_bytes),
}
THEORY = {  # notebooks 01 and 02
    1: Case(FAILS, {"shapes": SHAPES, "errors": formula_errors(right="hs"), "T3": 32}, (
        Mutant("PyTorch divides by the full width", HOLDS, {"errors": formula_errors(right="C")}),
    )),
    3: Case(HOLDS, {"named_total": FOUR["gpt2"], "torchinfo_total": 163_037_184, "by_module": 163_037_184,
                    "shared": 38_597_376, "how_often": "twice"}, (
        Mutant("a torchinfo that counts a shared matrix once", FAILS, {"torchinfo_total": FOUR["gpt2"]}),
        Mutant("a smaller vocabulary", FAILS, {"by_module": 130_000_000, "shared": 5_560_192}),
    )),
    4: Case(FAILS, {"named_total": FOUR["gpt2"], "torchinfo_total": 163_037_184, "by_module": 163_037_184,
                    "shared": 38_597_376, "named": [0] * 148, "how_often": "twice"}, (
        Mutant("an untied model", HOLDS, {"named_total": 163_037_184}),
    )),
    5: Case(FAILS, {"named_total": FOUR["gpt2"], "drift": 2e-3, "config": GPTConfig(), **second_parameter(False)}, (
        Mutant("a Parameter() that returns what it gets", HOLDS,
               {"nn": SimpleNamespace(Parameter=lambda parameter: parameter), "drift": 0, **second_parameter(True)}),
    )),
    22: Case(DEPENDS, {"widths": (64, 768), "depths": (1, 12), "V": 50_257, "seeds": range(3), "largest": (12, 768),
                       "INITIALISATIONS": dict.fromkeys(INITIALISATIONS), **untrained()}, (
        Mutant("every initialisation and every text repeats", HOLDS, untrained(wide=0.9, sampled=0.9)),
        Mutant("none repeats", FAILS, untrained(wide=0.01, narrow=0.01, normal=0.01, greedy=0.01)),
        Mutant("models smaller than GPT-2", UNMEASURED, {"largest": (12, 64)}),
    )),
}
PRETRAINED = {  # notebook 04
    20: Case(HOLDS, {"is_real": True, "ceiling": 9.01, "samples": 5, "new": 100, "book": BOOK, "name": "GPT-2 small",
                     **text_samples()}, (
        Mutant("no repetition at 0.1", FAILS, text_samples(repeated=0.0)),
        Mutant("repetition at 1", FAILS, text_samples(balanced=0.5)),
        Mutant("ordinary text at 10", FAILS, text_samples(surprise=4.0)),
        Mutant("some of the samples repeat", OPEN, text_samples(exceptions=2)),
        Mutant("the course's GPT-2", UNMEASURED, {"is_real": False}),
    )),
    27: Case(HOLDS, {"record": coherent()}, (
        Mutant("words that do not fit nearby", FAILS, {"record": coherent(near=0.5)}),
        Mutant("as coherent far apart as the book", FAILS, {"record": coherent(fit=1.0, returns=1.0)}),
        Mutant("rare words come back as in the book", DEPENDS, {"record": coherent(returns=1.0)}),
        Mutant("books that differ too much", OPEN, {"record": coherent(noise=0.9)}),
        Mutant("the course's GPT-2", UNMEASURED, {"record": coherent(is_openai=False)}),
    ), coherence.claim_27),
}
COUNTS = {  # notebook 05
    9: Case(HOLDS, {"totals": FOUR}, (Mutant("a larger XL", FAILS, {"totals": FOUR | {"gpt2-xl": 1_657_611_200}}),)),
    10: Case(HOLDS, {"tied": shares(22.78, 28.40, 30.50, 31.58)}, (
        Mutant("attention one per cent larger", FAILS, {"tied": shares(23.78, 28.40, 30.50, 31.58)}),
        Mutant("an MLP of another width", FAILS, {"tied": shares(22.78, 28.40, 30.50, 31.58, mlp=(30, 40, 44, 46))}),
    )),
    11: Case(HOLDS, {"ratios": four(*[{"MLP / attention": 1.999}] * 4)}, (
        Mutant("an MLP three times as wide as the stream", FAILS, {"ratios": four(*[{"MLP / attention": 1.5}] * 4)}),
    )),
    12: Case(FAILS, {"totals": FOUR, "norms": NORMS}, (
        Mutant("a hundredth of the norms", HOLDS, {"norms": {name: n // 100 for name, n in NORMS.items()}}),
    )),
    13: Case(FAILS, {"totals": FOUR, "norms": NORMS}, (
        Mutant("no size beyond medium", HOLDS, {"norms": {name: min(n, 100_352) for name, n in NORMS.items()}}),
    )),
    14: Case(FAILS, {"totals": FOUR, "embedded": EMBEDDED, "share": four(31.65, 14.8, 8.5, 5.27)}, (
        Mutant("all sizes as wide as the smallest", HOLDS, {"embedded": four(*[39_383_808] * 4)}),
    )),
    15: Case(HOLDS, {"split": four(*[((900, 100), (50, 50))] * 4)}, (
        Mutant("norms without a beta", FAILS, {"split": four(*[((900, 100), (50, 0))] * 4)}),
        Mutant("as many biases as weights in all", FAILS, {"split": four(*[((500, 500), (50, 50))] * 4)}),
    )),
    16: Case(HOLDS, {"models": {"gpt2": SMALL}, "small": SMALL, "counts": {"gpt2": count_parameters(SMALL)}}, (
        Mutant("“fc” alone", FAILS, {"rules": {"attention": ["attn"], "MLP": ["fc"], "LayerNorm": ["ln"],
                                               "embeddings": ["wte", "wpe"]}}),
    )),
    29: Case(HOLDS, {"depths": (2, 4, 6), "by_depth": growth(), "C": 768}, (
        Mutant("an embedding in every block", FAILS, {"by_depth": growth(embeddings=1)}),
        Mutant("attention that grows faster than a line", FAILS, {"by_depth": growth(attention=1)}),
    )),
}
WEIGHTS = {  # notebook 06
    17: Case(UNMEASURED, {"gpt2": {"wpe.weight": CONCENTRATED}, "fresh": {"wpe.weight": FRESH},
                          "MEASURED_ON": "GPT-2"}, (
        Mutant("a wide position embedding", FAILS, {"gpt2": {"wpe.weight": WIDE}}),
        Mutant("the token embedding measured, and wide", HOLDS,
               {"gpt2": {"wpe.weight": CONCENTRATED, "wte.weight": WIDE}}),
        Mutant("the token embedding measured, and concentrated", FAILS,
               {"gpt2": {"wpe.weight": CONCENTRATED, "wte.weight": CONCENTRATED}}),
    )),
    18: Case(DEPENDS, {"gpt2": {}, "MEASURED_ON": "GPT-2", "trend": trends(), "by_layer": lambda *_: [0.1] * 12,
                       "measured": dict.fromkeys(("c_attn", "Q", "K", "V", "W0"), "")}, (
        Mutant("every matrix widens", HOLDS,
               {"trend": trends(**dict.fromkeys(MATRICES, 0.9)), "measured": dict.fromkeys(MATRICES, "")}),
        Mutant("every matrix but the MLP's, which is unmeasured", UNMEASURED,
               {"trend": trends(c_attn=0.9, Q=0.9, K=0.9)}),
        Mutant("no matrix widens", FAILS, {"trend": trends(V=-0.9, W0=-0.9)}),
    )),
    19: Case(DEPENDS, {"gpt2": layer_widths(), "layers": 12, "MEASURED_ON": "GPT-2", "QKV": {x: x for x in "QKV"},
                       "by_layer": lambda widths, part, key: widths[part],
                       "kurtosis_of": {"Q": [5] * 12, "K": [6] * 12},
                       "pools": {"Q": {"std": 0.155}, "K": {"std": 0.148}, "V": {"std": 0.118}}}, (
        Mutant("V the narrowest in every layer", HOLDS, {"gpt2": layer_widths(v_late=0.1)}),
        Mutant("K twice as wide as Q", FAILS, {"gpt2": layer_widths(k=0.4)}),
    )),
}
TRAINING = {  # notebook 07
    21: Case(FAILS, {"delivered": "", "cleaning": book_cleaning(144_937),
                     "gpt2": SimpleNamespace(vocab_size=50_257, name="GPT-2's", encode=list),
                     "source": SimpleNamespace(is_stand_in=False, title="a book")}, (
        Mutant("a longer book", HOLDS, {"cleaning": book_cleaning(158_200)}),
        Mutant("the stand-in for the book", UNMEASURED, {"source": SimpleNamespace(is_stand_in=True, title="another")}),
    )),
    23: Case(HOLDS, {"live": FLAT[0], "label": "a small model", "record": record_23(*FLAT)}, (
        Mutant("runs that fall slowly", FAILS, {"record": record_23(*SLOW)}),
        Mutant("seeds that disagree", OPEN, {"record": record_23(*FLAT[:2], SLOW[2])}),
        Mutant("two seeds", UNMEASURED, {"record": record_23(*FLAT[:2])}),
        Mutant("a small model alone", UNMEASURED, {"record": None}),
    ), model5_runs.claim_23),
    36: Case(UNMEASURED, {"record": fine_tuned()}, (
        Mutant("starts exchanged", FAILS, {"record": fine_tuned(2.25, 1.45)}),
        Mutant("seeds that overlap", OPEN, {"record": fine_tuned(1.45, 1.46, noise=0.5)}),
        Mutant("no record", UNMEASURED, {"record": None}),
    ), pretraining.claim_36),
}
MODIFICATIONS = {  # the rules of claims 24, 26, 28 and 30, in helpers/course/experiment_results.py (notebook 09)
    24: Case(HOLDS, {"runs": runs_09(base=(4.8, 0.1), epochs=(4.8, 0.1)), "passes": {("epochs", "base"): 3.0},
                     "coverage": 0.63, "missed": 0.0002, "first_token": 0.01, "origin": "a book"}, (
        Mutant("a pass that visits nearly everything", FAILS, {"coverage": 0.99}),
        Mutant("a first token that is visited as often as others", FAILS, {"first_token": 1.0}),
    ), experiment_results.claim_24),
    26: Case(HOLDS, {"record": positions(last=0.2)}, (
        Mutant("a last tenth like the others", FAILS, {"record": positions(last=0.0)}),
        Mutant("books that differ too much", OPEN, {"record": positions(last=0.0, spread=1.0)}),
        Mutant("no record", UNMEASURED, {"record": None}),
    ), experiment_results.claim_26),
    28: Case(DEPENDS, {"runs": tying(test=-0.2, gap=0.1), "origin": "a book"}, (
        Mutant("tied is better in both", HOLDS, {"runs": tying(test=0.2, gap=0.1)}),
        Mutant("untied is better in both", FAILS, {"runs": tying(test=-0.2, gap=-0.1)}),
        Mutant("seeds that differ too much", OPEN, {"runs": tying(test=0.0, gap=0.0, noise=0.5)}),
    ), experiment_results.claim_28),
    30: Case(FAILS, {"found": {4: leak(0.9, 0.1), 16: leak(0.4, 0.1)}, "shared": 0.0, "origin": "passages"}, (
        Mutant("no leak in any text", UNMEASURED, {"found": {4: leak(0.1, 0.2), 16: leak(0.0, 0.2)}}),
    ), experiment_results.claim_30),
}
GROUPS = (THEORY, SPEED, PRETRAINED, COUNTS, WEIGHTS, TRAINING, PROCESSES, MODIFICATIONS)
CASES = {number: case for group in GROUPS for number, case in sorted(group.items())}
MUTANTS = [(number, mutant) for number, case in CASES.items() for mutant in case.mutants]


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_record(monkeypatch, tmp_path):
    """A recorded row of OpenAI's weights would be added to a row that is unmeasured here."""
    monkeypatch.setattr(claims, "RECORD", tmp_path / "claims.json")


def row_of(number, **changes):
    """The claim's row, as the ledger accepts it, with the values of its case and these changes."""
    case, ledger = CASES[number], claims.Ledger("test")
    if case.rule:
        ledger.add(number, *case.rule(**{**case.values, **changes}))
    else:
        run_cell(number, ledger, {**case.values, **changes})
    (row,) = ledger.claims
    assert row.number == number
    return row


def test_every_claim_has_a_mutant():
    assert sorted(CASES) == sorted(claims.STATEMENTS) and sum(map(len, GROUPS)) == len(CASES)
    assert [number for number, case in CASES.items() if not case.mutants] == []


@pytest.mark.parametrize("number", CASES)
def test_what_was_measured_gives_this_verdict(number):
    assert row_of(number).verdict == CASES[number].verdict


@pytest.mark.parametrize("number, mutant", MUTANTS, ids=[f"{number}-{mutant.what}" for number, mutant in MUTANTS])
def test_a_mutant_flips_the_verdict_or_blocks_it(number, mutant):
    row = row_of(number, **mutant.changes)
    assert row.verdict == mutant.verdict
    assert mutant.verdict in {*claims.VERDICTS} - {CASES[number].verdict} or mutant.verdict == UNMEASURED


@pytest.mark.parametrize("number", [number for number, case in CASES.items() if case.rule])
def test_the_notebook_asks_the_rule_that_is_tested(number):
    home, rule = home_of(assets.ROOT, number), CASES[number].rule
    (cell,) = [c for c in notebooks(assets.ROOT)[home.path.stem[:2]][1].cells if c.id == home.cell]
    call = f"{rule.__module__.rpartition('.')[2]}.{rule.__name__}("
    assert call in cell.source, call


@pytest.mark.parametrize("number", CASES)
def test_no_verdict_rests_on_another_row(number):
    """A rule reads measurements: it neither reads the rows of the ledger nor what a row of another claim says."""
    home = home_of(assets.ROOT, number)
    (cell,) = [c for c in notebooks(assets.ROOT)[home.path.stem[:2]][1].cells if c.id == home.cell]
    assert not re.search(r"ledger\.(?!add\()|recorded\(|CLAIMS|\bclaims\.", cell.source), home


def test_a_rule_is_run_from_the_stored_cell():
    """The runner takes imports, definitions and constants from earlier cells, and asks for everything else."""
    with pytest.raises(LookupError, match="give a value for"):
        run_cell(9, claims.Ledger("test"), {})
    kept = needed(9, {"totals": FOUR, "ledger": None})
    assert "MEASURED_ON" in {name for statement in kept for name in names(statement).assigned}


def test_names_that_a_statement_assigns_changes_and_reads():
    loop, addition, again = ast.parse("for label in measured:\n    groups[word(label)].append([x for x in label])\n"
                                      "text += more\nvalue = f(value)").body
    assert names(loop) == ({"label"}, {"groups"}, {"measured", "word", "groups"})
    assert names(addition) == (set(), {"text"}, {"text", "more"})
    assert names(again) == ({"value"}, set(), {"f", "value"})
