"""The ledgers' verdicts against independent computations by Hugging Face's models, by numpy and from the files."""

import re

import numpy as np
import pytest
import tiktoken
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.course import claims
from helpers.machine import assets
from scripts import articles, claims_table
from scripts.ledgers import home_of, verdict_texts

ROWS = {row["number"]: row for _, row in claims_table.stored_claims(assets.ROOT)}
SHAPES = {"gpt2": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "xl": (48, 25, 1600)}


@pytest.fixture(scope="module")
def counts():
    """{size: {name: elements}} of all parameters of Hugging Face's four sizes, each counted once."""
    counted = {}
    for size, (n_layer, n_head, n_embd) in SHAPES.items():
        with torch.device("meta"):
            model = GPT2LMHeadModel(GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd))
        counted[size] = {name: p.numel() for name, p in model.named_parameters() if name != "lm_head.weight"}
    return counted


def share(names, *parts):
    return sum(number for name, number in names.items() if any(part in name for part in parts)) / sum(names.values())


def verdict(number):
    return ROWS[number]["verdict"]


def test_every_claim_has_one_row_with_a_measurement_and_its_model_or_text():
    assert sorted(ROWS) == list(range(1, 37))
    assert all(row["measured"] and row["measured_on"] for row in ROWS.values())


def test_totals(counts):
    totals = [sum(names.values()) for names in counts.values()]
    right = [f"{total:,}" in ROWS[9]["measured"] for total in totals]
    assert all(right) and verdict(9) == "holds"
    assert [total // 10**6 for total in totals[:3]] == [124, 354, 774] and totals[3] // 10**8 == 15
    assert verdict(4) == ("holds" if totals[0] // 10**6 == 163 else "does not hold") == "does not hold"


def test_shares_of_attention_and_mlp(counts):
    attention = [int(100 * share(names, ".attn.")) for names in counts.values()]
    mlp = [int(100 * share(names, ".mlp.")) for names in counts.values()]
    assert (attention, mlp) == ([22, 28, 30, 31], [45, 56, 60, 63]) and verdict(10) == "holds"
    ratios = [share(names, ".mlp.") / share(names, ".attn.") for names in counts.values()]
    assert np.allclose(ratios, 2, atol=0.01) and verdict(11) == "holds"


def test_layernorm_and_embeddings(counts):
    norms = {size: {n: k for n, k in names.items() if ".ln_" in n} for size, names in counts.items()}
    assert min(share(names, ".ln_") for names in counts.values()) > 1e-4 and verdict(12) == "does not hold"
    assert max(sum(names.values()) for names in norms.values()) > 150_000 and verdict(13) == "does not hold"
    assert len({share(names, ".wte.", ".wpe.") for names in counts.values()}) == 4 and verdict(14) == "does not hold"
    for names in (*norms.values(), *counts.values()):
        biases = sum(number for name, number in names.items() if name.endswith("bias"))
        assert (2 * biases == sum(names.values())) == (names in norms.values())
    assert verdict(15) == "holds"


def test_name_filters_and_growth(counts):
    for names in counts.values():
        fits = [[p for p in (("attn",), ("mlp", "fc"), ("ln",)) if any(x in name for x in p)] for name in names]
        left = [name for name, fitting in zip(names, fits) if len(fitting) != 1]
        assert sorted(left) == ["transformer.wpe.weight", "transformer.wte.weight"]
    assert any("mlp" in name and "fc" not in name for name in counts["gpt2"])
    assert verdict(16) == "holds" and verdict(29) == "holds"


def test_layers_and_qkv_of_the_real_weights(real_files):
    weights = load_file(real_files / "gpt2-small" / "attention_fp16.safetensors")
    fused = [weights[f"transformer.h.{i}.attn.c_attn.weight"].astype(np.float64) for i in range(12)]
    q, k, v = ([np.std(part) for part in parts] for parts in zip(*(np.split(matrix, 3, axis=1) for matrix in fused)))
    assert q[11] < q[0] and k[11] < k[0] and v[11] > v[0]  # some narrow, one widens
    assert verdict(18) == "depends"
    pooled = [np.std(np.concatenate([np.split(m, 3, axis=1)[i] for m in fused])) for i in range(3)]
    assert pooled[2] == min(pooled) and all(v[i] > max(q[i], k[i]) for i in (9, 10, 11))
    assert verdict(19) == "depends"
    positions = np.abs(weights["transformer.wpe.weight"].astype(np.float64))
    assert (positions < 0.05).mean() > 0.9 and positions.std() > 0.1
    assert verdict(17) == "unmeasured here" and ROWS[17]["unmeasured"]  # the token embedding is not in the file


def test_tokens_of_the_book(real_files, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_files / "tiktoken"))
    text = (real_files / "gulliver" / "829-0.txt").read_text(encoding="utf-8-sig")
    body = re.split(r"\*\*\*(?:START|END) OF[^\n]*\*\*\*", text)[1].strip()
    number = len(tiktoken.get_encoding("gpt2").encode_ordinary(body))
    assert f"{number:,} tokens cleaned" in ROWS[21]["measured"]
    assert verdict(21) == ("holds" if abs(number - 158_000) < 1_000 else "does not hold")


def test_a_stand_in_settles_nothing():
    for row in ROWS.values():
        if "stand-in" in row["measured_on"] or "course's GPT-2" in row["measured_on"]:
            assert row["verdict"] in ("unmeasured here", "to come"), row["number"]


# --- what each verdict needs -----------------------------------------------------------------------------------------

NUMBERS = range(1, 37)
SILENT = re.compile(r"\bunmeasured\b|\bnot measured\b|\bunknown\b")


def shown(row):
    return f"{row['verdict']}: {claims.conditions_of(row)}"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stored_row_is_one_that_the_ledger_accepts_today(number):
    row = ROWS[number]
    assert {"smallest", "unmeasured", "source"} <= set(row), "stored by an older version: run the notebook again"
    fields = ("measured", "measured_on", "verdict", "condition", "smallest", "unmeasured")
    claims.Ledger("test").add(number, *(row[field] for field in fields))
    assert row["source"] == claims.source_of(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_open_verdict_says_what_would_have_been_seen_or_what_is_missing(number):
    row = ROWS[number]
    if row["verdict"] == "inconclusive":
        assert re.search(r"\d", row.get("smallest", "")), "the smallest effect"
    if row["verdict"] == "depends":
        assert row["condition"] and not re.search(r"^not seen|for no other", row["condition"]), "a null result"
    if row["verdict"] == "unmeasured here":
        assert claims.conditions_of(row), "what is missing"


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_row_did_not_measure_is_in_its_verdict(number):
    row = ROWS[number]
    if SILENT.search(f"{row['measured']} {row['measured_on']} {row['condition']}"):
        assert "unmeasured" in shown(row) and row["verdict"] != "holds", shown(row)


@pytest.mark.parametrize("number", NUMBERS)
def test_no_row_rests_on_the_words_of_another(number):
    row = ROWS[number]
    assert not re.search(r"\b(claim|row) \d", f"{row['measured']} {row['condition']} {row.get('unmeasured', '')}")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_page_of_claims_links_each_to_its_articles_and_its_cell(number):
    text = (assets.ROOT / "CLAIMS.md").read_text(encoding="utf-8")
    (own,) = re.findall(rf"(?ms)^### Claim {number}\n(.*?)(?=^##|\Z)", text)
    home = home_of(assets.ROOT, number)
    assert f"#cell-id={home.cell}), cell `{home.cell}`" in own and home.path.name in own
    assert all(f"[{name}](docs/articles.md#{name[:2].lower()})" in own for name in claims.SOURCES.get(number, ()))
    assert number in claims.SOURCES or f"- From: {claims.OWN}\n" in own


# --- docs/articles.md ------------------------------------------------------------------------------------------------

SECTIONS = {
    "S0": "1 2.1 2.2 2.3 3.1 3.2 4.1 4.2 4.3 4.4 5.1 5.2 5.3 5.4 6 7 8",
    "S1": "2.1 2.2 3.1 3.2 4.1 4.2 5.1 5.2 6.1 6.2 7.1 7.2 8.1 8.2",
    "S2": "3.1 3.2 3.3 4.1 4.2 4.3 4.4 5.1 5.2 6.1 6.2 6.3 7.1 7.2 7.3",
    "S3": "2.1 2.2 3.1 3.2 4.1 4.2 5.1 5.2 6.1 6.2 6.3 7.1 7.2 7.3",
    "S4": "1 2.1 2.2 3.1 3.2 3.3 3.4 4.1 4.2 4.3 5.1 5.2 5.3 6.1 6.2 6.3 6.4 7 8",
}
PARTS = [(name, part) for name, parts in articles.ARTICLES.items() for part in parts]


def test_every_section_of_the_articles_has_a_row_in_its_order():
    for name, sections in SECTIONS.items():
        assert list(dict.fromkeys(part.section for part in articles.ARTICLES[name])) == sections.split(), name
    assert list(articles.ARTICLES) == list(SECTIONS) == list(articles.TITLES)


def test_every_claim_of_the_articles_stands_at_its_sections():
    found = {}
    for name, part in PARTS:
        found.setdefault(part.claim, set()).add(f"{name} {part.section}")
    for number, sections in claims.SOURCES.items():
        assert set(sections) <= found[number], number
    assert set(found) - {None} == set(claims.SOURCES)


@pytest.mark.parametrize("name, part", PARTS)
def test_a_row_names_cells_that_exist_and_a_word_with_its_reason(name, part):
    places = articles.places(part, assets.ROOT)  # raises an error for a cell that does not exist
    assert places and all(place.heading for place in places)
    assert (part.claim is None) == (part.word in ("taught", "shown", "open")) and (part.word != "open" or part.note)


def test_the_page_repeats_the_stored_verdicts():
    lines = (assets.ROOT / "docs" / "articles.md").read_text(encoding="utf-8").splitlines()
    for number in claims.SOURCES:
        own = [line for line in lines if f"[claim {number}](../CLAIMS.md#claim-{number})" in line]
        assert own and all(f"| **{verdict_texts(ROWS[number])[0]}**" in line for line in own), number
    assert any("158,000" in line and "144,937" in line for line in lines)


@pytest.mark.parametrize("verdict, word, text", [
    ("holds", "confirmed", "c"), ("does not hold", "corrected", "m; c"), ("depends", "corrected", "depends: c"),
    ("inconclusive", "open", "inconclusive: c; an effect of 1 nat would have been seen"),
    ("unmeasured here", "open", "unmeasured here: c"),
])
def test_a_verdict_in_the_words_of_the_page(verdict, word, text):
    row = {"verdict": verdict, "measured": "m", "condition": "c", "smallest": "1 nat" if word == "open" else ""}
    assert verdict_texts(row) == (word, text if verdict != "unmeasured here" else
                                  "unmeasured here: c; an effect of 1 nat would have been seen")


def test_an_outdated_page_of_the_articles_is_noticed(tmp_path, capsys):
    for name in ("notebooks", "docs"):
        (tmp_path / name).mkdir()
    for path in [*(assets.ROOT / "notebooks").glob("[0-9]*.ipynb"), assets.ROOT / "README.md"]:
        (tmp_path / path.relative_to(assets.ROOT)).write_bytes(path.read_bytes())
    assert claims_table.main([], tmp_path) == 0 == claims_table.main(["--check"], tmp_path)
    page = tmp_path / "docs" / "articles.md"
    page.write_text(page.read_text(encoding="utf-8").replace("**corrected**", "**confirmed**", 1), encoding="utf-8")
    capsys.readouterr()
    assert claims_table.main(["--check"], tmp_path) == 1
    assert "docs/articles.md is out of date" in capsys.readouterr().out
