# SPDX-License-Identifier: Apache-2.0
"""A trained directory with random weights, and BERT in numpy to check it.

Shared by the tests; holds none itself.

  weights = tiny_model.make(folder)
  ids = [tiny_model.encode(u"the apple")]
  probabilities = tiny_model.probabilities(weights, ids)
"""

import os

import numpy as np
import tiny_bert

import modeling
from multilabel.storage import trained_model


SETTINGS = {"do_lower_case": True, "max_seq_length": 32, "pooling": "mean",
            "loss": "bce", "threshold": 0.5}


def make(folder, labels=tiny_bert.LABELS, seed=3, **settings):
  """Writes what training leaves, with random weights.

  Args:
    folder: path; made if it is missing.
    labels: names of the labels.
    seed: int; other seeds, other weights.
    **settings: other values for `SETTINGS`.

  Returns:
    {name: float32 array} of the checkpoint, optimizer slots among them.
  """
  folder = str(folder)
  tiny_bert.make_bert(os.path.join(folder, "..", "encoder"))
  if not os.path.isdir(folder):
    os.makedirs(folder)
  config = modeling.BertConfig.from_dict(
      dict(tiny_bert.CONFIG, vocab_size=len(tiny_bert.vocabulary())))
  trained_model.write(folder, config,
                  os.path.join(folder, "..", "encoder", "vocab.txt"),
                  list(labels), dict(SETTINGS, **settings))
  weights = random_weights(len(labels), seed)
  write_checkpoint(folder, weights)
  return weights


def random_weights(num_labels, seed):
  """{name: float32 array}, spread enough for probabilities that differ."""
  random = np.random.RandomState(seed)
  shapes = dict(tiny_bert.variable_shapes(len(tiny_bert.vocabulary())))
  del shapes["cls/predictions/output_bias"]
  shapes["output_weights"] = [num_labels, tiny_bert.CONFIG["hidden_size"]]
  shapes["output_bias"] = [num_labels]
  weights = {}
  for name in sorted(shapes):
    weights[name] = random.normal(
        1.0 if name.endswith("gamma") else 0.0, 0.4,
        shapes[name]).astype(np.float32)
    for slot in ("adam_m", "adam_v"):
      weights[name + "/" + slot] = np.full(shapes[name], 9.0, np.float32)
  return weights


def write_checkpoint(folder, weights, step=7):
  """Writes `model.ckpt-<step>` and `checkpoint`, as training does."""
  prefix = "model.ckpt-%d" % step
  tiny_bert.write_weights(os.path.join(str(folder), prefix),
                          dict(weights, global_step=np.int64(step)))
  tiny_bert.write_text(os.path.join(str(folder), "checkpoint"),
                       u'model_checkpoint_path: "%s"\n' % prefix)


def encode(text, text_pair=None, max_seq_length=32):
  """(ids, segment ids) of words between spaces that are in the vocabulary."""
  ids = {token: i for i, token in enumerate(tiny_bert.vocabulary())}
  first = ["[CLS]"] + text.split() + ["[SEP]"]
  second = [] if text_pair is None else text_pair.split() + ["[SEP]"]
  if len(first) > max_seq_length:
    first = first[:max_seq_length - 1] + ["[SEP]"]
  return ([ids.get(word, ids["[UNK]"]) for word in first + second],
          [0] * len(first) + [1] * len(second))


def probabilities(weights, texts, pooling="mean"):
  """BERT and the sigmoid head in float64, a text at a time, no padding.

  Args:
    weights: of `make`.
    texts: list of (ids, segment ids).
    pooling: "mean", "cls" or "pooler".

  Returns:
    float64 `[len(texts), num_labels]`.
  """
  double = {name: value.astype(np.float64) for name, value in weights.items()}
  rows = []
  for ids, segments in texts:
    layer = _encoder(double, ids, segments)
    if pooling == "mean":
      pooled = layer.mean(axis=0)
    elif pooling == "cls":
      pooled = layer[0]
    else:
      pooled = np.tanh(_dense(double, "bert/pooler/dense", layer[0]))
    logits = double["output_weights"].dot(pooled) + double["output_bias"]
    rows.append(1 / (1 + np.exp(-logits)))
  return np.array(rows)


def _encoder(weights, ids, segments):
  """The last layer, `[tokens, hidden]`."""
  table = "bert/embeddings/"
  x = (weights[table + "word_embeddings"][ids] +
       weights[table + "token_type_embeddings"][segments] +
       weights[table + "position_embeddings"][:len(ids)])
  x = _layer_norm(weights, table + "LayerNorm", x)
  for number in range(sum(
      name.endswith("intermediate/dense/kernel") for name in weights)):
    scope = "bert/encoder/layer_%d/" % number
    attended = _attention(weights, scope + "attention/self/", x)
    x = _layer_norm(
        weights, scope + "attention/output/LayerNorm",
        x + _dense(weights, scope + "attention/output/dense", attended))
    inner = _dense(weights, scope + "intermediate/dense", x)
    inner *= 0.5 * (1 + np.tanh(
        np.sqrt(2 / np.pi) * (inner + 0.044715 * inner ** 3)))
    x = _layer_norm(weights, scope + "output/LayerNorm",
                    x + _dense(weights, scope + "output/dense", inner))
  return x


def _attention(weights, scope, x):
  query, key, value = [_dense(weights, scope + name, x)
                       for name in ("query", "key", "value")]
  heads = tiny_bert.CONFIG["num_attention_heads"]
  size = x.shape[1] // heads
  outputs = []
  for head in range(heads):
    part = slice(head * size, (head + 1) * size)
    scores = query[:, part].dot(key[:, part].T) / np.sqrt(size)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    outputs.append((scores / scores.sum(axis=1, keepdims=True)).dot(
        value[:, part]))
  return np.concatenate(outputs, axis=1)


def _dense(weights, name, x):
  return x.dot(weights[name + "/kernel"]) + weights[name + "/bias"]


def _layer_norm(weights, name, x):
  centred = x - x.mean(axis=-1, keepdims=True)
  return (centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12) *
          weights[name + "/gamma"] + weights[name + "/beta"])
