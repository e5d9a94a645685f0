# SPDX-License-Identifier: Apache-2.0
"""What all predictors have in common: texts in, probabilities and labels out.

    texts --encode--> windows of ids --batches by length--> rows of numbers
          --windows of a text become one--> probabilities --describe--> labels

An engine runs the rows: `loaded_model.SessionEngine` in a TensorFlow session,
`onnx_model.OnnxEngine` in onnxruntime. This module needs neither.
"""

import collections
import collections.abc
import threading
from typing import List
from typing import Optional
from typing import Tuple

import numpy as np

from multilabel import decisions
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.inference import call_deadline
from multilabel.inference import served_weights
import tokenization

# Texts, or windows of one long text, whose ids are held at a time.
ROWS_HELD = 4096

# Settings that must not change under a predictor: what `encode` returned, and
# what callers know about the labels, must stay valid.
_FIXED_SETTINGS = ("labels_sha256", "vocab_sha256", "bert_config_sha256",
                   "pooling", "do_lower_case", "max_seq_length", "long_text",
                   "stride", "window_pooling")

Described = collections.namedtuple("Described", ["labels", "probabilities"])


class LoadedWeights(object):
  """Weights that rows run on; what an engine's `load` returns.

  Attributes:
    checkpoint: str, what they were restored from.
    step: int, the training step; 0 if it is not known.
    identity: equal to `Engine.identity` while the files are the same.
  """

  checkpoint, step, identity = None, 0, None

  def __init__(self, num_labels, max_length):
    self._num_labels, self._max_length = num_labels, max_length

  def run(self, batch, with_logits, deadline):
    """Runs rows.

    Args:
      batch: dict of int32 arrays `[rows, length]`, `input_ids`, `input_mask`
        and `segment_ids`.
      with_logits: bool.
      deadline: `call_deadline.Deadline`.

    Returns:
      list of float32 `[rows, num_labels]`: probabilities, and logits if asked.

    Raises:
      TimeoutError: the deadline has passed.
      ValueError: `close` was called.
    """
    raise NotImplementedError

  def sigmoid(self, logits, deadline):
    """Calibrated probabilities `[rows, num_labels]` of logits."""
    raise NotImplementedError

  def close(self):
    """Frees everything; may be called twice."""
    raise NotImplementedError

  def predict(self, encoded, batch_size, pooling, deadline):
    """Returns the probabilities of texts.

    Args:
      encoded: list, one per text, of lists of `InputFeatures`, its windows.
      batch_size: int, rows per run.
      pooling: str, how the windows of a text become one, see `pool_windows`.
      deadline: `call_deadline.Deadline`, checked before and during each run.

    Returns:
      float32 `[len(encoded), num_labels]`.

    Raises:
      TimeoutError: the deadline has passed.
      FloatingPointError: a probability is NaN.
      ValueError: `close` was called.
    """
    rows = [row for windows in encoded for row in windows]
    has_windows = len(rows) > len(encoded)
    outputs = self.predict_rows(rows, batch_size, has_windows, deadline)
    if not has_windows:
      return outputs[0]
    counts = np.array([len(windows) for windows in encoded])
    first_windows = np.cumsum(counts) - counts
    # Texts of one window keep their probabilities.
    result = outputs[0][first_windows]
    several = counts > 1
    result[several] = self.sigmoid(encoding.pool_windows(
        outputs[1], first_windows, pooling)[several], deadline)
    return result

  def predict_rows(self, rows, batch_size, with_logits, deadline):
    """`run` of rows (`InputFeatures`) of any number, in batches by length."""
    outputs = [np.zeros([len(rows), self._num_labels], np.float32)
               for _ in range(1 + bool(with_logits))]
    for numbers in feature_rows.cut_batches(
        [len(row.input_ids) for row in rows], batch_size, self._max_length):
      batch = feature_rows.pad_batch([rows[i] for i in numbers],
                                     self._max_length)
      values = self.run(batch, with_logits, deadline)
      if not np.isfinite(values[0]).all():
        raise FloatingPointError(
            "checkpoint %s gives NaN or infinite probabilities; use another "
            "one." % self.checkpoint)
      for output, value in zip(outputs, values):
        output[numbers] = value
    return outputs


class Engine(object):
  """Where a predictor finds its model, and what runs it.

  Attributes:
    folder: str, the folder that the user named.
    folder_name: str, its name in messages, such as "model_dir".
  """

  folder, folder_name = None, "folder"

  def read(self):
    """Reads all but the weights: `model_settings.ModelFiles`, or similar."""
    raise NotImplementedError

  def prepare(self, trained):
    """Builds what all weights share, from the result of `read`.

    Called again if the calibration changes.
    """

  def find(self):
    """The weights to predict with, according to the folder: str."""
    raise NotImplementedError

  def identity(self, found):
    """What changes when weights of the same name are rewritten."""
    raise NotImplementedError

  def load(self, found):
    """`LoadedWeights` of `find`'s result; ValueError if they are broken."""
    raise NotImplementedError


class Predictor(object):
  """A trained model, loaded once; all methods are thread-safe.

  Attributes:
    labels: list of str, the order of the probabilities.
    decision: `decisions.DecisionRule`, from probabilities to labels.
    threshold: its thresholds: a float, a list of one per label, or
      "expected_f1" for none.
    max_seq_length: int, maximum tokens of a text, or of a window.
    vocab_size: int; ids are below it.
    type_vocab_size: int; segment ids are below it.
    max_position_embeddings: int, maximum number of ids of a row.
    bert_config: has these three.
    long_text: `encoding.LongText`.
    tokenizer: `tokenization.FullTokenizer`.
    checkpoint: str, what the weights come from.
    step: int, its training step; 0 if it is not known.
  """

  def __init__(self, engine, batch_size):
    """Loads a model.

    Args:
      engine: `Engine`.
      batch_size: int, texts per run.

    Raises:
      ValueError: a file is missing or broken, or an argument is invalid.
    """
    if batch_size < 1:
      raise ValueError("batch_size is %d; it must be 1 or more." % batch_size)
    self._engine = engine
    self._batch_size = batch_size
    trained = engine.read()
    self._settings = trained.settings
    self._calibration = trained.calibration
    self.bert_config = trained.bert_config
    self.long_text = trained.long_text
    self.decision = trained.decision
    self.labels = trained.labels
    self.max_seq_length = trained.settings["max_seq_length"]
    self.vocab_size = trained.bert_config.vocab_size
    self.type_vocab_size = trained.bert_config.type_vocab_size
    self.max_position_embeddings = trained.bert_config.max_position_embeddings
    engine.prepare(trained)
    self.tokenizer = tokenization.FullTokenizer(
        trained.vocab_file, trained.settings["do_lower_case"])
    self._served = served_weights.ServedWeights()
    self._reload_lock = threading.Lock()
    self._serve(engine.load(engine.find()))

  def __repr__(self):
    return "%s(%r, step %s, %d labels)" % (
        type(self).__name__, self._engine.folder, self.step, len(self.labels))

  @property
  def threshold(self):
    return self.decision.thresholds

  def predict(self, texts, timeout: Optional[float] = None) -> np.ndarray:
    """Returns the probability of each label for each text.

    Args:
      texts: list of str, or of (str, str) for pairs.
      timeout: float, seconds; None: no limit.

    Returns:
      float32 `[len(texts), num_labels]`.

    Raises:
      ValueError: `texts` is not a list of texts, or the predictor is closed.
      TimeoutError: the time is over; the current run is stopped.
      FloatingPointError: a probability is NaN.
    """
    return self._predict(_as_list(texts), call_deadline.Deadline(timeout))

  def _predict(self, texts, deadline):
    """`predict`, with the ids of a few texts, or of one long one, at a time."""
    with self._served.borrow() as loaded:
      probabilities = np.zeros([len(texts), len(self.labels)], np.float32)
      start, encoded, num_rows = 0, [], 0
      for number, text in enumerate(texts):
        deadline.remaining()
        windows = self._encode(number, text)
        encoded.append(windows)
        num_rows += len(windows)
        if num_rows >= ROWS_HELD or number == len(texts) - 1:
          probabilities[start:number + 1] = self._run(
              loaded, encoded, deadline)
          start, encoded, num_rows = number + 1, [], 0
    return probabilities

  async def predict_async(self, texts,
                          timeout: Optional[float] = None) -> np.ndarray:
    """`predict` in a thread of the event loop; cancelling it stops it.

    Work already sent to the engine is finished anyway. For many clients that
    each await a text, use `micro_batching`.
    """
    import asyncio  # pylint: disable=g-import-not-at-top
    deadline = call_deadline.Deadline(timeout)
    try:
      return await asyncio.get_event_loop().run_in_executor(
          None, self._predict, _as_list(texts), deadline)
    finally:
      deadline.cancel()

  def encode(self, texts):
    """Turns texts into ids, for `predict_encoded`.

    Args:
      texts: as for `predict`.

    Returns:
      list, one per text, of lists of `InputFeatures` without padding, its
      windows: one, unless the model splits long texts.

    Raises:
      ValueError: `texts` is not a list of texts.
    """
    return [self._encode(number, text)
            for number, text in enumerate(_as_list(texts))]

  def predict_encoded(self, encoded, timeout=None):
    """`predict` for the result of `encode` or `check_features`."""
    deadline = call_deadline.Deadline(timeout)
    with self._served.borrow() as loaded:
      return self._run(loaded, encoded, deadline)

  def check_features(self, features):
    """Checks ids from a caller, and converts them to the result of `encode`.

    Args:
      features: list of `InputFeatures`, or of objects with `input_ids`,
        `input_mask` and `segment_ids`; padding at the end is dropped.

    Returns:
      list, one per row, of lists of one `InputFeatures`.

    Raises:
      ValueError: an invalid row; names its number, from 0.
    """
    return feature_rows.check_features(features, self.bert_config)

  def predict_features(self, features, timeout=None):
    """`predict` for ids from a caller, one result per row."""
    return self.predict_encoded(self.check_features(features), timeout)

  def predict_logits(self, rows):
    """Logits before calibration.

    Args:
      rows: list of `InputFeatures` without padding.

    Returns:
      float32 `[len(rows), num_labels]`.
    """
    with self._served.borrow() as loaded:
      return loaded.predict_rows(rows, self._batch_size, True,
                                 call_deadline.Deadline())[1]

  def sigmoid(self, logits):
    """The calibrated probabilities of the result of `predict_logits`."""
    with self._served.borrow() as loaded:
      return loaded.sigmoid(logits, call_deadline.Deadline())

  def _run(self, loaded, encoded, deadline):
    return loaded.predict(encoded, self._batch_size, self.long_text.pooling,
                          deadline)

  def _encode(self, number, text):
    """A text, or a pair, as a list of `InputFeatures`, its windows."""
    text_a, text_b = text if isinstance(text, (tuple, list)) and len(
        text) == 2 else (text, None)
    for part in (text_a,) if text_b is None else (text_a, text_b):
      if not isinstance(part, str):
        raise ValueError(
            "text %d is %s; it must be a str, or a pair (str, str)." % (
                number, type(text).__name__))
    windows, _ = encoding.encode_windows(
        self.tokenizer, text_a, text_b, self.max_seq_length, self.long_text)
    return [encoding.InputFeatures(
        input_ids, [1] * len(input_ids), segment_ids, [])
            for input_ids, segment_ids in windows]

  def predict_labels(self, texts, threshold=None) -> List[
      List[Tuple[str, float]]]:
    """Returns the labels of each text.

    Args:
      texts: as for `predict`.
      threshold: float, minimum probability of a label; a list of them, one per
        label; or "expected_f1", see `expected_f1.choose`; default: the trained
        model's.

    Returns:
      list, one per text, of lists of (label, probability), most probable first.
    """
    return [result.labels for result in self.describe(
        self.predict(texts), threshold)]

  def describe(self, probabilities, threshold=None, top_k=None,
               always_one_label=None, which=decisions.ALL):
    """Describes the result of `predict`.

    Args:
      probabilities: float32 `[n, num_labels]`.
      threshold: as for `predict_labels`.
      top_k: int, maximum number of labels of a text; None: the trained model's.
      always_one_label: bool, whether a text without any label gets the most
        probable one; None: the trained model's.
      which: the probabilities to name, see `decisions.columns`.

    Returns:
      list of `Described(labels, probabilities)`: [(label, probability)] above
      the threshold, most probable first, and {label: probability}.
    """
    if not len(probabilities):  # pylint: disable=g-explicit-length-test
      return []
    above = self.decision_for(threshold, top_k, always_one_label).apply(
        probabilities)
    results = []
    for row, chosen in zip(probabilities, above):
      order = decisions.columns(row, chosen, decisions.LABELS)
      results.append(Described(
          [(self.labels[i], float(row[i])) for i in order],
          collections.OrderedDict(
              (self.labels[i], float(row[i])) for i in
              decisions.columns(row, chosen, which))))
    return results

  def decision_for(self, threshold=None, top_k=None, always_one_label=None):
    """The `DecisionRule` of arguments of `describe`."""
    changes = {"thresholds": threshold, "top_k": top_k,
               "always_one_label": always_one_label}
    return self.decision._replace(**{
        key: value for key, value in changes.items() if value is not None})

  def warm_up(self) -> None:
    """Runs texts of a few lengths, so that the first real one is faster."""
    with self._served.borrow() as loaded:
      self._warm_up(loaded)

  def _warm_up(self, loaded):
    """Runs the shortest text, and one that is too long; NaN is an error."""
    for text in (u"", u"a " * self.max_seq_length):
      self._run(loaded, self.encode([text]), call_deadline.Deadline())

  def reload(self) -> bool:
    """Switches to newer weights and newly tuned thresholds.

    Calls in progress finish with the weights they started with; no call fails
    or waits. For a moment, both weights are in memory.

    Returns:
      bool, whether anything changed.

    Raises:
      ValueError: the files are broken or invalid, or belong to a different
        model (labels, vocabulary, configuration or length differ); the
        predictor keeps the old one.
    """
    with self._reload_lock:
      trained = self._engine.read()
      changed = [name for name in _FIXED_SETTINGS
                 if trained.settings[name] != self._settings[name]]
      if changed:
        raise ValueError(
            "%s %s now holds a different model (%s differs); create a new %s "
            "for it." % (self._engine.folder_name, self._engine.folder,
                     changed[0].replace("_sha256", ""), type(self).__name__))
      found = self._engine.find()
      with self._served.borrow() as loaded:
        is_newer = (found, self._engine.identity(found)) != (
            loaded.checkpoint, loaded.identity)
        if trained.calibration != self._calibration:
          is_newer = True
          self._engine.prepare(trained)
        if not is_newer and trained.decision == self.decision:
          return False
      if is_newer:
        self._serve(self._load_and_try(found))
        self._calibration = trained.calibration
      self.decision = trained.decision
      return True

  def _serve(self, loaded):
    self._served.replace(loaded)
    self.checkpoint, self.step = loaded.checkpoint, loaded.step

  def _load_and_try(self, found):
    """Weights that passed a test run; ValueError if they do not."""
    loaded = self._engine.load(found)
    try:
      self._warm_up(loaded)
    except FloatingPointError as error:
      loaded.close()
      raise ValueError(str(error))
    except BaseException:
      loaded.close()
      raise
    return loaded

  def close(self):
    """Frees the weights; may be called twice."""
    self._served.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def _as_list(texts):
  """A list of texts from an ordered container: list, column, generator."""
  if isinstance(texts, (str, bytes)):
    raise ValueError("predict takes a list of texts, not one text.")
  kind = type(texts).__name__
  # Iterating over these would give keys, column names, or an arbitrary order.
  if isinstance(texts, (collections.abc.Mapping, collections.abc.Set)):
    raise ValueError("predict takes a list of texts, not a %s." % kind)
  if hasattr(texts, "columns"):  # of pandas, polars, pyarrow
    raise ValueError("predict takes a list of texts or one column of a table, "
                     "such as table[\"text\"], not a whole %s." % kind)
  if not hasattr(texts, "__iter__"):
    raise ValueError("predict takes a list of texts, not %s." % kind)
  if hasattr(texts, "to_pylist"):  # pyarrow's columns contain its own scalars
    return texts.to_pylist()
  return list(texts)
