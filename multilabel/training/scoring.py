# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction with the graph of a run."""

import itertools

import numpy as np

from multilabel.features import encoding
from multilabel.features import input_pipeline
from multilabel.training import dev_evaluation


def evaluate(run, records, batch_size, num_labels, window_pooling="max",
             should_stop=None, with_logits=False):
  """Runs the inference tower over labelled records.

  Args:
    run: `Run`.
    records: `input_pipeline.RecordFile`.
    batch_size: int; the result does not depend on it.
    num_labels: int.
    window_pooling: str, see `input_pipeline.pool_windows`.
    should_stop: function without arguments, called before each batch, or None.
    with_logits: bool, whether the texts' logits are returned as well.

  Returns:
    (loss, labels, probabilities): float, the mean over all texts; bool and
    float32 `[num_texts, num_labels]` in the order of the records. With the
    logits, a fourth array like the probabilities, which are then not
    calibrated.

  Raises:
    best_checkpoint.EvaluationStopped: `should_stop` returned True.
  """
  labels = np.zeros([records.num_texts, num_labels], np.bool_)
  probabilities = np.zeros([records.num_texts, num_labels], np.float32)
  all_logits = np.zeros_like(probabilities) if with_logits else None
  total_loss = 0.0
  for window in input_pipeline.predict_windows(
      records, batch_size, num_labels, num_outputs=num_labels):
    logits = np.zeros([window.num_rows, num_labels], np.float32)
    row_labels = np.zeros([window.num_rows, num_labels], np.float32)
    for numbers, batch, values in _logits(run, window.batches, should_stop):
      logits[numbers], row_labels[numbers] = values, batch["label_ids"]
    texts = slice(window.start, window.start + window.size)
    text_labels = row_labels[window.first_rows]
    pooled = encoding.pool_windows(_check_finite(run, logits),
                                   window.first_rows, window_pooling)
    if with_logits:
      all_logits[texts] = pooled
    losses, probabilities[texts] = run.session.run(
        [run.inference.per_example_loss, run.inference.probabilities],
        {run.inference.logits: pooled, run.inference.labels: text_labels})
    labels[texts] = text_labels > 0.5
    total_loss += float(np.sum(losses, dtype=np.float64))
  loss = total_loss / records.num_texts
  if with_logits:
    return loss, labels, probabilities, all_logits
  return loss, labels, probabilities


def calibrated_probabilities(run, logits, calibration):
  """Probabilities of logits `[n, num_labels]`, with the graph's own sigmoid.

  Args:
    run: `Run`, whose graph has no calibration in it.
    logits: float32 `[n, num_labels]`.
    calibration: `calibration.Calibration`, or None.

  Returns:
    float32 like `logits`.
  """
  if calibration is not None:
    logits = calibration.apply(logits)
  return run.session.run(run.inference.probabilities,
                         {run.inference.logits: logits})


def predict(run, records, batch_size, num_labels, window_pooling="max",
            should_stop=None, calibration=None):
  """Yields float32 `[texts, num_labels]` probabilities, window by window.

  The windows come in the order of the records and together hold all texts.
  `should_stop` is that of `evaluate`; `calibration` a `Calibration` or None.
  """
  for window in input_pipeline.predict_windows(
      records, batch_size, num_outputs=num_labels):
    logits = np.zeros([window.num_rows, num_labels], np.float32)
    for numbers, _, values in _logits(run, window.batches, should_stop):
      logits[numbers] = values
    yield calibrated_probabilities(run, encoding.pool_windows(
        _check_finite(run, logits), window.first_rows, window_pooling),
                                   calibration)


def _logits(run, batches, should_stop):
  """Yields (row numbers, batch, logits) of batches, a batch per device at once.
  """
  while True:
    dealt = list(itertools.islice(batches, len(run.towers)))
    if not dealt:
      return
    if should_stop is not None and should_stop():
      raise dev_evaluation.EvaluationStopped()
    feed = {}
    for tower, (_, batch) in zip(run.towers, dealt):
      feed.update(feed_dict(tower, batch))
    results = run.session.run(
        [tower.logits for tower in run.towers[:len(dealt)]], feed)
    for (numbers, batch), logits in zip(dealt, results):
      yield numbers, batch, logits


def _check_finite(run, logits):
  """Returns the logits; FloatingPointError if one is NaN or infinite."""
  if not np.all(np.isfinite(logits)):
    raise FloatingPointError(
        "the model of step %d gives NaN or infinite probabilities; its "
        "training diverged, so try a lower --learning_rate." %
        run.checkpoint_step)
  return logits


def feed_dict(inference, batch):
  """Pairs the placeholders of an inference graph with a batch's arrays."""
  feed = {getattr(inference, key): batch[key]
          for key in ("input_ids", "input_mask", "segment_ids")}
  if "label_ids" in batch:
    feed[inference.labels] = batch["label_ids"]
  return feed
