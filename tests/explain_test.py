# SPDX-License-Identifier: Apache-2.0
"""Tests of explanations: attributions, choice of labels, the script.

Oracles: numeric differentiation, BERT in numpy, and a model that was trained
so that it is known which words make a label.
"""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model
from tiny_bert import error_of

import explain_labels
from multilabel.reporting import attribution
from multilabel.reporting import occlusion
from multilabel.reporting import coloured_text
from multilabel.reporting import words as text_words
from multilabel.storage import trained_model
import run_multilabel_classifier


CAT, DOG = u"\u732b", u"\u72d7"
ANIMAL = u"\u52a8\u7269"


# Attributions of a model with random weights.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Function of a pooling to (Explainer, weights, folder), made once."""
  made = {}

  def get(pooling):
    if pooling not in made:
      folder = str(tmp_path_factory.mktemp(pooling) / "model")
      weights = tiny_model.make(folder, seed=6, pooling=pooling)
      made[pooling] = (attribution.Explainer(folder), weights, folder)
    return made[pooling]

  yield get
  for explainer, _, _ in made.values():
    explainer.close()


@pytest.fixture(scope="module")
def mean_model(models):
  """(Explainer, weights, folder)"""
  return models("mean")


POOLINGS = ("mean", "cls", "pooler")
TEXTS = [u"the apple is " + CAT + u" ,",
         u"we see one pear and a plum of " + DOG, u"un"]


def log_odds(weights, rows, pooling="mean"):
  probabilities = tiny_model.probabilities(weights, rows, pooling)
  return np.log(probabilities) - np.log1p(-probabilities)


def weights_of(explanations):
  """float64 `[words, labels]`."""
  return np.transpose([[word.weight for word in label.words]
                       for label in explanations])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradient_is_the_slope_of_the_logit(models, pooling, text):
  # pylint: disable=protected-access
  explainer, _, _ = models(pooling)
  weights = weights_of(explainer.explain(
      text, list(tiny_bert.LABELS), method="gradient"))
  ids, segment_ids = tiny_model.encode(text)
  rows = [(ids, segment_ids)]
  embedding = explainer._run(explainer._embedding, rows)

  def logits_at(place, scale):
    changed = embedding.copy()
    changed[0, place] *= scale
    return explainer._run(explainer._inference.logits, rows,
                          {explainer._embedding: changed})[0].astype(float)

  def change(place, step):
    return logits_at(place, 1 + step) - logits_at(place, 1 - step)

  # Central differences of fourth order.
  slopes = [(8 * change(place, 0.02) - change(place, 0.04)) / (12 * 0.02)
            for place in range(1, len(ids) - 1)]
  np.testing.assert_allclose(weights, slopes, atol=1e-3)
  assert np.abs(weights).max() > 0.1


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_integrated_adds_up(models, pooling, monkeypatch, text):
  explainer, weights, _ = models(pooling)
  monkeypatch.setattr(attribution, "INTEGRATION_STEPS", 300)
  found = weights_of(explainer.explain(
      text, list(tiny_bert.LABELS), method="integrated")).sum(axis=0)
  ids, segment_ids = tiny_model.encode(text)
  empty = [ids[0]] + [0] * (len(ids) - 2) + [ids[-1]]
  whole, without = log_odds(
      weights, [(ids, segment_ids), (empty, segment_ids)], pooling)
  np.testing.assert_allclose(found, whole - without, atol=5e-3)
  assert np.abs(whole - without).max() > 0.1


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_occlusion_is_the_text_without_the_word(models, pooling, text):
  explainer, weights, _ = models(pooling)
  found = weights_of(explainer.explain(
      text, list(tiny_bert.LABELS), method="occlusion"))
  split = text.split()
  rows = [tiny_model.encode(text)] + [
      tiny_model.encode(u" ".join(split[:i] + split[i + 1:]))
      for i in range(len(split))]
  odds = log_odds(weights, rows, pooling)
  np.testing.assert_allclose(found, odds[0] - odds[1:], atol=1e-4)


def test_pieces_of_a_word_go_together(mean_model):
  explainer, weights, _ = mean_model
  label, = explainer.explain(u"apples, one", ["fruit"], method="occlusion")
  assert [tuple(word[:3]) for word in label.words] == [
      ("apples", 0, 6), (",", 6, 7), ("one", 8, 11)]
  odds = log_odds(weights, [tiny_model.encode(text) for text in (
      u"apple ##s , one", u", one")])[:, 1]
  assert label.words[0].weight == pytest.approx(odds[0] - odds[1], abs=1e-4)


@pytest.mark.parametrize("method", occlusion.METHODS)
def test_pair(mean_model, method):
  explainer, weights, _ = mean_model
  label, = explainer.explain((u"the apple", u"the"), ["fruit"], method=method)
  assert [tuple(word[:3]) + (word.part,) for word in label.words] == [
      ("the", 0, 3, 0), ("apple", 4, 9, 0), ("the", 0, 3, 1)]
  odds = log_odds(weights, [tiny_model.encode(*pair) for pair in (
      (u"the apple", u"the"), (u"apple", u"the"), (u"the apple", u""))])[:, 1]
  assert label.probability == pytest.approx(
      1 / (1 + np.exp(-odds[0])), abs=1e-5)
  if method == "occlusion":
    assert label.words[0].weight == pytest.approx(odds[0] - odds[1], abs=1e-4)
    assert label.words[2].weight == pytest.approx(odds[0] - odds[2], abs=1e-4)


@pytest.mark.parametrize("method", occlusion.METHODS)
def test_words_that_were_cut_off_weigh_nothing(mean_model, method):
  explainer, _, _ = mean_model
  text = u"the apple " * 20
  label, = explainer.explain(text, ["fruit"], method=method)
  assert len(label.words) == 40
  assert [word.weight is None for word in label.words] == (
      [False] * 30 + [True] * 10)
  assert text[label.words[39].start:label.words[39].end] == "apple"


@pytest.mark.parametrize("method", occlusion.METHODS)
def test_text_without_words(mean_model, method):
  label, = mean_model[0].explain(u" \0", ["fruit"], method=method)
  assert label.words == []
  assert 0 < label.probability < 1


# Windows of long texts.


def windows_model(folder, target, **settings):
  """A copy of a trained directory that reads long texts in windows."""
  shutil.copytree(folder, target)
  path = os.path.join(target, "model_settings.json")
  with io.open(path, encoding="utf-8") as reader:
    changed = json.load(reader)
  changed.update({"max_seq_length": 10, "long_text": "windows", "stride": 5},
                 **settings)
  trained_model.write_settings(target, changed)
  return target


# Each word once, so windows of 8 words begin at 0 and 4.
TWELVE = (u"the apple is pear of plum and " + CAT + u" we " + DOG +
          u" see one").split()
STARTS = (0, 4)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_windows(mean_model, tmp_path, pooling):
  whole, weights, folder = mean_model
  copy = windows_model(folder, str(tmp_path / "copy"), window_pooling=pooling)
  pool = np.max if pooling == "max" else np.mean
  labels = list(tiny_bert.LABELS)

  def pooled(without=None):
    return pool(log_odds(weights, [tiny_model.encode(u" ".join(
        TWELVE[i] for i in range(start, start + 8) if i != without))
                                   for start in STARTS]), axis=0)

  with attribution.Explainer(copy) as explainer:
    found = {method: explainer.explain(u" ".join(TWELVE), labels, method=method)
             for method in occlusion.METHODS}
  np.testing.assert_allclose(
      [label.probability for label in found["occlusion"]],
      1 / (1 + np.exp(-pooled())), atol=1e-5)
  # With "max", another window may be the highest without the word.
  np.testing.assert_allclose(
      weights_of(found["occlusion"]),
      [pooled() - pooled(i) for i in range(12)], atol=1e-4)
  for method in ("gradient", "integrated"):
    expected = np.zeros([12, 3])
    parts = [whole.explain(u" ".join(TWELVE[start:start + 8]), labels,
                           method=method) for start in STARTS]
    highest = np.argmax([[label.probability for label in part]
                         for part in parts], axis=0)
    for i, start in enumerate(STARTS):
      share = 0.5 if pooling == "mean" else (highest == i).astype(float)
      expected[start:start + 8] += share * weights_of(parts[i])
    np.testing.assert_allclose(
        weights_of(found[method]), expected, atol=1e-4)
  assert set(highest) == {0, 1}


# A model of which it is known what it learned.


def make_rows(size, seed):
  """Texts in which one word makes each label, and others make none."""
  rng = random.Random(seed)
  plain = [word for word in tiny_bert.FILLERS if not word.startswith("##")]
  rows = []
  for number in range(size):
    labels = [label for label in tiny_bert.LABELS if rng.random() < 0.4]
    words = [rng.choice(tiny_bert.WORDS_BY_LABEL[label]) for label in labels]
    words += [rng.choice(plain) for _ in range(rng.randint(3, 12))]
    rng.shuffle(words)
    rows.append({"id": str(number), "text": u" ".join(words),
                 "labels": labels})
  return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A directory trained on `make_rows`."""
  folder = tmp_path_factory.mktemp("trained")
  bert = tiny_bert.make_bert(folder / "bert")
  data = tiny_bert.make_data(folder / "data")
  tiny_bert.write_jsonl(os.path.join(data, "train.jsonl"), make_rows(160, 1))
  output = str(folder / "output")
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output, num_train_epochs=20, learning_rate=0.005))
  assert status == 0, stderr
  return output


@pytest.fixture(scope="module")
def taught(trained):
  with attribution.Explainer(trained) as explainer:
    yield explainer


@pytest.mark.parametrize("method", occlusion.METHODS)
def test_clue_words_weigh_most(taught, method):
  total = best = predicted = 0
  for row in make_rows(60, seed=77):
    for label in taught.explain(row["text"], row["labels"], method=method):
      strongest = max(label.words, key=lambda word: word.weight)
      total += 1
      predicted += label.is_predicted
      best += strongest.word in tiny_bert.WORDS_BY_LABEL[label.label]
  assert total > 50
  assert predicted >= 0.95 * total
  # The gradient at the text itself misses what has reached its limit there.
  assert best >= (0.85 if method == "gradient" else 0.95) * total


def test_clue_word_in_a_later_window(trained, taught, tmp_path):
  text = u"we see the one of a " * 6 + u"Plum and " + u"is the a , " * 5
  label, = taught.explain(text, ["fruit"])
  assert not label.is_predicted
  assert [word.weight for word in label.words if word.word == "Plum"] == [None]
  copy = windows_model(trained, str(tmp_path / "windows"))
  with attribution.Explainer(copy) as explainer:
    for method in occlusion.METHODS:
      label, = explainer.explain(text, ["fruit"], method=method)
      assert label.is_predicted
      assert None not in [word.weight for word in label.words]
      assert max(label.words, key=lambda word: word.weight).word == "Plum"


# Which labels are explained; what is refused.


def test_labels_of_the_text(taught):
  text = u"the apple is of " + CAT
  found = taught.explain(text)
  assert {label.label for label in found} == {"fruit", ANIMAL}
  assert all(label.is_predicted for label in found)
  assert found[0].probability >= found[1].probability
  named = taught.explain(text, ["party time", "fruit"])
  assert [label.label for label in named] == ["party time", "fruit"]
  assert [label.is_predicted for label in named] == [False, True]


def test_nearest_label_where_none_passes(taught):
  every = taught.explain(u"the apple", list(tiny_bert.LABELS))
  label, = taught.explain(u"the apple", threshold=1.0)
  assert label.label == max(every, key=lambda label: label.probability).label
  assert not label.is_predicted
  assert len(taught.explain(u"the apple", threshold=0.0)) == 3


def test_the_directory_decides_until_it_is_closed(trained, tmp_path):
  copy = str(tmp_path / "copy")
  shutil.copytree(trained, copy)
  path = os.path.join(copy, "model_settings.json")
  with io.open(path, encoding="utf-8") as reader:
    settings = json.load(reader)
  settings.update(threshold=[0.0, 0.0, 1.0], top_k=1,
                  threshold_kind="tune_per_label")
  trained_model.write_settings(copy, settings)
  with attribution.Explainer(copy) as explainer:
    label, = explainer.explain(u"the apple")
    assert label.label == "fruit" and label.is_predicted
  explainer.close()
  assert "closed" in error_of(explainer.explain, u"the apple")


def test_refusals(mean_model):
  explainer = mean_model[0]
  message = error_of(explainer.explain, u"a", ["Fruit"])
  assert message == (u"there is no label Fruit; there are party time, fruit, "
                     u"%s." % ANIMAL)
  assert "list of names" in error_of(explainer.explain, u"a", "fruit")
  assert "integrated, gradient, occlusion" in error_of(
      explainer.explain, u"a", method="lime")
  for text in (None, 3, [], (u"a", None), (u"a", u"b", u"c"), b"a"):
    assert "(str, str)" in error_of(explainer.explain, text)
  assert "batch_size is 0" in error_of(attribution.Explainer, mean_model[2], 0)


def test_many_labels_are_not_all_listed():
  # pylint: disable=protected-access
  message = occlusion._name_labels(
      "lable 499", ["label %d" % i for i in range(500)])
  assert message.startswith("there are 500, including label 499, ")
  assert len(message) < 70


def test_broken_directories(mean_model, tmp_path):
  assert "is not a directory" in error_of(
      attribution.Explainer, str(tmp_path / "none"))
  copy = str(tmp_path / "copy")
  shutil.copytree(mean_model[2], copy)
  tiny_model.write_checkpoint(copy, tiny_model.random_weights(4, seed=1))
  message = error_of(attribution.Explainer, copy)
  assert "model.ckpt-7" in message
  for name in os.listdir(copy):
    if name.startswith(("model.ckpt", "checkpoint")):
      os.remove(os.path.join(copy, name))
  assert "has no checkpoint" in error_of(attribution.Explainer, copy)


def test_weights_that_are_no_numbers(mean_model, tmp_path):
  copy = str(tmp_path / "copy")
  shutil.copytree(mean_model[2], copy)
  weights = tiny_model.random_weights(3, seed=1)
  weights["output_bias"][1] = np.nan
  tiny_model.write_checkpoint(copy, weights)
  with attribution.Explainer(copy) as explainer:
    with pytest.raises(FloatingPointError) as raised:
      explainer.explain(u"the apple")
  assert "NaN or infinite" in str(raised.value)


def test_graph_does_not_grow(mean_model):
  # pylint: disable=protected-access
  graph = mean_model[0]._inference.logits.graph
  before = len(graph.get_operations())
  for method in occlusion.METHODS:
    mean_model[0].explain(u"the apple", list(tiny_bert.LABELS), method=method)
  assert len(graph.get_operations()) == before
  assert graph.finalized
  assert not tf.get_default_graph().get_operations()


def test_no_embeddings_to_find():
  graph = tf.Graph()
  with graph.as_default():
    tf.zeros([2, 3, 4], name="bert/embeddings/x")
  assert "0 outputs [batch, tokens, width] of bert/embeddings/" in (
      error_of(attribution.find_embedding_output, graph))


# Occlusion with any predictor: the same, from probabilities.


def test_occlusion_with_a_predictor(mean_model):
  explainer, weights, _ = mean_model
  text = u"THE apple,  is " + CAT

  def predict(texts):
    return tiny_model.probabilities(weights, [
        tiny_model.encode(part.lower().replace(",", " , ")) for part in texts])

  found = text_words.occlusion_weights(predict, text)
  assert [tuple(word[:3]) + (word.part,) for word in found] == [
      ("THE", 0, 3, 0), ("apple", 4, 9, 0), (",", 9, 10, 0),
      ("is", 12, 14, 0), (CAT, 15, 16, 0)]
  np.testing.assert_allclose(
      [word.weight for word in found], weights_of(explainer.explain(
          text, list(tiny_bert.LABELS), method="occlusion")), atol=1e-4)


# The script.


def flag_values(folder, **changes):
  """What `explain_all` and `check_flags` need of absl's flags."""
  values = dict(model_dir=folder, label=None, threshold=None, color="auto",
                method="integrated", text_pair=None, output_html=None)
  return types.SimpleNamespace(**dict(values, **changes))


def test_script_writes_lines_and_page(trained, tmp_path):
  page = str(tmp_path / "page.html")
  written = []
  explain_labels.explain_all(
      flag_values(trained, output_html=page),
      [u"the Apple", u"<script> " + CAT], False, written.append)
  lines = u"".join(written).split(u"\n")
  assert re.match(r"fruit\t0\.\d{3}$", lines[0])
  assert re.match(r"  the\t[+-]\d+\.\d{4}$", lines[1])
  assert re.match(r"  Apple\t\+\d+\.\d{4}$", lines[2])
  assert lines[3] == u"" and lines[4].startswith(ANIMAL)
  html = tiny_bert.read_text(page)
  assert u"&lt;</span>" in html or u"&lt;" in html
  assert u"<script" not in html
  assert u"Model output, checkpoint model.ckpt-" in html
  assert os.listdir(str(tmp_path)) == ["page.html"]


def test_script_colours_and_pairs(trained):
  written = []
  explain_labels.explain_all(
      flag_values(trained, label=["fruit"], text_pair=u"plum",
                  method="occlusion"),
      [u"the"], True, written.append)
  text = u"".join(written)
  assert u"\033[38;5;16;48;5;196mplum\033[0m" in text
  assert text.endswith(coloured_text.terminal_legend())


@pytest.mark.parametrize("color, is_terminal, environment, expected", [
    ("auto", True, {}, True),
    ("auto", False, {}, False),
    ("auto", True, {"NO_COLOR": "1"}, False),
    ("auto", True, {"NO_COLOR": ""}, True),
    ("auto", True, {"TERM": "dumb"}, False),
    ("always", False, {"NO_COLOR": "1"}, True),
    ("never", True, {}, False),
])
def test_when_to_colour(color, is_terminal, environment, expected):
  assert explain_labels.wants_color(color, is_terminal, environment) is expected


@pytest.mark.parametrize("arguments, message", [
    ([u"a"], u"--model_dir must be given"),
    ([u"--model_dir=MODEL"], u"give a text"),
    ([u"--model_dir=MODEL", u"--threshold=2", u"a"], u"from 0 to 1"),
    ([u"--model_dir=MODEL", u"--text_pair=b", u"a", u"c"], u"one text"),
    ([u"--model_dir=MODEL", u"a\udcff"], u"text 1 of the command line"),
    ([u"--model_dir=MODEL", u"--label=none", u"a"],
     u"there is no label none; there are party time, fruit, " + ANIMAL),
    ([u"--model_dir=MODEL", u"--method=lime", u"a"], u"occlusion"),
    ([u"--model_dir=MODEL", u"--output_html=no/page.html", u"a"],
     u"is not a writable directory"),
    ([u"--model_dir=MODEL", u"--output_html=MODEL", u"a"], u"is a directory"),
    ([u"--model_dir=MODEL", u"--output_html=MODEL/vocab.txt", u"a"],
     u"vocab.txt exists and is not an HTML page"),
    ([u"--model_dir=no", u"a"], u"model_dir no is not a directory"),
])
def test_mistakes_end_in_a_sentence(mean_model, arguments, message):
  status, stdout, stderr, _ = tiny_bert.call(
      explain_labels,
      [part.replace(u"MODEL", mean_model[2]) for part in arguments])
  assert status == 2
  assert message in stderr and stderr.count(u"\n") == 1
  assert stdout == u""


def test_script_in_a_process_of_its_own(mean_model):
  done = subprocess.run(
      [sys.executable, "explain_labels.py",
       "--model_dir=" + mean_model[2], "--label=fruit", u"\x1b[1m " + CAT],
      cwd=tiny_bert.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      stdin=subprocess.DEVNULL, env=dict(os.environ, PYTHONIOENCODING="ascii"),
      timeout=300)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.decode("utf-8").split("\n")
  assert lines[0].startswith("fruit\t0.")
  assert lines[-2].startswith(u"  " + CAT + u"\t")
  assert b"\x1b" not in done.stdout
