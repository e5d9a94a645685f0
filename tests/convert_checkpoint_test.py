# SPDX-License-Identifier: Apache-2.0
"""Tests of convert_checkpoint.py.

The names are spelled out here once more, so that a slip in the module's own
tables shows.
"""

import argparse
import importlib
import json
import os

from absl import flags
from absl import logging
import numpy as np
import pytest
from safetensors_reader_test import save
import tensorflow.compat.v1 as tf
import tiny_bert

import convert_checkpoint
import modeling
from multilabel.common import work_folder
from multilabel.storage import hf_config
from multilabel.storage import hf_conversion


CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 7,
    "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 6, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2, "max_position_embeddings": 5,
    "type_vocab_size": 2, "initializer_range": 0.03, "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute", "pad_token_id": 0,
}
VOCAB = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n"

# Checkpoint name, Hugging Face name, Hugging Face shape.
NAMES = [
    ("bert/embeddings/word_embeddings",
     "embeddings.word_embeddings.weight", (7, 4)),
    ("bert/embeddings/position_embeddings",
     "embeddings.position_embeddings.weight", (5, 4)),
    ("bert/embeddings/token_type_embeddings",
     "embeddings.token_type_embeddings.weight", (2, 4)),
    ("bert/embeddings/LayerNorm/gamma", "embeddings.LayerNorm.weight", (4,)),
    ("bert/embeddings/LayerNorm/beta", "embeddings.LayerNorm.bias", (4,)),
    ("bert/pooler/dense/kernel", "pooler.dense.weight", (4, 4)),
    ("bert/pooler/dense/bias", "pooler.dense.bias", (4,)),
]
for _n in ("0", "1"):
  for _tf, _hf, _shape in [
      ("attention/self/query/kernel", "attention.self.query.weight", (4, 4)),
      ("attention/self/query/bias", "attention.self.query.bias", (4,)),
      ("attention/self/key/kernel", "attention.self.key.weight", (4, 4)),
      ("attention/self/key/bias", "attention.self.key.bias", (4,)),
      ("attention/self/value/kernel", "attention.self.value.weight", (4, 4)),
      ("attention/self/value/bias", "attention.self.value.bias", (4,)),
      ("attention/output/dense/kernel",
       "attention.output.dense.weight", (4, 4)),
      ("attention/output/dense/bias", "attention.output.dense.bias", (4,)),
      ("attention/output/LayerNorm/gamma",
       "attention.output.LayerNorm.weight", (4,)),
      ("attention/output/LayerNorm/beta",
       "attention.output.LayerNorm.bias", (4,)),
      ("intermediate/dense/kernel", "intermediate.dense.weight", (6, 4)),
      ("intermediate/dense/bias", "intermediate.dense.bias", (6,)),
      ("output/dense/kernel", "output.dense.weight", (4, 6)),
      ("output/dense/bias", "output.dense.bias", (4,)),
      ("output/LayerNorm/gamma", "output.LayerNorm.weight", (4,)),
      ("output/LayerNorm/beta", "output.LayerNorm.bias", (4,)),
  ]:
    NAMES.append(("bert/encoder/layer_%s/%s" % (_n, _tf),
                  "encoder.layer.%s.%s" % (_n, _hf), _shape))


def random_tensors():
  """dict of Hugging Face name -> float32 array, no two values alike."""
  rng = np.random.RandomState(1)
  return {name: rng.randn(*shape).astype(np.float32)
          for _, name, shape in NAMES}


def make_hf_dir(folder, tensors=None, config=CONFIG, vocab=VOCAB,
                tokenizer=None):
  folder.mkdir()
  save(folder / "model.safetensors",
       random_tensors() if tensors is None else tensors, {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "vocab.txt").write_bytes(vocab)
  if tokenizer is not None:
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
  return folder


def convert(hf_dir, output_dir):
  return hf_conversion.convert(str(hf_dir), str(output_dir))


def fails(hf_dir, output_dir, *words):
  """The conversion ends in one line that has all words, and writes nothing."""
  with pytest.raises(ValueError) as error:
    convert(hf_dir, output_dir)
  message = str(error.value)
  assert "\n" not in message
  for word in words:
    assert word in message, message
  assert not output_dir.exists()


def check_checkpoint(output_dir, tensors, names=None):
  reader = tf.train.load_checkpoint(str(output_dir / "bert_model.ckpt"))
  names = NAMES if names is None else names
  assert (sorted(reader.get_variable_to_shape_map()) ==
          sorted(name for name, _, _ in names))
  for name, hf_name, _ in names:
    expected = tensors[hf_name]
    if name.endswith("/kernel"):
      expected = expected.T
    value = reader.get_tensor(name)
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, expected)


@pytest.fixture
def log_lines(monkeypatch):
  lines = []
  for level in ("info", "warning"):
    monkeypatch.setattr(logging, level, lambda message, *args, **_:
                        lines.append(message % args if args else message))
  return lines


# What is written.


def test_writes_what_a_release_has(tmp_path):
  tensors = random_tensors()
  result = convert(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out")
  assert sorted(os.listdir(str(tmp_path / "out"))) == [
      "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
      "bert_model.ckpt.index", "vocab.txt"]
  check_checkpoint(tmp_path / "out", tensors)
  assert (tmp_path / "out" / "vocab.txt").read_bytes() == VOCAB
  assert json.loads((tmp_path / "out" / "bert_config.json").read_text()) == {
      "attention_probs_dropout_prob": 0.2, "gelu_approximate": False,
      "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 4,
      "initializer_range": 0.03, "intermediate_size": 6,
      "max_position_embeddings": 5, "num_attention_heads": 2,
      "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 7}
  # 14 * 4 + 2 * 4 embeddings, 16 + 4 pooler, 4 * 20 + 2 * 24 + 10 + 4 * 4 a
  # layer.
  assert result == (39, 64 + 20 + 2 * 154, True, [], True)


def test_fits_our_model(tmp_path):
  convert(make_hf_dir(tmp_path / "hf"), tmp_path / "out")
  config = modeling.BertConfig.from_json_file(
      str(tmp_path / "out" / "bert_config.json"))
  assert config.gelu_approximate is False
  with tf.Graph().as_default():
    modeling.BertModel(config, False, tf.zeros([1, 3], tf.int32))
    variables = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
  assert variables == dict(
      tf.train.list_variables(str(tmp_path / "out" / "bert_model.ckpt")))


def test_model_with_a_head(tmp_path, log_lines):
  tensors = random_tensors()
  given = {"bert." + name: value for name, value in tensors.items()}
  given["bert.embeddings.position_ids"] = np.arange(5)[None]
  given["classifier.weight"] = np.ones([3, 4], np.float32)
  given["cls.predictions.bias"] = np.ones([7], np.float64)
  result = convert(make_hf_dir(tmp_path / "hf", given), tmp_path / "out")
  check_checkpoint(tmp_path / "out", tensors)
  assert result.unused == ["bert.embeddings.position_ids", "classifier.weight",
                           "cls.predictions.bias"]
  assert any("'classifier.weight', 'cls.predictions.bias'" in line
             for line in log_lines)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.bert.",
                                    "model.bert.", "auto_model."])
def test_names_behind_a_wrapper(tmp_path, prefix):
  tensors = random_tensors()
  given = {prefix + name: value for name, value in tensors.items()}
  given["classifier.weight"] = np.ones([3, 4], np.float32)
  convert(make_hf_dir(tmp_path / "hf", given), tmp_path / "out")
  check_checkpoint(tmp_path / "out", tensors)


def test_names_of_another_encoder_or_of_two(tmp_path):
  tensors = random_tensors()
  roberta = {"roberta." + name: value for name, value in tensors.items()}
  fails(make_hf_dir(tmp_path / "a", roberta), tmp_path / "out",
        "encoder start with 'roberta.';")
  both = dict(tensors, **{"bert." + n: value for n, value in tensors.items()})
  fails(make_hf_dir(tmp_path / "b", both), tmp_path / "out",
        "start with '' and with 'bert.';")


def test_gamma_and_beta_of_old_models(tmp_path):
  tensors = random_tensors()
  given = {}
  for name, value in tensors.items():
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    given[name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
  convert(make_hf_dir(tmp_path / "hf", given), tmp_path / "out")
  check_checkpoint(tmp_path / "out", tensors)


def test_no_pooler_is_said(tmp_path, log_lines):
  tensors = random_tensors()
  del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
  result = convert(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out")
  assert not result.has_pooler
  assert any("has no pooler" in line for line in log_lines)
  check_checkpoint(tmp_path / "out", tensors,
                   [row for row in NAMES if "pooler" not in row[0]])


def test_half_precision(tmp_path):
  half = {name: value.astype(np.float16)
          for name, value in random_tensors().items()}
  convert(make_hf_dir(tmp_path / "hf", half), tmp_path / "out")
  check_checkpoint(tmp_path / "out", {
      name: value.astype(np.float32) for name, value in half.items()})


@pytest.mark.parametrize("hidden_act, ours, approximate", [
    ("gelu", "gelu", False), ("gelu_python", "gelu", False),
    ("gelu_new", "gelu", True), ("gelu_pytorch_tanh", "gelu", True),
    ("relu", "relu", True), ("tanh", "tanh", True)])
def test_activations(tmp_path, hidden_act, ours, approximate):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(dict(CONFIG, hidden_act=hidden_act)))
  config = hf_config.read_model(str(path)).config
  assert (config.hidden_act, config.gelu_approximate) == (ours, approximate)


def test_old_configuration_without_model_type(tmp_path):
  config = dict(CONFIG, architectures=["BertForMaskedLM"])
  for key in ("model_type", "position_embedding_type", "layer_norm_eps",
              "hidden_act", "hidden_dropout_prob"):
    del config[key]
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config))
  read = hf_config.read_model(str(path)).config
  assert (read.hidden_act, read.gelu_approximate) == ("gelu", False)
  assert read.hidden_dropout_prob == 0.1


# Shards.


def make_sharded(folder):
  make_hf_dir(folder)
  tensors = random_tensors()
  os.remove(str(folder / "model.safetensors"))
  names = sorted(tensors)
  weight_map = {}
  for shard, part in (("model-00001-of-00002.safetensors", names[:9]),
                      ("model-00002-of-00002.safetensors", names[9:])):
    save(folder / shard, {name: tensors[name] for name in part})
    weight_map.update({name: shard for name in part})
  return tensors, weight_map


def write_index(folder, weight_map):
  (folder / "model.safetensors.index.json").write_text(
      json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(tmp_path):
  tensors, weight_map = make_sharded(tmp_path / "hf")
  write_index(tmp_path / "hf", weight_map)
  convert(tmp_path / "hf", tmp_path / "out")
  check_checkpoint(tmp_path / "out", tensors)


@pytest.mark.parametrize("change, word", [
    ({"pooler.dense.bias": "../model.safetensors"}, "beside it"),
    ({"pooler.dense.bias": "/x.safetensors"}, "beside it"),
    ({"pooler.dense.bias": "x.bin"}, "beside it"),
    ({"pooler.dense.bias": ["x.safetensors"]}, "beside it"),
    ({"other": "x.safetensors"}, "No such file"),
    ({"pooler.dense.bias": "model-00001-of-00002.safetensors"},
     "pooler.dense.bias"),
    ({"other": "model-00001-of-00002.safetensors"}, "does not have"),
])
def test_shards_that_do_not_fit(tmp_path, change, word):
  _, weight_map = make_sharded(tmp_path / "hf")
  write_index(tmp_path / "hf", dict(weight_map, **change))
  fails(tmp_path / "hf", tmp_path / "out", word)


def test_index_without_weight_map(tmp_path):
  make_sharded(tmp_path / "hf")
  write_index(tmp_path / "hf", None)
  fails(tmp_path / "hf", tmp_path / "out", "weight_map")


# Models that are not what the converter takes.


@pytest.mark.parametrize("change, words", [
    ({"model_type": "roberta"}, "'roberta'"),
    ({"model_type": ["bert"]}, "model_type is ['bert']"),
    ({"model_type": None, "architectures": ["RobertaModel"]}, "no model_type"),
    ({"model_type": None, "architectures": None}, "no model_type"),
    ({"position_embedding_type": "relative_key"}, "'relative_key'"),
    ({"position_embedding_type": "alibi"}, "'alibi'"),
    ({"is_decoder": True}, "is_decoder is True"),
    ({"add_cross_attention": True}, "add_cross_attention is True"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
    ({"embedding_size": 128}, "embedding_size is 128"),
    ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
    ({"ln_type": "preln"}, "ln_type is 'preln'"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': [1]}"),
    ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ({"model_type": "albert"},
     "'albert', which cannot be converted: its layers share their weights"),
    ({"model_type": "xlm-roberta"}, "its vocabulary is not WordPiece"),
    ({"model_type": "deberta-v2"}, "uses the distance between tokens"),
    ({"model_type": "roformer"}, "it uses rotary position embeddings"),
    ({"model_type": "new"},
     "'new', which cannot be converted; supported: bert, distilbert, electra, "
     "ernie."),
    ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu']"),
    ({"hidden_size": "4"}, "hidden_size is '4'"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"hidden_size": 4.0}, "hidden_size"),
    ({"hidden_size": -4}, "hidden_size"),
    ({"hidden_size": None}, "hidden_size is None"),
    ({"num_attention_heads": 3}, "num_attention_heads"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"num_hidden_layers": 10 ** 18}, "num_hidden_layers is 10000000000000000"),
    ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob"),
    ({"num_hidden_layers": 1}, "tensors for 2 layers"),
    ({"num_hidden_layers": 3}, "tensors for 2 layers"),
    ({"vocab_size": 8}, "[7, 4]"),
    ({"vocab_size": 8}, "[8, 4]"),
    ({"vocab_size": 8}, "embeddings.word_embeddings.weight"),
    ({"max_position_embeddings": 9}, "[9, 4]"),
    ({"type_vocab_size": 1}, "[1, 4]"),
    ({"intermediate_size": 7}, "shape [6, 4]"),
    ({"intermediate_size": 7}, "requires [7, 4]"),
    ({"intermediate_size": 7}, "encoder.layer.0.intermediate.dense.weight"),
    ({"hidden_size": 6}, "[7, 6]"),
])
def test_configurations_that_are_refused(tmp_path, change, words):
  hf_dir = make_hf_dir(tmp_path / "hf", config=dict(CONFIG, **change))
  fails(hf_dir, tmp_path / "out", words)


@pytest.mark.parametrize("key", [
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_hidden_layers", "max_position_embeddings", "type_vocab_size"])
def test_configuration_without_a_size(tmp_path, key):
  config = dict(CONFIG)
  del config[key]
  fails(make_hf_dir(tmp_path / "hf", config=config), tmp_path / "out",
        "has no " + key)


@pytest.mark.parametrize("text, words", [
    ("", "not valid JSON"), ("[1]", "it holds a list, not an object"),
    ('{"a": 1, "a": 2}', "key 'a' stands twice"), ("[" * 10 ** 5, "too deep")])
def test_configuration_that_is_no_json_object(tmp_path, text, words):
  hf_dir = make_hf_dir(tmp_path / "hf")
  (hf_dir / "config.json").write_text(text)
  fails(hf_dir, tmp_path / "out", "config.json", words)


def test_json_file_without_end(tmp_path):
  path = tmp_path / "config.json"
  with open(str(path), "wb") as writer:
    writer.truncate(2 * 10 ** 9)
  with pytest.raises(ValueError, match="is longer than"):
    hf_config.read_model(str(path))


@pytest.mark.parametrize("name", [name for _, name, _ in NAMES[:-16]])
def test_missing_tensor_is_named(tmp_path, name):
  tensors = random_tensors()
  del tensors[name]
  fails(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out",
        "lacks 1 of BERT's 39 tensors", name)


def test_foreign_tensors(tmp_path):
  fails(make_hf_dir(tmp_path / "hf", {"a": np.ones([1], np.float32)}),
        tmp_path / "out", "lacks embeddings.word_embeddings.weight; its 1 "
                          "tensors start with a (1)")


@pytest.mark.parametrize("name", [
    "encoder.layer.0.attention.self.distance_embedding.weight",
    "encoder.layer.1.crossattention.self.key.weight",
    "encoder.layer.00.output.dense.bias", "encoder.norm.weight",
    "embeddings.LayerNorm.scale", "pooler.extra"])
def test_tensor_that_bert_does_not_have(tmp_path, name):
  tensors = random_tensors()
  tensors[name] = np.ones([4], np.float32)
  hf_dir = make_hf_dir(tmp_path / "hf", tensors)
  if "00" in name:
    fails(hf_dir, tmp_path / "out", "tensors for 3 layers")
  else:
    fails(hf_dir, tmp_path / "out", name, "not part of a BERT")


def test_tensor_that_bert_does_not_have_under_a_prefix(tmp_path):
  tensors = {"bert." + name: value for name, value in random_tensors().items()}
  tensors["bert.adapter.weight"] = np.ones([4], np.float32)
  fails(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out",
        "'bert.adapter.weight' is not part of a BERT")


def test_one_weight_under_two_names(tmp_path):
  tensors = random_tensors()
  tensors["embeddings.LayerNorm.gamma"] = np.ones([4], np.float32)
  fails(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out",
        "embeddings.LayerNorm.gamma", "the same weight")


def test_transposed_matrix(tmp_path):
  tensors = random_tensors()
  name = "encoder.layer.1.output.dense.weight"
  tensors[name] = np.ones([6, 4], np.float32)
  fails(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out", name,
        "[6, 4]", "[4, 6]", "hidden_size, intermediate_size")


@pytest.mark.parametrize("value, words", [
    (np.full([4], np.nan, np.float32), "NaN or infinity"),
    (np.full([4], np.inf, np.float16), "NaN or infinity"),
    (np.full([4], 0x7f80, np.uint16), "NaN or infinity"),
    (np.arange(4), "dtype I64"),
    (np.ones([4], np.float64), "dtype F64")])
def test_values_that_are_no_weights(tmp_path, value, words):
  tensors = random_tensors()
  tensors["pooler.dense.bias"] = value
  fails(make_hf_dir(tmp_path / "hf", tensors), tmp_path / "out",
        "pooler.dense.bias", words)


def test_pickle_is_refused(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf")
  os.rename(str(hf_dir / "model.safetensors"),
            str(hf_dir / "pytorch_model.bin"))
  fails(hf_dir, tmp_path / "out", "pytorch_model.bin", "unpickling",
        "save_pretrained")
  os.remove(str(hf_dir / "pytorch_model.bin"))
  fails(hf_dir, tmp_path / "out", "has no model.safetensors")


@pytest.mark.parametrize("vocab, words", [
    (VOCAB + b"one more\n", "has 8 tokens"),
    (VOCAB + b"no end of line", "has 8 tokens"),
    (b"", "is empty"),
    (b"a\nb\n\xff\n", "vocab.txt:3 is not UTF-8")])
def test_vocabulary_that_does_not_fit(tmp_path, vocab, words):
  fails(make_hf_dir(tmp_path / "hf", vocab=vocab), tmp_path / "out", words)


def test_vocabulary_missing_or_endless(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf")
  os.remove(str(hf_dir / "vocab.txt"))
  fails(hf_dir, tmp_path / "out", "vocab.txt", "No such file")
  with open(str(hf_dir / "vocab.txt"), "wb") as writer:
    writer.truncate(2 * 10 ** 9)
  fails(hf_dir, tmp_path / "out", "vocab.txt is longer than")


def test_short_vocabulary_is_kept(tmp_path, log_lines):
  hf_dir = make_hf_dir(tmp_path / "hf", vocab=b"[PAD]\r\n\xe4\xb8\xad")
  convert(hf_dir, tmp_path / "out")
  assert (tmp_path / "out" / "vocab.txt").read_bytes() == (
      b"[PAD]\r\n\xe4\xb8\xad")
  assert any(
      "has 2 tokens, but the embeddings have 7 rows" in l for l in log_lines)


def test_no_directory(tmp_path):
  fails(tmp_path / "hf", tmp_path / "out", "is not a folder")


# How texts are to be tokenized.


@pytest.mark.parametrize("tokenizer, lower, warned", [
    (None, True, []),
    ({}, True, []),
    ({"do_lower_case": False}, False, []),
    ({"do_lower_case": True, "strip_accents": None, "model_max_length": 10**30,
      "tokenize_chinese_chars": True, "never_split": None,
      "tokenizer_class": "BertTokenizer"}, True, []),
    ({"do_lower_case": False, "strip_accents": False}, False, []),
    ({"do_lower_case": False, "strip_accents": True}, False,
     ["strip_accents is True"]),
    ({"do_lower_case": True, "strip_accents": False}, True,
     ["strip_accents is False"]),
    ({"tokenize_chinese_chars": False, "do_basic_tokenize": False}, True,
     ["tokenize_chinese_chars is False", "do_basic_tokenize is False"]),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, True,
     ["BertJapaneseTokenizer"]),
])
def test_tokenizer_settings(tmp_path, log_lines, tokenizer, lower, warned):
  hf_dir = make_hf_dir(tmp_path / "hf", tokenizer=tokenizer)
  assert convert(hf_dir, tmp_path / "out").do_lower_case is lower
  wanted = "--do_lower_case=%s" % str(lower).lower()
  assert sum(wanted in line for line in log_lines) == 1
  warnings = [l for l in log_lines if "which this tokenizer" in l]
  assert len(warnings) == len(warned)
  for words, line in zip(warned, warnings):
    assert words in line


CASED = b"[PAD]\n[UNK]\n" + b"".join(
    b"Word%d\nword%d\n" % (i, i) for i in range(10))
LOWER = CASED.replace(b"Word", b"more")


@pytest.mark.parametrize("vocab, tokenizer, normalizer, lower, warned", [
    (CASED, None, None, False, False),
    (CASED, {}, None, False, False),
    (CASED, {"do_lower_case": True}, None, True, True),
    (CASED, {"do_lower_case": False}, None, False, False),
    (CASED, None, {"type": "BertNormalizer", "lowercase": True}, True, True),
    (LOWER, None, None, True, False),
    (LOWER, None, {"type": "BertNormalizer", "lowercase": False}, False, True),
    (LOWER, {"do_lower_case": True}, {"lowercase": False}, True, False),
    (CASED, None, {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Lowercase"}]}, True, True),
    (LOWER, None, {"type": "Sequence", "normalizers": [
        {"type": "BertNormalizer", "lowercase": False}]}, False, True),
    (LOWER, None, {"type": "Sequence", "normalizers": 3}, True, False),
    # Chinese vocabularies may have no Latin letters at all.
    ("[UNK]\n\u4e2d\n\u6587\n".encode("utf-8"), None, None, True, False),
])
def test_case_of_the_vocabulary(tmp_path, log_lines, vocab, tokenizer,
                                normalizer, lower, warned):
  hf_dir = make_hf_dir(tmp_path / "hf", vocab=vocab, tokenizer=tokenizer)
  if normalizer:
    (hf_dir / "tokenizer.json").write_text(json.dumps(
        {"normalizer": normalizer}))
  assert hf_conversion.read_do_lower_case(str(hf_dir), vocab) is lower
  assert any("but the vocabulary has" in l for l in log_lines) == warned


@pytest.mark.parametrize("name", [
    "XLMRobertaTokenizer", "RobertaTokenizerFast", "AlbertTokenizer"])
def test_tokenizers_that_cut_words_otherwise(tmp_path, name):
  fails(make_hf_dir(tmp_path / "hf", tokenizer={"tokenizer_class": name}),
        tmp_path / "out", "tokenizer_class is '%s'" % name)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "merges.txt"])
def test_files_of_other_tokenizers(tmp_path, name):
  hf_dir = make_hf_dir(tmp_path / "hf")
  (hf_dir / name).write_bytes(b"x")
  fails(hf_dir, tmp_path / "out", "has %s, so its tokenizer is not" % name)


def test_vocabulary_of_tokenizer_json(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf")
  os.remove(str(hf_dir / "vocab.txt"))
  tokens = VOCAB.decode("utf-8").split()
  ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
  path = hf_dir / "tokenizer.json"
  path.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": ids}}))
  convert(hf_dir, tmp_path / "out")
  assert (tmp_path / "out" / "vocab.txt").read_bytes() == VOCAB
  for model, words in [
      ({"type": "BPE", "vocab": ids}, "is 'BPE', not WordPiece"),
      ({"type": "WordPiece", "vocab": dict(ids, hello=9)}, "must be 0 to 6"),
      ({"type": "WordPiece", "vocab": {"a\nb": 0}}, "a line break"),
      ({"type": "WordPiece", "vocab": {"\ud800": 0}}, "not valid Unicode")]:
    path.write_text(json.dumps({"model": model}))
    fails(hf_dir, tmp_path / "other", words)


def test_tokenizer_settings_that_are_broken(tmp_path):
  fails(make_hf_dir(tmp_path / "hf", tokenizer={"do_lower_case": "yes"}),
        tmp_path / "out", "do_lower_case is 'yes'")


# The folder that is written.


def listing(folder):
  return {name: (folder / name).read_bytes()
          for name in os.listdir(str(folder))}


def test_again_into_the_same_folder(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf")
  convert(hf_dir, tmp_path / "out")
  before = listing(tmp_path / "out")
  convert(hf_dir, tmp_path / "out")
  assert listing(tmp_path / "out") == before
  other = {name: value + 1 for name, value in random_tensors().items()}
  convert(make_hf_dir(tmp_path / "hf2", other), tmp_path / "out")
  check_checkpoint(tmp_path / "out", other)


@pytest.mark.parametrize("files", [
    {"notes.txt": "mine"},
    {"vocab.txt": "mine"},
    # The four files of a release; only ours say gelu_approximate.
    {"bert_config.json": "{}", "vocab.txt": "", "bert_model.ckpt.index": "",
     "bert_model.ckpt.data-00000-of-00001": ""},
    {"bert_config.json": '{"gelu_approximate": true}', "notes.txt": "mine"},
])
def test_foreign_folder_is_not_touched(tmp_path, files):
  hf_dir = make_hf_dir(tmp_path / "hf")
  (tmp_path / "out").mkdir()
  for name, text in files.items():
    (tmp_path / "out" / name).write_text(text)
  before = listing(tmp_path / "out")
  with pytest.raises(ValueError, match="not from an earlier conversion"):
    convert(hf_dir, tmp_path / "out")
  assert listing(tmp_path / "out") == before


def test_output_is_the_input_or_a_file(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf")
  with pytest.raises(ValueError, match="not from an earlier conversion"):
    convert(hf_dir, hf_dir)
  with pytest.raises(ValueError, match="is not a folder"):
    convert(hf_dir, hf_dir / "vocab.txt")


def test_broken_input_leaves_an_earlier_conversion(tmp_path):
  convert(make_hf_dir(tmp_path / "hf"), tmp_path / "out")
  before = listing(tmp_path / "out")
  tensors = random_tensors()
  tensors["pooler.dense.bias"][0] = np.nan
  with pytest.raises(ValueError, match="NaN"):
    convert(make_hf_dir(tmp_path / "hf2", tensors), tmp_path / "out")
  assert listing(tmp_path / "out") == before


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_conversion_is_not_finished(tmp_path, monkeypatch, renames,
                                           earlier):
  hf_dir = make_hf_dir(tmp_path / "hf")
  if earlier:
    other = {name: value + 1 for name, value in random_tensors().items()}
    convert(make_hf_dir(tmp_path / "hf2", other), tmp_path / "out")
  calls = []

  def replace(source, target, original=os.replace):
    if len(calls) == renames:
      raise KeyboardInterrupt
    calls.append(target)
    original(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", replace)
    # Like SIGKILL: nothing cleans up.
    patch.setattr(work_folder, "remove", lambda path: None)
    with pytest.raises(KeyboardInterrupt):
      convert(hf_dir, tmp_path / "out")
  assert not (tmp_path / "out" / "bert_config.json").exists()
  convert(hf_dir, tmp_path / "out")
  check_checkpoint(tmp_path / "out", random_tensors())
  assert len(os.listdir(str(tmp_path / "out"))) == 4


@pytest.mark.parametrize("name", [".conversion-notes", ".conversion-12345678"])
@pytest.mark.parametrize("inside", [None, "vocab.txt", "thesis.txt"])
def test_a_folder_of_somebody_s_stays(tmp_path, name, inside):
  folder = tmp_path / "out" / name
  folder.mkdir(parents=True)
  if inside:
    (folder / inside).write_text(u"years")
  with pytest.raises(ValueError, match="contains .*conversion-"):
    convert(make_hf_dir(tmp_path / "hf"), tmp_path / "out")
  assert os.listdir(str(folder)) == ([inside] if inside else [])


def test_failing_disk(tmp_path, monkeypatch):
  hf_dir = make_hf_dir(tmp_path / "hf")

  def full(*_):
    raise tf.errors.ResourceExhaustedError(None, None, "No space\nleft")

  monkeypatch.setattr(hf_conversion, "_save_tensors", full)
  with pytest.raises(RuntimeError,
                     match="out cannot be written: No space left$"):
    convert(hf_dir, tmp_path / "out")
  assert not (tmp_path / "out").exists()


# The script.


def test_import_defines_no_flags():
  importlib.reload(convert_checkpoint)
  assert "hf_dir" not in flags.FLAGS


def run_script(*args):
  return tiny_bert.call(convert_checkpoint, args)[:3]


def test_script(tmp_path):
  hf_dir = make_hf_dir(tmp_path / "hf", tokenizer={"do_lower_case": False})
  out = tmp_path / "out"
  status, stdout, stderr = run_script(
      "--hf_dir=%s" % hf_dir, "--output_dir=%s" % out)
  assert status == 0, stderr
  assert stdout == (
      "Wrote 39 tensors with 392 parameters. Train with --encoder=%s, which "
      "sets\n"
      "  --bert_config_file=%s/bert_config.json\n"
      "  --vocab_file=%s/vocab.txt\n"
      "  --init_checkpoint=%s/bert_model.ckpt\n"
      "  --do_lower_case=false\n" % (out, out, out, out))
  check_checkpoint(out, random_tensors())


def test_script_with_wrong_input():
  status, stdout, stderr = run_script("--hf_dir=nowhere", "--output_dir=out")
  assert (status, stdout) == (2, "")
  assert "hf_dir nowhere is not a folder" in stderr
  assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("argv, hf_dir, output_dir, words", [
    ([""], None, "a", "--hf_dir is missing"),
    ([""], "a", "", "--output_dir is missing"),
    (["", "model"], "a", "b", "'model' is not a flag")])
def test_wrong_flags(monkeypatch, argv, hf_dir, output_dir, words):
  monkeypatch.setattr(convert_checkpoint, "FLAGS", argparse.Namespace(
      hf_dir=hf_dir, output_dir=output_dir, model_dir=None))
  with pytest.raises(ValueError, match=words):
    convert_checkpoint.main(argv)


def test_script_help():
  status, stdout, stderr = run_script("--help")
  assert (status, stderr) == (0, "")
  assert "--hf_dir" in stdout and "--output_dir" in stdout
