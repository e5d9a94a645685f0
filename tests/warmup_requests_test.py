# SPDX-License-Identifier: Apache-2.0
"""Tests of the warm-up requests of an export."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_export
import tiny_model

import export_saved_model
from multilabel.export import export_check
from multilabel.export import run_export
from multilabel.export import warmup_requests
from multilabel.storage import trained_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """The folder of an export."""
  folder = tmp_path_factory.mktemp("made")
  tiny_model.make(folder / "model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_check, "Checker", tiny_export.Unchecked)
    return export_saved_model.export(
        str(folder / "model"), str(folder / "exports")).path


@pytest.fixture(scope="module")
def requests_path(path):
  return os.path.join(path, "assets.extra", "tf_serving_warmup_requests")


def test_fit_the_signatures(path, requests_path):
  requests = warmup_requests.read(requests_path)
  assert sorted({name for name, _ in requests}) == [
      "classify", "ids_only", "predict_labels", "serving_default"]
  assert {inputs["input_ids"].shape for _, inputs in requests
          if "input_ids" in inputs} == {(1, 8), (1, 16), (1, 32)}
  served = run_export.Export(path)
  for name, inputs in requests:
    for value in served.run(name, inputs).values():
      assert value.shape == (1, tiny_export.NUM_LABELS)


@pytest.mark.parametrize("form, sizes", [
    ("truncate_head", [12, 28, 60]), ("windows", [12, 28, 60, 128])])
def test_texts(form, sizes, tmp_path):
  """As many words as fit, of two characters; with windows, more than fit."""
  folder = str(tmp_path / "model")
  tiny_model.make(folder, long_text=form, stride=8 * (form == "windows"))
  logs = export_saved_model._warmup_logs(
      ["text"], tiny_export.IDS, trained_model.read(folder))
  warmup_requests.write(str(tmp_path / "w"), logs)
  found = [inputs["text"].tolist()
           for _, inputs in warmup_requests.read(str(tmp_path / "w"))]
  assert [len(text) for text, in found] == sizes


def test_are_prediction_logs(requests_path, tmp_path):
  pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
  read = warmup_requests.read(requests_path)
  logs = [pb2.PredictionLog.FromString(record)
          for record in tf.io.tf_record_iterator(requests_path)]
  assert len(logs) == len(read) == 12
  for log, (name, inputs) in zip(logs, read):
    kind = log.WhichOneof("log_type")
    request = getattr(log, kind).request
    assert request.model_spec.signature_name == name
    if name == "classify":
      assert kind == "classify_log"
      written, = request.input.example_list.examples
      assert written.SerializeToString() == inputs["inputs"][0] or (
          written == tf.train.Example.FromString(inputs["inputs"][0]))
      assert list(written.features.feature["input_mask"].int64_list.value)
      continue
    assert kind == "predict_log"
    assert sorted(request.inputs) == sorted(inputs)
    for key, tensor in request.inputs.items():
      np.testing.assert_array_equal(tf.make_ndarray(tensor), inputs[key])
  # And the other way: what the package writes is read.
  other = pb2.PredictionLog()
  other.predict_log.request.model_spec.name = "m" * 300
  other.predict_log.request.model_spec.version.value = 7
  other.predict_log.request.inputs["text"].CopyFrom(
      tf.make_tensor_proto(np.array([b"x" * 200, b""], object)))
  warmup_requests.write(str(tmp_path / "w"), [other.SerializeToString()])
  (name, inputs), = warmup_requests.read(str(tmp_path / "w"))
  assert name == "serving_default"
  assert inputs["text"].tolist() == [b"x" * 200, b""]


@pytest.mark.parametrize("record", [b"", b"\x32", b"\x32\x05\x0a", b"\xff" * 12,
                                    b"\x1a\x02\x0a\x00"])
def test_broken(record, tmp_path):
  path = str(tmp_path / "requests")
  warmup_requests.write(path, [record])
  with pytest.raises(
      ValueError, match="record 0 is not a predict or classify request"):
    warmup_requests.read(path)
