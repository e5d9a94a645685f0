# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's targets: strange input, cases once found, what is a finding."""

import hypothesis
from hypothesis import strategies
import pytest

from robustness.fuzz import checks
from robustness.fuzz import targets


# Found by fuzzing, and mended.
FOUND = [
    # Half a byte order mark was read as an empty file.
    ("jsonl", b"\xef"), ("jsonl", b"\xef\xbb"), ("delimited", b"\0\xef"),
    ("jsonl", b"\xef\xbb\xbf"), ("delimited", b"\0\xef\xbb\xbf"),
    # Nothing but byte order marks.
    ("delimited", b"\0" + 9 * b"\xff\xfe"), ("jsonl", b"\xff\xfe"),
    # A byte that no text has is named before a line that is no JSON.
    ("jsonl", b'{"text": "a", "labels""id": []}\n{"text": "b\0"}'),
]


@strategies.composite
def changed_input(draw, target):
  """Good input of a target with some of it replaced: bytes."""
  data = draw(strategies.sampled_from(target.seeds))
  for _ in range(draw(strategies.integers(0, 8))):
    start = draw(strategies.integers(0, len(data)))
    end = start + draw(strategies.sampled_from((0, 0, 1, 2, 16, 64)))
    new = draw(strategies.one_of(
        strategies.sampled_from(target.tokens), strategies.binary(max_size=4),
        strategies.just(9 * data[start:end])))
    data = data[:start] + new + data[end:]
  return data[:4000]


def need_server(name):
  """Skips a target whose packages there are from Python 3.10 on only."""
  if name == "http_bodies":
    pytest.importorskip("msgspec")


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_good_input_passes(name):
  need_server(name)
  for data in targets.TARGETS[name].seeds:
    targets.TARGETS[name].run(data)
  targets.TARGETS[name].run(b"")


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_strange_input(name):
  need_server(name)
  target = targets.TARGETS[name]

  # The same cases each time: a failure here is the change's, not chance.
  @hypothesis.settings(
      max_examples=300, derandomize=True, deadline=None, database=None,
      suppress_health_check=[hypothesis.HealthCheck.too_slow])
  @hypothesis.given(data=changed_input(target))
  def run(data):
    target.run(data)

  run()


@pytest.mark.parametrize("name, data", FOUND)
def test_cases_once_found(name, data):
  targets.TARGETS[name].run(data)


# What the targets take for a finding.


def fails(name, data):
  """The error that a target raises, str."""
  with pytest.raises(Exception) as caught:
    targets.TARGETS[name].run(data)
  return "%s: %s" % (caught.type.__name__, caught.value)


def test_a_reader_that_loses_a_row_is_found(monkeypatch):
  from processors import table_reader
  real = table_reader.read_table

  def without_last_row(path, delimiter):
    return iter(list(real(path, delimiter))[:-1])

  monkeypatch.setattr(table_reader, "read_table", without_last_row)
  assert "other rows than csv's" in fails("delimited", b"\0text,labels\na,x\n")


def test_a_reader_that_raises_an_error_of_its_own_is_found(monkeypatch):
  from processors import jsonl
  monkeypatch.setattr(jsonl, "_read_object", lambda *unused: 1 // 0)
  assert "ZeroDivisionError" in fails("jsonl", b'{"text": "a"}\n')


def test_an_error_without_a_line_is_found(monkeypatch):
  from processors import text_lines

  def read_lines(path, encoding=None):
    raise ValueError("%s is broken." % path)
    yield  # pylint: disable=unreachable

  monkeypatch.setattr(text_lines, "read_lines", read_lines)
  assert "no line" in fails("jsonl", b'{"text": "a", "labels": []}\n')


def test_a_weight_that_is_not_the_files_is_found(monkeypatch):
  from multilabel.storage import safetensors_reader
  real = safetensors_reader.SafetensorsFile.read
  monkeypatch.setattr(safetensors_reader.SafetensorsFile, "read",
                      lambda self, name: real(self, name) * 2)
  assert "other bytes" in fails("safetensors",
                                targets.TARGETS["safetensors"].seeds[0])


def test_a_token_that_is_lost_is_found(monkeypatch):
  import tokenization
  monkeypatch.setattr(
      tokenization.WordpieceTokenizer, "tokenize",
      lambda self, text: [word for word in text.split() if word in self.vocab])
  assert fails("tokenizer", b"\1wanted xyz").startswith("Finding: ")


def test_a_sentence_has_one_line():
  checks.check_sentence(ValueError("a b."))
  for error in (ValueError("a\nb"), ValueError(""), KeyError("a"),
                UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")):
    with pytest.raises(checks.Finding):
      checks.check_sentence(error)
  with pytest.raises(checks.Finding):
    checks.check_sentence(ValueError("a.txt is broken."), "b.txt")
