# SPDX-License-Identifier: Apache-2.0
"""Tests of --calibrate: the fit, and that everything that answers uses it."""

import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_export
import tiny_model

import export_saved_model
from multilabel import calibration
from multilabel.export import export_check
from multilabel.export import hugging_face
from multilabel.export import run_export
from multilabel.export import signatures
from multilabel.storage import checkpoint_choice
from multilabel.storage import safetensors_reader
from multilabel.storage import trained_model
import predict_session
import run_multilabel_classifier


LABELS = tiny_bert.LABELS


def make_dev(num_texts=400, num_labels=3, seed=0):
  """Logits that are twice too sure and shifted, and their labels."""
  rng = np.random.RandomState(seed)
  true = rng.normal(-1, 1.5, [num_texts, num_labels])
  labels = rng.uniform(size=true.shape) < 1 / (1 + np.exp(-true))
  return labels, (2 * true + np.array([1, 0, -2])[:num_labels]).astype(
      np.float32)


def cost(labels, logits, scale, shift, prior_scale):
  """What the fit minimises, for one label or for all cells."""
  z = scale * np.asarray(logits, np.float64) + shift
  return np.sum(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) -
                labels * z) + 0.5 * ((scale - prior_scale) ** 2 + shift ** 2)


def least(function, low, high):
  """(argument, value) of the minimum of a convex function, by thirds."""
  while high - low > 1e-8:
    left, right = low + (high - low) / 3, high - (high - low) / 3
    low, high = (low, right) if function(left) < function(right) else (
        left, high)
  return (low + high) / 2, function((low + high) / 2)


def best_line(labels, logits, middle):
  """(scale, shift) of the least cost of one label."""
  def of_scale(scale):
    return least(lambda b: cost(labels, logits, scale, b, middle), -10, 10)

  scale, _ = least(lambda a: of_scale(a)[1], 0.01, 5)
  return scale, of_scale(scale)[0]


def test_temperature():
  labels, logits = make_dev()
  found = calibration.fit("temperature", labels, logits)
  expected, _ = least(lambda a: cost(labels, logits, a, 0, 1), 0.01, 5)
  assert found.kind == "temperature" and found.shift == 0
  assert found.scale == pytest.approx(expected, abs=1e-5)
  assert 0.3 < found.scale < 0.7  # the logits were doubled


def test_platt():
  labels, logits = make_dev()
  labels[:, 1] = False
  labels[:3, 1] = True  # few positives
  middle = calibration.fit("temperature", labels, logits).scale
  found = calibration.fit("platt", labels, logits)
  for column in range(3):
    scale, shift = best_line(labels[:, column], logits[:, column], middle)
    assert found.scale[column] == pytest.approx(scale, abs=2e-4)
    assert found.shift[column] == pytest.approx(shift, abs=2e-4)


@pytest.mark.parametrize("kind", calibration.KINDS)
@pytest.mark.parametrize("case", ["all", "none", "separable", "backwards",
                                  "huge", "one text"])
def test_fit_of_odd_dev_sets(kind, case):
  """Numbers are finite, and the order of a label's texts stays."""
  labels, logits = make_dev(50, 2)[0], make_dev(50, 2, 1)[1]
  if case in ("all", "none"):
    labels[:] = case == "all"
  elif case == "separable":
    labels = logits > 0
  elif case == "backwards":
    labels = logits < 0
  elif case == "huge":
    logits = logits * np.float32(1e6)
  elif case == "one text":
    labels, logits = labels[:1], logits[:1]
  found = calibration.fit(kind, labels, logits)
  scale, shift = found.arrays(2)
  assert np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))
  assert np.all(scale > 0)
  order = np.argsort(logits, axis=0, kind="stable")
  assert np.all(np.diff(np.take_along_axis(
      found.apply(logits), order, axis=0), axis=0) >= 0)


def test_json():
  one = calibration.Calibration("temperature", 0.5, 0.0)
  each = calibration.Calibration("platt", [0.5, 2.0], [0.25, -1.0])
  for value in (one, each, None):
    text = json.dumps(value and value.to_json())
    assert calibration.from_json(json.loads(text), 2) == value
  np.testing.assert_array_equal(
      each.apply(np.array([[3, -4]], np.float32)), [[1.75, -9]])
  for changes in ({"kind": "isotonic"}, {"scale": [1.0]}, {"scale": 0},
                  {"scale": [1.0, -1.0]}, {"shift": float("nan")},
                  {"shift": True}, {"shift": "1"}, {"more": 1}):
    with pytest.raises(ValueError, match="calibration"):
      calibration.from_json(dict(each.to_json(), **changes), 2)


# Everything that answers.

RULE = {"kind": "platt", "scale": [0.5, 1.5, 2.0], "shift": [0.25, -0.5, 1.0]}
TEXTS = [u"the apple", u"a plum and a pear", u"pear , horse",
         u"the horse and the apple " * 12]


def expected_of(folder, texts):
  """BERT in numpy, calibrated in float64."""
  weights = tiny_bert.read_weights(
      checkpoint_choice.prediction_checkpoint(folder))
  plain = tiny_export.expected(weights, texts).astype(np.float64)
  logits = np.log(plain / (1 - plain))
  return 1 / (1 + np.exp(-(logits * RULE["scale"] + RULE["shift"])))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("made") / "model")
  tiny_model.make(folder, labels=LABELS[:3], calibration=RULE)
  return folder


def test_predictor(made):
  with predict_session.SessionPredictor(made) as predictor:
    np.testing.assert_allclose(predictor.predict(TEXTS),
                               expected_of(made, TEXTS), atol=2e-6)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_predictor_of_windows(tmp_path, pooling):
  """The pooled logit is calibrated, not each window's probability."""
  settings = {"labels": LABELS[:3], "max_seq_length": 8, "long_text": "windows",
              "stride": 3, "window_pooling": pooling}
  tiny_model.make(str(tmp_path / "1" / "model"), **settings)
  tiny_model.make(str(tmp_path / "2" / "model"), calibration=RULE, **settings)
  with predict_session.SessionPredictor(
      str(tmp_path / "1" / "model")) as predictor:
    plain = predictor.predict(TEXTS).astype(np.float64)
  with predict_session.SessionPredictor(
      str(tmp_path / "2" / "model")) as predictor:
    found = predictor.predict(TEXTS)
  logits = np.log(plain / (1 - plain))
  np.testing.assert_allclose(found, 1 / (1 + np.exp(-(
      logits * RULE["scale"] + RULE["shift"]))), atol=2e-6)


def test_saved_model(made, tmp_path, monkeypatch):
  monkeypatch.setattr(export_check, "Checker", tiny_export.Unchecked)
  status, _, stderr, _ = tiny_bert.call(export_saved_model, [
      "--model_dir=" + made, "--export_dir=" + str(tmp_path / "out")])
  assert (status, stderr) == (0, "")
  out = tmp_path / "out"
  export = run_export.Export(str(out / os.listdir(str(out))[0]))
  batch = tiny_export.batch_of(TEXTS)
  for name in ("serving_default", "predict_labels"):
    found = export.run(name, batch)
    np.testing.assert_allclose(found["probabilities"], expected_of(made, TEXTS),
                               atol=2e-6)


def test_graph_for_onnx(made):
  checkpoint = checkpoint_choice.prediction_checkpoint(made)
  graph_def, inputs, outputs = signatures.frozen_graph(
      trained_model.read(made), checkpoint)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.import_graph_def(graph_def, name="")
    batch = tiny_export.batch_of(TEXTS)
    found, = session.run(outputs, {
        name: batch[name[:-2]] for name in inputs})
  np.testing.assert_allclose(found, expected_of(made, TEXTS), atol=2e-6)


def test_hugging_face(made, tmp_path):
  """The head carries it: scale * (w x + b) + shift."""
  result = hugging_face.export(made, str(tmp_path / "out"),
                               "sentence_transformers")
  weights = tiny_bert.read_weights(result.checkpoint)
  head = safetensors_reader.open_directory(str(tmp_path / "out" / "2_Dense"))
  np.testing.assert_allclose(
      head["linear.weight"].read("linear.weight"),
      weights["output_weights"] * np.reshape(RULE["scale"], [3, 1]), rtol=1e-6)
  np.testing.assert_allclose(
      head["linear.bias"].read("linear.bias"),
      weights["output_bias"] * RULE["scale"] + RULE["shift"], rtol=1e-6)


def test_reload_takes_a_new_calibration(tmp_path):
  folder = str(tmp_path / "model")
  tiny_model.make(folder, labels=LABELS[:3])
  with predict_session.SessionPredictor(folder) as predictor:
    assert predictor.reload() is False
    trained = trained_model.read(folder)
    trained_model.update_decision(
        trained, "fixed", trained.decision,
        calibration.from_json(RULE, 3))
    assert predictor.reload() is True
    np.testing.assert_allclose(predictor.predict(TEXTS),
                               expected_of(folder, TEXTS), atol=2e-6)
    assert predictor.reload() is False


def test_settings_file(made, tmp_path):
  """Old programs refuse it; other values are kept; None removes it."""
  settings = trained_model.read(made).settings
  assert settings["format_version"] == 4
  folder = str(tmp_path / "model")
  tiny_model.make(folder, labels=LABELS[:3], calibration=RULE)
  trained = trained_model.read(folder)
  kept = trained_model.update_decision(trained, "fixed", trained.decision)
  assert kept.calibration == calibration.from_json(RULE, 3)
  trained_model.update_decision(kept, "fixed", trained.decision, None)
  found = trained_model.read(folder)
  assert found.calibration is None and found.settings["format_version"] == 3


# The run.


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
  """(data, output_dir) of a run with --calibrate=platt --threshold=tune."""
  data = tiny_bert.make_data(tmp_path_factory.mktemp("data"))
  rows = tiny_bert.make_rows(60, 60, "dev")
  for i in range(0, 59, 3):
    rows[i]["labels"] = rows[i + 1]["labels"]
  for part in ("dev", "test"):
    tiny_bert.write_jsonl(os.path.join(data, part + ".jsonl"), rows)
  bert = tiny_bert.make_bert(tmp_path_factory.mktemp("bert"),
                             num_hidden_layers=1)
  output_dir = str(tmp_path_factory.mktemp("run"))
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, do_eval=True, eval_steps=0, do_test=True,
          do_predict=True, threshold="tune", calibrate="platt",
          num_train_epochs=6, random_seed=1, report=False))
  assert (status, stderr) == (0, "")
  return data, output_dir


def read_results(output_dir, part):
  name = {"dev": "eval_results.txt", "test": "test_eval_results.txt"}[part]
  return dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(output_dir, name)).splitlines())


def call(data, output_dir, **flags):
  return tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list(dict({
          "task_name": "jsonl", "data_dir": data, "output_dir": output_dir,
          "report": False}, **flags)))


def test_run(trained_run):
  """What is stored is the fit on dev; the files and the predictor agree."""
  data, output_dir = trained_run
  stored = trained_model.read(output_dir)
  rows = [json.loads(line) for line in tiny_bert.read_text(
      os.path.join(data, "dev.jsonl")).splitlines()]
  truth = np.array([[label in row["labels"] for label in stored.labels]
                    for row in rows])
  with predict_session.SessionPredictor(output_dir) as predictor:
    found = predictor.predict([row["text"] for row in rows])
  table = np.array([[float(cell) for cell in line.split("\t")] for line in
                    tiny_bert.read_text(os.path.join(
                        output_dir, "test_results.tsv")).splitlines()])
  np.testing.assert_allclose(found, table, rtol=1e-5)
  scale, shift = stored.calibration.arrays(len(stored.labels))
  calibrated = np.log(found.astype(np.float64) / (1 - found))
  again = calibration.fit("platt", truth,
                          ((calibrated - shift) / scale).astype(np.float32))
  np.testing.assert_allclose(again.scale, scale, atol=1e-3)
  np.testing.assert_allclose(again.shift, shift, atol=1e-3)
  results = read_results(output_dir, "dev")
  assert results["calibration"] == "platt"
  for name in ("dev", "test"):
    results = read_results(output_dir, name)
    assert float(results["log_loss"]) < float(results["log_loss_uncalibrated"])
    assert "ece_equal_mass_uncalibrated" in results


def test_run_keeps_changes_and_leaves_it(trained_run, tmp_path):
  """In one directory after the other's end, as somebody would try them."""
  data, output_dir = trained_run
  kept = trained_model.read(output_dir).settings["calibration"]
  before = read_results(output_dir, "test")
  assert call(data, output_dir, do_test=True)[0] == 0
  assert read_results(output_dir, "test") == before
  status, _, stderr, _ = call(data, output_dir, do_eval=True,
                              calibrate="temperature")
  assert status == 2 and "set --threshold as well" in stderr
  assert trained_model.read(output_dir).settings["calibration"] == kept
  status, _, stderr, _ = call(data, output_dir, calibrate="temperature",
                              do_test=True)
  assert status == 2 and "--calibrate=temperature needs --do_eval" in stderr
  assert call(data, output_dir, do_eval=True, do_test=True, threshold="0.5",
              calibrate="temperature")[0] == 0
  assert trained_model.read(output_dir).calibration.kind == "temperature"
  assert read_results(output_dir, "test")["ece_equal_mass_uncalibrated"] == (
      before["ece_equal_mass_uncalibrated"])
  assert call(data, output_dir, do_eval=True, calibrate="none")[0] == 0
  assert trained_model.read(output_dir).calibration is None
  assert read_results(output_dir, "dev").get("calibration") is None
