# SPDX-License-Identifier: Apache-2.0
"""Processors written for google-research/bert, in the shapes people gave them.

Three are here as their writers would have them: a pair task of GLUE's kind
with a placeholder for the labels of the test set, a classifier of Chinese news,
and one that reads JSON.
"""

import pytest

import processors


MRPC_SHAPE = u'''
import os
import tokenization
from run_multilabel_classifier import DataProcessor, InputExample


class ParaphraseProcessor(DataProcessor):
  """Pairs of sentences; a 1 where they say the same."""

  def get_train_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "train.tsv")), "train")

  def get_dev_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "dev.tsv")), "dev")

  def get_test_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "test.tsv")), "test")

  def get_labels(self):
    return ["0", "1"]

  def _create_examples(self, lines, set_type):
    examples = []
    for (i, line) in enumerate(lines):
      if i == 0:
        continue
      guid = "%s-%s" % (set_type, i)
      text_a = tokenization.convert_to_unicode(line[3])
      text_b = tokenization.convert_to_unicode(line[4])
      if set_type == "test":
        label = "0"
      else:
        label = tokenization.convert_to_unicode(line[0])
      examples.append(
          InputExample(guid=guid, text_a=text_a, text_b=text_b, label=label))
    return examples
'''

NEWS_SHAPE = u'''
import os
from run_multilabel_classifier import DataProcessor, InputExample


class NewsProcessor(DataProcessor):

  def __init__(self):
    self.language = "zh"

  def get_train_examples(self, data_dir):
    lines = self._read_tsv(os.path.join(data_dir, "train.tsv"))
    return self.make(lines, "train")

  def get_dev_examples(self, data_dir):
    lines = self._read_tsv(os.path.join(data_dir, "dev.tsv"))
    return self.make(lines, "dev")

  def get_test_examples(self, data_dir):
    lines = self._read_tsv(os.path.join(data_dir, "test.tsv"))
    return self.make(lines, "test")

  def get_labels(self):
    return ["体育", "财经", "娱乐"]

  def make(self, lines, name):
    for i, line in enumerate(lines):
      if not line:
        continue
      label = "0" if name == "test" else line[0].split("、")
      yield InputExample("%s-%d" % (name, i), line[-1], label=label)
'''

JSON_SHAPE = u'''
import json
import os


class Example(object):
  def __init__(self, guid, text_a, text_b=None, label=None):
    self.guid = guid
    self.text_a = text_a
    self.text_b = text_b
    self.label = label


class JsonProcessor(object):

  def _read(self, path):
    with open(path, encoding="utf-8") as stream:
      return [json.loads(line) for line in stream]

  def get_train_examples(self, data_dir):
    rows = enumerate(self._read(data_dir + "/train.json"))
    return [Example(str(i), r["sentence"], label=r["tag"]) for i, r in rows]

  def get_dev_examples(self, data_dir):
    return [Example(str(i), row["sentence"], label=row["tag"])
            for i, row in enumerate(self._read(data_dir + "/dev.json"))]

  def get_test_examples(self, data_dir):
    return [Example(str(i), row["sentence"])
            for i, row in enumerate(self._read(data_dir + "/test.json"))]

  def get_labels(self):
    return ["x", "y"]
'''


def write(folder, **files):
  for name, content in files.items():
    path = folder / name.replace("_", ".", 1)
    path.write_text(content, encoding="utf-8")
  return str(folder)


def own(folder, source, name):
  """The processor of a file of the user's."""
  path = folder / "own.py"
  path.write_text(source, encoding="utf-8")
  return processors.create_processor(processor="%s:%s" % (path, name))


def read(processor, part, data_dir):
  return [(e.guid, e.text_a, e.text_b, processors.example_labels(e))
          for e in processors.get_examples(processor, part, data_dir)]


def refusal(function, *arguments):
  with pytest.raises(ValueError) as raised:
    list(function(*arguments))
  message = str(raised.value)
  assert len(message.splitlines()) == 1 and message.endswith(".")
  return message


def test_pairs_of_glue(tmp_path):
  head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
  data_dir = write(
      tmp_path, train_tsv=head + '1\t7\t8\tHe said "x.\tShe said y.\n'
      "0\t9\t10\t\"a\tb\r\n", test_tsv="index" + head + "0\t7\t8\tp\tq\n")
  processor = own(tmp_path, MRPC_SHAPE, "ParaphraseProcessor")
  assert processors.get_labels(processor, data_dir) == ["0", "1"]
  assert read(processor, "train", data_dir) == [
      ("train-1", 'He said "x.', "She said y.", ("1",)),
      ("train-2", '"a', "b", ("0",))]
  assert read(processor, "test", data_dir) == [("test-1", "p", "q", ("0",))]


def test_chinese_news(tmp_path):
  data_dir = write(
      tmp_path, train_tsv=u"体育、娱乐\t球星出演电影\n\n财经\t股市\"上涨\n",
      test_tsv=u"今天\n")
  processor = own(tmp_path, NEWS_SHAPE, "NewsProcessor")
  assert processors.get_labels(processor, data_dir) == [
      u"体育", u"财经", u"娱乐"]
  assert read(processor, "train", data_dir) == [
      ("train-0", u"球星出演电影", None, (u"体育", u"娱乐")),
      ("train-2", u"股市\"上涨", None, (u"财经",))]
  assert read(processor, "test", data_dir) == [
      ("test-0", u"今天", None, ("0",))]


def test_json_reader(tmp_path):
  data_dir = write(
      tmp_path, train_json='{"sentence": "a", "tag": "x"}\n',
      dev_json='{"sentence": "a", "tag": ["x", "y"]}\n',
      test_json='{"sentence": "b"}\n')
  processor = own(tmp_path, JSON_SHAPE, "JsonProcessor")
  assert read(processor, "train", data_dir) == [("0", "a", None, ("x",))]
  assert read(processor, "dev", data_dir) == [("0", "a", None, ("x", "y"))]
  assert read(processor, "test", data_dir) == [("0", "b", None, None)]


@pytest.mark.parametrize("source, name, files, parts", [
    (JSON_SHAPE, "JsonProcessor", {"train_json": '{"sentence": "a"}\n'},
     ['label=r["tag"])', "get_train_examples failed", "KeyError: 'tag'"]),
    (JSON_SHAPE, "JsonProcessor", {"train_json": "{]\n"},
     ["json.loads(line)", "JSONDecodeError: Expecting"]),
    (JSON_SHAPE, "JsonProcessor", {},
     ["with open", "FileNotFoundError", "train.json"]),
    (NEWS_SHAPE.replace("line[-1]", "line[7]"), "NewsProcessor",
     {"train_tsv": "a\tb\n"}, ["line[7]", "IndexError: list index"]),
    (NEWS_SHAPE.replace("yield", "raise ValueError('row 3 is odd')\n      yield"
                       ), "NewsProcessor", {"train_tsv": "a\tb\n"},
     ["raise ValueError", "ValueError: row 3 is odd"]),
    (NEWS_SHAPE.replace("label=label", "label=7"), "NewsProcessor",
     {"train_tsv": "a\tb\n"},
     ["label=7", "label must be a str", "(called in "]),
    (NEWS_SHAPE, "NewsProcessor", {}, ["_read_tsv", "train.tsv: cannot be read",
                                "(called in "]),
    (NEWS_SHAPE.replace("yield", "exit(3)\n      yield"), "NewsProcessor",
     {"train_tsv": "a\tb\n"}, ["exit(3)", "SystemExit"]),
], ids=["key", "json", "no_file", "index", "own_words", "our_argument",
        "our_reader", "exit"])
def test_an_error_names_the_users_line(tmp_path, source, name, files, parts):
  data_dir = write(tmp_path, **files)
  processor = own(tmp_path, source, name)
  message = refusal(processors.get_examples, processor, "train", data_dir)
  # The first of the parts is in the line that is at fault.
  line = next(number for number, text in enumerate(source.split("\n"), 1)
              if parts[0] in text)
  assert "own.py:%d" % line in message
  assert [part for part in parts[1:] if part not in message] == []


@pytest.mark.parametrize("line, parts", [
    ("    return 1 / 0", ["own.py:3: get_labels failed", "division by zero"]),
    ("    return open('/no/such/file').read().split()",
     ["own.py:3: ", "No such file"]),
    ("    raise RuntimeError('two\\nlines')", ["own.py:3: ", "two lines"])])
def test_an_error_in_get_labels(tmp_path, line, parts):
  source = "class P(object):\n  def get_labels(self):\n%s\n%s" % (
      line, "".join("  def get_%s_examples(self, data_dir):\n    return 3\n" % p
                    for p in ("train", "dev", "test")))
  processor = own(tmp_path, source, "P")
  message = refusal(processors.get_labels, processor, "here")
  assert [part for part in parts if part not in message] == []
  assert "returned 3, not a list" in refusal(
      processors.get_examples, processor, "train", "here")


def test_an_error_in_a_constructor_or_at_import(tmp_path):
  methods = "".join("  def %s(self): pass\n" % name for name in (
      "get_train_examples", "get_dev_examples", "get_test_examples",
      "get_labels"))
  path = tmp_path / "own.py"
  path.write_text("class P(object):\n  def __init__(self):\n"
                  "    raise ValueError('no key')\n" + methods)
  assert "(ValueError: no key) at %s:3" % path in refusal(
      lambda: processors.create_processor(processor="%s:P" % path))
  path.write_text("import os\nraise KeyError('x')\n")
  assert "(KeyError: 'x') at %s:2" % path in refusal(
      lambda: processors.create_processor(processor="%s:P" % path))


@pytest.mark.parametrize("given, labels, label", [
    ({"label": "a"}, ("a",), "a"), ({"label": ["a", "b"]}, ("a", "b"),
                                    ("a", "b")),
    ({"label": None}, (), ()), ({}, (), ()), ({"labels": None}, None, None),
    ({"labels": ["a"]}, ("a",), "a"), ({"label": ""}, ("",), "")])
def test_one_label_or_several(given, labels, label):
  example = processors.InputExample(guid="g", text_a="t", text_b=None, **given)
  assert (example.labels, example.label) == (labels, label)


def test_label_as_an_attribute():
  example = processors.InputExample("g", "t", label="a")
  example.label = "b"
  assert example.labels == ("b",)
  example.label = ["b", "c"]
  assert processors.example_labels(example) == ("b", "c")
  message = refusal(lambda: processors.InputExample(
      "g", "t", label="a", labels=["b"]))
  assert "not both" in message
  # As the original's fourth argument.
  assert processors.InputExample("g", "t", None, "0").label == "0"


@pytest.mark.parametrize("content, quotechar, expected", [
    ('a\t"b\n\nc"\td\r\n', None, [["a", '"b'], [], ['c"', "d"]]),
    ('a\t"b\tc"\n', '"', [["a", "b\tc"]]),
    ("a\t'b\tc'", "'", [["a", "b\tc"]]),
    (u"\ufeffa\t\u2028\x85\n", None, [["a", u"\u2028\x85"]]),
    ("", None, [])])
def test_read_tsv(tmp_path, content, quotechar, expected):
  path = str(tmp_path / "x.tsv")
  with open(path, "w", encoding="utf-8", newline="") as stream:
    stream.write(content)
  # pylint: disable=protected-access
  assert processors.DataProcessor._read_tsv(path, quotechar) == expected
  if quotechar is None:
    assert processors.DataProcessor()._read_tsv(path) == expected
  with pytest.raises(ValueError):
    processors.DataProcessor._read_tsv(str(tmp_path / "no.tsv"))
