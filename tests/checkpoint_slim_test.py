# SPDX-License-Identifier: Apache-2.0
"""What a run keeps of its checkpoints, and that a kill on the way does no harm.
"""

import os
import re
import shutil

import numpy as np
import pytest
import tiny_bert

from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_slim
from multilabel.training import evaluation
from predict_session import SessionPredictor
import run_multilabel_classifier

RUN = dict(do_eval=True, eval_steps=5, save_checkpoints_steps=5,
           num_train_epochs=2, train_batch_size=8)
TEXTS = ["the apple", "we see", "plum , pear"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  tiny_bert.write_jsonl(folder / "train.jsonl", tiny_bert.make_rows(80, 1))
  tiny_bert.write_jsonl(folder / "dev.jsonl", tiny_bert.make_rows(20, 2, "dev"))
  return folder


def call(bert, data, output_dir, **flags):
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(bert, data, output_dir, **dict(RUN, **flags)))
  assert status == 0, stderr
  return log


@pytest.fixture
def best_is_step_5(monkeypatch):
  """The first evaluation is the best, whatever the model does."""
  scores = evaluation.dev_scores
  calls = []

  def worse_each_time(*arguments, **options):
    found = scores(*arguments, **options)
    calls.append(1)
    found.values["micro_f1"] = 1.0 / len(calls)
    return found

  monkeypatch.setattr(evaluation, "dev_scores", worse_each_time)


def steps(folder):
  """{step: whether it has optimizer state} of the checkpoints there."""
  return {checkpoint_files.checkpoint_step(prefix): any(
      name.endswith("adam_m") for name in tiny_bert.read_weights(prefix))
          for prefix in checkpoint_files.list_checkpoints(str(folder))}


def others(folder):
  """Files of checkpoints beyond the three of each that is listed."""
  there = set(steps(folder))
  return [name for name in os.listdir(str(folder))
          if name.startswith(".slim") or "ckpt" in name and int(
              re.search(r"ckpt-(\d+)", name).group(1)) not in there]


def test_a_finished_run_keeps_the_newest_and_the_weights_of_the_best(
    bert, data, tmp_path, best_is_step_5, monkeypatch):
  seen = []
  remove_old = checkpoint_slim.remove_old

  def spy(prefixes, best_step, keep):
    remove_old(prefixes, best_step, keep)
    if prefixes:
      seen.append(steps(os.path.dirname(prefixes[0])))

  monkeypatch.setattr(checkpoint_slim, "remove_old", spy)
  log = call(bert, data, tmp_path / "run")
  # While it trains: the best and the two newest ones.
  assert {5: True, 10: True} in seen
  assert {5: False, 10: True, 15: True} in seen
  assert seen[-1] == {5: False, 15: True, 20: True}
  assert steps(tmp_path / "run") == {5: False, 20: True}
  assert not others(tmp_path / "run")
  kept = [line for line in log if re.match("Kept|Removed", line)]
  assert re.match(r"Kept model.ckpt-5, \d+\.\d MB: the best on dev, weights "
                  "only$", kept[0])
  assert re.match(r"Kept model.ckpt-20, \d+\.\d MB: the newest, complete: the "
                  "run can be resumed from it$", kept[1])
  assert kept[2:] == ["Removed model.ckpt-15"]
  results = tiny_bert.read_text(tmp_path / "run" / "eval_results.txt")
  assert "global_step = 5\n" in results
  with SessionPredictor(str(tmp_path / "run")) as predictor:
    assert predictor.step == 5
    before = predictor.predict(TEXTS)
  # The same command finds it finished and changes nothing.
  log = call(bert, data, tmp_path / "run")
  assert any("already finished: step 20 of 20" in line for line in log)
  assert steps(tmp_path / "run") == {5: False, 20: True}
  assert tiny_bert.read_text(tmp_path / "run" / "eval_results.txt") == results
  # More epochs go on from the newest.
  log = call(bert, data, tmp_path / "run", num_train_epochs=3, resume="force")
  assert any("resuming from step 20 of 30" in line for line in log)
  with SessionPredictor(str(tmp_path / "run"),
                        checkpoint="model.ckpt-5") as predictor:
    np.testing.assert_array_equal(predictor.predict(TEXTS), before)


def test_slim_keeps_the_weights_to_predict_with(bert, data, tmp_path,
                                                best_is_step_5):
  call(bert, data, tmp_path / "run")
  with SessionPredictor(str(tmp_path / "run")) as predictor:
    before = predictor.predict(TEXTS)
  results = tiny_bert.read_text(tmp_path / "run" / "eval_results.txt")
  # Also what was finished before is made slim.
  log = call(bert, data, tmp_path / "run", slim=True)
  assert steps(tmp_path / "run") == {5: False}
  assert not others(tmp_path / "run")
  assert "Removed model.ckpt-20" in log
  for slim in (True, False):  # the same command, and without the flag
    log = call(bert, data, tmp_path / "run", slim=slim)
    assert any("already finished" in line for line in log)
    assert steps(tmp_path / "run") == {5: False}
    assert tiny_bert.read_text(
        tmp_path / "run" / "eval_results.txt") == results
  with SessionPredictor(str(tmp_path / "run")) as predictor:
    np.testing.assert_array_equal(predictor.predict(TEXTS), before)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, tmp_path / "run",
          **dict(RUN, num_train_epochs=3, resume="force")))
  assert status == 2
  assert "has only weights, so the run cannot be resumed" in stderr
  # Its weights are an encoder.
  call(bert, data, tmp_path / "next", encoder=tmp_path / "run",
       bert_config_file=None, vocab_file=None, init_checkpoint=None,
       num_train_epochs=1)


def test_without_dev_the_newest_is_kept(bert, data, tmp_path):
  call(bert, data, tmp_path / "run", do_eval=False, eval_steps=None)
  assert steps(tmp_path / "run") == {20: True}
  call(bert, data, tmp_path / "run", do_eval=False, eval_steps=None, slim=True)
  assert steps(tmp_path / "run") == {20: False}
  call(bert, data, tmp_path / "all", do_eval=False, eval_steps=None,
       keep_checkpoint_max=0)
  assert steps(tmp_path / "all") == {step: True for step in (5, 10, 15, 20)}


@pytest.fixture(scope="module")
def run(bert, data, tmp_path_factory):
  """A folder with the whole checkpoints of a run."""
  folder = tmp_path_factory.mktemp("runs") / "run"
  call(bert, data, folder, keep_checkpoint_max=0)
  return folder


@pytest.mark.parametrize("num_moved", [None, 0, 1, 2, 3])
def test_a_kill_while_the_optimizer_is_dropped(run, tmp_path, num_moved):
  """None: before the new files were whole; else so many of them were moved."""
  folder = str(tmp_path / "run")
  shutil.copytree(str(run), folder)
  prefix = os.path.join(folder, "model.ckpt-5")
  weights = {name: value for name, value in
             tiny_bert.read_weights(prefix).items() if "adam" not in name}
  other = str(tmp_path / "slim")
  shutil.copytree(folder, other)
  checkpoint_slim.drop_optimizer(os.path.join(other, "model.ckpt-5"))
  work_dir = os.path.join(folder, ".slim-model.ckpt-5")
  os.mkdir(work_dir)
  suffixes = (checkpoint_files.DATA, checkpoint_files.INDEX,
              checkpoint_files.IDENTITY)
  for number, suffix in enumerate(suffixes):
    if num_moved is None and suffix == checkpoint_files.IDENTITY:
      continue
    shutil.copyfile(os.path.join(other, "model.ckpt-5" + suffix), os.path.join(
        folder if number < (num_moved or 0) else work_dir,
        "model.ckpt-5" + suffix))
  identity = checkpoint_choice.run_identity(folder)
  assert checkpoint_choice.recover(folder) == os.path.join(
      folder, "model.ckpt-20")
  assert not os.path.exists(work_dir)
  assert checkpoint_files.find_problem(prefix, identity, True) is None
  assert checkpoint_slim.is_weights_only(prefix) == (num_moved is not None)
  found = tiny_bert.read_weights(prefix)
  assert set(weights) <= set(found)
  for name, value in weights.items():
    np.testing.assert_array_equal(found[name], value)
  # Where all whole ones are lost, it is nothing to go on from.
  if num_moved is not None:
    for step in (10, 15, 20):
      os.remove(os.path.join(folder, "model.ckpt-%d.data-00000-of-00001" %
                             step))
    with pytest.raises(ValueError, match="no intact checkpoint to resume from"):
      checkpoint_choice.recover(folder)


def test_a_foreign_folder_of_such_a_name_stays(tmp_path):
  for name in (".slim-x", ".slim-model.ckpt-a", "slim-model.ckpt-1"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("mine")
  checkpoint_slim.finish_moves(str(tmp_path))
  assert len(set(tmp_path.glob("*/file")) | set(tmp_path.glob(".*/file"))) == 3
