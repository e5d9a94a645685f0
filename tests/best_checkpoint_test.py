# SPDX-License-Identifier: Apache-2.0
"""Tests of the choice of the best checkpoint, and of when training stops."""

import itertools
import json
import math
import os

import numpy as np
import pytest
import tiny_bert

from multilabel.storage import checkpoint_choice
from multilabel.training import dev_evaluation
from multilabel.training import evaluation


NAN = float("nan")


def choose(values, metric="micro_f1"):
  """(place of the best, evaluations since one was strictly better)."""
  choice = dev_evaluation.choose(
      [{"step": 10 * i, metric: value} for i, value in enumerate(values)],
      metric)
  return choice.best["step"] // 10, choice.since_better


@pytest.mark.parametrize("values,best,since", [
    ([0.5], 0, 0),
    ([0.5, 0.6], 1, 0),
    ([0.6, 0.5], 0, 1),
    ([0.6, 0.5, 0.4, 0.7, 0.1], 3, 1),
    # Of equal ones the latest, but it is no progress.
    ([0, 0, 0, 0], 3, 3),
    ([0.3, 0.6, 0.6, 0.5, 0.6], 4, 3),
    # nan is worse than any number, and equal to itself.
    ([NAN], 0, 0),
    ([NAN, NAN, NAN], 2, 2),
    ([NAN, 0.0], 1, 0),
    ([NAN, 0.0, NAN, NAN], 1, 2),
    ([0.2, NAN, 0.2], 2, 2),
])
def test_choose(values, best, since):
  assert choose(values) == (best, since)


def test_choose_of_nothing():
  assert dev_evaluation.choose([], "loss") == (None, 0, None)


def choose_with_map(values):
  """The same of pairs (micro_f1, mAP), and the place of the last progress."""
  choice = dev_evaluation.choose(
      [{"step": i, "micro_f1": f1, "macro_average_precision": precision}
       for i, (f1, precision) in enumerate(values)], "micro_f1")
  return choice.best["step"], choice.since_better, choice.better["step"]


@pytest.mark.parametrize("values,expected", [
    # At 0.5 nothing is predicted yet, while the ranking gets better.
    ([(0, .2), (0, .3), (0, .4), (0, .5)], (3, 0, 3)),
    ([(0, .2), (0, .3), (0, .25), (0, .28)], (1, 2, 1)),
    ([(0, .2), (0, .1), (0, .3), (0, .2)], (2, 1, 2)),
    ([(NAN, .2), (NAN, .3), (NAN, .1)], (1, 1, 1)),
    ([(0, NAN), (0, NAN)], (1, 1, 0)),
    ([(0, NAN), (0, .1), (0, NAN)], (1, 1, 1)),
    # nan is worse than 0, whatever the ranking.
    ([(0, .2), (NAN, .9), (0, .1)], (0, 1, 0)),
    # Back to 0 after something was better: no patience is spent, no progress.
    ([(.3, .2), (0, .3), (0, .4)], (0, 0, 0)),
    ([(.3, .2), (0, .1), (0, .4), (0, .3)], (0, 2, 0)),
    # Ties above 0 are decided, and spend patience.
    ([(.6, .5), (.6, .7), (.6, .6)], (1, 2, 0)),
    ([(.6, .5), (.6, .5)], (1, 1, 0)),
    ([(.6, .5), (.7, .1)], (1, 0, 1)),
])
def test_average_precision_decides_where_the_metric_does_not(values, expected):
  assert choose_with_map(values) == expected


def test_zero_loss_is_no_beginning():
  choice = dev_evaluation.choose(
      [{"loss": 0.0, "macro_average_precision": x} for x in (.1, .2, .3)],
      "loss")
  assert choice.since_better == 2


def test_lower_is_better_for_a_loss():
  values = [0.7, 0.4, 0.4, 0.5, NAN]
  assert choose(values, "loss") == (2, 3)
  assert choose(values, "hamming_loss") == (2, 3)
  assert choose(values, "micro_f1") == (0, 4)


def plain_choice(values, lower):
  """By comparing every pair: the last that no other one beats."""
  def rank(value):
    return -math.inf if math.isnan(value) else -value if lower else value

  top = max(map(rank, values))
  best = max(i for i, value in enumerate(values) if rank(value) == top)
  first = min(i for i, value in enumerate(values) if rank(value) == top)
  return best, len(values) - 1 - first


@pytest.mark.parametrize("metric", ["micro_f1", "loss"])
def test_choice_is_the_plain_one(metric):
  for values in itertools.product([0.0, 0.25, 1.0, NAN], repeat=5):
    assert choose(values, metric) == plain_choice(values, metric == "loss")


def test_direction_of_every_metric():
  """A model that knows all is better than one that knows the contrary."""
  labels = [[True, False, True], [False, True, False], [True, True, False],
            [False, False, True]]

  def scores(high, low):
    return evaluation.dev_scores(evaluation.Outputs(
        -math.log(high),
        np.array(labels),
        np.where(labels, high, low).astype("float32")),
                                 ["a", "b", "c"]).values

  good, bad = scores(0.99, 0.01), scores(0.02, 0.98)
  names = evaluation.metric_names()
  assert len(names) > 25
  for name in names:
    # Two labels per text at most: as many of the first 3, 5 are right anyway.
    if name.endswith(("_at_3", "_at_5")):
      assert good[name] == bad[name], name
      continue
    assert dev_evaluation.is_better(name, good[name], bad[name]), name
    assert not dev_evaluation.is_better(name, bad[name], good[name]), name
    assert not dev_evaluation.is_better(name, good[name], good[name]), name


# The evaluations of a run.


class FakeRun(object):
  """Gives the values of `micro_f1` that it is told, and writes checkpoints."""

  def __init__(self, folder, values, **settings):
    self.folder = str(folder)
    self.values = dict(values)
    self.settings = dict(dict(steps=10, num_train_steps=50, metric="micro_f1",
                              patience=0), **settings)

  def open(self, first_step=0):
    return dev_evaluation.DevEvaluation(
        self.folder, self._evaluate, first_step=first_step, **self.settings)

  def _evaluate(self, should_stop):
    if should_stop():
      raise dev_evaluation.EvaluationStopped()
    values = {"micro_f1": self.values[self.step], "loss": 0.5}
    if isinstance(values["micro_f1"], tuple):
      values["micro_f1"], values["macro_average_precision"] = values["micro_f1"]
    return dev_evaluation.Evaluation(values, ["summary"])

  def evaluate(self, dev, step, stop=False):
    self.step = step
    evaluation_made, is_best = dev.evaluate(step, lambda: stop)
    if is_best:
      self.put_checkpoint(step)
    dev.commit()
    return evaluation_made, is_best

  def put_checkpoint(self, step):
    for suffix in (".index", ".data-00000-of-00001"):
      tiny_bert.write_text(os.path.join(
          self.folder, "model.ckpt-%d%s" % (step, suffix)), u"")

  def read(self):
    found = json.loads(tiny_bert.read_text(
        os.path.join(self.folder, "best_checkpoint.json")))
    # There is no run, and the sum is another test's.
    assert found.pop("fingerprint") is None and len(found.pop("sha256")) == 64
    return found


def test_when_an_evaluation_is_due(tmp_path):
  dev = FakeRun(tmp_path, {}, steps=20).open()
  assert [step for step in range(51) if dev.is_due(step)] == [20, 40, 50]
  assert dev.best_step is None and dev.is_over is False


def test_what_is_written(tmp_path):
  run = FakeRun(tmp_path, {10: 0.5, 20: 0.75, 30: NAN, 40: 0.75})
  dev = run.open()
  made, is_best = run.evaluate(dev, 10)
  assert (made.values["micro_f1"], made.summaries, is_best) == (
      0.5, ["summary"], True)
  assert run.read() == {
      "checkpoint": "model.ckpt-10", "step": 10, "metric": "micro_f1",
      "value": 0.5,
      "evaluations": [{"step": 10, "loss": 0.5, "micro_f1": 0.5}]}
  assert run.evaluate(dev, 20)[1] is True
  assert run.evaluate(dev, 30)[1] is False
  assert run.read()["step"] == dev.best_step == 20
  assert [row["micro_f1"] for row in run.read()["evaluations"]] == [
      0.5, 0.75, None]
  assert run.evaluate(dev, 40)[1] is True  # equal, and later
  assert run.read()["checkpoint"] == "model.ckpt-40"
  assert checkpoint_choice.prediction_checkpoint(str(tmp_path)) == str(
      tmp_path / "model.ckpt-40")
  assert not [step for step in range(50) if dev.is_due(step)]
  assert dev.is_due(50)


def test_nan_alone_is_null(tmp_path):
  run = FakeRun(tmp_path, {10: NAN, 20: NAN})
  dev = run.open()
  run.evaluate(dev, 10)
  run.evaluate(dev, 20)
  assert (run.read()["step"], run.read()["value"]) == (20, None)
  again = run.open(20)
  assert again.best_step == 20 and not again.is_due(20)


@pytest.mark.parametrize("patience,stops_at", [(0, None), (1, 30), (2, 40),
                                               (3, 50), (4, None)])
def test_patience(tmp_path, patience, stops_at):
  run = FakeRun(tmp_path, {10: 0.1, 20: 0.5, 30: 0.5, 40: 0.4, 50: 0.3},
                patience=patience)
  dev = run.open()
  for step in range(10, 60, 10):
    assert not dev.is_over
    run.evaluate(dev, step)
    # What a process that starts now would decide is the same.
    assert run.open(step).is_over == dev.is_over
    if dev.is_over:
      break
  assert (step if dev.is_over else None) == stops_at


def test_a_run_that_starts_at_zero_is_not_stopped(tmp_path):
  run = FakeRun(tmp_path, {10: (0., .2), 20: (0., .3), 30: (0., .4),
                           40: (.5, .5), 50: (.4, .4)}, patience=1)
  dev, remarks = run.open(), []
  for step in range(10, 60, 10):
    assert not dev.is_over
    run.evaluate(dev, step)
    remarks.append(dev.describe_best(step).strip())
  assert remarks == ["(best so far by macro_average_precision)"] * 3 + [
      "(best so far)", ""]
  assert dev.is_over and dev.best_step == 40
  assert dev.describe_stop() == "micro_f1 has not been better since step 40"


def test_what_is_said_of_a_stop(tmp_path):
  run = FakeRun(tmp_path, {10: (.5, .5), 20: (.5, .6), 30: (.4, .5)},
                patience=2)
  dev = run.open()
  for step in (10, 20, 30):
    run.evaluate(dev, step)
  assert dev.is_over
  assert dev.describe_stop() == (
      "micro_f1 has not been better since step 10; the best checkpoint is "
      "that of step 20")
  run = FakeRun(tmp_path, {10: (0., .2), 20: (0., .2)}, patience=1)
  dev = run.open()
  run.evaluate(dev, 10)
  run.evaluate(dev, 20)
  assert dev.describe_best(20) == ""
  assert dev.describe_stop() == (
      "micro_f1 has stayed at 0.0, and macro_average_precision has not been "
      "better since step 10; the best checkpoint is that of step 20")


def test_the_rule_of_the_first_evaluation_stays(tmp_path):
  rules = [{"threshold": threshold, "top_k": None, "always_one_label": False,
            "min_precision": None} for threshold in ("tune", 0.3, 0.5)]
  run = FakeRun(tmp_path, {10: .5, 20: .6}, rule=rules[0])
  dev = run.open()
  run.evaluate(dev, 10)
  assert run.read()["rule"] == rules[0]
  run.settings["rule"] = rules[1]
  assert run.open(10).rule == rules[0]
  assert run.open(0).rule == rules[1]  # it begins anew
  # A run from before the rule was written had 0.5.
  run.settings["rule"] = None
  dev = run.open()
  run.evaluate(dev, 10)
  run.settings["rule"] = rules[0]
  assert run.open(10).rule == rules[2]


def test_progress_after_a_tie_starts_the_patience_anew(tmp_path):
  run = FakeRun(tmp_path, {10: 0.5, 20: 0.5, 30: 0.6, 40: 0.6, 50: 0.6},
                patience=2)
  dev = run.open()
  over = []
  for step in range(10, 60, 10):
    run.evaluate(dev, step)
    over.append(dev.is_over)
  assert over == [False, False, False, False, True]


def test_what_came_after_the_checkpoint_is_evaluated_again(tmp_path):
  run = FakeRun(tmp_path, {10: 0.5, 20: 0.9, 30: 0.2, 40: 0.1}, patience=2)
  dev = run.open()
  for step in (10, 20, 30, 40):
    run.evaluate(dev, step)
  assert dev.is_over
  # The newest checkpoint is of step 25.
  dev = run.open(25)
  assert not dev.is_over and dev.best_step == 20
  assert [step for step in range(51) if dev.is_due(step)] == [30, 40, 50]
  run.values[30] = 0.95
  assert run.evaluate(dev, 30)[1]
  assert [row["step"] for row in run.read()["evaluations"]] == [10, 20, 30]


def test_a_stopped_evaluation_leaves_no_trace(tmp_path):
  run = FakeRun(tmp_path, {10: 0.5, 20: 0.9})
  dev = run.open()
  run.evaluate(dev, 10)
  before = run.read()
  with pytest.raises(dev_evaluation.EvaluationStopped):
    run.evaluate(dev, 20, stop=True)
  assert run.read() == before
  assert dev.is_due(20) and dev.best_step == 10
