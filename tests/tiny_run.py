# SPDX-License-Identifier: Apache-2.0
"""A run's directory with four texts and two labels, for the report's tests."""

import io
import json
import os

import numpy as np
import tensorflow.compat.v1 as tf


# By hand, at the labels that were given: a has tp 2, fp 1, fn 0, b has tp 1,
# fp 0, fn 1; so micro-F1 is 6 / 8, macro-F1 (0.8 + 2 / 3) / 2.
LINES = [
    {"id": "1", "text": "first", "labels": ["a"], "true_labels": ["a"],
     "probabilities": {"a": 0.9, "b": 0.2}},
    {"id": "2", "text": "second", "labels": ["a", "b"], "true_labels": ["b"],
     "probabilities": {"a": 0.8, "b": 0.7}},
    {"id": "3", "text": "third", "labels": [], "true_labels": ["b"],
     "probabilities": {"a": 0.1, "b": 0.4}},
    {"id": "4", "text": "fourth", "labels": ["a"], "true_labels": ["a"],
     "probabilities": {"a": 0.6, "b": 0.3}},
]

SETTINGS = {
    "threshold": 0.5, "max_seq_length": 12, "format_version": 2,
    "threshold_kind": "fixed", "top_k": None, "always_one_label": False,
    "flags": {"data_dir": "my data", "do_train": True, "do_lower_case": False,
              "delimiter": None, "learning_rate": 3e-4},
    "run": {"learning_rate": 3e-4}, "versions": {"tensorflow": "2.21.0"}}

BEST = {"checkpoint": "model.ckpt-20", "step": 20, "metric": "micro_f1",
        "value": 0.75, "evaluations": [
            {"step": 10, "loss": 0.4, "micro_f1": 0.5, "macro_f1": None,
             "macro_average_precision": 0.6, "train_micro_f1": 0.7},
            {"step": 20, "loss": 0.3, "micro_f1": 0.75, "macro_f1": 0.5,
             "macro_average_precision": 0.7, "train_micro_f1": 0.9}]}


def write_lines(path, lines):
  with io.open(str(path), "w", encoding="utf-8") as writer:
    for line in lines:
      writer.write(json.dumps(line, ensure_ascii=False) + u"\n")


def write_json(path, value):
  with open(str(path), "w") as writer:
    json.dump(value, writer)


def write_events(folder, sessions):
  """Writes an event file a session: (first step, [(step, loss)])."""
  for number, (first_step, points) in enumerate(sessions):
    path = os.path.join(str(folder), "events.out.tfevents.%d.host" % (
        1000 + number))
    with tf.io.TFRecordWriter(path) as writer:
      all_events = [tf.Event(wall_time=1e9 + number, step=first_step,
                             session_log=tf.SessionLog(
                                 status=tf.SessionLog.START))]
      for step, value in points:
        all_events.append(tf.Event(
            wall_time=1e9 + step, step=step, summary=tf.Summary(value=[
                tf.Summary.Value(tag="loss", simple_value=value),
                tf.Summary.Value(tag="other", simple_value=1.0),
                tf.Summary.Value(tag="step/learning_rate",
                                 simple_value=1e-4)])))
      for event in all_events:
        writer.write(event.SerializeToString())


def make_run(folder, lines=None, settings=None):
  """A whole run's directory, as the run script leaves it."""
  lines = LINES if lines is None else lines
  write_lines(folder / "test_predictions.jsonl", lines)
  write_lines(folder / "eval_predictions.jsonl", lines[:3])
  (folder / "labels.txt").write_text(u"a\nb\n", encoding="utf-8")
  (folder / "eval_results.txt").write_text(
      u"f1/a = 0.5\nglobal_step = 20\nloss = 0.25\n", encoding="utf-8")
  (folder / "test_eval_results.txt").write_text(u"global_step = 20\n",
                                                encoding="utf-8")
  write_json(folder / "model_settings.json",
             SETTINGS if settings is None else settings)
  write_json(folder / "best_checkpoint.json", BEST)
  write_events(folder, [(1, [(10, 0.5), (20, 0.25)])])
  np.save(str(folder / "train.tf_record.index.npy"),
          np.array([[0, 9, 20], [5, 12, 7], [0, 1, 2]], np.int64))
  write_json(folder / "train.tf_record.json", {
      "num_examples": 3, "num_records": 3, "num_truncated": 1, "num_empty": 0})
  return str(folder)
