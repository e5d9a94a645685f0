# SPDX-License-Identifier: Apache-2.0
"""Tests of what is said before the first step."""

import collections
import io
import logging as python_logging
import re
import sys
import time

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import waiting
from multilabel.features import encoding
from multilabel.training import start_log
import processors


Scan = collections.namedtuple(
    "Scan", ["num_examples", "num_pairs", "label_counts", "num_without",
             "unlabelled", "texts"], defaults=[()])
Part = collections.namedtuple("Part", ["scan"])


def part(num_examples, counts, num_pairs=0, num_without=0, unlabelled=()):
  return Part(Scan(num_examples, num_pairs, np.array(counts), num_without,
                   np.array(unlabelled)))


def test_every_label_with_its_counts():
  lines = start_log.data_lines(
      {"train": part(1200, [3, 1000, 0], num_without=7),
       "dev": part(30, [1, 20, 2], num_pairs=4),
       "test": part(5, [0, 0, 0], unlabelled=[0, 3])},
      ["rare", "much", u"没有\n"], ["text from column 'body'"])
  assert lines == [
      "***** Data *****",
      "  text from column 'body'",
      "  train: 1,200 texts, 7 without a label",
      "  dev: 30 texts, 4 of them pairs",
      "  test: 5 texts, 2 that nobody labelled",
      "  3 labels, and texts that have them in train and dev:",
      "    much     1,000        20",
      "    rare         3         1",
      u"    没有\\n         0         2"]


def test_both_ends_of_many_labels():
  counts = list(range(100, 0, -1))
  lines = start_log.data_lines({"train": part(1, counts)},
                               ["l%d" % count for count in counts])
  listed = [re.split(" +", line.strip())[0] for line in lines[3:]]
  assert listed == (["l%d" % n for n in range(100, 80, -1)] + ["..."] +
                    ["l%d" % n for n in range(20, 0, -1)])
  assert "60 labels between" in lines[23]
  exactly = start_log.data_lines({"train": part(1, counts[:50])},
                                 ["l%d" % count for count in counts[:50]])
  assert len(exactly) == 53 and not any("..." in line for line in exactly)


def test_labels_that_all_texts_have():
  warnings = start_log.data_warnings(
      {"train": part(3, [3, 1]), "dev": part(2, [2, 2])}, ["a", "b"])
  assert ["'a'" in line and "'b'" not in line for line in warnings] == [
      True, False]
  assert not start_log.data_warnings({"train": part(1, [1])}, ["a"])


def scanned(*rows):
  """A part of rows (text, labels) as a run reads them."""
  examples = [processors.InputExample(str(number), text, None, labels)
              for number, (text, labels) in enumerate(rows)]
  return Part(encoding.scan_examples(examples, ["a", "b"], False))


def test_a_row_per_label():
  # What pandas' explode makes of lists.
  exploded = scanned(("x", "a"), ("x", "b"), ("y", "a"), ("z", "b"), ("z", ()))
  warning, = start_log.data_warnings({"train": exploded}, ["a", "b"])
  assert warning.startswith("  2 texts are in train more than once, each time "
                            "with other labels: if your file has a row per la")
  # Once more with the same labels, in another order, is nothing odd.
  same = scanned(("x", ("a", "b")), ("x", ("b", "a")), ("y", ()), ("y", ()))
  assert not start_log.data_warnings({"train": same}, ["a", "b"])


def test_texts_of_train_in_dev_and_test():
  parts = {"train": scanned(("x", "a"), ("y", "b")),
           "dev": scanned(("new", "a"), ("y", "a"), ("y", "b")),
           "test": scanned(("X", "a"), ("x", None))}
  assert start_log.data_warnings(parts, ["a", "b"]) == [
      "  2 of the 3 texts of dev are in train, too: its scores will be better "
      "than on new texts",
      "  1 of the 2 texts of test is in train, too: its scores will be better "
      "than on new texts"]
  del parts["train"]
  assert not start_log.data_warnings(parts, ["a", "b"])


def test_a_label_for_nearly_every_text():
  names = ["l%d" % number for number in range(60)]
  warning, = start_log.data_warnings({"train": part(100, [1] * 60)}, names)
  assert "60 labels for 100 texts" in warning
  assert not start_log.data_warnings({"train": part(120, [2] * 60)}, names)


def test_device():
  with tf.Graph().as_default(), tf.Session() as session:
    text = start_log.describe_devices(session)
  assert re.match(r"(CPU, \d+ cores?, \d+\.\d GB of memory|GPU:0)", text)


class _Card(object):
  device_type = "GPU"
  name = "/job:localhost/replica:0/task:0/device:GPU:1"
  memory_limit_bytes = 14900000000


class _Session(object):

  def list_devices(self):
    return [_Card()]


def test_a_card():
  assert start_log.describe_devices(_Session()) == "GPU:1, 14.9 GB of memory"


def lines_of(function):
  """What a function logs: list of str."""
  lines = []
  handler = python_logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  logger = python_logging.getLogger("absl")
  level = logging.get_verbosity()
  logging.set_verbosity(logging.INFO)
  logger.addHandler(handler)
  try:
    function()
  finally:
    logger.removeHandler(handler)
    logging.set_verbosity(level)
  return lines


def test_what_takes_long_says_so(monkeypatch):
  monkeypatch.setattr(waiting, "INTERVAL", 0.05)

  def wait():
    with waiting.saying("Building"):
      time.sleep(0.3)

  lines = lines_of(wait)
  assert lines[0] == "Building ..."
  assert len(lines) > 2
  assert re.match(r"  Building: \d+ s so far$", lines[1])

  def read():
    for _ in waiting.counted(range(64), "Reading"):
      time.sleep(0.005)

  lines = lines_of(read)
  assert lines[0] == "Reading ..."
  assert lines[1].startswith("  Reading: 16 texts so far, ")


def test_what_is_quick_says_one_line():
  assert lines_of(lambda: list(waiting.counted(range(999), "Reading"))) == [
      "Reading ..."]

  def build():
    with waiting.saying("Building"):
      pass

  assert lines_of(build) == ["Building ..."]


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def test_on_a_terminal_one_line_is_drawn_over(monkeypatch):
  monkeypatch.setattr(waiting, "INTERVAL", 0.0)
  terminal = _Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  handler = logging.get_absl_handler()
  filters = list(handler.filters)

  def read():
    for number in waiting.counted(range(32), "Reading"):
      if number == 20:
        # What asks the filters, as the handler does before each record.
        assert handler.filter(python_logging.makeLogRecord({}))
        terminal.write("a record\n")

  assert lines_of(read) == ["Reading ..."]
  text = terminal.getvalue()
  assert text.startswith("\r  Reading: 16 texts so far, 0 s\033[K"
                         "\r\033[Ka record\n\r  Reading: 32 texts")
  assert text.endswith("\r\033[K")
  assert handler.filters == filters
