# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/chinese; its steps are tested where they are."""

import importlib
import io
import json
import os
import re

import pytest
import tiny_bert

import modeling


chinese = importlib.import_module("experiments.chinese.__main__")

HERE = os.path.dirname(os.path.abspath(chinese.__file__))


def test_table(tmp_path):
  for folder in ("baseline", "runs"):
    (tmp_path / folder).mkdir()

  def scores(value):
    return {name: value for name in (
        "micro_f1", "macro_f1", "macro_average_precision")}

  tiny_bert.write_text(tmp_path / "baseline" / "results.json", json.dumps({
      "label_prior": {"fixed": scores(0.1), "tuned": scores(0.2)},
      "tfidf": {"fixed": scores(0.3), "tuned": scores(0.4)}}))
  names = ["test_micro_f1", "test_macro_f1", "test_macro_average_precision",
           "test_micro_f1_at_0.5", "test_macro_f1_at_0.5"]
  tiny_bert.write_text(
      tmp_path / "runs" / "results.csv",
      ",".join("%s_mean,%s_std" % (name, name) for name in names) + "\n" +
      ",".join("0.%d,0.0%d" % (i, i) for i in range(1, 6)) + "\n")
  rows = chinese.score_rows(str(tmp_path))
  assert [row[1] for row in rows[:4]] == ["0.100", "0.200", "0.300", "0.400"]
  assert rows[4] == ["BERT from scratch, at 0.5", "0.400 +- 0.040",
                     "0.500 +- 0.050", "0.300 +- 0.030"]
  assert rows[5][1:] == ["0.100 +- 0.010", "0.200 +- 0.020", "0.300 +- 0.030"]


def test_configuration_fits_the_flags():
  config = modeling.BertConfig.from_dict(
      dict(chinese.BERT_CONFIG, vocab_size=chinese.VOCAB_SIZE))
  assert config.hidden_size % config.num_attention_heads == 0
  with io.open(os.path.join(HERE, "flags.txt"), encoding="utf-8") as reader:
    longest = re.search(r"--max_seq_length=(\d+)", reader.read()).group(1)
  assert config.max_position_embeddings == int(longest)


def test_a_step_that_fails_ends_it(tmp_path, monkeypatch, capfd):
  def fail(python, data, work_dir):
    chinese.run_child(python, "experiments.build_vocab", ["--unknown"])

  monkeypatch.setattr(chinese, "prepare", fail)
  monkeypatch.setattr(chinese.environment, "raise_on_sigterm", lambda: None)
  pytest.importorskip("sklearn")
  assert chinese.main(
      ["--data_dir=%s" % tmp_path, "--work_dir=%s" % tmp_path]) == 2
  assert "experiments.build_vocab failed" in capfd.readouterr().out
