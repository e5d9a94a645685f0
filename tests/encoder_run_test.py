# SPDX-License-Identifier: Apache-2.0
"""Runs that start from an encoder, or from a model of one's own.

At a learning rate of 1e-30 every weight ends where it started.
"""

import json
import os
import re
import shutil

import numpy as np
import pytest

from multilabel.storage import encoders
from multilabel.storage import hf_tensors
from multilabel.storage import safetensors_writer
import run_multilabel_classifier
import tiny_bert

STILL = dict(learning_rate=1e-30, num_train_epochs=1, train_batch_size=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"),
                             sizes=(40, 10, 10))


@pytest.fixture(scope="module")
def trained(bert, data, tmp_path_factory):
  """A directory whose head differs from every start."""
  folder = str(tmp_path_factory.mktemp("trained"))
  status, _, stderr, _ = run(bert, data, folder, num_train_epochs=2,
                             do_eval=True)
  assert (status, stderr) == (0, "")
  return folder


def run(bert, data, output_dir, **settings):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      bert, data, str(output_dir), **settings))


def prepare(bert, data, output_dir, **settings):
  """As `run`, but ends well before the graph is built."""
  return tiny_bert.prepare(tiny_bert.arguments(
      bert, data, str(output_dir), **settings))


def by_encoder(data, output_dir, place, **settings):
  return tiny_bert.flag_list(dict(
      STILL, task_name="jsonl", data_dir=data, output_dir=str(output_dir),
      do_train=True, max_seq_length=32, log_steps=1000, report=False,
      encoder=str(place), **settings))


def weights_of(output_dir):
  with open(os.path.join(str(output_dir), "checkpoint")) as reader:
    name = re.search(r'"([^"]+)"', reader.read()).group(1)
  return tiny_bert.read_weights(os.path.join(str(output_dir), name))


def best_weights(output_dir):
  """Those that prediction takes."""
  best = json.loads(tiny_bert.read_text(
      os.path.join(output_dir, "best_checkpoint.json")))
  return tiny_bert.read_weights(os.path.join(output_dir, best["checkpoint"]))


def with_labels(data, folder, labels):
  shutil.copytree(data, str(folder))
  tiny_bert.write_text(str(folder / "labels.txt"),
                       u"".join(label + u"\n" for label in labels))
  return str(folder)


def last_checkpoint(folder):
  with open(os.path.join(folder, "checkpoint")) as reader:
    return os.path.join(folder, re.search(r'"([^"]+)"', reader.read()).group(1))


def test_labels_in_another_order_and_one_more(bert, data, trained, tmp_path):
  old = weights_of(trained)
  # (party time, fruit, animals) become (new, animals, party time, fruit).
  labels = ("new one", tiny_bert.LABELS[2]) + tiny_bert.LABELS[:2]
  more = with_labels(data, tmp_path / "data", labels)
  status, _, stderr, log = run(
      bert, more, tmp_path / "o", init_checkpoint=last_checkpoint(trained),
      init_bias_from_prior=True, **STILL)
  assert (status, stderr) == (0, "")
  new = weights_of(tmp_path / "o")
  np.testing.assert_array_equal(new["output_weights"][1:],
                                old["output_weights"][[2, 0, 1]])
  np.testing.assert_array_equal(new["output_bias"][1:],
                                old["output_bias"][[2, 0, 1]])
  assert 0 < np.abs(new["output_weights"][0]).max() <= 0.04
  # No text of 40 has the new label: log((0.5) / (39.5)).
  assert new["output_bias"][0] == pytest.approx(np.log(0.5 / 39.5), abs=1e-6)
  for name in new:
    if name.startswith("bert/") and not name.endswith(("_m", "_v")):
      np.testing.assert_array_equal(new[name], old[name])
  log = "\n".join(log)
  assert "3 of 4 labels from the checkpoint, matched by name in" in log
  assert "newly initialized: new one" in log
  assert "--init_bias_from_prior: for the 1 new labels" in log


def test_lost_labels_are_listed(bert, data, trained, tmp_path):
  rows = [json.loads(line) for line in tiny_bert.read_text(
      os.path.join(data, "train.jsonl")).splitlines()]
  for row in rows:
    row["labels"] = [label for label in row["labels"] if label == "fruit"]
  folder = tmp_path / "data"
  folder.mkdir()
  tiny_bert.write_jsonl(str(folder / "train.jsonl"), rows)
  tiny_bert.write_text(str(folder / "labels.txt"), u"fruit\n")
  status, _, stderr, log = run(
      bert, str(folder), tmp_path / "o",
      init_checkpoint=last_checkpoint(trained), **STILL)
  assert (status, stderr) == (0, "")
  assert any("not used: party time, %s" % tiny_bert.LABELS[2] in line
             for line in log)
  np.testing.assert_array_equal(weights_of(tmp_path / "o")["output_weights"][0],
                                weights_of(trained)["output_weights"][1])


def test_a_head_without_names_needs_a_word(bert, data, trained, tmp_path):
  alone = tmp_path / "alone"
  alone.mkdir()
  prefix = last_checkpoint(trained)
  for suffix in (".index", ".data-00000-of-00001"):
    shutil.copy(prefix + suffix, str(alone / ("model.ckpt-1" + suffix)))
  start = str(alone / "model.ckpt-1")
  status, _, stderr, _ = run(bert, data, tmp_path / "o", init_checkpoint=start)
  assert status == 2 and "--init_head=keep" in stderr
  assert not (tmp_path / "o" / "model_settings.json").exists()
  old = weights_of(trained)["output_weights"]
  status, _, stderr, log = run(bert, data, tmp_path / "keep", init_head="keep",
                               init_checkpoint=start, **STILL)
  assert (status, stderr) == (0, "")
  np.testing.assert_array_equal(
      weights_of(tmp_path / "keep")["output_weights"], old)
  status, _, stderr, log = run(bert, data, tmp_path / "new", init_head="new",
                               init_checkpoint=start, **STILL)
  assert (status, stderr) == (0, "")
  assert np.abs(weights_of(tmp_path / "new")["output_weights"]).max() <= 0.04
  assert any("newly initialized (--init_head=new)" in line for line in log)


# What lies beside the checkpoint says what shapes do not.


def test_a_head_of_another_pooling(bert, data, trained, tmp_path):
  start = last_checkpoint(trained)
  status, _, stderr, _ = run(bert, data, tmp_path / "o", pooling="cls",
                             init_checkpoint=start)
  assert status == 2 and "was trained with --pooling=mean" in stderr
  assert not (tmp_path / "o" / "model_settings.json").exists()
  status, _, stderr, _ = prepare(bert, data, tmp_path / "o", pooling="cls",
                                 init_checkpoint=start, init_head="new",
                                 **STILL)
  assert (status, stderr) == (0, "")


@pytest.mark.parametrize("changes, words", [
    ({"num_attention_heads": 4}, "bert_config_file has num_attention_heads 4, "
     "but"), ({"gelu_approximate": False}, "gelu_approximate False"),
    ({"hidden_act": "relu"}, "hidden_act relu"),
    ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05"),
    ({"hidden_dropout_prob": 0.0}, None),  # changes no result
])
def test_another_configuration(bert, data, tmp_path, changes, words):
  config = json.loads(tiny_bert.read_text(
      os.path.join(bert, "bert_config.json")))
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(dict(config, **changes)))
  status, _, stderr, _ = prepare(bert, data, tmp_path / "o",
                                 bert_config_file=str(path), **STILL)
  if words is None:
    assert (status, stderr) == (0, "")
  else:
    assert status == 2 and words in stderr, stderr


def test_another_vocabulary_of_the_same_size(bert, data, tmp_path):
  lines = tiny_bert.read_text(os.path.join(bert, "vocab.txt")).splitlines()
  path = str(tmp_path / "vocab.txt")
  shuffled = lines[:5] + lines[:4:-1]
  tiny_bert.write_text(path, u"".join(line + u"\n" for line in shuffled))
  status, _, stderr, _ = prepare(bert, data, tmp_path / "o", vocab_file=path)
  assert status == 2, stderr
  assert "have a different id in vocab_file" in stderr
  # A word of one's own in the place of another is told, and goes on.
  lines[-1] = u"mine"
  tiny_bert.write_text(path, u"".join(line + u"\n" for line in lines))
  status, _, stderr, log = prepare(bert, data, tmp_path / "o", vocab_file=path,
                                   **STILL)
  assert (status, stderr) == (0, "")
  assert sum("1 of the 32 tokens of" in line for line in log) == 1


def test_encoders_of_each_form_start_alike(bert, data, trained, tmp_path,
                                           monkeypatch):
  monkeypatch.setenv("BERT_MULTILABEL_CACHE", str(tmp_path / "cache"))
  start = tiny_bert.read_weights(os.path.join(bert, "bert_model.ckpt"))
  hf_dir = write_hf_dir(tmp_path / "hf", bert, start)
  (hf_dir / "1_Pooling").mkdir()
  (hf_dir / "1_Pooling" / "config.json").write_text(
      u'{"pooling_mode_mean_tokens": true}')
  for number, (place, pooling) in enumerate((
      (bert, "pooler"), (hf_dir, "mean"), (trained, "mean"))):
    out = tmp_path / ("o%d" % number)
    status, _, stderr, log = tiny_bert.call(
        run_multilabel_classifier, by_encoder(data, out, place))
    assert (status, stderr) == (0, "")
    expected = best_weights(trained) if place is trained else start
    found = weights_of(out)
    for name in expected:
      if name.startswith("bert/") and not name.endswith(("_m", "_v")):
        np.testing.assert_allclose(found[name], expected[name], 0, 1e-29)
    settings = json.loads(tiny_bert.read_text(str(out / "model_settings.json")))
    assert settings["pooling"] == pooling
    assert settings["encoder"] == {
        "place": str(place), "revision": None,
        "form": ["google", "hugging_face", "trained"][number]}
    assert any("the encoder recommends" in line for line in log) == (
        pooling == "mean")
  # The same command goes on, and does nothing more.
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier, by_encoder(data, out, trained))
  assert (status, stderr) == (0, "")
  assert any("already finished" in line for line in log)


def write_hf_dir(folder, bert, start):
  """The tiny BERT in Hugging Face's form."""
  folder.mkdir()
  config = json.loads(tiny_bert.read_text(
      os.path.join(bert, "bert_config.json")))
  rows = hf_tensors.bert_rows(config["num_hidden_layers"])
  safetensors_writer.write(str(folder / "model.safetensors"), {
      row.hf_name: start[row.name].T if row.transposed else start[row.name]
      for row in rows})
  (folder / "config.json").write_text(json.dumps(dict(
      config, model_type="bert", hidden_act="gelu_new")))
  shutil.copy(os.path.join(bert, "vocab.txt"), str(folder / "vocab.txt"))
  return folder


def test_a_revision_is_pinned(bert, data, tmp_path, monkeypatch):
  asked = []

  def resolve(place, cache_dir=None):
    asked.append(place)
    return release._replace(form="hub", revision="abc123", place=place)

  release = encoders.resolve(bert)
  monkeypatch.setattr(encoders, "resolve", resolve)
  for _ in range(2):
    status, _, stderr, _ = tiny_bert.prepare(
        by_encoder(data, tmp_path / "o", "owner/tiny@main"))
    assert (status, stderr) == (0, "")
  assert asked == ["owner/tiny@main", "owner/tiny@abc123"]
  settings = json.loads(tiny_bert.read_text(
      str(tmp_path / "o" / "model_settings.json")))
  assert settings["encoder"]["revision"] == "abc123"


@pytest.mark.parametrize("settings, words", [
    (dict(vocab_file="x"), "--encoder already sets --vocab_file"),
    (dict(init_checkpoint="x"), "--encoder already sets --init_checkpoint"),
    (dict(encoder="/none"), "there is no folder --encoder=/none"),
])
def test_encoder_flags_that_cannot_be(bert, data, tmp_path, settings, words):
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list(dict(
          dict(task_name="jsonl", data_dir=data, do_train=True, encoder=bert,
               output_dir=str(tmp_path / "o")), **settings)))
  assert status == 2 and words in stderr
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("place, words", [
    ("bert-base-uncased", "use --encoder=bert-base-uncased"),
    ("BAAI/bge-small-zh", "use --encoder=BAAI/bge-small-zh"),
    ("{tmp}", "is a folder, not a checkpoint prefix; use --encoder="),
    ("{tmp}/model.safetensors", "has weights in Hugging Face's format"),
    ("{tmp}/pytorch_model.bin", "has weights of PyTorch"),
    ("{tmp}/tf_model.h5", "has weights of Keras"),
    ("{tmp}/none.ckpt", "none.ckpt.index)."),
    ("bert_base_cased/bert_model.ckpt", "bert_model.ckpt.index)."),
])
def test_what_is_no_checkpoint(bert, data, tmp_path, place, words):
  for name in ("model.safetensors", "pytorch_model.bin", "tf_model.h5"):
    (tmp_path / name).write_text(u"x")
  status, _, stderr, _ = run(bert, data, tmp_path / "o",
                             init_checkpoint=place.format(tmp=tmp_path))
  assert status == 2 and words in stderr, stderr


def test_more_layers_than_there_are(bert, data, tmp_path):
  config = json.loads(tiny_bert.read_text(
      os.path.join(bert, "bert_config.json")))
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(dict(config, num_hidden_layers=1000)))
  status, _, stderr, _ = run(bert, data, tmp_path / "o",
                             bert_config_file=str(path))
  assert status == 2
  assert ("has 1 layer, but bert_config_file says num_hidden_layers is 1000"
          in stderr)


def cased_bert(folder, bert):
  shutil.copytree(bert, folder)
  path = os.path.join(folder, "vocab.txt")
  text = tiny_bert.read_text(path)
  for word in ("the", "is", "of", "and", "un", "we", "see", "one"):
    text = text.replace(u"\n%s\n" % word, u"\n%s\n" % word.capitalize())
  tiny_bert.write_text(path, text)
  return folder


@pytest.mark.parametrize("given, used, words", [
    (None, False, "has capital letters: using --do_lower_case=false"),
    (True, True, "are tokenized differently from the encoder's training"),
    (False, False, None)])
def test_case_of_the_vocabulary(bert, data, tmp_path, given, used, words):
  cased = cased_bert(str(tmp_path / "cased"), bert)
  status, _, stderr, log = prepare(cased, data, tmp_path / "o",
                                   do_lower_case=given, **STILL)
  assert (status, stderr) == (0, "")
  settings = json.loads(tiny_bert.read_text(
      str(tmp_path / "o" / "model_settings.json")))
  assert settings["do_lower_case"] is used
  about = [line for line in log if "capital letters" in line]
  # The same run goes on without a word about it.
  status, _, stderr, _ = prepare(cased, data, tmp_path / "o", **STILL)
  assert (status, stderr) == (0, "")
  assert len(about) == bool(words)
  assert not words or words in about[0]


def test_share_of_unknown_words(bert, data, tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  # 1 of 8 tokens is unknown, then 1 of 32.
  for name, text in (("a", u"zzz the a is of and we see"),
                     ("b", u"zzz the" + u" the" * 30)):
    tiny_bert.write_jsonl(str(folder / "train.jsonl"), [
        {"text": text, "labels": ["fruit"]}, {"text": text, "labels": []}])
    tiny_bert.write_text(str(folder / "labels.txt"), u"fruit\n")
    status, _, stderr, log = prepare(
        bert, str(folder), tmp_path / name, max_seq_length=64, **STILL)
    assert (status, stderr) == (0, "")
    expected = {"a": "12.50% of 16 tokens are [UNK]",
                "b": "3.12% of 64 tokens are [UNK]"}[name]
    assert any(expected in line for line in log), log
    assert any("more than 5% of the tokens" in l for l in log) == (name == "a")


def test_a_release_with_an_odd_vocabulary(bert, data, tmp_path):
  odd = str(tmp_path / "odd")
  shutil.copytree(bert, odd)
  path = os.path.join(odd, "vocab.txt")
  text = tiny_bert.read_text(path)
  tiny_bert.write_text(path, text.replace(u"\nsee\n", u"\nthe\n") + u"\n\n")
  status, _, stderr, log = prepare(odd, data, tmp_path / "o", **STILL)
  assert (status, stderr) == (0, "")
  assert any("has 1 duplicate line ('the' in lines" in line
             for line in log)
