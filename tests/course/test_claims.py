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
    ],
)
def test_incomplete_rows_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        Ledger("02").add(*row)


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
