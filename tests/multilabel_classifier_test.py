# SPDX-License-Identifier: Apache-2.0
"""`MultiLabelClassifier`: fit, predict, save and load from Python."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap

from absl import flags
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model

from multilabel_classifier import _NO_KEYWORDS
from multilabel_classifier import MultiLabelClassifier
import run_multilabel_classifier

TRAIN = tiny_bert.make_rows(120, 1)
DEV = tiny_bert.make_rows(40, 2, "dev")
# With these it learns the data well.
SETTINGS = dict(pooling="mean", learning_rate=0.015, num_train_epochs=6,
                max_seq_length=32, train_batch_size=8, progress=False)
NAMES = sorted(tiny_bert.LABELS)


def texts(rows):
  return [row["text"] for row in rows]


def labels(rows):
  return [row["labels"] for row in rows]


def matrix(rows, names):
  """0 and 1 by hand."""
  return np.array([[int(name in row["labels"]) for name in names]
                   for row in rows])


@pytest.fixture(scope="module")
def fitted(bert):
  classifier = MultiLabelClassifier(bert, **SETTINGS)
  assert classifier.fit(texts(TRAIN), labels(TRAIN),
                        dev=(texts(DEV), labels(DEV))) is classifier
  return classifier


def micro_f1(truth, given):
  return 2 * np.sum(truth & given) / (np.sum(truth) + np.sum(given))


def test_what_it_predicts(fitted):
  assert fitted.classes_.tolist() == NAMES
  truth = matrix(DEV, NAMES)
  probabilities = fitted.predict_proba(texts(DEV))
  assert probabilities.dtype == np.float32
  assert probabilities.shape == truth.shape
  given = fitted.predict(texts(DEV))
  np.testing.assert_array_equal(given, (probabilities >= 0.5).astype(int))
  expected = micro_f1(truth, given)
  assert expected > 0.8  # it has learnt
  assert fitted.score(texts(DEV), labels(DEV)) == pytest.approx(expected)
  assert fitted.dev_results_["micro_f1"] == pytest.approx(expected)
  scores = fitted.evaluate(texts(DEV), labels(DEV))
  assert scores["micro_f1"] == pytest.approx(expected)
  assert scores["f1/fruit"] == pytest.approx(
      micro_f1(truth[:, :1], given[:, :1]))
  for row, named in zip(probabilities, fitted.predict_labels(texts(DEV))):
    assert named == [(NAMES[i], float(row[i])) for i in np.argsort(-row)
                     if row[i] >= 0.5]
  assert fitted.predict([]).shape == (0, 3)
  assert fitted.predict_proba([("the apple", "we see")]).shape == (1, 3)


def test_its_weights_are_those_of_the_program(bert, fitted, tmp_path):
  """Flags and keywords of the same values give the same model."""
  data = tmp_path / "data"
  data.mkdir()
  tiny_bert.write_jsonl(data / "train.jsonl", TRAIN)
  tiny_bert.write_jsonl(data / "dev.jsonl", DEV)
  tiny_bert.write_text(data / "labels.txt", "".join(
      name + "\n" for name in NAMES))
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, tmp_path / "run", do_eval=True,
          **{name: SETTINGS[name] for name in SETTINGS if name != "progress"}))
  assert status == 0, stderr
  there = MultiLabelClassifier.load(tmp_path / "run")
  np.testing.assert_array_equal(there.predict_proba(texts(DEV)),
                                fitted.predict_proba(texts(DEV)))


@pytest.mark.parametrize("way", ["load", "pickle"])
def test_a_copy_is_equal(bert, fitted, tmp_path, way):
  if way == "load":
    fitted.save(tmp_path / "new" / "model")
    copy = MultiLabelClassifier.load(tmp_path / "new" / "model")
    params = copy.get_params()
    assert (params["learning_rate"], params["encoder"]) == (0.015, bert)
    with pytest.raises(ValueError, match="not an empty directory"):
      fitted.save(tmp_path / "new" / "model")
    assert "micro-F1" in (tmp_path / "new" / "model" /
                          "model_card.md").read_text(encoding="utf-8")
    # Weights, and nothing of the optimizer.
    prefix, = [path for path in (tmp_path / "new" / "model").iterdir()
               if path.suffix == ".index"]
    names = set(tiny_bert.read_weights(str(prefix)[:-len(".index")]))
    assert "output_bias" in names
    assert not [name for name in names if "adam" in name]
  else:
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.dev_results_ == fitted.dev_results_
  assert copy.classes_.tolist() == NAMES
  np.testing.assert_array_equal(copy.predict_proba(texts(DEV)),
                                fitted.predict_proba(texts(DEV)))


@pytest.mark.newest
def test_tables(bert):
  pandas = pytest.importorskip("pandas")
  frame = pandas.DataFrame(dict(
      {name: matrix(TRAIN, NAMES)[:, i] for i, name in enumerate(NAMES)},
      words=texts(TRAIN), more=["we see"] * len(TRAIN)))
  classifier = MultiLabelClassifier(bert, **dict(SETTINGS, num_train_epochs=1))
  classifier.fit(frame, text="words", text_pair="more", labels=NAMES,
                 dev=frame[:40])
  assert classifier.dev_results_["num_examples"] == 40
  assert classifier.classes_.tolist() == NAMES
  np.testing.assert_array_equal(
      classifier.predict_proba(frame), classifier.predict_proba(
          [(text, "we see") for text in texts(TRAIN)]))
  assert classifier.score(frame[:40]) == classifier.dev_results_["micro_f1"]
  for arguments, message in (
      (dict(text="word", labels=NAMES), "text='word' is no column.*words"),
      (dict(text="words", labels=["fruit", "x"]), "labels='x' is no column"),
      (dict(labels=labels(TRAIN)), "table of 5 columns.*text="),
      (dict(text_pair="more", labels=NAMES), "text_pair needs text")):
    with pytest.raises(ValueError, match=message):
      classifier.fit(frame, **arguments)


@pytest.mark.parametrize("arguments, message", [
    (("one text", [["a"]]), "list of texts, not one"),
    ((["a", None], [["x"], ["y"]]), "number 1 is missing"),
    ((["a", float("nan")], [["x"], ["y"]]), "number 1 is missing"),
    ((["a", 5], [["x"], ["y"]]), "number 1 is int"),
    ((["a"], ["x"]), r"number 0 is .x.*write \[.x.\]"),
    ((["a"], [[3, "x"]]), "number 0 has 3 among its labels"),
    ((["a"], [["x", ""]]), "empty label"),
    ((["a"], [["x"], ["y"]]), "1 texts, but labels for 2"),
    ((["a"], np.array([[0, 2]])), "number 0 has 2 for label .1"),
    ((["a"], np.array([[0, np.nan]])), "number 0 has nan for label .1"),
    ((["a"], [[]]), "none of the 1 texts of train has a label"),
    (([], []), "train has no texts"),
    ((["a"], None), "has no labels"),
    ((["a"], [["x"]], [["b"], [["x"]], 3]), "dev must be a pair"),
    ((["a"], [["x"]], (["b"], [["z"]])), "labels of dev.*z.*not one of"),
])
def test_data_that_cannot_be(bert, arguments, message):
  with pytest.raises(ValueError, match=message):
    MultiLabelClassifier(bert).fit(*arguments)


def test_every_flag_is_a_keyword_or_named_as_none():
  values = flags.FlagValues()
  run_multilabel_classifier.define_flags(values)
  assert _NO_KEYWORDS - set(values) <= {"shorten_texts", "cluster_timeout"}
  defaults = MultiLabelClassifier.defaults()
  assert {name: values[name].default for name in values
          if name not in _NO_KEYWORDS} == {
              name: value for name, value in defaults.items()
              if name in values}
  assert "learning_rate" in defaults and "data_dir" not in defaults


@pytest.mark.parametrize("settings, message", [
    ({"learning_rat": 1}, "no setting learning_rat; did you mean learning_r"),
    ({"data_dir": "x"}, "no setting data_dir"),
    ({"pooling": "max"}, "pooling='max'.*one of pooler, cls, mean"),
    ({"learning_rate": "fast"}, "learning_rate='fast'.*a number"),
    ({"train_batch_size": 2.5}, "train_batch_size=2.5.*a whole number"),
    ({"train_batch_size": None}, "train_batch_size=None"),
    ({"amp": "yes"}, "amp='yes'.*True or False"),
])
def test_settings_that_cannot_be(settings, message):
  with pytest.raises(ValueError, match=message):
    MultiLabelClassifier("x", **settings)
  with pytest.raises(ValueError, match=message):
    MultiLabelClassifier("x").set_params(**settings)


def test_settings_that_do_not_go_together(bert):
  with pytest.raises(ValueError, match="focal_gamma needs --loss=focal"):
    MultiLabelClassifier(bert, focal_gamma=1.0).fit(["a"], [["x"]])
  with pytest.raises(ValueError, match="patience needs evaluation"):
    MultiLabelClassifier(bert, early_stopping_patience=2).fit(["a"], [["x"]])
  with pytest.raises(ValueError, match="not fitted yet"):
    MultiLabelClassifier(bert).predict(["a"])


@pytest.mark.newest
def test_scikit_learn(bert, tmp_path):
  sklearn_base = pytest.importorskip("sklearn.base")
  from sklearn import model_selection
  from sklearn import pipeline
  from sklearn import preprocessing
  import joblib
  classifier = MultiLabelClassifier(bert, **SETTINGS)
  clone = sklearn_base.clone(classifier)
  assert clone is not classifier
  assert clone.get_params() == classifier.get_params()
  cells = matrix(TRAIN, NAMES)
  search = model_selection.GridSearchCV(
      classifier, {"learning_rate": [0.015, 1e-7]}, cv=2,
      scoring=["f1_micro", "average_precision"], refit="f1_micro")
  search.fit(np.array(texts(TRAIN)), cells)
  assert search.best_params_ == {"learning_rate": 0.015}
  for score in ("mean_test_f1_micro", "mean_test_average_precision"):
    assert search.cv_results_[score][0] > 0.2
  # What was not set stays so: a loss's own settings go with that loss alone.
  piped = pipeline.Pipeline([
      ("upper", preprocessing.FunctionTransformer(
          lambda all_texts: [text.upper() for text in all_texts])),
      ("bert", MultiLabelClassifier(**classifier.get_params()))])
  piped.set_params(bert__num_train_epochs=1)
  assert piped.fit(texts(TRAIN), cells).predict(texts(DEV)).shape == (40, 3)
  path = str(tmp_path / "model.joblib")
  joblib.dump(search.best_estimator_, path)
  np.testing.assert_array_equal(joblib.load(path).predict_proba(texts(DEV)),
                                search.predict_proba(texts(DEV)))
  unfitted = pickle.loads(pickle.dumps(classifier))
  assert unfitted.get_params() == classifier.get_params()


@pytest.mark.newest
def test_output_dir_is_a_run_that_goes_on(bert, tmp_path):
  folder = str(tmp_path / "run")
  settings = dict(SETTINGS, num_train_epochs=1, output_dir=folder)
  first = MultiLabelClassifier(bert, **settings).fit(texts(TRAIN),
                                                     labels(TRAIN))
  before = sorted(os.listdir(folder))
  again = MultiLabelClassifier(bert, **settings).fit(texts(TRAIN),
                                                     labels(TRAIN))
  assert sorted(os.listdir(folder)) == before
  np.testing.assert_array_equal(first.predict_proba(texts(DEV)),
                                again.predict_proba(texts(DEV)))
  with pytest.raises(ValueError, match="other settings: train_data"):
    again.fit(texts(DEV), labels(DEV))
  with open(os.path.join(folder, "model_settings.json")) as reader:
    assert json.load(reader)["run"]["num_train_epochs"] == 1


class Recorder(object):
  """A callback."""

  def __init__(self, interrupt_at=None):
    self.calls = []
    self.interrupt_at = interrupt_at

  def on_step(self, step, values):
    self.calls.append(("step", step, values))
    if step == self.interrupt_at:
      os.kill(os.getpid(), signal.SIGINT)

  def on_evaluation(self, step, values):
    self.calls.append(("evaluation", step, values))

  def on_end(self, result):
    self.calls.append(("end", None, result))


@pytest.mark.newest
def test_callbacks(bert):
  recorder = Recorder()
  classifier = MultiLabelClassifier(
      bert, callbacks=[recorder], eval_steps=10,
      **dict(SETTINGS, num_train_epochs=2)).fit(
          texts(TRAIN), labels(TRAIN), dev=(texts(DEV), labels(DEV)))
  steps = [step for kind, step, _ in recorder.calls if kind == "step"]
  assert steps == list(range(1, 31))  # 120 texts, 8 a step, twice
  first = recorder.calls[0][2]
  assert set(first) == {"loss", "learning_rate", "grad_norm"}
  assert all(type(value) is float for value in first.values())
  assert [step for kind, step, _ in recorder.calls
          if kind == "evaluation"] == [10, 20, 30]
  assert recorder.calls[-1] == ("end", None, classifier.dev_results_)
  with pytest.raises(ValueError, match="there is no callback tensorboard"):
    MultiLabelClassifier(bert, callbacks=["tensorboard"]).fit(["a"], [["x"]])
  with pytest.raises(ValueError, match="none of the methods on_begin, on_step"):
    MultiLabelClassifier(bert, callbacks=[object()]).fit(["a"], [["x"]])


@pytest.mark.newest
def test_mlflow(bert, tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  before = mlflow.get_tracking_uri()
  mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
  try:
    classifier = MultiLabelClassifier(
        bert, callbacks=["mlflow"], **dict(SETTINGS, num_train_epochs=2)).fit(
            texts(TRAIN), labels(TRAIN), dev=(texts(DEV), labels(DEV)))
    assert mlflow.active_run() is None  # its own is over
    run, = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.015"
    assert run.data.metrics["final/micro_f1"] == pytest.approx(
        classifier.dev_results_["micro_f1"])
    client = mlflow.MlflowClient()
    assert [point.step for point in client.get_metric_history(
        run.info.run_id, "dev/micro_f1")] == [15, 30]
    assert [point.step for point in client.get_metric_history(
        run.info.run_id, "loss")] == [1, 10, 20, 30]
  finally:
    mlflow.set_tracking_uri(before)


@pytest.mark.newest
def test_ctrl_c_leaves_what_was_trained(bert):
  handler = signal.getsignal(signal.SIGINT)
  classifier = MultiLabelClassifier(bert, callbacks=[Recorder(7)], **SETTINGS)
  with pytest.raises(KeyboardInterrupt):
    classifier.fit(texts(TRAIN), labels(TRAIN))
  assert signal.getsignal(signal.SIGINT) is handler
  assert classifier.predict(texts(DEV)).shape == (40, 3)
  # Before the first step there is nothing; a classifier of before stays.
  before = classifier.predict_proba(texts(DEV))
  classifier.set_params(callbacks=None, max_runtime=60)
  classifier.fit(texts(TRAIN), labels(TRAIN))
  assert np.abs(classifier.predict_proba(texts(DEV)) - before).max() > 0.01


@pytest.mark.newest
def test_dev_fraction_splits_train(bert):
  classifier = MultiLabelClassifier(
      bert, dev_fraction=0.3, **dict(SETTINGS, num_train_epochs=1)).fit(
          texts(TRAIN), labels(TRAIN))
  assert 20 < classifier.dev_results_["num_examples"] < 52
  with pytest.raises(ValueError, match="dev_fraction.*but dev"):
    classifier.fit(texts(TRAIN), labels(TRAIN),
                   dev=(texts(DEV), labels(DEV)))


@pytest.mark.newest
def test_thresholds_are_found_and_kept(bert, tmp_path):
  classifier = MultiLabelClassifier(
      bert, threshold="tune_per_label",
      **dict(SETTINGS, num_train_epochs=2)).fit(
          texts(TRAIN), labels(TRAIN), dev=(texts(DEV), labels(DEV)))
  assert len(classifier.threshold_) == 3
  probabilities = classifier.predict_proba(texts(DEV))
  np.testing.assert_array_equal(
      classifier.predict(texts(DEV)),
      probabilities >= np.array(classifier.threshold_, np.float32))
  classifier.save(tmp_path / "model")
  assert MultiLabelClassifier.load(
      tmp_path / "model").threshold_ == classifier.threshold_


def test_probabilities_are_those_of_bert(tmp_path):
  """Against BERT in numpy."""
  weights = tiny_model.make(tmp_path / "model")
  classifier = MultiLabelClassifier.load(tmp_path / "model")
  np.testing.assert_allclose(
      classifier.predict_proba(["the apple is", "we see"]),
      tiny_model.probabilities(weights, [
          tiny_model.encode("the apple is"), tiny_model.encode("we see")]),
      atol=1e-5)


_HOST = """
    import logging, os, random, signal, sys, threading
    import numpy as np
    import tensorflow as tf
    from absl import flags
    import tiny_bert
    from multilabel_classifier import MultiLabelClassifier

    def state():
      loggers = {name: (logger.level, list(logger.handlers), logger.propagate)
                 for name, logger in logging.root.manager.loggerDict.items()
                 if isinstance(logger, logging.Logger)}
      absl = loggers.pop("absl", None)
      return {
          "eager": tf.executing_eagerly(),
          "graph": tf.compat.v1.get_default_graph().version
                   if not tf.executing_eagerly() else None,
          "handlers": list(logging.root.handlers),
          "level": logging.root.level, "tensorflow": loggers.get("tensorflow"),
          "absl": absl, "parsed": flags.FLAGS.is_parsed(),
          "flags": sorted(flags.FLAGS),
          "signals": [signal.getsignal(number) for number in (
              signal.SIGINT, signal.SIGTERM)],
          "random": random.getstate(),
          "numpy": str(np.random.get_state()),
          "environment": dict(os.environ), "argv": list(sys.argv),
          "hook": sys.excepthook, "threads": threading.active_count()}

    tf.random.set_seed(1)
    weight = tf.Variable(3.0)
    random.seed(3); np.random.seed(4)
    signal.signal(signal.SIGTERM, lambda *unused: None)
    before = state()
    rows = tiny_bert.make_rows(40, 1)
    texts = [row["text"] for row in rows]
    labels = [row["labels"] for row in rows]
    first, second = [
        MultiLabelClassifier(sys.argv[1], max_seq_length=length,
                             learning_rate=rate, train_batch_size=8,
                             num_train_epochs=1).fit(texts, labels)
        for length, rate in ((16, 1e-2), (32, 1e-3))]
    one = first.predict_proba(texts)
    two = second.predict_proba(texts)
    assert np.abs(one - two).max() > 1e-4
    assert np.array_equal(one, first.predict_proba(texts))
    first.fit(texts, labels)
    assert np.array_equal(one, first.predict_proba(texts))
    after = state()
    for name in before:
      assert before[name] == after[name], (name, before[name], after[name])
    expected = float(tf.random.uniform([]))
    tf.random.set_seed(1)
    assert expected == float(tf.random.uniform([]))
    with tf.GradientTape() as tape:
      loss = weight * weight
    assert float(tape.gradient(loss, weight)) == 6.0
    print("as it was")
"""


@pytest.mark.skipif(tf.__version__.startswith("1."), reason="nothing is eager")
def test_the_process_around_stays_as_it_was(bert):
  process = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(_HOST), bert],
      cwd=tiny_bert.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=dict(os.environ, PYTHONPATH=os.pathsep.join(
          [tiny_bert.ROOT, os.path.join(tiny_bert.ROOT, "tests")])))
  assert process.stdout == b"as it was\n", process.stderr.decode()[-3000:]
