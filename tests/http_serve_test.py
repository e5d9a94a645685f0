# SPDX-License-Identifier: Apache-2.0
"""`python serve_http.py` with a real model, as a user starts it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
from google.protobuf import json_format
import parity_texts
from raw_http import in_thread
from raw_http import wait_until
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model

from multilabel.export import signatures
from multilabel.serving import http_requests
from multilabel.storage import trained_model
import predict_session
from robustness import http_client
import serve_http
import tokenization


PREDICT = "/v1/models/multilabel:predict"
LABELS = list(tiny_bert.LABELS)


def command(folder, *flags):
  return [sys.executable, "serve_http.py", "--model_dir=%s" % folder,
          "--port=0"] + list(flags)


@pytest.fixture(scope="module")
def server(made):
  with fake_server.start(command(made[0])) as running:
    yield running


def in_parts(texts, size=50):
  return [texts[start:start + size] for start in range(0, len(texts), size)]


def test_the_same_500_texts(made, server):
  """Every form of request gives what the predictor gives."""
  texts = parity_texts.make()
  assert len(texts) == 500
  with predict_session.SessionPredictor(made[0]) as predictor:
    wanted = predictor.predict(texts)
    encoded = [list(windows[0].input_ids) for windows in
               predictor.encode(texts)]
    labels = [[label for label, _ in chosen]
              for chosen in predictor.predict_labels(texts)]

  def post(path, body):
    status, _, answer = server.call("POST", path, body)
    assert status == 200
    return answer

  found = {name: [] for name in ("label", "text", "ids", "only", "classify")}
  for part, ids in zip(in_parts(texts), in_parts(encoded)):
    longest = max(map(len, ids))
    padded = [row + [0] * (longest - len(row)) for row in ids]
    results = post("/v1/label", {"texts": part})["results"]
    found["label"] += [list(row["probabilities"].values()) for row in results]
    assert [row["labels"] for row in results] == labels[:len(results)]
    del labels[:len(results)]
    found["text"] += [row["probabilities"] for row in post(PREDICT, {
        "signature_name": "text", "instances": part})["predictions"]]
    found["ids"] += post(PREDICT, {"inputs": {
        "input_ids": padded,
        "input_mask": [[1] * len(row) + [0] * (longest - len(row))
                       for row in ids],
        "segment_ids": [[0] * longest] * len(ids)}})["outputs"]
    found["only"] += post(PREDICT, {
        "signature_name": "ids_only", "instances": padded})["predictions"]
    found["classify"] += [
        [score for _, score in row] for row in post(
            "/v1/models/multilabel:classify", {
                "examples": [{"input_ids": row} for row in ids]})["results"]]
  for name, rows in found.items():
    assert np.abs(np.array(rows, np.float32) - wanted).max() < 1e-6, name


def test_against_bert_in_numpy(made, server):
  texts = [u"the apple", u"plum , pear and \u732b", u"we see \U0001f680 !"]
  wanted = tiny_model.probabilities(
      made[1], [tiny_model.encode(text) for text in texts])
  results = server.call("POST", "/v1/label", {"texts": texts})[2]["results"]
  given = [[row["probabilities"][label] for label in LABELS]
           for row in results]
  assert np.abs(np.array(given) - wanted).max() < 1e-5


def test_pairs(made, server):
  wanted = tiny_model.probabilities(
      made[1], [tiny_model.encode(u"the apple", u"a \u732b")])
  result, = server.call("POST", "/v1/label", {
      "texts": [["the apple", u"a \u732b"]]})[2]["results"]
  assert np.abs(np.array([result["probabilities"][label] for label in LABELS])
                - wanted).max() < 1e-5


def test_who_asks_at_the_same_time_does_not_change_an_answer(server):
  texts = [row["text"] for row in tiny_bert.make_rows(40, 4)]

  def ask(text):
    result, = server.call("POST", "/v1/label", {"texts": [text]})[2]["results"]
    return list(result["probabilities"].values())
  alone = [ask(text) for text in texts]
  for _ in range(3):
    pending = [in_thread(ask, text) for text in texts]
    together = [result() for result in pending]
    assert np.abs(np.array(together) - alone).max() < 1e-6
  # They did share runs.
  assert server.metric("batch_texts_count") < server.metric("batch_texts_sum")


def test_metadata_is_that_of_an_export(made, server):
  """Types, shapes and methods are those of the signatures' own tensors."""
  trained = trained_model.read(made[0])
  with tf.Graph().as_default():
    wanted = signatures.SignatureBuilder(
        trained, signatures.Weights(),
        tokenization.load_vocab(trained.vocab_file)).build()
  given = server.call("GET", "/v1/models/multilabel/metadata")[2][
      "metadata"]["signature_def"]["signature_def"]
  for name, signature in wanted.items():
    described = json_format.MessageToDict(
        signature, preserving_proto_field_name=True)
    assert given[name]["method_name"] == described["method_name"]
    for side in ("inputs", "outputs"):
      assert sorted(given[name][side]) == sorted(described[side])
      for key, tensor in described[side].items():
        assert given[name][side][key]["dtype"] == tensor["dtype"]
        assert [size["size"] for size in given[name][side][key][
            "tensor_shape"]["dim"]] == [
                size["size"] for size in tensor["tensor_shape"]["dim"]]


def test_signatures_have_the_names_of_an_export():
  for name in ("DEFAULT", "IDS_ONLY", "CLASSIFY", "PREDICT_LABELS", "TEXT",
               "FEATURES"):
    assert getattr(http_requests, name) == getattr(signatures, name)


def test_up_to_the_last_position(server):
  longest = tiny_bert.CONFIG["max_position_embeddings"]
  body = {"signature_name": "ids_only", "instances": [[5] * longest]}
  assert server.call("POST", PREDICT, body)[0] == 200
  body["instances"][0].append(5)
  status, _, answer = server.call("POST", PREDICT, body)
  assert (status, answer) == (400, {
      "error": "instances[0]: expected array of length <= 64."})


def test_explain(server):
  answer = server.call("POST", "/v1/explain", {
      "text": u"the apple, \u732b", "label": "fruit"})[2]
  assert [(word["start"], word["end"]) for word in answer["words"]] == [
      (0, 3), (4, 9), (9, 10), (11, 12)]


def test_a_newer_checkpoint_is_served_without_a_stop(tmp_path):
  """Each answer is that of the version it names, while it changes too."""
  folder = str(tmp_path / "model")
  weights = {"7": tiny_model.make(folder)}
  weights["9"] = tiny_model.random_weights(len(LABELS), 8)
  wanted = {version: tiny_model.probabilities(
      some, [tiny_model.encode("the apple")])[0]
            for version, some in weights.items()}
  with fake_server.start(command(folder)) as running:
    def ask():
      status, _, answer = running.call(
          "POST", "/v1/label", {"texts": ["the apple"]})
      assert status == 200
      assert np.abs(list(answer["results"][0]["probabilities"].values()) -
                    wanted[answer["version"]]).max() < 1e-5
      return answer["version"]
    assert ask() == "7"
    tiny_model.write_checkpoint(folder, weights["9"], step=9)
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ask() == "9")
    # A broken one is not taken.
    tiny_bert.write_text(os.path.join(folder, "checkpoint"), u"nonsense")
    running.process.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert ask() == "9"
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(20)
    log = running.process.stderr.read().decode("utf-8")
  assert "Keeping the old model: " in log
  assert "Traceback" not in log


def test_two_workers_beyond_loopback_without_a_key(made):
  with fake_server.start(command(
      made[0], "--host=0.0.0.0", "--model_name=m", "--version=3",
      "--workers=2")) as running:
    for _ in range(10):
      assert running.call("POST", "/v1/label", {"texts": ["a"]})[0] == 200
    assert running.call("GET", "/v1/models/m/versions/3")[0] == 200
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0
    log = running.process.stderr.read().decode("utf-8")
  assert ("Listening on 0.0.0.0 without --api_key_file: anyone who can reach "
          "this address can use the server.") in log


@pytest.mark.parametrize("flags,sentence", [
    ([], "--model_dir must be given."),
    (["--model_dir=nowhere"], "model_dir nowhere is not a directory."),
    (["--port=70000"], "--port is 70000; it must be from 0 to 65535."),
    (["--workers=0"], "--workers is 0; it must be 1 or more."),
    (["--head_timeout=0"],
     "--head_timeout is 0.0; it must be seconds, more than 0."),
    (["--grace_seconds=nan"], "--grace_seconds is nan; it must be 0 or more."),
    (["--max_queue=10"], "--max_queue is 10; it must be at least --max_texts "
                         "(128), or a request of that size can never be "
                         "served."),
    (["--model_name=a/b"],
     "--model_name a/b may only contain letters, digits, _, - and . "
     "characters."),
    (["--tls_key=x"], "--tls_certificate and --tls_key must be given "
                      "together."),
    (["--tls_key=x", "--tls_certificate=y"],
     "--tls_certificate y: there is no such file."),
    (["more"], "unexpected argument more; flags begin with --."),
])
def test_flags_that_cannot_be(made, flags, sentence):
  if flags and flags[0] != "--model_dir=nowhere":
    flags = ["--model_dir=" + made[0]] + flags
  status, _, stderr, _ = tiny_bert.call(serve_http, flags)
  assert (status, stderr.strip()) == (2, "serve_http.py: " + sentence)


def test_a_port_that_is_taken(made, server):
  status, _, stderr, _ = tiny_bert.call(
      serve_http, ["--model_dir=" + made[0], "--port=%d" % server.port])
  assert status == 2
  assert stderr.strip().endswith(
      "port %d of 127.0.0.1 is not available: Address already in use." %
      server.port)


def test_an_onnx_folder_needs_no_tensorflow(made, tmp_path):
  pytest.importorskip("tf2onnx")
  pytest.importorskip("onnxruntime")
  folder = str(tmp_path / "onnx")
  subprocess.check_call(
      [sys.executable, "export_saved_model.py", "--format=onnx",
       "--model_dir=" + made[0], "--export_dir=" + folder],
      cwd=fake_server.ROOT, stdout=subprocess.DEVNULL)
  texts = parity_texts.make()[:40]
  with predict_session.SessionPredictor(made[0]) as predictor:
    wanted = predictor.predict(texts)
  with fake_server.start(command(folder)) as running:
    results = running.call("POST", "/v1/label", {"texts": texts})[2]["results"]
    given = [list(result["probabilities"].values()) for result in results]
    assert np.abs(np.array(given) - wanted).max() < 1e-5
    assert running.call("GET", "/v1/models/multilabel/versions/7")[0] == 200
    ids = {"signature_name": "ids_only", "instances": [[5] * 65]}
    assert running.call("POST", PREDICT, ids)[0] == 400
    running.process.send_signal(signal.SIGHUP)
    time.sleep(2)
    assert running.call("POST", "/v1/label", {"text": "a"})[0] == 200
    for pid in [running.process.pid] + http_client.children(running.process):
      with open("/proc/%d/maps" % pid) as reader:
        assert "tensorflow" not in reader.read()


def test_a_directory_that_is_broken(tmp_path):
  folder = str(tmp_path / "model")
  tiny_model.make(folder)
  os.remove(os.path.join(folder, "labels.txt"))
  process = subprocess.run(
      command(folder, "--workers=2"), cwd=fake_server.ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, check=False)
  stderr = process.stderr.decode("utf-8")
  assert process.returncode == 2
  assert stderr.startswith("serve_http.py: ") and stderr.count("\n") == 1
  assert "has no labels.txt" in stderr
  assert process.stdout == b""


@pytest.mark.parametrize("content,sentence", [
    (None, "cannot be read: No such file or directory."),
    (b"\n \n", "has no key; put one on each line."),
    (b"0123456789abcdef\nshort\n",
        "has a key of less than 16 characters, which can be guessed; create "
        "one with `openssl rand -hex 32`."),
])
def test_files_of_keys_that_cannot_be(tmp_path, content, sentence):
  path = tmp_path / "keys"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    serve_http.read_keys(str(path))
  assert str(caught.value) == "--api_key_file %s %s" % (path, sentence)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_file_of_keys(tmp_path, start):
  path = tmp_path / "keys"
  path.write_bytes(start + b"0123456789abcdef\r\nfedcba9876543210\n")
  assert serve_http.read_keys(str(path)) == [b"0123456789abcdef",
                                             b"fedcba9876543210"]
  assert serve_http.read_keys(None) == []


def test_without_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "granian", None)
  monkeypatch.delitem(sys.modules, "multilabel.serving.granian_server",
                      raising=False)
  from multilabel import serving
  monkeypatch.delattr(serving, "granian_server", raising=False)
  with pytest.raises(ValueError) as caught:
    serve_http._import_server()
  assert str(caught.value) == (
      "the server needs granian, which is not installed: pip install "
      "granian starlette msgspec prometheus_client.")


def test_the_process_that_holds_the_port_imports_no_tensorflow():
  process = subprocess.run(
      [sys.executable, "-c", "import sys, serve_http\n"
       "serve_http._import_server()\n"
       "print('tensorflow' in sys.modules, 'prometheus_client' in sys.modules)"
      ], cwd=fake_server.ROOT, stdout=subprocess.PIPE, check=True)
  assert process.stdout.split() == [b"False", b"False"]
