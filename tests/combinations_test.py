# SPDX-License-Identifier: Apache-2.0
"""Tests of which options of training go together: the table in docs/scale.md.

That those that do give the losses of one device is in distribution_test.py,
gradient_accumulation_test.py and, for several machines, below.
"""

import json
import os
import re
import time

from absl import flags as absl_flags
import numpy as np
import pytest
import tiny_bert

from multilabel.common.settings import Settings
from multilabel.storage import checkpoint_choice
from multilabel.training import cluster_members
from multilabel.training import flag_checks
from multilabel.training import mirrored
from multilabel.training import mixed_precision
import run_multilabel_classifier
from scale.launch import local


COLUMNS = {"several devices": ["--distribution=mirrored", "--num_devices=2"],
           "accumulation": ["--gradient_accumulation_steps=2"],
           "several machines": ["--distribution=cluster"]}


def table():
  """[(flags of an option, column, "yes" or "no")] of the document."""
  section = tiny_bert.read_text(os.path.join(
      tiny_bert.ROOT, "docs", "scale.md")).partition(
          "## Which options can be combined")[2].partition("\n## ")[0]
  rows = [[cell.strip() for cell in line.strip("|").split("|")]
          for line in section.splitlines() if line.startswith("|")]
  assert rows[0][1:] == list(COLUMNS)
  return [(tuple(re.search("`(.*?)`", row[0]).group(1).split()), column, cell)
          for row in rows[2:] for column, cell in zip(rows[0][1:], row[1:])
          if cell]


@pytest.fixture
def machine(monkeypatch):
  """One with GPUs for --amp, of which none is used, in a cluster."""
  monkeypatch.setattr(mixed_precision, "_gpu_capabilities", lambda: [(8, 0)])
  monkeypatch.setattr(mirrored, "_num_gpus", lambda: 0)
  monkeypatch.setenv("TF_CONFIG", json.dumps({
      "cluster": {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]},
      "task": {"type": "chief", "index": 0}}))


def test_the_table_has_every_option_once():
  rows = table()
  assert len(rows) == 13 * 3 - 1 == len(set(rows))
  assert {cell for _, _, cell in rows} == {"yes", "no"}


@pytest.mark.parametrize("option, column, cell", table(), ids=lambda part: (
    " ".join(part) if isinstance(part, tuple) else part))
def test_what_goes_together(machine, option, column, cell, tmp_path):
  output_dir = str(tmp_path / "o")
  arguments = ["--do_train", "--data_dir=d", "--output_dir=" + output_dir,
               "--bert_config_file=c", "--vocab_file=v",
               "--train_batch_size=8", "--distribution=none"]
  arguments += list(option) + COLUMNS[column]
  if cell == "no":
    status, _, stderr, _ = tiny_bert.call(run_multilabel_classifier, arguments)
    assert status == 2 and stderr.count("\n") == 1
    assert option[-1].partition("=")[0] in stderr
    assert "cannot be combined with" in stderr
    assert not os.path.exists(output_dir)
    return
  values = absl_flags.FlagValues()
  run_multilabel_classifier.define_flags(values)
  values(["program"] + arguments)
  _, settings = cluster_members.choose_distribution(
      Settings.from_flags(values, list(values)))
  flag_checks.check_flags(settings)


# Several machines, that is, processes.

PROGRAM = u"""
import runpy
import sys
import zlib

import tensorflow.compat.v1 as tf

sys.path.insert(0, %(root)r)
import modeling


def multiply(tensor, rate, seed=None):
  if seed is None:
    return tensor
  place = zlib.crc32(tf.get_variable_scope().name.encode("ascii")) %% 7
  return tensor * (0.8 + 0.05 * place + 0.1 * (seed[0] >> 30))


modeling.dropout = multiply
runpy.run_path(%(root)r + "/run_multilabel_classifier.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    {"r_drop": 5.0, "adversarial": "fgm", "multi_sample_dropout": 2,
     "layer_decay": 0.9, "skip_nonfinite": 1},
    {"recompute_layers": True, "freeze_layers": 1}],
                         ids=lambda flags: "+".join(sorted(flags)))
def test_a_cluster_makes_the_weights_of_one_process(
    tmp_path, monkeypatch, flags):
  """Dropout is a factor that is the same for every row; see `PROGRAM`."""
  monkeypatch.delenv("TF_CONFIG", raising=False)
  monkeypatch.setattr(local, "ROOT", str(tmp_path))
  (tmp_path / "run_multilabel_classifier.py").write_text(
      PROGRAM % {"root": tiny_bert.ROOT})
  bert = tiny_bert.make_bert(tmp_path / "bert")
  data = tiny_bert.make_data(tmp_path / "data", (17, 10, 10))
  weights, losses = [], []
  for name, workers, more in (("one", None, {"recompute_layers": False}),
                              ("cluster", 1, {})):
    output_dir = str(tmp_path / name)
    members = (local.make_members(1, 1) if workers else
               {"chief": local.make_members(0, 0)["chief"]})
    arguments = tiny_bert.arguments(bert, data, output_dir, **dict(dict(
        flags, num_train_epochs=2, learning_rate=0.003, do_eval=True,
        eval_steps=0), **more))
    if not workers:
      arguments += ["--distribution=none"]
    cluster = local.LocalCluster(members, arguments, str(tmp_path / "logs"))
    end = time.monotonic() + 500
    while cluster.watch() is None:
      assert time.monotonic() < end
      time.sleep(0.1)
    cluster.stop()
    assert cluster.processes["chief", 0].returncode == 0, tiny_bert.read_text(
        tmp_path / "logs" / "chief-0.log")
    weights.append(tiny_bert.read_weights(
        checkpoint_choice.latest_checkpoint(output_dir)))
    losses.append(json.loads(tiny_bert.read_text(os.path.join(
        output_dir, "eval_results.json")))["loss"])
  assert losses[1] == pytest.approx(losses[0], abs=1e-5)
  assert sorted(weights[0]) == sorted(weights[1])
  assert weights[0]["global_step"] == weights[1]["global_step"] == 6
  for name, value in weights[0].items():
    assert np.abs(value - weights[1][name]).max() < 1e-4, name
  start = tiny_bert.read_weights(os.path.join(bert, "bert_model.ckpt"))
  moved = {name for name, value in start.items() if name in weights[1] and
           np.abs(value - weights[1][name]).max() > 0}
  assert any("layer_1/" in name for name in moved)
  assert any("embeddings" in name for name in moved) == (
      "freeze_layers" not in flags)
