# SPDX-License-Identifier: Apache-2.0
"""onnxruntime as a peer, fp32, with the graph of its BERT optimizer.

The graph is written here with the operators that
`onnxruntime.transformers.optimizer` fuses an exported BERT into
(EmbedLayerNormalization, Attention, SkipLayerNormalization, BiasGelu), so that
no exporter is between the weights and the runtime.
"""

import json
import os
import struct
import sys
import time

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
import onnxruntime

from benchmarks import work_items
from benchmarks.shared_texts import load_texts


_FUSED = "com.microsoft"


class Peer(object):
  """See `worker`; settings: "threads"."""

  def __init__(self, settings):
    self._threads = settings["threads"]

  def versions(self):
    return {"python": sys.version.split()[0], "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__}

  def load(self, job):
    return {"predict": Prediction, "single": Single, "start": Single}[
        job["kind"]](job, self._threads)


def read_safetensors(path):
  """{name: float32 array}."""
  with open(path, "rb") as reader:
    size, = struct.unpack("<Q", reader.read(8))
    header = json.loads(reader.read(size).decode("utf-8"))
    data = reader.read()
  tensors = {}
  for name, entry in header.items():
    if name != "__metadata__" and entry["dtype"] == "F32":
      start, end = entry["data_offsets"]
      tensors[name] = np.frombuffer(data[start:end], np.float32).reshape(
          entry["shape"])
  return tensors


class GraphBuilder(object):
  """Nodes and weights of an ONNX graph."""

  def __init__(self, tensors):
    self._tensors = tensors
    self.nodes, self.initializers = [], []

  def constant(self, name, value):
    self.initializers.append(numpy_helper.from_array(
        np.array(value, order="C"), name))
    return name

  def weight(self, name, transposed=False):
    value = self._tensors[name]
    return self.constant(name, value.T if transposed else value)

  def add(self, kind, inputs, output, domain="", **attributes):
    outputs = [output] if isinstance(output, str) else output
    self.nodes.append(helper.make_node(
        kind, inputs, outputs, domain=domain, **attributes))
    return outputs[0]

  def layer(self, number, x, heads):
    """One Transformer layer on the tensor named `x`."""
    scope = "encoder.layer.%d." % number
    own = scope + "attention.self."
    parts = [own + name for name in ("query", "key", "value")]
    kernel = np.concatenate(
        [self._tensors[part + ".weight"].T for part in parts], axis=1)
    bias = np.concatenate([self._tensors[part + ".bias"] for part in parts])
    context = self.add(
        "Attention", [x, self.constant(own + "kernel", kernel),
                      self.constant(own + "bias", bias), "lengths"],
        own + "context", _FUSED, num_heads=heads)
    x = self.add_and_norm(scope + "attention.output.", context, x)
    inner = self.add(
        "MatMul", [x, self.weight(scope + "intermediate.dense.weight", True)],
        scope + "inner")
    inner = self.add(
        "BiasGelu", [inner, self.weight(scope + "intermediate.dense.bias")],
        scope + "gelu", _FUSED)
    return self.add_and_norm(scope + "output.", inner, x)

  def add_and_norm(self, scope, x, residual):
    """Dense layer of `x`, residual sum, layer norm."""
    product = self.add("MatMul", [x, self.weight(
        scope + "dense.weight", True)], scope + "product")
    return self.add(
        "SkipLayerNormalization",
        [product, residual, self.weight(scope + "LayerNorm.weight"),
         self.weight(scope + "LayerNorm.bias"),
         self.weight(scope + "dense.bias")],
        scope + "normed", _FUSED, epsilon=1e-12)


def build(folder, pooling):
  """The model of a benchmark's folder as bytes of an ONNX file."""
  with open(os.path.join(folder, "hf", "config.json")) as reader:
    config = json.load(reader)
  tensors = read_safetensors(os.path.join(folder, "hf", "model.safetensors"))
  graph = GraphBuilder(tensors)
  table = "embeddings."
  graph.add(
      "EmbedLayerNormalization",
      ["ids", "segments"] + [graph.weight(table + name) for name in (
          "word_embeddings.weight", "position_embeddings.weight",
          "token_type_embeddings.weight", "LayerNorm.weight",
          "LayerNorm.bias")] + ["mask"],
      ["embedded", "unused_lengths"], _FUSED, epsilon=1e-12)
  graph.add("Cast", ["mask"], "long_mask", to=onnx.TensorProto.INT64)
  graph.add("ReduceSum", ["long_mask", graph.constant(
      "axis", np.array([1], np.int64))], "long_lengths", keepdims=0)
  graph.add("Cast", ["long_lengths"], "lengths", to=onnx.TensorProto.INT32)
  x = "embedded"
  for number in range(config["num_hidden_layers"]):
    x = graph.layer(number, x, config["num_attention_heads"])
  if pooling == "mean":
    raise ValueError("mean pooling is not implemented for onnxruntime here")
  pooled = graph.add("Gather", [x, graph.constant(
      "first", np.array(0, np.int64))], "first_token", axis=1)
  if pooling == "pooler":
    product = graph.add("Gemm", [pooled, graph.weight(
        "pooler.dense.weight", True), graph.weight("pooler.dense.bias")],
                        "pooler_product")
    pooled = graph.add("Tanh", [product], "pooled")
  head = np.load(os.path.join(folder, "head.npy"), allow_pickle=False)
  graph.add("Gemm", [pooled, graph.constant("head", head[:, :-1].T),
                     graph.constant("head_bias", head[:, -1])], "logits")
  ids = [helper.make_tensor_value_info(
      name, onnx.TensorProto.INT32, ["batch", "length"])
         for name in ("ids", "segments", "mask")]
  logits = helper.make_tensor_value_info(
      "logits", onnx.TensorProto.FLOAT, ["batch", work_items.NUM_LABELS])
  model = helper.make_model(
      helper.make_graph(graph.nodes, "bert", ids, [logits],
                        graph.initializers),
      opset_imports=[helper.make_opsetid("", 17),
                     helper.make_opsetid(_FUSED, 1)])
  model.ir_version = 8
  return model.SerializeToString()


def make_encoder(job):
  """(function of texts to rows of ids, what it is)."""
  vocab = os.path.join(job["work_dir"], job["model"], "hf", "vocab.txt")
  try:
    import tokenizers
  except ImportError:
    import tokenization
    tokenizer, known = tokenization.FullTokenizer(vocab), {}
    first, last = [tokenizer.vocab[name] for name in ("[CLS]", "[SEP]")]

    def encode(texts):
      for text in texts:
        if text not in known:
          known[text] = [first] + tokenizer.encode(text)[
              :job["max_seq_length"] - 2] + [last]
      return [known[text] for text in texts]
    return encode, "ids computed before, since tokenizers is not installed"
  fast = tokenizers.BertWordPieceTokenizer(vocab)
  fast.enable_truncation(job["max_seq_length"])
  return (lambda texts: [row.ids for row in fast.encode_batch(texts)],
          "tokenizers %s" % tokenizers.__version__)


class Prediction(object):
  """All texts, sorted by length, batch after batch."""

  def __init__(self, job, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    self._session = onnxruntime.InferenceSession(
        build(os.path.join(job["work_dir"], job["model"]), job["pooling"]),
        options, providers=["CPUExecutionProvider"])
    self._texts, self._job = [text for text, _ in load_texts(job)], job
    self._encode, how = make_encoder(job)
    self._encode(self._texts)
    self.says = "batches of %d, sorted by length; %s" % (
        job["batch_size"], how)

  def predict(self, texts):
    rows = self._encode(texts)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    out = np.zeros([len(rows), work_items.NUM_LABELS], np.float32)
    size = self._job["batch_size"]
    for start in range(0, len(order), size):
      batch = order[start:start + size]
      shape = [len(batch), max(len(rows[i]) for i in batch)]
      ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
      for place, i in enumerate(batch):
        ids[place, :len(rows[i])] = rows[i]
        mask[place, :len(rows[i])] = 1
      out[batch], = self._session.run(["logits"], {
          "ids": ids, "segments": np.zeros(shape, np.int32), "mask": mask})
    return out

  def outputs(self):
    return self.predict(self._texts[:self._job["checked"]])

  def run(self):
    self.predict(self._texts)

  def close(self):
    self._session = None


class Single(Prediction):
  """A call per text; the seconds of each are kept."""

  def run(self):
    each = []
    for text in self._texts:
      start = time.perf_counter()
      self.predict([text])
      each.append(time.perf_counter() - start)
    return each
