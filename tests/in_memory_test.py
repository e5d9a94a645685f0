# SPDX-License-Identifier: Apache-2.0
"""Texts and labels that a program holds in memory, in every form of theirs."""

import numpy as np
import pytest

import processors
from processors import in_memory

ROWS = [("b", "a"), (), ("c",)]
CELLS = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]])


def as_sets(result):
  names, rows = result
  return names, [set(row) for row in rows]


EXPECTED = (["a", "b", "c"], [set(row) for row in ROWS])


@pytest.mark.parametrize("labels", [
    [list(row) for row in ROWS], ROWS, [set(row) for row in ROWS],
    [frozenset(row) for row in ROWS], [np.array(row, str) for row in ROWS],
    np.array([list(row) for row in ROWS], object), (row for row in ROWS)])
def test_names(labels):
  assert as_sets(in_memory.read_labels(labels)) == EXPECTED


@pytest.mark.parametrize("labels", [
    CELLS, CELLS.astype(bool), CELLS.astype(np.float32), CELLS.tolist(),
    [tuple(row) for row in CELLS.astype(bool).tolist()], list(CELLS)])
def test_cells(labels):
  assert as_sets(in_memory.read_labels(labels, ["a", "b", "c"])) == EXPECTED
  names, rows = in_memory.read_labels(labels)
  assert names == ["0", "1", "2"]
  assert rows == [("0", "1"), (), ("2",)]
  np.testing.assert_array_equal(in_memory.to_matrix(rows, names), CELLS == 1)


def test_sparse():
  sparse = pytest.importorskip("scipy.sparse")
  for kind in (sparse.csr_matrix, sparse.coo_matrix, sparse.csc_matrix,
               sparse.lil_matrix):
    labels = kind(CELLS)
    assert as_sets(in_memory.read_labels(labels, ["a", "b", "c"])) == EXPECTED
    np.testing.assert_array_equal(labels.toarray(), CELLS)
  twice = sparse.coo_matrix(([1, 1], ([0, 0], [1, 1])), (1, 2))
  with pytest.raises(ValueError, match="number 0 has 2 for label '1'"):
    in_memory.read_labels(twice)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_tables(library):
  module = pytest.importorskip(library)
  make = module.table if library == "pyarrow" else module.DataFrame
  table = make({"b": CELLS[:, 1], "a": CELLS[:, 0], "c": CELLS[:, 2],
                "text": ["x", "y", "z"]})
  assert in_memory.is_table(table)
  cells = in_memory.columns(table, ["b", "a", "c"], "labels")
  assert as_sets(in_memory.read_labels(cells)) == (["b", "a", "c"], EXPECTED[1])
  # Columns in another order are taken by their names.
  assert as_sets(in_memory.read_labels(cells, ["a", "b", "c"])) == EXPECTED
  with pytest.raises(ValueError, match="columns are 'b', 'a', 'c'"):
    in_memory.read_labels(cells, ["a", "b", "d"])
  text = in_memory.column(table, "text", "text")
  assert in_memory.read_texts(text) == ["x", "y", "z"]
  assert not in_memory.is_table(text)
  with pytest.raises(ValueError, match="column 'text' holds 'x'"):
    in_memory.read_labels(table)
  with pytest.raises(ValueError, match="text='texts' is no column.*text"):
    in_memory.column(table, "texts", "text")
  lists = make({"labels": [list(row) for row in ROWS]})
  assert as_sets(in_memory.read_labels(lists["labels"])) == EXPECTED


def test_missing_cells_of_a_table():
  pandas = pytest.importorskip("pandas")
  table = pandas.DataFrame({"a": [1, None, 0]})
  with pytest.raises(ValueError, match="number 1 has nan for label 'a'"):
    in_memory.read_labels(table)
  for texts in (["x", None], pandas.Series(["x", None]),
                pandas.Series(["x", float("nan")], dtype=object)):
    with pytest.raises(ValueError, match="number 1 is missing"):
      in_memory.read_texts(texts)


@pytest.mark.parametrize("texts", [
    ["x", ("y", "z")], ("x", ["y", "z"]), (text for text in ["x", ("y", "z")]),
    np.array(["x", ("y", "z")], object)])
def test_texts(texts):
  found = in_memory.read_texts(texts)
  assert found == ["x", ("y", "z")]
  assert [type(text) for text in found] == [str, tuple]
  assert type(in_memory.read_texts(np.array(["x"]))[0]) is str


@pytest.mark.parametrize("texts, message", [
    ("x", "not one text"), (b"x", "not one text"), (3, "not int"),
    ({"x": 1}, "not dict"), ({"x"}, "not set"), ([b"x"], "number 0 is bytes"),
    ([("x", "y", "z")], "number 0 is tuple"),
    ([("x", None)], "number 0 is tuple")])
def test_what_is_no_text(texts, message):
  with pytest.raises(ValueError, match=message):
    in_memory.read_texts(texts)


@pytest.mark.parametrize("labels, names, message", [
    ("x", None, "not str"), ({"x": 1}, None, "not dict"), (5, None, "not int"),
    (["x"], None, r"number 0 is 'x'.*write \['x'\]"),
    ([["x"], None], None, "number 1 is missing"),
    ([[("x", "y")]], None, "number 0 has .* which is tuple"),
    ([["x"], ["y\n"]], ["x"], "number 1 has label 'y'.*one of the 1 labels"),
    ([["x\ny"]], None, "line break"),
    ([[0, 1], [0]], None, "different numbers of columns"),
    ([[0, 1]], ["a"], "2 columns for 1 labels"),
    (np.array([[0, -1]]), None, "has -1 for label '1'"),
    (np.array([["a", "b"]]), None, "its cells must be 0 and 1"),
    (CELLS, ["a", "b", "a"], "label 'a' appears twice"),
    (CELLS, "abc", "label_names must be a list"),
    (CELLS, [1, 2, 3], "1 is int"), (CELLS, [], "label_names is empty")])
def test_what_is_no_labels(labels, names, message):
  with pytest.raises(ValueError, match=message):
    in_memory.read_labels(labels, names)


def test_the_processor():
  processor = in_memory.InMemoryProcessor(["b", "a"], {
      "train": (["x", ("y", "z")], [("a",), ()]), "test": (["u"], None)})
  assert processors.get_labels(processor, None) == ["b", "a"]
  examples = list(processors.get_examples(processor, "train", None))
  assert [(example.guid, example.text_a, example.text_b, example.labels)
          for example in examples] == [
              ("train-0", "x", None, ("a",)), ("train-1", "y", "z", ())]
  example, = processors.get_examples(processor, "test", None)
  assert example.labels is None


def test_rows_that_pandas_would_put_together_otherwise():
  pandas = pytest.importorskip("pandas")
  texts = pandas.Series(["one", "two", "three"], index=[7, 5, 9])
  labels = pandas.DataFrame({"a": [1, 0, 0]}, index=[7, 5, 9])
  in_memory.check_index(texts, labels)
  in_memory.check_index(list(texts), labels)
  in_memory.check_index(texts, labels.reset_index(drop=True))  # split by hand
  with pytest.raises(ValueError, match="^texts of dev: texts and labels have "
                     "the same index in different orders"):
    in_memory.check_index(texts, labels.sort_index(), "texts of dev")
