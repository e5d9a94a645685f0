# SPDX-License-Identifier: Apache-2.0
"""The baselines that a fine-tuned model must pass.

  python -m experiments.baseline_tfidf --data_dir=DIR --output_dir=OUT

scores two on test, by the same code as the model:

- label prior: every text gets each label's share in train as its probability;
- TF-IDF and logistic regression (C=10), one per label, over words and pairs of
  words with sublinear term frequency, trained on all of train. For languages
  that do not put spaces between words, --analyzer=char takes runs of one to
  three characters instead.

Scores are those at a threshold of 0.5, at the one that is best on dev (micro
F1), and at one a label that is best on dev. OUT gets

  results.json            the scores, the settings and the versions
  test_results.tsv        TF-IDF: one row an example, one probability per label
  test_predictions.jsonl  the same with names, texts and true labels, decided
                          at 0.5, for `experiments.compare_runs`

Needs scikit-learn (extra `demo`). It reads whatever `--task_name` of
`run_multilabel_classifier.py` reads.
"""

import argparse
import collections
import json
import os
import sys
import time

import numpy as np

from experiments import prediction_output
from multilabel import decisions
from multilabel import metrics
from multilabel.common import atomic_files
import processors


REGULARIZATION = 10.0  # C of the logistic regression: larger is weaker
NGRAMS = {"word": (1, 2), "char": (1, 3)}

HEADLINE = ("micro_f1", "macro_f1", "macro_average_precision")

# ids, texts: lists of N str; labels: uint8 [N, L], multi-hot.
Part = collections.namedtuple("Part", ["ids", "texts", "labels", "shown"])


def load_part(examples, label_names, part):
  """Turns examples into texts and a multi-hot array.

  Args:
    examples: iterable of `InputExample`.
    label_names: list of str.
    part: "train", "dev" or "test", for the message.

  Returns:
    `Part`; the texts of a pair are joined by a space, `shown` has them as
    files of predictions do.

  Raises:
    ValueError: there is none, one has no labels or an unknown label.
  """
  index = {name: i for i, name in enumerate(label_names)}
  ids, texts, shown, rows = [], [], [], []
  for example in examples:
    if example.labels is None:
      raise ValueError("%s example %s has no labels, which the baseline needs "
                       "for scoring." % (part, example.guid))
    for name in example.labels:
      if name not in index:
        raise ValueError("%s example %s has the label %r, which is not in the "
                         "list of labels." % (part, example.guid, name))
    pair = [example.text_a] + ([example.text_b] if example.text_b else [])
    ids.append(str(example.guid))
    texts.append(" ".join(pair))
    shown.append(prediction_output.shown_text(example.text_a, example.text_b))
    rows.append([index[name] for name in example.labels])
  if not texts:
    raise ValueError("%s has no examples." % part)
  labels = np.zeros([len(texts), len(label_names)], dtype=np.uint8)
  for i, row in enumerate(rows):
    labels[i, row] = 1
  return Part(ids, texts, labels, shown)


def fit_and_predict(train, parts, analyzer="word"):
  """Trains TF-IDF and logistic regression, and predicts.

  Args:
    train: `Part`.
    parts: list of `Part`.
    analyzer: key of `NGRAMS`.

  Returns:
    list of float64 [M, L] probabilities, one for each of `parts`. A label that
    all or none of train has gets its share in train, 1 or 0.
  """
  # Here, so that the help is there without the extra.
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression

  vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=NGRAMS[analyzer],
                               sublinear_tf=True)
  features = vectorizer.fit_transform(train.texts)
  others = [vectorizer.transform(part.texts) for part in parts]
  out = [np.empty(part.labels.shape) for part in parts]
  for i, column in enumerate(train.labels.T):
    classifier = None
    if column.min() != column.max():
      classifier = LogisticRegression(C=REGULARIZATION, solver="liblinear")
      classifier.fit(features, column)
    for other, probabilities in zip(others, out):
      probabilities[:, i] = (classifier.predict_proba(other)[:, 1]
                             if classifier else column[0])
  return out


def predict_prior(train, parts):
  """Gives every text the share of each label in train: as `fit_and_predict`."""
  prior = train.labels.mean(axis=0)
  return [np.tile(prior, (len(part.texts), 1)) for part in parts]


def score(test, test_probabilities, dev, dev_probabilities, label_names):
  """Scores at 0.5, and at thresholds tuned on dev.

  Args:
    test: `Part`.
    test_probabilities: float64 [M, L].
    dev: `Part`, or None: nothing is tuned.
    dev_probabilities: float64 [D, L], or None.
    label_names: list of str.

  Returns:
    `OrderedDict`: "fixed", "tuned" and "tuned_per_label" -> what
    `metrics.evaluate` returns, and "thresholds".
  """
  thresholds = collections.OrderedDict([("fixed", 0.5)])
  if dev is not None:
    thresholds["tuned"] = decisions.find_global_threshold(
        dev.labels, dev_probabilities)["threshold"]
    thresholds["tuned_per_label"] = (
        decisions.find_label_thresholds(
            dev.labels, dev_probabilities)["thresholds"].tolist())
  out = collections.OrderedDict()
  for kind, cut in thresholds.items():
    out[kind] = metrics.evaluate(
        test.labels, test_probabilities, thresholds=cut,
        label_names=label_names)
    out[kind]["thresholds"] = cut
  return out


def write_results(output_dir, results, label_names, test, probabilities):
  """Writes `results.json` and both files of predictions, each whole.

  Args:
    output_dir: folder, made if it is not there.
    results: dict that JSON can hold.
    label_names: list of str.
    test: `Part`.
    probabilities: float64 [M, L].
  """
  os.makedirs(output_dir, exist_ok=True)
  prediction_output.write(
      os.path.join(output_dir, "test_predictions.jsonl"), test.ids, test.shown,
      label_names, probabilities >= 0.5, test.labels != 0, probabilities)
  atomic_files.write_text(
      os.path.join(output_dir, "test_results.tsv"),
      "".join("\t".join("%.8g" % value for value in row) + "\n"
              for row in probabilities))
  # The JSON file comes last: where it is, the others are as well.
  atomic_files.write_text(
      os.path.join(output_dir, "results.json"),
      json.dumps(_without_nan(results), indent=2) + "\n")


def _without_nan(value):
  """A score that is undefined (nan) is null in JSON."""
  if isinstance(value, dict):
    return collections.OrderedDict(
        (key, _without_nan(entry)) for key, entry in value.items())
  return None if isinstance(value, float) and value != value else value


def load_data(data_dir, task_name, with_dev=True):
  """Reads train, dev (or None) and test: (label_names, three `Part`s)."""
  processor = processors.create_processor(task_name=task_name)
  label_names = processors.get_labels(processor, data_dir)
  train = load_part(processor.get_train_examples(data_dir), label_names,
                    "train")
  dev = None
  if with_dev:
    try:
      examples = processor.get_dev_examples(data_dir)
    except ValueError as error:
      raise ValueError("%s (with --no_tuning, no dev set is needed)" % error)
    dev = load_part(examples, label_names, "dev")
  test = load_part(processor.get_test_examples(data_dir), label_names, "test")
  return label_names, train, dev, test


def run(data_dir, task_name, output_dir=None, analyzer="word", tune=True):
  """Trains, scores and writes.

  Args:
    data_dir: folder of the data.
    task_name: name of the processor.
    output_dir: folder for the results, or None.
    analyzer: key of `NGRAMS`.
    tune: whether to tune thresholds on dev, too.

  Returns:
    Ordered dict: the scores of `metrics.evaluate` for TF-IDF at
    0.5; `tfidf` and `label_prior`, as `score` returns them; settings.

  Raises:
    ValueError: the data are not what the processor reads.
  """
  import sklearn

  label_names, train, dev, test = load_data(data_dir, task_name, tune)
  parts = [test] + ([dev] if dev else [])
  started = time.time()
  tfidf = fit_and_predict(train, parts, analyzer)
  seconds = time.time() - started
  prior = predict_prior(train, parts)
  scores = [score(test, both[0], dev, both[-1], label_names)
            for both in (tfidf, prior)]
  results = collections.OrderedDict(
      (key, value) for key, value in scores[0]["fixed"].items()
      if key != "thresholds")
  results["tfidf"], results["label_prior"] = scores
  results["num_train_examples"] = len(train.texts)
  results["seconds"] = round(seconds, 1)
  results["settings"] = {
      "ngrams": list(NGRAMS[analyzer]), "analyzer": analyzer,
      "sublinear_tf": True, "C": REGULARIZATION, "threshold": 0.5,
      "task_name": task_name, "scikit-learn": sklearn.__version__,
      "numpy": np.__version__}
  if output_dir:
    write_results(output_dir, results, label_names, test, tfidf[0])
  return results


def format_results(results):
  """The scores of both baselines as a table: list of lines."""
  layout = "%-52s  %8s  %8s  %6s"
  lines = [layout % ("%d train, %d test texts, %.0f s" % (
      results["num_train_examples"], results["num_examples"],
      results["seconds"]), "micro-F1", "macro-F1", "mAP")]
  for title, key in (("Label prior", "label_prior"),
                     ("TF-IDF and logistic regression", "tfidf")):
    for kind, words in (("fixed", "0.5"), ("tuned", "tuned on dev"),
                        ("tuned_per_label", "tuned per label")):
      if kind in results[key]:
        lines.append(layout % (("%s, %s" % (title, words),) + tuple(
            "%.3f" % results[key][kind][name] for name in HEADLINE)))
  return lines


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python -m experiments.baseline_tfidf",
      description="Scores the label prior, and TF-IDF with logistic "
      "regression, on a data set.")
  parser.add_argument("--data_dir", required=True,
                      help="folder of the data, as for training")
  parser.add_argument("--task_name", default="jsonl",
                      help="format of the data (default: %(default)s)")
  parser.add_argument("--output_dir",
                      help="folder for the results (default: do not write any)")
  parser.add_argument("--analyzer", default="word", choices=sorted(NGRAMS),
                      help="unit that TF-IDF counts (default: %(default)s)")
  parser.add_argument("--no_tuning", action="store_true",
                      help="do not tune thresholds, for data without a dev set")
  options = parser.parse_args(argv)
  try:
    results = run(options.data_dir, options.task_name, options.output_dir,
                  options.analyzer, not options.no_tuning)
  except ImportError as error:
    sys.stderr.write("%s: the baseline needs scikit-learn; install the extra "
                     "`demo`.\n" % error)
    return 1
  except ValueError as error:
    sys.stderr.write("%s\n" % error)
    return 2
  except OSError as error:
    sys.stderr.write("%s\n" % error)
    return 1
  print("\n".join(format_results(results)))
  return 0


if __name__ == "__main__":
  sys.exit(main())
