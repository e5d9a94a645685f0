# SPDX-License-Identifier: Apache-2.0
"""Tests of the check of exports: a good one, broken in one way each."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import saved_model_pb2
import tiny_bert

from multilabel.export import conformance
from multilabel.export import warmup_requests


PREDICT = "tensorflow/serving/predict"


def write_export(path):
  """A SavedModel made by hand: y = x * w + b, a row at a time.

  Signatures: serving_default and classify; warm-up requests for both.
  """
  info = tf.saved_model.build_tensor_info
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.placeholder(tf.float32, [None, None], "x")
    tf.placeholder(tf.float32, [], "rate")
    w = tf.get_variable("w", [], use_resource=True)
    y = tf.identity(x * w, "y")
    tf.add(y, session.graph.get_tensor_by_name("rate:0"), "needs_rate")
    tf.identity(w, "scalar")
    tf.fill([3, 1], 1.0, "three_rows")
    tf.fill(tf.shape(tf.constant([[1.0], [2.0]])), 1.0, "no_input")
    examples = tf.placeholder(tf.string, [None], "examples")
    tf.py_func(lambda value: value, [x], tf.float32, name="python")
    scores = tf.strings.to_number(tf.expand_dims(examples, 1), name="scores")
    classes = tf.expand_dims(examples, 1, name="classes")
    session.run(tf.global_variables_initializer())
    builder = tf.saved_model.Builder(path)
    builder.add_meta_graph_and_variables(
        session, ["serve"], signature_def_map={
            "serving_default": tf.saved_model.build_signature_def(
                {"x": info(x)}, {"y": info(y)}, PREDICT),
            "classify": tf.saved_model.classification_signature_def(
                examples, classes, scores)})
    builder.save()
  change(path, remove_python)
  os.mkdir(os.path.join(path, "assets.extra"))
  write_warmup(path, [
      warmup_requests.predict_log("serving_default",
                                  {"x": np.ones([1, 2], np.float32)}),
      warmup_requests.classify_log("classify", [b"1"])])


def write_warmup(path, logs):
  warmup_requests.write(os.path.join(
      path, "assets.extra", "tf_serving_warmup_requests"), logs)


def change(path, function):
  """Applies `function` to the SavedModel message."""
  saved_model = saved_model_pb2.SavedModel()
  name = os.path.join(path, "saved_model.pb")
  with open(name, "rb") as reader:
    saved_model.ParseFromString(reader.read())
  function(saved_model)
  with open(name, "wb") as writer:
    writer.write(saved_model.SerializeToString())


def remove_python(saved_model):
  """Turns the op that runs Python into one that does not."""
  for node in saved_model.meta_graphs[0].graph_def.node:
    if node.name == "python":
      node.op = "Identity"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("good") / "17")
  write_export(path)
  return path


@pytest.fixture
def export(good, tmp_path):
  path = str(tmp_path / "17")
  shutil.copytree(good, path)
  return path


def graph(saved_model):
  return saved_model.meta_graphs[0]


def signature(saved_model, name="serving_default"):
  return graph(saved_model).signature_def[name]


def node(saved_model, name):
  return next(n for n in graph(saved_model).graph_def.node if n.name == name)


def test_good(good, capsys):
  assert conformance.problems(good) == []
  conformance.check(good)
  conformance.main(["conformance", good])
  assert capsys.readouterr().out == "%s can be served.\n" % good


@pytest.mark.parametrize("name", ["model", "01", "-1", "1.0", "9" * 19])
def test_folder_that_is_no_version(name, good, tmp_path):
  path = str(tmp_path / name)
  shutil.copytree(good, path)
  with pytest.raises(ValueError) as raised:
    conformance.check(path)
  assert str(raised.value) == (
      "%s cannot be served: the folder name %s is not a version; it must be an "
      "integer." % (path, name))
  assert conformance.problems(path, check_version=False) == []


# A change of the message, and the one problem that it makes.
CHANGES = {
    "two tags": (
        lambda m: graph(m).meta_info_def.tags.append("gpu"),
        "it must have one graph with the single tag serve; the tags of its "
        "graphs are: gpu+serve."),
    "no graph": (
        lambda m: m.ClearField("meta_graphs"),
        "it must have one graph with the single tag serve; the tags of its "
        "graphs are: no graph."),
    "no method": (
        lambda m: setattr(signature(m), "method_name", ""),
        "signature serving_default: its method (none) is not predict, classify "
        "or regress."),
    "no default": (
        lambda m: graph(m).signature_def.pop("serving_default"),
        "there is no signature serving_default, the default of requests."),
    "no outputs": (
        lambda m: signature(m).outputs.clear(),
        "signature serving_default: it has no inputs or no outputs."),
    "missing tensor": (
        lambda m: setattr(signature(m).outputs["y"], "name", "z:0"),
        "signature serving_default: y is the tensor z:0, which is not in the "
        "graph."),
    "type": (
        lambda m: setattr(signature(m).inputs["x"], "dtype",
                          tf.int64.as_datatype_enum),
        "signature serving_default: input x has type int64, but its tensor has "
        "type float32."),
    "scalar output": (
        lambda m: signature(m).outputs["y"].tensor_shape.ClearField("dim"),
        "signature serving_default: the first dimension of output y is not "
        "the batch."),
    "fixed batch": (
        lambda m: setattr(signature(m).outputs["y"].tensor_shape.dim[0],
                          "size", 14),
        "signature serving_default: the first dimension of output y is not "
        "the batch."),
    "fixed input batch": (
        lambda m: setattr(signature(m).inputs["x"].tensor_shape.dim[0],
                          "size", 1),
        "signature serving_default: the first dimension of input x is not the "
        "batch."),
    "another placeholder": (
        lambda m: setattr(signature(m).outputs["y"], "name", "needs_rate:0"),
        "signature serving_default: output y needs rate, which is not one of "
        "its inputs."),
    "no connection": (
        lambda m: setattr(signature(m).outputs["y"], "name", "no_input:0"),
        "signature serving_default: output y does not depend on any of its "
        "inputs."),
    "classify inputs": (
        lambda m: signature(m, "classify").inputs["examples"].CopyFrom(
            signature(m, "classify").inputs.pop("inputs")),
        "signature classify: classify must have one input, inputs, not "
        "examples."),
    "classify outputs": (
        lambda m: signature(m, "classify").outputs["probabilities"].CopyFrom(
            signature(m, "classify").outputs["scores"]),
        "signature classify: classify must have the outputs classes and "
        "scores, not classes, probabilities, scores."),
    "classify types": (
        lambda m: setattr(signature(m, "classify").outputs["scores"], "dtype",
                          tf.float64.as_datatype_enum),
        "signature classify: scores of classify has type float64, not "
        "float32."),
    "regress": (
        lambda m: setattr(signature(m), "method_name",
                          "tensorflow/serving/regress"),
        "signature serving_default: regress must have one input, inputs, and "
        "one output, outputs."),
    "python": (
        lambda m: setattr(node(m, "python"), "op", "PyFunc"),
        "op PyFunc runs Python, which a server does not have."),
    "unknown op": (
        lambda m: setattr(node(m, "python"), "op", "MyOwnOp"),
        "op MyOwnOp is not one of TensorFlow %s." % tf.version.VERSION),
    "unknown variable": (
        lambda m: node(m, "w").attr["shared_name"].__setattr__("s", b"v"),
        "variable v is not in variables/."),
    "no restore": (
        lambda m: graph(m).ClearField("saver_def"),
        "it has variables but no op to restore them."),
    "asset": (
        lambda m: setattr(graph(m).asset_file_def.add(), "filename", "a.txt"),
        "assets/a.txt is missing."),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_refuses(name, export):
  function, problem = CHANGES[name]
  change(export, function)
  found = [text for text in conformance.problems(export)
           if not text.startswith("warm-up request")]
  assert found == [problem]


def test_files_that_are_missing(export):
  for path, problem in (
      ("variables/variables.data-00000-of-00001", "variables/ has no data."),
      ("variables/variables.index",
       "variables/variables.index is missing or broken."),
      ("saved_model.pb", "there is no saved_model.pb.")):
    os.remove(os.path.join(export, path))
    assert problem in conformance.problems(export)


def test_variables_that_are_missing(export):
  shutil.rmtree(os.path.join(export, "variables"))
  assert conformance.problems(export) == [
      "variables/variables.index is missing or broken.",
      "variables/ has no data."]


def test_broken_file(export):
  with open(os.path.join(export, "saved_model.pb"), "r+b") as writer:
    writer.truncate(100)
  problem, = conformance.problems(export)
  assert problem.startswith("saved_model.pb is broken: ")
  with pytest.raises(ValueError, match="17 cannot be served: saved_model.pb"):
    conformance.check(export)


def test_warmup_requests(export):
  good = warmup_requests.predict_log(
      "serving_default", {"x": np.ones([1, 2], np.float32)})
  write_warmup(export, [good] * 1000)
  assert conformance.problems(export) == []
  write_warmup(export, [good] * 1001)
  assert conformance.problems(export) == [
      "there are 1001 warm-up requests; the maximum is 1000."]
  wrong = "warm-up request 1 does not give the inputs of serving_default: x."
  for inputs in ({}, {"x": np.ones([1, 2])},  # float64
                 {"x": np.ones([1, 2], np.float32), "y": np.zeros([1])}):
    write_warmup(export, [
        good, warmup_requests.predict_log("serving_default", inputs)])
    assert conformance.problems(export) == [wrong]
  write_warmup(export, [warmup_requests.predict_log("no", {})])
  assert conformance.problems(export) == [
      "warm-up request 0: there is no signature no."]
  write_warmup(export, [b"nonsense"])
  problem, = conformance.problems(export)
  assert "record 0 is not a predict or classify request" in problem


def test_script(good, export):
  os.remove(os.path.join(export, "saved_model.pb"))
  process = subprocess.Popen(
      [sys.executable, "-m", "multilabel.export.conformance", good, export],
      cwd=tiny_bert.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  stdout, stderr = process.communicate()
  assert process.returncode == 2
  assert stdout.decode("utf-8") == "%s can be served.\n" % good
  assert stderr.decode("utf-8") == (
      "conformance.py: %s cannot be served: there is no saved_model.pb.\n" %
      export)
  with pytest.raises(ValueError, match="name the folder"):
    conformance.main(["conformance"])
