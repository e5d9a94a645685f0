# SPDX-License-Identifier: Apache-2.0
"""Reads an export and rejects what TensorFlow Serving would reject.

  python -m multilabel.export.conformance EXPORT/1

Serving's rules, from its documentation and the errors in its source:

- EXPORT/VERSION, an integer, holds saved_model.pb, which has one graph with the
  tag "serve" and nothing but that tag;
- a signature's method is predict, classify or regress; classify has the one
  input "inputs" and of "classes" (strings) and "scores" (floats) one or both;
  a request that names no signature takes "serving_default";
- inputs and outputs are tensors of the graph, of the stated type; a request
  gives exactly the inputs, so the outputs must need nothing else fed;
- with batching, inputs and outputs have the batch as first dimension, and
  outputs come from the inputs;
- ops are TensorFlow's or tensorflow-text's, and none runs Python;
- variables and assets are there;
- warm-up requests are at most 1,000, and each fits a signature.

In addition, which a server does not check: in an export of this program, each
file is the one in its manifest (`export_manifest`).
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import glob
import os
import re

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import saved_model_pb2

from multilabel.export import export_manifest
from multilabel.export import warmup_requests


TAG = "serve"
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_PYTHON_OPS = frozenset(["PyFunc", "PyFuncStateless", "EagerPyFunc"])
_VARIABLE_OPS = frozenset(["VarHandleOp", "VariableV2", "Variable"])
# What --raw_text uses of tensorflow-text, which is built into Serving.
_TEXT_OPS = frozenset([
    "NormalizeUTF8", "CaseFoldUTF8", "WordpieceTokenizeWithOffsets",
    "FastWordpieceTokenizeWithOffsets", "FastBertNormalize",
    "WhitespaceTokenizeWithOffsetsV2"])
_MAX_BYTES = (1 << 31) - 1
_MAX_VERSION = (1 << 63) - 1


def check(path):
  """Raises ValueError with the first of the `problems` of an export."""
  found = problems(path)
  if found:
    raise ValueError("%s cannot be served: %s" % (path, found[0]))


def problems(path, check_version=True):
  """Finds what Serving would reject.

  Args:
    path: str, the folder of saved_model.pb.
    check_version: bool, whether the folder's name must be a version.

  Returns:
    list of str, one sentence per problem; empty if there are none.
  """
  found = []
  if check_version:
    name = os.path.basename(os.path.abspath(path))
    if not re.match(r"(0|[1-9]\d*)$", name) or int(name) > _MAX_VERSION:
      found.append(
          "the folder name %s is not a version; it must be an integer." % name)
  changed = export_manifest.find_problem(path)
  if changed:
    return found + [changed]
  try:
    graph = _read_graph(path)
  except ValueError as error:
    return found + [str(error)]
  nodes = {node.name: node for node in graph.graph_def.node}
  signatures = dict(graph.signature_def)
  # The loader's own, which no request reaches.
  signatures = {name: value for name, value in signatures.items()
                if not name.startswith("__saved_model")}
  found.extend(_op_problems(graph))
  found.extend(_file_problems(path, graph, nodes))
  if "serving_default" not in signatures:
    found.append(
        "there is no signature serving_default, the default of requests.")
  for name in sorted(signatures):
    found.extend("signature %s: %s" % (name, problem) for problem in
                 _signature_problems(signatures[name], nodes))
  return found + list(_warmup_problems(path, signatures))


def _read_graph(path):
  """The `MetaGraphDef` that Serving loads."""
  file_name = os.path.join(path, "saved_model.pb")
  if not os.path.isfile(file_name):
    raise ValueError("there is no saved_model.pb.")
  if os.path.getsize(file_name) > _MAX_BYTES:
    raise ValueError("saved_model.pb is larger than 2 GB.")
  saved_model = saved_model_pb2.SavedModel()
  try:
    with open(file_name, "rb") as reader:
      saved_model.ParseFromString(reader.read())
  except Exception as error:  # DecodeError, whose module varies
    raise ValueError("saved_model.pb is broken: %s." % error)
  tags = [set(graph.meta_info_def.tags) for graph in saved_model.meta_graphs]
  if tags.count({TAG}) != 1:
    raise ValueError(
        "it must have one graph with the single tag serve; the tags of its "
        "graphs are: "
        "%s." % (", ".join("+".join(sorted(t)) or "none" for t in tags)
                      or "no graph"))
  return saved_model.meta_graphs[tags.index({TAG})]


def _op_problems(graph):
  library = graph.graph_def.library
  known = {function.signature.name for function in library.function}
  ops = {node.op for node in graph.graph_def.node}
  for function in library.function:
    ops.update(node.op for node in function.node_def)
  for name in sorted(ops - known - _TEXT_OPS):
    if name in _PYTHON_OPS:
      yield "op %s runs Python, which a server does not have." % name
    elif not hasattr(tf.raw_ops, name):
      yield "op %s is not one of TensorFlow %s." % (name, tf.version.VERSION)


def _file_problems(path, graph, nodes):
  """Variables that the checkpoint lacks, and assets that are missing."""
  names = {
      node.attr["shared_name"].s.decode("utf-8") or node.name
      for node in nodes.values() if node.op in _VARIABLE_OPS}
  if names:
    prefix = os.path.join(path, "variables", "variables")
    try:
      stored = set(name for name, _ in tf.train.list_variables(prefix))
    except (tf.errors.OpError, ValueError):
      yield "variables/variables.index is missing or broken."
      stored = names
    if not glob.glob(glob.escape(prefix) + ".data-*"):
      yield "variables/ has no data."
    # Variables of TF 2 are stored by their place in an object graph, not by
    # name.
    if "_CHECKPOINTABLE_OBJECT_GRAPH" not in stored:
      for name in sorted(names - stored):
        yield "variable %s is not in variables/." % name
    for name in (graph.saver_def.restore_op_name,
                 _node_name(graph.saver_def.filename_tensor_name)):
      if name not in nodes:
        yield "it has variables but no op to restore them."
        break
  for asset in graph.asset_file_def:
    if not os.path.isfile(os.path.join(path, "assets", asset.filename)):
      yield "assets/%s is missing." % asset.filename


def _signature_problems(signature, nodes):
  method = signature.method_name
  if method not in (PREDICT, CLASSIFY, REGRESS):
    yield "its method %s is not predict, classify or regress." % (
        method or "(none)")
  if not signature.inputs or not signature.outputs:
    yield "it has no inputs or no outputs."
  if method == CLASSIFY:
    for problem in _classify_problems(signature):
      yield problem
  if method == REGRESS and (set(signature.inputs) != {"inputs"} or
                            set(signature.outputs) != {"outputs"}):
    yield "regress must have one input, inputs, and one output, outputs."
  missing = [
      "%s is the tensor %s, which is not in the graph." % (name, info.name)
      for kind in (signature.inputs, signature.outputs)
      for name, info in sorted(kind.items())
      if _node_name(info.name) not in nodes]
  for problem in missing:
    yield problem
  for name, info in sorted(signature.inputs.items()):
    node = nodes.get(_node_name(info.name))
    if node and "dtype" in node.attr and node.attr["dtype"].type != info.dtype:
      yield "input %s has type %s, but its tensor has type %s." % (
          name, _type_name(info.dtype), _type_name(node.attr["dtype"].type))
  for kind, infos in (("input", signature.inputs),
                      ("output", signature.outputs)):
    for name, info in sorted(infos.items()):
      if not _has_batch_dimension(info):
        yield "the first dimension of %s %s is not the batch." % (kind, name)
  if not missing:
    for problem in _feed_problems(signature, nodes):
      yield problem


def _classify_problems(signature):
  types = {"inputs": tf.string.as_datatype_enum,
           "classes": tf.string.as_datatype_enum,
           "scores": tf.float32.as_datatype_enum}
  if set(signature.inputs) != {"inputs"}:
    yield "classify must have one input, inputs, not %s." % (
        ", ".join(sorted(signature.inputs)))
  if not signature.outputs or set(signature.outputs) - {"classes", "scores"}:
    yield "classify must have the outputs classes and scores, not %s." % (
        ", ".join(sorted(signature.outputs)) or "none")
  for infos in (signature.inputs, signature.outputs):
    for name, info in sorted(infos.items()):
      if name in types and info.dtype != types[name]:
        yield "%s of classify has type %s, not %s." % (
            name, _type_name(info.dtype), _type_name(types[name]))


def _feed_problems(signature, nodes):
  """Outputs that need more than the inputs, or do not depend on them."""
  inputs = {_node_name(info.name) for info in signature.inputs.values()}
  for name, info in sorted(signature.outputs.items()):
    reached = _ancestors(_node_name(info.name), nodes, inputs)
    for other in sorted(reached - inputs):
      if nodes[other].op == "Placeholder":
        yield "output %s needs %s, which is not one of its inputs." % (
            name, other)
    if not reached & inputs:
      yield "output %s does not depend on any of its inputs." % name


def _ancestors(start, nodes, stop):
  """Names of the nodes that `start` needs, itself too, no further than `stop`.
  """
  reached, waiting = set(), [start]
  while waiting:
    name = waiting.pop()
    if name in reached:
      continue
    reached.add(name)
    if name not in stop:
      waiting.extend(filter(nodes.__contains__,
                            map(_node_name, nodes[name].input)))
  return reached


def _warmup_problems(path, signatures):
  file_name = os.path.join(path, warmup_requests.FOLDER,
                           warmup_requests.FILE_NAME)
  if not os.path.exists(file_name):
    return
  try:
    requests = warmup_requests.read(file_name)
  except ValueError as error:
    yield str(error)
    return
  if len(requests) > warmup_requests.MAX_RECORDS:
    yield "there are %d warm-up requests; the maximum is %d." % (
        len(requests), warmup_requests.MAX_RECORDS)
  for number, (name, inputs) in enumerate(requests):
    signature = signatures.get(name)
    if signature is None:
      yield "warm-up request %d: there is no signature %s." % (number, name)
      continue
    types = {key: tf.as_dtype(info.dtype).as_numpy_dtype
             for key, info in signature.inputs.items()}
    if {key: value.dtype for key, value in inputs.items()} != types:
      yield "warm-up request %d does not give the inputs of %s: %s." % (
          number, name, ", ".join(sorted(types)))


def _has_batch_dimension(info):
  shape = info.tensor_shape
  return shape.unknown_rank or (len(shape.dim) > 0 and shape.dim[0].size == -1)


def _node_name(tensor_name):
  return tensor_name.lstrip("^").split(":")[0]


def _type_name(enum):
  return tf.as_dtype(enum).name if enum else "none"


def main(argv):
  """Checks the folders named on the command line."""
  if len(argv) < 2:
    raise ValueError("name the folder of a saved_model.pb.")
  for path in argv[1:]:
    check(path)
    print("%s can be served." % path)


if __name__ == "__main__":
  command_line.run(main, lambda: None, __doc__)
