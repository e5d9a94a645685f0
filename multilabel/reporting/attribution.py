# SPDX-License-Identifier: Apache-2.0
"""Which words led to each label: attributions of a trained model's logits.

"gradient": the gradient of the label's logit in a token's embedding times that
embedding, summed over the vector (Simonyan et al. 2013,
https://arxiv.org/abs/1312.6034, section 3; Shrikumar et al. 2016,
https://arxiv.org/abs/1605.01713; compared in Ancona et al. 2018,
https://arxiv.org/abs/1711.06104). The embedding is the output of its LayerNorm:
LayerNorm is invariant to scaling its input, so with its input every token's sum
would be 0 (Euler's theorem). One pass per label; quick, but blind to words
whose effect is saturated.

"integrated": the same, with the mean gradient along the straight line from the
empty text (every token of a word is [PAD]) to the text, and the difference
instead of the embedding (Sundararajan et al. 2017,
https://arxiv.org/abs/1703.01365, eq. 3). The weights add up to about the logit
minus that of the empty text. `INTEGRATION_STEPS` passes per label.

"occlusion": see `occlusion`.
"""

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.reporting import occlusion
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_restore
from multilabel.storage import half_weights
from multilabel.storage import trained_model
import tokenization


# Points between the empty text and the text at which "integrated" computes the
# gradient.
INTEGRATION_STEPS = 16

# Tokens per `session.run` with gradients, for which the activations of all
# layers are kept.
_GRADIENT_TOKENS = 1024


class Explainer(occlusion.WordExplainer):
  """A trained model in its own graph and session, with gradients.

  Attributes: those of `occlusion.WordExplainer`.
  """

  methods = occlusion.METHODS

  def __init__(self, model_dir, batch_size=32):
    """Loads a model.

    Args:
      model_dir: str, `--output_dir` of a training run.
      batch_size: int, rows per `session.run` without gradients.

    Raises:
      ValueError: a file is missing or broken, or the checkpoint does not fit.
    """
    if batch_size < 1:
      raise ValueError("batch_size is %d; it must be 1 or more." % batch_size)
    trained = trained_model.read(model_dir)
    checkpoint = checkpoint_choice.prediction_checkpoint(model_dir)
    super(Explainer, self).__init__(
        trained.labels, trained.decision, checkpoint,
        tokenization.FullTokenizer(trained.vocab_file,
                                   trained.settings["do_lower_case"]),
        trained.settings["max_seq_length"], trained.long_text)
    self._batch_size = batch_size
    if checkpoint is None:
      raise ValueError("model_dir %s has no checkpoint: training has not saved "
                       "its first one yet." % model_dir)
    checkpoint_restore.check_sizes(checkpoint, trained.bert_config,
                                   len(trained.labels),
                                   checkpoint_restore.OWN_FILES)
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
      self._session = _restore(
          checkpoint, trained.settings["weights_dtype"] == "float16")
    graph.finalize()

  def _weigh(self, method, windows, logits, num_words, labels):
    if method == "occlusion":
      return self._weigh_by_occlusion(windows, logits, num_words, labels)
    return self._weigh_by_gradient(windows, logits, num_words, labels,
                                   method == "integrated")

  def _weigh_by_gradient(self, windows, logits, num_words, labels, integrated):
    """float64 `[num_words, len(labels)]`."""
    weights = np.zeros([num_words, len(labels)])
    for column, label in enumerate(labels):
      # The windows that contribute to the pooled logit, in equal parts.
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
    """float64 `[tokens]`: contributions of the tokens to a window's logit."""
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

  def _logits(self, rows):
    """float32 `[len(rows), L]` for rows (input_ids, segment_ids)."""
    logits = np.zeros([len(rows), len(self.labels)], np.float32)
    for numbers in feature_rows.batches_by_length(
        [len(ids) for ids, _ in rows], self._batch_size):
      logits[numbers] = self._run(
          self._inference.logits, [rows[i] for i in numbers])
    return logits

  def _sigmoid(self, logits):
    return self._open_session().run(self._inference.probabilities,
                                    {self._inference.logits: logits})

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
    """Frees the session; may be called twice."""
    session, self._session = self._session, None
    if session is not None:
      session.close()


def find_embedding_output(graph, scope="bert/embeddings/"):
  """Returns the tensor that goes from the embeddings into the first layer.

  Args:
    graph: `tf.Graph` with one BERT in it.
    scope: str, the name scope of its embeddings.

  Returns:
    float32 `[B, S, W]`: the one tensor of that type and rank that an op of the
    scope outputs and ops outside use.

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
        "the graph has %d outputs [batch, tokens, width] of %s; explaining by "
        "gradient needs exactly one." % (len(found), scope))
  return found[0]


def _restore(checkpoint, is_half):
  """A session with the variables of the current graph from a checkpoint."""
  variables = tf.global_variables()
  checkpoint_restore.check_checkpoint(checkpoint, variables)
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  session = tf.Session(config=config)
  try:
    saver = half_weights.saver(variables) if is_half else tf.train.Saver(
        variables)
    saver.restore(session, checkpoint)
  except tf.errors.OpError as error:
    session.close()
    raise ValueError("checkpoint %s cannot be restored: %s" % (
        checkpoint, error.message.split("\n")[0]))
  return session
