"""The table in docs/models.md says what the tests do, and no more."""

import ast
from pathlib import Path

from family_cells import CELLS, DOES_NOT, table
from tiny_families import TINY

from cinema_verl.data.families import FAMILIES

HERE = Path(__file__).parent


def test_the_table_is_made_from_the_tests():
    page = (HERE.parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    between = page.split("made by tests/fixtures/family_cells.py -->\n")[1].split("<!-- end -->")[0]
    assert between.strip().splitlines() == table()


def test_every_column_is_a_test_and_every_test_a_column():
    tree = ast.parse((HERE / "test_families.py").read_text(encoding="utf-8"))
    tests = [each.name for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")]
    assert tests == list(CELLS)
    assert {test for _, test in DOES_NOT} <= set(tests)


def test_every_family_that_is_let_through_has_a_row_or_is_a_variant_of_one():
    rows = {FAMILIES[family].name for family in TINY}
    assert {family.name.split(" (")[0] for family in FAMILIES.values()} == rows
