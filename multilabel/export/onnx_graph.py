# SPDX-License-Identifier: Apache-2.0
"""The model as an ONNX graph, written node by node from its weights.

Legend: B texts, S tokens, W hidden_size, N heads, H = W / N, L labels.

The graph has the form that an optimizer would have to find in a converted one:
bias and product are one Gemm, query, key and value are one matrix,
LayerNormalization and Gelu are single operators, and the last layer is computed
for the first token alone if the pooling uses no other. On CPU it takes slightly
less time for batches than a converted graph that onnxruntime has optimized. Its
fused operators were tried and left out: its SkipLayerNormalization takes seven
times as long as Add and LayerNormalization, its BiasGelu a third longer than
Gelu.

Everything is standard ONNX of opset 20, except for int8: those products are
onnxruntime's DynamicQuantizeMatMul.
"""

import math

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper

OPSET = 20
# The format of onnx 1.15, the first one with opset 20; onnxruntime 1.17 on.
_IR_VERSION = 9

INPUTS = ("input_ids", "input_mask", "segment_ids")
OUTPUTS = ("probabilities", "logits")
WEIGHTS_DTYPES = ("float32", "float16", "int8")

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh"}

# Weights are from -63 to 63. With 127, CPUs without VNNI (AVX2, early AVX-512)
# saturate when they add two 8-bit products in 16 bits, and would give different
# probabilities.
_INT8_LIMIT = 63


def build(weights, config, pooling, weights_dtype="float32",
          calibration=None, outputs=OUTPUTS):
  """Builds the graph.

  Args:
    weights: dict, name of a TensorFlow variable to float32 array.
    config: `modeling.BertConfig`.
    pooling: str, one of `POOLINGS` of the head.
    weights_dtype: one of `WEIGHTS_DTYPES`. float16 weights become float32 when
      a runtime loads them. int8: each column of a dense layer's matrix, and
      each row of the word embeddings, has its own scale, and so has each token
      of the activations, which are rounded to 8 bits in each run.
    calibration: `calibration.Calibration` of the probabilities, or None.
    outputs: those of `OUTPUTS` that the graph has.

  Returns:
    `onnx.ModelProto` with the inputs `INPUTS`, int32 `[B, S]`, and `outputs`,
    float32 `[B, L]`.
  """
  graph = _Graph(weights, weights_dtype)
  _Bert(graph, config).add(pooling, calibration)
  num_labels = len(weights["output_bias"])
  inputs = [helper.make_tensor_value_info(
      name, onnx.TensorProto.INT32, ["batch", "length"]) for name in INPUTS]
  outputs = [helper.make_tensor_value_info(
      name, onnx.TensorProto.FLOAT, ["batch", num_labels]) for name in outputs]
  model = helper.make_model(
      helper.make_graph(graph.nodes, "bert_multilabel", inputs, outputs,
                        graph.initializers),
      opset_imports=[helper.make_opsetid("", OPSET)] + [
          helper.make_opsetid(domain, 1) for domain in sorted(graph.domains)],
      producer_name="bert-multilabel")
  model.ir_version = _IR_VERSION
  return model


class _Graph(object):
  """Nodes and constants; every method returns the name of its output."""

  def __init__(self, weights, weights_dtype):
    self.weights = weights
    self.nodes, self.initializers, self.domains = [], [], set()
    self._dtype = weights_dtype
    self._names = set()

  def node(self, kind, inputs, name, outputs=None, domain="", **attributes):
    """Adds a node; its outputs are `outputs`, by default `name` alone."""
    self.nodes.append(helper.make_node(
        kind, inputs, outputs or [name], name=name, domain=domain,
        **attributes))
    if domain:
      self.domains.add(domain)
    return (outputs or [name])[0]

  def constant(self, name, value):
    """A constant as it is, the same one for the same name."""
    if name not in self._names:
      self._names.add(name)
      self.initializers.append(
          numpy_helper.from_array(np.array(value, order="C"), name))
    return name

  def ints(self, *values):
    """An int64 constant."""
    return self.constant("ints_" + "_".join(str(value) for value in values),
                         np.array(values, np.int64))

  def float_weight(self, name, value=None):
    """A weight that is float32 where it is used: `value`, or a variable's."""
    value = self.weights[name] if value is None else value
    if self._dtype != "float16" or value.ndim < 2:
      return self.constant(name, np.asarray(value, np.float32))
    half = self.constant(name + "/float16", value.astype(np.float16))
    return self.node("Cast", [half], name, to=onnx.TensorProto.FLOAT)

  def rows(self, name, numbers, output):
    """Rows of an embedding table: float32 `[B, S, W]`."""
    table = self.weights[name]
    if self._dtype == "float32":
      return self.node("Gather", [self.constant(name, table), numbers], output)
    if self._dtype == "float16":
      half = self.constant(name, table.astype(np.float16))
      found = self.node("Gather", [half, numbers], output + "/float16")
      return self.node("Cast", [found], output, to=onnx.TensorProto.FLOAT)
    quantized, scales = quantize(table, axis=1, limit=127)
    found = self.node("Gather", [self.constant(name, quantized), numbers],
                      output + "/int8")
    found = self.node("Cast", [found], output + "/cast",
                      to=onnx.TensorProto.FLOAT)
    scale = self.node("Gather", [self.constant(name + "/scale", scales),
                                 numbers], output + "/scale")
    return self.node("Mul", [found, scale], output)

  def dense(self, x, name, kernel, bias):
    """`x [rows, K]` times `kernel [K, M]` plus `bias [M]`, both arrays."""
    kernel_name, bias_name = name + "/kernel", self.constant(
        name + "/bias", np.asarray(bias, np.float32))
    if self._dtype != "int8":
      return self.node("Gemm", [
          x, self.float_weight(kernel_name, kernel), bias_name], name)
    quantized, scales = quantize(kernel, axis=0, limit=_INT8_LIMIT)
    x, top = self._unit_rows(x, name)
    x = self.node("DynamicQuantizeMatMul", [
        x, self.constant(kernel_name, quantized),
        self.constant(kernel_name + "/scale", scales[0])], name + "/product",
                  domain="com.microsoft")
    x = self.node("Mul", [x, top], name + "/scaled")
    return self.node("Add", [x, bias_name], name)

  def _unit_rows(self, x, name):
    """(`x` with each row divided by its largest number, those numbers).

    Otherwise a run would have one scale for all of its activations. [CLS] and
    [SEP] have values ten times those of words, which would be left with 4 or 5
    bits, and the result for a text would depend on the others in its batch.
    """
    top = self.node("Abs", [x], name + "/abs")
    top = self.node("ReduceMax", [top, self.ints(-1)], name + "/top",
                    keepdims=1)
    top = self.node("Max", [top, self.constant(
        "tiny", np.array(1e-20, np.float32))], name + "/top_or_tiny")
    return self.node("Div", [x, top], name + "/unit"), top


def quantize(matrix, axis, limit):
  """Rounds a matrix to integers, symmetrically around 0.

  Args:
    matrix: float32 `[K, M]`.
    axis: int, what one scale is for: 0, the K numbers of a column; 1, a row.
    limit: int, the largest number.

  Returns:
    (int8 `[K, M]`, float32 scales with `axis` of length 1), whose product is
    within half a scale of `matrix`.
  """
  largest = np.abs(matrix).max(axis=axis, keepdims=True)
  scales = np.where(largest > 0, largest / limit, 1).astype(np.float32)
  return np.rint(matrix / scales).astype(np.int8), scales


class _Bert(object):
  """`create_model` of the head, as nodes."""

  def __init__(self, graph, config):
    self._graph = graph
    self._config = config
    self._width = config.hidden_size
    self._heads = config.num_attention_heads

  def add(self, pooling, calibration):
    """Adds it all, down to `probabilities`."""
    graph, config = self._graph, self._config
    shape = graph.node("Shape", ["input_ids"], "shape")  # [B, S]
    self._all_heads = graph.node("Concat", [shape, graph.ints(
        self._heads, self._width // self._heads)], "heads_shape", axis=0)
    self._mask = graph.node("Cast", ["input_mask"], "mask",
                            to=onnx.TensorProto.FLOAT)  # [B, S]
    # -10000 where there is no token, as in attention_layer.
    absent = graph.node("Sub", [self._mask, graph.constant(
        "one", np.array(1, np.float32))], "absent")
    absent = graph.node("Mul", [absent, graph.constant(
        "ten_thousand", np.array(10000, np.float32))], "absent_score")
    self._absent = graph.node("Unsqueeze", [absent, graph.ints(1, 2)],
                              "absent_score_4d")  # [B, 1, 1, S]
    x = self._embed(shape)
    last = config.num_hidden_layers - 1
    for number in range(config.num_hidden_layers):
      x = self._layer(number, x, number == last and pooling != "mean")
    if pooling == "mean":
      x = self._mean(x, shape)
    elif pooling == "pooler":
      x = self._dense(x, "bert/pooler/dense")
      x = graph.node("Tanh", [x], "pooled")
    logits = graph.node("Gemm", [
        x, graph.float_weight("output_weights"),
        graph.float_weight("output_bias")], "logits", transB=1)
    if calibration is not None:
      scale, shift = calibration.arrays(len(graph.weights["output_bias"]))
      logits = graph.node("Mul", [logits, graph.constant(
          "calibration/scale", scale)], "scaled_logits")
      logits = graph.node("Add", [logits, graph.constant(
          "calibration/shift", shift)], "calibrated_logits")
    graph.node("Sigmoid", [logits], "probabilities")

  def _embed(self, shape):
    """The sum of the three embeddings, normed: `[B * S, W]`."""
    graph, scope = self._graph, "bert/embeddings/"
    words = graph.rows(scope + "word_embeddings", "input_ids", "words")
    segments = graph.node("Gather", [graph.float_weight(
        scope + "token_type_embeddings"), "segment_ids"], "segments")
    length = graph.node("Slice", [shape, graph.ints(1), graph.ints(2)],
                        "length")
    positions = graph.node("Slice", [
        graph.float_weight(scope + "position_embeddings"), graph.ints(0),
        length, graph.ints(0)], "positions")
    total = graph.node("Add", [words, segments], "words_segments")
    total = graph.node("Add", [total, positions], "embeddings")
    size = self._config.embedding_size or self._width
    total = graph.node("Reshape", [total, graph.ints(-1, size)],
                       "embeddings_2d")
    total = self._norm(total, scope + "LayerNorm")
    if size == self._width:
      return total
    return self._dense(total, "bert/embeddings_project")

  def _layer(self, number, x, first_token_only):
    """A layer on `[B * S, W]`; gives `[B, W]` if `first_token_only`."""
    scope = "bert/encoder/layer_%d/" % number
    context, x = self._attention(scope + "attention/self/", x,
                                 first_token_only)
    x = self._add_and_norm(context, x, scope + "attention/output/")
    inner = self._activation(self._dense(x, scope + "intermediate/dense"))
    return self._add_and_norm(inner, x, scope + "output/")

  def _attention(self, scope, x, first_token_only):
    """(what the heads found, `x`), for the first tokens alone if asked."""
    graph, weights = self._graph, self._graph.weights
    size = self._width // self._heads
    # The query is already divided by sqrt(H), so the scores need not be.
    scales = {"query": 1 / math.sqrt(size), "key": 1.0, "value": 1.0}
    kernels = {part: weights[scope + part + "/kernel"] * np.float32(scale)
               for part, scale in scales.items()}
    biases = {part: weights[scope + part + "/bias"] * np.float32(scale)
              for part, scale in scales.items()}

    def project(parts, source, name):
      product = graph.dense(
          source, scope + name, np.concatenate(
              [kernels[part] for part in parts], axis=1),
          np.concatenate([biases[part] for part in parts]))
      if len(parts) == 1:
        return [product]
      names = [scope + name + "/" + part for part in parts]
      graph.node("Split", [product, graph.ints(*[self._width] * len(parts))],
                 scope + name + "/split", names, axis=1)
      return names

    if first_token_only:
      key, value = project(("key", "value"), x, "key_value")
      x = self._first_tokens(x)
      query, = project(("query",), x, "query")
    else:
      query, key, value = project(("query", "key", "value"), x,
                                  "query_key_value")
    query_shape = self._all_heads if not first_token_only else graph.ints(
        -1, 1, self._heads, size)
    query = self._split(query, query_shape, [0, 2, 1, 3])  # [B, N, F, H]
    key = self._split(key, self._all_heads, [0, 2, 3, 1])  # [B, N, H, S]
    value = self._split(value, self._all_heads, [0, 2, 1, 3])  # [B, N, S, H]
    scores = graph.node("MatMul", [query, key], scope + "scores")
    scores = graph.node("Add", [scores, self._absent], scope + "masked")
    shares = graph.node("Softmax", [scores], scope + "shares", axis=-1)
    context = graph.node("MatMul", [shares, value], scope + "context_4d")
    context = graph.node("Transpose", [context], scope + "context_transposed",
                         perm=[0, 2, 1, 3])
    return graph.node("Reshape", [context, graph.ints(-1, self._width)],
                      scope + "context"), x

  def _split(self, x, shape, order):
    """`[rows, W]` by heads, its dimensions in another order."""
    x = self._graph.node("Reshape", [x, shape], x + "/4d")
    return self._graph.node("Transpose", [x], x + "/transposed", perm=order)

  def _first_tokens(self, x):
    """`[B * S, W]` to `[B, W]`."""
    graph = self._graph
    x = graph.node("Reshape", [x, graph.node(
        "Concat", ["shape", graph.ints(self._width)], "shape_3d", axis=0)],
                   "tokens_3d")
    return graph.node("Gather", [x, graph.constant(
        "first", np.array(0, np.int64))], "first_tokens", axis=1)

  def _mean(self, x, shape):
    """The mean over tokens whose mask is 1: `[B * S, W]` to `[B, W]`."""
    graph = self._graph
    x = graph.node("Reshape", [x, graph.node(
        "Concat", [shape, graph.ints(self._width)], "shape_3d", axis=0)],
                   "tokens_3d")
    row = graph.node("Unsqueeze", [self._mask, graph.ints(1)], "mask_row")
    total = graph.node("MatMul", [row, x], "total_3d")  # [B, 1, W]
    total = graph.node("Squeeze", [total, graph.ints(1)], "total")
    count = graph.node("ReduceSum", [self._mask, graph.ints(1)], "count",
                       keepdims=1)
    count = graph.node("Max", [count, "one"], "count_or_1")
    return graph.node("Div", [total, count], "pooled")

  def _dense(self, x, name):
    weights = self._graph.weights
    return self._graph.dense(x, name, weights[name + "/kernel"],
                             weights[name + "/bias"])

  def _add_and_norm(self, x, residual, scope):
    x = self._dense(x, scope + "dense")
    x = self._graph.node("Add", [x, residual], scope + "sum")
    return self._norm(x, scope + "LayerNorm")

  def _norm(self, x, scope):
    graph = self._graph
    return graph.node("LayerNormalization", [
        x, graph.float_weight(scope + "/gamma"),
        graph.float_weight(scope + "/beta")], scope,
                      epsilon=self._config.layer_norm_eps)

  def _activation(self, x):
    """The activation that `hidden_act` names."""
    name = (self._config.hidden_act or "linear").lower()
    if name == "linear":
      return x
    if name == "gelu":
      return self._graph.node(
          "Gelu", [x], x + "/gelu", approximate="tanh"
          if self._config.gelu_approximate else "none")
    return self._graph.node(_ACTIVATIONS[name], [x], x + "/" + name)
