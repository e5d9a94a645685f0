# SPDX-License-Identifier: Apache-2.0
"""Labels texts with a trained directory: load once, predict many times.

  python predict_session.py --model_dir=DIR "a sentence" "another one"
  python predict_session.py --model_dir=DIR --input_file=texts.csv \
      --text_column=text --output_file=labels.jsonl
  python predict_session.py --model_dir=DIR          # asks for texts

From Python:

  with SessionPredictor("DIR") as predictor:
    probabilities = predictor.predict(["a sentence", ("text a", "text b")])
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import asyncio
import collections
import collections.abc
import os
import sys
import threading

from absl import flags
import numpy as np
import six

from multilabel import decisions
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.features import input_pipeline
from multilabel.inference import call_deadline
from multilabel.inference import loaded_model
from multilabel.inference import predict_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import trained_model
import tokenization


FLAGS = flags.FLAGS

# Settings that may not change under a predictor: what `encode` returned, and
# what callers know of the labels, must go on to fit.
_FIXED_SETTINGS = ("labels_sha256", "vocab_sha256", "bert_config_sha256",
                   "pooling", "do_lower_case", "max_seq_length", "long_text",
                   "stride", "window_pooling")

Described = collections.namedtuple("Described", ["labels", "probabilities"])


class SessionPredictor(object):
  """A trained model in a graph and a session of its own.

  Several predictors can live in one process, beside TF 2 code that runs
  eagerly; all methods may be called from several threads.

  Attributes:
    labels: list of str, the order of the probabilities.
    max_seq_length: int, most ids of what `encode` returns.
    vocab_size: int, ids are below it.
    type_vocab_size: int, segments are below it.
    max_position_embeddings: int, most ids of a row.
    decision: `decisions.DecisionRule`, the trained directory's.
    threshold: float, or list of float, one a label: that of `decision`.
    checkpoint: str, what the weights were restored from.
    step: int, the step in the checkpoint's name; 0 if there is none.
  """

  def __init__(self, model_dir, batch_size=32, device=None,
               inter_op_threads=None, intra_op_threads=None, checkpoint=None,
               allow_older_checkpoint=False, verify_checkpoint=True,
               profile_dir=None):
    """Loads a model.

    Args:
      model_dir: str, `--output_dir` of a training run.
      batch_size: int, texts a `session.run`.
      device: str, "/cpu:0", "/gpu:0", ...; None: TensorFlow chooses.
      inter_op_threads: int, operations that run side by side; None:
        TensorFlow's number.
      intra_op_threads: int, threads that work on one operation, set for the
        whole process by what of TensorFlow runs first in it; None:
        TensorFlow's number.
      checkpoint: str, prefix, or its name in `trained_model`; None: the best
        one on dev if the run kept account of that, else the newest.
      allow_older_checkpoint: bool, whether the newest whole checkpoint may
        take the place of one that is broken; a warning says so.
      verify_checkpoint: bool, whether it is made sure that the checkpoint is
        of this run, as it was written, and has no weight that is not finite.
      profile_dir: str, where `session_profile` writes what it traces, or None.

    Raises:
      ValueError: a file is missing or broken, the checkpoint does not fit or
        has weights that are not finite, or an argument cannot be.
    """
    if batch_size < 1:
      raise ValueError("batch_size is %d; it must be 1 or more." % batch_size)
    self._model_dir = model_dir
    self._batch_size = batch_size
    self._wanted_checkpoint = checkpoint
    self._allow_older_checkpoint = allow_older_checkpoint
    self._verify_checkpoint = verify_checkpoint
    trained = trained_model.read(model_dir)
    self._settings = trained.settings
    self._bert_config = trained.bert_config
    self._long_text = trained.long_text
    self._tokenizer = tokenization.FullTokenizer(
        trained.vocab_file, trained.settings["do_lower_case"])
    self.decision = trained.decision
    self._calibration = trained.calibration
    self.labels = trained.labels
    self.max_seq_length = trained.settings["max_seq_length"]
    self.vocab_size = trained.bert_config.vocab_size
    self.type_vocab_size = trained.bert_config.type_vocab_size
    self.max_position_embeddings = trained.bert_config.max_position_embeddings

    self._session_arguments = (device, inter_op_threads, intra_op_threads,
                               profile_dir)
    self._model = loaded_model.InferenceModel(trained,
                                              *self._session_arguments)
    self._served = loaded_model.ServedWeights()
    self._reload_lock = threading.Lock()
    self._serve(self._model.load(self._find_checkpoint(), verify_checkpoint))

  def _find_checkpoint(self):
    """The prefix that the directory would have us predict with."""
    checkpoint = self._wanted_checkpoint
    if checkpoint is None:
      checkpoint = checkpoint_choice.prediction_checkpoint(
          self._model_dir, self._allow_older_checkpoint,
          self._verify_checkpoint)
    else:
      if not os.path.dirname(checkpoint):
        checkpoint = os.path.join(self._model_dir, checkpoint)
      if self._verify_checkpoint and os.path.exists(checkpoint + ".index"):
        checkpoint_choice.check_checkpoint_identity(self._model_dir,
                                                    checkpoint)
    if checkpoint is None:
      raise ValueError("model_dir %s has no checkpoint: training has not got "
                       "to its first one." % self._model_dir)
    return checkpoint

  @property
  def threshold(self):
    return self.decision.thresholds

  def predict(self, texts, timeout=None):
    """Returns the probability of each label for each text.

    Args:
      texts: list of str, or of (str, str) for pairs.
      timeout: float, seconds; None: no limit.

    Returns:
      float32 `[len(texts), num_labels]`.

    Raises:
      ValueError: `texts` is no list of texts, or the predictor is closed.
      TimeoutError: it was not done in time; what runs is stopped.
      FloatingPointError: the model gives probabilities that are NaN.
    """
    return self._predict(_as_list(texts), call_deadline.Deadline(timeout))

  def _predict(self, texts, deadline):
    """`predict`; ids of few texts, or of one long one, are held at a time."""
    with self._served.borrow() as loaded:
      probabilities = np.zeros([len(texts), len(self.labels)], np.float32)
      start, encoded, num_rows = 0, [], 0
      for number, text in enumerate(texts):
        deadline.remaining()
        windows = self._encode(number, text)
        encoded.append(windows)
        num_rows += len(windows)
        if num_rows >= input_pipeline.PREDICT_WINDOW or (
            number == len(texts) - 1):
          probabilities[start:number + 1] = self._run(
              loaded, encoded, deadline)
          start, encoded, num_rows = number + 1, [], 0
    return probabilities

  async def predict_async(self, texts, timeout=None):
    """`predict` in a thread of the event loop's; cancelling it stops it.

    What was sent to the session before is finished all the same. Many clients
    that each await a text are better served by `serving.micro_batching`.
    """
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
      list, one a text, of lists of `InputFeatures` without padding, its
      windows: one, unless the model reads long texts in several.

    Raises:
      ValueError: `texts` is no list of texts.
    """
    return [self._encode(number, text)
            for number, text in enumerate(_as_list(texts))]

  def predict_encoded(self, encoded, timeout=None):
    """`predict` of what `encode` or `check_features` returned."""
    deadline = call_deadline.Deadline(timeout)
    with self._served.borrow() as loaded:
      return self._run(loaded, encoded, deadline)

  def check_features(self, features):
    """Checks ids that a caller made, and makes of them what `encode` returns.

    Args:
      features: list of `InputFeatures`, or of anything with its `input_ids`,
        `input_mask` and `segment_ids`; padding at the end is dropped.

    Returns:
      list, one a row, of lists of one `InputFeatures`.

    Raises:
      ValueError: a row that the model cannot read; names its number from 0.
    """
    return feature_rows.check_features(features, self._bert_config)

  def predict_features(self, features, timeout=None):
    """`predict` of ids that a caller made, a result a row."""
    return self.predict_encoded(self.check_features(features), timeout)

  def _run(self, loaded, encoded, deadline):
    return loaded.predict(encoded, self._batch_size, self._long_text.pooling,
                          deadline)

  def _encode(self, number, text):
    """A text, or a pair, as a list of `InputFeatures`, its windows."""
    text_a, text_b = text if isinstance(text, (tuple, list)) and len(
        text) == 2 else (text, None)
    for part in (text_a,) if text_b is None else (text_a, text_b):
      if not isinstance(part, six.string_types):
        raise ValueError(
            "text %d is %s; it must be a str, or a pair (str, str)." % (
                number, type(text).__name__))
    windows, _ = encoding.encode_windows(
        self._tokenizer, text_a, text_b, self.max_seq_length, self._long_text)
    return [encoding.InputFeatures(
        input_ids, [1] * len(input_ids), segment_ids, [])
            for input_ids, segment_ids in windows]

  def predict_labels(self, texts, threshold=None):
    """Returns the labels of each text.

    Args:
      texts: as for `predict`.
      threshold: float, least probability of a label, or a list of them, one a
        label; default: the trained directory's.

    Returns:
      list, one a text, of lists of (label, probability), most probable first.
    """
    return [result.labels for result in self.describe(
        self.predict(texts), threshold)]

  def describe(self, probabilities, threshold=None, top_k=None,
               always_one_label=None, which=decisions.ALL):
    """Names what `predict` returned.

    Args:
      probabilities: float32 `[n, num_labels]`.
      threshold: as for `predict_labels`.
      top_k: int, most labels of a text; None: the trained directory's.
      always_one_label: bool, whether the most probable label is taken where
        none passes; None: the trained directory's.
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
      order = decisions.columns(row, chosen,
                                            decisions.LABELS)
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

  def warm_up(self):
    """Runs texts of a few lengths, so that the first real one waits less."""
    with self._served.borrow() as loaded:
      self._warm_up(loaded)

  def _warm_up(self, loaded):
    """The shortest text, and one that is too long; NaN is an error."""
    for text in (u"", u"a " * self.max_seq_length):
      self._run(loaded, self.encode([text]), call_deadline.Deadline())

  def reload(self):
    """Takes over a newer checkpoint, and thresholds that were tuned anew.

    Calls that have begun end on the weights they began with; no call fails or
    waits. For a moment both weights are in memory.

    Returns:
      bool, whether anything was new.

    Raises:
      ValueError: what is there is broken or cannot be, or is another model
        (labels, vocabulary, configuration or length differ); the predictor
        goes on as it was.
    """
    with self._reload_lock:
      trained = trained_model.read(self._model_dir)
      changed = [name for name in _FIXED_SETTINGS
                 if trained.settings[name] != self._settings[name]]
      if changed:
        raise ValueError(
            "model_dir %s has become another model's (%s differs); it needs a "
            "new SessionPredictor." % (
                self._model_dir, changed[0].replace("_sha256", "")))
      checkpoint = self._find_checkpoint()
      with self._served.borrow() as loaded:
        is_newer = (checkpoint, loaded_model.file_identity(
            checkpoint)) != (loaded.checkpoint, loaded.identity)
        if trained.calibration != self._calibration:
          is_newer = True  # the graph is another
        if not is_newer and trained.decision == self.decision:
          return False
      if is_newer:
        self._serve(self._load_and_try(trained, checkpoint))
      self.decision = trained.decision
      return True

  def _serve(self, loaded):
    self._served.replace(loaded)
    self.checkpoint, self.step = loaded.checkpoint, loaded.step

  def _load_and_try(self, trained, checkpoint):
    """Weights that have answered; ValueError if they do not."""
    model = self._model
    if trained.calibration != self._calibration:
      model = loaded_model.InferenceModel(trained, *self._session_arguments)
    loaded = model.load(checkpoint, self._verify_checkpoint)
    try:
      self._warm_up(loaded)
    except FloatingPointError as error:
      loaded.close()
      raise ValueError(str(error))
    except BaseException:
      loaded.close()
      raise
    self._model, self._calibration = model, trained.calibration
    return loaded

  def save_weights(self, prefix):
    """Writes the weights as a checkpoint, without optimizer state."""
    with self._served.borrow() as loaded:
      loaded.save(prefix)

  def close(self):
    """Frees the session; calling it twice does no harm."""
    self._served.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def _as_list(texts):
  """A list of what holds texts in an order: a list, a column, a generator."""
  if isinstance(texts, (str, bytes)):
    raise ValueError("predict takes a list of texts, not one text.")
  kind = type(texts).__name__
  # Iterating over these would give keys, names of columns, or any order.
  if isinstance(texts, (collections.abc.Mapping, collections.abc.Set)):
    raise ValueError("predict takes a list of texts, not a %s." % kind)
  if hasattr(texts, "columns"):  # of pandas, polars, pyarrow
    raise ValueError("predict takes a list of texts or one column of a table, "
                     "such as table[\"text\"], not a whole %s." % kind)
  if not hasattr(texts, "__iter__"):
    raise ValueError("predict takes a list of texts, not %s." % kind)
  if hasattr(texts, "to_pylist"):  # pyarrow's columns hold its own scalars
    return texts.to_pylist()
  return list(texts)


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None,
                        "--output_dir of a training run.")
    flags.DEFINE_integer("batch_size", 32, "Texts a batch.")
    flags.DEFINE_bool(
        "allow_older_checkpoint", False, "Where the best, or newest, "
        "checkpoint is broken, take the newest that is whole.")
    flags.DEFINE_bool(
        "verify_checkpoint", True, "Make sure that the checkpoint is of this "
        "run, as it was written, and that its weights are finite.")
    flags.DEFINE_string(
        "profile", None, "Folder for timelines of a few batches, to be opened "
        "in a browser, and shares by kind of operation.")
  with command_line.flag_group("Labels"):
    predict_files.define_decision_flags()
  with command_line.flag_group("Files"):
    predict_files.define_flags()


def check_flags(flag_values, texts):
  """Raises ValueError for flags that cannot work."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  predict_files.check_decision_flags(flag_values)
  for number, text in enumerate(texts, 1):
    # How Python marks an argument's bytes that are not UTF-8.
    if any("\ud800" <= char <= "\udfff" for char in text):
      raise ValueError("text %d of the command line is not UTF-8." % number)
  predict_files.check_flags(flag_values, texts)


def show_decision(decision):
  """Says on stderr which labels pass, to a person, or where it is no 0.5."""
  if sys.stderr.isatty() or decision != decisions.ORIGINAL_RULE:
    sys.stderr.write("decision: %s\n" % decision.describe())


def main(argv):
  texts = argv[1:]
  check_flags(FLAGS, texts)
  with SessionPredictor(
      FLAGS.model_dir, FLAGS.batch_size,
      allow_older_checkpoint=FLAGS.allow_older_checkpoint,
      verify_checkpoint=FLAGS.verify_checkpoint,
      profile_dir=FLAGS.profile) as predictor:
    decision = predictor.decision_for(
        FLAGS.threshold, FLAGS.top_k, FLAGS.always_one_label)
    if not (FLAGS.output_file or "").endswith(".tsv"):
      show_decision(decision)  # A table of probabilities needs none.
    if FLAGS.input_file:
      predict_files.predict_to_file(predictor, FLAGS, decision)
    elif texts:
      for text in texts:
        predict_files.print_labels(predictor, text, decision)
    else:
      predict_files.ask(predictor, decision)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
