# SPDX-License-Identifier: Apache-2.0
"""Tests of what a trained directory holds, and of what is refused there."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny_bert
from tiny_bert import error_of

import modeling
from multilabel import decisions
from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import run_lock
from multilabel.storage import model_settings
from multilabel.storage import trained_model


SETTINGS = {"do_lower_case": True, "max_seq_length": 32, "pooling": "mean",
            "loss": "sigmoid", "threshold": 0.5, "run": {"learning_rate": 0.1}}
LABELS = [u"\u52a8\u7269", "a = b", "tab\there", "comma, too"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """A folder with BERT, to copy checkpoints from."""
  return tiny_bert.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def bert(tmp_path):
  """(config, path of the vocabulary), without a checkpoint."""
  tokens = tiny_bert.vocabulary()
  tiny_bert.write_text(tmp_path / "bert_vocab.txt",
                       u"".join(token + u"\n" for token in tokens))
  return (modeling.BertConfig.from_dict(
      dict(tiny_bert.CONFIG, vocab_size=len(tokens))),
          str(tmp_path / "bert_vocab.txt"))


@pytest.fixture
def trained(tmp_path, bert):
  folder = tmp_path / "trained"
  folder.mkdir()
  trained_model.write(str(folder), bert[0], bert[1], LABELS, SETTINGS)
  return folder


def change_settings(folder, **changes):
  """Changes model_settings.json as a program would that wrote it so."""
  path = folder / "model_settings.json"
  settings = json.loads(tiny_bert.read_text(path))
  settings.update(changes)
  for key in [key for key in settings if settings[key] == "absent"]:
    del settings[key]
  if settings["format_version"] in (1, 2):
    settings.pop("sha256", None)
    tiny_bert.write_text(path, json.dumps(settings))
  else:
    trained_model.write_settings(str(folder), settings)


def test_what_is_written_is_read(trained, bert):
  found = trained_model.read(str(trained))
  assert found.path == str(trained)
  assert found.labels == LABELS
  assert found.vocab_file == str(trained / "vocab.txt")
  assert found.bert_config.to_dict() == bert[0].to_dict()
  for key in SETTINGS:
    assert found.settings[key] == SETTINGS[key]
  assert sorted(os.listdir(str(trained))) == [
      "bert_config.json", "labels.txt", "model_settings.json", "vocab.txt"]


def test_the_files_as_others_read_them(trained, bert):
  assert tiny_bert.read_text(trained / "labels.txt") == (
      u"\u52a8\u7269\na = b\ntab\there\ncomma, too\n")
  assert tiny_bert.read_text(trained / "vocab.txt") == tiny_bert.read_text(
      bert[1])
  config = json.loads(tiny_bert.read_text(trained / "bert_config.json"))
  assert config["hidden_size"] == 16 and config["num_hidden_layers"] == 2
  text = tiny_bert.read_text(trained / "model_settings.json")
  settings = json.loads(text)
  assert list(settings) == sorted(settings) and text.endswith("}\n")
  assert settings["num_labels"] == 4
  assert settings["format_version"] == 3
  assert settings["vocab_sha256"] == atomic_files.file_sha256(bert[1])


def test_written_again_over_its_own_vocabulary(trained, bert):
  before = tiny_bert.read_text(trained / "vocab.txt")
  trained_model.write(str(trained), bert[0], str(trained / "vocab.txt"), ["x"],
                  SETTINGS)
  assert tiny_bert.read_text(trained / "vocab.txt") == before
  assert trained_model.read(str(trained)).labels == ["x"]


def test_settings_come_last(tmp_path, bert, monkeypatch):
  folder = tmp_path / "out"
  folder.mkdir()
  order = []
  replace = os.replace
  monkeypatch.setattr(os, "replace", lambda a, b: (
      order.append(os.path.basename(str(b))), replace(a, b)))
  trained_model.write(str(folder), bert[0], bert[1], LABELS, SETTINGS)
  assert sorted(order) == ["bert_config.json", "labels.txt",
                           "model_settings.json", "vocab.txt"]
  assert order[-1] == "model_settings.json"


@pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt",
                                  "labels.txt", "model_settings.json"])
def test_a_missing_file_is_named(trained, name):
  os.remove(str(trained / name))
  message = error_of(trained_model.read, str(trained))
  assert "has no " + name in message and str(trained) in message


def test_no_directory(tmp_path):
  (tmp_path / "file").write_text(u"")
  for name in ("nothing", "file"):
    assert name + " is not a directory" in error_of(
        trained_model.read, str(tmp_path / name))


@pytest.mark.parametrize("changes,words", [
    ({"do_lower_case": "yes"}, 'do_lower_case is "yes"'),
    ({"max_seq_length": True}, "max_seq_length is true"),
    ({"max_seq_length": "absent"}, "max_seq_length is null"),
    ({"num_labels": None}, "num_labels is null"),
    ({"threshold": "0.5"}, 'threshold is "0.5"'),
    ({"pooling": 3}, "pooling is 3"),
    ({"vocab_sha256": "absent"}, "vocab_sha256 is null"),
    ({"format_version": 6}, "format 6, written by a newer version"),
    ({"format_version": "2"}, 'format_version is "2"'),
    ({"threshold": True}, "threshold is true"),
    ({"threshold": 1.5}, "threshold is 1.5; it must be from 0 to 1"),
    ({"threshold": [0.5] * 3}, "threshold has 3 numbers for 4 labels"),
    ({"threshold": [0.5, "0.5", 0.5, 0.5]}, 'threshold is "0.5"'),
    ({"threshold": [0.5, 0.5, 0.5, -0.1]}, "threshold is -0.1"),
    ({"threshold_kind": "best"}, "threshold_kind is best; it must be one of"),
    ({"threshold_kind": "absent"}, "threshold_kind is null"),
    ({"top_k": 0}, "top_k is 0; it must be 1 or more"),
    ({"top_k": 1.5}, "top_k is 1.5"),
    ({"always_one_label": None}, "always_one_label is null"),
    ({"long_text": "sliding"}, "long_text is sliding; it must be one of"),
    ({"long_text": "windows", "stride": 0}, "stride is 0; it must be from 1"),
    ({"long_text": "windows", "stride": 31}, "from 1 to 30"),
    ({"window_pooling": "median"}, "window_pooling is median"),
    ({"stride": "absent"}, "stride is null"),
    ({"num_labels": 3}, "has 4 labels, but model_settings.json says 3"),
    ({"vocab_sha256": "0" * 64},
     "not the file used in training"),
])
def test_settings_that_do_not_fit(trained, changes, words):
  change_settings(trained, **changes)
  assert words in error_of(trained_model.read, str(trained))


def test_defaults_of_what_was_not_said(trained):
  found = trained_model.read(str(trained))
  assert found.decision == (0.5, None, False)
  assert found.long_text == ("truncate_head", 0, "max")
  assert found.settings["threshold_kind"] == "fixed"


def test_what_is_said_is_kept(trained, bert):
  trained_model.write(str(trained), bert[0], bert[1], LABELS, dict(
      SETTINGS, threshold=[0, 1, 0.25, 0.5], threshold_kind="tune_per_label",
      top_k=2, always_one_label=True, long_text="windows", stride=30,
      window_pooling="mean"))
  found = trained_model.read(str(trained))
  assert found.decision == ([0, 1, 0.25, 0.5], 2, True)
  assert found.long_text == ("windows", 30, "mean")


def test_version_1_had_one_threshold_and_cut_texts(trained):
  change_settings(trained, format_version=1, threshold=0.25, **{
      key: "absent" for key in (
          "threshold_kind", "top_k", "always_one_label", "long_text", "stride",
          "window_pooling")})
  found = trained_model.read(str(trained))
  assert found.decision == (0.25, None, False)
  assert found.long_text == ("truncate_head", 0, "max")
  assert found.settings["format_version"] == 1
  change_settings(trained, format_version=2)
  assert "is missing or has the wrong type" in error_of(
      trained_model.read, str(trained))


def test_update_decision(trained):
  before = trained_model.read(str(trained)).settings
  rule = decisions.DecisionRule([0.1, 0.2, 0.3, 1], 3, True)
  trained_model.update_decision(trained_model.read(str(trained)),
                                "tune_per_label", rule)
  found = trained_model.read(str(trained))
  assert found.decision == rule
  assert found.settings == dict(
      before, threshold=[0.1, 0.2, 0.3, 1.0], top_k=3, always_one_label=True,
      threshold_kind="tune_per_label")
  path = trained / "model_settings.json"
  times = os.stat(str(path)).st_mtime_ns
  assert trained_model.update_decision(
      found, "tune_per_label", rule).settings == found.settings
  assert os.stat(str(path)).st_mtime_ns == times
  trained_model.update_decision(found, "fixed", decisions.DecisionRule(0.5))
  assert trained_model.read(str(trained)).settings == before


def test_update_decision_makes_version_1_to_3(trained):
  change_settings(trained, format_version=1, stride="absent")
  rule = decisions.DecisionRule(np.float64(0.3))
  trained_model.update_decision(trained_model.read(str(trained)), "fixed", rule)
  settings = json.loads(tiny_bert.read_text(trained / "model_settings.json"))
  assert (settings["format_version"], settings["threshold"],
          settings["stride"]) == (3, 0.3, 0)


@pytest.mark.parametrize("content,words", [
    (b"", "is not JSON"), (b"{", "is not JSON"), (b"\xff{}", "is not JSON"),
    (b"[]", "must hold a JSON object"), (b"null", "must hold a JSON object")])
def test_settings_that_are_none(trained, content, words):
  (trained / "model_settings.json").write_bytes(content)
  message = error_of(trained_model.read, str(trained))
  assert words in message and "model_settings.json" in message


@pytest.mark.parametrize("content", [
    b"", b"\n", b"a\n\nb\n", b"a\nb\na\n", b"a\xff\n"])
def test_broken_labels(trained, content):
  (trained / "labels.txt").write_bytes(content)
  assert "labels.txt" in error_of(trained_model.read, str(trained))


def test_labels_without_a_last_line_feed(tmp_path):
  (tmp_path / "labels.txt").write_bytes(b"a\n b\xe2\x80\xa8c ")
  assert model_settings.read_labels(str(tmp_path / "labels.txt")) == [
      "a", u" b\u2028c "]


def test_a_changed_vocabulary_is_refused(trained):
  path = trained / "vocab.txt"
  path.write_bytes(path.read_bytes().replace(b"pear", b"bear"))
  assert "vocab.txt is not the file used in training" in error_of(
      trained_model.read, str(trained))


def test_no_difference(trained, bert):
  assert trained_model.differences(
      trained_model.read(str(trained)), bert[0], bert[1], LABELS,
      {"pooling": "mean"}) == []


def test_every_difference_is_named(trained, bert, tmp_path):
  config = modeling.BertConfig.from_dict(dict(
      bert[0].to_dict(), hidden_size=32, num_hidden_layers=3))
  other = tmp_path / "other.txt"
  other.write_text(u"[PAD]\n")
  found = trained_model.differences(
      trained_model.read(str(trained)), config, str(other), ["new", "a = b"],
      {"pooling": "cls", "max_seq_length": 32, "do_lower_case": False})
  assert found == [
      u"labels (4 there, 2 here, only there: \u52a8\u7269, tab\there, "
      u"comma, too, only here: new)",
      "bert_config hidden_size (there 16, here 32)",
      "bert_config num_hidden_layers (there 2, here 3)",
      "vocabulary (%s is a different one)" % other,
      "do_lower_case (there true, here false)",
      'pooling (there "mean", here "cls")']


def test_labels_in_another_order_differ(trained, bert):
  assert trained_model.differences(
      trained_model.read(str(trained)), bert[0], bert[1], LABELS[::-1], {}) == [
          "labels (same labels, different order)"]


def test_new_and_own_directories_are_accepted(trained, tmp_path):
  (tmp_path / "empty").mkdir()
  begun = tmp_path / "begun"
  begun.mkdir()
  for name in ("vocab.txt", "labels.txt", "bert_config.json",
               "train.tf_record", "train.tf_record.json",
               ".vocab.txt.0123456789ab.tmp", ".DS_Store"):
    (begun / name).write_text(u"")
  (begun / ".lock").write_text(u"pid 12 on host")
  (trained / "anything").write_text(u"")
  for folder in (tmp_path / "empty", tmp_path / "new" / "and" / "deep", begun,
                 trained, tmp_path / u"mit Leer \u76ee\u5f55"):
    existed = folder.exists()
    run_lock.check_output_dir(str(folder))
    assert folder.exists() == existed


def test_foreign_directories_are_refused(tmp_path):
  folder = tmp_path / "foreign"
  folder.mkdir()
  for name in ("thesis.docx", "thesis.tmp", "vocab.txt",
               "model.ckpt-3.index"):
    (folder / name).write_text(u"")
  message = error_of(run_lock.check_output_dir, str(folder))
  assert "is not empty" in message and "model.ckpt-3.index" in message
  assert "thesis.docx" in message and message.count("thesis") == 2
  assert "is a file" in error_of(
      run_lock.check_output_dir, str(folder / "thesis.docx"))
  assert "cannot be written" in error_of(
      run_lock.check_output_dir, str(folder / "thesis.docx" / "below"))
  os.symlink(str(tmp_path / "gone"), str(tmp_path / "link"))
  assert "link is a file" in error_of(
      run_lock.check_output_dir, str(tmp_path / "link"))


@pytest.mark.parametrize("name", [
    "thesis.tmp", "vocab.txt", "labels.txt", "bert_config.json",
    "train.tf_record", "train.tf_record-00000-of-00002",
    "events.out.tfevents.1.host"])
def test_a_single_file_of_somebody_s(tmp_path, name):
  (tmp_path / name).write_text(u"years")
  (tmp_path / ".DS_Store").write_text(u"")
  assert name in error_of(run_lock.check_output_dir, str(tmp_path))
  # Once a run has locked it; what no run makes is somebody's all the same.
  (tmp_path / ".lock").write_text(u"pid 12 on host")
  if name == "thesis.tmp":
    assert name in error_of(run_lock.check_output_dir, str(tmp_path))
  else:
    run_lock.check_output_dir(str(tmp_path))
  assert (tmp_path / name).read_text() == u"years"


def test_a_lock_of_another_program(tmp_path):
  (tmp_path / ".lock").write_text(u"1234\n")
  assert ".lock, which is not from a training run" in error_of(
      run_lock.check_output_dir, str(tmp_path))
  assert (tmp_path / ".lock").read_text() == u"1234\n"
  (tmp_path / ".lock").write_text(u"")  # as a kill leaves it
  run_lock.check_output_dir(str(tmp_path))


def test_a_run_that_fails_early_marks_no_directory(tmp_path):
  with pytest.raises(KeyError):
    with run_lock.lock(str(tmp_path)):
      raise KeyError()
  assert os.listdir(str(tmp_path)) == []


def test_only_what_a_run_began_to_write_is_removed(trained):
  for name in ("thesis.tmp", ".vocab.txt.0123456789ab.tmp",
               ".thesis.0123456789.tmp", ".thesis.txt.0123456789ab.tmp",
               ".predictions.jsonl.0123456789ab.tmp"):
    (trained / name).write_text(u"")
  (trained / ".folder.0123456789ab.tmp").mkdir()
  before = set(os.listdir(str(trained)))
  run_lock.remove_temporary_files(str(trained))
  assert before - set(os.listdir(str(trained))) == {
      ".vocab.txt.0123456789ab.tmp"}


@pytest.mark.parametrize("name", ["run[1]", "what?", "all*", "back\\slash"])
def test_names_that_are_patterns_are_refused(tmp_path, name):
  message = error_of(run_lock.check_output_dir, str(tmp_path / name))
  assert "treats as a pattern" in message and name in message


def test_a_directory_without_the_right_to_write(tmp_path):
  if os.geteuid() == 0:
    pytest.skip("root may write anywhere")
  folder = tmp_path / "closed"
  folder.mkdir()
  folder.chmod(0o500)
  assert "cannot be written" in error_of(
      run_lock.check_output_dir, str(folder / "new"))


def put_checkpoint(bert_folder, folder, step):
  for name in os.listdir(bert_folder):
    if name.startswith("bert_model.ckpt."):
      shutil.copy(os.path.join(bert_folder, name), str(folder / name.replace(
          "bert_model.ckpt", "model.ckpt-%d" % step)))


def write_state(folder, text):
  (folder / "checkpoint").write_text(text)


def test_newest_checkpoint(checkpoint, tmp_path):
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) is None
  assert checkpoint_choice.latest_checkpoint(str(tmp_path / "nothing")) is None
  put_checkpoint(checkpoint, tmp_path, 9)
  put_checkpoint(checkpoint, tmp_path, 10)
  write_state(tmp_path, u'model_checkpoint_path: "model.ckpt-9"\n')
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) == str(
      tmp_path / "model.ckpt-9")


def test_newest_checkpoint_without_the_state_file(checkpoint, tmp_path):
  put_checkpoint(checkpoint, tmp_path, 9)
  put_checkpoint(checkpoint, tmp_path, 10)
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) == str(
      tmp_path / "model.ckpt-10")
  (tmp_path / "model.ckpt-10.index").write_bytes(b"cut")
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) == str(
      tmp_path / "model.ckpt-9")
  os.remove(str(tmp_path / "model.ckpt-9.data-00000-of-00001"))
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) is None


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_that_is_gone_is_no_new_beginning(
    checkpoint, tmp_path, suffix):
  put_checkpoint(checkpoint, tmp_path, 9)
  write_state(tmp_path, u'model_checkpoint_path: "model.ckpt-9"\n')
  os.remove(str(tmp_path / ("model.ckpt-9" + suffix)))
  message = error_of(checkpoint_choice.latest_checkpoint, str(tmp_path))
  assert "model.ckpt-9" + suffix + " is missing" in message


@pytest.mark.parametrize("content", [b"", b"nonsense {", b"\xff\xfe\x00"])
def test_a_broken_state_file_is_no_new_beginning(tmp_path, content):
  (tmp_path / "checkpoint").write_bytes(content)
  assert "checkpoint is broken" in error_of(
      checkpoint_choice.latest_checkpoint, str(tmp_path))


# The checkpoint to predict with.


BEST = {"checkpoint": "model.ckpt-9", "step": 9, "metric": "loss",
        "value": 0.25, "evaluations": [{"step": 9, "loss": 0.25}]}


def write_best(folder, **changes):
  best = dict(BEST, **changes)
  tiny_bert.write_text(folder / "best_checkpoint.json", json.dumps(
      {key: best[key] for key in best if best[key] != "absent"}))


def test_best_checkpoint(checkpoint, tmp_path):
  assert checkpoint_choice.best_checkpoint(str(tmp_path)) is None
  assert checkpoint_choice.prediction_checkpoint(str(tmp_path)) is None
  put_checkpoint(checkpoint, tmp_path, 9)
  put_checkpoint(checkpoint, tmp_path, 10)
  newest = str(tmp_path / "model.ckpt-10")
  assert checkpoint_choice.prediction_checkpoint(str(tmp_path)) == newest
  write_best(tmp_path)
  assert checkpoint_choice.best_checkpoint(str(tmp_path)) == BEST
  assert checkpoint_choice.prediction_checkpoint(str(tmp_path)) == str(
      tmp_path / "model.ckpt-9")
  assert checkpoint_choice.latest_checkpoint(str(tmp_path)) == newest
  write_best(tmp_path, value=None)  # an undefined metric
  assert checkpoint_choice.best_checkpoint(str(tmp_path))["value"] is None


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_best_checkpoint_that_is_gone(checkpoint, tmp_path, suffix):
  put_checkpoint(checkpoint, tmp_path, 9)
  put_checkpoint(checkpoint, tmp_path, 10)
  write_best(tmp_path)
  os.remove(str(tmp_path / ("model.ckpt-9" + suffix)))
  message = error_of(checkpoint_choice.prediction_checkpoint, str(tmp_path))
  assert "model.ckpt-9%s is missing" % suffix in message
  assert "remove best_checkpoint.json to use the newest" in message
  assert checkpoint_choice.prediction_checkpoint(
      str(tmp_path), allow_older=True) == str(tmp_path / "model.ckpt-10")


@pytest.mark.parametrize("changes,words", [
    ({"checkpoint": "absent"}, "checkpoint is null"),
    ({"checkpoint": "../model.ckpt-9"}, 'checkpoint is "../model.ckpt-9"'),
    ({"checkpoint": "model.ckpt-9.index"}, "a name like model.ckpt-100"),
    ({"checkpoint": "model.ckpt-"}, "a name like model.ckpt-100"),
    ({"step": True}, "step is true"), ({"step": "9"}, 'step is "9"'),
    ({"metric": None}, "metric is null"), ({"value": "0.2"}, "value is"),
    ({"evaluations": "absent"}, "evaluations is null"),
    ({"evaluations": {}}, "evaluations is {}"),
])
def test_a_broken_best_checkpoint_file(checkpoint, tmp_path, changes, words):
  put_checkpoint(checkpoint, tmp_path, 9)
  write_best(tmp_path, **changes)
  message = error_of(checkpoint_choice.best_checkpoint, str(tmp_path))
  assert words in message and "best_checkpoint.json" in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_best_checkpoint_file_that_is_none(tmp_path, content):
  (tmp_path / "best_checkpoint.json").write_bytes(content)
  assert "best_checkpoint.json" in error_of(
      checkpoint_choice.best_checkpoint, str(tmp_path))


def test_list_checkpoints(checkpoint, tmp_path):
  assert trained_model.list_checkpoints(str(tmp_path / "nothing")) == []
  for step in (100, 9, 20):
    put_checkpoint(checkpoint, tmp_path, step)
  put_checkpoint(checkpoint, tmp_path, 7)
  os.remove(str(tmp_path / "model.ckpt-7.data-00000-of-00001"))
  assert trained_model.list_checkpoints(str(tmp_path)) == [
      str(tmp_path / ("model.ckpt-%d" % step)) for step in (9, 20, 100)]


def test_lock_keeps_a_second_run_out(tmp_path):
  folder = str(tmp_path / "new")
  with run_lock.lock(folder):
    with pytest.raises(ValueError) as raised:
      with run_lock.lock(folder):
        pass
    assert "in use by another run (pid %d on " % os.getpid() in str(
        raised.value)
  with run_lock.lock(folder):
    pass


@pytest.mark.parametrize("name", ["labels.txt", "bert_config.json",
                                  "vocab.txt"])
def test_swapped_bytes_of_a_trained_directory_are_noticed(name, tmp_path):
  folder = tiny_bert.make_bert(str(tmp_path / "bert"))
  config = modeling.BertConfig.from_json_file(
      os.path.join(folder, "bert_config.json"))
  trained_model.write(
      str(tmp_path), config, os.path.join(folder, "vocab.txt"), ["a", "b"],
      {"do_lower_case": True, "max_seq_length": 8, "pooling": "cls",
       "loss": "sigmoid", "threshold": 0.5})
  assert trained_model.read(str(tmp_path)).labels == ["a", "b"]
  path = tmp_path / name
  data = path.read_bytes()
  changed = {"labels.txt": b"b\na\n",
             "bert_config.json": data.replace(b"0.1", b"0.2"),
             "vocab.txt": data + b"more\n"}[name]
  assert changed != data
  path.write_bytes(changed)
  with pytest.raises(ValueError) as raised:
    trained_model.read(str(tmp_path))
  assert "%s is not the file used in training" % path in str(
      raised.value)
