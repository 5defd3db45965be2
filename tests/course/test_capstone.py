"""The judge of the capstone: it accepts every correct design, and each mistake fails in the stage that tests it."""

import inspect
import time
import warnings

import numpy as np
import pytest
import torch

from helpers.course import capstone
from helpers.course.capstone import Adapter
from helpers.course.exercises import capstone_reference, capstone_solution, nb11
from helpers.generation import generate
from helpers.model import GPT
from tests.course.capstone_styles import STYLES, functional
from tests.plain import plain_logits

SOURCE = inspect.getsource(capstone_solution)


def variant(*changes):
    """The official solution with pieces of its source replaced: a class GPT2."""
    source = SOURCE
    for old, new in changes:
        assert source.count(old) == 1, f"{source.count(old)} times: {old}"
        source = source.replace(old, new)
    namespace = {"__name__": "learner"}
    exec(compile(source, "<learner>", "exec"), namespace)
    return namespace["GPT2"]


# --- correct designs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [capstone_solution.GPT2, *STYLES.values()], ids=["official", *STYLES])
def test_every_correct_design_passes_all_stages(attempt):
    verdict = nb11.gpt2.judge(attempt)
    report, = capstone._reports
    assert verdict.solved and report.passed, verdict.text
    assert report.first_problem is None and report.borrowed == ()


def test_the_notebooks_settings_change_nothing():
    with (torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode(),
          warnings.catch_warnings(), np.errstate(all="raise")):
        warnings.simplefilter("error")
        verdict = nb11.gpt2.judge(capstone_solution.GPT2)
    assert verdict.solved, verdict.text


def test_an_error_without_words_has_its_message():
    def no_words(self):
        raise ArithmeticError("no words")

    Wordless = type("Wordless", (ValueError,), {"__str__": no_words})

    class Stops(capstone_solution.GPT2):
        def forward(self, ids):
            raise Wordless()

    assert "Your code stopped with Wordless: an object of the type Wordless" in nb11.gpt2.judge(Stops).text


def test_the_official_solution_is_about_100_lines_long():
    lines = [line for line in SOURCE.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(lines) <= 100


def test_the_reference_is_gpt2():
    for config, seed in ((capstone.SMALL, 0), (capstone.OTHER, 1)):
        model, weights = GPT(config), capstone_reference.weights(config, seed)
        model.load_state_dict(weights)
        ids = torch.randint(config.vocab_size, (2, config.n_positions), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(capstone_reference.logits(weights, config, ids), plain_logits(model, ids),
                                   atol=1e-5, rtol=1e-5)


def test_the_functional_solution_trains_without_an_optimizer():
    torch.manual_seed(0)
    model, config = functional.build(capstone.OTHER), capstone.OTHER
    ids = torch.randint(config.vocab_size, (4, config.n_positions), generator=torch.Generator().manual_seed(0))
    assert functional.train(model, ids[:, :-1], ids[:, 1:], steps=150, rate=3e-3) < capstone.FITTED


def test_a_correct_model_overfits_by_a_wide_margin(monkeypatch):
    monkeypatch.setattr(capstone, "FITTED", capstone.FITTED / 3)
    for seed in range(3):
        def seeded(config, seed=seed):
            torch.manual_seed(seed)
            return capstone_solution.GPT2(config)

        capstone.stage_overfit(capstone.Subject(Adapter(seeded)))


# --- wrong designs ---------------------------------------------------------------------------------------------------

C_ATTN = "self.c_attn(x).split(C, dim=-1)"
MASK = "scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)"
LN_F = "self.lm_head(self.transformer.ln_f(x)), presents"
TIED = "        self.lm_head.weight = self.transformer.wte.weight  # one tensor with two jobs\n"
SHIFTED = "F.cross_entropy(self(ids[:, :-1]).flatten(0, 1), targets[:, 1:].flatten())"
LOSS = "F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())"
STD = "std=0.02 / math.sqrt(2 * config.n_layer) if adds_to_stream else 0.02"
STEP = "self.run(new, cache) if use_cache else (self(ids), None)"
SIZE = '"wte": nn.Embedding(config.vocab_size, C)'

HEAD = "        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)\n"
LOAD = "self.load_state_dict(weights)"
COPY = "for name, p in self.named_parameters():\n            p.copy_(weights[name])"
BLOCKS = "nn.ModuleList(Block(config) for _ in range(config.n_layer))"
K, V = "torch.cat([past[0], k], dim=2)", "torch.cat([past[1], v], dim=2)"

WRONG = {
    "vocabulary fixed": ([(SIZE, '"wte": nn.Embedding(53, C)'), ("nn.Linear(C, config.vocab_size,",
                                                                "nn.Linear(C, 53,")], 1, "config.vocab_size"),
    "two blocks only": ([("for _ in range(config.n_layer))", "for _ in range(2))")], 1, "config.n_layer"),
    "positions fixed": ([("config.n_positions, C),", "1024, C),")], 1, "config.n_positions"),
    "one head": ([("self.n_head = config.n_head", "self.n_head = 1")], 1, "config.n_head"),
    "last position only": ([(LN_F, "self.lm_head(self.transformer.ln_f(x))[:, -1:], presents")], 2, "Only the last"),
    "axes exchanged": ([("return self.run(ids)[0]", "return self.run(ids)[0].transpose(1, 2)")], 2, "last two axes"),
    "too long is clipped": ([("        if start + ids.shape[1] > self.n_positions:\n", "        if False:\n"),
                             ("device=ids.device)\n        x,",
                              "device=ids.device).clamp(max=self.n_positions - 1)\n        x,")], 2, "one more than"),
    "too long is cut": ([("        start = cache", "        ids = ids[:, -self.n_positions:]\n        start = cache")],
                        2, "one more than"),
    "no mask": ([(MASK, "scores.softmax(dim=-1)")], 3, "depends on the later token"),
    "mask off by one": ([("tril(k.shape[2] - T)", "tril(k.shape[2] - T + 1)")], 3, "off by one"),
    "mask after the softmax": ([(MASK, "scores.softmax(dim=-1) * allowed")], 3, "before the softmax"),
    "diagonal masked": ([("tril(k.shape[2] - T)", "tril(k.shape[2] - T - 1)"), (MASK, f"{MASK}.nan_to_num()"),
                         ("x = x + z", "x = z")], 3, "its own token"),
    "no attention": ([("x = x + z", "x = x")], 1, "Is there attention"),
    "attention sees itself only": ([("tril(k.shape[2] - T)", "eye(T, dtype=torch.bool)"), ("torch.ones(T, k.shape[2], "
                                   "dtype=torch.bool, device=x.device).", "torch.")], 1, "Is there attention"),
    "a window": ([("tril(k.shape[2] - T)", "tril(k.shape[2] - T).triu(-1)")], 3, "does not depend on token"),
    "batch mixed": ([("reshape(B, T, C)), (k, v)", "reshape(B, T, C).roll(1, 0)), (k, v)")], 3, "Sequences of a batch"),
    "heads split by view alone": ([("part.view(B, T, self.n_head, -1).transpose(1, 2)",
                                    "part.reshape(B, self.n_head, T, -1)")], 3, "split and merged by view alone"),
    "heads merged by view alone": ([("z.transpose(1, 2).reshape", "z.reshape")], 3, "split and merged by view alone"),
    "softmax over queries": ([(MASK, MASK.replace("dim=-1", "dim=-2"))], 3, "depends on the later"),
    "dropout": ([("return x + self.mlp.c_proj(h), present", "return x + F.dropout(self.mlp.c_proj(h), 0.5), present")],
                3, "Two calls"),
    "no biases in attention": ([("nn.Linear(config.n_embd, 3 * config.n_embd)",
                                 "nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)")], 4,
                               "biases of Q, K and V"),
    "bias in lm_head": ([("config.vocab_size, bias=False", "config.vocab_size")], 4, "lm_head has no bias"),
    "narrow MLP": ([("nn.Linear(C, 4 * C)", "nn.Linear(C, 3 * C)"), ("nn.Linear(4 * C, C)", "nn.Linear(3 * C, C)")],
                   4, "too few"),
    "no last LayerNorm": ([(', "ln_f": nn.LayerNorm(C)})', "})"), (LN_F, "self.lm_head(x), presents"),
                           ("self.load_state_dict(weights)", "self.load_state_dict(weights, strict=False)")],
                          4, "last LayerNorm"),
    "untied": ([(TIED, "")], 4, "must be the embedding itself"),
    "tied copy": ([(TIED, TIED.replace("wte.weight ", "wte.weight.detach().clone() ").replace(
        "= self.transformer", "= nn.Parameter(self.transformer").replace("clone() ", "clone()) "))], 4,
        "must be the embedding itself"),
    "two Parameters, one memory": ([(TIED, TIED.replace("= self.transformer.wte.weight", "= nn.Parameter("
                                                        "self.transformer.wte.weight)"))], 5, "two Parameters"),
    "untied by load": ([("self.load_state_dict(weights)", "self.lm_head.weight = nn.Parameter(weights["
                         "'lm_head.weight'].clone()); self.load_state_dict(weights)")], 5, "After load()"),
    "residual projections like all": ([(STD, "std=0.02")], 5, "All matrices start"),
    "one square root short": ([("math.sqrt(2 * config.n_layer) if", "math.sqrt(config.n_layer) if")], 5,
                              "two per block"),
    "default initialisation": ([("                nn.init.normal_(parameter, " + STD + ")", "                pass")], 5,
                               "standard deviation 0.02"),
    "biases not zero": ([("nn.init.zeros_(parameter)", "pass")], 5, "exactly 0"),
    "scaled too much": ([(STD, STD.replace("0.02 / math.sqrt(2 * config.n_layer)", "0.002"))], 5, "over all of them"),
    "no scale": ([(" / math.sqrt(q.shape[-1])", "")], 6, "not divided by sqrt(hs)"),
    "scale by the width": ([("math.sqrt(q.shape[-1])", "math.sqrt(C)")], 6, "sqrt(C)"),
    "eps 1e-3": ([("self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(C), Attention(config), nn.LayerNorm(C)",
                   "self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(C, 1e-3), Attention(config), nn.LayerNorm(C, 1e-3)"),
                  ('"ln_f": nn.LayerNorm(C)', '"ln_f": nn.LayerNorm(C, 1e-3)')], 6, "is 0.001"),
    "exact GELU": ([(', approximate="tanh"', "")], 6, "approximation by tanh"),
    "ReLU": ([("F.gelu(", "F.relu("), (', approximate="tanh"', "")], 6, "ReLU"),
    "K, Q, V": ([("q, k, v = (part.view", "k, q, v = (part.view")], 6, "in another order"),
    "heads interleaved": ([(f"(part.view(B, T, self.n_head, -1).transpose(1, 2) for part in {C_ATTN})",
                            "self.c_attn(x).view(B, T, self.n_head, 3, -1).permute(3, 0, 2, 1, 4)")], 6, "In c_attn"),
    "heads in another order": ([("z.transpose(1, 2)", "z.flip(1).transpose(1, 2)")], 6, "comes from attention"),
    "ln_f unused": ([(LN_F, "self.lm_head(x + 0 * self.transformer.ln_f(x)), presents")], 6, "ln_f, is missing"),
    "no positions": ([("self.transformer.wte(ids) + self.transformer.wpe(positions)",
                       "self.transformer.wte(ids) + 0 * self.transformer.wpe(positions)")], 6, "position vectors"),
    "positions from 1": ([("ids.shape[1] > self.n_positions", "ids.shape[1] >= self.n_positions + 1"),
                          ("wpe(positions)", "wpe((positions + 1) % self.n_positions)")], 6, "counted from 0"),
    "post-norm": ([("z, present = self.attn(self.ln_1(x), past)\n        x = x + z",
                    "z, present = self.attn(x, past)\n        x = self.ln_1(x + z)"),
                   ("self.mlp.c_fc(self.ln_2(x))", "self.mlp.c_fc(x)"),
                   ("return x + self.mlp.c_proj(h), present", "return self.ln_2(x + self.mlp.c_proj(h)), present")], 6,
                  "post-norm"),
    "sum with the normalised": ([("x = x + z", "x = self.ln_1(x) + z")], 6, "After attention you add to the normal"),
    "x overwritten by LayerNorm": ([("z, present = self.attn(self.ln_1(x), past)",
                                     "x = self.ln_1(x)\n        z, present = self.attn(x, past)")], 6,
                                   "do not overwrite x"),
    "x overwritten twice": ([("z, present = self.attn(self.ln_1(x), past)",
                              "x = self.ln_1(x)\n        z, present = self.attn(x, past)"),
                             ("h = F.gelu(self.mlp.c_fc(self.ln_2(x))",
                              "x = self.ln_2(x)\n        h = F.gelu(self.mlp.c_fc(x)")], 6,
                            "After attention and after the MLP you add"),
    "no sum after attention": ([("x = x + z", "x = z")], 6, "The sum after attention is missing"),
    "no sum after the MLP": ([("return x + self.mlp.c_proj(h)", "return self.mlp.c_proj(h)")], 6,
                             "The sum after the MLP is missing"),
    "no sums": ([("x = x + z", "x = z"), ("return x + self.mlp.c_proj(h)", "return self.mlp.c_proj(h)")], 6,
                "The sums with the residual stream are missing"),
    "sums doubled": ([("x = x + z", "x = 2 * x + z")], 6, "with both c_proj 0 a block must return its input"),
    "load with gradients": ([(LOAD, COPY)], 6, "put it under torch.no_grad()"),
    "no lm_head": ([(HEAD + TIED, ""), ("self.lm_head(self.transformer.ln_f(x))",
                                        "self.transformer.ln_f(x) @ self.transformer.wte.weight.T")], 6,
                   "no lm_head.weight. Leave it out"),
    "MLP beside attention": ([("x = x + z\n", "x, y = x + z, x\n"), ("self.ln_2(x)", "self.ln_2(y)")], 6,
                             "input. It must read"),
    "same LayerNorm twice": ([("self.mlp.c_fc(self.ln_2(x))", "self.mlp.c_fc(self.ln_1(x) + 0 * self.ln_2(x))")], 6,
                             "comes from the MLP"),
    "bits": ([(LOSS, LOSS + " / math.log(2)")], 7, "in bits"),
    "sum of losses": ([(LOSS, LOSS.replace("targets.flatten()", "targets.flatten(), reduction='sum'"))], 7, "the sum"),
    "shifted twice": ([(LOSS, SHIFTED)], 7, "already shifted"),
    "a detached part": ([("h = F.gelu(self.mlp.c_fc(self.ln_2(x))",
                          "h = F.gelu(self.mlp.c_fc(self.ln_2(x)).detach()")], 7, "gets no gradient"),
    "prompt left out": ([("        return ids\n", "        return ids[:, -n:]\n")], 8, "the prompt (T"),
    "one token short": ([("for _ in range(n):", "for _ in range(n - 1):")], 8, "must return a tensor of the shape"),
    "cache ignored": ([(STEP, "(self(ids), None)")], 8, "saves no work"),
    "cache forgets positions": ([("start = cache[0][0].shape[2] if cache else 0", "start = 0")], 8,
                                "Without the cache the text is right. The positions of new tokens begin at 0 again"),
    "cache of one block": ([("cache[i] if cache else None", "cache[0] if cache else None")], 8, "All blocks read"),
    "cache of the last token": ([("past[0], k]", "past[0][:, :, -1:], k]"), ("past[1], v]", "past[1][:, :, -1:], v]")],
                                8, "Without the cache the text is right. Look at what only a step"),
    "cache of the last step": ([("(k, v)\n\n", "new\n\n"),
                                ("        if past:", "        new = k, v\n        if past:")], 8,
                               "holds only the keys and values of the last step"),
    "cache of the prompt": ([("(k, v)\n\n", "past or (k, v)\n\n")], 8, "holds only the keys and values of the prompt"),
    "cache out of reach": ([("cache[i] if cache else None", "None")], 8, "A new token sees no earlier one"),
    "mask that ignores the cache": ([("tril(k.shape[2] - T)", "tril()")], 8, "Your mask ignores the cache"),
    "is_causal with a cache": ([(MASK + " @ v", "F.scaled_dot_product_attention(q, k, v, is_causal=True)")], 8,
                               "Your mask ignores the cache"),
    "new keys first": ([(K, "torch.cat([k, past[0]], dim=2)")], 8, "new keys before those of the cache, but"),
    "new values first": ([(V, "torch.cat([v, past[1]], dim=2)")], 8, "new values before those of the cache, but"),
    "new keys and values first": ([(K, "torch.cat([k, past[0]], dim=2)"), (V, "torch.cat([v, past[1]], dim=2)"),
                                   ("tril(k.shape[2] - T)", "tril()")], 8, "or you put new keys and values before"),
    "sampled": ([("logits[:, -1:].argmax(dim=-1)", "logits[:, -1].softmax(-1).multinomial(1)")], 8, "are highest for"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_fails_in_the_stage_that_tests_it(name, monkeypatch):
    changes, stage, words = WRONG[name]
    needed = list(capstone.STAGES.items())[:stage]  # the later ones only take time
    monkeypatch.setattr(capstone, "STAGES", dict(needed))
    report = capstone.judge(variant(*changes))
    results = {number: each.result for number, each in enumerate(report.stages, start=1)}
    assert report.first_problem.startswith(f"Stage {stage} ·"), report.first_problem
    assert words in report.first_problem, report.first_problem
    assert results[stage] == "failed" and all(results[n] == "passed" for n in range(1, stage)), results
    assert "stopped with" not in report.first_problem


def test_each_stage_has_its_mistakes():
    assert {stage for _, stage, _ in WRONG.values()} == set(range(1, 9)) and len(WRONG) > 50


def results(attempt):
    return "".join(stage.result[0] for stage in capstone.judge(attempt).stages)  # passed, failed, not tried


def test_a_stage_is_tried_whenever_what_it_needs_is_there():
    assert results(variant(("tril(k.shape[2] - T)", "tril(k.shape[2] - T + 1)"))) == "ppfppfpf"
    assert results(variant((TIED, ""))) == "pppffppp"
    assert results(variant(("return self.run(ids)[0]", "return self.run(ids)[0][:, -1:]"))) == "pfnpnnnn"
    assert results(variant((LOSS, "0"))) == "ppppppfp"


def test_stages_that_need_finite_logits_are_not_tried_without_them():
    report = capstone.judge(variant(("tril(k.shape[2] - T)", "tril(k.shape[2] - T - 1)")))
    assert [stage.result[0] for stage in report.stages] == list("nfnpnnnn")
    assert all("not finite numbers" in report.stages[i].message for i in (0, 2, 4, 5, 6, 7))
    problem, = report.problems
    assert problem == report.first_problem and "everything is masked gives nan" in problem


def test_logits_that_are_finite_in_a_fresh_model_only(monkeypatch):
    first = list(capstone.STAGES.items())[:6]
    monkeypatch.setattr(capstone, "STAGES", dict(first))
    broken = "return self.run(ids)[0] / (self.transformer.ln_f.bias == 0).all().float()"
    report = capstone.judge(variant(("return self.run(ids)[0]", broken)))
    assert [stage.result[0] for stage in report.stages] == list("npfpnf")
    assert "not after the judge has added random numbers" in report.first_problem
    assert "yours are [inf, inf" in report.problems[1] or "-inf" in report.problems[1]


def test_blocks_that_are_not_registered_or_not_their_own_are_recognised(monkeypatch):
    first = list(capstone.STAGES.items())[:4]
    monkeypatch.setattr(capstone, "STAGES", dict(first))
    for blocks, missing in (("[Block(config) for _ in range(config.n_layer)]", 12),
                            ("nn.ModuleList([Block(config)] * config.n_layer)", 11)):
        changes = [(BLOCKS, "None"), ("        self.lm_head =", f"        self.h = {blocks}\n        self.lm_head ="),
                   ("enumerate(self.transformer.h)", "enumerate(self.h)")]
        if missing == 12:  # what is not registered is not initialised either
            changes.append((STD, "std=0.02"))
        report = capstone.judge(variant(*changes))
        assert "nn.ModuleList" in report.stages[0].message and "one block used L times" in report.stages[0].message
        assert f"a whole number of blocks: {missing} of the 12 are missing" in report.stages[3].message
    more = variant((BLOCKS, BLOCKS.replace("config.n_layer", "config.n_layer + 2")))
    assert "2 blocks too many" in capstone.judge(more).stages[3].message
    constant = variant((BLOCKS, BLOCKS.replace("for _", "for i").replace(" for", " for")), ("config.n_positions, C),",
                                                                                           "99, C),"))
    assert "ModuleList" not in capstone.judge(constant).stages[0].message


def test_every_function_is_called_with_gradients_switched_on():
    modes, right = set(), capstone_solution.GPT2

    def noted(name, function):
        def call(*arguments):
            modes.add((name, torch.is_grad_enabled()))
            return function(*arguments)
        return call

    functions = {"build": right, "parameters": lambda model: list(model.parameters()), "loss": right.loss,
                 "logits": lambda model, ids: model(ids), "load": right.load, "generate": right.generate}
    with torch.no_grad():
        report = capstone.judge(Adapter(**{name: noted(name, function) for name, function in functions.items()}))
    assert report.passed and modes == {(name, True) for name in functions}


def test_stage_7_points_to_stage_5(monkeypatch):
    monkeypatch.setattr(capstone, "STAGES", {name: capstone.STAGES[name]
                                             for name in ("tying and initialisation", "one batch overfitted")})
    monkeypatch.setattr(capstone, "FITTED", 0.0)  # no model gets below
    for attempt, is_said in ((variant((STD, "std=0.3")), True), (capstone_solution.GPT2, False)):
        message = capstone.judge(attempt).stages[1].message
        assert ("Stage 5 did not pass; that can be the reason." in message) == is_said, message


def test_a_cache_that_is_left_from_the_call_before_is_recognised():
    left = variant(("        new, cache = ids, None\n", "        new, cache = ids, self.kept\n"),
                   ("        self.n_positions, C", "        self.kept = None\n        self.n_positions, C"),
                   ("                ids = torch.cat([ids, new], dim=1)",
                    "                ids, self.kept = torch.cat([ids, new], dim=1), cache or self.kept"))
    message = capstone.judge(left).stages[7].message
    assert "must match" in message and message.endswith("Is something left of the call before?"), message
    assert "use_cache=True" in message


def test_a_wrong_cache_is_explained_without_load_too(monkeypatch):
    monkeypatch.setattr(capstone, "STAGES", {"text with a cache": capstone.stage_cache})
    report = capstone.judge(variant(("start = cache[0][0].shape[2] if cache else 0", "start = 0"),
                                    ("def load(", "def no_load(")))
    assert "Without the cache the text is right. Look at what only a step" in report.first_problem


def test_the_mistakes_with_a_cache_write_different_texts():
    weights, ids = capstone_reference.weights(capstone.TEXT, seed=24), capstone._ids(capstone.TEXT, 2, 4)
    texts = [capstone_reference.text(weights, capstone.TEXT, ids, 20, **mistake)
             for mistake in ({}, *(mistake for _, mistake in capstone_reference.CACHE_MISTAKES))]
    assert len({tuple(text.flatten().tolist()) for text in texts}) == len(texts)
    right, _ = capstone._greedy(capstone.Subject(Adapter(None, logits=lambda model, ids: capstone_reference.logits(
        weights, capstone.TEXT, ids))), None, ids, 20)
    assert torch.equal(texts[0], right)


def test_a_text_that_ends_the_program_or_never_ends_stops_no_notebook(monkeypatch):
    class Ends(capstone_solution.GPT2):
        def generate(self, *arguments, **options):
            raise SystemExit

    class Endless(capstone_solution.GPT2):
        def generate(self, *arguments, **options):
            while True:
                pass

    monkeypatch.setattr(capstone, "SECONDS", 1)
    model = GPT(capstone.SMALL)
    for attempt, words in ((Ends, "ends the program"), (Endless, "stopped after 1 seconds")):
        text, reason = capstone.try_text(attempt, model, torch.zeros(1, 2, dtype=torch.int64), 3)
        assert text is None and words in reason


def test_try_text_gives_the_text_or_says_why_there_is_none():
    config = capstone.TEXT
    model, ids = GPT(config), torch.tensor([[1, 2, 3]])
    text, reason = capstone.try_text(Adapter(capstone_solution.GPT2), model, ids, 5)
    assert reason is None and torch.equal(text, generate(model, ids, 5, top_k=1))
    for attempt, words in (
            (Adapter(lambda config: None), "returns None so far"), (None, "You hand over None so far"),
            (variant((LOAD, COPY)), "put it under torch.no_grad()"),
            (variant(("def load(", "def no_load(")), "no method load()"),
            (variant((LOAD, "1 / 0")), "ZeroDivisionError"),
            (variant(("        return ids\n", "        return None\n")), "generate() must return a tensor of the")):
        text, reason = capstone.try_text(attempt, model, ids, 5)
        assert text is None and words in reason, reason


def test_a_function_that_is_not_written_yet_is_named(monkeypatch):
    last = list(capstone.STAGES.items())[5:]  # the others only take time
    monkeypatch.setattr(capstone, "STAGES", dict(last))
    for name, without in (("loss", "pnp"), ("load", "npp"), ("generate", "ppn")):
        attempt = variant((f"def {name}(", f"def not_yet_{name}("))
        assert results(attempt) == without
        problem = capstone.judge(attempt).first_problem
        assert f"no method {name}()" in problem and "adapter" in problem


def test_an_error_says_where_and_the_other_stages_go_on():
    report = capstone.judge(variant((LOSS, "1 / 0")))
    assert report.stages[6].message.startswith("Your code stopped with ZeroDivisionError")
    assert results(variant(("def __init__(self, config):\n        super().__init__()\n        self.n_positions",
                            "def __init__(self, config):\n        config.nothing"))) == "fnnnnnnn"


def test_odd_answers_are_described():
    right = capstone_solution.GPT2
    for attempt, words in (
            (Adapter(right, logits=lambda model, ids: model.run(ids)), "yours returns a tuple of 2 items"),
            (Adapter(right, logits=lambda model, ids: model(ids).tolist()), "yours returns a list of 1"),
            (Adapter(right, loss=lambda model, ids, targets: model.loss(ids, targets).item()), "returns a float"),
            (Adapter(right, loss=lambda model, ids, targets: model.loss(ids, targets)[None]), "tensor of shape (1,)"),
            (Adapter(right, parameters=lambda model: ["a"]), "an object of type str"),
            (Adapter(right, parameters=lambda model: []), "empty list"),
            (Adapter(right, generate=lambda model, ids, n, use_cache: model.generate(ids, n).tolist()), "a list of 2"),
            (right(capstone.SMALL), "Hand over the class"), (Adapter(right(capstone.SMALL)), "No model was built"),
            (17, "Hand over the class")):
        text = nb11.gpt2.judge(attempt).text
        assert words in text, text


def test_a_bigram_model_is_no_gpt2():
    class Bigram:
        def __init__(self, config):
            self.table = torch.zeros(config.vocab_size, config.vocab_size, requires_grad=True)

    report = capstone.judge(Adapter(Bigram, parameters=lambda model: [model.table],
                                    logits=lambda model, ids: model.table[ids]))
    assert not report.passed and report.stages[0].result == "failed"


# --- somebody else's model -------------------------------------------------------------------------------------------


def load_transformers(model, weights):
    for name, tensor in weights.items():
        own = model.get_parameter(name)
        own.data.copy_(tensor.T if own.shape != tensor.shape or "c_proj" in name and tensor.ndim == 2 else tensor)


def their_gpt2(config):
    from transformers import GPT2Config, GPT2LMHeadModel
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    return GPT2LMHeadModel(GPT2Config(**{name: getattr(config, name) for name in names}, embd_pdrop=0, attn_pdrop=0,
                                      resid_pdrop=0))


COURSE = Adapter(GPT, loss=lambda model, ids, targets: model(ids, targets),
                 load=lambda model, weights: model.load_state_dict(weights),
                 generate=lambda model, ids, n, use_cache: generate(model, ids, n, top_k=1, use_cache=use_cache))


class Renamed(GPT):
    loss, load = GPT.forward, GPT.load_state_dict

    def generate(self, ids, n, use_cache):
        return generate(self, ids, n, top_k=1, use_cache=use_cache)


@pytest.mark.parametrize("attempt, stages", [(COURSE, 8), (Renamed, 2)], ids=["adapter", "subclass"])
def test_the_courses_own_model_is_recognised(attempt, stages, monkeypatch):
    monkeypatch.setattr(capstone, "STAGES", dict(list(capstone.STAGES.items())[:stages]))
    verdict = nb11.gpt2.judge(attempt)
    assert not verdict.solved and "correct, but this is the course's own model" in verdict.text, verdict.text


def test_the_model_of_transformers_is_recognised(monkeypatch):
    monkeypatch.setattr(capstone, "STAGES", {"equal logits": capstone.stage_equal})

    def text(model, ids, n, use_cache):
        return model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, use_cache=use_cache,
                              pad_token_id=0, eos_token_id=None)

    adapter = Adapter(their_gpt2, logits=lambda model, ids: model(ids).logits, load=load_transformers, generate=text,
                      loss=lambda model, ids, targets: torch.nn.functional.cross_entropy(
                          model(ids).logits.flatten(0, 1), targets.flatten()))
    verdict = nb11.gpt2.judge(adapter)
    assert not verdict.solved and "correct, but this is the transformers library's model" in verdict.text, verdict.text


# --- the exercise ----------------------------------------------------------------------------------------------------


def test_a_check_shows_a_table_and_then_every_message_in_full(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    shown = []
    monkeypatch.setattr(capstone, "show_table", lambda rows, caption: shown.append((rows, caption)))
    nb11.gpt2.check(variant(*WRONG["no scale"][0], *WRONG["bits"][0]))
    (rows, caption), = shown
    assert [row["result"] for row in rows] == ["passed"] * 5 + ["failed"] * 2 + ["passed"]
    assert all((row["what was found"] == "see below") == (row["result"] == "failed") for row in rows)
    assert caption == "6 of 8 stages passed"
    first, second = capsys.readouterr().out.strip().split("\n\n")
    report, = capstone._reports
    assert "not yet. Stage 6 · equal logits: " in first and first.endswith(report.stages[5].message)
    assert second == f"Stage 7 · one batch overfitted: {report.stages[6].message}"
    report.show()
    assert capsys.readouterr().out == "\n\n".join(report.problems) + "\n" and len(report.problems) == 2
    nb11.gpt2.check(lambda config: None)
    assert len(shown) == 2 and "returns None" in capsys.readouterr().out


def test_the_solution_is_shown_as_a_whole_file(monkeypatch):
    shown = []
    monkeypatch.setattr(capstone, "show_source", shown.append)
    nb11.gpt2.show_solution()
    assert shown == [capstone_solution]


def test_a_check_takes_less_than_ten_seconds():
    start = time.perf_counter()
    capstone.judge(capstone_solution.GPT2)
    assert time.perf_counter() - start < 10


def test_a_text_is_compared_up_to_the_first_token_that_rounding_may_decide():
    right = torch.tensor([[5, 1, 2, 3, 4]])
    capstone._check_text(torch.tensor([[5, 1, 2, 9, 9]]), right, 1, 2, "generate()")
    with pytest.raises(capstone.NotYet, match="position 3"):
        capstone._check_text(torch.tensor([[5, 1, 2, 9, 9]]), right, 1, 3, "generate()")

    def tied_from_the_third_step(model, ids):  # the two best tokens are equally likely
        logits = torch.zeros(*ids.shape, 7)
        logits[..., 1] = 1.0
        logits[..., 2] = 1.0 if ids.shape[1] >= 4 else 0.5
        return logits

    subject = capstone.Subject(capstone.Adapter(None, logits=tied_from_the_third_step))
    text, certain = capstone._greedy(subject, None, torch.tensor([[0, 0]]), 5)
    assert certain == 2 and text.shape == (1, 7)
