# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's targets, a few hundred cases each, and cases once found."""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import os

import pytest

from fuzz import checks
from fuzz import mutation
from fuzz import run
from fuzz import targets

CASES = {"tokenizer": 300, "delimited": 300, "jsonl": 400, "safetensors": 400,
         "config": 400, "flags": 250, "http_bodies": 500}

# Found by `python -m fuzz.run`, and mended.
FOUND = [
    # Half a byte order mark was read as an empty file.
    ("jsonl", b"\xef"), ("jsonl", b"\xef\xbb"), ("delimited", b"\0\xef"),
    ("jsonl", b"\xef\xbb\xbf"), ("delimited", b"\0\xef\xbb\xbf"),
    # A byte that no text has is named before a line that is no JSON.
    ("jsonl", b'{"text": "a", "labels""id": []}\n{"text": "b\0"}'),
]


def test_every_target_is_tried():
  assert set(CASES) == set(targets.TARGETS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_good_input_passes(name):
  for data in targets.TARGETS[name].seeds:
    targets.TARGETS[name].run(data)
  targets.TARGETS[name].run(b"")


@pytest.mark.parametrize("name", sorted(CASES))
def test_strange_input(name):
  target = targets.TARGETS[name]
  mutator = mutation.Mutator(target, seed=7)
  for _ in range(CASES[name]):
    data = mutator.case()
    wrong = run.try_case(target.run, data)
    assert wrong is None, "%r\n%s" % (data, wrong)


@pytest.mark.parametrize("name, data", FOUND)
def test_cases_once_found(name, data):
  targets.TARGETS[name].run(data)


def test_the_same_seed_gives_the_same_cases():
  target = targets.TARGETS["jsonl"]
  one, two, other = [mutation.Mutator(target, seed) for seed in (3, 3, 4)]
  cases = [one.case() for _ in range(50)]
  assert cases == [two.case() for _ in range(50)]
  assert cases != [other.case() for _ in range(50)]
  assert len(set(cases)) > 30


# What the targets take for a finding.


def fails(name, data):
  return run.try_case(targets.TARGETS[name].run, data)


def test_a_reader_that_loses_a_row_is_found(monkeypatch):
  from processors import delimited
  real = delimited.read_table

  def without_last_row(path, delimiter):
    return iter(list(real(path, delimiter))[:-1])

  monkeypatch.setattr(delimited, "read_table", without_last_row)
  assert "other rows than csv's" in fails("delimited", b"\0text,labels\na,x\n")


def test_a_reader_that_raises_an_error_of_its_own_is_found(monkeypatch):
  from processors import jsonl
  monkeypatch.setattr(jsonl, "_read_object", lambda *unused: 1 // 0)
  assert "ZeroDivisionError" in fails("jsonl", b'{"text": "a"}\n')


def test_an_error_without_a_line_is_found(monkeypatch):
  from processors import text_lines

  def read_lines(path):
    raise ValueError("%s is broken." % path)
    yield  # pylint: disable=unreachable

  monkeypatch.setattr(text_lines, "read_lines", read_lines)
  assert "no line" in fails("jsonl", b'{"text": "a", "labels": []}\n')


def test_a_weight_that_is_not_the_files_is_found(monkeypatch):
  import safetensors_reader
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
  assert fails("tokenizer", b"\1wanted xyz") is not None


def test_a_sentence_has_one_line():
  checks.check_sentence(ValueError("a b."))
  for error in (ValueError("a\nb"), ValueError(""), KeyError("a"),
                UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")):
    with pytest.raises(checks.Finding):
      checks.check_sentence(error)
  with pytest.raises(checks.Finding):
    checks.check_sentence(ValueError("a.txt is broken."), "b.txt")


def test_findings_are_kept_and_can_be_tried_again(
    tmp_path, monkeypatch, capsys):
  def fail(data):
    if b"x" in data:
      raise RuntimeError("it has an x")

  target = targets.Target(fail, [b"abc"], [b"x"])
  monkeypatch.setitem(targets.TARGETS, "jsonl", target)
  folder = str(tmp_path / "found")
  arguments = ["--target=jsonl", "--random", "--seconds=0.5",
               "--findings=" + folder]
  assert run.main(arguments) == 1
  case, = os.listdir(folder)  # one place, one finding
  path = os.path.join(folder, case)
  assert b"x" in open(path, "rb").read()
  assert path in capsys.readouterr().out
  assert run.main(["--target=jsonl", "--replay=" + path]) == 1
  monkeypatch.setitem(targets.TARGETS, "jsonl",
                      target._replace(run=lambda data: None))
  assert run.main(["--target=jsonl", "--replay=" + path]) == 0
  assert run.main(arguments) == 0
