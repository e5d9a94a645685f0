# SPDX-License-Identifier: Apache-2.0
"""Tests of the export; the oracle is BERT in numpy, and the predictor.

The export is run as a server runs it: loaded by its tag into a session, given
the bodies of the published REST API.
"""

import base64
import json
import os
import shutil
import stat

import numpy as np
import parity_texts
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_export
import tiny_model
from tiny_bert import error_of

import export_saved_model
from multilabel.export import conformance
from multilabel.export import export_check
from multilabel.export import run_export
from multilabel.features import feature_rows
import predict_session


IDS = tiny_export.IDS
NUM_LABELS = tiny_export.NUM_LABELS
TEXTS = tiny_export.TEXTS
batch_of = tiny_export.batch_of
example = tiny_export.example
examples_of = tiny_export.examples_of
expected = tiny_export.expected


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
  return export_saved_model.export(
      made[0], str(tmp_path_factory.mktemp("exports")), version=3)


@pytest.fixture(scope="module")
def served(result):
  return run_export.Export(result.path)


@pytest.fixture(scope="module")
def frozen(made, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_check, "Checker", tiny_export.Unchecked)
    return export_saved_model.export(
        made[0], str(tmp_path_factory.mktemp("frozen")), version=4, frozen=True)


@pytest.fixture(scope="module")
def predictor(made):
  with predict_session.SessionPredictor(made[0]) as loaded:
    yield loaded


def describe(infos):
  """{name: (type, shape)} of the tensors of a signature."""
  return {name: (tf.as_dtype(info.dtype).name,
                 [dim.size for dim in info.tensor_shape.dim])
          for name, info in infos.items()}


# What is written.


def test_files(made, result):
  assert os.path.basename(result.path) == "3"
  assert sorted(os.listdir(result.path)) == [
      "assets.extra", "saved_model.pb", "variables"]
  extra = os.path.join(result.path, "assets.extra")
  assert sorted(os.listdir(extra)) == [
      "labels.txt", "manifest.json", "model_settings.json",
      "tf_serving_warmup_requests", "vocab.txt"]
  for name in ("labels.txt", "model_settings.json", "vocab.txt"):
    assert tiny_bert.read_text(os.path.join(
        extra, name)) == tiny_bert.read_text(os.path.join(made[0], name))
  # Nothing of the work is left, and others may read it.
  assert os.listdir(os.path.dirname(result.path)) == ["3"]
  umask = os.umask(0)
  os.umask(umask)
  assert stat.S_IMODE(os.stat(result.path).st_mode) == 0o777 & ~umask
  assert result.difference <= 1e-6
  conformance.check(result.path)


def test_files_of_another_export(result, frozen, tmp_path):
  path = str(tmp_path / "3")
  shutil.copytree(result.path, path)
  shutil.copyfile(os.path.join(frozen.path, "saved_model.pb"),
                  os.path.join(path, "saved_model.pb"))
  problem = "saved_model.pb does not belong to this export"
  with pytest.raises(ValueError, match=problem):
    run_export.Export(path)
  with pytest.raises(ValueError, match=problem):
    conformance.check(path)


def test_variables_are_the_models_alone(made, result):
  prefix = os.path.join(result.path, "variables", "variables")
  stored = tiny_bert.read_weights(prefix)
  want = {name: value for name, value in made[1].items()
          if not name.endswith(("adam_m", "adam_v"))}
  assert sorted(stored) == sorted(want)
  for name, value in want.items():
    np.testing.assert_array_equal(stored[name], value)


def test_signatures(served):
  ids = ("int32", [-1, -1])
  three = {"input_ids": ids, "input_mask": ids, "segment_ids": ids}
  scores = ("float32", [-1, NUM_LABELS])
  names = ("string", [-1, NUM_LABELS])
  predict = "tensorflow/serving/predict"
  assert {
      name: (value.method_name, describe(value.inputs), describe(value.outputs))
      for name, value in served.signatures.items()
      if not name.startswith("__")} == {
          "serving_default": (predict, three, {"probabilities": scores}),
          "ids_only": (predict, {"input_ids": ids}, {"probabilities": scores}),
          "classify": ("tensorflow/serving/classify",
                       {"inputs": ("string", [-1])},
                       {"classes": names, "scores": scores}),
          "predict_labels": (predict, three, {
              "probabilities": scores, "labels": names, "scores": scores,
              "above_threshold": ("bool", [-1, NUM_LABELS])})}


# What it answers.


def test_default_is_bert(made, served):
  texts = TEXTS + [(u"the apple", u"a pear"), (u"", u"see \U0001f680")]
  answer = served.run("serving_default", batch_of(texts))["probabilities"]
  assert answer.dtype == np.float32
  want = expected(made[1], texts)
  np.testing.assert_allclose(answer, want, atol=1e-5)
  # An oracle that gives all texts the same would prove nothing.
  assert want.std(axis=0).min() > 0.03


@pytest.mark.parametrize("form", ["variables", "frozen"])
def test_every_signature_on_500_texts(form, served, frozen, predictor):
  export = served if form == "variables" else run_export.Export(frozen.path)
  texts = parity_texts.make()
  assert len(texts) == 500
  want = predictor.predict(texts)
  features = [row for row, in predictor.encode(texts)]
  for start in range(0, 500, 50):
    rows = features[start:start + 50]
    batch = feature_rows.make_batch(rows)
    answers = {
        "serving_default": export.run("serving_default", batch)[
            "probabilities"],
        "ids_only": export.run(
            "ids_only", {"input_ids": batch["input_ids"]})["probabilities"],
        "predict_labels": export.run("predict_labels", batch)["probabilities"],
        "classify": export.run("classify", {"inputs": [
            example(input_ids=row.input_ids, input_mask=row.input_mask,
                    segment_ids=row.segment_ids) for row in rows]})["scores"],
    }
    for name, answer in answers.items():
      np.testing.assert_allclose(
          answer, want[start:start + 50], rtol=0, atol=1e-6, err_msg=name)


def test_predict_labels(served, predictor):
  outputs = served.run("predict_labels", batch_of(TEXTS))
  for row, described in enumerate(predictor.describe(
      outputs["probabilities"])):
    labels = [label.decode("utf-8") for label in outputs["labels"][row]]
    assert sorted(labels) == sorted(tiny_bert.LABELS)
    np.testing.assert_array_equal(
        outputs["scores"][row], sorted(outputs["probabilities"][row])[::-1])
    chosen = outputs["above_threshold"][row]
    assert [label for label, above in zip(labels, chosen) if above] == [
        label for label, _ in described.labels]
  assert 0 < outputs["above_threshold"].mean() < 1


def test_equal_scores_keep_the_order_of_the_labels(tmp_path, unchecked):
  weights = tiny_model.make(tmp_path / "model", threshold=0.25)
  weights["output_weights"][:] = 0
  weights["output_bias"][:] = [-1, 0, 0]  # sigmoid(-1) = 0.2689
  tiny_model.write_checkpoint(tmp_path / "model", weights)
  path = export_saved_model.export(
      str(tmp_path / "model"), str(tmp_path / "export")).path
  outputs = run_export.Export(path).run("predict_labels", batch_of([u"a"]))
  first, second, third = [x.encode("utf-8") for x in tiny_bert.LABELS]
  assert outputs["labels"].tolist() == [[second, third, first]]
  np.testing.assert_allclose(outputs["scores"], [[0.5, 0.5, 0.268941]],
                             atol=1e-6)
  assert outputs["above_threshold"].tolist() == [[True, True, True]]


def test_classify(made, served):
  outputs = served.run("classify", {"inputs": examples_of(TEXTS)})
  np.testing.assert_allclose(outputs["scores"], expected(made[1], TEXTS),
                             atol=1e-5)
  names = [label.encode("utf-8") for label in tiny_bert.LABELS]
  assert outputs["classes"].tolist() == [names] * len(TEXTS)


def test_classify_takes_what_is_there(made, served):
  want = expected(made[1], TEXTS)
  mixed = (examples_of(TEXTS[:3], ["input_ids"]) +
           examples_of(TEXTS[3:5], ["input_ids", "input_mask"]) +
           examples_of(TEXTS[5:]))
  np.testing.assert_allclose(
      served.run("classify", {"inputs": mixed})["scores"], want, atol=1e-5)
  # Records of google-research/bert are padded.
  ids = tiny_model.encode(TEXTS[0])[0]
  padding = [0] * (32 - len(ids))
  padded = example(input_ids=ids + padding, segment_ids=[0] * 32,
                   input_mask=[1] * len(ids) + padding)
  np.testing.assert_allclose(
      served.run("classify", {"inputs": [padded]})["scores"], want[:1],
      atol=1e-5)


@pytest.mark.parametrize("features, message", [
    ({"input_mask": [1]}, "an example has no input_ids"),
    ({"input_ids": [2, 3], "input_mask": [1]}, "another number of input_mask"),
    ({"input_ids": [2, 3], "segment_ids": [0] * 3},
     "another number of segment_ids"),
    ({"input_ids": [2, 3 + (1 << 32)]}, "input_ids must be from 0 to"),
    ({"input_ids": [2, 3], "input_mask": [1, 2]},
     "input_mask must be from 0 to 1"),
])
def test_classify_refuses(features, message, served):
  with pytest.raises(tf.errors.InvalidArgumentError) as raised:
    served.run("classify", {"inputs": examples_of(TEXTS) +
                                      [example(**features)]})
  assert message in raised.value.message


@pytest.mark.parametrize("changes, message", [
    ({"input_ids": [[2, len(IDS), 3]]},
     "input_ids must be from 0 to %d" % (len(IDS) - 1)),
    ({"input_ids": [[2, -1, 3]]}, "input_ids must be from 0"),
    ({"input_mask": [[1, 1, 2]]}, "input_mask must be from 0 to 1"),
    ({"segment_ids": [[0, 0, 2]]}, "segment_ids must be from 0 to 1"),
    ({"segment_ids": [[0, 0]]}, "segment_ids must have the shape of input_ids"),
    ({"input_ids": [[]], "input_mask": [[]], "segment_ids": [[]]},
     "a text must have 1 to 64 ids"),
    ({"input_ids": [[2] * 65], "input_mask": [[1] * 65],
      "segment_ids": [[0] * 65]}, "a text must have 1 to 64 ids"),
])
@pytest.mark.parametrize("name", ["serving_default", "predict_labels"])
def test_refuses(name, changes, message, served):
  inputs = {"input_ids": [[2, 5, 3]], "input_mask": [[1, 1, 1]],
            "segment_ids": [[0, 0, 0]]}
  inputs.update(changes)
  with pytest.raises(tf.errors.InvalidArgumentError) as raised:
    served.run(name, inputs)
  assert message in raised.value.message


def test_no_texts(served):
  empty = np.zeros([0, 4], np.int32)
  answer = served.run("serving_default", {
      "input_ids": empty, "input_mask": empty, "segment_ids": empty})
  assert answer["probabilities"].shape == (0, NUM_LABELS)


def merged_by_serving(requests):
  """Requests in one batch, each padded as Serving's batching pads.

  "pad_value(input.flat<T>()(0))": the first value of the request's tensor.
  """
  width = max(request["input_ids"].shape[1] for request in requests)
  return {name: np.concatenate([
      np.pad(request[name],
             [(0, 0), (0, width - request[name].shape[1])], "constant",
             constant_values=request[name].flat[0])
      for request in requests]) for name in requests[0]}


@pytest.mark.parametrize("name", ["serving_default", "ids_only",
                                  "predict_labels"])
def test_batched_by_serving(name, made, served):
  groups = [TEXTS[:1], TEXTS[1:4], TEXTS[4:5], TEXTS[5:]]
  requests = [batch_of(group) for group in groups]
  if name == "ids_only":
    requests = [{"input_ids": request["input_ids"]} for request in requests]
  merged = merged_by_serving(requests)
  assert merged["input_ids"][0, -1] == IDS["[CLS]"]
  np.testing.assert_allclose(
      served.run(name, merged)["probabilities"], expected(made[1], TEXTS),
      atol=1e-5)


# The published REST API.


def test_rest_columnar(made, served):
  want = expected(made[1], TEXTS)
  body = json.loads(json.dumps({"inputs": {
      name: value.tolist() for name, value in batch_of(TEXTS).items()}}))
  answer = json.loads(json.dumps(served.answer(body)))
  # One output: its value without a name.
  assert list(answer) == ["outputs"]
  np.testing.assert_allclose(answer["outputs"], want, atol=1e-5)
  body = {"signature_name": "ids_only", "inputs": batch_of(TEXTS)[
      "input_ids"].tolist()}
  np.testing.assert_allclose(served.answer(body)["outputs"], want, atol=1e-5)
  body = {"signature_name": "classify", "inputs": [
      {"b64": base64.b64encode(part).decode("ascii")}
      for part in examples_of(TEXTS)]}
  answer = json.loads(json.dumps(served.answer(body)))["outputs"]
  assert answer["classes"] == [list(tiny_bert.LABELS)] * len(TEXTS)
  np.testing.assert_allclose(answer["scores"], want, atol=1e-5)


def test_rest_row(made, served):
  want = expected(made[1], TEXTS)
  batch = {name: value.tolist() for name, value in batch_of(TEXTS).items()}
  rows = [{name: value[row] for name, value in batch.items()}
          for row in range(len(TEXTS))]
  answer = served.answer({"instances": rows})
  assert list(answer) == ["predictions"]
  np.testing.assert_allclose(answer["predictions"], want, atol=1e-5)
  for instances in (batch["input_ids"],
                    [{"input_ids": row} for row in batch["input_ids"]]):
    np.testing.assert_allclose(served.answer(
        {"signature_name": "ids_only", "instances": instances})["predictions"],
                               want, atol=1e-5)
  answer = json.loads(json.dumps(served.answer(
      {"signature_name": "predict_labels", "instances": rows[:1]})))
  prediction, = answer["predictions"]
  assert sorted(prediction) == ["above_threshold", "labels", "probabilities",
                                "scores"]
  assert sorted(prediction["labels"]) == sorted(tiny_bert.LABELS)
  assert {type(x) for x in prediction["above_threshold"]} == {bool}


@pytest.mark.parametrize("body, message", [
    ({"inputs": {"input_ids": [[2, 3]]}}, "does not match signature"),
    ({"instances": [{"input_ids": [2, 3], "label_ids": [1]}]},
     "does not match signature"),
    ({"signature_name": "no", "inputs": [[1]]}, '"no" not found'),
    ({"inputs": [[1]], "instances": [[1]]}, "either instances or inputs"),
    ({}, "either instances or inputs"),
])
def test_rest_refuses(body, message, served):
  assert message in error_of(served.answer, body)


# The script.


def call(*arguments):
  return tiny_bert.call(export_saved_model, arguments)


def test_script(made, tmp_path, unchecked):
  status, stdout, stderr, _ = call(
      "--model_dir=" + made[0], "--export_dir=%s" % (tmp_path / "e"),
      "--version=6", "--frozen")
  assert (status, stderr) == (0, "")
  assert stdout == (
      "Wrote %s: model.ckpt-7 (step 7); threshold 0.5; long texts: "
      "truncate_head.\nSignatures: serving_default, ids_only, classify, "
      "predict_labels. Loaded back, its probabilities differ by at most "
      "0.\n" % (tmp_path / "e" / "6"))


@pytest.mark.parametrize("arguments, message", [
    ([], "--model_dir must be given."),
    (["--model_dir={model}"], "--export_dir must be given."),
    (["--model_dir={tmp}/no", "--export_dir={tmp}"], "is not a directory."),
    (["--model_dir={model}", "--export_dir={tmp}", "--version=0"],
     "version is 0; it must be from 1 to"),
    (["--model_dir={model}", "--export_dir={tmp}", "--keep_versions=-1"],
     "keep_versions is -1"),
    (["--model_dir={model}", "--export_dir={tmp}", "--frozen",
      "--weights_dtype=float16"], "weights_dtype float16 needs variables"),
    (["--model_dir={model}", "--export_dir={tmp}", "extra"],
     "extra is not a flag."),
    (["--model_dir={model}", "--export_dir={tmp}/a*b"],
     "treats as a pattern"),
    (["--model_dir={model}", "--export_dir={model}/labels.txt"],
     "is not a writable directory."),
    (["--model_dir={model}", "--export_dir={export}/3"],
     "is itself an export"),
    (["--model_dir={model}", "--export_dir={export}", "--version=3"],
     "version 3 already exists in"),
])
def test_mistakes(arguments, message, made, result, tmp_path):
  status, stdout, stderr, _ = call(*[argument.format(
      model=made[0], tmp=tmp_path, export=os.path.dirname(result.path))
                                     for argument in arguments])
  assert (status, stdout) == (2, "")
  assert message in stderr and stderr.count("\n") == 1
  assert os.listdir(str(tmp_path)) == []
