# SPDX-License-Identifier: Apache-2.0
"""Converts probabilities to response bodies.

`:predict`, `:classify`, the model's status and its metadata follow TensorFlow
Serving's REST API. Numbers have nine digits, which identify a float32.
"""

import collections
from typing import Dict
from typing import List
from typing import Tuple

import msgspec
import numpy as np

from multilabel.serving import http_requests


# (type, dimensions after the batch) of the inputs and outputs of signatures; -1
# is any length, "labels" the number of labels.
_INT_ROWS = ("DT_INT32", [-1])
_OUTPUTS = collections.OrderedDict([
    ("probabilities", ("DT_FLOAT", ["labels"]))])
_NAMED_OUTPUTS = collections.OrderedDict(_OUTPUTS, **{
    "labels": ("DT_STRING", ["labels"]), "scores": ("DT_FLOAT", ["labels"]),
    "above_threshold": ("DT_BOOL", ["labels"])})
_METHOD = "tensorflow/serving/%s"


class ErrorAnswer(msgspec.Struct):
  error: str


class LabelsAnswer(msgspec.Struct):
  model: str
  version: str
  labels: List[str]
  example: str


class LabelResult(msgspec.Struct):
  labels: List[str]
  probabilities: Dict[str, float]


class LabelAnswer(msgspec.Struct):
  model: str
  version: str
  thresholds: Dict[str, float]
  results: List[LabelResult]


class WordWeight(msgspec.Struct):
  start: int
  end: int
  weight: float


class ExplainAnswer(msgspec.Struct):
  model: str
  version: str
  label: str
  probability: float
  words: List[WordWeight]


class ClassifyAnswer(msgspec.Struct):
  results: List[List[Tuple[str, float]]]


def numbers(row):
  """Returns float32 `[n]` as list of float with nine digits."""
  return [float("%.9g" % value) for value in row.tolist()]


def predict(request, probabilities, labels, decision):
  """Returns the response to a `:predict`.

  Args:
    request: `http_requests.PredictRequest`.
    probabilities: float32 `[n, num_labels]`.
    labels: list of str.
    decision: `decisions.DecisionRule`.

  Returns:
    dict with `predictions` or `outputs`.
  """
  if request.signature in (http_requests.PREDICT_LABELS, http_requests.TEXT):
    above = decision.apply(probabilities)
    rows = [_named(row, labels, chosen)
            for row, chosen in zip(probabilities, above)]
    if request.rows:
      return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows]
                        for name in _NAMED_OUTPUTS}}
  # A single output has no name.
  return {"predictions" if request.rows else "outputs": [
      numbers(row) for row in probabilities]}


def _named(row, labels, above):
  """One text's `probabilities`, and `labels` and `scores` from the best on."""
  order = np.argsort(-row, kind="stable")
  return collections.OrderedDict([
      ("probabilities", numbers(row)),
      ("labels", [labels[i] for i in order]),
      ("scores", numbers(row[order])),
      ("above_threshold", above[order].tolist())])


def classify(probabilities, labels):
  """Returns the response to a `:classify`: (label, score) for each label."""
  return ClassifyAnswer([list(zip(labels, numbers(row)))
                         for row in probabilities])


def label(name, version, described, labels, decision):
  """Returns the response to a `/v1/label`.

  Args:
    name: str, the model's.
    version: str.
    described: list of `predictor.Described`.
    labels: list of str.
    decision: `decisions.DecisionRule`, as it was used.

  Returns:
    `LabelAnswer`. A result has the form of a line that predict_session.py
    writes; `thresholds` has the labels that are named in a result, or none
    where the rule has no thresholds.
  """
  each = decision.threshold_of_each(len(labels))
  named = set()
  for one in described if not decision.is_by_text else ():
    named.update(one.probabilities)
    named.update(chosen for chosen, _ in one.labels)
  return LabelAnswer(
      name, version,
      {each_label: threshold for each_label, threshold in zip(
          labels, each.tolist()) if each_label in named},
      [LabelResult([chosen for chosen, _ in one.labels],
                   {each_label: float("%.9g" % value)
                    for each_label, value in one.probabilities.items()})
       for one in described])


def status(version):
  """Returns the response to `GET /v1/models/NAME`."""
  return {"model_version_status": [collections.OrderedDict([
      ("version", version), ("state", "AVAILABLE"),
      ("status", {"error_code": "OK", "error_message": ""})])]}


def metadata(name, version, num_labels):
  """Returns the response to `GET /v1/models/NAME/metadata`."""
  signatures = collections.OrderedDict()
  for signature, inputs in http_requests.PREDICT_INPUTS.items():
    named = signature in (http_requests.PREDICT_LABELS, http_requests.TEXT)
    signatures[signature] = _signature(
        signature, "predict",
        {key: ("DT_STRING", []) if key == "text" else _INT_ROWS
         for key in inputs},
        _NAMED_OUTPUTS if named else _OUTPUTS, num_labels)
  signatures[http_requests.CLASSIFY] = _signature(
      http_requests.CLASSIFY, "classify", {"inputs": ("DT_STRING", [])},
      collections.OrderedDict([("classes", ("DT_STRING", ["labels"])),
                               ("scores", ("DT_FLOAT", ["labels"]))]),
      num_labels)
  return collections.OrderedDict([
      ("model_spec", collections.OrderedDict([
          ("name", name), ("signature_name", ""), ("version", version)])),
      ("metadata", {"signature_def": {"signature_def": signatures}})])


def _signature(signature, method, inputs, outputs, num_labels):
  def tensors(described):
    return collections.OrderedDict(
        (key, {
            "dtype": dtype,
            "tensor_shape": {"dim": [
                {"size": str(num_labels if size == "labels" else size),
                 "name": ""} for size in [-1] + sizes],
                             "unknown_rank": False},
            "name": "%s/%s:0" % (signature, key)})
        for key, (dtype, sizes) in described.items())
  return {"inputs": tensors(inputs), "outputs": tensors(outputs),
          "method_name": _METHOD % method}
