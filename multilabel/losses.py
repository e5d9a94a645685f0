# SPDX-License-Identifier: Apache-2.0
"""Losses of multi-label classification, from logits.

Legend: x logit, p = sigmoid(x), y label in [0, 1], L labels. `zlpr` has one
value per text, see there. Every other loss has one value per cell, is

  y * positive term + (1 - y) * negative term

and takes `labels` [batch, L] (0, 1, or between, as `smooth_labels` makes them;
any numeric type or bool) and `logits` [batch, L] (a floating type), and returns
[batch, L] of the logits' type. It can be differentiated by the logits, and by
the labels where they are floating.

All terms are computed from -log p = softplus(-x) and -log(1 - p) = softplus(x),
so no probability is rounded to 0 or 1 before its logarithm: losses and
gradients are finite for every finite logit. Types with less than 32 bits are
computed in float32 and rounded at the end; a loss above the maximum of such a
type (65504 in float16) is clipped to it and keeps its gradient.
"""

import functools
import json
import math

import tensorflow.compat.v1 as tf

from processors.text_lines import list_names
from processors.text_lines import read_lines
from processors.text_lines import shown


LOSSES = ("sigmoid", "weighted", "focal", "asymmetric", "zlpr",
          "class_balanced", "distribution_balanced")

# Losses that need the label counts and the number of texts of train.
COUNTING = ("class_balanced", "distribution_balanced")

_MAX_WEIGHT_FILE = 1 << 26  # characters


def make_loss(name, pos_weight=None, label_smoothing=0.0, gamma=2.0,
              alpha=None, gamma_pos=0.0, gamma_neg=4.0, clip=0.05,
              label_counts=None, num_examples=None, beta=0.999, mu=0.3,
              negative_scale=5.0, kappa=0.05):
  """Makes the loss function of labels and logits.

  Args:
    name: one of `LOSSES`.
    pos_weight: list of L floats, only for "weighted", which requires it.
    label_smoothing: float in [0, 1), the epsilon of `smooth_labels`; 0 leaves
      the labels as they are.
    gamma: float, see `focal`.
    alpha: float or None, see `focal`.
    gamma_pos: float, see `asymmetric`.
    gamma_neg: float, see `asymmetric`.
    clip: float, see `asymmetric`.
    label_counts: [L] int, examples a label is on, for those of `COUNTING`.
    num_examples: int, the number of examples counted.
    beta: float, see `class_balanced_weights`.
    mu: float, see `distribution_balanced`.
    negative_scale: float, see `distribution_balanced`.
    kappa: float, see `distribution_balanced`.

  Returns:
    Function (labels [batch, L], logits [batch, L]) -> losses [batch, L], or
    [batch] of "zlpr".

  Raises:
    ValueError: unknown name, a parameter out of range, `pos_weight` missing or
      given to another loss, or counts missing.
  """
  if name not in LOSSES:
    raise ValueError("loss is %s; it must be one of %s." % (
        name, ", ".join(LOSSES)))
  if (pos_weight is not None) != (name == "weighted"):
    raise ValueError(
        "loss weighted needs a pos_weight for every label."
        if pos_weight is None else
        "pos_weight only applies to the loss weighted, not to %s." % name)
  _check_range("label_smoothing", label_smoothing, 0, 1, "0 <= value < 1")
  loss = sigmoid
  if name == "weighted":
    for weight in pos_weight:
      _check_weight("a pos_weight", weight)
    loss = functools.partial(weighted, pos_weight=pos_weight)
  elif name == "focal":
    _check_focal(gamma, alpha)
    loss = functools.partial(focal, gamma=gamma, alpha=alpha)
  elif name == "asymmetric":
    _check_asymmetric(gamma_pos, gamma_neg, clip)
    loss = functools.partial(asymmetric, gamma_pos=gamma_pos,
                             gamma_neg=gamma_neg, clip=clip)
  elif name == "zlpr":
    loss = zlpr
  elif name == "class_balanced":
    loss = functools.partial(class_balanced, weights=class_balanced_weights(
        label_counts, beta))
  elif name == "distribution_balanced":
    if label_smoothing:
      raise ValueError("label_smoothing cannot be combined with the loss "
                       "distribution_balanced, which weights a text by its "
                       "labels; use only one of them.")
    _check_distribution_balanced(label_counts, num_examples, mu,
                                 negative_scale, kappa)
    loss = functools.partial(
        distribution_balanced, label_counts=label_counts,
        num_examples=num_examples, mu=mu, negative_scale=negative_scale,
        kappa=kappa)
  if not label_smoothing:
    return loss
  return lambda labels, logits: loss(smooth_labels(labels, label_smoothing),
                                     logits)


def sigmoid(labels, logits):
  """Cross entropy of one sigmoid per label.

  -y log p - (1 - y) log(1 - p), `tf.nn.sigmoid_cross_entropy_with_logits`.

  Args:
    labels: [batch, L].
    logits: floating [batch, L].

  Returns:
    [batch, L] of the logits' type; its gradient by a logit is p - y.

  Raises:
    ValueError: the shapes differ, or the logits are not floating.
  """
  labels, wide, dtype = _widen(labels, logits)
  return _narrow(tf.nn.sigmoid_cross_entropy_with_logits(
      labels=labels, logits=wide), dtype)


def weighted(labels, logits, pos_weight):
  """Cross entropy whose positive term is weighted per label.

  -w y log p - (1 - y) log(1 - p): the weighted log-likelihood of King and Zeng
  2001, "Logistic Regression in Rare Events Data", with weight 1 for negatives.
  Equal to `tf.nn.weighted_cross_entropy_with_logits`, whose gradient, however,
  is wrong where a logit is exactly 0.

  Args:
    labels: [batch, L].
    logits: floating [batch, L].
    pos_weight: [L], list, array or tensor of numbers above 0; it is treated as
      a constant.

  Returns:
    [batch, L] of the logits' type; its gradient by a logit is
    (1 - y) p - w y (1 - p).

  Raises:
    ValueError: the shapes differ, or the logits are not floating.
  """
  labels, wide, dtype = _widen(labels, logits)
  weight = tf.stop_gradient(tf.cast(tf.convert_to_tensor(pos_weight),
                                    wide.dtype))
  if weight.shape.ndims != 1 or not weight.shape.is_compatible_with(
      wide.shape[-1:]):
    raise ValueError(
        "pos_weight has shape %s for logits of shape %s; give one weight per "
        "label." % (weight.shape, wide.shape))
  positive, negative = _cross_entropies(wide)
  return _narrow(_mix(labels, weight * positive, negative), dtype)


def focal(labels, logits, gamma=2.0, alpha=None):
  """Focal loss: cells that are predicted well count less.

  -a (1 - p)^gamma y log p - (1 - a) p^gamma (1 - y) log(1 - p), without the
  factors a and 1 - a where `alpha` is None: Lin et al. 2017, "Focal Loss for
  Dense Object Detection", eq. 4, and eq. 5 with `alpha` (they take 0.25). With
  gamma = 0 and without alpha it is `sigmoid`.

  Args:
    labels: [batch, L].
    logits: floating [batch, L].
    gamma: float of at least 0.
    alpha: None, or float in [0, 1].

  Returns:
    [batch, L] of the logits' type, smooth in the logits.

  Raises:
    ValueError: a parameter out of range, the shapes differ, or the logits are
      not floating.
  """
  _check_focal(gamma, alpha)
  labels, wide, dtype = _widen(labels, logits)
  cost_on, cost_off = _cross_entropies(wide)
  # (1 - p)^gamma is exp(gamma log(1 - p)): no power of a rounded 0.
  positive = tf.exp(-gamma * cost_off) * cost_on
  negative = tf.exp(-gamma * cost_on) * cost_off
  if alpha is not None:
    positive, negative = alpha * positive, (1 - alpha) * negative
  return _narrow(_mix(labels, positive, negative), dtype)


def asymmetric(labels, logits, gamma_pos=0.0, gamma_neg=4.0, clip=0.05):
  """Asymmetric loss: easy negatives count little, the easiest not at all.

  -(1 - p)^gamma_pos y log p - p_m^gamma_neg (1 - y) log(1 - p_m) with p_m =
  max(p - clip, 0): Ridnik et al. 2021, "Asymmetric Loss for Multi-Label
  Classification", eq. 5 (the probability shift) and 7. With all three
  parameters 0 it is `sigmoid`. Its gradient is weak for negatives of p near 1
  as well, which the paper treats as mislabelled. Probabilities trained with it
  are too high; thresholds must be tuned.

  Args:
    labels: [batch, L].
    logits: floating [batch, L].
    gamma_pos: float of at least 0, focusing of positives.
    gamma_neg: float of at least 0, focusing of negatives.
    clip: float in [0, 1), the probability up to which a negative is free; the
      paper's m.

  Returns:
    [batch, L] of the logits' type. The negative term has gradient 0 where
    p <= clip; it has a kink at p = clip if gamma_neg is 0, else it is smooth.

  Raises:
    ValueError: a parameter out of range, the shapes differ, or the logits are
      not floating.
  """
  _check_asymmetric(gamma_pos, gamma_neg, clip)
  labels, wide, dtype = _widen(labels, logits)
  cost_on, cost_off = _cross_entropies(wide)
  positive = tf.exp(-gamma_pos * cost_off) * cost_on
  if clip:
    negative = _shifted_negative_term(cost_on, cost_off, gamma_neg, clip)
  else:
    negative = tf.exp(-gamma_neg * cost_on) * cost_off
  return _narrow(_mix(labels, positive, negative), dtype)


def _shifted_negative_term(cost_on, cost_off, gamma, clip):
  """-p_m^gamma log(1 - p_m), from -log p and -log(1 - p), for clip > 0."""
  p = tf.exp(-cost_on)
  is_costly = p > clip
  # Both branches of a `tf.where` are differentiated, so each gets arguments
  # with a finite derivative even where the other one is used.
  shifted = tf.where(is_costly, p - clip, 0.5 * tf.ones_like(p))
  # log(1 - p_m): near p_m = 0 the first keeps the digits, near 1 the second.
  log_rest = tf.where(p <= 0.5, tf.log1p(-tf.minimum(shifted, 0.5)),
                      tf.log(tf.exp(-cost_off) + clip))
  term = -log_rest
  if gamma:
    term *= tf.pow(shifted, gamma)
  return tf.where(is_costly, term, tf.zeros_like(term))


def zlpr(labels, logits):
  """Pushes a text's labels above logit 0, all others below it.

  log(1 + sum_i y_i e^-x_i) + log(1 + sum_i (1 - y_i) e^x_i): Su et al. 2022,
  "ZLPR: A Novel Loss for Multi-label Classification", eq. 8, with labels
  between 0 and 1 as weights. It compares logits with each other and with 0, so
  the threshold is logit 0, probability 0.5. The sigmoid of such a logit does
  not estimate a frequency; `calibration` fixes that.

  Args:
    labels: [batch, L]; they are treated as constants.
    logits: floating [batch, L].

  Returns:
    [batch] of the logits' type.

  Raises:
    ValueError: the shapes differ, or the logits are not floating.
  """
  labels, wide, dtype = _widen(labels, logits)
  labels = tf.stop_gradient(labels)
  return _narrow(_log_of_one_and(labels, -wide) +
                 _log_of_one_and(1 - labels, wide), dtype)


def _log_of_one_and(weights, values):
  """log(1 + sum weights e^values) over the last dimension, at any values."""
  counts = weights > 0
  # e^0 of masked values is finite, and has weight 0.
  values = tf.where(counts, values, tf.zeros_like(values))
  most = tf.stop_gradient(tf.maximum(
      tf.reduce_max(values, axis=-1, keepdims=True), 0.0))
  rest = tf.reduce_sum(weights * tf.exp(values - most), axis=-1)
  most = tf.squeeze(most, axis=-1)
  return most + tf.log1p(tf.math.expm1(-most) + rest)


def class_balanced_weights(label_counts, beta=0.999):
  """Weights of labels by their effective number of examples.

  (1 - beta) / (1 - beta^n): Cui et al. 2019, "Class-Balanced Loss Based on
  Effective Number of Samples", eq. 2, made to sum up to L as they do. A label
  without examples has the weight of one with a single example.

  Args:
    label_counts: [L] int, examples a label is on.
    beta: float in [0, 1); 0 gives all labels the same weight, near 1 it is
      proportional to 1 / n.

  Returns:
    list of L floats.

  Raises:
    ValueError: no counts, or `beta` out of its range.
  """
  _check_range("beta", beta, 0, 1, "0 <= value < 1")
  _check_counts(label_counts)
  weights = [(1.0 - beta) / (1.0 - beta ** max(int(count), 1))
             for count in label_counts]
  return [weight * len(weights) / sum(weights) for weight in weights]


def class_balanced(labels, logits, weights):
  """`sigmoid` times [L] weights (Cui et al. 2019, section 4.3), which are those
  of `class_balanced_weights`, for both positives and negatives."""
  labels, wide, dtype = _widen(labels, logits)
  return _narrow(tf.constant(weights, wide.dtype) *
                 tf.nn.sigmoid_cross_entropy_with_logits(
                     labels=labels, logits=wide), dtype)


def distribution_balanced(labels, logits, label_counts, num_examples, mu=0.3,
                          negative_scale=5.0, kappa=0.05):
  """Rare labels get more weight, considering the labels they occur with.

  r (y log(1 + e^-(x - v)) + (1 - y) / s log(1 + e^(s (x - v)))), s being
  `negative_scale`: Wu et al. 2020, "Distribution-Balanced Loss for Multi-Label
  Classification in Long-Tailed Datasets".

    r = 0.1 + sigmoid(10 (q - mu)), q = (1 / n_i) / sum_j y_j / n_j (eq. 3 to
        5): if the text is sampled through one of its labels, drawn uniformly,
        the probability of label i; for a text without labels q is infinite
    v = kappa log(N / n_i - 1) (eq. 7 and 8), the head's prior

  Thresholds must be tuned, or probabilities calibrated, since s and v shift
  them.

  Args:
    labels: [batch, L] of 0 and 1.
    logits: floating [batch, L].
    label_counts: [L] int, examples a label is on; 0 counts as 1.
    num_examples: int, N.
    mu: float, see above.
    negative_scale: float above 0.
    kappa: float of at least 0.

  Returns:
    [batch, L] of the logits' type.

  Raises:
    ValueError: a parameter out of range, the shapes differ, or the logits are
      not floating.
  """
  _check_distribution_balanced(label_counts, num_examples, mu, negative_scale,
                               kappa)
  labels, wide, dtype = _widen(labels, logits)
  counts = [max(int(count), 1) for count in label_counts]
  inverse = tf.constant([1.0 / count for count in counts], wide.dtype)
  # Half an example away from the limits, where log-odds would be infinite.
  shift = tf.constant([
      kappa * math.log(num_examples / min(count, num_examples - 0.5) - 1)
      for count in counts], wide.dtype)
  chance = tf.reduce_sum(labels * inverse, axis=-1, keepdims=True)
  has_any = chance > 0
  ratio = inverse / tf.where(has_any, chance, tf.ones_like(chance))
  weight = 0.1 + tf.where(
      tf.logical_and(has_any, tf.ones_like(labels) > 0),
      tf.sigmoid(10.0 * (ratio - mu)), tf.ones_like(labels))
  moved = wide - shift
  return _narrow(tf.stop_gradient(weight) * _mix(
      labels, tf.nn.softplus(-moved),
      tf.nn.softplus(negative_scale * moved) / negative_scale), dtype)


def smooth_labels(labels, epsilon):
  """Moves labels towards 1/2: y (1 - epsilon) + epsilon / 2.

  Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
  Vision", section 7, with the two classes of one label.

  Args:
    labels: [batch, L]; non-floating types become float32.
    epsilon: float in [0, 1).

  Returns:
    [batch, L], floating, in [epsilon / 2, 1 - epsilon / 2].

  Raises:
    ValueError: `epsilon` out of range.
  """
  _check_range("label_smoothing", epsilon, 0, 1, "0 <= value < 1")
  labels = tf.convert_to_tensor(labels)
  if not labels.dtype.is_floating:
    labels = tf.cast(labels, tf.float32)
  return labels * (1 - epsilon) + epsilon / 2


def _widen(labels, logits):
  """Returns both in one type of at least 32 bits, and the logits' own type."""
  labels, logits = tf.convert_to_tensor(labels), tf.convert_to_tensor(logits)
  if not logits.dtype.is_floating:
    raise ValueError("logits have type %s; they must be floating-point." %
                     logits.dtype.name)
  # A single label or example would silently be broadcast.
  if not labels.shape.is_compatible_with(logits.shape):
    raise ValueError("labels have shape %s and logits %s; give one logit for "
                     "each label." % (labels.shape, logits.shape))
  wide = logits.dtype if logits.dtype.size >= 4 else tf.float32
  return tf.cast(labels, wide), tf.cast(logits, wide), logits.dtype


def _narrow(losses, dtype):
  """Rounds to `dtype`; values that are too large become its maximum."""
  if losses.dtype == dtype:
    return losses
  largest = tf.stop_gradient(tf.minimum(losses, float(dtype.max)))
  # The difference is 0, and carries the gradient that `minimum` would drop.
  return tf.cast(largest + (losses - tf.stop_gradient(losses)), dtype)


def _cross_entropies(logits):
  """(-log p, -log(1 - p)), both at full precision for any logit."""
  return tf.nn.softplus(-logits), tf.nn.softplus(logits)


def _mix(labels, positive, negative):
  return labels * positive + (1 - labels) * negative


def _check_focal(gamma, alpha):
  _check_range("gamma", gamma, 0, math.inf, "0 <= value")
  if alpha is not None and alpha != 1:
    _check_range("alpha", alpha, 0, 1, "0 <= value <= 1")


def _check_asymmetric(gamma_pos, gamma_neg, clip):
  _check_range("gamma_pos", gamma_pos, 0, math.inf, "0 <= value")
  _check_range("gamma_neg", gamma_neg, 0, math.inf, "0 <= value")
  _check_range("clip", clip, 0, 1, "0 <= value < 1")


def _check_counts(label_counts):
  if label_counts is None:
    raise ValueError("label_counts is missing; give the number of train "
                     "examples with each label.")


def _check_distribution_balanced(label_counts, num_examples, mu,
                                 negative_scale, kappa):
  _check_counts(label_counts)
  if not num_examples or num_examples < max(label_counts):
    raise ValueError("num_examples is %s; it must be at least the count of "
                     "every label." % num_examples)
  _check_range("mu", mu, -math.inf, math.inf, "of finite numbers")
  _check_range("kappa", kappa, 0, math.inf, "0 <= value")
  if not 0 < negative_scale < math.inf:
    raise ValueError("negative_scale is %s; it must be a finite number above 0."
                     % negative_scale)


def _check_range(name, value, low, high, range_text):
  """Raises ValueError unless low <= value < high."""
  if not low <= value < high:
    raise ValueError("%s is %s; it must be in the range %s." % (
        name, value, range_text))


def _check_weight(name, weight):
  if not 0 < weight < math.inf:
    raise ValueError("%s is %s; it must be a finite number above 0." % (
        name, weight))


def pos_weight_from_counts(label_counts, num_examples, cap=10.0):
  """Weights for `weighted` from the label counts in train.

  negatives / positives gives both sides of a label the same weight. It is
  clipped to 1 / cap ... cap: a weight w moves the threshold 0.5 to where the
  unweighted model predicts 1 / (1 + w), and gives one positive example the
  weight of w negatives. At 10, that is a threshold of 0.09 and ten times the
  noise of a single example; the full 500 for a label with frequency 0.2% would
  predict it wherever the model predicts 0.002, and overfit its few examples.

  Args:
    label_counts: [L] int, examples a label is on.
    num_examples: int, at least 1.
    cap: float, at least 1; 1 switches weights off.

  Returns:
    list of L floats; `cap` for a label without positives, 1 / cap for a label
    without negatives.

  Raises:
    ValueError: `cap`, or a count not in 0 ... num_examples.
  """
  if not 1 <= cap < math.inf:
    raise ValueError("the cap of pos_weight is %s; it must be a finite number "
                     "of at least 1." % cap)
  weights = []
  for column, count in enumerate(label_counts):
    if not 0 <= count <= num_examples:
      raise ValueError(
          "label %d occurs in %s of %s examples; counts must be in "
          "0..%s." % (column, count, num_examples, num_examples))
    ratio = float(num_examples - count) / count if count else cap
    weights.append(float(min(max(ratio, 1.0 / cap), cap)))
  return weights


def read_pos_weight_file(path, label_list):
  """Reads weights for `weighted` from a file.

  Args:
    path: str, a UTF-8 file: a JSON object {"label": weight}, or one line per
      label, "label<TAB>weight", without a header.
    label_list: list of L str.

  Returns:
    list of L floats, in the order of `label_list`.

  Raises:
    ValueError: the file cannot be read; a label is missing, unknown or
      duplicate; a weight is not a finite number above 0.
  """
  lines = []  # read once: a pipe cannot be read again
  size = 0
  for line in read_lines(path):
    lines.append(line)
    size += len(line)
    if size > _MAX_WEIGHT_FILE:
      raise ValueError("%s is longer than %d characters; is it the right file?"
                       % (path, _MAX_WEIGHT_FILE))
  is_json = "".join(lines).lstrip().startswith("{")
  known = set(label_list)
  weights = {}
  for place, label, value in (_json_weights if is_json else _tsv_weights)(
      path, lines):
    if label not in known:
      raise ValueError("%s: label %s is not among the labels of the data (%s)."
                       % (place, shown(label), list_names(label_list)))
    if label in weights:
      raise ValueError("%s: label %s appears twice." % (place, shown(label)))
    if value is None:
      raise ValueError("%s: the weight of label %s is not a number." % (
          place, shown(label)))
    _check_weight("%s: the weight of label %s" % (place, shown(label)), value)
    weights[label] = value
  missing = [label for label in label_list if label not in weights]
  if missing:
    raise ValueError(
        "%s: there is no weight for %s; give a weight for every label." % (
        path, list_names(missing)))
  return [weights[label] for label in label_list]


def _json_weights(path, lines):
  """Yields (place, label, float or None) of a JSON object."""
  try:
    pairs = json.loads("".join(lines), object_pairs_hook=lambda pairs: pairs)
  except json.JSONDecodeError as error:
    raise ValueError("%s:%d: broken JSON (%s)." % (path, error.lineno,
                                                   error.msg))
  except RecursionError:
    raise ValueError("%s: JSON is nested too deeply." % path)
  except ValueError:  # Python's limit of digits
    raise ValueError("%s: a number has too many digits." % path)
  for label, value in pairs:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    yield path, label.strip(), _to_float(value) if is_number else None


def _tsv_weights(path, lines):
  """Yields (place, label, float or None) of the lines of a table."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    # The last tab counts: a label may contain tabs itself.
    label, _, cell = line.rpartition("\t")
    place = "%s:%d" % (path, number)
    if not label.strip():
      raise ValueError("%s: there is no label before the tab; write "
                       "\"label<TAB>weight\"." % place)
    yield place, label.strip(), _to_float(cell)


def _to_float(value):
  """float of a number or its text; None if it is neither."""
  # Python reads 1_0 as 10, which is never meant.
  if isinstance(value, str) and "_" in value:
    return None
  try:
    return float(value)
  except ValueError:
    return None
  except OverflowError:  # an integer of hundreds of digits
    return math.inf
