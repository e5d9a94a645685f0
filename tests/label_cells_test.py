# SPDX-License-Identifier: Apache-2.0
"""Tests of what cells of label columns mean, as people's files have them.

A table of small files: each is read as its writer meant it, or refused with
the line and a way on.
"""

import json
import os

import hypothesis
from hypothesis import strategies as st
import pytest

import processors
from processors import label_cells
from processors import label_names


CSV_HEAD = "text,labels\n"


def write(folder, **files):
  """Writes train_csv="..." as train.csv and so on; returns the folder."""
  for name, content in files.items():
    path = os.path.join(str(folder), name.replace("_", "."))
    with open(path, "w", encoding="utf-8", newline="") as stream:
      stream.write(content)
  return str(folder)


def column(cells):
  """A train.csv whose label column has these cells, quoted."""
  return CSV_HEAD + "".join(
      'text %d,"%s"\n' % (number, cell.replace('"', '""'))
      for number, cell in enumerate(cells, 1))


def read(task, data_dir, part="train", **options):
  """(labels, [labels of each text]) as a run reads them."""
  processor = processors.create_processor(task, options=options)
  labels = processors.get_labels(processor, data_dir)
  examples = processors.get_examples(processor, part, data_dir)
  return labels, [example.labels for example in examples]


def refusal(function, *arguments, **options):
  """The one sentence of the ValueError that must come."""
  with pytest.raises(ValueError) as raised:
    function(*arguments, **options)
  message = str(raised.value)
  assert len(message.splitlines()) == 1 and message.endswith(".")
  assert not message.endswith("..") and len(message) < 1000
  return message


# Cells that hold lists.


@pytest.mark.parametrize("cells, expected", [
    # Python, as pandas writes a column of lists.
    (["['sports', 'politics']", "[]", "['sports']"],
     [("sports", "politics"), (), ("sports",)]),
    (["('a', 'b')", "('a',)", "()"], [("a", "b"), ("a",), ()]),
    (["{'b', 'a'}", "set()", "frozenset({'a'})"], [("b", "a"), (), ("a",)]),
    (["[\"it's\", 'a']", r"['b\'c']", r"['\u00e9 \\ x']"],
     [("it's", "a"), ("b'c",), (u"é \\ x",)]),
    (["['a, b', 'c|d']", "['c']"], [("a, b", "c|d"), ("c",)]),
    (["", "['a']"], [(), ("a",)]),
    (["[ 'a' , 'b' ]", "['a', 'b',]", "['a', 'a']"],
     [("a", "b"), ("a", "b"), ("a",)]),
    # JSON.
    (['["a","b"]', "[]", r'["\u5e78\ud83d\ude00"]', r'["x\/y"]'],
     [("a", "b"), (), (u"幸😀",), ("x/y",)]),
    # numpy, as str() and repr() of an array write it.
    (["['a' 'b']", "['a']", "[]", "['a'\n 'b']"],
     [("a", "b"), ("a",), (), ("a", "b")]),
    (["array(['a', 'b'], dtype='<U1')", "array([], dtype=object)"],
     [("a", "b"), ()]),
    # Brackets that belong to names.
    (["[deleted]", "(none)", "x (y)"],
     [("[deleted]",), ("(none)",), ("x (y)",)]),
])
def test_lists_in_cells(tmp_path, cells, expected):
  data_dir = write(tmp_path, train_csv=column(cells))
  labels, found = read("delimited", data_dir)
  assert found == expected
  assert labels == sorted(set(label for row in expected for label in row))


@pytest.mark.parametrize("cells, line, part", [
    (["['a', 'b']", "a,b"], 3, "one form"),
    (["a,b", "['a', 'b']"], 3, "one form"),
    (["a,b", "[]"], 3, "one form"),
    (["[a, b]"], 2, "quotation marks"),
    (["{a,b}"], 2, "quotation marks"),
    (["['a', 'b'"], 2, "looks like a list"),
    (["['a', b]"], 2, "looks like a list"),
    (["['a' 'b', 'c']"], 2, "looks like a list"),
    (["('a' 'b')"], 2, "looks like a list"),
    (["['a''b']"], 2, "looks like a list"),
    (["{'a': 1, 'b': 0}"], 2, "looks like a list"),
    (["[b'a']"], 2, "looks like a list"),
    (["[['a', 'b']]"], 2, "a list within a list"),
    (["[('a',)]"], 2, "a list within a list"),
    (["['a', None]"], 2, "a missing value (None)"),
    (["[nan]"], 2, "a missing value"),
    (["[None]"], 2, "a missing value"),
    (["['a', 1]"], 2, "strings beside numbers"),
    (["['a' 'b' ... 'z']"], 2, "cut short"),
    (["['a']", "['']"], 3, "empty label"),
    (["['a']", "['nan']"], 3, "missing value"),
    (["['a', 'b']", "[0, 1]"], 3, "numbers"),
    (["[0, 1, 0]"], 2, "labels.txt"),
    (["[0. 1. 0.]"], 2, "labels.txt"),
    (["[True, False]"], 2, "labels.txt"),
    (["[True False]"], 2, "labels.txt"),
    (["[2]"], 2, "labels.txt"),
    (["tensor([0., 1.])"], 2, "labels.txt"),
    (["[" * 50000 + "]" * 50000], 2, "a list within a list"),
    (["[" + "9" * 5000 + "]"], 2, ""),
    (["a\nb"], 2, "--label_separator='\\n'"),
    (["'a'", "'b'"], 2, "quotation marks"),
    (["'a', 'b'"], 2, "quotation marks"),
    (["`a`"], 2, "quotation marks"), ([u"“a”,b"], 2, "quotation marks"),
    (["b'a'"], 2, "quotation marks"), (["[a]", "[b]"], None, "brackets"),
    ([u"［'a','b'］"], 2, "one of two brackets"),
    (['"a', 'b'], 2, "one of two brackets"),
    (["smile (happy, glad)"], 2, "one of two brackets"),
    (["#a #b"], 2, "several tags"), (["#a#b"], 2, "several tags"),
    (["__label__a __label__b"], 2, "several tags"),
    (["<java><c++>"], 2, "several tags"),
    (["010", "101"], 2, "0 or 1 for each label"),
    (["0,1,0", "1,0,0"], 2, "0 or 1 for each label"),
    (["0 1", "1 0"], 2, "0 or 1 for each label"),
    (["a:0.9", "b:.25"], None, "a number stands behind"),
    (["['a|b']", "['c']"], 2, "seems to be several"),
    (["[\"['a']\"]"], 2, "looks like a list"), (["a,nan"], 2, "'nan'"),
])
def test_lists_that_are_refused(tmp_path, cells, line, part):
  data_dir = write(tmp_path, train_csv=column(cells))
  message = refusal(read, "delimited", data_dir)
  assert ("train.csv:%d: " % line if line else "train.csv: ") in message
  assert part in message


def test_dev_is_read_as_train_is(tmp_path):
  data_dir = write(tmp_path, train_csv=column(["['a', 'b']"]),
                   dev_csv=column(["a,b"]))
  assert "dev.csv:2: 'a,b' is no list" in refusal(
      read, "delimited", data_dir, "dev")
  write(tmp_path, train_csv=column(["a,b"]), dev_csv=column(["['a', 'b']"]))
  assert "is a list" in refusal(read, "delimited", data_dir, "dev")


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(st.text(st.characters(
    blacklist_categories=("Cs",)), max_size=8), max_size=5),
                  st.sampled_from([repr, json.dumps, tuple, set]))
def test_any_list_that_python_writes_is_read_back(names, form):
  cell = form(names) if form in (repr, json.dumps) else repr(form(names))
  assert label_cells.looks_like_list(cell)
  found = label_cells.parse_list(cell)
  assert (set if form is set else list)(found) == (
      set if form is set else list)(names)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.text(u"[](){}'\"\\,. ab1Nn-é", max_size=12))
def test_any_text_is_a_list_or_one_sentence(cell):
  if label_cells.looks_like_list(cell):
    try:
      values = label_cells.parse_list(cell)
    except ValueError as error:
      assert not isinstance(error, UnicodeError)
      return
    assert all(isinstance(value, str) for value in values) or not any(
        isinstance(value, str) for value in values)


# Lists of numbers.


@pytest.mark.parametrize("cells, expected", [
    (["[0, 1, 0]", "[1, 1, 0]"], [("a",), ("c", "a")]),
    (["[0.0, 1.0, 0.0]", "[1.0, 0.0, 0.0]"], [("a",), ("c",)]),
    (["[0. 0. 1.]", "[0 0 0]"], [("b",), ()]),
    (["[False, True, False]"], [("a",)]),
    (["[0, 2]", "[]", "[1]"], [("c", "b"), (), ("a",)]),
    (["[2]", ""], [("b",), ()]),
])
def test_numbers_with_labels_txt(tmp_path, cells, expected):
  data_dir = write(tmp_path, train_csv=column(cells), labels_txt="c\na\nb\n")
  assert read("delimited", data_dir) == (["c", "a", "b"], expected)
  lines = [json.dumps({"text": "x", "labels": [
      float(n) if "." in cell else json.loads(n.lower())
      for n in cell.strip("[]").replace(",", " ").split()]})
           for cell in cells]
  (tmp_path / "train.csv").unlink()
  write(tmp_path, train_jsonl="\n".join(lines))
  if "[0 0 0]" in cells or "" not in cells:
    assert read("jsonl", data_dir) == (["c", "a", "b"], expected)


@pytest.mark.parametrize("cells, part", [
    (["[0, 1, 0]", "[0, 5]"], "line 3"), (["[0, 1]", "[3]"], "line 3"),
    (["[0, 0, 1]", "[]"], "neither"), (["[0.5, 1.0, 0.0]"], "neither"),
    (["[-1, -1, -1]"], "neither"), (["[1, 1]"], "neither"),
    (["[1.0]"], "neither")])
def test_numbers_that_mean_nothing(tmp_path, cells, part):
  data_dir = write(tmp_path, train_csv=column(cells), labels_txt="c\na\nb\n")
  assert part in refusal(read, "delimited", data_dir)


def test_two_labels_and_numbers_that_could_be_both(tmp_path):
  # As label numbers, every text would have both labels.
  data_dir = write(tmp_path, train_csv=column(["[0, 1]", "[1, 0]"]),
                   labels_txt="a\nb\n")
  assert read("delimited", data_dir)[1] == [("b",), ("a",)]
  write(tmp_path, train_csv=column(["[0, 1]", "[1]"]))
  assert read("delimited", data_dir)[1] == [("a", "b"), ("b",)]


def test_json_numbers_without_names(tmp_path):
  data_dir = write(
      tmp_path, train_jsonl='{"text": "x", "labels": [0.0, 1.0]}\n')
  message = refusal(read, "jsonl", data_dir)
  assert "train.jsonl:1: " in message
  assert "labels.txt" in message and '{"label_names": ' in message


def test_label_names_line(tmp_path):
  head = '{"label_names": ["b", "a"]}\n'
  data_dir = write(
      tmp_path,
      train_jsonl=head + '{"text": "x", "labels": [0.0, 1.0]}\n'
      '{"text": "y", "labels": [1.0, 1.0]}\n',
      dev_jsonl=head + '{"text": "z", "labels": [1.0, 0.0]}\n',
      test_jsonl='{"text": "z", "labels": [0, 0]}\n')
  assert read("jsonl", data_dir) == (["b", "a"], [("a",), ("b", "a")])
  assert read("jsonl", data_dir, "dev")[1] == [("b",)]
  assert read("jsonl", data_dir, "test")[1] == [()]
  write(tmp_path, test_jsonl='{"text": "z", "labels": [1]}\n')
  assert "test.jsonl:1: the list [1] is not a 0 or 1" in refusal(
      read, "jsonl", data_dir, "test")
  write(tmp_path, dev_jsonl='{"label_names": ["a", "b"]}\n'
        '{"text": "z", "labels": [1.0, 0.0]}\n')
  assert "dev.jsonl:1: label_names are not" in refusal(
      read, "jsonl", data_dir, "dev")
  write(tmp_path, labels_txt="a\nb\n")
  assert "differ" in refusal(read, "jsonl", data_dir)


@pytest.mark.parametrize("lines, part", [
    (['{"text": "x", "labels": ["a"]}', '{"text": "y", "labels": [0]}'],
     "train.jsonl:1: the labels are names"),
    (['{"text": "x", "labels": [0, "a"]}'], "strings beside numbers"),
    (['{"text": "x", "labels": [0, null]}'], "missing value"),
    (['{"text": "x", "labels": [3]}'], "neither"),
    (['{"label_names": "a"}', '{"text": "x", "labels": [0]}'],
     "list of names"),
    (['{"label_names": ["a", "a"]}', '{"text": "x", "labels": [0]}'],
     "twice")])
def test_json_numbers_that_are_refused(tmp_path, lines, part):
  data_dir = write(tmp_path, train_jsonl="\n".join(lines))
  if "label_names" not in lines[0]:
    write(tmp_path, labels_txt="a\nb\n")
  assert part in refusal(read, "jsonl", data_dir)


@pytest.mark.parametrize("labels, part", [
    (["['a', 'b']"], "looks like a list"), (["a|b", "a", "b"], "several"),
    (["a|b"], "several"), (["a,b", "b,c"], "several"),
    (["a,b", "a", "b"], "several"), (["None"], "missing value"),
    (["'a'"], "quotation marks")])
def test_strings_in_json_that_are_hardly_labels(tmp_path, labels, part):
  data_dir = write(tmp_path, train_jsonl="".join(
      json.dumps({"text": "x", "labels": [label]}) + "\n" for label in labels))
  message = refusal(read, "jsonl", data_dir)
  assert "train.jsonl:1: " in message and part in message
  write(tmp_path, labels_txt="\n".join(labels))
  assert read("jsonl", data_dir) == (labels, [(label,) for label in labels])


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.integers(1, 4).flatmap(lambda size: st.tuples(
    st.just(size), st.lists(st.sets(st.integers(0, size - 1)), min_size=1,
                            max_size=6))), st.booleans())
def test_any_numbers_mean_their_labels(drawn, are_vectors):
  size, rows = drawn
  names = ["label %d" % number for number in range(size)]
  lists = [tuple(int(number in row) for number in range(size)) if are_vectors
           else tuple(sorted(row)) for row in rows]
  numbers = label_cells.NumberLists(names)
  for line, values in enumerate(lists, 1):
    numbers.add(line, values)
  found = [numbers.settle()(values) for values in lists]
  expected = [tuple(names[number] for number in sorted(row)) for row in rows]
  # Where both readings are possible, each list would be all labels or none.
  could_be_both = all(len(values) == size and set(values) <= {0, 1} and
                      len(set(values)) == size for values in lists)
  assert found == expected or (could_be_both and not are_vectors)


# Separators.


@pytest.mark.parametrize("cells, separator, shell", [
    (["sports|politics", "sports", "politics"], ",", "'|'"),
    (["sports|politics", "art|sports"], ",", "'|'"),
    (["a;b"], ",", "';'"), ([u"体育，政治"], ",", u"'，'"),
    ([u"体育、政治"], ",", u"'、'"), ([u"a；b"], ",", u"'；'"),
    (["a\tb"], ",", "'\\t'"),
    (["a/b", "a", "b"], ",", "'/'"), (["a & b", "a", "b"], ",", "'&'"),
    (["a#b", "a", "b"], ",", "'#'"),
    (["x,y", "a|b", "a", "b"], ",", "'|'"),
    (["a,b", "a", "b"], "|", "','"), (["a,b", "b,c"], ";", "','"),
    (["a,b", "b, c"], ", ", "','"),
    (["a|b"], ";", "'|'"), (["a||b"], ",", "'||'"), ([u"a｜b"], ",", u"'｜'"),
    ([u"a، b"], ",", u"'،'"), (["a+b", "a", "b"], ",", "'+'"),
    ([u"a／b", "a", "b"], ",", u"'／'"),
])
def test_another_separator_than_the_flag_says(tmp_path, cells, separator,
                                              shell):
  data_dir = write(tmp_path, train_csv=column(cells))
  message = refusal(read, "delimited", data_dir, label_separator=separator)
  assert "--label_separator=" + shell in message and "labels.txt" in message
  assert "train.csv:" in message
  # The flag that it names reads the file.
  meant = shell.strip("'")
  labels, found = read("delimited", data_dir, label_separator=meant)
  assert not any(meant.replace("\\t", "\t") in label for label in labels)
  assert len(found) == len(cells)
  # And labels.txt overrides.
  names = sorted(set(name.strip() for cell in cells
                     for name in cell.split(separator)))
  write(tmp_path, labels_txt="\n".join(names) + "\n")
  if "\t" not in cells[0]:
    assert read("delimited", data_dir,
                label_separator=separator)[0] == names


@pytest.mark.parametrize("cells, separator, expected", [
    (["TCP/IP, I/O", "R&D", "C#"], ",", [("TCP/IP", "I/O"), ("R&D",), ("C#",)]),
    (["TCP/IP", "TCP"], ",", [("TCP/IP",), ("TCP",)]),
    (["a | b", "c"], " | ", [("a", "b"), ("c",)]),
    (["a, b", "c d"], ", ", [("a", "b"), ("c d",)]),
    (["a\tb", " c d "], "\\t", [("a", "b"), ("c d",)]),
    (["a\nb\n", "c"], "\\n", [("a", "b"), ("c",)]),
    (["a b  c", "c"], " ", [("a", "b", "c"), ("c",)]),
    (["Paris, France", "Rome, Italy"], ";",
     [("Paris, France",), ("Rome, Italy",)]),
    ([u"体育，政治", u"　体育　"], u"，", [(u"体育", u"政治"), (u"体育",)]),
    (["a::b", "b"], "::", [("a", "b"), ("b",)]),
    (["3", "5", "3,5"], ",", [("3",), ("5",), ("3", "5")]),
    ([":), :(", "C++, #c", "x"], ",", [(":)", ":("), ("C++", "#c"), ("x",)]),
    (["0", "1", "0,1"], ",", [("0",), ("1",), ("0", "1")]),
    (["10", "11"], ",", [("10",), ("11",)]),
    (["<=50K", ">50K"], ",", [("<=50K",), (">50K",)]),
    (["(no genres listed)", "Sci-Fi"], "|",
     [("(no genres listed)",), ("Sci-Fi",)]),
    (["x", "y"], ",", [("x",), ("y",)]), (["x", ""], ",", [("x",), ()]),
])
def test_separators(tmp_path, cells, separator, expected):
  data_dir = write(tmp_path, train_csv=column(cells))
  assert read("delimited", data_dir, label_separator=separator)[1] == expected


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A", "NaN", "<NA>",
                                  "null"])
def test_missing_values_as_labels(tmp_path, word):
  data_dir = write(tmp_path, train_csv=column(["a", word]))
  message = refusal(read, "delimited", data_dir)
  assert "train.csv:3: label '%s' stands for a missing" % word in message
  assert "labels.txt" in message
  write(tmp_path, labels_txt="a\n%s\n" % word)
  assert read("delimited", data_dir)[1] == [("a",), (word,)]


def test_what_joins_a_label():
  labels = {"a", "b", "c", "c d"}
  found = [label_names.find_separator(label, labels) for label in (
      "a|b", "a | c d", "a|b;c", "a/b&c", "a|x", "a b", "a", "|")]
  assert found == ["|", "|", "|", "/", None, None, None, None]


def test_labels_that_look_alike():
  assert label_names.similar_labels(
      ["Sport", u"ｓｐｏｒｔ", "a", u"caf\u00e9", u"cafe\u0301", "a  b", "a b",
       u"a\u200b", "c", "c.1", "1", "1.1", "x.1"]) == [
           ["Sport", u"ｓｐｏｒｔ"], ["a", u"a\u200b"],
           [u"caf\u00e9", u"cafe\u0301"], ["a  b", "a b"],
           ["c", "c.1"]]
  assert label_names.describe_similar(["a", "b"]) is None
  assert "'a', 'A'" in label_names.describe_similar(["a", "A", "b"])


# 0 and 1.


@pytest.mark.parametrize("cells", [
    ["1", "0", "1"], ["True", "False", "True"], ["true", "false", "true"],
    ["1.0", "0.0", "1.0"], [" 1 ", "0", "TRUE"]])
def test_one_column_of_truth_values(tmp_path, cells):
  rows = "".join("t,%s\n" % cell for cell in cells)
  data_dir = write(tmp_path, train_csv="text,toxic\n" + rows)
  for options in ({}, {"label_column": "toxic"}):
    assert read("delimited", data_dir, **options) == (
        ["toxic"], [("toxic",), (), ("toxic",)])
  write(tmp_path, train_csv="text,label\n" + rows)
  assert read("delimited", data_dir)[0] == ["label"]
  # Names, where labels.txt says so.
  write(tmp_path, labels_txt="\n".join(sorted(set(
      cell.strip() for cell in cells))))
  assert read("delimited", data_dir)[1] == [
      (cell.strip(),) for cell in cells]
  write(tmp_path, labels_txt="good\nbad\n")
  message = refusal(read, "delimited", data_dir)
  assert "'label'" in message and "labels.txt" in message and "[0]" in message


def test_label_columns_of_truth_values(tmp_path):
  data_dir = write(
      tmp_path, train_csv='text,"a, b",c,length\nx,True,0.0,7\ny,0,1,9\n')
  assert "column 'length' holds '7'" in refusal(read, "delimited", data_dir)
  expected = (["a, b", "c"], [("a, b",), ("c",)])
  assert read("delimited", data_dir, ignore_columns="length") == expected
  assert read("delimited", data_dir, label_column='"a, b",c') == expected
  assert read("delimited", data_dir, label_column='c , "a, b"') == (
      ["c", "a, b"], expected[1])
  assert read("delimited", data_dir, label_column="a, b") == (
      ["a, b"], [("a, b",), ()])
  assert read("delimited", data_dir, ignore_columns='"a, b",length') == (
      ["c"], [(), ("c",)])


@pytest.mark.parametrize("options, part", [
    (dict(ignore_columns="nope"), "no column 'nope' for --ignore_columns"),
    (dict(ignore_columns="a", label_column="a"), "both name 'a'"),
    (dict(ignore_columns="a,a"), "--ignore_columns=a,a names"),
    (dict(label_column='"a'), "--label_column"),
    (dict(ignore_columns="a,b"), "no label column")])
def test_wrong_columns(tmp_path, options, part):
  data_dir = write(tmp_path, train_csv="text,a,b\nx,1,0\n")
  assert part in refusal(read, "delimited", data_dir, **options)


@pytest.mark.parametrize("content, part", [
    ("text,label\nx,1\ny,\n", "train.csv:3: column 'label' is empty here: "
     "write 0"),
    ("text,label\nx,yes\ny,no\n", "write 1 for yes and 0 for no"),
    ("text,label\nx,on\ny,off\n", "write 1 for yes and 0 for no"),
    (u"text,label\nx,是\ny,否\n", "write 1 for yes and 0 for no"),
    ("text,a,b\nx,yes,0\n", "write 1 for yes and 0 for no"),
    ("text,a\nx,1\ny,-1\n", "train.csv:3: column 'a' holds '-1', which marks a "
     "row that nobody annotated"),
    ("text,a,b\nx,1,0\ntext,a,b\ny,0,1\n", "train.csv:3: the row repeats"),
    (u"text,labels\nx,a\n\ufefftext,labels\ny,b\n",
     "train.csv:3: the row repeats"),
    ("text,labels\nx,a\nTEXT,Labels\ny,b\n", "train.csv:3: the row repeats"),
    ("text,labels\nx,a\nlabels,text\nb,y\n", "train.csv:3: the row repeats"),
    (u'"text","labels"\nx,a\n\ufeff"text","labels"\ny,b\n',
     "train.csv:3: the row repeats"),
])
def test_rows_that_nobody_meant(tmp_path, content, part):
  data_dir = write(tmp_path, train_csv=content)
  assert part in refusal(read, "delimited", data_dir)


def test_marks_for_yes(tmp_path):
  data_dir = write(tmp_path, train_csv="text,toxic\nx,x\ny,\n")
  assert "write 1 for yes and 0 for no" in refusal(
      read, "delimited", data_dir, label_column="toxic")


def test_pandas_index_is_no_label(tmp_path):
  data_dir = write(tmp_path,
                   train_csv="Unnamed: 0,text,a\n0,x,1\n1,y,0\n")
  assert read("delimited", data_dir) == (["a"], [("a",), ()])


def test_rows_of_a_test_file_that_nobody_annotated(tmp_path):
  data_dir = write(tmp_path, train_csv="text,a,b\nx,1,0\n",
                   test_csv="text,a,b\nx,-1,-1\ny,1,1\nz,-1.0,-1.0\n")
  assert read("delimited", data_dir, "test")[1] == [None, ("a", "b"), None]
  write(tmp_path, test_csv="text,a,b\nx,,\ny,, \n")
  assert read("delimited", data_dir, "test")[1] == [None, None]
  for rows in ("x,,\ny,1,0\n", "x,1,0\ny,,\n"):
    write(tmp_path, test_csv="text,a,b\n" + rows)
    assert "test.csv:3: the label cells are" in refusal(
        read, "delimited", data_dir, "test")
  write(tmp_path, test_csv="text,a,b\nx,1,\n")
  assert "column 'b' is empty here: write 0" in refusal(
      read, "delimited", data_dir, "test")


PIECES = ("a", "b", "c d", "[", "]", "(", ")", "{", "}", "'", '"', ",", ";",
          "|", u"、", u"，", "\t", " ", "0", "1", "1.0", "true", "False", "nan",
          "None", "\n", "...", "\\", "-1", "set()", "yes", "no", "#", "/", "&",
          "b'", u"\ufeff", u"\u200b", "9" * 30)


@hypothesis.settings(
    max_examples=200, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
             min_size=1, max_size=4),
    st.sampled_from([",", "|", ", ", " ", "\\t"]))
def test_any_cells_are_labels_or_one_sentence(tmp_path, cells, separator):
  data_dir = write(tmp_path, train_csv=column(cells))
  try:
    labels, found = read("delimited", data_dir, label_separator=separator)
  except ValueError as error:
    message = str(error)
    assert message.endswith(".") and len(message.splitlines()) == 1
    assert not isinstance(error, UnicodeError)
    return
  assert set(labels) == set(label for row in found for label in row) or (
      labels == ["labels"])
  meant = separator.replace("\\t", "\t").strip(" ") or " "
  are_lists = any(cell.strip()[:1] in ("[", "(", "{", "s") for cell in cells)
  for label in labels:
    assert label == label.strip() and label and "\n" not in label
    assert label not in ("nan", "None")
    # Half a list, or the half of a quotation.
    assert not label.startswith(("['", '["', "('", "{'"))
    assert are_lists or meant not in label
