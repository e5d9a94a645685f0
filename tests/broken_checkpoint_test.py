# SPDX-License-Identifier: Apache-2.0
"""Tests of files that lie: changed, cut, missing, or another run's."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
from tiny_bert import error_of

import export_saved_model
from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import trained_model
from multilabel.training import dev_evaluation
from multilabel.training import finetuning
from multilabel.training import flag_checks
import predict_session
import run_multilabel_classifier
import serve_http


INDEX, DATA, IDENTITY = ".index", ".data-00000-of-00001", ".json"
# 24 texts in batches of 8: 3 steps an epoch, 9 in all.
FLAGS = dict(num_train_epochs=3, do_eval=True, save_checkpoints_steps=2,
             keep_checkpoint_max=0, log_steps=2)


def call(*args, **flags):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      *args, **dict(FLAGS, **flags)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"),
                             sizes=(24, 10, 5))


@pytest.fixture(scope="module")
def calm(bert, data, tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("calm"))
  status, _, stderr, _ = call(bert, data, folder)
  assert (status, stderr) == (0, "")
  return folder


@pytest.fixture(scope="module")
def other(bert, data, tmp_path_factory):
  """A run of the same shape, with another seed."""
  folder = str(tmp_path_factory.mktemp("other"))
  assert call(bert, data, folder, random_seed=7)[0] == 0
  return folder


@pytest.fixture
def copy(calm, tmp_path):
  folder = str(tmp_path / "copy")
  shutil.copytree(calm, folder)
  return folder


@pytest.fixture
def newest(copy):
  """The prefix of step 9, which predicts: nothing is said of the best."""
  os.remove(os.path.join(copy, "best_checkpoint.json"))
  return os.path.join(copy, "model.ckpt-9")


def steps_of(folder):
  return [checkpoint_files.checkpoint_step(prefix)
          for prefix in trained_model.list_checkpoints(folder)]


def change(path, function):
  with open(path, "rb") as reader:
    before = reader.read()
  after = function(before)
  assert after != before
  with open(path, "wb") as writer:
    writer.write(after)


def flip(data, place=None):
  place = len(data) // 2 if place is None else place
  return data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]


# What is written.


def test_identity_of_a_checkpoint(calm):
  prefix = os.path.join(calm, "model.ckpt-9")
  identity = json.loads(tiny_bert.read_text(prefix + IDENTITY))
  settings = json.loads(tiny_bert.read_text(
      os.path.join(calm, "model_settings.json")))
  assert identity["step"] == 9
  assert identity["index_sha256"] == atomic_files.file_sha256(prefix + INDEX)
  assert identity["fingerprint"] == settings["fingerprint"]
  assert len(settings["fingerprint"]) == 64
  loss, weight = identity["run_state"]["smoothed_loss"]
  assert weight == pytest.approx(1 - 0.98 ** 9) and 0 < loss / weight < 2
  assert identity["run_state"]["last_evaluation"] == 9
  assert tf.train.latest_checkpoint(calm) == prefix
  best = json.loads(tiny_bert.read_text(
      os.path.join(calm, "best_checkpoint.json")))
  assert best["fingerprint"] == settings["fingerprint"]
  assert steps_of(calm) == [2, 3, 4, 6, 8, 9]  # 3 was the best for a time


def test_another_seed_is_another_fingerprint(calm, other):
  assert checkpoint_choice.run_identity(calm) != checkpoint_choice.run_identity(
      other)


def test_what_is_on_disk_when_the_state_file_names_it(newest, monkeypatch):
  """The order of what makes a checkpoint last through a loss of power."""
  done = []
  for name in ("sync_file", "sync_folder", "write_text"):
    original = getattr(atomic_files, name)
    monkeypatch.setattr(
        atomic_files, name, lambda path, *rest, original=original, name=name: (
            done.append((name, os.path.basename(path))),
            original(path, *rest))[1])
  checkpoint_files.finish(newest, "f", {})
  folder = ("sync_folder", os.path.basename(os.path.dirname(newest)))
  name = os.path.basename(newest)
  assert done == [
      ("sync_file", name + DATA), ("sync_file", name + INDEX), folder,
      ("write_text", name + IDENTITY), folder,
      ("write_text", "checkpoint"), folder]


# A checkpoint that is not what was written.


def bring(source, step, suffixes):
  """A function that puts another checkpoint's files in the place of one's."""
  def swap(prefix):
    for suffix in suffixes:
      shutil.copy(os.path.join(source or os.path.dirname(prefix),
                               "model.ckpt-%d%s" % (step, suffix)),
                  prefix + suffix)
  return swap


def edit(suffix, function):
  return lambda prefix: change(prefix + suffix, function)


def poison(prefix):
  """A NaN, in a checkpoint that is whole otherwise."""
  weights = tiny_bert.read_weights(prefix)
  weights["output_bias"][1] = np.nan
  names = sorted(weights)
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names),
        tensors=[tf.constant(weights[name]) for name in names]))
  identity = atomic_files.read_sealed(prefix + IDENTITY)
  identity["index_sha256"] = atomic_files.file_sha256(prefix + INDEX)
  atomic_files.write_sealed(prefix + IDENTITY, identity)


def other_run(suffixes):
  """Marks what needs the path of another run."""
  return lambda other: bring(other, 9, suffixes)


# (what is done to the newest checkpoint, what is said, whether it is found
# without reading its tensors).
DAMAGES = {
    "data, bit": (edit(DATA, flip), "data-00000-of-00001 is broken", False),
    "data, cut": (edit(DATA, lambda x: x[:-9]), "00001 is broken", False),
    "data, empty": (edit(DATA, lambda x: b""), "00001 is broken", False),
    "data, zeros": (edit(DATA, lambda x: x[:512] + bytes(512) + x[1024:]),
                    "00001 is broken", False),
    "data, older": (bring(None, 8, [DATA]), "00001 is broken", False),
    "data, gone": (lambda x: os.remove(x + DATA), "is missing", True),
    "index, bit": (edit(INDEX, flip), ".index is broken", True),
    "index, last bit": (edit(INDEX, lambda x: flip(x, -1)), ".index", True),
    "index, cut": (edit(INDEX, lambda x: x[:-1]), ".index is broken", True),
    "index, empty": (edit(INDEX, lambda x: b""), ".index is broken", True),
    "index, gone": (lambda x: os.remove(x + INDEX), "is missing", True),
    "identity, bit": (edit(IDENTITY, flip), "", True),
    "identity, cut": (edit(IDENTITY, lambda x: x[:-5]), "not JSON", True),
    "identity, empty": (edit(IDENTITY, lambda x: b""), "not JSON", True),
    "identity, gone": (lambda x: os.remove(x + IDENTITY), "is missing", True),
    "all, older": (bring(None, 8, [INDEX, DATA, IDENTITY]),
                   "9.json belongs to step 8", True),
    "both, older": (bring(None, 8, [INDEX, DATA]),
                    "from another checkpoint", True),
    "both, other": (other_run([INDEX, DATA]), "from another checkpoint", True),
    "all, other": (other_run([INDEX, DATA, IDENTITY]), "another run", True),
    "nan": (poison, "NaN or infinite weights, in output_bias", False),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_checkpoint(name, newest, copy, other):
  damage, words, is_plain = DAMAGES[name]
  if name.endswith(", other"):
    damage = damage(other)
  run = checkpoint_choice.run_identity(copy)
  assert checkpoint_files.find_problem(newest, run, True) is None
  damage(newest)
  assert words in checkpoint_files.find_problem(newest, run, True)
  # Prediction refuses, here or when it restores, or takes an older one.
  if is_plain:
    message = error_of(checkpoint_choice.prediction_checkpoint, copy)
    assert "model.ckpt-9" in message
  assert checkpoint_choice.prediction_checkpoint(copy, True) == os.path.join(
      copy, "model.ckpt-8")
  # Training goes back, and begins with what it goes on from.
  assert checkpoint_choice.recover(copy) == os.path.join(
      copy, "model.ckpt-8")
  assert tf.train.latest_checkpoint(copy) == os.path.join(copy, "model.ckpt-8")
  assert not [x for x in os.listdir(copy) if x.startswith("model.ckpt-9")]
  assert steps_of(copy)[-1] == 8


def test_nothing_to_go_back_to(newest, copy):
  for step in steps_of(copy):
    change(os.path.join(copy, "model.ckpt-%d%s" % (step, INDEX)), flip)
  before = sorted(os.listdir(copy))
  message = error_of(checkpoint_choice.recover, copy)
  assert "has no intact checkpoint to resume from (model.ckpt-9 is" in message
  assert "name another --output_dir to start over" in message
  assert sorted(os.listdir(copy)) == before
  assert "No other checkpoint of" in error_of(
      checkpoint_choice.prediction_checkpoint, copy, True)


@pytest.mark.parametrize("content", [
    b"", b"nonsense", b"\xff\xfe\x00", b"\0" * 80,
    b'model_checkpoint_path: "model.ckpt-99"\n'])
def test_a_broken_state_file(newest, copy, content):
  change(os.path.join(copy, "checkpoint"), lambda _: content)
  assert "checkpoint is broken" in error_of(
      checkpoint_choice.prediction_checkpoint, copy) or b"99" in content
  assert checkpoint_choice.prediction_checkpoint(copy, True) == newest
  assert checkpoint_choice.recover(copy) == newest
  assert tf.train.latest_checkpoint(copy) == newest


def test_a_state_file_that_lags_behind_or_lies(newest, copy):
  """The identities say what there is: no older model predicts unnoticed."""
  checkpoint_files.write_state(os.path.join(copy, "model.ckpt-8"))
  assert checkpoint_choice.prediction_checkpoint(copy) == newest
  os.remove(newest + IDENTITY)  # a kill came before it
  assert checkpoint_choice.prediction_checkpoint(copy).endswith("-8")
  assert checkpoint_choice.recover(copy).endswith("-8")
  assert steps_of(copy)[-1] == 8


# The best on dev.


def set_best(copy, step):
  path = os.path.join(copy, "best_checkpoint.json")
  best = atomic_files.read_sealed(path)
  atomic_files.write_sealed(path, dict(
      best, step=step, checkpoint="model.ckpt-%d" % step))


def test_a_broken_best_checkpoint_is_made_again(copy):
  set_best(copy, 6)
  change(os.path.join(copy, "model.ckpt-6" + DATA), flip)
  assert checkpoint_choice.recover(copy).endswith("model.ckpt-4")
  assert steps_of(copy)[-1] == 4


def test_a_broken_best_checkpoint_and_none_before_it(copy):
  set_best(copy, 6)
  for step in steps_of(copy):
    if step < 6:
      checkpoint_files.remove(os.path.join(copy, "model.ckpt-%d" % step))
  os.remove(os.path.join(copy, "model.ckpt-6" + INDEX))
  message = error_of(checkpoint_choice.recover, copy)
  assert "model.ckpt-6, the best on dev so far, is broken" in message
  assert "remove best_checkpoint.json" in message
  assert steps_of(copy) == [8, 9]


@pytest.mark.parametrize("function,words", [
    (lambda x: x.replace(b'"step": 6', b'"step": 8', 1), "was changed"),
    (lambda x: x[:-20], "is not JSON"), (lambda x: b"", "is not JSON"),
    (lambda x: x.replace(b'"sha256"', b'"sha25"'), "was changed")])
def test_a_changed_best_checkpoint_file(copy, function, words):
  set_best(copy, 6)
  change(os.path.join(copy, "best_checkpoint.json"), function)
  for reader in (checkpoint_choice.prediction_checkpoint,
                 checkpoint_choice.recover):
    message = error_of(reader, copy)
    assert "best_checkpoint.json" in message and words in message


def test_files_of_another_run(copy, other):
  shutil.copy(os.path.join(other, "best_checkpoint.json"), copy)
  assert "best_checkpoint.json is from another run" in error_of(
      checkpoint_choice.prediction_checkpoint, copy)
  os.remove(os.path.join(copy, "best_checkpoint.json"))
  shutil.copy(os.path.join(other, "model_settings.json"), copy)
  assert trained_model.read(copy).labels  # the model is of the same form
  for allow in (False, True):
    assert "from another run" in error_of(
        checkpoint_choice.prediction_checkpoint, copy, allow)
  assert "from another run" in error_of(checkpoint_choice.recover, copy)


def cut_evaluations(folder, last_step):
  """Puts an earlier state of best_checkpoint.json back."""
  path = os.path.join(folder, "best_checkpoint.json")
  best = atomic_files.read_sealed(path)
  kept = [v for v in best["evaluations"] if v["step"] <= last_step]
  found = dev_evaluation.choose(kept, best["metric"]).best
  atomic_files.write_sealed(path, dict(
      best, evaluations=kept, step=found["step"], value=found["micro_f1"],
      checkpoint="model.ckpt-%d" % found["step"]))


@pytest.mark.parametrize("last_step", [3, 6])
def test_an_earlier_best_checkpoint_json(last_step, copy):
  cut_evaluations(copy, last_step)
  for function in (checkpoint_choice.prediction_checkpoint,
                   checkpoint_choice.recover, predict_session.SessionPredictor):
    assert error_of(function, copy) == (
        "%s is an outdated copy: its last evaluation is at step %d, but "
        "model.ckpt-9 records one at step 9; restore the original file, or "
        "remove it to discard the evaluations on dev so far."
        % (os.path.join(copy, "best_checkpoint.json"), last_step))
  # Without it the newest is taken.
  os.remove(os.path.join(copy, "best_checkpoint.json"))
  assert checkpoint_choice.prediction_checkpoint(copy).endswith("model.ckpt-9")


def test_killed_between_an_evaluation_and_its_note(copy, calm):
  prefix = os.path.join(copy, "model.ckpt-9")
  identity = checkpoint_files.read_identity(prefix)
  before = dict(identity["run_state"], last_evaluation=6)
  checkpoint_files.write_identity(prefix, identity["fingerprint"], before)
  # And before best_checkpoint.json was written: the evaluation will be made.
  assert checkpoint_choice.read_best(copy)["evaluations"][-1]["step"] == 9
  assert checkpoint_choice.recover(copy) == prefix
  assert tiny_bert.read_text(prefix + IDENTITY) == tiny_bert.read_text(
      os.path.join(calm, "model.ckpt-9" + IDENTITY))
  checkpoint_files.write_identity(prefix, identity["fingerprint"], before)
  cut_evaluations(copy, 6)
  assert checkpoint_choice.read_best(copy)["evaluations"][-1]["step"] == 6
  assert checkpoint_choice.recover(copy) == prefix
  assert checkpoint_files.read_run_state(prefix) == before


def test_an_edited_threshold(copy):
  change(os.path.join(copy, "model_settings.json"), lambda x: x.replace(
      b'"threshold": 0.5', b'"threshold": 0.4'))
  message = error_of(trained_model.read, copy)
  assert "model_settings.json was changed" in message
  assert "Change thresholds with --threshold" in message


# A directory of a program that kept no identities.


def test_an_older_directory_loads_unchecked(copy):
  for name in os.listdir(copy):
    if name.startswith("model.ckpt") and name.endswith(IDENTITY):
      os.remove(os.path.join(copy, name))
  for name in ("model_settings.json", "best_checkpoint.json"):
    path = os.path.join(copy, name)
    value = atomic_files.read_sealed(path)
    for key in ("fingerprint", "earlier_runs"):
      value.pop(key, None)
    if "format_version" in value:
      value["format_version"] = 2
    tiny_bert.write_text(path, json.dumps(value))
  best = json.loads(tiny_bert.read_text(
      os.path.join(copy, "best_checkpoint.json")))["checkpoint"]
  assert checkpoint_choice.prediction_checkpoint(copy) == os.path.join(
      copy, best)
  assert checkpoint_choice.recover(copy).endswith("model.ckpt-9")


# As a whole.


def check_as_calm(folder, calm):
  first = tiny_bert.read_weights(os.path.join(calm, "model.ckpt-9"))
  second = tiny_bert.read_weights(os.path.join(folder, "model.ckpt-9"))
  assert sorted(first) == sorted(second)
  for name in first:
    assert first[name].tobytes() == second[name].tobytes(), name
  for name in ("model.ckpt-9.json", "best_checkpoint.json", "checkpoint",
               "eval_results.txt", "eval_predictions.jsonl"):
    assert tiny_bert.read_text(os.path.join(folder, name)) == (
        tiny_bert.read_text(os.path.join(calm, name))), name


def test_training_goes_back_and_ends_with_the_same_bits(
    copy, calm, bert, data):
  change(os.path.join(copy, "model.ckpt-9" + DATA), flip)
  change(os.path.join(copy, "model.ckpt-8" + INDEX), flip)
  change(os.path.join(copy, "checkpoint"), lambda _: b"?")
  change(os.path.join(copy, "train.tf_record"), flip)
  change(os.path.join(copy, "dev.tf_record.json"), lambda x: x.replace(
      b'"num_empty": 0', b'"num_empty": 1'))
  status, _, stderr, log = call(bert, data, copy)
  assert (status, stderr) == (0, "")
  text = "\n".join(log)
  for words in (
      "model.ckpt-9 is broken: model.ckpt-9.data-00000-of-00001 is broken at",
      "model.ckpt-8 is broken: model.ckpt-8.index", "falling back to step 6",
      "resuming from step 6 of 9", "checkpoint is broken; using",
      "train.tf_record is rebuilt: ", "dev.tf_record is rebuilt: "):
    assert words in text, words
  check_as_calm(copy, calm)


def test_the_predictor_refuses_unless_told(newest, copy):
  change(newest + DATA, flip)
  with pytest.raises(ValueError, match="model.ckpt-9 cannot be restored"):
    predict_session.SessionPredictor(copy)
  with predict_session.SessionPredictor(
      copy, allow_older_checkpoint=True) as predictor:
    assert predictor.step == 8
    expected = predictor.predict([u"the apple"])
  # What is another's is refused, and loads if it is told not to look.
  bring(None, 8, [INDEX, DATA])(newest)
  with pytest.raises(ValueError, match="cannot be trusted"):
    predict_session.SessionPredictor(copy)
  with pytest.raises(ValueError, match="cannot be trusted"):
    predict_session.SessionPredictor(copy, checkpoint="model.ckpt-9")
  with predict_session.SessionPredictor(
      copy, verify_checkpoint=False) as predictor:
    assert predictor.predict([u"the apple"]).tolist() == expected.tolist()
  poison(os.path.join(copy, "model.ckpt-6"))
  with pytest.raises(ValueError, match="NaN or infinite weights"):
    predict_session.SessionPredictor(copy, checkpoint="model.ckpt-6")


@pytest.mark.newest
def test_export_and_server_hand_the_flag_on(copy, tmp_path, monkeypatch):
  def refuse(*_, **options):
    raise ValueError("older ones: %s" % options["allow_older_checkpoint"])
  monkeypatch.setattr(predict_session, "SessionPredictor", refuse)
  arguments = ["--model_dir=" + copy, "--export_dir=%s" % tmp_path]
  for flag, allowed in (([], "False"), (["--allow_older_checkpoint"], "True")):
    status, _, stderr, _ = tiny_bert.call(export_saved_model, arguments + flag)
    assert (status, stderr.strip().rpartition(": ")[2]) == (2, allowed)
  pytest.importorskip("msgspec")  # the server's, from Python 3.10 on
  for allowed in (False, True):
    with pytest.raises(ValueError, match="older ones: %s" % allowed):
      serve_http.open_model(serve_http.ModelOptions(
          copy, 32, None, None, None, allowed, 1))


@pytest.mark.newest
def test_out_of_time_then_out_of_room(bert, data, calm, tmp_path, monkeypatch):
  folder = str(tmp_path / "o")
  asked = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(finetuning, "time_limit", lambda flags: (
        lambda: asked.append(1) or len(asked) > 9))
    status, _, stderr, _ = call(bert, data, folder)
  assert status == 75 and stderr.count("\n") == 1
  stopped = steps_of(folder)[-1]
  assert 2 < stopped < 8
  assert ("--max_runtime expired; the checkpoint of step %d of 9 is saved, the "
          "same command resumes." % stopped) in stderr

  save = tf.train.Saver.save

  def fill_disk(self, session, prefix, **flags):
    if not prefix.endswith("model.ckpt-9"):
      return save(self, session, prefix, **flags)
    tiny_bert.write_text(prefix + DATA + ".tempstate77", u"half")
    raise tf.errors.ResourceExhaustedError(
        None, None, prefix + DATA + ".tempstate77; No space left on device")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tf.train.Saver, "save", fill_disk)
    status, _, stderr, _ = call(bert, data, folder)
  assert status == 1 and stderr == (
      "run_multilabel_classifier.py: checkpoint %s cannot be written: No space "
      "left on device; the last checkpoint is of step 8, and the same command "
      "goes on from there when it can be written\n" % os.path.join(
          folder, "model.ckpt-9"))
  assert not [name for name in os.listdir(folder) if "tempstate" in name]
  status, _, stderr, log = call(bert, data, folder)
  assert (status, stderr) == (0, "")
  assert any("resuming from step 8 of 9" in line for line in log)
  check_as_calm(folder, calm)


@pytest.mark.newest
def test_every_start_gets_further(bert, data, calm, tmp_path, monkeypatch):
  """However short --max_runtime is; and the results are the same."""
  folder, ended = str(tmp_path / "o"), []
  monkeypatch.setattr(finetuning, "time_limit", lambda flags: (
      lambda: bool(ended)))
  evaluate = dev_evaluation.DevEvaluation.evaluate

  def stop_in(step, before):
    """The time ends in the evaluation of a step: before it, or when made."""

    def evaluate_and_stop(self, now, should_stop):
      if now == step and before:
        ended.append(step)
      made = evaluate(self, now, should_stop)
      if now == step:
        ended.append(step)
      return made
    del ended[:]
    monkeypatch.setattr(dev_evaluation.DevEvaluation, "evaluate",
                        evaluate_and_stop)

  def start():
    status, _, stderr, _ = call(bert, data, folder)
    known = checkpoint_choice.read_best(folder)
    return status, steps_of(folder)[-1:], [
        v["step"] for v in known["evaluations"]] if known else [], stderr

  stop_in(3, True)
  assert start()[:3] == (75, [3], [])
  # No time at all: the evaluation that was cut short is made, no step more.
  assert start()[:3] == (75, [3], [3])
  assert start()[:3] == (75, [4], [3])
  stop_in(9, False)
  assert start()[:3] == (75, [9], [3, 6, 9])
  # Nothing is left to train: the rest is done whatever the clock says.
  assert start() == (0, [9], [3, 6, 9], "")
  check_as_calm(folder, calm)


@pytest.mark.newest
def test_force_keeps_the_checkpoints_that_were_there(copy, bert, data):
  there = checkpoint_choice.run_identity(copy)
  status, _, stderr, _ = call(bert, data, copy, learning_rate=0.001,
                              num_train_epochs=4, resume="force")
  assert (status, stderr) == (0, "")
  run = checkpoint_choice.run_identity(copy)
  assert run.earlier == [{"fingerprint": there.fingerprint, "last_step": 9}]
  for step in steps_of(copy):
    prefix = os.path.join(copy, "model.ckpt-%d" % step)
    assert checkpoint_files.find_problem(prefix, run, True) is None
  # One of before that says it was trained after it is not the run's.
  path = os.path.join(copy, "model.ckpt-12.json")
  atomic_files.write_sealed(path, dict(
      atomic_files.read_sealed(path), fingerprint=there.fingerprint))
  assert "from another run" in checkpoint_files.find_problem(
      path[:-len(IDENTITY)], run)


@pytest.mark.newest
def test_never_refuses_a_start_that_was_cut_short(bert, data, tmp_path):
  folder = tmp_path / "o"
  folder.mkdir()
  (folder / "vocab.txt").write_text(u"half")
  (folder / ".lock").write_text(u"pid 1 on host")
  status, _, stderr, _ = call(bert, data, folder, resume="never")
  assert status == 2
  assert "already has a run that has just started (vocab.txt)" in stderr
  assert set(os.listdir(str(folder))) == {"vocab.txt", ".lock"}


@pytest.mark.parametrize("text,seconds", [
    (None, None), ("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200),
    ("1d", 86400)])
def test_runtime(text, seconds):
  assert flag_checks.parse_runtime(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "1w", "nan", "5 m", "h"])
def test_no_runtime(text):
  assert "--max_runtime is " in error_of(
      flag_checks.parse_runtime, text)
