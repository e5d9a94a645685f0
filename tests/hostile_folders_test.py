# SPDX-License-Identifier: Apache-2.0
"""Folders with pipes, links and files of somebody's: a sentence, soon.

A pipe that nobody writes into would be waited for, a device would not end, and
a link would have a run write where nobody meant it to.
"""

import os
import shutil
import signal
import socket

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import explain_labels
from multilabel import head
from multilabel.common import atomic_files
from multilabel.features import record_file
from multilabel.storage import encoders
from multilabel.storage import event_files
from multilabel.storage import model_settings
from multilabel.storage import own_results
from multilabel.storage import trained_model
import predict_session
from processors import file_bytes
from processors import unlabelled
import run_multilabel_classifier
import tokenization


@pytest.fixture(autouse=True)
def no_waiting():
  """What waits for a pipe would wait for ever."""
  def give_up(*unused):
    raise AssertionError("it waits")

  before = signal.signal(signal.SIGALRM, give_up)
  signal.alarm(200)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture
def copy(learned, tmp_path):
  folder = str(tmp_path / "copy")
  shutil.copytree(learned.output_dir, folder)
  return folder


def refused(module, line):
  status, stdout, stderr, _ = tiny_bert.call(module, line)
  assert (status, stdout) == (2, ""), stderr
  assert stderr.count("\n") == 1 and "Traceback" not in stderr
  return stderr


def again(folder, data, **flags):
  return tiny_bert.flag_list(dict(
      {"task_name": "jsonl", "data_dir": data, "output_dir": folder}, **flags))


def best(folder):
  """The checkpoint that predicts: str, its prefix."""
  return os.path.join(folder, atomic_files.read_json(os.path.join(
      folder, "best_checkpoint.json"))["checkpoint"])


def put_pipe(path):
  os.remove(path)
  os.mkfifo(path)


# Pipes, sockets, devices.


@pytest.mark.parametrize("name", [
    "model_settings.json", "bert_config.json", "vocab.txt", "labels.txt",
    "best_checkpoint.json", ".index", ".json", ".data-00000-of-00001"])
def test_pipes_in_a_trained_directory(copy, data, tmp_path, name):
  put_pipe(os.path.join(copy, name) if name[0] != "." else best(copy) + name)
  lines = [
      (predict_session, ["--model_dir=" + copy, "--output_file=%s" % (
          tmp_path / "o.jsonl"), "--input_file=" + __file__]),
      (run_multilabel_classifier, again(copy, data, do_eval=True)),
      (run_multilabel_classifier, again(
          str(tmp_path / "o"), data, do_train=True, encoder=copy,
          report=False))]
  for module, line in lines:
    assert copy in refused(module, line)
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", [".lock", "checkpoint", "eval_results.txt",
                                  "eval_predictions.jsonl"])
def test_pipes_where_a_run_would_write(copy, data, name):
  put_pipe(os.path.join(copy, name))
  if name == "checkpoint":  # it is only looked at where others do not tell
    put_pipe(best(copy) + ".json")
  assert copy in refused(run_multilabel_classifier,
                         again(copy, data, do_eval=True))


def test_pipes_in_an_encoder_and_in_data(bert, data, tmp_path):
  for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index",
               "bert_model.ckpt.data-00000-of-00001"):
    folder = str(tmp_path / name)
    shutil.copytree(bert, folder)
    put_pipe(os.path.join(folder, name))
    message = refused(run_multilabel_classifier, tiny_bert.arguments(
        folder, data, tmp_path / "o"))
    assert name in message and "not a file" in message
  for name in ("train.jsonl", "dev.jsonl", "labels.txt"):
    folder = str(tmp_path / name)
    shutil.copytree(data, folder)
    put_pipe(os.path.join(folder, name))
    assert "%s is not a file." % name in refused(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, folder, tmp_path / "o", do_eval=True))
  assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("form", ["text", "jsonl", "json", "csv", "parquet",
                                  "xlsx"])
def test_an_input_file_that_nobody_writes(tmp_path, monkeypatch, form):
  if form in ("parquet", "xlsx"):
    pytest.importorskip({"parquet": "pyarrow", "xlsx": "openpyxl"}[form])
  monkeypatch.setattr(file_bytes, "PIPE_SECONDS", 0.2)
  path = str(tmp_path / "pipe")
  os.mkfifo(path)
  with pytest.raises(ValueError, match="nothing has opened|it is not a file"):
    list(unlabelled.read_texts(path, form))
  holder = socket.socket(socket.AF_UNIX)
  os.remove(path)
  holder.bind(path)
  with pytest.raises(ValueError, match="cannot be read|it is not a file"):
    list(unlabelled.read_texts(path, form))
  holder.close()


def test_a_vocabulary_that_is_a_device():
  with pytest.raises(ValueError, match="it is not a file"):
    tokenization.load_vocab("/dev/zero")


# Links.


@pytest.mark.parametrize("name", [
    ".lock", "eval_results.txt", "train.tf_record.json", "model_card.md",
    "report.html", "vocab.txt", "model_settings.json", "checkpoint"])
def test_a_link_that_a_run_would_write_through(copy, data, tmp_path, name):
  path, victim = os.path.join(copy, name), str(tmp_path / "victim")
  if os.path.exists(path):
    shutil.move(path, victim)
  else:
    tiny_bert.write_text(victim, u"years")
  os.symlink(victim, path)
  before = tiny_bert.read_text(victim)
  message = refused(run_multilabel_classifier, again(copy, data, do_eval=True))
  assert "%s is a symbolic link to %s" % (name, victim) in message
  assert tiny_bert.read_text(victim) == before and os.path.islink(path)


def test_links_that_only_read(copy, data, tmp_path):
  # Its content is compared with what the model was trained with, as a file's.
  vocab, inside = (os.path.join(copy, name) for name in ("vocab.txt", "other"))
  shutil.move(vocab, inside)
  os.symlink("other", vocab)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, again(copy, data, do_eval=True))
  assert (status, stderr) == (0, "")
  outside = str(tmp_path / "outside")
  shutil.move(inside, outside)
  os.remove(vocab)
  os.symlink(outside, vocab)
  with predict_session.SessionPredictor(copy) as predictor:
    assert predictor.predict(["the apple"]).shape == (1, 3)
  tiny_bert.write_text(outside, u"root:x:0\n")
  with pytest.raises(ValueError, match="vocab.txt, a symbolic link to .*outsi"
                     "de, is not the file used in training"):
    predict_session.SessionPredictor(copy)


def test_an_encoder_of_links_into_a_cache(bert, tmp_path):
  # Folders of hubs are made of such links.
  blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1a2b"
  blobs.mkdir()
  snapshot.mkdir(parents=True)
  for name in os.listdir(bert):
    shutil.copy(os.path.join(bert, name), str(blobs / name))
    (snapshot / name).symlink_to(os.path.join("..", "..", "blobs", name))
  found = encoders.resolve(str(snapshot))
  assert (found.form, found.init_checkpoint) == (
      "google", str(snapshot / "bert_model.ckpt"))
  assert len(tokenization.load_vocab(found.vocab_file)) == len(
      tiny_bert.vocabulary())


# Files of somebody's under the names of results.


NOTES = {
    "eval_results.txt": u"ask Anna about these\n",
    "eval_results.json": u'{"notes": 1}', "test_results.tsv": u"a\tb\n",
    "test_eval_results.txt": u"a = b\n", "test_eval_results.json": u"[]",
    "eval_predictions.jsonl": u'{"id": 1}\n',
    "test_predictions.jsonl": u"[" * 100000,
    "test_predictions.csv": u"id,text\n1,a\n",
}


@pytest.mark.parametrize("name", sorted(NOTES))
def test_notes_are_not_replaced(copy, data, tmp_path, name):
  folder = str(tmp_path / "d")
  shutil.copytree(data, folder)
  tiny_bert.write_jsonl(os.path.join(folder, "test.jsonl"),
                        tiny_bert.make_rows(5, 3))
  path = os.path.join(copy, name)
  tiny_bert.write_text(path, NOTES[name])
  message = refused(run_multilabel_classifier, again(
      copy, folder, do_eval=True, do_test=True, do_predict=True))
  assert "%s exists and is not from a training run" % path in message
  assert tiny_bert.read_text(path) == NOTES[name]


def test_results_of_a_run_are_its_own(copy, data, tmp_path):
  folder = str(tmp_path / "d")
  shutil.copytree(data, folder)
  tiny_bert.write_jsonl(os.path.join(folder, "test.jsonl"),
                        tiny_bert.make_rows(5, 3))
  line = again(copy, folder, do_eval=True, do_test=True, do_predict=True)
  for _ in range(2):
    status, _, stderr, _ = tiny_bert.call(run_multilabel_classifier, line)
    assert (status, stderr) == (0, "")
  assert all(own_results.is_own(os.path.join(copy, name)) for name in NOTES)


def test_a_report_of_somebody_s_stays(copy, data):
  pytest.importorskip("matplotlib")
  path = os.path.join(copy, "report.html")
  tiny_bert.write_text(path, u"<!doctype html><title>Mine</title>")
  status, _, stderr, log = tiny_bert.call(
      run_multilabel_classifier, again(copy, data, do_eval=True))
  assert (status, stderr) == (0, "")
  assert ["No report.html: %s exists and is not a report of a run; move it "
          "away." % path] == [
              line for line in log if "report.html" in line]
  assert "Mine" in tiny_bert.read_text(path)
  os.remove(path)
  for _ in range(2):
    status, _, stderr, log = tiny_bert.call(
        run_multilabel_classifier, again(copy, data, do_eval=True))
    assert any(line.startswith("***** Report: ") for line in log)


# A configuration that claims more than the weights have.


@pytest.mark.parametrize("changes, words", [
    ({"num_hidden_layers": 1000}, "it lacks bert/encoder/layer_1/"),
    ({"hidden_size": 32}, "has shape [3, 16] in the checkpoint but"),
    ({"vocab_size": 4000}, "word_embeddings has shape [32, 16] in"),
    ({"intermediate_size": 64}, "has shape [16, 32] in the checkpoint but"),
])
def test_sizes_that_the_checkpoint_has_not(copy, data, monkeypatch, changes,
                                           words):
  path = os.path.join(copy, "bert_config.json")
  config = dict(atomic_files.read_json(path), **changes)
  vocab = os.path.join(copy, "vocab.txt")
  tiny_bert.write_text(vocab, tiny_bert.read_text(vocab) + "".join(
      u"[unused%d]\n" % number for number in range(config["vocab_size"] - 32)))
  atomic_files.write_text(path, atomic_files.to_json(config))
  settings = model_settings.read_settings(
      os.path.join(copy, "model_settings.json"))
  for key, name in (("bert_config_sha256", path), ("vocab_sha256", vocab)):
    settings[key] = atomic_files.file_sha256(name)
  trained_model.write_settings(copy, settings)
  monkeypatch.setattr(head, "create_inference_graph", None)  # too late then
  for module, line in (
      (predict_session, ["--model_dir=" + copy, "the apple"]),
      (explain_labels, ["--model_dir=" + copy, "the apple"]),
      (run_multilabel_classifier, again(copy, data, do_eval=True))):
    message = refused(module, line)
    assert words in message and "bert_config.json" in message


# Numbers and records that somebody spoilt.


@pytest.mark.parametrize("content", [
    b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04nonsense",
    b"\x93NUMPY\x01\x00\x46\x00{'descr': '<i8', 'fortran_order': False, "
    b"'shape': (3, 99999999999999), }\n",
    b"\x93NUMPY\x01\x00\x46\x00{'descr': 'nonsense', 'fortran_order': 0, 'sha"
    b"pe': (3, ), }            \n", b"\x80\x04N."])
def test_a_broken_index(tmp_path, content):
  path = str(tmp_path / "train.tf_record.index.npy")
  with open(path, "wb") as writer:
    writer.write(content)
  with pytest.raises(ValueError):
    record_file.load_index(path)
  tiny_bert.write_text(tmp_path / "train.tf_record", u"")
  with pytest.raises(ValueError, match="index.npy is broken .*; remove it"):
    record_file.RecordFile(str(tmp_path / "train.tf_record"))


def test_a_record_that_is_no_example(tmp_path):
  path = str(tmp_path / "train.tf_record")
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(b"\xff\xff\xff nonsense")
  with pytest.raises(ValueError, match="at byte 0 .* tf.train.Example"):
    record_file.RecordFile(path)


def test_events_that_are_none(tmp_path, caplog):
  path = str(tmp_path / "events.out.tfevents.1.host")
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(tf.Event(step=3, summary=tf.Summary(value=[
        tf.Summary.Value(tag="loss", simple_value=2.)])).SerializeToString())
    writer.write(b"\xff\xff\xff nonsense")
  os.mkfifo(str(tmp_path / "events.out.tfevents.2.host"))
  found = event_files.read_scalars(str(tmp_path), ("loss",))
  np.testing.assert_array_equal(found.values["loss"], [(3, 2.)])
