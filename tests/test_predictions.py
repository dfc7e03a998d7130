import csv

import pytest
import torch

from modeling_mm_orient.runs.predictions import WRITERS, harmless, prediction_lines

from .helpers import TASKS


@pytest.mark.parametrize(
    "cell, written",
    [
        ("=1+1.png", "'=1+1.png"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+49 170", "'+49 170"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("\t=1", "'\t=1"),
        ("-12", "-12"),
        ("+3.5", "+3.5"),
        ("a=b", "a=b"),
        (-0.5, -0.5),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(cell, written):
    assert harmless(cell) == written


def test_a_table_of_predictions_has_no_formulas(tmp_path):
    logits = {"offensive": torch.randn(2, 2), "emotions": torch.randn(2, 3), "intensity": torch.tensor([-1.0, 2.0])}
    tasks = [{"kind": "single_label", "labels": [], **task} for task in TASKS]
    WRITERS[".csv"](tmp_path / "p.csv", prediction_lines(["=HYPERLINK()", "ok"], logits, tasks), tasks)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["'=HYPERLINK()", "ok"]
    assert float(rows[0]["intensity"]) == -1.0
