"""The ledger: what it accepts, and what readers and programs find in its output."""

import json

import nbformat
import pytest

from helpers.course import claims
from helpers.course.claims import MIME, Ledger
from scripts import claims_table


def test_rows_are_sorted_and_readable_by_a_program(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "display", lambda data, raw: shown.append(data))
    ledger = Ledger("02")
    ledger.add(4, "124 < 163", "Model 5", False)
    ledger.add(3, "the sum", "Model 5", True)
    ledger.add(22, "share <0.5>", "fresh models", "depends", "on width & depth")
    ledger.show()
    rows = shown[0][MIME]["claims"]
    assert [row["number"] for row in rows] == [3, 4, 22]
    assert [row["verdict"] for row in rows] == ["holds", "does not hold", "depends"]
    assert "share &lt;0.5&gt;" in shown[0]["text/html"] and "depends: on width &amp; depth" in shown[0]["text/html"]
    assert "does not hold" in shown[0]["text/plain"]


@pytest.mark.parametrize(
    "row, message",
    [
        ((999, "x", "y", True), "not in STATEMENTS"),
        ((3, "x", "y", "perhaps"), "perhaps"),
        ((3, "x", "y", "depends"), "on what"),
        ((3, "x", "y", "inconclusive"), "smallest"),
        ((3, "x", "y", "inconclusive", "too few seeds"), "smallest"),
        ((3, "x", "y", "inconclusive", "", "a small one"), "has no number"),
        ((3, "x", "y", True, "", "", "the GPU half"), "holds, although the GPU half was not measured"),
        ((3, "x", "y", "depends", "on the size", "", "the GPU half"), "depends, although the GPU half"),
        ((3, "x", "y", "inconclusive", "", "0.05 nats", "the GPU half"), "although the GPU half"),
    ],
)
def test_incomplete_rows_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        Ledger("02").add(*row)


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (("inconclusive", "too few seeds", "0.05 nats"),
         "inconclusive: too few seeds; an effect of 0.05 nats would have been seen"),
        (("inconclusive", "", "0.05 nats"), "inconclusive: an effect of 0.05 nats would have been seen"),
        (("inconclusive", "", "a rule kept by 5 of 5 samples"),
         "inconclusive: a rule kept by 5 of 5 samples would have been seen"),
        (("unmeasured here", "needs a GPU", "", "the GPU half"), "unmeasured here: the GPU half; needs a GPU"),
        ((False, "20 times slower", "", "the GPU half"),
         "does not hold: 20 times slower; unmeasured here: the GPU half"),
        ((True,), "holds"),
    ],
)
def test_the_shown_verdict_names_what_was_not_seen_or_not_measured(monkeypatch, arguments, shown):
    outputs = []
    monkeypatch.setattr(claims, "display", lambda data, raw: outputs.append(data))
    ledger = Ledger("02")
    ledger.add(3, "x", "y", *arguments)
    ledger.show()
    assert shown in outputs[0]["text/html"] and f"verdict: {shown}" in outputs[0]["text/plain"].splitlines()[-1]
    row = outputs[0][MIME]["claims"][0]
    assert (row["smallest"], row["unmeasured"], row["source"]) == (*(*arguments, "", "", "")[2:4], "S1 7.2")
    assert claims_table.verdict(row).replace("**", "") == shown


def test_the_table_names_the_article_sections_if_there_are_any(monkeypatch):
    outputs = []
    monkeypatch.setattr(claims, "display", lambda data, raw: outputs.append(data["text/html"]))
    for number in (2, 31):
        ledger = Ledger("02")
        ledger.add(number, "x", "y", True)
        ledger.show()
    assert "S0 2.3, S1 3.2" in outputs[0] and claims.ARTICLES in outputs[0]
    assert "Article" not in outputs[1] and claims.OWN not in outputs[1]


def test_rows_that_older_versions_stored_are_still_read():
    row = {"number": 3, "statement": "x", "measured": "y", "measured_on": "z", "verdict": "holds",
           "condition": "rounded"}
    assert claims.conditions_of(row) == "rounded" and claims_table.verdict(row) == "**holds**: rounded"
    assert claims.Claim(**row).smallest == claims.Claim(**row).unmeasured == ""


def test_a_claim_has_its_article_sections_or_is_the_courses_own():
    assert sorted(claims.SOURCES) == list(range(1, 31)) and all(claims.SOURCES.values())
    assert claims.source_of(2) == "S0 2.3, S1 3.2" and claims.source_of(31) == claims.OWN


def test_a_cell_may_run_again_and_its_row_is_replaced():
    ledger = Ledger("02")
    ledger.add(3, "x", "y", True)
    ledger.add(3, "z", "y", False)
    assert [(row.measured, row.verdict) for row in ledger.claims] == [("z", "does not hold")]


def test_every_claim_has_a_statement():
    assert sorted(claims.STATEMENTS) == list(range(1, 37)) and all(claims.STATEMENTS.values())


def test_a_recorded_measurement_is_shown_with_its_origin(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "RECORD", tmp_path / "claims.json")
    before = Ledger("02")
    before.add(22, "a stand-in says 0.1", "the small GPT-2", "unmeasured here")
    assert before.claims[0].condition == "" and claims.recorded(22) is None
    row = {"measured": "0.9", "measured_on": "GPT-2 small", "date": "2026-01-02", "verdict": "holds", "condition": ""}
    claims.RECORD.write_text(json.dumps({"22": row}), encoding="utf-8")
    after = Ledger("02")
    after.add(22, "a stand-in says 0.1", "the small GPT-2", "unmeasured here")
    assert after.claims[0].measured == "a stand-in says 0.1. Recorded: 0.9"
    assert after.claims[0].condition == "recorded on GPT-2 small, 2026-01-02: holds"
    assert after.claims[0].verdict == "unmeasured here"


def test_nothing_is_recorded_from_a_stand_in(offline, capsys):
    assert claims_table.main(["--record"]) == 1
    assert "nothing was recorded" in capsys.readouterr().err


def test_recording_keeps_settled_rows_only(monkeypatch, tmp_path):
    cells = [nbformat.v4.new_code_cell("claims")]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "04_x.ipynb")
    rows = [{"number": 20, "verdict": "holds"}, {"number": 27, "verdict": "unmeasured here"}]

    def execute(notebook, folder):
        notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {MIME: {"claims": rows}})]

    monkeypatch.setattr(claims_table.assets, "gpt2_weights", lambda: claims_table.assets.Asset(tmp_path, "GPT-2 small"))
    monkeypatch.setattr(claims_table.run_notebooks, "execute", execute)
    assert claims_table.record(tmp_path, tmp_path / "claims.json") == 0
    written = json.loads((tmp_path / "claims.json").read_text())
    assert list(written) == ["20"] and written["20"]["date"]
