# SPDX-License-Identifier: Apache-2.0
"""Exports as others load them: eagerly, saved_model_cli, OpenVINO; frozen too.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_export

import export_saved_model
from multilabel.export import conformance
from multilabel.export import export_check


TEXTS = tiny_export.TEXTS
batch_of = tiny_export.batch_of
expected = tiny_export.expected


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_check, "Checker", tiny_export.Unchecked)
    return export_saved_model.export(
        made[0], str(tmp_path_factory.mktemp("exports")), version=3)


@pytest.fixture(scope="module")
def frozen(made, tmp_path_factory):
  return export_saved_model.export(
      made[0], str(tmp_path_factory.mktemp("frozen")), version=4, frozen=True)


EAGER_PROGRAM = u"""
import json, sys
import tensorflow as tf
batch = {name: tf.constant(value, tf.int32)
         for name, value in json.loads(sys.argv[1]).items()}
for path in sys.argv[2:]:
  signatures = tf.saved_model.load(path).signatures
  print(json.dumps([outputs["probabilities"].numpy().tolist() for outputs in (
      signatures["serving_default"](**batch),
      signatures["ids_only"](input_ids=batch["input_ids"]),
      signatures["predict_labels"](**batch))]))
  try:
    signatures["serving_default"](
        **dict(batch, input_ids=batch["input_ids"] + 1000))
  except tf.errors.InvalidArgumentError:
    print("refused")
"""


@pytest.mark.skipif(tiny_export.IS_TF1, reason="TF 1 has no such loader")
def test_loads_eagerly(made, result, frozen):
  batch = {name: value.tolist() for name, value in batch_of(TEXTS).items()}
  output = subprocess.check_output(
      [sys.executable, "-W", "ignore", "-c", EAGER_PROGRAM, json.dumps(batch),
       result.path, frozen.path],
      env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"), stderr=subprocess.DEVNULL)
  lines = output.decode("utf-8").splitlines()
  assert lines[1::2] == ["refused", "refused"]
  for line in lines[::2]:
    for answer in json.loads(line):
      np.testing.assert_allclose(answer, expected(made[1], TEXTS), atol=1e-5)


def test_saved_model_cli(made, result):
  output = subprocess.check_output(
      [sys.executable, "-W", "ignore", "-m",
       "tensorflow.python.tools.saved_model_cli", "run", "--dir", result.path,
       "--tag_set", "serve", "--signature_def", "ids_only", "--input_exprs",
       "input_ids=%s" % batch_of(TEXTS[:1])["input_ids"].tolist()],
      stderr=subprocess.DEVNULL).decode("utf-8")
  numbers = re.search(r"\[\[(.*)\]\]", output, re.DOTALL).group(1)
  np.testing.assert_allclose([[float(x) for x in numbers.split()]],
                             expected(made[1], TEXTS[:1]), atol=1e-5)


@pytest.mark.slow
def test_openvino(made, result):
  openvino = pytest.importorskip("openvino")
  core = openvino.Core()
  model = core.compile_model(core.read_model(result.path), "CPU")
  batch = batch_of(TEXTS)
  answer = model({value.any_name: batch[next(
      name for name in batch if name in value.any_name)]
                  for value in model.inputs})
  np.testing.assert_allclose(list(answer.values())[0],
                             expected(made[1], TEXTS), atol=1e-5)


def test_frozen(frozen):
  # The builder makes an empty variables/ all the same.
  assert not os.path.exists(os.path.join(frozen.path, "variables",
                                         "variables.index"))
  ops = {node.op for node in conformance._read_graph(
      frozen.path).graph_def.node}
  assert not ops & {"VarHandleOp", "VariableV2", "RestoreV2"}
  conformance.check(frozen.path)
  assert frozen.difference <= 1e-6
