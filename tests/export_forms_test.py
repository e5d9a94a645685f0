# SPDX-License-Identifier: Apache-2.0
"""Tests of what an export takes over, and of its forms.

Which checkpoint, decision rule and form of long texts; tokenizer in the graph,
ONNX, float16. That the tokenizer in the graph gives the right ids is in
graph_tokenizer_test.py; here words stand between spaces.
"""

import json
import os
import sys

import numpy as np
import parity_texts
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_export
import tiny_model

import export_saved_model
from multilabel import decisions
from multilabel.export import conformance
from multilabel.export import export_check
from multilabel.export import graph_tokenizer
from multilabel.export import run_export
from multilabel.export import signatures
from multilabel.features import encoding
from multilabel.features import feature_rows
import predict_session


IDS = tiny_export.IDS
WORDS = [word for word in tiny_bert.vocabulary()[5:]
         if not word.startswith("##")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A trained directory; not to be changed."""
  folder = str(tmp_path_factory.mktemp("made") / "model")
  tiny_model.make(folder)
  return folder


@pytest.fixture(scope="module")
def predictor(made):
  with predict_session.SessionPredictor(made) as loaded:
    yield loaded


# The decision rule.


@pytest.mark.parametrize("top_k", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("always_one_label", [False, True])
@pytest.mark.parametrize("kind", ["one", "each"])
def test_decision_rule(kind, always_one_label, top_k):
  """Ties, scores at a threshold, rows without a label: as `DecisionRule`."""
  rng = np.random.RandomState(top_k or 0)
  grid = np.linspace(0, 1, 11).astype(np.float32)
  scores = np.concatenate([
      rng.choice(grid, [500, 5]), rng.choice(grid[:4], [500, 5]),
      rng.uniform(size=[500, 5]), np.full([1, 5], 0.7), np.zeros([1, 5])]
                          ).astype(np.float32)
  threshold = 0.7 if kind == "one" else [0.7, 0.3, 0.1, 0.9, 0.5]
  rule = decisions.DecisionRule(threshold, top_k, always_one_label)
  labels = [u"a", u"b", u"\u732b", u"d", u"e"]
  builder = signatures.SignatureBuilder(
      FakeTrained(labels, rule), signatures.Weights(), IDS)
  with tf.Graph().as_default(), tf.Session() as session:
    probabilities = tf.placeholder(tf.float32, [None, 5])
    outputs = session.run(dict(builder._named(probabilities)),
                          {probabilities: scores})
  want = rule.apply(scores)
  # Some are decided either way, or the comparison would say nothing.
  assert 0.05 < want.mean() < 0.95
  columns = np.array([[labels.index(label.decode("utf-8")) for label in row]
                      for row in outputs["labels"]])
  np.testing.assert_array_equal(
      columns, np.argsort(-scores, axis=1, kind="stable"))
  np.testing.assert_array_equal(
      outputs["above_threshold"], np.take_along_axis(want, columns, axis=1))


def test_labels_by_expected_f1_are_left_to_the_client():
  builder = signatures.SignatureBuilder(
      FakeTrained([u"a", u"b"], decisions.DecisionRule("expected_f1")),
      signatures.Weights(), IDS)
  with tf.Graph().as_default():
    outputs = dict(builder._named(tf.zeros([1, 2])))
  assert sorted(outputs) == ["labels", "probabilities", "scores"]
  result = export_saved_model.ExportResult(
      "p", ["text"], "c", 7, decisions.DecisionRule("expected_f1"),
      encoding.TRUNCATE_HEAD, 0.0, None, None)
  assert "The signatures have no above_threshold: the graph of a " in (
      export_saved_model.describe(result))


class FakeTrained(object):
  """What `SignatureBuilder` reads of a `TrainedModel`."""

  bert_config = calibration = None
  settings = {}
  long_text = encoding.TRUNCATE_HEAD

  def __init__(self, labels, decision):
    self.labels = labels
    self.decision = decision


def test_stored_rule_is_exported(tmp_path, unchecked):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, threshold=[0.75, 0.9, 0.61], top_k=1,
                            always_one_label=True)
  result = export_saved_model.export(folder, str(tmp_path / "export"))
  assert result.decision == ([0.75, 0.9, 0.61], 1, True)
  outputs = run_export.Export(result.path).run(
      "predict_labels", tiny_export.batch_of(tiny_export.TEXTS))
  want = tiny_export.expected(weights, tiny_export.TEXTS)
  np.testing.assert_allclose(want, [
      [0.68, 0.47, 0.62],  # one passes, and is not the best
      [0.65, 0.37, 0.55],  # none passes: the best
      [0.83, 0.58, 0.49], [0.75, 0.26, 0.55], [0.71, 0.40, 0.61],
      [0.68, 0.45, 0.61], [0.79, 0.42, 0.52],
      [0.77, 0.48, 0.63]  # two pass: the better
  ], atol=0.006)
  names = [label.encode("utf-8") for label in tiny_bert.LABELS]
  assert outputs["labels"][outputs["above_threshold"]].tolist() == [
      names[number] for number in (2, 0, 0, 0, 2, 2, 0, 0)]


# The checkpoint.


def test_best_checkpoint(tmp_path, unchecked):
  folder = str(tmp_path / "model")
  best = tiny_model.make(folder)
  tiny_model.write_checkpoint(
      folder, tiny_model.random_weights(len(tiny_bert.LABELS), 4), step=9)
  newest = export_saved_model.export(folder, str(tmp_path / "newest"))
  assert newest.step == 9
  tiny_bert.write_text(
      os.path.join(folder, "best_checkpoint.json"), json.dumps({
          "checkpoint": "model.ckpt-7", "step": 7, "metric": "micro_f1",
          "value": 0.5, "evaluations": []}))
  result = export_saved_model.export(folder, str(tmp_path / "best"))
  assert (result.step, os.path.basename(result.checkpoint)) == (
      7, "model.ckpt-7")
  stored = tiny_bert.read_weights(os.path.join(
      result.path, "variables", "variables"))
  np.testing.assert_array_equal(stored["output_weights"],
                                best["output_weights"])
  assert export_saved_model.describe(result).startswith(
      "Wrote %s: model.ckpt-7 (step 7); threshold 0.5; " % result.path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value, tmp_path):
  """Though the word is in none of the texts that are compared."""
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder)
  weights["bert/embeddings/word_embeddings"][IDS[u"\u72d7"], 3] = value
  tiny_model.write_checkpoint(folder, weights)
  with pytest.raises(ValueError, match="NaN or infinite weights"):
    export_saved_model.export(folder, str(tmp_path / "export"))
  assert not (tmp_path / "export").exists()


# Long texts.


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def expected_of_long(weights, text, form, stride, pooling):
  """BERT in numpy, 16 ids a row: the pieces of a text, and their logits."""
  ids = [IDS[word] for word in text.split()]
  if len(ids) <= 14:
    pieces = [ids]
  elif form == "truncate_head":
    pieces = [ids[:14]]
  elif form == "truncate_tail":
    pieces = [ids[-14:]]
  elif form == "head_tail":
    pieces = [ids[:3] + ids[-11:]]  # 14 * 128 / 510 is 3.5
  else:
    starts = [s for s in range(0, len(ids), stride) if s + 14 < len(ids)]
    pieces = [ids[s:s + 14] for s in starts] + [ids[-14:]]
  rows = [([IDS["[CLS]"]] + piece + [IDS["[SEP]"]], [0] * (len(piece) + 2))
          for piece in pieces]
  probabilities = tiny_model.probabilities(weights, rows)
  logits = np.log(probabilities) - np.log1p(-probabilities)
  return sigmoid(logits.max(axis=0) if pooling == "max" else
                 logits.mean(axis=0))


LONG_TEXT_FORMS = [
    ("truncate_head", 0, "max"), ("truncate_tail", 0, "max"),
    ("head_tail", 0, "max"), ("windows", 5, "max"), ("windows", 5, "mean"),
    ("windows", 14, "mean")]


@pytest.mark.skipif(tiny_export.IS_TF1, reason="texts need TensorFlow 2")
@pytest.mark.parametrize("form, stride, pooling, frozen", [
    form + (form[1] == 14,) for form in LONG_TEXT_FORMS])
def test_long_texts(form, stride, pooling, frozen, tmp_path, monkeypatch,
                    unchecked):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, max_seq_length=16, long_text=form,
                            stride=stride, window_pooling=pooling)
  monkeypatch.setattr(graph_tokenizer, "GraphTokenizer",
                      tiny_export.WordTokenizer)
  result = export_saved_model.export(
      folder, str(tmp_path / "export"), raw_text=True, frozen=frozen)
  assert result.long_text == (form, stride, pooling)
  conformance.check(result.path)
  rng = np.random.RandomState(3)
  texts = [u" ".join(rng.choice(WORDS, size)) for size in (
      list(range(0, 60, 3)) + [13, 14, 15, 19, 28, 29, 500])]
  export = run_export.Export(result.path)
  outputs = export.run(
      "text", {"text": [text.encode("utf-8") for text in texts]})
  # Sorted names, scores and decisions go with the pooled probabilities.
  np.testing.assert_array_equal(
      outputs["scores"], np.sort(outputs["probabilities"], axis=1)[:, ::-1])
  assert [value.shape for value in outputs.values()] == [(27, 3)] * 4
  np.testing.assert_allclose(outputs["probabilities"], [
      expected_of_long(weights, text, form, stride, pooling)
      for text in texts], atol=1e-5)
  with predict_session.SessionPredictor(folder) as predictor:
    np.testing.assert_allclose(outputs["probabilities"],
                               predictor.predict(texts), rtol=0, atol=1e-6)
  empty = export.run("text", {"text": np.zeros([0], object)})
  assert [value.shape for value in empty.values()] == [(0, 3)] * 4


@pytest.mark.skipif(tiny_export.IS_TF1, reason="texts need TensorFlow 2")
def test_windows_are_checked(tmp_path, monkeypatch):
  """In the other process, the pooled text among them."""
  folder = str(tmp_path / "model")
  tiny_model.make(folder, long_text="windows", stride=11)
  monkeypatch.setattr(graph_tokenizer, "GraphTokenizer",
                      tiny_export.WordTokenizer)
  monkeypatch.setattr(export_check, "_TEXTS", (u"the apple", u"", u"a pear"))
  result = export_saved_model.export(
      folder, str(tmp_path / "export"), raw_text=True)
  assert result.difference <= 1e-6
  assert "; long texts: windows (stride 11, max).\n" in (
      export_saved_model.describe(result))


@pytest.mark.parametrize("form, stride, pooling", LONG_TEXT_FORMS)
def test_raw_text(form, stride, pooling, tmp_path, monkeypatch):
  """The whole of it, with tensorflow-text."""
  try:
    import tensorflow_text  # noqa: F401  pylint: disable=all
  except ImportError as error:
    pytest.skip("no tensorflow-text: %s" % error)
  if form != "windows":
    monkeypatch.setattr(export_check, "Checker", tiny_export.Unchecked)
  folder = str(tmp_path / "model")
  tiny_model.make(folder, long_text=form, stride=stride,
                  window_pooling=pooling)
  result = export_saved_model.export(
      folder, str(tmp_path / "export"), raw_text=True)
  assert result.signatures[-1] == "text"
  conformance.check(result.path)
  export = run_export.Export(result.path)
  texts = parity_texts.make()
  outputs = export.run("text", {"text": [t.encode("utf-8") for t in texts]})
  with predict_session.SessionPredictor(folder) as predictor:
    np.testing.assert_allclose(outputs["probabilities"],
                               predictor.predict(texts), rtol=0, atol=1e-6)
  answer = export.answer({"signature_name": "text", "instances": texts[-3:]})
  assert [sorted(row) for row in answer["predictions"]] == [
      ["above_threshold", "labels", "probabilities", "scores"]] * 3


# ONNX.


def test_onnx(made, predictor, tmp_path, unchecked):
  onnxruntime = pytest.importorskip("onnxruntime")
  pytest.importorskip("onnx")
  result = export_saved_model.export(made, str(tmp_path), onnx=True)
  assert result.onnx_difference <= 1e-5
  session = onnxruntime.InferenceSession(
      os.path.join(result.path, "assets.extra", "model.onnx"),
      providers=["CPUExecutionProvider"])
  texts = parity_texts.make()
  batch = feature_rows.make_batch(
      [row for row, in predictor.encode(texts)])
  answer, = session.run(None, {
      value.name: batch[value.name.split(":")[0]]
      for value in session.get_inputs()})
  np.testing.assert_allclose(answer, predictor.predict(texts), rtol=0,
                             atol=1e-5)


def test_packages_that_are_missing(made, tmp_path, monkeypatch):
  for name in ("tensorflow_text", "onnx"):
    monkeypatch.setitem(sys.modules, name, None)
  for arguments, message in (
      ({"raw_text": True}, "--raw_text needs the tensorflow-text that"),
      ({"onnx": True}, "ONNX needs the packages onnx and onnxruntime")):
    with pytest.raises(ValueError, match=message) as raised:
      export_saved_model.export(made, str(tmp_path), **arguments)
    assert "\n" not in str(raised.value)
  assert os.listdir(str(tmp_path)) == []


# float16.


def test_float16(tmp_path):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder)
  result = export_saved_model.export(
      folder, str(tmp_path / "export"), weights_dtype="float16")
  stored = tiny_bert.read_weights(os.path.join(
      result.path, "variables", "variables"))
  for name, value in stored.items():
    np.testing.assert_array_equal(value, weights[name].astype(np.float16))
    assert value.dtype == np.float16
  conformance.check(result.path)
  # numpy's BERT of the rounded weights, and how far that is from the exact.
  rounded = {name: value.astype(np.float16).astype(np.float32)
             for name, value in weights.items()}
  want = tiny_export.expected(rounded, tiny_export.TEXTS)
  change = np.abs(
      want - tiny_export.expected(weights, tiny_export.TEXTS)).max()
  answer = run_export.Export(result.path).run(
      "serving_default", tiny_export.batch_of(tiny_export.TEXTS))
  np.testing.assert_allclose(answer["probabilities"], want, atol=1e-5)
  assert 1e-4 < change < 5e-3
  assert 1e-5 < result.rounding < 5e-3
  assert result.difference <= 1e-6
  assert "rounding to float16 changed them by up to" in (
      export_saved_model.describe(result))
  if not tiny_export.IS_TF1:
    loaded = tf.saved_model.load_v2(result.path)
    answer = loaded.signatures["ids_only"](input_ids=tf.constant(
        tiny_export.batch_of(tiny_export.TEXTS)["input_ids"]))
    np.testing.assert_allclose(answer["probabilities"], want, atol=1e-5)


def test_weight_too_large_for_float16(tmp_path, unchecked):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder)
  weights["output_bias"][1] = -7e4
  tiny_model.write_checkpoint(folder, weights)
  with pytest.raises(ValueError) as raised:
    export_saved_model.export(
        folder, str(tmp_path / "export"), weights_dtype="float16")
  assert str(raised.value) == (
      "output_bias has the weight 70000, but the maximum of float16 is 65504; "
      "leave out --weights_dtype.")
  assert os.listdir(str(tmp_path / "export")) == []
