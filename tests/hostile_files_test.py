# SPDX-License-Identifier: Apache-2.0
"""Files made to do harm: one sentence each, soon, and little memory.

Broken safetensors files are in safetensors_reader_test.py.
"""

import gzip
import json
import os
import sys
import tracemalloc

import pytest
import tiny_bert

import modeling
from multilabel import losses
from multilabel.common import atomic_files
from multilabel.storage import hf_conversion
from multilabel.storage import trained_model
import processors
from processors import base
from processors import text_lines
from processors import unlabelled
import tokenization


DEEP = b"[" * 200000
LONG_NUMBER = b"9" * 200000


def sentence_of(function, *arguments):
  """The one sentence of the ValueError that must come."""
  with pytest.raises(ValueError) as raised:
    result = function(*arguments)
    if hasattr(result, "__next__"):
      list(result)
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  assert len(message) < 1000
  message.encode("ascii", "backslashreplace")
  return message


def write(path, content):
  with open(str(path), "wb") as writer:
    writer.write(content)
  return str(path)


# bert_config.json.


def config_bytes(**changes):
  return json.dumps(dict(tiny_bert.CONFIG, vocab_size=30, **changes)).encode(
      "ascii")


def deeply(depth):
  """A configuration whose deepest list Python can just read, or not."""
  return (config_bytes()[:-1] + b',"label2id":' + b"[" * depth + b"]" * depth +
          b"}")


@pytest.mark.parametrize("content, words", [
    (DEEP, "nested too deep"),
    (b'{"vocab_size":' * 100000, "nested too deep"),
    (deeply(100000), "nested too deep"),
    (b'{"vocab_size": ' + LONG_NUMBER + b"}", "digits"),
    (b'{"vocab_size": -' + LONG_NUMBER + b"}", "digits"),
    (b'{"vocab_size": 9, "vocab_size": 30}', "appears twice"),
    (b'{"vocab_size": 9, "\\ud800": 1}', "unknown key"),
    (b'{"vocab_size": 9, "' + b"x" * 10 ** 6 + b'": 1}', "(shortened)"),
    (b'{"vocab_size": 9, "__class__": 1}', "unknown key"),
    (b'{"vocab_size": 9, "__dict__": {"vocab_size": 3}}', "unknown key"),
    (b'{"vocab_size": 9, "validate": 1}', "unknown key"),
    (b'{"vocab_size": "' + b"x" * 10 ** 6 + b'"}', "(shortened)"),
    (b'{"vocab_size": 9, "hidden_act": "' + b"x" * 10 ** 6 + b'"}',
     "hidden_act"),
    (b'{"vocab_size": 9, "hidden_act": {}}', "hidden_act"),
    (b'{"vocab_size": NaN}', "vocab_size is NaN"),
    (b'{"vocab_size": 9, "hidden_size": Infinity}', "hidden_size"),
    (b'{"vocab_size": 9, "hidden_dropout_prob": NaN}', "hidden_dropout_prob"),
    (b'{"vocab_size": 9, "initializer_range": NaN}', "initializer_range"),
    (b'{"vocab_size": 9, "initializer_range": 1' + b"0" * 400 + b"}",
     "initializer_range"),
    (b'{"vocab_size": 9, "hidden_dropout_prob": "0.1"}', "hidden_dropout_prob"),
    (b'{"vocab_size": [[9]]}', "vocab_size is [[9]]"),
    (b'{"vocab_size": 1e3}', "vocab_size"),
    (b'{"vocab_size": 9, "layer_norm_eps": [1]}', "layer_norm_eps"),
    (b'{"vocab_size": 9, "model_type": {"a": "bert"}}', "model_type"),
    (b"\xff\xfe{}", "is not JSON"),
    (b"\0" * 100, "is not JSON"),
    (b"", "is not JSON"),
    (b'"vocab_size"', "must hold a JSON object"),
])
def test_hostile_bert_config(tmp_path, content, words):
  path = write(tmp_path / "bert_config.json", content)
  message = sentence_of(modeling.BertConfig.from_json_file, path)
  assert path in message and words in message


# Each is refused by its sizes: a test that made the model would not end.
@pytest.mark.parametrize("changes", [
    {"hidden_size": 10 ** 9}, {"hidden_size": 10 ** 400},
    {"vocab_size": 10 ** 10}, {"max_position_embeddings": 10 ** 10},
    {"type_vocab_size": 10 ** 10}, {"intermediate_size": 10 ** 10},
    {"num_hidden_layers": 10 ** 9},
    {"num_hidden_layers": 900, "hidden_size": 20000},
])
def test_sizes_that_no_bert_has(tmp_path, changes):
  sizes = {"vocab_size": 30, "num_attention_heads": 1}
  sizes.update(changes)
  path = write(tmp_path / "bert_config.json",
               json.dumps(dict(tiny_bert.CONFIG, **sizes)).encode("ascii"))
  message = sentence_of(modeling.BertConfig.from_json_file, path)
  assert "the maximum is" in message


def test_the_largest_bert_is_accepted():
  # Megatron-BERT with 3.9 * 10^9 parameters (Shoeybi et al. 2019, table 3).
  modeling.BertConfig(vocab_size=30592, hidden_size=2560, num_hidden_layers=48,
                      num_attention_heads=40,
                      intermediate_size=10240).validate()


def test_a_bert_config_without_end(tmp_path):
  path = write(tmp_path / "bert_config.json", b"{")
  os.truncate(path, 2 * 10 ** 9)  # sparse: takes no room on the disk
  assert "is longer than" in sentence_of(
      modeling.BertConfig.from_json_file, path)


def test_a_list_that_python_can_just_read_is_ignored(tmp_path):
  path = write(tmp_path / "bert_config.json", deeply(50))
  assert modeling.BertConfig.from_json_file(path).vocab_size == 30


# model_settings.json and best_checkpoint.json.


@pytest.mark.parametrize("content", [
    DEEP, b'{"a":' * 100000, b'{"threshold":' + LONG_NUMBER, b"\xff", b"[]"])
def test_hostile_json_of_a_trained_directory(tmp_path, content):
  path = write(tmp_path / "model_settings.json", content)
  assert path in sentence_of(atomic_files.read_json, path)
  for name in ("bert_config.json", "vocab.txt", "labels.txt"):
    write(tmp_path / name, b"")
  assert path in sentence_of(trained_model.read, str(tmp_path))


# vocab.txt.


def test_a_vocabulary_of_2_gb(tmp_path):
  path = write(tmp_path / "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
  os.truncate(path, 2 * 10 ** 9)
  for function in (tokenization.FullTokenizer, tokenization.load_vocab,
                   tokenization.validate_vocab,
                   lambda path: hf_conversion._read_vocab_file(path)):
    assert "is longer than" in sentence_of(function, path)


# Data.


JSON_ROWS = {
    "deep_text": b'{"text": ' + DEEP,
    "deep_object": b'{"text": "a", "more": ' + b'{"a":' * 100000,
    "deep_label": (b'{"text": "a", "labels": [' + b"[" * 100000 +
                   b"]" * 100000 + b"]}"),
    "long_number": b'{"text": "a", "labels": [], "id": ' + LONG_NUMBER + b"}",
    "long_label": b'{"text": "a", "labels": [' + LONG_NUMBER + b"]}",
    "nan": b'{"text": "a", "labels": [], "weight": NaN}',
    "not_utf8": b'{"text": "\xff", "labels": []}',
    "nul": b'{"text": "\0", "labels": []}',
    "duplicate": b'{"text": "a", "text": "b", "labels": []}',
}


@pytest.mark.parametrize("case", sorted(JSON_ROWS))
def test_hostile_rows_of_jsonl(tmp_path, case):
  path = write(tmp_path / "train.jsonl",
               b'{"text": "a", "labels": ["x"]}\n' + JSON_ROWS[case] + b"\n")
  processor = processors.create_processor("jsonl")
  assert sentence_of(processor.get_labels, str(tmp_path)).startswith(
      path + ":2: ")
  assert sentence_of(unlabelled.read_texts, path, "jsonl").startswith(
      path + ":2: ")


def test_nesting_that_python_can_just_read_is_refused_or_ignored(tmp_path):
  # Near Python's limit, reading, showing and comparing end at other depths.
  limit = sys.getrecursionlimit()
  processor = processors.create_processor("jsonl")
  outcomes = set()
  for depth in list(range(10, limit, 90)) + list(range(limit - 120, limit, 9)):
    nest = b"[" * depth + b"]" * depth
    write(tmp_path / "train.jsonl",
          b'{"text": "a", "labels": ["x"], "more": ' + nest + b"}\n")
    try:
      assert processor.get_labels(str(tmp_path)) == ["x"]
      outcomes.add("read")
    except ValueError as error:
      assert "nested too deep" in str(error)
      outcomes.add("refused")
    write(tmp_path / "train.jsonl",
          b'{"text": "a", "labels": [' + nest + b"]}\n")
    sentence_of(processor.get_labels, str(tmp_path))
  assert "read" in outcomes


def test_a_line_that_only_grows_when_unpacked(tmp_path, monkeypatch):
  monkeypatch.setattr(text_lines, "MAX_LINE", 1 << 20)
  path = str(tmp_path / "train.jsonl.gz")
  with gzip.open(path, "wb") as writer:
    writer.write(b'{"text": "a", "labels": ["x"]}\n')
    for _ in range(64):
      writer.write(b" " * (1 << 20))
  assert os.path.getsize(path) < 100000
  tracemalloc.start()
  try:
    message = sentence_of(
        processors.create_processor("jsonl").get_labels, str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert message == "%s:2: the line has more than %d characters." % (
      path, 1 << 20)
  assert peak < 16 << 20


@pytest.mark.parametrize("content", [
    b"a\nb\0c\n", b"a\n\xff\n", b"a\na\n", b"", b"\n", b"a\n\nb\n",
    b"\xef\xbb\xbf\xef\xbb\xbfa\n", b"\x1f\x8b\x08"])
def test_hostile_labels(tmp_path, content):
  path = write(tmp_path / "labels.txt", content)
  assert path in sentence_of(base.read_labels_file, path)


@pytest.mark.parametrize("content", [
    b'{"a":' + DEEP, b'{"a":' * 100000, b'{"a": ' + LONG_NUMBER + b"}",
    b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -1}', b'{"a": 1e999}',
    b'{"a": [1]}', b'{"a": 1, "a": 2}', b'{"\\ud800": 1}', b"a\tnan\n",
    b"a\t" + LONG_NUMBER, b"a\t1_0", b"\xff", b"a\t\xef\xbc\x91\xcc\x81", b""])
def test_hostile_weights_of_labels(tmp_path, content):
  path = write(tmp_path / "weights", content)
  assert path in sentence_of(
      losses.read_pos_weight_file, path, ["a"])


def test_weights_of_labels_without_end(tmp_path, monkeypatch):
  monkeypatch.setattr(losses, "_MAX_WEIGHT_FILE", 1000)
  path = write(tmp_path / "weights", b"a\t1\n" * 300)
  assert "is longer than 1000" in sentence_of(
      losses.read_pos_weight_file, path, ["a"])
