# SPDX-License-Identifier: Apache-2.0
"""Which words led to each label, found by leaving out each word.

A word's weight is the logit minus the logit without the word (Li et al. 2016,
https://arxiv.org/abs/1612.08220, eq. 1). Its tokens are removed from the
windows that contain them without replacement, since a fine-tuned model has not
seen [MASK], and no other token moves in. One pass per word. Needs no
TensorFlow; `attribution` adds the methods that need gradients.
"""

import collections
import difflib

import numpy as np

from multilabel.features import encoding
from multilabel.reporting import words as text_words


# One label of a text: its probability, whether the decision rule predicts it,
# and `words.WordWeight`s in the order of the text.
LabelExplanation = collections.namedtuple(
    "LabelExplanation", ["label", "probability", "is_predicted", "words"])

# Labels that an error message lists.
_LISTED_LABELS = 40


# Methods of `attribution.Explainer`; an `OcclusionExplainer` has only the last.
METHODS = ("integrated", "gradient", "occlusion")


class WordExplainer(object):
  """What all explainers have in common; a subclass runs the model.

  For a long text that the model reads in windows, the pooled logit is
  explained: with "max" that of the window with the label's highest logit, so
  words that are only in other windows have weight 0; with "mean" the mean over
  all windows.

  Words are those of the basic tokenizer: Chinese characters and punctuation
  marks are separate words. Words that the model did not read because the text
  was truncated have the weight None. `[CLS]`, `[SEP]` and the biases contribute
  to a logit too, so weights do not add up to it.

  Attributes:
    labels: list of str.
    decision: `decisions.DecisionRule`, the trained model's.
    checkpoint: str, what the weights come from.
    methods: tuple of str, what `explain` can do.
  """

  methods = ("occlusion",)

  def __init__(self, labels, decision, checkpoint, tokenizer, max_seq_length,
               long_text):
    self.labels = labels
    self.decision = decision
    self.checkpoint = checkpoint
    self._tokenizer = tokenizer
    self._max_seq_length = max_seq_length
    self._long_text = long_text

  def _logits(self, rows):
    """float32 `[len(rows), L]` for rows (input_ids, segment_ids)."""
    raise NotImplementedError

  def _sigmoid(self, logits):
    """Probabilities `[rows, L]` of logits."""
    raise NotImplementedError

  def close(self):
    """Frees the model; may be called twice."""
    raise NotImplementedError

  def explain(self, text, labels=None, method=None, threshold=None):
    """Returns how much each word of a text contributes to its labels.

    Args:
      text: str, or (str, str) for a pair.
      labels: list of str, the labels to explain; default: the predicted labels,
        most probable first, or the most probable one if there are none.
      method: one of `methods`; None: the first of them.
      threshold: float, list of float, "expected_f1" or None; in place of the
        trained model's.

    Returns:
      list of `LabelExplanation`, whose weights are float, or None for words
      that the model did not read; positive means for the label.

    Raises:
      ValueError: `text` is not text, a label or the method does not exist, or
        the explainer is closed.
      FloatingPointError: a probability is NaN.
    """
    texts = _check_text(text)
    if method is None:
      method = self.methods[0]
    if method not in self.methods:
      raise ValueError("method is %s; it must be one of %s." % (
          method, ", ".join(self.methods)))
    asked = None if labels is None else self._label_numbers(labels)
    words, windows = text_words.encode(
        self._tokenizer, texts, self._max_seq_length, self._long_text)
    logits = self._logits([(row.input_ids, row.segment_ids)
                           for row in windows])
    probabilities = self._sigmoid(self._pool(logits))
    if not np.isfinite(probabilities).all():
      raise FloatingPointError(
          "checkpoint %s gives NaN or infinite probabilities; use another "
          "one." % self.checkpoint)
    decision = self.decision if threshold is None else (
        self.decision._replace(thresholds=threshold))
    is_predicted, = decision.apply(probabilities)
    chosen = _most_probable(
        probabilities[0], is_predicted) if asked is None else asked
    weights = self._weigh(method, windows, logits, len(words), chosen)
    read = np.zeros([len(words)], bool)
    for window in windows:
      read[window.words[window.words >= 0]] = True
    return [
        LabelExplanation(
            self.labels[number], float(probabilities[0, number]),
            bool(is_predicted[number]),
            [word._replace(
                weight=float(weights[i, column]) if read[i] else None)
             for i, word in enumerate(words)])
        for column, number in enumerate(chosen)]

  def _label_numbers(self, labels):
    """Indices of labels by name; ValueError for one that does not exist."""
    if isinstance(labels, str):
      raise ValueError("labels must be a list of names, not one name.")
    numbers = {name: number for number, name in enumerate(self.labels)}
    for label in labels:
      if label not in numbers:
        raise ValueError("there is no label %s; %s." % (
            label, _name_labels(label, self.labels)))
    return [numbers[label] for label in labels]

  def _weigh(self, method, windows, logits, num_words, labels):
    """float64 `[num_words, len(labels)]` by one of `methods`."""
    del method
    return self._weigh_by_occlusion(windows, logits, num_words, labels)

  def _weigh_by_occlusion(self, windows, logits, num_words, labels):
    """float64 `[num_words, len(labels)]`."""
    rows, places = [], [[] for _ in range(num_words)]
    for number, window in enumerate(windows):
      for word in sorted(set(window.words) - {-1}):
        keep = np.flatnonzero(window.words != word)
        places[word].append((number, len(rows)))
        rows.append(([window.input_ids[i] for i in keep],
                     [window.segment_ids[i] for i in keep]))
    row_logits = self._logits(rows)
    whole = self._pool(logits)[0].astype(np.float64)
    weights = np.zeros([num_words, len(labels)])
    for word in range(num_words):
      without = logits.copy()
      for number, row in places[word]:
        without[number] = row_logits[row]
      weights[word] = (whole - self._pool(without)[0])[labels]
    return weights

  def _pool(self, logits):
    """`[1, L]` from the logits `[windows, L]` of one text."""
    return encoding.pool_windows(
        logits, np.zeros([1], np.int64), self._long_text.pooling)

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


class OcclusionExplainer(WordExplainer):
  """Explains with a predictor of either kind."""

  def __init__(self, predictor):
    """Takes a `Predictor`, which `close` closes."""
    super(OcclusionExplainer, self).__init__(
        predictor.labels, predictor.decision, predictor.checkpoint,
        predictor.tokenizer, predictor.max_seq_length, predictor.long_text)
    self._predictor = predictor

  def _logits(self, rows):
    return self._predictor.predict_logits([
        encoding.InputFeatures(ids, [1] * len(ids), segment_ids, [])
        for ids, segment_ids in rows])

  def _sigmoid(self, logits):
    return self._predictor.sigmoid(logits)

  def close(self):
    self._predictor.close()


def _check_text(text):
  """[text] or [text, second text]; ValueError if it is neither."""
  texts = list(text) if isinstance(text, (tuple, list)) else [text]
  if not 1 <= len(texts) <= 2 or not all(
      isinstance(part, str) for part in texts):
    raise ValueError("text is %s; it must be a str, or a pair (str, str)." %
                     type(text).__name__)
  return texts


def _most_probable(probabilities, is_predicted):
  """Indices of the predicted labels, or of the most probable one if none."""
  order = [int(i) for i in np.argsort(-probabilities, kind="mergesort")]
  return [i for i in order if is_predicted[i]] or order[:1]


def _name_labels(label, labels):
  """Lists existing labels, for an error about an unknown one."""
  if len(labels) <= _LISTED_LABELS:
    return "there are " + ", ".join(labels)
  close = difflib.get_close_matches(label, labels, n=3, cutoff=0)
  return "there are %d, including %s" % (len(labels), ", ".join(close))
