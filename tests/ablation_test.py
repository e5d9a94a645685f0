# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/attack_tactics/ablation.py."""

import os
import re

import pytest
import tiny_bert

from experiments import run_queue
from experiments import sweep
from experiments.attack_tactics import ablation
import run_multilabel_classifier


# Stands in for run_multilabel_classifier.py: pooling decides on the score.
FAKE_SCRIPT = u'''
import os, sys
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
os.makedirs(flags["output_dir"])
score = {"mean": 0.5, "cls": 0.25, "pooler": 0.125}[flags["pooling"]]
score += int(flags["random_seed"]) / 1000.0
with open(os.path.join(flags["output_dir"], "model_settings.json"), "w") as out:
  out.write("{}")
for name in ("eval_results.txt", "test_eval_results.txt"):
  with open(os.path.join(flags["output_dir"], name), "w") as writer:
    for key in ("micro_f1", "macro_f1", "macro_average_precision"):
      writer.write("%s = %s\\n" % (key, score + ("test" in name)))
'''


@pytest.fixture(name="run")
def run_fixture(tmp_path, monkeypatch):
  (tmp_path / "fake.py").write_text(FAKE_SCRIPT, encoding="utf-8")
  monkeypatch.setattr(run_queue, "SCRIPT", str(tmp_path / "fake.py"))
  monkeypatch.setattr(run_queue, "raise_on_signals", lambda: None)

  def define():
    with monkeypatch.context() as patch:
      patch.setattr(run_multilabel_classifier, "flags", ablation.flags)
      patch.setattr(sweep, "flags", ablation.flags)
      sweep.define_flags()

  monkeypatch.setattr(ablation, "define_flags", define)
  return lambda *more: tiny_bert.call(ablation, [
      "--output_dir=%s" % (tmp_path / "out"), "--data_dir=data",
      "--task_name=jsonl", "--bert_config_file=c", "--vocab_file=v",
      "--do_train", "--do_eval", "--do_test", "--pooling=mean",
      "--learning_rate=3e-4", "--head_learning_rate=5e-3",
      "--init_bias_from_prior", "--random_seed=1"] + list(more))


def test_table(run, tmp_path):
  status, out, err, _ = run("--seeds=2")
  assert (status, err) == (0, "")
  lines = out.splitlines()
  assert lines[0] == ("Scores on test, mean +- standard deviation over n seeds")
  titles = [re.split("  +", line)[0] for line in lines[3:17]]
  assert titles == [
      "the recipe", "pooling=cls", "pooling=pooler", "learning_rate=1e-4",
      "learning_rate=5e-4", "learning_rate=1e-3", "head_learning_rate=default",
      "head_learning_rate=1e-3", "head_learning_rate=2e-2",
      "init_bias_from_prior=false", "loss=weighted", "loss=focal",
      "loss=asymmetric", "adam_bias_correction=false"]
  # Mean of 1.501 and 1.502; 1.251 and 1.252.
  assert re.split("  +", lines[3])[1:3] == ["2", "1.5015 +- 0.0007"]
  assert re.split("  +", lines[4])[1:4] == ["2", "1.2515 +- 0.0007", "-0.2500"]
  folder = tmp_path / "out"
  assert len([name for name in os.listdir(str(folder))
              if name.endswith(".json")]) == 28
  # Nothing is run twice.
  status, _, _, log = run("--seeds=2")
  assert status == 0
  assert "28 runs: 28 already finished, 0 to do" in log


def test_grid_is_refused(run):
  status, _, err, _ = run("--grid=pooling=cls")
  assert status == 2
  assert "--grid cannot be used here" in err
