"""The ledger: what it accepts, and what a reader and a program find in the output."""

import pytest

from helpers import claims
from helpers.claims import MIME, Ledger


def test_rows_are_sorted_and_readable_by_a_program(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
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
    "row, said",
    [
        ((999, "x", "y", True), "not in STATEMENTS"),
        ((3, "x", "y", "perhaps"), "perhaps"),
        ((3, "x", "y", "depends"), "on what"),
    ],
)
def test_rows_that_say_nothing_are_refused(row, said):
    with pytest.raises(ValueError, match=said):
        Ledger("02").add(*row)


def test_a_claim_has_one_row():
    ledger = Ledger("02")
    ledger.add(3, "x", "y", True)
    with pytest.raises(ValueError, match="already"):
        ledger.add(3, "x", "y", False)


def test_statements_are_of_known_claims():
    assert set(claims.STATEMENTS) <= set(range(1, 31)) and all(claims.STATEMENTS.values())
