# SPDX-License-Identifier: Apache-2.0
"""The BERT encoder (Devlin et al. 2018, arXiv:1810.04805) as a TF1 graph.

Names, arguments, defaults and variable names are those of google-research/bert,
so its checkpoints load by name. What is ours is behind keyword arguments whose
defaults leave the original's behavior: `dropout_seed` (masks that are a
function of seed and step), `first_token_only` (no work for outputs that are not
used), `recorded_layers` (how to build a layer again, for `layer_training`),
`short_gradients` (GELU and layer norm with gradients in fewer passes over
memory) and `layer_norm_eps`. A configuration may have three keys that the
original's does not have: `gelu_approximate`, `layer_norm_eps`, and ELECTRA's
`embedding_size`.

Dimensions in the comments:
  B = batch size (number of texts)
  S = sequence length; F and T where queries and keys differ in length
  W = width (hidden_size) of a token's vector
  N = number of attention heads
  H = size of one head, W = N * H
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import copy
import difflib
import functools
import json
import math
import os
import zlib

from absl import logging
import six
import tensorflow.compat.v1 as tf


# The value in the original's tf.contrib layer_norm; checkpoints depend on it.
LAYER_NORM_EPSILON = 1e-12

# Random bits per element of a dropout mask: rates are rounded to multiples of
# 2^-16. A different number here gives different masks for the same seed.
DROPOUT_BITS = 16

# A configuration has a few hundred bytes, or a few MB if it names thousands of
# labels. The largest published BERT has 48 layers and 4 * 10^9 parameters; much
# larger values are rejected before any memory is allocated.
_MAX_CONFIG_BYTES = 16 * 1024 * 1024
_MAX_LAYERS = 1000
_MAX_PARAMETERS = 2 * 10 ** 10

# Keys found in real bert_config.json files that have no effect here; `pooler_*`
# and `_*` are accepted as well.
_IGNORED_CONFIG_KEYS = frozenset([
    "architectures", "attention_dropout", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "directionality",
    "do_sample", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "id2label", "label2id", "model_type",
    "num_labels", "output_attentions", "output_hidden_states", "output_past",
    "pad_token_id", "problem_type", "sep_token_id", "task_specific_params",
    "tie_word_embeddings", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "use_cache"])

# Keys for which only one value is supported, and that value.
FIXED_CONFIG_VALUES = (
    ("position_embedding_type", "absolute"), ("ln_type", "postln"),
    ("is_decoder", False), ("is_encoder_decoder", False),
    ("add_cross_attention", False), ("pruned_heads", {}))

# Keys that no configuration but ALBERT's has.
_ALBERT_KEYS = ("num_hidden_groups", "inner_group_num", "num_memory_blocks",
                "net_structure_type")

# A layer of a graph: input and output [B * S, W] (the last output may be
# [B, W]), the scope of its variables, and a function that builds it again from
# another input.
RecordedLayer = collections.namedtuple(
    "RecordedLayer", ["input", "output", "scope_name", "build"])


class BertConfig(object):
  """Configuration of a `BertModel`.

  Attributes: the arguments of `__init__`, and
    gelu_approximate: bool, default True: "gelu" is the tanh approximation, as
      in google-research/bert. False: the exact form with erf, as in Hugging
      Face transformers. Set by a key of that name in the JSON file.
    layer_norm_eps: float, default `LAYER_NORM_EPSILON`. ERNIE has 1e-5.
    embedding_size: int, width of the three embedding tables; default None:
      `hidden_size`. If it differs from that, a dense layer `embeddings_project`
      follows, as in ELECTRA.
  """

  gelu_approximate = True
  layer_norm_eps = LAYER_NORM_EPSILON
  embedding_size = None

  def __init__(self,
               vocab_size,
               hidden_size=768,
               num_hidden_layers=12,
               num_attention_heads=12,
               intermediate_size=3072,
               hidden_act="gelu",
               hidden_dropout_prob=0.1,
               attention_probs_dropout_prob=0.1,
               max_position_embeddings=512,
               type_vocab_size=16,
               initializer_range=0.02):
    """Makes a configuration; the defaults are those of BERT-Base.

    Args:
      vocab_size: int, number of rows of the word embeddings.
      hidden_size: int, width of the encoder and the pooler.
      num_hidden_layers: int, number of Transformer layers.
      num_attention_heads: int, heads per layer; divides `hidden_size`.
      intermediate_size: int, width of the feed-forward layer.
      hidden_act: str or function, activation of the feed-forward layer.
      hidden_dropout_prob: float, dropout on embeddings and layer outputs.
      attention_probs_dropout_prob: float, dropout on attention probabilities.
      max_position_embeddings: int, longest sequence in tokens.
      type_vocab_size: int, number of segment ids.
      initializer_range: float, standard deviation of the initializer.
    """
    self.vocab_size = vocab_size
    self.hidden_size = hidden_size
    self.num_hidden_layers = num_hidden_layers
    self.num_attention_heads = num_attention_heads
    self.hidden_act = hidden_act
    self.intermediate_size = intermediate_size
    self.hidden_dropout_prob = hidden_dropout_prob
    self.attention_probs_dropout_prob = attention_probs_dropout_prob
    self.max_position_embeddings = max_position_embeddings
    self.type_vocab_size = type_vocab_size
    self.initializer_range = initializer_range

  @classmethod
  def from_dict(cls, json_object):
    """Makes a `BertConfig` from a dict; every key becomes an attribute."""
    config = cls(vocab_size=None)
    for key, value in six.iteritems(json_object):
      setattr(config, key, value)
    return config

  @classmethod
  def from_json_file(cls, json_file):
    """Reads and checks a `bert_config.json`.

    Args:
      json_file: str, path.

    Returns:
      A `BertConfig`.

    Raises:
      ValueError: the file cannot be read, is not a JSON object, has no
        `vocab_size`, has an unknown key, or a value that is invalid for a BERT.
    """
    json_object = _read_config_file(json_file)
    try:
      _check_config_keys(json_object)
      config = cls.from_dict(json_object)
      config.validate()
    except ValueError as error:
      raise ValueError("bert_config_file %s: %s" % (json_file, error))
    return config

  def validate(self):
    """Raises ValueError, naming the key, for invalid values."""
    if self.vocab_size is None:
      raise ValueError("vocab_size is missing.")
    for key in ("vocab_size", "hidden_size", "num_hidden_layers",
                "num_attention_heads", "intermediate_size",
                "max_position_embeddings", "type_vocab_size",
                "embedding_size"):
      value = getattr(self, key)
      if key == "embedding_size" and value is None:
        continue
      if (not isinstance(value, six.integer_types) or isinstance(value, bool)
          or value < 1):
        raise ValueError("%s is %s; it must be a positive integer." % (
            key, _shown(value)))
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
      value = getattr(self, key)
      if not _is_number(value) or not 0 <= value < 1:
        raise ValueError("%s is %s; it must be at least 0 and below 1." % (
            key, _shown(value)))
    if (not _is_number(self.initializer_range)
        or not 0 < self.initializer_range < float("inf")):
      raise ValueError("initializer_range is %s; it must be above 0." %
                       _shown(self.initializer_range))
    if self.initializer_range > 1e6:  # TensorFlow cannot hold 10 ** 400
      raise ValueError("initializer_range is %s; it must not be above a "
                       "million." % _shown(self.initializer_range))
    if not _is_number(self.layer_norm_eps) or not 0 < self.layer_norm_eps < 1:
      raise ValueError("layer_norm_eps is %s; it must be above 0 and below 1." %
                       _shown(self.layer_norm_eps))
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(
          "hidden_size %s is not a multiple of num_attention_heads %s." % (
              _shown(self.hidden_size), _shown(self.num_attention_heads)))
    if self.num_hidden_layers > _MAX_LAYERS:
      raise ValueError("num_hidden_layers is %s; the maximum is %d." % (
          _shown(self.num_hidden_layers), _MAX_LAYERS))
    parameters = self._count_parameters()
    if parameters > _MAX_PARAMETERS:
      raise ValueError(
          "a model of these sizes has %s parameters; the maximum is %d: is one "
          "of hidden_size, intermediate_size, vocab_size, "
          "max_position_embeddings, type_vocab_size wrong?" % (
              _shown(parameters), _MAX_PARAMETERS))
    if not isinstance(self.gelu_approximate, bool):
      raise ValueError("gelu_approximate is %s; it must be true or false." %
                       _shown(self.gelu_approximate))
    if (isinstance(self.hidden_act, six.string_types)
        and len(self.hidden_act) > 100):
      raise ValueError(
          "hidden_act is not a name: %s." % _shown(self.hidden_act))
    activation = get_activation(self.hidden_act)
    if activation is not None and not callable(activation):
      raise ValueError(
          "hidden_act is %s; it must be gelu, relu, tanh or linear." %
          _shown(self.hidden_act))

  def _count_parameters(self):
    """Number of weights in the matrices; biases are few."""
    embeddings = (self.embedding_size or self.hidden_size) * (
        self.vocab_size + self.max_position_embeddings + self.type_vocab_size)
    layer = 2 * self.hidden_size * (
        2 * self.hidden_size + self.intermediate_size)
    return embeddings + self.num_hidden_layers * layer

  def to_dict(self):
    """Returns the configuration as a new dict."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self):
    """Returns the configuration as JSON text, keys sorted."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _read_config_file(json_file):
  """Returns the JSON object of an untrusted file."""
  if os.path.exists(json_file) and not os.path.isfile(json_file):
    # A pipe might wait forever, a device might not end.
    raise ValueError("bert_config_file %s is not a file." % json_file)
  try:
    with tf.io.gfile.GFile(json_file, "rb") as reader:
      data = reader.read(_MAX_CONFIG_BYTES + 1)
  except (tf.errors.OpError, EnvironmentError):
    raise ValueError("bert_config_file %s cannot be read; is the path right?"
                     % json_file)
  if len(data) > _MAX_CONFIG_BYTES:
    raise ValueError("bert_config_file %s is longer than %d bytes; is it the "
                     "right file?" % (json_file, _MAX_CONFIG_BYTES))
  try:
    json_object = json.loads(data.decode("utf-8"),
                             object_pairs_hook=_object_without_duplicates,
                             parse_int=_short_int)
  except RecursionError:
    raise ValueError("bert_config_file %s is nested too deeply." % json_file)
  except ValueError as error:  # JSON and UTF-8 decoding errors are subclasses
    raise ValueError("bert_config_file %s is not JSON: %s" % (
        json_file, " ".join(str(error).split())))
  if not isinstance(json_object, dict):
    raise ValueError(
        "bert_config_file %s must hold a JSON object, not a %s." % (
        json_file, type(json_object).__name__))
  return json_object


def _object_without_duplicates(pairs):
  json_object = dict(pairs)
  if len(json_object) != len(pairs):
    seen = set()
    for key, _ in pairs:
      if key in seen:
        raise ValueError("the key %s appears twice" % _shown(key))
      seen.add(key)
  return json_object


def _short_int(digits):
  # Python takes quadratic time to read a long number.
  if len(digits) > 1000:
    raise ValueError("a number has %d digits" % len(digits))
  return int(digits)


def _shown(value):
  """A value of a file as JSON, for one line of an error message."""
  try:
    text = json.dumps(value)
  except RecursionError:
    text = "(nested too deep to show)"
  return text if len(text) <= 100 else text[:80] + "... (shortened)"


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_config_keys(json_object):
  """Rejects unknown keys, and keys whose meaning is not implemented."""
  _check_not_albert(json_object)
  known = set(BertConfig(vocab_size=None).__dict__) | {
      "gelu_approximate", "layer_norm_eps", "embedding_size"}
  fixed = {key for key, _ in FIXED_CONFIG_VALUES}
  ignored = []
  for key in sorted(json_object):
    if key in known:
      continue
    # A name with two underscores would change the object itself.
    if key in _IGNORED_CONFIG_KEYS or key in fixed or (
        key.startswith(("pooler_", "_")) and not key.startswith("__")):
      ignored.append(key[:100])
      continue
    close = difflib.get_close_matches(key[:100], known, n=1)
    raise ValueError("unknown key %s; %s" % (
        _shown(key), "did you mean %s?" % close[0] if close else
        "a BERT configuration has no such key; remove it if it is not needed."))
  for key, only in FIXED_CONFIG_VALUES:
    if json_object.get(key) not in (None, only):
      raise ValueError("%s is %s; this BERT only supports %s." % (
          key, _shown(json_object[key]),
          only if isinstance(only, str) else json.dumps(only)))
  if json_object.get("model_type", "bert") not in ("bert", "electra"):
    raise ValueError("model_type is %s; only bert is supported." %
                     _shown(json_object["model_type"]))
  if ignored:
    logging.info("bert_config_file: keys not used here: %s",
                 ", ".join(ignored[:50] + ["..."] * bool(ignored[50:])))


def _check_not_albert(json_object):
  """Rejects ALBERT's configuration, which looks much like BERT's."""
  keys = [key for key in _ALBERT_KEYS if key in json_object]
  if keys or json_object.get("model_type") == "albert":
    raise ValueError("%s marks this as the configuration of an ALBERT, whose "
                     "layers share their weights; give that of a BERT." % (
                         keys[0] if keys else "model_type"))
  sizes = [json_object.get(key) for key in ("embedding_size", "hidden_size")]
  if (sizes[0] not in (None, sizes[1])
      and json_object.get("model_type") != "electra"):
    raise ValueError(
        "embedding_size %s with hidden_size %s looks like an ALBERT, whose "
        "layers share their weights; give the configuration of a BERT, or, for "
        "an ELECTRA, add \"model_type\": \"electra\"." % (
            _shown(sizes[0]), _shown(sizes[1])))


class BertModel(object):
  """The encoder: embeddings, Transformer layers, pooler.

  ```python
  # Ids of two texts, already converted to WordPieces.
  input_ids = tf.constant([[31, 51, 99], [15, 5, 0]])
  input_mask = tf.constant([[1, 1, 1], [1, 1, 0]])
  token_type_ids = tf.constant([[0, 0, 1], [0, 1, 0]])

  config = modeling.BertConfig(vocab_size=32000, hidden_size=512,
      num_hidden_layers=8, num_attention_heads=8, intermediate_size=1024)
  model = modeling.BertModel(config=config, is_training=False,
      input_ids=input_ids, input_mask=input_mask,
      token_type_ids=token_type_ids)
  pooled_output = model.get_pooled_output()
  ```
  """

  def __init__(self,
               config,
               is_training,
               input_ids,
               input_mask=None,
               token_type_ids=None,
               use_one_hot_embeddings=False,
               scope=None,
               dropout_seed=None,
               first_token_only=False,
               recorded_layers=None,
               change_word_embeddings=None):
    """Builds the graph.

    Args:
      config: `BertConfig`; copied, never changed.
      is_training: bool; False switches every dropout off.
      input_ids: int32 or int64 `[B, S]`, WordPiece ids.
      input_mask: int32 or int64 `[B, S]`, 1 for a token, 0 for padding;
        default: all ones.
      token_type_ids: int32 or int64 `[B, S]`, segment ids; default: zeros.
      use_one_hot_embeddings: bool; look up word embeddings with a matrix
        product.
      scope: str, variable scope; default "bert".
      dropout_seed: None for `tf.nn.dropout`, or `(seed, step)` as `dropout`
        takes it.
      first_token_only: bool; True computes the last layer only for the first
        token of each text, so `get_sequence_output()` is `[B, 1, W]`. The
        pooled output is the same, with one layer less work.
      recorded_layers: see `transformer_model`.
      change_word_embeddings: function that replaces the word vectors, float
        `[B, S, embedding_size]`; None: identity.

    Raises:
      ValueError: the configuration or a tensor's shape is invalid.
    """
    config = copy.deepcopy(config)
    if not is_training:
      config.hidden_dropout_prob = 0.0
      config.attention_probs_dropout_prob = 0.0

    input_shape = get_shape_list(input_ids, expected_rank=2, name="input_ids")
    if input_mask is None:
      input_mask = tf.ones(shape=input_shape, dtype=tf.int32)
    if token_type_ids is None:
      token_type_ids = tf.zeros(shape=input_shape, dtype=tf.int32)

    with tf.variable_scope(scope, default_name="bert"):
      with tf.variable_scope("embeddings"):
        (self.embedding_output, self.embedding_table) = embedding_lookup(
            input_ids=input_ids,
            vocab_size=config.vocab_size,
            embedding_size=config.embedding_size or config.hidden_size,
            initializer_range=config.initializer_range,
            word_embedding_name="word_embeddings",
            use_one_hot_embeddings=use_one_hot_embeddings)
        if change_word_embeddings is not None:
          self.embedding_output = change_word_embeddings(self.embedding_output)
        self.embedding_output = embedding_postprocessor(
            input_tensor=self.embedding_output,
            use_token_type=True,
            token_type_ids=token_type_ids,
            token_type_vocab_size=config.type_vocab_size,
            token_type_embedding_name="token_type_embeddings",
            use_position_embeddings=True,
            position_embedding_name="position_embeddings",
            initializer_range=config.initializer_range,
            max_position_embeddings=config.max_position_embeddings,
            dropout_prob=config.hidden_dropout_prob,
            dropout_seed=dropout_seed,
            layer_norm_eps=config.layer_norm_eps,
            short_gradients=is_training)

      self.embedding_output = _project_embeddings(self.embedding_output, config)

      with tf.variable_scope("encoder"):
        attention_mask = create_attention_mask_from_input_mask(
            input_ids, input_mask)
        self.all_encoder_layers = transformer_model(
            input_tensor=self.embedding_output,
            attention_mask=attention_mask,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            intermediate_act_fn=_config_activation(config, is_training),
            hidden_dropout_prob=config.hidden_dropout_prob,
            attention_probs_dropout_prob=config.attention_probs_dropout_prob,
            initializer_range=config.initializer_range,
            do_return_all_layers=True,
            dropout_seed=dropout_seed,
            first_token_only=first_token_only,
            recorded_layers=recorded_layers,
            layer_norm_eps=config.layer_norm_eps,
            short_gradients=is_training)
      self.sequence_output = self.all_encoder_layers[-1]  # [B, S, W]

      # A vector per text: the first token through one dense layer, which
      # pre-training fitted on next-sentence prediction.
      with tf.variable_scope("pooler"):
        first_token = self.sequence_output[:, 0, :]  # [B, W]
        self.pooled_output = _dense(
            first_token, config.hidden_size, tf.tanh,
            create_initializer(config.initializer_range), "dense")

  def get_pooled_output(self):
    """float `[B, W]`: the first token's vector after the tanh pooler."""
    return self.pooled_output

  def get_sequence_output(self):
    """float `[B, S, W]`: the last layer (`[B, 1, W]` if first_token_only)."""
    return self.sequence_output

  def get_all_encoder_layers(self):
    """List of float `[B, S, W]`, one per layer, the last layer last."""
    return self.all_encoder_layers

  def get_embedding_output(self):
    """float `[B, S, W]`: what goes into the first layer."""
    return self.embedding_output

  def get_embedding_table(self):
    """float `[vocab_size, W]`: the word embeddings."""
    return self.embedding_table


def _project_embeddings(embedding_output, config):
  """ELECTRA's dense layer from `[B, S, E]` to `[B, S, W]`, if E is not W."""
  if config.embedding_size in (None, config.hidden_size):
    return embedding_output
  output = _dense(
      reshape_to_matrix(embedding_output), config.hidden_size, None,
      create_initializer(config.initializer_range), "embeddings_project")
  return reshape_from_matrix(output, get_shape_list(embedding_output))


def gelu(x):
  """Gaussian Error Linear Unit, tanh form (Hendrycks and Gimpel 2016, sec. 2).

  Args:
    x: float tensor of any shape.

  Returns:
    `x` with the activation applied.
  """
  # In this form, TensorFlow with oneDNN fuses it into the preceding product.
  inner = math.sqrt(2.0 / math.pi) * (x + x * (0.044715 * tf.square(x)))
  return (0.5 * x) * (1.0 + tf.tanh(inner))


def exact_gelu(x):
  """Gaussian Error Linear Unit, `x * Phi(x)` by erf: Hugging Face's "gelu"."""
  return x * (0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5))))


@tf.custom_gradient
def _gelu_short_gradient(x):
  """`gelu` whose gradient goes over memory a quarter less often."""
  scale = math.sqrt(2.0 / math.pi)
  square = tf.square(x)
  half = 0.5 * (1.0 + tf.tanh(x * (scale + (scale * 0.044715) * square)))

  def gradient(output_gradient):
    # tanh' = 1 - tanh^2 = 4 * half * (1 - half)
    slope = x * half * (1.0 - half) * (
        2.0 * scale + (6.0 * scale * 0.044715) * square)
    return output_gradient * (half + slope)

  return x * half, gradient


@tf.custom_gradient
def _exact_gelu_short_gradient(x):
  """`exact_gelu` whose gradient goes over memory a quarter less often."""
  probability = 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))

  def gradient(output_gradient):
    density = tf.exp(tf.square(x) * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
    return output_gradient * (probability + x * density)

  return x * probability, gradient


def get_activation(activation_string):
  """Maps a name to an activation function.

  Args:
    activation_string: "relu", "gelu", "tanh", "linear", None or "" (both of
      which are linear), in any case; anything that is not a string is
      returned as it is.

  Returns:
    A function, or None for linear.

  Raises:
    ValueError: the name is unknown.
  """
  if not isinstance(activation_string, six.string_types):
    return activation_string
  name = activation_string.lower()
  activations = {
      "": None, "linear": None, "relu": tf.nn.relu, "gelu": gelu,
      "tanh": tf.tanh}
  if name not in activations:
    raise ValueError("Unsupported activation: %s (known: gelu, relu, tanh, "
                     "linear)." % name)
  return activations[name]


def _config_activation(config, short_gradients=False):
  activation = get_activation(config.hidden_act)
  if activation is not gelu:
    return activation
  if config.gelu_approximate:
    return _gelu_short_gradient if short_gradients else gelu
  return _exact_gelu_short_gradient if short_gradients else exact_gelu


def get_assignment_map_from_checkpoint(tvars, init_checkpoint):
  """Pairs variables with the checkpoint's tensors of the same name.

  Args:
    tvars: list of variables.
    init_checkpoint: str, checkpoint prefix.

  Returns:
    (assignment_map, initialized_variable_names): an OrderedDict from name to
    name for `tf.train.init_from_checkpoint`, and a dict whose keys are the
    paired names, plain and with ":0".
  """
  names = set(_variable_name(var) for var in tvars)
  assignment_map = collections.OrderedDict()
  initialized_variable_names = {}
  for name, _ in tf.train.list_variables(init_checkpoint):
    if name in names:
      assignment_map[name] = name
      initialized_variable_names[name] = 1
      initialized_variable_names[name + ":0"] = 1
  return (assignment_map, initialized_variable_names)


def _variable_name(var):
  return var.name[:-2] if var.name.endswith(":0") else var.name


def dropout(input_tensor, dropout_prob, dropout_seed=None):
  """Sets elements to 0 with a probability and scales the others up.

  Args:
    input_tensor: float tensor.
    dropout_prob: python float, the probability to *drop*; None or 0: none.
    dropout_seed: None for `tf.nn.dropout`; else `(seed, step)`, a python int in
      [0, 2^31) and an int64 scalar tensor. The mask is then a function of the
      seed, the step and the current variable scope, and of nothing else, so a
      resumed run draws the same masks.

  Returns:
    A tensor like `input_tensor`. With a seed, the probability is rounded to a
    multiple of 2^-16, and what is kept is scaled by that one.
  """
  if dropout_prob is None or dropout_prob == 0.0:
    return input_tensor
  if dropout_seed is None:
    return tf.nn.dropout(input_tensor, rate=dropout_prob)
  seed, step = dropout_seed
  place = zlib.crc32(tf.get_variable_scope().name.encode("utf-8")) & 0xffffffff
  key = tf.stack([tf.constant((seed << 32) | place, tf.int64),
                  tf.cast(step, tf.int64)])
  dropped = min(int(round(dropout_prob * 2 ** DROPOUT_BITS)),
                2 ** DROPOUT_BITS - 1)
  keep = _random_int16(tf.shape(input_tensor), key) >= tf.constant(
      dropped - 2 ** (DROPOUT_BITS - 1), tf.int16)
  scaled = input_tensor * (1.0 / (1.0 - dropped / float(2 ** DROPOUT_BITS)))
  return tf.where(keep, scaled, tf.zeros_like(scaled))


def _random_int16(shape, key):
  """Uniform int16 of a shape (int32 `[rank]`): half the work of as many floats.
  """
  size = tf.reduce_prod(shape)
  # TensorFlow 1.15 wants bounds; so one of the 2^32 values is left out.
  pairs = tf.bitcast(
      tf.random.stateless_uniform(
          [(size + 1) // 2], seed=key, minval=-2 ** 31, maxval=2 ** 31 - 1,
          dtype=tf.int32), tf.int16)
  return tf.reshape(tf.reshape(pairs, [-1])[:size], shape)


def layer_norm(input_tensor, name=None, epsilon=LAYER_NORM_EPSILON,
               short_gradients=False):
  """Layer normalization over the last dimension (Ba et al. 2016, eq. 3, 4).

  Args:
    input_tensor: float tensor with a static last dimension.
    name: str, variable scope; default "LayerNorm".
    epsilon: float, added to the variance.
    short_gradients: bool; True takes half the time in training, for results
      that differ by float32's rounding.

  Returns:
    A tensor like `input_tensor`.
  """
  width = input_tensor.shape.as_list()[-1]
  with tf.variable_scope(name, default_name="LayerNorm"):
    beta = tf.get_variable("beta", [width], initializer=tf.zeros_initializer())
    gamma = tf.get_variable("gamma", [width], initializer=tf.ones_initializer())
    if short_gradients:
      return _normalize(input_tensor, gamma, beta, epsilon)
    mean, variance = tf.nn.moments(input_tensor, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(
        input_tensor, mean, variance, offset=beta, scale=gamma,
        variance_epsilon=epsilon)


def _normalize(input_tensor, gamma, beta, epsilon):
  """Layer norm with the gradient of Ba et al. 2016, in few passes."""
  @tf.custom_gradient
  def normalize(x, gamma, beta):
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    inverse = tf.rsqrt(
        tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    unit = centred * inverse

    def gradient(output_gradient):
      rows = list(range(x.shape.ndims - 1))
      scaled = output_gradient * gamma
      mean = tf.reduce_mean(scaled, axis=-1, keepdims=True)
      along = tf.reduce_mean(scaled * unit, axis=-1, keepdims=True)
      return ((scaled - mean - unit * along) * inverse,
              tf.reduce_sum(output_gradient * unit, axis=rows),
              tf.reduce_sum(output_gradient, axis=rows))

    return unit * gamma + beta, gradient

  return normalize(input_tensor, gamma, beta)


def layer_norm_and_dropout(input_tensor, dropout_prob, name=None,
                           dropout_seed=None, epsilon=LAYER_NORM_EPSILON,
                           short_gradients=False):
  """`layer_norm`, then `dropout`."""
  return dropout(layer_norm(input_tensor, name, epsilon, short_gradients),
                 dropout_prob, dropout_seed)


def create_initializer(initializer_range=0.02):
  """Truncated normal initializer with the given standard deviation."""
  return tf.truncated_normal_initializer(stddev=initializer_range)


def _dense(input_tensor, units, activation, initializer, name):
  """Dense layer on a matrix, with the variables `kernel` and `bias`."""
  with tf.variable_scope(name):
    kernel = tf.get_variable(
        "kernel", [input_tensor.shape.as_list()[-1], units],
        initializer=initializer)
    bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
    output = tf.nn.bias_add(tf.matmul(input_tensor, kernel), bias)
    return output if activation is None else activation(output)


def embedding_lookup(input_ids,
                     vocab_size,
                     embedding_size=128,
                     initializer_range=0.02,
                     word_embedding_name="word_embeddings",
                     use_one_hot_embeddings=False):
  """Looks up word embeddings.

  Args:
    input_ids: int32 or int64 `[B, S]` or `[B, S, inputs]`.
    vocab_size: int, rows of the table.
    embedding_size: int, width of the table.
    initializer_range: float, standard deviation of the initializer.
    word_embedding_name: str, name of the table's variable.
    use_one_hot_embeddings: bool; True multiplies by one-hot rows, False
      gathers. Ids outside the table fail in a gather on CPU and give zeros
      with one-hot rows.

  Returns:
    (float `[B, S, embedding_size * inputs]`, the table
    `[vocab_size, embedding_size]`).
  """
  shape = get_shape_list(input_ids)
  if len(shape) == 2:
    shape = shape + [1]
  table = tf.get_variable(
      word_embedding_name, [vocab_size, embedding_size],
      initializer=create_initializer(initializer_range))
  flat_ids = tf.reshape(input_ids, [-1])
  if use_one_hot_embeddings:
    output = tf.matmul(tf.one_hot(flat_ids, depth=vocab_size), table)
  else:
    output = tf.gather(table, flat_ids)
  output = tf.reshape(output, shape[:-1] + [shape[-1] * embedding_size])
  return (output, table)


def embedding_postprocessor(input_tensor,
                            use_token_type=False,
                            token_type_ids=None,
                            token_type_vocab_size=16,
                            token_type_embedding_name="token_type_embeddings",
                            use_position_embeddings=True,
                            position_embedding_name="position_embeddings",
                            initializer_range=0.02,
                            max_position_embeddings=512,
                            dropout_prob=0.1,
                            dropout_seed=None,
                            layer_norm_eps=LAYER_NORM_EPSILON,
                            short_gradients=False):
  """Adds segment and position vectors, then layer norm and dropout.

  Args:
    input_tensor: float `[B, S, W]`, word vectors.
    use_token_type: bool, whether to add segment vectors.
    token_type_ids: int32 or int64 `[B, S]`; needed with `use_token_type`.
    token_type_vocab_size: int, rows of the segment table.
    token_type_embedding_name: str, name of the segment table's variable.
    use_position_embeddings: bool, whether to add position vectors.
    position_embedding_name: str, name of the position table's variable.
    initializer_range: float, standard deviation of the initializers.
    max_position_embeddings: int, rows of the position table; running the
      graph on longer sequences fails.
    dropout_prob: float, dropout of the result.
    dropout_seed: see `dropout`.
    layer_norm_eps: float, see `layer_norm`.
    short_gradients: bool, see `layer_norm`.

  Returns:
    float `[B, S, W]`.

  Raises:
    ValueError: `token_type_ids` are needed but not given.
  """
  batch_size, seq_length, width = get_shape_list(input_tensor, expected_rank=3)
  output = input_tensor
  if use_token_type:
    if token_type_ids is None:
      raise ValueError(
          "token_type_ids is required when use_token_type is True.")
    table = tf.get_variable(
        token_type_embedding_name, [token_type_vocab_size, width],
        initializer=create_initializer(initializer_range))
    # The table has a few rows: a product is faster than a gather, and its
    # gradient is dense.
    one_hot = tf.one_hot(tf.reshape(token_type_ids, [-1]),
                         depth=token_type_vocab_size)
    output += tf.reshape(tf.matmul(one_hot, table),
                         [batch_size, seq_length, width])
  if use_position_embeddings:
    # Slicing beyond the table would silently give fewer rows.
    with tf.control_dependencies([
        tf.assert_less_equal(seq_length, max_position_embeddings)]):
      table = tf.get_variable(
          position_embedding_name, [max_position_embeddings, width],
          initializer=create_initializer(initializer_range))
      positions = tf.slice(table, [0, 0], [seq_length, -1])  # [S, W]
      output += tf.reshape(positions, [1, seq_length, width])
  return layer_norm_and_dropout(output, dropout_prob, None, dropout_seed,
                                layer_norm_eps, short_gradients)


def create_attention_mask_from_input_mask(from_tensor, to_mask):
  """Turns a mask of tokens into a mask of pairs of tokens.

  Args:
    from_tensor: tensor `[B, F, ...]`; only its shape is used.
    to_mask: int32 or int64 `[B, T]`, 1 where a token may be attended to.

  Returns:
    float32 `[B, F, T]`.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  to_shape = get_shape_list(to_mask, expected_rank=2)
  to_mask = tf.cast(tf.reshape(to_mask, [from_shape[0], 1, to_shape[1]]),
                    tf.float32)
  # Padding as the *source* of attention needs no mask: its row is not used.
  ones = tf.ones([from_shape[0], from_shape[1], 1], dtype=tf.float32)
  return ones * to_mask


def attention_layer(from_tensor,
                    to_tensor,
                    attention_mask=None,
                    num_attention_heads=1,
                    size_per_head=512,
                    query_act=None,
                    key_act=None,
                    value_act=None,
                    attention_probs_dropout_prob=0.0,
                    initializer_range=0.02,
                    do_return_2d_tensor=False,
                    batch_size=None,
                    from_seq_length=None,
                    to_seq_length=None,
                    dropout_seed=None):
  """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

  Args:
    from_tensor: float `[B, F, width]` or `[B * F, width]`, asks.
    to_tensor: float `[B, T, width]` or `[B * T, width]`, is asked.
    attention_mask: int or float `[B, F, T]`, 1 to attend, 0 not to.
    num_attention_heads: int, N.
    size_per_head: int, H.
    query_act: activation of the query's dense layer.
    key_act: activation of the key's dense layer.
    value_act: activation of the value's dense layer.
    attention_probs_dropout_prob: float, dropout of the probabilities.
    initializer_range: float, standard deviation of the initializers.
    do_return_2d_tensor: bool; True returns `[B * F, N * H]`.
    batch_size: int or scalar tensor; needed for 2D inputs.
    from_seq_length: int or scalar tensor; needed for 2D inputs.
    to_seq_length: int or scalar tensor; needed for 2D inputs.
    dropout_seed: see `dropout`.

  Returns:
    float `[B, F, N * H]`, or `[B * F, N * H]` if `do_return_2d_tensor`.

  Raises:
    ValueError: the inputs differ in rank, or are 2D without their lengths.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  to_shape = get_shape_list(to_tensor, expected_rank=[2, 3])
  if len(from_shape) != len(to_shape):
    raise ValueError("from_tensor has rank %d, to_tensor has rank %d; they "
                     "must be the same." % (len(from_shape), len(to_shape)))
  if len(from_shape) == 3:
    batch_size, from_seq_length, _ = from_shape
    to_seq_length = to_shape[1]
  elif batch_size is None or from_seq_length is None or to_seq_length is None:
    raise ValueError("batch_size, from_seq_length and to_seq_length must be "
                     "given for inputs of rank 2.")

  initializer = create_initializer(initializer_range)
  width = num_attention_heads * size_per_head

  def split_heads(tensor, seq_length):
    # [B * S, N * H] -> [B, N, S, H]
    tensor = tf.reshape(
        tensor, [batch_size, seq_length, num_attention_heads, size_per_head])
    return tf.transpose(tensor, [0, 2, 1, 3])

  from_matrix = reshape_to_matrix(from_tensor)
  to_matrix = reshape_to_matrix(to_tensor)
  query = split_heads(
      _dense(from_matrix, width, query_act, initializer, "query"),
      from_seq_length)  # [B, N, F, H]
  key = split_heads(
      _dense(to_matrix, width, key_act, initializer, "key"),
      to_seq_length)  # [B, N, T, H]
  value = split_heads(
      _dense(to_matrix, width, value_act, initializer, "value"),
      to_seq_length)  # [B, N, T, H]

  scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
  scores *= 1.0 / math.sqrt(float(size_per_head))
  if attention_mask is not None:
    # -10000 before the softmax has the same effect as removing the token.
    mask = tf.cast(tf.expand_dims(attention_mask, axis=1), tf.float32)
    scores += (1.0 - mask) * -10000.0  # [B, 1, F, T]
  probabilities = dropout(
      tf.nn.softmax(scores), attention_probs_dropout_prob, dropout_seed)

  context = tf.matmul(probabilities, value)  # [B, N, F, H]
  context = tf.transpose(context, [0, 2, 1, 3])  # [B, F, N, H]
  if do_return_2d_tensor:
    return tf.reshape(context, [batch_size * from_seq_length, width])
  return tf.reshape(context, [batch_size, from_seq_length, width])


def transformer_model(input_tensor,
                      attention_mask=None,
                      hidden_size=768,
                      num_hidden_layers=12,
                      num_attention_heads=12,
                      intermediate_size=3072,
                      intermediate_act_fn=gelu,
                      hidden_dropout_prob=0.1,
                      attention_probs_dropout_prob=0.1,
                      initializer_range=0.02,
                      do_return_all_layers=False,
                      dropout_seed=None,
                      first_token_only=False,
                      recorded_layers=None,
                      layer_norm_eps=LAYER_NORM_EPSILON,
                      short_gradients=False):
  """The encoder's layers (Vaswani et al. 2017, section 3.1, left half).

  Args:
    input_tensor: float `[B, S, W]`.
    attention_mask: int or float `[B, S, S]`, 1 to attend, 0 not to.
    hidden_size: int, W.
    num_hidden_layers: int, number of layers.
    num_attention_heads: int, N.
    intermediate_size: int, width of the feed-forward layer.
    intermediate_act_fn: activation of the feed-forward layer.
    hidden_dropout_prob: float, dropout of what is added to the residual.
    attention_probs_dropout_prob: float, dropout of attention probabilities.
    initializer_range: float, standard deviation of the initializers.
    do_return_all_layers: bool; True returns every layer's output.
    dropout_seed: see `dropout`.
    first_token_only: bool; True computes the last layer's queries, attention
      output and feed-forward for the first token of each text alone (keys and
      values for all): the same values as row 0 of the whole layer.
    recorded_layers: list or None; each layer's `RecordedLayer` is added.
    layer_norm_eps: float, see `layer_norm`.
    short_gradients: bool, see `layer_norm`.

  Returns:
    float `[B, S, W]`, or the list of those, one per layer; the last one is
    `[B, 1, W]` if `first_token_only`.

  Raises:
    ValueError: hidden_size is not a multiple of num_attention_heads, or not
      the width of `input_tensor`.
  """
  if hidden_size % num_attention_heads != 0:
    raise ValueError("hidden_size %d is not a multiple of num_attention_heads "
                     "%d." % (hidden_size, num_attention_heads))
  batch_size, seq_length, width = get_shape_list(input_tensor, expected_rank=3)
  if width != hidden_size:
    raise ValueError("input_tensor is %d wide, but hidden_size is %d; the "
                     "residual sum needs them equal." % (width, hidden_size))

  initializer = create_initializer(initializer_range)
  # Matrices between the layers: a reshape to 3D and back costs on some devices.
  layer_output = reshape_to_matrix(input_tensor)  # [B * S, W]
  scope = tf.get_variable_scope()

  def build_layer(layer, layer_input):
    """One layer: `[B * S, W]` to that, or to `[B, W]` of the first tokens."""
    from_tensor, mask = layer_input, attention_mask
    from_seq_length = seq_length
    if first_token_only and layer == num_hidden_layers - 1:
      from_tensor = tf.reshape(
          layer_input, [batch_size, seq_length, width])[:, 0, :]  # [B, W]
      from_seq_length = 1
      if mask is not None:
        mask = mask[:, :1, :]

    with tf.variable_scope("layer_%d" % layer):
      with tf.variable_scope("attention"):
        with tf.variable_scope("self"):
          attention_output = attention_layer(
              from_tensor=from_tensor,
              to_tensor=layer_input,
              attention_mask=mask,
              num_attention_heads=num_attention_heads,
              size_per_head=hidden_size // num_attention_heads,
              attention_probs_dropout_prob=attention_probs_dropout_prob,
              initializer_range=initializer_range,
              do_return_2d_tensor=True,
              batch_size=batch_size,
              from_seq_length=from_seq_length,
              to_seq_length=seq_length,
              dropout_seed=dropout_seed)
        with tf.variable_scope("output"):
          attention_output = _dense(
              attention_output, hidden_size, None, initializer, "dense")
          attention_output = dropout(
              attention_output, hidden_dropout_prob, dropout_seed)
          attention_output = layer_norm(
              attention_output + from_tensor, epsilon=layer_norm_eps,
              short_gradients=short_gradients)

      with tf.variable_scope("intermediate"):
        intermediate_output = _dense(
            attention_output, intermediate_size, intermediate_act_fn,
            initializer, "dense")

      with tf.variable_scope("output"):
        output = _dense(
            intermediate_output, hidden_size, None, initializer, "dense")
        output = dropout(output, hidden_dropout_prob, dropout_seed)
        return layer_norm(output + attention_output, epsilon=layer_norm_eps,
                          short_gradients=short_gradients)

  def build_again(layer, layer_input):
    with tf.variable_scope(scope, reuse=True):
      return build_layer(layer, layer_input)

  all_layer_outputs = []
  for layer in range(num_hidden_layers):
    layer_input, layer_output = layer_output, build_layer(layer, layer_output)
    all_layer_outputs.append(layer_output)
    if recorded_layers is not None:
      recorded_layers.append(RecordedLayer(
          layer_input, layer_output, "%s/layer_%d" % (scope.name, layer),
          functools.partial(build_again, layer)))

  if not do_return_all_layers:
    all_layer_outputs = all_layer_outputs[-1:]
  outputs = [
      reshape_from_matrix(matrix, [batch_size, seq_length, width])
      for matrix in all_layer_outputs[:-1]]
  outputs.append(reshape_from_matrix(
      all_layer_outputs[-1],
      [batch_size, 1 if first_token_only else seq_length, width]))
  return outputs if do_return_all_layers else outputs[0]


def get_shape_list(tensor, expected_rank=None, name=None):
  """Returns a tensor's shape, static where known.

  Args:
    tensor: tensor.
    expected_rank: int or list of ints; any other rank is an error.
    name: str, how the error calls the tensor.

  Returns:
    A list with a python int for each static dimension, a scalar int32 tensor
    for each other.

  Raises:
    ValueError: the rank is not one of `expected_rank`.
  """
  if expected_rank is not None:
    assert_rank(tensor, expected_rank, name)
  shape = tensor.shape.as_list()
  if None not in shape:
    return shape
  dynamic_shape = tf.shape(tensor)
  return [dynamic_shape[index] if size is None else size
          for index, size in enumerate(shape)]


def reshape_to_matrix(input_tensor):
  """Folds all but the last dimension into one; rank 2 is left as it is.

  Raises:
    ValueError: the rank is below 2.
  """
  rank = input_tensor.shape.ndims
  if rank < 2:
    raise ValueError(
        "the tensor must have rank 2 or more, but its shape is %s." %
                     input_tensor.shape)
  if rank == 2:
    return input_tensor
  return tf.reshape(input_tensor, [-1, input_tensor.shape.as_list()[-1]])


def reshape_from_matrix(output_tensor, orig_shape_list):
  """Undoes `reshape_to_matrix`, given `get_shape_list` of what it took."""
  if len(orig_shape_list) == 2:
    return output_tensor
  width = output_tensor.shape.as_list()[-1]
  return tf.reshape(output_tensor, list(orig_shape_list[:-1]) + [width])


def assert_rank(tensor, expected_rank, name=None):
  """Checks the rank of a tensor.

  Args:
    tensor: tensor.
    expected_rank: int or list of ints.
    name: str, how the error calls the tensor.

  Raises:
    ValueError: the rank is not one of `expected_rank`; names the tensor, its
      scope, its rank and shape, and what was expected.
  """
  if isinstance(expected_rank, six.integer_types):
    expected_rank = [expected_rank]
  rank = tensor.shape.ndims
  if rank not in expected_rank:
    raise ValueError(
        "tensor %s in scope `%s` has rank %s (shape %s); expected rank "
        "%s." % (name or tensor.name, tf.get_variable_scope().name, rank,
                       tensor.shape, " or ".join(map(str, expected_rank))))
