# SPDX-License-Identifier: Apache-2.0
"""The signatures of an export: their inputs and outputs.

  serving_default  input_ids, input_mask, segment_ids -> probabilities
  ids_only         input_ids -> probabilities
  classify         serialized tf.Examples -> classes, scores
  predict_labels   as serving_default -> probabilities, and label names sorted
                   by score, and whether the trained directory's decision rule
                   gives the text each; the last is left out where the rule
                   has no thresholds
  text             strings -> as predict_labels (with a `GraphTokenizer`)

Each is the model of `head.create_model` with separate inputs; all share one set
of weights. Every output has the batch as first dimension: a row of ids, or in
`text` a text, whatever its number of windows.

TensorFlow Serving, when it puts requests of different lengths into one batch,
pads each tensor at its end with the tensor's *first value*: ids with [CLS], the
mask with 1. So a run of [CLS] at the end of a row is not part of the text here.
"""

import collections

import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel import score_curves
from multilabel.features import feature_rows


DEFAULT = "serving_default"
IDS_ONLY = "ids_only"
CLASSIFY = "classify"
PREDICT_LABELS = "predict_labels"
TEXT = "text"

FEATURES = ("input_ids", "input_mask", "segment_ids")

# Windows per run: a long text must not need memory for all of them.
_WINDOWS_AT_ONCE = 32

# A graph is one protocol buffer, limited to 2 GB.
_MAX_CONSTANTS = (1 << 31) - (64 << 20)


class Weights(object):
  """Where `tf.get_variable` gets its values: variables, or constants."""

  def __init__(self, checkpoint=None):
    """Weights are constants from `checkpoint`; None: they are variables.

    Raises:
      ValueError: the constants would not fit into a graph.
    """
    self._reader = None
    self._constants = {}
    if checkpoint is not None:
      self._reader = tf.train.load_checkpoint(checkpoint)

  def scope(self):
    """A scope in which models share their weights."""
    return tf.variable_scope(
        tf.get_variable_scope(), reuse=tf.AUTO_REUSE, use_resource=True,
        custom_getter=self._constant if self._reader else None)

  def _constant(self, getter, name, **unused_kwargs):
    """Replaces `getter`, which would make a variable."""
    del getter
    if name not in self._constants:
      value = self._reader.get_tensor(name)
      size = value.nbytes + sum(
          4 * tensor.shape.num_elements()
          for tensor in self._constants.values())
      if size > _MAX_CONSTANTS:
        raise ValueError("weights larger than 2 GB cannot be constants; leave "
                         "out --frozen and --onnx.")
      with tf.control_dependencies(None), tf.name_scope(None):
        self._constants[name] = tf.constant(value, name=name)
    return self._constants[name]


class SignatureBuilder(object):
  """Builds the signatures in the current graph."""

  def __init__(self, trained, weights, vocab):
    """Takes `trained_model.TrainedModel`, `Weights`, and token -> id."""
    self._config = trained.bert_config
    self._labels = trained.labels
    self._settings = trained.settings
    self._decision = trained.decision
    self._calibration = trained.calibration
    self._long_text = trained.long_text
    self._weights = weights
    self._cls = vocab["[CLS]"]

  def build(self, graph_tokenizer=None):
    """Builds them all.

    Args:
      graph_tokenizer: `graph_tokenizer.GraphTokenizer`, or None for no
        signature `text`.

    Returns:
      OrderedDict from name to `SignatureDef`.
    """
    found = collections.OrderedDict()
    for name, method in (
        (DEFAULT, self._default), (IDS_ONLY, self._ids_only),
        (CLASSIFY, self._classify), (PREDICT_LABELS, self._predict_labels)):
      with tf.name_scope(name):
        found[name] = method()
    if graph_tokenizer is not None:
      with tf.name_scope(TEXT):
        found[TEXT] = self._text(graph_tokenizer)
    return found

  def _default(self):
    inputs = _placeholders(FEATURES)
    return _predict(inputs, [(
        "probabilities", self._checked_probabilities(*inputs))])

  def _ids_only(self):
    input_ids, = inputs = _placeholders(["input_ids"])
    return _predict(inputs, [("probabilities", self._checked_probabilities(
        input_ids, tf.cast(tf.not_equal(input_ids, 0), tf.int32),
        tf.zeros_like(input_ids)))])

  def _predict_labels(self):
    inputs = _placeholders(FEATURES)
    return _predict(inputs, self._named(self._checked_probabilities(*inputs)))

  def _text(self, graph_tokenizer):
    texts = tf.placeholder(tf.string, [None], "text")
    input_ids, input_mask, text_numbers = graph_tokenizer.encode(
        texts, self._settings["max_seq_length"], self._long_text)
    input_ids, input_mask = self._rounded(input_ids, input_mask)
    if self._long_text.form == "windows":
      pool = {"max": tf.math.segment_max, "mean": tf.math.segment_mean}[
          self._long_text.pooling]
      probabilities = tf.sigmoid(head.calibrated(pool(
          self._logits_of_windows(input_ids, input_mask), text_numbers),
                                                 self._calibration))
    else:
      _, probabilities = self._model(input_ids, input_mask,
                                     tf.zeros_like(input_ids))
    return _predict([texts], self._named(
        tf.identity(probabilities, "probabilities")))

  def _rounded(self, *tensors):
    """Pads to a length that the predictor uses, so that both round the same."""
    longest = self._config.max_position_embeddings
    table = tf.constant([0] + [feature_rows.round_up(length, longest)
                               for length in range(1, longest + 1)])
    length = tf.shape(tensors[0])[1]
    more = tf.gather(table, length) - length
    return [tf.pad(tensor, [[0, 0], [0, more]]) for tensor in tensors]

  def _logits_of_windows(self, input_ids, input_mask):
    """Logits `[windows, num_labels]`, a few windows at a time."""
    def run(start, logits):
      end = start + _WINDOWS_AT_ONCE
      piece = input_ids[start:end]
      more, _ = self._model(piece, input_mask[start:end], tf.zeros_like(piece))
      return end, tf.concat([logits, more], axis=0)

    num_labels = len(self._labels)
    return tf.while_loop(
        lambda start, _: start < tf.shape(input_ids)[0], run,
        [tf.constant(0), tf.zeros([0, num_labels])],
        shape_invariants=[tf.TensorShape([]),
                          tf.TensorShape([None, num_labels])],
        parallel_iterations=1)[1]

  def _classify(self):
    examples = tf.placeholder(tf.string, [None], "examples")
    scores = self._checked_probabilities(*_parse_examples(examples))
    classes = tf.tile(tf.constant([self._label_bytes()]),
                      [tf.shape(scores)[0], 1])
    return tf.saved_model.classification_signature_def(
        examples, classes, tf.identity(scores, "scores"))

  def _named(self, probabilities):
    """Outputs of one probability per label, with names, best first."""
    num_labels = len(self._labels)
    # Of equal scores the first label comes first, as in the predictor.
    scores, order = tf.nn.top_k(probabilities, num_labels)
    named = [
        ("probabilities", probabilities),
        ("labels", tf.gather(tf.constant(self._label_bytes()), order)),
        ("scores", scores)]
    if self._decision.is_by_text:
      return named
    thresholds = tf.constant(score_curves.check_thresholds(
        self._decision.thresholds, num_labels, "float32"))
    above = scores >= tf.gather(thresholds, order)
    if self._decision.top_k is not None:
      above &= tf.cumsum(tf.cast(above, tf.int32),
                         axis=1) <= self._decision.top_k
    if self._decision.always_one_label:
      none = ~tf.reduce_any(above, axis=1, keepdims=True)
      above |= none & (tf.range(num_labels) < 1)
    return named + [("above_threshold", above)]

  def _label_bytes(self):
    return [label.encode("utf-8") for label in self._labels]

  def _checked_probabilities(self, input_ids, input_mask, segment_ids):
    """The model, after checks of the client's inputs, of any int type."""
    config = self._config
    shape = tf.shape(input_ids)
    checks = [
        _assert(tf.reduce_all(tf.equal(tf.shape(tensor), shape)),
                "%s must have the shape of input_ids." % name, tf.shape(tensor),
                shape)
        for name, tensor in zip(FEATURES[1:], (input_mask, segment_ids))]
    checks.append(_assert(
        (shape[1] >= 1) & (shape[1] <= config.max_position_embeddings),
        "a text must have 1 to %d ids, not" % config.max_position_embeddings,
        shape[1]))
    for name, tensor, size in (
        ("input_ids", input_ids, config.vocab_size),
        ("input_mask", input_mask, 2),
        ("segment_ids", segment_ids, config.type_vocab_size)):
      checks.append(_assert(
          tf.reduce_all((tensor >= 0) & (tensor < size)),
          "%s must be from 0 to %d; lowest and highest are" % (name, size - 1),
          tf.reduce_min(tensor), tf.reduce_max(tensor)))
    with tf.control_dependencies(checks):
      # 64 bits are cut to 32 only after the check.
      input_ids, input_mask, segment_ids = [
          tf.cast(tf.identity(tensor), tf.int32)
          for tensor in (input_ids, input_mask, segment_ids)]
    _, probabilities = self._model(
        input_ids, self._without_padding(input_ids, input_mask), segment_ids)
    return tf.identity(probabilities, "probabilities")

  def _without_padding(self, input_ids, input_mask):
    """The mask without a run of [CLS] at the end of a row."""
    others = tf.cast(tf.not_equal(input_ids, self._cls), tf.int32)
    later = tf.cumsum(others, axis=1, reverse=True)  # others from here on
    text = tf.concat([tf.ones_like(later[:, :1]),
                      tf.cast(later[:, 1:] > 0, tf.int32)], axis=1)
    return input_mask * text

  def _model(self, input_ids, input_mask, segment_ids):
    """(logits, probabilities), float32 `[rows, num_labels]` each."""
    with self._weights.scope():
      return head.create_model(
          self._config, False, input_ids, input_mask, segment_ids, None,
          len(self._labels), False, pooling=self._settings["pooling"],
          calibration=self._calibration)[2:]


def _placeholders(names):
  return [tf.placeholder(tf.int32, [None, None], name) for name in names]


def _predict(inputs, outputs):
  """A `SignatureDef` whose inputs have the names of their placeholders."""
  info = tf.saved_model.build_tensor_info
  return tf.saved_model.build_signature_def(
      {tensor.op.name.split("/")[-1]: info(tensor) for tensor in inputs},
      {name: info(tensor) for name, tensor in outputs},
      tf.saved_model.PREDICT_METHOD_NAME)


def _assert(condition, message, *values):
  """An op that fails with the message and the values."""
  return tf.raw_ops.Assert(condition=condition,
                           data=[tf.constant(message)] + list(values),
                           summarize=8)


def _parse_examples(serialized):
  """Serialized `tf.Example`s to padded features, int64 `[batch, seq]` each.

  An example without `input_mask` or `segment_ids` gets ones and zeros.
  """
  parsed = tf.io.parse_example(
      serialized, {name: tf.io.VarLenFeature(tf.int64) for name in FEATURES})
  shape = parsed["input_ids"].dense_shape
  counts = {
      name: tf.scatter_nd(sparse.indices[:, :1],
                          tf.ones_like(sparse.values), shape[:1])
      for name, sparse in parsed.items()}
  num_ids = counts["input_ids"]
  first = _assert(tf.reduce_all(num_ids > 0),
                  "an example has no input_ids.", num_ids)
  with tf.control_dependencies([first]):
    checks = [
        _assert(tf.reduce_all(tf.equal(counts[name], num_ids) |
                              tf.equal(counts[name], 0)),
                "an example has another number of %s than of input_ids:" % name,
                counts[name], num_ids)
        for name in FEATURES[1:]]
  with tf.control_dependencies(checks):
    input_ids, input_mask, segment_ids = [
        tf.sparse.to_dense(tf.SparseTensor(
            tf.identity(parsed[name].indices), parsed[name].values, shape))
        for name in FEATURES]
  ones = tf.cast(tf.sequence_mask(num_ids, shape[1]), tf.int64)
  input_mask = tf.where(counts["input_mask"] > 0, input_mask, ones)
  return input_ids, input_mask, segment_ids


def frozen_graph(trained, checkpoint):
  """The model of `serving_default` with constants, without the checks.

  Args:
    trained: `trained_model.TrainedModel`.
    checkpoint: str.

  Returns:
    (`GraphDef`, names of the inputs, names of the outputs).
  """
  with tf.Graph().as_default() as graph:
    with Weights(checkpoint).scope():
      inference = head.create_inference_graph(
          trained.bert_config, len(trained.labels),
          trained.settings["pooling"], calibration=trained.calibration)
    output = tf.identity(inference.probabilities, "probabilities")
    return (graph.as_graph_def(), [name + ":0" for name in FEATURES],
            [output.name])
