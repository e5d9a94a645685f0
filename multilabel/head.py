# SPDX-License-Identifier: Apache-2.0
"""The multi-label head: one sigmoid per label on top of BERT.

Only `create_model` assembles the model: training, evaluation, the session
predictor and the export build their graphs with it.
"""

import collections

import numpy as np
import tensorflow.compat.v1 as tf

import modeling


POOLINGS = ("pooler", "cls", "mean")
WEIGHTS_STDDEV = 0.02

InferenceGraph = collections.namedtuple(
    "InferenceGraph", ["input_ids", "input_mask", "segment_ids", "labels",
                       "per_example_loss", "logits", "probabilities"])


def create_model(bert_config, is_training, input_ids, input_mask, segment_ids,
                 labels, num_labels, use_one_hot_embeddings, pooling="pooler",
                 dropout_seed=None, output_bias_initializer=None,
                 loss_fn=tf.nn.sigmoid_cross_entropy_with_logits,
                 recorded_layers=None, output_weights_initializer=None,
                 calibration=None, dropout_samples=1,
                 change_word_embeddings=None):
  """BERT, then a logit per label, then a sigmoid per logit.

  Variables: those of `modeling.BertModel` in the scope "bert",
  `output_weights` `[num_labels, hidden_size]`, `output_bias` `[num_labels]`.

  Args:
    bert_config: `modeling.BertConfig`.
    is_training: bool, whether dropout is on.
    input_ids: int32 or int64 `[batch, seq]`.
    input_mask: int32 or int64 `[batch, seq]`.
    segment_ids: int32 or int64 `[batch, seq]`.
    labels: float32 `[batch, num_labels]`, 1 where the label holds, else 0; or
      None if no loss is needed.
    num_labels: int.
    use_one_hot_embeddings: bool, see `modeling.BertModel`.
    pooling: what represents a text: "pooler", the first token through the tanh
      pooler; "cls", the first token of the last layer; "mean", the mean of the
      last layer over real tokens.
    dropout_seed: see `modeling.dropout`.
    output_bias_initializer: initializer of `output_bias`; default zeros.
    loss_fn: function of `labels` and `logits`, both `[batch, num_labels]`, to
      the loss of each cell, or `[batch]` of each text; others are in `losses`.
    recorded_layers: see `modeling.transformer_model`.
    output_weights_initializer: initializer of `output_weights`; default a
      truncated normal of standard deviation `WEIGHTS_STDDEV`.
    calibration: `calibration.Calibration` of the probabilities, which the loss
      knows nothing of; None: none.
    dropout_samples: int, in training: number of dropout masks of the sentence
      vector, whose losses are averaged (Inoue 2019, "Multi-Sample Dropout for
      Accelerated Training and Better Generalization"); the logits are those of
      the first one.
    change_word_embeddings: see `modeling.BertModel`.

  Returns:
    (loss, per_example_loss, logits, probabilities): float32 scalar,
    `[batch]`, `[batch, num_labels]`, `[batch, num_labels]`. The first two are
    None without labels.

  Raises:
    ValueError: `pooling` is not one of `POOLINGS`.
  """
  if pooling not in POOLINGS:
    raise ValueError("pooling is %s; it must be one of %s." % (
        pooling, ", ".join(POOLINGS)))
  model = modeling.BertModel(
      config=bert_config,
      is_training=is_training,
      input_ids=input_ids,
      input_mask=input_mask,
      token_type_ids=segment_ids,
      use_one_hot_embeddings=use_one_hot_embeddings,
      scope="bert",
      dropout_seed=dropout_seed,
      first_token_only=pooling != "mean",
      recorded_layers=recorded_layers,
      change_word_embeddings=change_word_embeddings)
  if pooling == "pooler":
    output_layer = model.get_pooled_output()  # [batch, hidden]
  elif pooling == "cls":
    output_layer = model.get_sequence_output()[:, 0, :]
  else:
    output_layer = _mean_over_tokens(model.get_sequence_output(), input_mask)

  hidden_size = output_layer.shape.as_list()[-1]
  output_weights = tf.get_variable(
      "output_weights", [num_labels, hidden_size],
      initializer=output_weights_initializer or
      tf.truncated_normal_initializer(stddev=WEIGHTS_STDDEV))
  output_bias = tf.get_variable(
      "output_bias", [num_labels],
      initializer=output_bias_initializer or tf.zeros_initializer())

  with tf.variable_scope("loss"):
    def make_logits():
      vector = output_layer
      if is_training:
        vector = modeling.dropout(vector, 0.1, dropout_seed)
      return tf.nn.bias_add(
          tf.matmul(vector, output_weights, transpose_b=True), output_bias)

    logits = make_logits()
    probabilities = tf.sigmoid(calibrated(logits, calibration))
    if labels is None:
      return (None, None, logits, probabilities)
    per_example_loss = _per_example(loss_fn, labels, logits)
    if is_training and dropout_samples > 1:
      samples = [per_example_loss]
      for number in range(1, dropout_samples):
        # The masks are those of the scope; see `modeling.dropout`.
        with tf.variable_scope("sample_%d" % number):
          samples.append(_per_example(loss_fn, labels, make_logits()))
      per_example_loss = tf.add_n(samples) / dropout_samples
    loss = tf.reduce_mean(per_example_loss)
  return (loss, per_example_loss, logits, probabilities)


def _per_example(loss_fn, labels, logits):
  """The loss of each text, `[batch]`."""
  losses = loss_fn(labels=labels, logits=logits)  # [batch, num_labels]
  return (losses if losses.shape.ndims == 1 else
          tf.reduce_mean(losses, axis=-1))


def calibrated(logits, calibration):
  """Logits `[batch, num_labels]` whose sigmoid is calibrated; None: as is."""
  if calibration is None:
    return logits
  scale, shift = calibration.arrays(logits.shape.as_list()[-1])
  return logits * tf.constant(scale) + tf.constant(shift)


def _mean_over_tokens(sequence_output, input_mask):
  """Mean of `[batch, seq, hidden]` over the tokens whose mask is 1."""
  mask = tf.expand_dims(tf.cast(input_mask, tf.float32), axis=-1)
  total = tf.reduce_sum(sequence_output * mask, axis=1)
  # A row without tokens has no mean; 1 keeps it finite.
  return total / tf.maximum(tf.reduce_sum(mask, axis=1), 1.0)


def create_inference_graph(bert_config, num_labels, pooling,
                           use_one_hot_embeddings=False, with_labels=False,
                           loss_fn=tf.nn.sigmoid_cross_entropy_with_logits,
                           calibration=None):
  """Placeholders and the model behind them, in the current graph.

  Args:
    bert_config: `modeling.BertConfig`.
    num_labels: int.
    pooling: see `create_model`.
    use_one_hot_embeddings: bool.
    with_labels: bool; True adds a placeholder for labels, and their loss.
    loss_fn: see `create_model`.
    calibration: see `create_model`.

  Returns:
    `InferenceGraph` of tensors: int32 placeholders `[batch, seq]`; `labels`
    float32 `[batch, num_labels]` and `per_example_loss` `[batch]`, or None;
    `logits` and `probabilities` float32 `[batch, num_labels]`.
  """
  input_ids = tf.placeholder(tf.int32, [None, None], "input_ids")
  input_mask = tf.placeholder(tf.int32, [None, None], "input_mask")
  segment_ids = tf.placeholder(tf.int32, [None, None], "segment_ids")
  labels = None
  if with_labels:
    labels = tf.placeholder(tf.float32, [None, num_labels], "labels")
  (_, per_example_loss, logits, probabilities) = create_model(
      bert_config, False, input_ids, input_mask, segment_ids, labels,
      num_labels, use_one_hot_embeddings, pooling=pooling, loss_fn=loss_fn,
      calibration=calibration)
  return InferenceGraph(input_ids, input_mask, segment_ids, labels,
                        per_example_loss, logits, probabilities)


def variable_shapes(bert_config, num_labels):
  """Names and shapes of `create_model`'s variables, without its graph.

  Args:
    bert_config: `modeling.BertConfig`.
    num_labels: int.

  Returns:
    dict from name to list of int.
  """
  hidden, inner = bert_config.hidden_size, bert_config.intermediate_size
  width = bert_config.embedding_size or hidden
  shapes = {"output_weights": [num_labels, hidden], "output_bias": [num_labels]}

  def dense(scope, rows, columns):
    shapes[scope + "/kernel"] = [rows, columns]
    shapes[scope + "/bias"] = [columns]

  def layer_norm(scope, size):
    shapes[scope + "/LayerNorm/beta"] = shapes[
        scope + "/LayerNorm/gamma"] = [size]

  for name, rows in (("word", bert_config.vocab_size),
                     ("token_type", bert_config.type_vocab_size),
                     ("position", bert_config.max_position_embeddings)):
    shapes["bert/embeddings/%s_embeddings" % name] = [rows, width]
  layer_norm("bert/embeddings", width)
  if width != hidden:
    dense("bert/embeddings_project", width, hidden)
  for number in range(bert_config.num_hidden_layers):
    layer = "bert/encoder/layer_%d/" % number
    for name in ("query", "key", "value"):
      dense(layer + "attention/self/" + name, hidden, hidden)
    dense(layer + "attention/output/dense", hidden, hidden)
    layer_norm(layer + "attention/output", hidden)
    dense(layer + "intermediate/dense", hidden, inner)
    dense(layer + "output/dense", inner, hidden)
    layer_norm(layer + "output", hidden)
  dense("bert/pooler/dense", hidden, hidden)
  return shapes


def log_odds(label_counts, num_examples):
  """Log-odds of each label's frequency, where its sigmoid output should start.

  Args:
    label_counts: numpy int `[num_labels]`, training examples a label is on.
    num_examples: int, at least 1.

  Returns:
    list of float; frequencies stay half an example away from 0 and 1.
  """
  counts = np.clip(np.asarray(label_counts, np.float64), 0.5,
                   num_examples - 0.5)
  return [float(x) for x in np.log(counts / (num_examples - counts))]
