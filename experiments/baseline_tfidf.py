# SPDX-License-Identifier: Apache-2.0
"""The baseline that a fine-tuned model must pass: TF-IDF, logistic regression.

  python -m experiments.baseline_tfidf --data_dir=DIR --output_dir=OUT

trains on all of train, one logistic regression (C=10) a label over TF-IDF of
words and pairs of words with sublinear term frequency, and prints the scores
on test, computed by the same code as the model's. OUT gets

  results.json       the scores, the settings and the versions
  test_results.tsv   one row an example, one probability a label

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

import atomic_files
import multilabel_metrics
import processors

REGULARIZATION = 10.0  # C of the logistic regression: larger is weaker
NGRAMS = (1, 2)


def load_part(examples, label_names, part):
  """Turns examples into texts and a multi-hot array.

  Args:
    examples: iterable of `InputExample`.
    label_names: list of str.
    part: "train" or "test", for the message.

  Returns:
    `(texts, labels)`: list of N str, a pair joined by a space; uint8 [N, L].

  Raises:
    ValueError: there is none, one has no labels or an unknown label.
  """
  index = {name: i for i, name in enumerate(label_names)}
  texts, rows = [], []
  for example in examples:
    if example.labels is None:
      raise ValueError("%s example %s is not labelled: the baseline needs the "
                       "labels to score itself." % (part, example.guid))
    for name in example.labels:
      if name not in index:
        raise ValueError("%s example %s has the label %r, which is not in the "
                         "list of labels." % (part, example.guid, name))
    pair = [example.text_a] + ([example.text_b] if example.text_b else [])
    texts.append(" ".join(pair))
    rows.append([index[name] for name in example.labels])
  if not texts:
    raise ValueError("%s has no examples." % part)
  labels = np.zeros([len(texts), len(label_names)], dtype=np.uint8)
  for i, row in enumerate(rows):
    labels[i, row] = 1
  return texts, labels


def fit_and_predict(train_texts, train_labels, test_texts):
  """Trains the baseline and predicts.

  Args:
    train_texts: list of N str.
    train_labels: uint8 [N, L], multi-hot.
    test_texts: list of M str.

  Returns:
    float64 [M, L] probabilities. A label that all or none of train has gets
    its share in train, 1 or 0.
  """
  # Here, so that the help is there without the extra.
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression

  vectorizer = TfidfVectorizer(ngram_range=NGRAMS, sublinear_tf=True)
  train = vectorizer.fit_transform(train_texts)
  test = vectorizer.transform(test_texts)
  probabilities = np.empty([len(test_texts), train_labels.shape[1]])
  for i, column in enumerate(train_labels.T):
    if column.min() == column.max():
      probabilities[:, i] = column[0]
      continue
    classifier = LogisticRegression(C=REGULARIZATION, solver="liblinear")
    classifier.fit(train, column)
    probabilities[:, i] = classifier.predict_proba(test)[:, 1]
  return probabilities


def write_results(output_dir, results, probabilities):
  """Writes `results.json` and `test_results.tsv`, each whole or not at all.

  Args:
    output_dir: folder, made if it is not there.
    results: dict that JSON can hold.
    probabilities: float64 [M, L].
  """
  os.makedirs(output_dir, exist_ok=True)
  # A score that is undefined (nan) is null in JSON.
  clean = collections.OrderedDict(
      (key, None if isinstance(value, float) and value != value else value)
      for key, value in results.items())
  rows = "".join("\t".join("%.8g" % value for value in row) + "\n"
                 for row in probabilities)
  # The JSON file comes last: where it is, the other one is as well.
  for name, text in (("test_results.tsv", rows),
                     ("results.json", json.dumps(clean, indent=2) + "\n")):
    atomic_files.write_text(os.path.join(output_dir, name), text)


def run(data_dir, task_name, output_dir=None):
  """Trains, scores and writes.

  Args:
    data_dir: folder of the data.
    task_name: name of the processor.
    output_dir: folder for the results, or None.

  Returns:
    Ordered dict of the scores of `multilabel_metrics.evaluate` and settings.

  Raises:
    ValueError: the data are not what the processor reads.
  """
  import sklearn

  processor = processors.create_processor(task_name=task_name)
  label_names = processors.get_labels(processor, data_dir)
  train_texts, train_labels = load_part(
      processor.get_train_examples(data_dir), label_names, "train")
  test_texts, test_labels = load_part(
      processor.get_test_examples(data_dir), label_names, "test")
  started = time.time()
  probabilities = fit_and_predict(train_texts, train_labels, test_texts)
  seconds = time.time() - started
  results = multilabel_metrics.evaluate(
      test_labels, probabilities, thresholds=0.5, label_names=label_names)
  results["num_train_examples"] = len(train_texts)
  results["seconds"] = round(seconds, 1)
  results["settings"] = {
      "ngrams": list(NGRAMS), "sublinear_tf": True, "C": REGULARIZATION,
      "threshold": 0.5, "task_name": task_name,
      "scikit-learn": sklearn.__version__, "numpy": np.__version__}
  if output_dir:
    write_results(output_dir, results, probabilities)
  return results


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python -m experiments.baseline_tfidf",
      description="Scores TF-IDF with logistic regression on a data set.")
  parser.add_argument("--data_dir", required=True,
                      help="folder of the data, as for training")
  parser.add_argument("--task_name", default="jsonl",
                      help="processor that reads it (default: %(default)s)")
  parser.add_argument("--output_dir",
                      help="folder for the results (default: none are written)")
  options = parser.parse_args(argv)
  try:
    results = run(options.data_dir, options.task_name, options.output_dir)
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
  print("TF-IDF and logistic regression, %d train and %d test texts, %.0f s: "
        "micro-F1 %.3f, macro-F1 %.3f, mAP %.3f" % (
            results["num_train_examples"], results["num_examples"],
            results["seconds"], results["micro_f1"], results["macro_f1"],
            results["macro_average_precision"]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
