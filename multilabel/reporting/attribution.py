# SPDX-License-Identifier: Apache-2.0
"""Which words made each label: attributions of a trained model's logits.

"gradient": the gradient of the label's logit in a token's embedding times
that embedding, summed over the vector (Simonyan et al. 2013,
https://arxiv.org/abs/1312.6034, section 3; Shrikumar et al. 2016,
https://arxiv.org/abs/1605.01713; compared in Ancona et al. 2018,
https://arxiv.org/abs/1711.06104). The embedding is what leaves its
LayerNorm: LayerNorm does not change when its input is scaled, so with what
enters it every token's sum would be 0 (Euler's theorem). One pass a label;
quick, but blind to a word whose effect has reached its limit.

"integrated": the same, with the mean gradient on the straight way from the
empty text, every token of a word being [PAD], to the text, and the way in
place of the embedding (Sundararajan et al. 2017,
https://arxiv.org/abs/1703.01365, eq. 3). The weights add up to about the
logit less that of the empty text. `INTEGRATION_STEPS` passes a label.

"occlusion": the logit less the logit without the word (Li et al. 2016,
https://arxiv.org/abs/1612.08220, eq. 1). Its tokens are taken out of the
windows that hold them; what is left closes up, since a fine-tuned model
has not seen [MASK], and no other token moves in. One pass a word.
"""

import collections
import difflib

import numpy as np
import six
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.reporting import words as text_words
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_restore
from multilabel.storage import trained_model
import tokenization


METHODS = ("integrated", "gradient", "occlusion")

# Points between the empty text and the text at which "integrated" takes the
# gradient.
INTEGRATION_STEPS = 16

# One label of a text: its probability, whether the decision rule gives it to
# the text, and `words.WordWeight`s in the order of the text.
LabelExplanation = collections.namedtuple(
    "LabelExplanation", ["label", "probability", "is_predicted", "words"])

# Tokens a `session.run` with gradients, for which the activations of every
# layer are kept.
_GRADIENT_TOKENS = 1024

# Labels that an error message lists.
_LISTED_LABELS = 40


class Explainer(object):
  """A trained model in a graph and a session of its own, with gradients.

  Of a long text that the model reads in windows, what is explained is the
  pooled logit: with "max" the window that gave the label its highest logit, so
  that words which are in other windows alone weigh 0; with "mean" the mean
  over all windows.

  A word is one of the basic tokenizer: a Chinese character and a punctuation
  mark are words of their own. Words that the model did not read, since the
  text was cut, have the weight None. `[CLS]`, `[SEP]` and the biases have
  their part in a logit too, so weights do not add up to it.

  Attributes:
    labels: list of str.
    decision: `decisions.DecisionRule`, the trained directory's.
    checkpoint: str, what the weights were restored from.
  """

  def __init__(self, model_dir, batch_size=32):
    """Loads a model.

    Args:
      model_dir: str, `--output_dir` of a training run.
      batch_size: int, rows a `session.run` without gradients.

    Raises:
      ValueError: a file is missing or broken, or the checkpoint does not fit.
    """
    if batch_size < 1:
      raise ValueError("batch_size is %d; it must be 1 or more." % batch_size)
    trained = trained_model.read(model_dir)
    self.labels = trained.labels
    self.decision = trained.decision
    self._max_seq_length = trained.settings["max_seq_length"]
    self._long_text = trained.long_text
    self._batch_size = batch_size
    self._tokenizer = tokenization.FullTokenizer(
        trained.vocab_file, trained.settings["do_lower_case"])
    self.checkpoint = checkpoint_choice.prediction_checkpoint(model_dir)
    if self.checkpoint is None:
      raise ValueError("model_dir %s has no checkpoint: training has not got "
                       "to its first one." % model_dir)
    with tf.Graph().as_default() as graph:
      self._inference = head.create_inference_graph(
          trained.bert_config, len(trained.labels),
          trained.settings["pooling"], calibration=trained.calibration)
      self._embedding = find_embedding_output(graph)  # [B, S, W]
      # The logit to explain in each row: 1 for its label, else 0.
      self._selector = tf.placeholder(
          tf.float32, [None, len(trained.labels)], "selector")
      self._gradient, = tf.gradients(
          self._inference.logits, [self._embedding], grad_ys=[self._selector])
      self._session = _restore(self.checkpoint)
    graph.finalize()

  def explain(self, text, labels=None, method="integrated", threshold=None):
    """Says how much each word of a text spoke for or against its labels.

    Args:
      text: str, or (str, str) for a pair.
      labels: list of str, the labels to explain; default: those that the
        decision rule gives to the text, most probable first, or else the most
        probable one.
      method: one of `METHODS`, see the top of this file.
      threshold: float, list of float or None; in place of the trained
        directory's.

    Returns:
      list of `LabelExplanation`, whose weights are float, or None for words
      that the model did not read; positive speaks for the label.

    Raises:
      ValueError: `text` is no text, a label or the method does not exist, or
        the explainer is closed.
      FloatingPointError: the model gives probabilities that are NaN.
    """
    texts = _check_text(text)
    if method not in METHODS:
      raise ValueError("method is %s; it must be one of %s." % (
          method, ", ".join(METHODS)))
    asked = None if labels is None else self._label_numbers(labels)
    words, windows = text_words.encode(
        self._tokenizer, texts, self._max_seq_length, self._long_text)
    logits = self._logits([(row.input_ids, row.segment_ids)
                           for row in windows])
    probabilities = self._open_session().run(
        self._inference.probabilities,
        {self._inference.logits: self._pool(logits)})
    if not np.isfinite(probabilities).all():
      raise FloatingPointError("checkpoint %s gives probabilities that are not "
                               "finite; name another one." % self.checkpoint)
    decision = self.decision if threshold is None else (
        self.decision._replace(thresholds=threshold))
    is_predicted, = decision.apply(probabilities)
    chosen = _most_probable(
        probabilities[0], is_predicted) if asked is None else asked
    if method == "occlusion":
      weights = self._weigh_by_occlusion(windows, logits, len(words), chosen)
    else:
      weights = self._weigh_by_gradient(windows, logits, len(words), chosen,
                                        method == "integrated")
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
    """Numbers of labels by name; ValueError for one that does not exist."""
    if isinstance(labels, six.string_types):
      raise ValueError("labels must be a list of names, not one name.")
    numbers = {name: number for number, name in enumerate(self.labels)}
    for label in labels:
      if label not in numbers:
        raise ValueError("there is no label %s; %s." % (
            label, _name_labels(label, self.labels)))
    return [numbers[label] for label in labels]

  def _weigh_by_gradient(self, windows, logits, num_words, labels, integrated):
    """float64 `[num_words, len(labels)]`."""
    weights = np.zeros([num_words, len(labels)])
    for column, label in enumerate(labels):
      # The windows that the pooled logit is made of, to equal parts.
      numbers = (range(len(windows)) if self._long_text.pooling == "mean" else
                 [int(np.argmax(logits[:, label]))])
      for number in numbers:
        words = windows[number].words
        tokens = np.flatnonzero(words >= 0)
        token_weights = self._token_weights(windows[number], label, integrated)
        np.add.at(weights[:, column], words[tokens],
                  token_weights[tokens] / len(numbers))
    return weights

  def _token_weights(self, window, label, integrated):
    """float64 `[tokens]`: what each token adds to the logit of a window."""
    rows = [(window.input_ids, window.segment_ids)]
    if integrated:
      pad = self._tokenizer.vocab["[PAD]"]
      rows.append(([pad if word >= 0 else token for token, word in zip(
          window.input_ids, window.words)], window.segment_ids))
      end, start = self._run(self._embedding, rows)  # [tokens, width] each
      shares = (np.arange(INTEGRATION_STEPS) + 0.5) / INTEGRATION_STEPS
    else:
      end, = self._run(self._embedding, rows)
      start, shares = np.zeros_like(end), np.ones([1])
    gradient = np.zeros(end.shape)
    size = max(1, _GRADIENT_TOKENS // len(end))
    for first in range(0, len(shares), size):
      some = shares[first:first + size, np.newaxis, np.newaxis]
      selector = np.zeros([len(some), len(self.labels)], np.float32)
      selector[:, label] = 1.0
      gradient += self._run(
          self._gradient, rows[:1] * len(some),
          {self._selector: selector,
           self._embedding: start + some * (end - start)}).sum(axis=0)
    return (gradient / len(shares) * (end - start)).sum(axis=-1)

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

  def _logits(self, rows):
    """float32 `[len(rows), L]` for rows (input_ids, segment_ids)."""
    logits = np.zeros([len(rows), len(self.labels)], np.float32)
    for numbers in feature_rows.batches_by_length(
        [len(ids) for ids, _ in rows], self._batch_size):
      logits[numbers] = self._run(
          self._inference.logits, [rows[i] for i in numbers])
    return logits

  def _run(self, fetch, rows, also_feed=None):
    """One `session.run` over rows (input_ids, segment_ids), padded."""
    batch = feature_rows.make_batch([
        encoding.InputFeatures(ids, None, segment_ids, [])
        for ids, segment_ids in rows])
    feed_dict = {getattr(self._inference, key): batch[key]
                 for key in ("input_ids", "input_mask", "segment_ids")}
    feed_dict.update(also_feed or {})
    return self._open_session().run(fetch, feed_dict)

  def _open_session(self):
    if self._session is None:
      raise ValueError("this explainer is closed.")
    return self._session

  def close(self):
    """Frees the session; calling it twice does no harm."""
    session, self._session = self._session, None
    if session is not None:
      session.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def find_embedding_output(graph, scope="bert/embeddings/"):
  """Returns the tensor that goes from the embeddings into the first layer.

  Args:
    graph: `tf.Graph` with one BERT in it.
    scope: str, the name scope of its embeddings.

  Returns:
    float32 `[B, S, W]`: the one tensor of that type and rank which an op of
    the scope makes and ops outside read.

  Raises:
    ValueError: there is none, or more than one.
  """
  found = [
      output for op in graph.get_operations() if op.name.startswith(scope)
      for output in op.outputs
      if output.dtype == tf.float32 and output.shape.rank == 3 and any(
          not reader.name.startswith(scope) for reader in output.consumers())]
  if len(found) != 1:
    raise ValueError(
        "the graph has %d tensors [batch, tokens, width] that leave %s; one is "
        "needed to explain by gradient." % (len(found), scope))
  return found[0]


def _restore(checkpoint):
  """A session with the variables of the current graph from a checkpoint."""
  variables = tf.global_variables()
  checkpoint_restore.check_checkpoint(checkpoint, variables)
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  session = tf.Session(config=config)
  try:
    tf.train.Saver(variables).restore(session, checkpoint)
  except tf.errors.OpError as error:
    session.close()
    raise ValueError("checkpoint %s cannot be restored: %s" % (
        checkpoint, error.message.split("\n")[0]))
  return session


def _check_text(text):
  """[text] or [text, second text]; ValueError if it is neither."""
  texts = list(text) if isinstance(text, (tuple, list)) else [text]
  if not 1 <= len(texts) <= 2 or not all(
      isinstance(part, six.string_types) for part in texts):
    raise ValueError("text is %s; it must be a str, or a pair (str, str)." %
                     type(text).__name__)
  return texts


def _most_probable(probabilities, is_predicted):
  """Numbers of the predicted labels, or else of the most probable one."""
  order = [int(i) for i in np.argsort(-probabilities, kind="mergesort")]
  return [i for i in order if is_predicted[i]] or order[:1]


def _name_labels(label, labels):
  """What to say of the labels that exist to one who asked for another."""
  if len(labels) <= _LISTED_LABELS:
    return "there are " + ", ".join(labels)
  close = difflib.get_close_matches(label, labels, n=3, cutoff=0)
  return "there are %d, among them %s" % (len(labels), ", ".join(close))
