# SPDX-License-Identifier: Apache-2.0
"""The ONNX predictor: equal to the session's, without TensorFlow, on its own.

The oracle beside `SessionPredictor` is the float64 BERT of `tiny_model`.
"""

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_bert
import tiny_model
from tiny_bert import error_of

from multilabel import calibration as calibrations
from multilabel import decisions
from multilabel.storage import half_weights
from multilabel.storage import onnx_folder
from multilabel.storage import trained_model
import explain_labels
import predict_onnx
import predict_session

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# pylint: disable=g-import-not-at-top
from multilabel.export import onnx_graph
import export_saved_model


TEXTS = [
    u"the apple", u"a", u"plum , pear and \u732b", u"we see \U0001f680 !",
    u"", u"\u72d7", u"un see one caf", u"the apple " * 9,
    (u"the apple", u"a plum"), (u"pear " * 30, u"\u732b " * 30)]


def export(model_dir, folder, **settings):
  return export_saved_model.export_folder_alone(
      str(model_dir), str(folder), "onnx", **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(trained directory, its weights, its ONNX folder); not to be changed."""
  root = tmp_path_factory.mktemp("onnx")
  weights = tiny_model.make(root / "model", threshold=[0.5, 0.4, 0.6])
  export(root / "model", root / "exported")
  return str(root / "model"), weights, str(root / "exported")


@pytest.fixture(scope="module")
def both(made):
  with predict_session.SessionPredictor(made[0]) as session, (
      predict_onnx.OnnxPredictor(made[2])) as predictor:
    yield session, predictor


@pytest.fixture
def copy(made, tmp_path):
  shutil.copytree(made[2], str(tmp_path / "copy"))
  return str(tmp_path / "copy")


# The same numbers.


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("form", ["truncate_head", "windows"])
def test_equals_the_session(pooling, form, tmp_path):
  weights = tiny_model.make(
      tmp_path / "model", pooling=pooling, long_text=form, stride=5 * (
          form == "windows"), max_seq_length=12)
  result = export(tmp_path / "model", tmp_path / "onnx")
  assert result.difference <= 1e-5 and result.change is None
  with predict_session.SessionPredictor(str(tmp_path / "model")) as session, (
      predict_onnx.OnnxPredictor(str(tmp_path / "onnx"))) as predictor:
    want = session.predict(TEXTS)
    np.testing.assert_allclose(predictor.predict(TEXTS), want, atol=1e-5)
    for number, text in enumerate(TEXTS):
      np.testing.assert_allclose(predictor.predict([text])[0], want[number],
                                 atol=1e-5)
    assert predictor.predict_labels(TEXTS) == [
        [(label, pytest.approx(value, abs=1e-5)) for label, value in row]
        for row in session.predict_labels(TEXTS)]
    rows = session.encode([u"the apple"])[0]
    np.testing.assert_allclose(predictor.predict_logits(rows),
                               session.predict_logits(rows), atol=1e-4)
  np.testing.assert_allclose(
      want[0], tiny_model.probabilities(
          weights, [tiny_model.encode(u"the apple")], pooling)[0], atol=1e-5)


@pytest.mark.parametrize("change", [
    {"hidden_act": "relu"}, {"hidden_act": "gelu", "gelu_approximate": False},
    {"hidden_act": None}, {"hidden_act": "tanh", "layer_norm_eps": 1e-3}])
def test_every_configuration(change, tmp_path):
  tiny_model.make(tmp_path / "model")
  settings = trained_model.read(str(tmp_path / "model"))
  for name, value in change.items():
    setattr(settings.bert_config, name, value)
  trained_model.write(str(tmp_path / "model"), settings.bert_config,
                      settings.vocab_file, settings.labels, settings.settings)
  export(tmp_path / "model", tmp_path / "onnx")
  with predict_session.SessionPredictor(str(tmp_path / "model")) as session, (
      predict_onnx.OnnxPredictor(str(tmp_path / "onnx"))) as predictor:
    np.testing.assert_allclose(predictor.predict(TEXTS),
                               session.predict(TEXTS), atol=1e-5)


@pytest.mark.parametrize("form", ["truncate_head", "windows"])
def test_calibration(form, tmp_path):
  tiny_model.make(tmp_path / "model", long_text=form, max_seq_length=12,
                  stride=5 * (form == "windows"))
  trained = trained_model.read(str(tmp_path / "model"))
  trained_model.update_decision(
      trained, "fixed", decisions.DecisionRule(0.5, None, False),
      calibrations.Calibration("platt", [0.5, 2.0, 1.5], [0.25, -1.0, 0.5]))
  export(tmp_path / "model", tmp_path / "onnx")
  with predict_session.SessionPredictor(str(tmp_path / "model")) as session, (
      predict_onnx.OnnxPredictor(str(tmp_path / "onnx"))) as predictor:
    np.testing.assert_allclose(predictor.predict(TEXTS),
                               session.predict(TEXTS), atol=1e-5)
    rows = [row for windows in predictor.encode(TEXTS[:3]) for row in windows]
    logits = predictor.predict_logits(rows).astype(np.float64)
    np.testing.assert_allclose(
        predictor.predict_features(rows),
        1 / (1 + np.exp(-(logits * [0.5, 2.0, 1.5] + [0.25, -1.0, 0.5]))),
        atol=1e-6)


# The same interface.


def test_interface(both):
  session, predictor = both
  for name in ("labels", "decision", "threshold", "max_seq_length",
               "vocab_size", "type_vocab_size", "max_position_embeddings",
               "step", "long_text"):
    assert getattr(predictor, name) == getattr(session, name), name
  public = {name for name in dir(session)
            if not name.startswith("_") and name != "save_weights"}
  assert public <= set(dir(predictor))
  features = [row for row, in session.encode([u"the apple", u"a"])]
  np.testing.assert_allclose(predictor.predict_features(features),
                             session.predict_features(features), atol=1e-5)
  assert "row 0 has 5000 input_ids" in error_of(
      predictor.predict_features, [type(features[0])(
          [1] * 5000, [1] * 5000, [0] * 5000, [])])
  np.testing.assert_allclose(
      asyncio.run(predictor.predict_async(TEXTS)), predictor.predict(TEXTS))
  assert predictor.predict([]).shape == (0, 3)
  assert "not one text" in error_of(predictor.predict, u"the apple")


def test_timeouts(both):
  _, predictor = both
  with pytest.raises(TimeoutError, match="within its timeout of 0 seconds"):
    predictor.predict(TEXTS, timeout=0)
  assert predictor.predict(TEXTS, timeout=100).shape == (10, 3)
  # A run that is at work is stopped, and the session is as good as before.
  rows = predictor.encode([u"the apple " * 40] * 6000)
  with pytest.raises(TimeoutError):
    predictor._served._loaded.predict(
        rows, 6000, "max", predict_session.predictor.call_deadline.Deadline(
            0.02))
  assert predictor.predict(TEXTS, timeout=100).shape == (10, 3)


def test_closed(made):
  predictor = predict_onnx.OnnxPredictor(made[2])
  predictor.close()
  predictor.close()
  assert "is closed" in error_of(predictor.predict, [u"a"])


def test_reload_takes_a_higher_version(made, tmp_path):
  shutil.copytree(made[2], str(tmp_path / "1"))
  with predict_onnx.OnnxPredictor(str(tmp_path)) as predictor:
    assert predictor.checkpoint == str(tmp_path / "1")
    before = predictor.predict(TEXTS)
    assert not predictor.reload()
    tiny_model.make(tmp_path / "model", seed=5, threshold=[0.5, 0.4, 0.6])
    export(tmp_path / "model", tmp_path / "new")
    os.rename(str(tmp_path / "new"), str(tmp_path / "10"))
    assert predictor.reload() and not predictor.reload()
    assert predictor.checkpoint == str(tmp_path / "10")
    assert np.abs(predictor.predict(TEXTS) - before).max() > 0.1
    # A broken one leaves the old one in place.
    shutil.copytree(str(tmp_path / "10"), str(tmp_path / "11"))
    with open(str(tmp_path / "11" / "model.onnx.data"), "r+b") as data:
      data.write(b"\1\2\3")
    after = predictor.predict(TEXTS)
    assert "does not belong to this export" in error_of(predictor.reload)
    np.testing.assert_array_equal(predictor.predict(TEXTS), after)


def test_open_predictor_takes_either_kind(made):
  for folder, kind in ((made[0], predict_session.SessionPredictor),
                       (made[2], predict_onnx.OnnxPredictor)):
    with predict_onnx.open_predictor(folder, intra_op_threads=1) as predictor:
      assert type(predictor) is kind
      assert predictor.predict([u"a"]).shape == (1, 3)


@pytest.mark.parametrize("form", ["truncate_head", "windows"])
def test_occlusion_equals_the_sessions(form, tmp_path):
  tiny_model.make(tmp_path / "model", long_text=form, max_seq_length=12,
                  stride=5 * (form == "windows"))
  export(tmp_path / "model", tmp_path / "onnx")
  found = []
  for folder in ("model", "onnx"):
    with explain_labels.open_explainer(
        str(tmp_path / folder), "occlusion") as explainer:
      found.append([explainer.explain(text, list(tiny_bert.LABELS), "occlusion")
                    for text in (u"the apple , a plum", u"apple pear " * 9)])
  for session, other in zip(*found):
    for want, label in zip(session, other):
      assert label.probability == pytest.approx(want.probability, abs=1e-5)
      assert [word.word for word in label.words] == [
          word.word for word in want.words]
      assert [word.weight for word in label.words] == [
          None if word.weight is None else pytest.approx(word.weight, abs=1e-4)
          for word in want.words]
  assert "needs gradients" in error_of(
      explain_labels.open_explainer, str(tmp_path / "onnx"), "integrated")


# Without TensorFlow.


_PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # not installed
import predict_onnx
with predict_onnx.open_predictor(sys.argv[1]) as predictor:
  predictor.predict(["the apple"])
  predictor.describe(predictor.predict(["a"]))
from multilabel.inference import micro_batching
import explain_labels
with explain_labels.open_explainer(sys.argv[1], "occlusion") as explainer:
  assert explainer.explain("the apple")
assert not [name for name in sys.modules if name.startswith((
    "tensorflow.", "onnx.", "multilabel.export", "multilabel.training"))]
try:
  predict_onnx.open_predictor(sys.argv[2])
except ValueError as error:
  print(error)
"""


def test_without_tensorflow(made):
  output = subprocess.check_output(
      [sys.executable, "-c", _PROGRAM, made[2], made[0]], cwd=tiny_bert.ROOT)
  assert b"needs TensorFlow, which is not installed" in output


@pytest.mark.parametrize("script", ["predict_onnx.py", "predict_session.py"])
def test_script(script, made, tmp_path):
  path = tmp_path / "texts.txt"
  path.write_text(u"the apple\na plum\n", encoding="utf-8")
  output = subprocess.check_output(
      [sys.executable, script, "--model_dir=" + made[2],
       "--input_file=%s" % path], cwd=tiny_bert.ROOT,
      stderr=subprocess.DEVNULL)
  rows = [json.loads(line) for line in output.decode("utf-8").splitlines()]
  with predict_onnx.OnnxPredictor(made[2]) as predictor:
    want = predictor.predict([u"the apple", u"a plum"])
  np.testing.assert_allclose(
      [[row["probabilities"][label] for label in tiny_bert.LABELS]
       for row in rows], want, atol=1e-5)


# Broken folders.


@pytest.mark.parametrize("name", [
    "model.onnx", "model.onnx.data", "vocab.txt", "labels.txt",
    "bert_config.json", "model_settings.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["missing", "changed", "empty"])
def test_broken_files(name, harm, copy):
  path = os.path.join(copy, name)
  if harm == "missing":
    os.remove(path)
  elif harm == "empty":
    open(path, "w").close()
  else:
    with open(path, "r+b") as stream:
      stream.seek(os.path.getsize(path) // 2)
      byte = stream.read(1)
      stream.seek(-1, 1)
      stream.write(bytes([byte[0] ^ 1]))
  assert name in error_of(predict_onnx.OnnxPredictor, copy)


def test_arguments_that_cannot_be(made, tmp_path):
  for folder, settings, words in (
      (str(tmp_path), {}, "has no model.onnx"),
      (str(tmp_path / "none"), {}, "is not a directory"),
      (made[2], {"batch_size": 0}, "batch_size is 0"),
      (made[2], {"device": "/gpu:0"}, "runs on /cpu:0"),
      (made[2], {"intra_op_threads": 0}, "intra_op_threads is 0")):
    assert words in error_of(predict_onnx.OnnxPredictor, folder, **settings)


# Weights of fewer bits.


def test_quantize_is_within_half_a_step():
  random = np.random.RandomState(0)
  matrix = random.normal(size=[40, 7]).astype(np.float32)
  matrix[:, 3] = 0
  for axis in (0, 1):
    quantized, scales = onnx_graph.quantize(matrix, axis, 63)
    assert quantized.dtype == np.int8 and np.abs(quantized).max() == 63
    assert np.all(np.abs(quantized * scales - matrix) <= scales / 2 * 1.0001)


@pytest.fixture
def labelled(both, tmp_path):
  """A file of 40 texts, labelled as the model with float32 weights would."""
  path = str(tmp_path / "labelled.jsonl")
  texts = [u"%s %s %s" % (a, b, c) for a in (u"the", u"a", u"we", u"un")
           for b in (u"apple", u"\u732b", u"see", u"plum", u",")
           for c in (u"pear", u"\u72d7")]
  with io.open(path, "w", encoding="utf-8") as writer:
    for text, found in zip(texts, both[1].predict_labels(texts)):
      writer.write(json.dumps({
          "text": text, "labels": [label for label, _ in found]}) + u"\n")
  return path


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_fewer_bits(dtype, made, labelled, tmp_path):
  result = export(made[0], tmp_path / "onnx", weights_dtype=dtype,
                  calibration_file=labelled, max_f1_loss=1.0)
  with predict_onnx.OnnxPredictor(made[2]) as exact, (
      predict_onnx.OnnxPredictor(str(tmp_path / "onnx"))) as predictor:
    change = np.abs(predictor.predict(TEXTS) - exact.predict(TEXTS)).max()
    assert 0 < change < {"float16": 0.005, "int8": 0.2}[dtype]
    # What a text gets hardly depends on those beside it.
    alone = np.concatenate([predictor.predict([text]) for text in TEXTS])
    np.testing.assert_allclose(
        predictor.predict(TEXTS), alone, atol=1e-5 if dtype == "float16" else
        0.02)
  manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
  assert manifest["model"]["change"] == result.change
  assert result.change["examples"] == 40
  assert 0 < result.change["largest_change"] < 0.2
  card = (tmp_path / "onnx" / "model_card.md").read_text(encoding="utf-8")
  assert "Effect of %s" % dtype in card
  assert "| micro-F1 | %.4f | %.4f |" % tuple(result.change["micro_f1"]) in card


def test_f1_may_not_fall(made, labelled, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx_graph, "_INT8_LIMIT", 1)  # hardly a weight is left
  message = error_of(export, made[0], tmp_path / "onnx", weights_dtype="int8",
                     calibration_file=labelled, max_f1_loss=0.0)
  assert "more than --max_f1_loss 0" in message
  assert not os.path.exists(str(tmp_path / "onnx"))


def test_int8_needs_examples(made, labelled, tmp_path):
  assert "has no stored dev examples" in error_of(
      export, made[0], tmp_path / "onnx", weights_dtype="int8")
  assert "there is no such file" in error_of(
      export, made[0], tmp_path / "onnx", weights_dtype="int8",
      calibration_file=str(tmp_path / "none.jsonl"))
  with io.open(labelled, "a", encoding="utf-8") as writer:
    writer.write(u'{"text": "a", "labels": ["nobody\'s"]}\n')
  assert "labelled.jsonl:41: the model has no label nobody's" in error_of(
      export, made[0], tmp_path / "onnx", weights_dtype="int8",
      calibration_file=labelled)
  assert os.listdir(str(tmp_path)) == ["labelled.jsonl"]


# Folders that are made.


def test_nothing_is_replaced(made, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "note").write_text(u"kept")
  for form in ("onnx", "model_dir"):
    assert "has files, which are not overwritten" in error_of(
        export_saved_model.export_folder_alone, made[0],
        str(tmp_path / "mine"), form)
  assert (tmp_path / "mine" / "note").read_text() == u"kept"
  assert os.listdir(str(tmp_path)) == ["mine"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_model_dir(dtype, made, tmp_path):
  folder = str(tmp_path / "small")
  export_saved_model.export_folder_alone(made[0], folder, "model_dir", dtype)
  assert sorted(os.listdir(folder)) == [
      "bert_config.json", "checkpoint", "labels.txt",
      "model.ckpt-7.data-00000-of-00001", "model.ckpt-7.index",
      "model.ckpt-7.json", "model_settings.json", "vocab.txt"]
  stored = tiny_bert.read_weights(os.path.join(folder, "model.ckpt-7"))
  assert set(stored) == {name for name in made[1]
                         if not name.endswith(("adam_m", "adam_v"))}
  for name, value in stored.items():
    np.testing.assert_array_equal(value, made[1][name].astype(dtype))
    assert value.dtype == dtype
  rounded = {name: value.astype(dtype).astype(np.float32)
             for name, value in made[1].items()}
  with predict_session.SessionPredictor(folder) as predictor:
    np.testing.assert_allclose(
        predictor.predict(TEXTS[:3]), tiny_model.probabilities(
            rounded, [tiny_model.encode(text) for text in TEXTS[:3]]),
        atol=1e-5)
  # It can be exported in turn.
  export(folder, tmp_path / "onnx")
  with predict_onnx.OnnxPredictor(str(tmp_path / "onnx")) as predictor, (
      predict_session.SessionPredictor(folder)) as session:
    np.testing.assert_allclose(predictor.predict(TEXTS),
                               session.predict(TEXTS), atol=1e-5)


def test_too_large_for_float16(made, tmp_path):
  shutil.copytree(made[0], str(tmp_path / "model"))
  weights = dict(made[1])
  name = "bert/encoder/layer_0/output/dense/bias"
  weights[name] = weights[name] + 1e5
  tiny_model.write_checkpoint(str(tmp_path / "model"), weights)
  assert half_weights._DTYPE.name == "float16"
  assert "the maximum of float16 is" in error_of(
      export_saved_model.export_folder_alone, str(tmp_path / "model"),
      str(tmp_path / "small"), "model_dir", "float16")
  assert onnx_folder.is_onnx(made[2]) and not onnx_folder.is_onnx(made[0])
