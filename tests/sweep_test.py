# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/sweep.py and what it is made of."""

import collections
import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import tiny_bert

from experiments import result_table
from experiments import run_queue
from experiments import sweep
import run_multilabel_classifier


# Stands in for run_multilabel_classifier.py: its score is a function of the
# flags. It counts its starts in `starts.txt` beside the run's folder.
FAKE_SCRIPT = u'''
import os, signal, sys, time
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
folder = flags["output_dir"]
with open(os.path.join(os.path.dirname(folder), "starts.txt"), "a") as log:
  log.write(os.path.basename(folder) + chr(10))
if not os.path.isdir(folder):
  os.makedirs(folder)
for name in ("model.ckpt-3.index", "checkpoint", "train.tf_record"):
  open(os.path.join(folder, name), "w").close()
with open(os.path.join(folder, "model_settings.json"), "w") as writer:
  writer.write('{"versions": {"tensorflow": "1.2"}}')
if os.environ.get("FAKE_SLEEP"):
  def save(number, frame):
    open(os.path.join(folder, "saved"), "w").close()
    sys.exit(128 + number)
  signal.signal(signal.SIGTERM, save)
  open(os.path.join(folder, "started"), "w").close()
  time.sleep(60)
rate = float(flags["learning_rate"])
seed = int(flags["random_seed"])
print("rate %s, seed %d" % (rate, seed))
if rate == float(os.environ.get("FAKE_FAILURE", "nan")):
  sys.exit("fake.py: cannot do that.")
with open(os.path.join(folder, "eval_results.txt"), "w") as writer:
  writer.write("f1/a = b = 0.25\\n")
  writer.write("left_out_of_macro_f1 = x, y\\n")
  writer.write("loss = %s\\n" % (1 - rate))
  writer.write("micro_f1 = %s\\n" % (rate + seed))
'''


@pytest.fixture(name="work")
def work_fixture(tmp_path, monkeypatch):
  """A data folder, a base flag file, and the fake script in its place."""
  data = tmp_path / "data"
  data.mkdir()
  (data / "train.jsonl").write_text(u"x", encoding="utf-8")
  (tmp_path / "fake.py").write_text(FAKE_SCRIPT, encoding="utf-8")
  write_base(tmp_path)
  monkeypatch.setattr(run_queue, "SCRIPT", str(tmp_path / "fake.py"))
  monkeypatch.setattr(run_queue, "raise_on_signals", lambda: None)
  define = run_multilabel_classifier.define_flags

  def define_in_sweep():
    with monkeypatch.context() as patch:
      patch.setattr(run_multilabel_classifier, "flags", sweep.flags)
      define()

  monkeypatch.setattr(run_multilabel_classifier, "define_flags",
                      define_in_sweep)
  return tmp_path


def write_base(folder, *more):
  lines = ["--data_dir=%s" % (folder / "data"), "--task_name=jsonl",
           "--bert_config_file=bert_config.json", "--vocab_file=vocab.txt",
           "--output_dir=/somewhere/else", "--do_train", "--do_eval",
           "--random_seed=7"] + list(more)
  (folder / "base.txt").write_text(
      u"".join(line + u"\n" for line in lines), encoding="utf-8")


def run_sweep(work, *arguments):
  return tiny_bert.call(sweep, [
      "--output_dir=%s" % (work / "out"), "--flagfile=%s" % (work / "base.txt")
  ] + list(arguments))


def starts(work):
  """How often each run was started: {folder name: count}."""
  path = work / "out" / "starts.txt"
  return collections.Counter(
      path.read_text().split() if path.exists() else [])


def test_grid_runs_every_combination_and_seed(work):
  status, out, err, _ = run_sweep(
      work, "--grid=learning_rate=0.25,0.5", "--grid=pooling=cls,mean",
      "--seeds=2")

  assert (status, err) == (0, "")
  names = sorted(re.sub("_[0-9a-f]{8}$", "", name) for name in starts(work))
  assert names == [
      "learning_rate-%s_pooling-%s_seed-%d" % (rate, pooling, seed)
      for rate in ("0.25", "0.5") for pooling in ("cls", "mean")
      for seed in (7, 8)]
  assert set(starts(work).values()) == {1}
  table = (work / "out" / "results.txt").read_text()
  assert out == table
  lines = table.splitlines()
  assert lines[0].startswith(
      "8 of 8 runs, sorted by micro_f1 (higher is better)")
  # 0.5 + 7 and 0.5 + 8: mean 8, deviation 1 / sqrt(2).
  assert lines[2].split() == ["learning_rate", "pooling", "n", "micro_f1"]
  assert lines[3].split() == ["0.5", "cls", "2", "8.0000", "+-", "0.7071"]
  assert lines[6].split() == ["0.25", "mean", "2", "7.7500", "+-", "0.7071"]
  best = table[table.index("The best"):]
  assert "--learning_rate=0.5 \\\n" in best
  assert "--pooling=cls \\\n" in best
  assert "--random_seed=7 \\\n" in best
  assert "versions: tensorflow 1.2\n" in table
  with io.open(str(work / "out" / "results.csv")) as reader:
    rows = list(csv.DictReader(reader))
  assert len(rows) == 4
  assert rows[0]["learning_rate"] == "0.5"
  assert (rows[0]["n"], rows[0]["seeds"]) == ("2", "7 8")
  assert float(rows[0]["micro_f1_mean"]) == 8
  assert float(rows[0]["micro_f1_std"]) == pytest.approx(math.sqrt(0.5), 1e-5)
  assert float(rows[0]["loss_mean"]) == 0.5
  assert float(rows[0]["f1/a = b_mean"]) == 0.25
  assert "left_out_of_macro_f1_mean" not in rows[0]


def test_finished_runs_are_not_repeated(work):
  run_sweep(work, "--grid=learning_rate=0.25,0.5")
  first = starts(work)
  status, out, err, log = run_sweep(work, "--grid=learning_rate=0.25,0.5,0.75")

  assert status == 0, err
  assert len(first) == 2
  assert sum(starts(work).values()) == 3
  assert "3 runs: 2 already finished, 1 to do" in log
  assert out.splitlines()[3].split()[0] == "0.75"


def test_other_base_flags_are_other_runs(work):
  run_sweep(work, "--grid=learning_rate=0.25")
  write_base(work, "--num_train_epochs=5")
  _, out, _, _ = run_sweep(work, "--grid=learning_rate=0.25")

  assert len(starts(work)) == 2
  assert out.startswith("1 of 1 runs")
  assert "--num_train_epochs=5.0" in out


def test_other_data_are_other_runs(work):
  run_sweep(work, "--grid=learning_rate=0.25")
  (work / "data" / "NOTICE.txt").write_text(u"no data", encoding="utf-8")
  run_sweep(work, "--grid=learning_rate=0.25")
  assert len(starts(work)) == 1
  (work / "data" / "train.jsonl").write_text(u"y", encoding="utf-8")
  run_sweep(work, "--grid=learning_rate=0.25")
  assert len(starts(work)) == 2


def test_the_same_value_written_otherwise_is_the_same_run(work):
  status, _, err, _ = run_sweep(work, "--grid=learning_rate=1e-1,0.1")
  assert status == 2
  assert "learning_rate=1e-1 and learning_rate=0.1 are the same run" in err
  assert not starts(work)


def test_a_failure_is_kept_apart(work, monkeypatch):
  monkeypatch.setenv("FAKE_FAILURE", "0.5")
  status, out, err, _ = run_sweep(work, "--grid=learning_rate=0.25,0.5,0.75")

  assert status == 1
  assert "1 of 3 runs failed" in err
  assert "3 of 3 runs" in out
  rows = [line.split()[0] for line in out.splitlines()[3:5]]
  assert rows == ["0.75", "0.25"]
  failed = out[out.index("Failed and not"):]
  assert "ended with exit status 1\n" in failed
  assert "    rate 0.5, seed 7\n    fake.py: cannot do that.\n" in failed
  assert os.listdir(str(work / "out")).count("results.txt") == 1

  monkeypatch.delenv("FAKE_FAILURE")
  status, out, err, _ = run_sweep(work, "--grid=learning_rate=0.25,0.5,0.75")
  assert status == 0, err
  assert sum(starts(work).values()) == 4
  assert "Failed" not in out


def test_a_run_without_scores_failed(work):
  (work / "fake.py").write_text(u"print('nothing')", encoding="utf-8")
  status, out, err, _ = run_sweep(work, "--grid=learning_rate=0.25")
  assert status == 1
  assert "ended with exit status 0, but wrote no scores\n    nothing\n" in out
  assert "No run has finished." in out


def test_metric_that_these_runs_do_not_have(work):
  # The fake script has no test part.
  status, _, err, _ = run_sweep(work, "--grid=learning_rate=0.25,0.5",
                                "--metric=test_micro_f1")
  assert status == 2
  assert "--metric=test_micro_f1 is not a metric of these runs" in err
  assert "choose from: f1/a = b, loss, micro_f1. Finished runs are" in err
  assert sum(starts(work).values()) == 1

  status, out, err, _ = run_sweep(work, "--grid=learning_rate=0.25,0.5",
                                "--metric=loss")
  assert status == 0, err
  assert sum(starts(work).values()) == 2
  assert "sorted by loss (lower is better)" in out
  assert out.splitlines()[3].split()[0] == "0.5"


@pytest.mark.parametrize("arguments, expected", [
    (["--grid=learnin_rate=1"],
        "learnin_rate cannot be varied: it is not a flag"),
    (["--grid=output_dir=a,b"], "every run gets its own directory"),
    (["--grid=random_seed=1,2"], "use --seeds to run"),
    (["--grid=jobs=1,2"], "jobs cannot be varied"),
    (["--grid=learning_rate=fast"], "learning_rate=fast: "),
    (["--grid=learning_rate=-1"], "--learning_rate is -1.0; it must be above"),
    (["--grid=pooling=max"], "pooling=max: "),
    (["--grid=learning_rate"], "must be name=value,value"),
    (["--grid=learning_rate=1,,2"], "must be name=value,value"),
    (["--grid=pooling=cls", "--grid=pooling=mean"], "names pooling twice"),
    (["--seeds=0"], "--seeds is 0"),
    (["--jobs=0"], "--jobs is 0"),
    (["--nodo_eval"], "without --do_eval or --do_test has no scores"),
    (["--metric=micro_f2"], "there is no metric micro_f2; choose from brier"),
    (["--metric=test_f1"], "--metric=test_f1: there is no metric f1"),
    (["--grid=threshold=0.5,2"], "threshold=2: --threshold is 2"),
    (["--unknown=1"], "Unknown command line flag 'unknown'"),
    (["stray"], "unexpected argument stray"),
])
def test_mistakes_are_found_before_any_run(work, arguments, expected):
  status, out, err, _ = run_sweep(work, *arguments)
  assert status == 2
  assert expected in err
  assert err.count("\n") == 1
  assert out == ""
  assert not starts(work)


def test_output_dir_is_the_command_line_s(work):
  status, _, err, _ = tiny_bert.call(
      sweep, ["--flagfile=%s" % (work / "base.txt")])
  assert status == 2
  assert "must be given on the command line" in err


def test_default_leaves_a_flag_out(work):
  write_base(work, "--head_learning_rate=0.5")
  _, _, _, _ = run_sweep(work, "--grid=learning_rate=0.25",
                         "--grid=head_learning_rate=default,1e-2")
  records = [json.loads(path.read_text())
             for path in sorted((work / "out").glob("learning*.json"))]
  heads = [[flag for flag in record["flags"] if "head" in flag]
           for record in records]
  assert sorted(heads) == [[], ["--head_learning_rate=0.01"]]


def test_keep_checkpoints_false(work):
  run_sweep(work, "--grid=learning_rate=0.25")
  folder = [path for path in (work / "out").iterdir() if path.is_dir()][0]
  names = ["checkpoint", "eval_results.txt", "model.ckpt-3.index",
           "model_settings.json", "train.tf_record"]
  assert sorted(os.listdir(str(folder))) == names
  _, _, _, log = run_sweep(work, "--grid=learning_rate=0.25",
                           "--keep_checkpoints=false")
  assert sorted(os.listdir(str(folder))) == [
      "eval_results.txt", "model_settings.json"]
  assert any("are removed" in line for line in log)


def test_several_jobs(work):
  status, out, err, _ = run_sweep(
      work, "--grid=learning_rate=0.25,0.5,0.75", "--jobs=3")
  assert status == 0, err
  assert out.startswith("3 of 3 runs")


def test_a_signal_stops_the_run_and_the_command_goes_on(work):
  driver = ("import sys; from experiments import run_queue, sweep; "
            "from multilabel.common import command_line; "
            "run_queue.SCRIPT = sys.argv.pop(1); "
            "command_line.run(sweep.main, sweep.define_flags, '')")
  arguments = [sys.executable, "-c", driver, str(work / "fake.py"),
               "--flagfile=%s" % (work / "base.txt"),
               "--output_dir=%s" % (work / "out"),
               "--grid=learning_rate=0.25"]
  process = subprocess.Popen(
      arguments, cwd=tiny_bert.ROOT, stderr=subprocess.PIPE,
      env=dict(os.environ, FAKE_SLEEP="1", PYTHONPATH=tiny_bert.ROOT))
  for _ in range(600):
    if list((work / "out").glob("*/started")):
      break
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)

  assert process.returncode == 143
  assert b"the same command resumes" in stderr
  assert len(list((work / "out").glob("*/saved"))) == 1
  status, out, err, _ = run_sweep(work, "--grid=learning_rate=0.25")
  assert status == 0, err
  assert out.startswith("1 of 1 runs")
  assert list(starts(work).values()) == [2]


@pytest.mark.parametrize("metric, expected", [
    ("micro_f1", "micro_f1"), ("map", "macro_average_precision"),
    ("test_map", "test_macro_average_precision"),
    ("micro_f1_at_0.5", "micro_f1_at_0.5"),
    ("test_micro_f1_low", "test_micro_f1_low"), ("f1/a b", "f1/a b")])
def test_names_of_metrics(metric, expected):
  assert sweep.full_metric_name(metric) == expected


def test_rows_are_sorted_with_undefined_ones_last():
  def outcome(name, value):
    run = run_queue.Run(name, {"x": name}, 1, [], {})
    return run_queue.Outcome(run, {"m": value}, "", {}, None)

  rows = result_table.make_rows(
      [outcome("a", 0.1), outcome("b", float("nan")), outcome("c", 0.3)], "m")
  assert [row.settings["x"] for row in rows] == ["c", "a", "b"]
  assert result_table.mean_and_deviation([1.0, 2.0, 6.0]) == (
      3.0, math.sqrt(7))
  assert result_table.format_score((0.5, None)) == "0.5000"


def test_a_real_run(bert, tmp_path, monkeypatch):
  """The training itself, in a process of its own."""
  monkeypatch.setattr(run_queue, "raise_on_signals", lambda: None)
  data = tiny_bert.make_data(tmp_path / "data", sizes=(24, 12, 6))
  status, out, err, _ = tiny_bert.call(sweep, [
      "--grid=pooling=cls"] + tiny_bert.arguments(
          bert, data, str(tmp_path / "sweep"), do_eval=True,
          num_train_epochs=1, report=False))
  assert status == 0, err
  lines = out.splitlines()
  assert lines[2].split()[:3] == ["pooling", "n", "micro_f1"]
  assert lines[3].split()[:2] == ["cls", "1"]
  assert "versions: numpy " in out
  with io.open(str(tmp_path / "sweep" / "results.csv")) as reader:
    row = next(csv.DictReader(reader))
  assert 0 <= float(row["f1/fruit_mean"]) <= 1
  assert float(row["loss_mean"]) > 0
