# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel/storage/encoders.py and hub.py."""

import json
import os
import shutil
import subprocess
import sys

from convert_checkpoint_test import CONFIG
from convert_checkpoint_test import check_checkpoint
from convert_checkpoint_test import make_hf_dir
from convert_checkpoint_test import random_tensors
import fake_hub
import pytest
from safetensors_reader_test import save
import tiny_bert
import tiny_model

from multilabel.storage import encoders
from multilabel.storage import hf_conversion
from multilabel.storage import hub


VOCAB = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n"


@pytest.fixture
def cache(tmp_path):
  return str(tmp_path / "cache")


def cached(cache):
  return sorted(name for name in os.listdir(cache) if name != ".lock")


def write_pooling(folder, **modes):
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling" / "config.json").write_text(json.dumps(dict(
      {"word_embedding_dimension": 4}, **modes)))


def test_a_release(bert):
  assert encoders.resolve(bert) == encoders.Encoder(
      bert, "google", os.path.join(bert, "bert_config.json"),
      os.path.join(bert, "vocab.txt"), os.path.join(bert, "bert_model.ckpt"),
      True, None, None)


def test_a_release_with_names_of_its_own(bert, tmp_path):
  folder = tmp_path / "cased_L-12_H-768_A-12"
  folder.mkdir()
  for old, new in (("bert_config.json", "bert_config_rbt3.json"),
                   ("bert_model.ckpt.index", "model.ckpt-7.index"),
                   ("vocab.txt", "vocab_chinese.txt")):
    shutil.copy(os.path.join(bert, old), str(folder / new))
  (folder / "vocab_chinese.txt").write_bytes(
      b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + b"".join(
          b"Word%d\nword%d\n" % (i, i) for i in range(5)))
  encoder = encoders.resolve(str(folder))
  assert [os.path.basename(path) for path in encoder[2:5]] == [
      "bert_config_rbt3.json", "vocab_chinese.txt", "model.ckpt-7"]
  assert encoder.do_lower_case is False
  (folder / "model.ckpt-8.index").write_bytes(b"")
  with pytest.raises(ValueError, match="more than one checkpoint: model.ckpt-"):
    encoders.resolve(str(folder))


def test_a_trained_directory(tmp_path):
  folder = tmp_path / "trained"
  tiny_model.make(folder, pooling="cls", do_lower_case=False)
  assert encoders.resolve(str(folder)) == encoders.Encoder(
      str(folder), "trained", str(folder / "bert_config.json"),
      str(folder / "vocab.txt"), str(folder / "model.ckpt-7"), False, "cls",
      None)
  for name in os.listdir(str(folder)):
    if "ckpt" in name or name == "checkpoint":
      os.remove(str(folder / name))
  with pytest.raises(ValueError, match="has no checkpoint yet; train it first"):
    encoders.resolve(str(folder))


def test_a_hugging_face_folder_is_converted_once(tmp_path, cache, monkeypatch):
  tensors = random_tensors()
  folder = make_hf_dir(tmp_path / "hf", tensors,
                       tokenizer={"do_lower_case": False})
  first = encoders.resolve(str(folder), cache)
  inside = os.path.dirname(first.vocab_file)
  assert cached(cache) == [os.path.basename(inside)]
  assert first == encoders.Encoder(
      str(folder), "hugging_face", os.path.join(inside, "bert_config.json"),
      os.path.join(inside, "vocab.txt"),
      os.path.join(inside, "bert_model.ckpt"), False, None, None)
  check_checkpoint(tmp_path / "cache" / os.path.basename(inside), tensors)
  # Found again by its content, wherever it lies.
  with monkeypatch.context() as patch:
    patch.setattr(hf_conversion, "convert", None)
    os.rename(str(folder), str(tmp_path / "moved"))
    again = encoders.resolve(str(tmp_path / "moved"), cache)
  assert again == first._replace(place=str(tmp_path / "moved"))
  # Other content is another encoder, and both stay.
  tensors["pooler.dense.bias"][0] += 1
  save(tmp_path / "moved" / "model.safetensors", tensors)
  other = encoders.resolve(str(tmp_path / "moved"), cache)
  assert other.init_checkpoint != first.init_checkpoint
  assert len(cached(cache)) == 2


def test_what_a_killed_conversion_leaves_is_removed(tmp_path, cache):
  folder = make_hf_dir(tmp_path / "hf")
  os.makedirs(os.path.join(cache, ".converting-abcd1234"))
  os.makedirs(os.path.join(cache, "notes"))
  encoder = encoders.resolve(str(folder), cache)
  assert cached(cache) == sorted([
      "notes", os.path.basename(os.path.dirname(encoder.vocab_file))])


def test_a_failed_conversion_leaves_nothing(tmp_path, cache):
  tensors = random_tensors()
  del tensors["encoder.layer.1.output.dense.bias"]
  folder = make_hf_dir(tmp_path / "hf", tensors)
  with pytest.raises(ValueError, match="lacks 1 of BERT's 39 tensors"):
    encoders.resolve(str(folder), cache)
  assert cached(cache) == []


def test_a_cache_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  folder = make_hf_dir(tmp_path / "hf")
  with pytest.raises(RuntimeError, match="BERT_MULTILABEL_CACHE"):
    encoders.resolve(str(folder), str(tmp_path / "file"))


def test_default_cache(monkeypatch):
  monkeypatch.delenv("BERT_MULTILABEL_CACHE", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", "/x")
  assert encoders.default_cache_dir() == "/x/bert-multilabel"
  monkeypatch.setenv("BERT_MULTILABEL_CACHE", "/y")
  assert encoders.default_cache_dir() == "/y"


@pytest.mark.parametrize("modes, advice", [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
     "cls"),
    ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
     "mean"),
    ({"pooling_mode": "mean"}, "mean"),
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
    ({"pooling_mode_max_tokens": True}, None),
])
def test_advice_of_sentence_transformers(tmp_path, cache, modes, advice):
  folder = make_hf_dir(tmp_path / "hf")
  write_pooling(folder, **modes)
  assert encoders.resolve(str(folder), cache).advised_pooling == advice


def test_older_form_of_sentence_transformers(tmp_path, cache):
  (tmp_path / "st").mkdir()
  make_hf_dir(tmp_path / "st" / "0_Transformer")
  write_pooling(tmp_path / "st", pooling_mode_mean_tokens=True)
  encoder = encoders.resolve(str(tmp_path / "st"), cache)
  assert encoder.place == str(tmp_path / "st")
  assert encoder.advised_pooling == "mean"


def test_an_encoder_without_a_pooler(tmp_path, cache):
  tensors = random_tensors()
  del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
  folder = make_hf_dir(tmp_path / "hf", tensors)
  assert encoders.resolve(str(folder), cache).advised_pooling == "mean"


@pytest.mark.parametrize("files, words", [
    ([], "it contains nothing"), (["readme.md"], "it contains readme.md"),
    (["bert_model.ckpt.index", "vocab.txt"], "no configuration: it should be "
     "called bert_config.json"),
    (["model_settings.json"], "has no bert_config.json"),
])
def test_folders_that_are_none(tmp_path, files, words):
  for name in files:
    (tmp_path / name).write_text("{}")
  with pytest.raises(ValueError) as error:
    encoders.resolve(str(tmp_path))
  assert words in str(error.value) and "\n" not in str(error.value)


def test_places_that_are_none(bert):
  with pytest.raises(ValueError, match="is a file; give its folder"):
    encoders.resolve(os.path.join(bert, "bert_model.ckpt"))
  for place in ("/none/here", "./bert", "a/b/c", "", "../x", "a b"):
    with pytest.raises(ValueError, match="there is no folder --encoder="):
      encoders.resolve(place)


@pytest.mark.parametrize("place, expected", [
    ("bert-base-chinese", True), ("BAAI/bge-small-zh-v1.5", True),
    ("BAAI/bge-small-zh-v1.5@main", True), ("x@refs/pr/1", True),
    ("./x", False), ("x/", False), ("/x", False), ("a/b/c", False),
    ("x@", False), ("a..b", False), ("~/x", False), ("x y", False)])
def test_names(place, expected):
  assert hub.is_name(place) == expected


# The hub, by a process of its own, since huggingface_hub reads the environment
# when it is imported.

RESOLVE = """
import json, sys
from multilabel.storage import encoders
try:
  print(json.dumps(encoders.resolve(sys.argv[1])))
except ValueError as error:
  print(json.dumps(str(error)))
"""


def resolve_by_hub(tmp_path, url, place, **environment):
  pytest.importorskip("huggingface_hub")
  env = dict(os.environ, HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hf_home"),
             BERT_MULTILABEL_CACHE=str(tmp_path / "cache"),
             PYTHONPATH=tiny_bert.ROOT, HF_HUB_DISABLE_TELEMETRY="1",
             **environment)
  done = subprocess.run([sys.executable, "-c", RESOLVE, place], env=env,
                        stdout=subprocess.PIPE, check=True, timeout=120)
  return json.loads(done.stdout.decode().splitlines()[-1])


def make_hub_model(folder):
  make_hf_dir(folder, tokenizer={"do_lower_case": True})
  write_pooling(folder, pooling_mode_cls_token=True)
  for name in ("pytorch_model.bin", "tf_model.h5", "tokenizer.json",
               "model.onnx", "README.md", "modeling_own.py"):
    (folder / name).write_text("{}")
  return folder


@pytest.mark.slow
def test_a_name_on_the_hub(tmp_path):
  folder = make_hub_model(tmp_path / "model")
  with fake_hub.serve({"owner/tiny-bert": str(folder)}) as server:
    encoder = resolve_by_hub(tmp_path, server.url, "owner/tiny-bert")
  fields = encoders.Encoder(*encoder)
  assert (fields.place, fields.form) == ("owner/tiny-bert", "hub")
  assert fields.revision == fake_hub.COMMIT
  assert fields.advised_pooling == "cls" and fields.do_lower_case is True
  check_checkpoint(
      tmp_path / "cache" / os.path.basename(os.path.dirname(fields.vocab_file)),
      random_tensors())
  assert sorted(server.requested) == [
      "1_Pooling/config.json", "config.json", "model.safetensors",
      "tokenizer_config.json", "vocab.txt"]
  # The server is gone: the same from the cache, by name or by commit.
  for place in ("owner/tiny-bert", "owner/tiny-bert@" + fake_hub.COMMIT):
    again = resolve_by_hub(tmp_path, server.url, place, HF_HUB_OFFLINE="1")
    assert again == [place] + encoder[1:]
  error = resolve_by_hub(tmp_path, server.url, "owner/other")
  assert "the hub cannot be reached" in error and "not in its cache" in error


@pytest.mark.slow
def test_shards_on_the_hub(tmp_path):
  folder = make_hub_model(tmp_path / "model")
  os.remove(str(folder / "model.safetensors"))
  tensors = random_tensors()
  names = sorted(tensors)
  weight_map = {}
  for number, part in enumerate((names[:9], names[9:]), 1):
    shard = "model-0000%d-of-00002.safetensors" % number
    save(folder / shard, {name: tensors[name] for name in part})
    weight_map.update({name: shard for name in part})
  (folder / "model.safetensors.index.json").write_text(json.dumps(
      {"metadata": {}, "weight_map": weight_map}))
  with fake_hub.serve({"tiny-bert": str(folder)}) as server:
    encoder = encoders.Encoder(
        *resolve_by_hub(tmp_path, server.url, "tiny-bert@main"))
  check_checkpoint(
      tmp_path / "cache" / os.path.basename(
          os.path.dirname(encoder.vocab_file)), tensors)


@pytest.mark.slow
def test_what_the_hub_refuses_or_has_not(tmp_path):
  pickled = make_hub_model(tmp_path / "pickled")
  os.remove(str(pickled / "model.safetensors"))
  roberta = make_hub_model(tmp_path / "roberta")
  (roberta / "merges.txt").write_text("")
  albert = make_hf_dir(tmp_path / "albert", config=dict(
      CONFIG, model_type="albert"))
  with fake_hub.serve({"pickled": str(pickled), "roberta": str(roberta),
                       "albert": str(albert)}) as server:
    for place, words in (
        ("pickled", "pytorch_model.bin is not downloaded"),
        ("roberta", "has merges.txt, so its tokenizer is not WordPiece"),
        ("albert", "its layers share their weights"),
        ("none", "there is no folder none, and no model of that name"),
        ("albert@v2", "has no revision v2")):
      error = resolve_by_hub(tmp_path, server.url, place)
      assert words in error and "\n" not in error, error
  assert "model.safetensors" in server.requested  # the ALBERT's alone
  assert "pytorch_model.bin" not in server.requested


def test_without_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ValueError, match=(
      "pip install huggingface_hub")):
    encoders.resolve("bert-base-chinese")
