# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes BERT and labels texts from Python: fit, predict, save, load.

  classifier = MultiLabelClassifier("bert_folder", pooling="mean")
  classifier.fit(texts, labels, dev=(dev_texts, dev_labels))
  classifier.predict_labels(["a sentence"])    # [[("a label", 0.97)]]
  classifier.save("model")
  MultiLabelClassifier.load("model").predict(["another one"])

Settings are keywords with the names, defaults and values of the flags of
run_multilabel_classifier.py. All runs in its own graph and session: the program
around keeps its eager execution, its flags, its logging, its signal handlers
and its random numbers.
"""

import collections
import contextlib
import os
import shutil
import tempfile
from typing import Any
from typing import Dict
from typing import List
from typing import Tuple

from absl import flags
import numpy as np

from multilabel import metrics
from multilabel.common import atomic_files
from multilabel.common import command_line
from multilabel.common import host_process
from multilabel.common import settings as run_settings
from multilabel.export import model_card
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import model_settings
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import callbacks as fit_callbacks
from multilabel.training import evaluation
from multilabel.training import finetuning
from predict_session import SessionPredictor
from processors import base
from processors import in_memory
import run_multilabel_classifier


# Flags that are not keywords: the methods and their arguments stand for them.
_NO_KEYWORDS = frozenset([
    # Examples are in memory.
    "data_dir", "task_name", "processor", "text_column", "text_pair_column",
    "label_column", "ignore_columns", "id_column", "label_separator",
    "delimiter", "quoting", "encoding",
    # What is done: fit, predict, evaluate.
    "do_train", "do_eval", "do_test", "do_predict", "allow_older_checkpoint",
    # Files of a script's results.
    "report", "probabilities", "shorten_texts",
    # Machines that a script is started on.
    "cluster_timeout",
    "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master",
    "num_tpu_cores", "iterations_per_loop"])

# Keywords that are not flags.
_OWN_KEYWORDS = {"callbacks": None, "progress": True}

# How `fit` was told to read a table; None where it got none.
_Columns = collections.namedtuple("_Columns", ["text", "text_pair", "labels"])

_MODEL_FILES = (model_settings.BERT_CONFIG_FILE, model_settings.VOCAB_FILE,
                model_settings.LABELS_FILE, run_lock.SETTINGS_FILE)


class MultiLabelClassifier(object):
  """A BERT with its own probability for each label.

  It has scikit-learn's interface, and needs no scikit-learn.

  Attributes, after `fit` or `load`:
    classes_: numpy array of str, the labels in the order of the columns.
    threshold_: float, or list of one per label: minimum probability of a label;
      or "expected_f1".
    dev_results_: dict of scores on dev, with thresholds and 95% intervals, as
      in eval_results.txt; None without dev.
  """

  _estimator_type = "classifier"  # scikit-learn before 1.6 asks so

  def __init__(self, encoder=None, callbacks=None, progress=True, **settings):
    """Takes settings; nothing is read yet.

    Args:
      encoder: str, a folder with a pre-trained BERT (of google-research/bert's
        form, of Hugging Face's, or a trained directory), or a hub's name.
      callbacks: list of objects with `on_step(step, values)`,
        `on_evaluation(step, values)`, `on_end(result)`, or some of them; or of
        "mlflow" and "wandb".
      progress: bool, whether a bar shows how far training is.
      **settings: flags of run_multilabel_classifier.py by name, such as
        `learning_rate=3e-4`; `MultiLabelClassifier.defaults()` lists them. With
        `output_dir` the run stays there, and one that was stopped continues;
        without, it is made in a temporary directory, and the weights are in
        memory as long as this object lives.

    Raises:
      ValueError: there is no such setting, or a value is invalid.
    """
    self._keywords = {}
    self._reset()
    keywords = dict(settings, encoder=encoder, callbacks=callbacks,
                    progress=progress)
    defaults = self.defaults()
    if set(keywords) == set(defaults):
      # All at once are `get_params` of another one: what is as by default was
      # not set there (scikit-learn before 1.3 clones so).
      settings = {name: value for name, value in settings.items()
                  if name in defaults and value != defaults[name]}
    self.set_params(encoder=encoder, callbacks=callbacks, progress=progress,
                    **settings)

  def _reset(self):
    self._predictor = None
    self._model_files = {}
    self._columns = _Columns(None, None, None)
    self.classes_ = self.threshold_ = self.dev_results_ = None

  def __repr__(self):
    return "MultiLabelClassifier(%s)" % ", ".join(
        "%s=%r" % (name, value) for name, value in self._keywords.items()
        if (name, value) not in (
            ("encoder", None), ("callbacks", None), ("progress", True)))

  @staticmethod
  def defaults():
    """All keywords of the constructor with their defaults: dict."""
    flag_values, names = _flags()
    return dict({name: flag_values[name].default for name in names},
                **_OWN_KEYWORDS)

  def get_params(self, deep: bool = True) -> Dict[str, Any]:
    """All keywords with their values: dict."""
    del deep
    return dict(self.defaults(), **self._keywords)

  def set_params(self, **params) -> "MultiLabelClassifier":
    """Changes keywords, for the next `fit`; returns this object.

    Raises:
      ValueError: there is no such keyword, or a value is invalid.
    """
    defaults = self.defaults()
    for name in sorted(params):
      if name not in defaults:
        raise ValueError("MultiLabelClassifier has no setting %s%s." % (
            name, run_settings.nearest(name, defaults) or
            "; MultiLabelClassifier.defaults() lists them"))
    keywords = dict(self._keywords, **params)
    _make_settings(keywords)
    self._keywords = keywords
    return self

  def __sklearn_clone__(self):
    return type(self)(**self._keywords)

  def __sklearn_is_fitted__(self):
    return self._predictor is not None

  def __sklearn_tags__(self):
    # pylint: disable=g-import-not-at-top
    from sklearn import utils  # it is scikit-learn that asks
    return utils.Tags(
        estimator_type="classifier",
        target_tags=utils.TargetTags(required=True, multi_output=True),
        classifier_tags=utils.ClassifierTags(multi_label=True),
        input_tags=utils.InputTags(string=True, two_d_array=False))

  def fit(self, texts, labels=None, dev=None, text=None, text_pair=None,
          label_names=None) -> "MultiLabelClassifier":
    """Trains from scratch, starting from the encoder.

    Args:
      texts: list, tuple, array or column of str, or of pairs (str, str); or a
        table, with `text`.
      labels: for each text a list or set of names; or 0 and 1, `[num_texts,
        num_labels]`, as an array, a scipy sparse matrix, or a table whose
        columns are labels. With `text`: a list of columns of 0 and 1, or one
        column of lists of names.
      dev: (texts, labels) of these forms, or with `text` a table, to evaluate
        on while training, to choose the best checkpoint and, with
        threshold="tune" and its like, to find thresholds.
      text, text_pair: str, columns of the text, and of the second one of a
        pair, in a table.
      label_names: list of str, the labels in the order of the columns.

    Returns:
      this object.

    Raises:
      ValueError: invalid data or settings.
      KeyboardInterrupt: Ctrl-C. What was trained until then can predict.
      TimeoutError: `max_runtime` is over; the same holds.
    """
    if text is None and text_pair is not None:
      raise ValueError("text_pair needs text, the column of the first text.")
    if text is not None and not in_memory.is_table(texts):
      raise ValueError(
          "text=%r names a column, but texts is not a table." % text)
    data = self._read_fit_data(texts, labels, dev, _Columns(
        text, text_pair, labels if text is not None else None), label_names)
    settings = _make_settings(
        self._keywords, do_train=True, do_eval="dev" in data.parts)
    observer = fit_callbacks.FitObserver(self._keywords["callbacks"],
                                         self._keywords["progress"])
    with host_process.undisturbed_logging(), _folder(settings) as output_dir:
      run = finetuning.Finetuning(
          settings.replace(output_dir=output_dir),
          run_multilabel_classifier.model_fn_builder,
          in_memory.InMemoryProcessor(data.names, data.parts), observer)
      try:
        observer.begin(self._given())
        _train(run)
      except (command_line.Interrupted, command_line.OutOfTime,
              KeyboardInterrupt) as stopped:
        self._take_unfinished(run, data.columns)
        if isinstance(stopped, command_line.OutOfTime):
          raise TimeoutError(str(stopped)) from None
        raise KeyboardInterrupt(str(stopped)) from None
      else:
        self._take(output_dir, data.columns, run.results.get("dev"))
        observer.on_end(self.dev_results_ or {})
      finally:
        observer.close()
    return self

  def _given(self):
    """What was set, for callbacks: dict."""
    return {name: value for name, value in self._keywords.items()
            if name not in ("callbacks", "progress")}

  def _read_fit_data(self, texts, labels, dev, columns, label_names):
    """`_Data` of the arguments of `fit`."""
    data = _Data(columns)
    data.add("train", texts, labels, label_names)
    fraction = _make_settings(self._keywords).dev_fraction
    if dev is not None:
      if fraction:
        raise ValueError("dev_fraction=%s splits a dev set off train, but dev "
                         "is given as well; use only one of them." % fraction)
      if columns.text is not None and in_memory.is_table(dev):
        dev = (dev, columns.labels)
      if not isinstance(dev, (tuple, list)) or len(dev) != 2:
        raise ValueError("dev must be a pair (texts, labels)%s." % (
            "" if columns.text is None else ", or a table like train"))
      data.add("dev", dev[0], dev[1], data.names)
    elif fraction:
      data.split(fraction)
    return data

  def _take_unfinished(self, run, columns):
    """Predicts with what a run that was stopped has left, if it is anything."""
    output_dir = run.settings.output_dir
    if not run_lock.is_trained(output_dir):
      return
    checkpoint = checkpoint_choice.prediction_checkpoint(output_dir)
    if checkpoint and checkpoint_files.checkpoint_step(checkpoint):
      self._take(output_dir, columns, None)

  def _take(self, model_dir, columns=None, dev_results=None):
    """Loads a trained directory."""
    predictor = SessionPredictor(
        model_dir, _make_settings(self._keywords).predict_batch_size)
    self._predictor = predictor
    self._model_files = {}
    for name in _MODEL_FILES + (model_card.CARD_FILE,):
      path = os.path.join(model_dir, name)
      if name in _MODEL_FILES or os.path.isfile(path):
        with open(path, "rb") as reader:
          self._model_files[name] = reader.read()
    self._columns = columns or _Columns(None, None, None)
    self.classes_ = np.array(predictor.labels)
    self.threshold_ = predictor.threshold
    self.dev_results_ = dev_results

  def _fitted(self):
    """The predictor; ValueError before `fit`."""
    if self._predictor is None:
      raise ValueError("this MultiLabelClassifier is not fitted yet; call fit "
                       "first, or load a model.")
    return self._predictor

  def _texts(self, texts):
    """The texts of what `predict` takes."""
    return in_memory.read_texts(_take_columns(texts, None, self._columns)[0])

  def predict_proba(self, texts) -> np.ndarray:
    """Returns the probability of each label for each text.

    Args:
      texts: as for `fit`; of a table like that of `fit`, its column of texts.

    Returns:
      float32 `[num_texts, num_labels]`.
    """
    predictor = self._fitted()
    with host_process.undisturbed_logging():
      return predictor.predict(self._texts(texts))

  def predict(self, texts) -> np.ndarray:
    """Returns which labels each text has: 0 and 1, `[num_texts, num_labels]`.
    """
    return self._decide(self.predict_proba(texts)).astype(np.int64)

  def _decide(self, probabilities):
    """bool `[num_texts, num_labels]`."""
    if not len(probabilities):  # pylint: disable=g-explicit-length-test
      return np.zeros(probabilities.shape, np.bool_)
    return self._predictor.decision.apply(probabilities)

  def predict_labels(self, texts) -> List[List[Tuple[str, float]]]:
    """Returns the labels of each text.

    Returns:
      list, one per text, of lists of (label, probability), most probable first.
    """
    return [one.labels for one in self._fitted().describe(
        self.predict_proba(texts))]

  def score(self, texts, labels=None) -> float:
    """Returns micro-F1 by the model's decision rule: float."""
    labels, probabilities = self._outputs(texts, labels)
    return metrics.threshold_metrics(
        labels, self._decide(probabilities))["micro_f1"]

  def evaluate(self, texts, labels=None) -> Dict[str, float]:
    """Returns all metrics.

    Args:
      texts: as for `predict_proba`.
      labels: as for `fit`; columns in the order of `classes_`. None: those
        columns of a table that `fit` took.

    Returns:
      OrderedDict of the keys of eval_results.txt but `loss`.
    """
    outputs = evaluation.Outputs(float("nan"), *self._outputs(texts, labels))
    with host_process.undisturbed_logging():
      result = evaluation.results(outputs, self._predictor.decision,
                                  self._predictor.labels)
    del result["loss"]
    return result

  def _outputs(self, texts, labels):
    """(bool labels, float32 probabilities), `[num_texts, num_labels]`."""
    names = self._fitted().labels
    if labels is None:
      labels = self._columns.labels
    texts, labels = _take_columns(texts, labels, self._columns)
    in_memory.check_index(texts, labels)
    _, rows = in_memory.read_labels(labels, names)
    probabilities = self.predict_proba(texts)
    _check_lengths("texts", probabilities, rows)
    if not rows:
      raise ValueError("there are no texts to score.")
    return in_memory.to_matrix(rows, names), probabilities

  def save(self, path: str) -> None:
    """Writes the model: a directory for `load` and all programs here.

    Args:
      path: str, a new or empty directory.

    Raises:
      ValueError: there is something else.
    """
    self._fitted()
    path = os.fspath(path)
    if os.path.lexists(path) and (
        not os.path.isdir(path) or os.listdir(path)):
      raise ValueError("%s exists and is not an empty directory; save the "
                       "model to another one." % path)
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    work_dir = tempfile.mkdtemp(prefix=".saving-", dir=parent)
    try:
      inner = os.path.join(work_dir, "model")
      os.mkdir(inner)  # mkdtemp lets nobody else in
      self._write(inner)
      os.rename(inner, path)
    finally:
      shutil.rmtree(work_dir, ignore_errors=True)

  def _write(self, folder):
    """Writes the files of a model into an empty folder."""
    for name, content in self._model_files.items():
      with atomic_files.replacing(os.path.join(folder, name)) as writer:
        writer.write(content)
    prefix = os.path.join(folder, "%s-%d" % (
        checkpoint_files.PREFIX, self._predictor.step))
    self._predictor.save_weights(prefix)
    identity = trained_model.read(folder).identity
    checkpoint_files.finish(prefix, identity.fingerprint, {})

  @classmethod
  def load(cls, path: str) -> "MultiLabelClassifier":
    """Reads a model that `save` or a training run wrote.

    Args:
      path: str, a directory.

    Returns:
      `MultiLabelClassifier` that can predict, and `fit` with the settings of
      the run.

    Raises:
      ValueError: it is not a complete model.
    """
    with host_process.undisturbed_logging():
      trained = trained_model.read(os.fspath(path))
      defaults = cls.defaults()
      there = dict(trained.settings.get("flags") or {})
      if there.get("encoder"):
        for name in ("bert_config_file", "vocab_file", "init_checkpoint"):
          there.pop(name, None)
      classifier = cls(**{
          name: value for name, value in there.items()
          if name in defaults and name != "output_dir" and
          value != defaults[name]})
      classifier._take(trained.path)
    return classifier

  def __getstate__(self):
    state = dict(self.__dict__, _predictor=None)
    if self._predictor is not None:
      with tempfile.TemporaryDirectory() as folder:
        self._write(folder)
        state["_weights"] = {}
        for name in os.listdir(folder):
          if name not in self._model_files:
            with open(os.path.join(folder, name), "rb") as reader:
              state["_weights"][name] = reader.read()
    return state

  def __setstate__(self, state):
    weights = state.pop("_weights", None)
    self.__dict__.update(state)
    if weights is None:
      return
    with tempfile.TemporaryDirectory() as folder:
      for name, content in dict(self._model_files, **weights).items():
        with open(os.path.join(folder, name), "wb") as writer:
          writer.write(content)
      with host_process.undisturbed_logging():
        self._take(folder, self._columns, self.dev_results_)


class _Data(object):
  """The examples of `fit`: label names, and parts of (texts, labels)."""

  def __init__(self, columns):
    self.columns = columns
    self.names = None
    self.parts = {}

  def add(self, part, texts, labels, label_names):
    """Adds "train" or "dev"."""
    texts, labels = _take_columns(texts, labels, self.columns)
    in_memory.check_index(texts, labels, part)
    texts = in_memory.read_texts(texts, "texts of " + part)
    if labels is None:
      raise ValueError("%s has no labels; fit needs them." % part)
    names, rows = in_memory.read_labels(labels, label_names,
                                        "labels of " + part)
    _check_lengths(part, texts, rows)
    self._check(part, rows)
    self.names = self.names or names
    self.parts[part] = (texts, rows)

  def _check(self, part, rows):
    if not rows:
      raise ValueError("%s has no texts." % part)
    if not any(rows):
      raise ValueError("none of the %d texts of %s has a label." % (
          len(rows), part))

  def split(self, fraction):
    """Moves a share of train to dev, by a hash of the text."""
    sides = {"train": ([], []), "dev": ([], [])}
    for text, labels in zip(*self.parts["train"]):
      key = text if isinstance(text, str) else text[0]
      side = sides["dev" if base.in_split(key, fraction) else "train"]
      side[0].append(text)
      side[1].append(labels)
    for part, (_, rows) in sides.items():
      self._check(part, rows)
    self.parts = sides


def _flags():
  """(`flags.FlagValues`, names of the flags that are keywords)."""
  values = flags.FlagValues()
  run_multilabel_classifier.define_flags(values)
  return values, [name for name in values if name not in _NO_KEYWORDS]


def _make_settings(keywords, **changes):
  """`Settings` of a run from keywords; `changes` are not keywords."""
  values, names = _flags()
  return run_settings.Settings.from_keywords(
      values, list(values), dict(
          {name: value for name, value in keywords.items() if name in names},
          **changes))


@contextlib.contextmanager
def _folder(settings):
  """The directory of a run: the user's, or one for the time being."""
  if settings.output_dir:
    yield settings.output_dir
    return
  with tempfile.TemporaryDirectory(prefix="bert-multilabel-") as folder:
    yield folder


def _train(run):
  """All steps of a run."""
  with run.claim():
    run.read_examples()
    run.write_features()
    with run.start():
      run.train()
      if run.settings.do_eval:
        run.evaluate("dev")
      run.store_decision()
    run.write_card()


def _take_columns(texts, labels, columns):
  """(texts, labels), those of a table by the names of its columns."""
  if columns.text is None or not in_memory.is_table(texts):
    return texts, labels
  table = texts
  if isinstance(labels, str):
    labels = in_memory.column(table, labels, "labels")
  elif isinstance(labels, (list, tuple)) and labels and all(
      isinstance(label, str) for label in labels):
    labels = in_memory.columns(table, labels, "labels")
  texts = in_memory.column(table, columns.text, "text")
  if columns.text_pair is not None:
    texts = list(zip(texts, in_memory.column(table, columns.text_pair,
                                             "text_pair")))
  return texts, labels


def _check_lengths(part, texts, rows):
  if len(texts) != len(rows):
    raise ValueError("%s: %d texts, but labels for %d." % (
        part, len(texts), len(rows)))
