# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow Serving part of docs/serving.md works as they stand there.

Requests are answered by the export itself; the two clients ask a stand-in of a
server, on a port of its own.
"""

import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_export
import tiny_model

import export_saved_model
import modeling
from multilabel.export import export_check
from multilabel.export import graph_tokenizer
from multilabel.export import run_export
from multilabel.storage import trained_model
import predict_session


LABELS = ["toxic", "insult", "threat"]
# As in the published vocabularies, which the examples' ids are of.
WORDS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 7592: "hello",
         2023: "this", 2003: "is", 2175: "go", 2185: "away", 2017: "you",
         7966: "fool", 1010: ",", 1012: "."}
VOCAB_SIZE = 30522


def readme():
  with io.open(os.path.join(tiny_bert.ROOT, "docs", "serving.md"),
               encoding="utf-8") as reader:
    return "\n" + reader.read().partition("\n# TensorFlow Serving\n")[2]


def indented(first_words):
  """The one indented block that begins so, without its indentation."""
  blocks = re.findall(r"\n\n((?:    .*\n)+)", readme())
  found = [block for block in blocks if block.startswith("    " + first_words)]
  assert len(found) == 1
  return re.sub(r"(?m)^    ", "", found[0])


def python_block(word):
  blocks = re.findall(r"```python\n(.*?)```", readme(), re.S)
  found, = [block for block in blocks if word in block]
  return found


def run_code(code, names):
  exec(compile(code, "serving.md", "exec"), names)  # pylint: disable=exec-used


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with myoutput/ and exports/multilabel/1."""
  folder = tmp_path_factory.mktemp("readme")
  tokens = [WORDS.get(i, "[unused%d]" % i) for i in range(VOCAB_SIZE)]
  tiny_bert.write_text(folder / "vocab.txt",
                       u"".join(token + u"\n" for token in tokens))
  (folder / "myoutput").mkdir()
  trained_model.write(
      str(folder / "myoutput"), modeling.BertConfig.from_dict(
          dict(tiny_bert.CONFIG, vocab_size=VOCAB_SIZE)),
      str(folder / "vocab.txt"), LABELS,
      dict(tiny_model.SETTINGS, long_text="windows", stride=9,
           window_pooling="max"))
  weights = tiny_model.random_weights(len(LABELS), 3)
  name = "bert/embeddings/word_embeddings"
  weights = {key: value for key, value in weights.items()
             if not key.startswith(name + "/")}
  weights[name] = np.random.RandomState(1).normal(
      0, 0.4, [VOCAB_SIZE, 16]).astype(np.float32)
  tiny_model.write_checkpoint(folder / "myoutput", weights)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_check, "Checker", tiny_export.Unchecked)
    patch.setattr(graph_tokenizer, "GraphTokenizer", tiny_export.WordTokenizer)
    export_saved_model.export(
        str(folder / "myoutput"), str(folder / "exports" / "multilabel"), 1,
        raw_text=not tiny_export.IS_TF1)
  return folder


@pytest.fixture(scope="module")
def served(folder):
  return run_export.Export(str(folder / "exports" / "multilabel" / "1"))


def run_shell(command, folder):
  """Runs a command of the README in a folder, with our Python and modules."""
  (folder / "bin").mkdir(exist_ok=True)
  python = folder / "bin" / "python"
  python.write_text(u'#!/bin/sh\nexec "%s" -W ignore "$@"\n' % sys.executable)
  python.chmod(0o755)
  script = folder / "export_saved_model.py"
  if not script.exists():
    script.symlink_to(os.path.join(tiny_bert.ROOT, "export_saved_model.py"))
  return subprocess.check_output(
      ["sh", "-c", command], cwd=str(folder), stderr=subprocess.DEVNULL,
      env=dict(os.environ, PYTHONPATH=tiny_bert.ROOT, TF_CPP_MIN_LOG_LEVEL="3",
               PATH="%s:%s" % (folder / "bin", os.environ["PATH"]))
                                ).decode("utf-8")


def test_export(folder):
  output = run_shell(indented("python export_saved_model.py"), folder)
  version, = set(os.listdir(str(folder / "exports" / "multilabel"))) - {"1"}
  assert output.startswith(
      "Wrote exports/multilabel/%s: model.ckpt-7 (step 7); " % version)
  # The answer that the README shows has this form.
  number = r"\d+(\.\d+)?(e-\d+)?"
  assert re.sub(number, "N", output.replace("windows (stride 9, max)",
                                            "truncate_head")) == (
      re.sub(number, "N", indented("Wrote ").replace("ckpt-250", "ckpt-7")))


def test_run_export(folder, served):
  command = indented("echo ")
  answer = json.loads(run_shell(command, folder))
  body = json.loads(re.search(r"echo '(.*)'", command).group(1))
  np.testing.assert_allclose(answer["outputs"], served.answer(body)["outputs"],
                             atol=1e-7)


def curl_examples():
  """[(url, body, shown answer)] of the README."""
  text = re.sub(r"(?m)^    ", "", readme())
  return [(url, json.loads(body), shown) for url, body, shown in re.findall(
      r"curl (http\S+) -d '(.*?)'\n\n(\{.*?)\n\n", text, re.S)]


def answer_of(served, url, body):
  """What a server answers; only for examples is that not `run_export`'s."""
  if url.endswith(":predict"):
    return served.answer(body)
  assert url.endswith(":classify")
  outputs = served.run(body["signature_name"], {"inputs": [
      tiny_export.example(**features) for features in body["examples"]]})
  return {"results": [
      [[label.decode("utf-8"), score] for label, score in zip(*row)]
      for row in zip(outputs["classes"], outputs["scores"].tolist())]}


@pytest.mark.skipif(tiny_export.IS_TF1, reason="texts need TensorFlow 2")
def test_requests(served):
  answers = []
  for url, body, shown in curl_examples():
    assert url.startswith("http://localhost:8501/v1/models/multilabel:")
    answer = json.loads(json.dumps(answer_of(served, url, body)))
    # The keys that the README shows are the answer's.
    keys = set(re.findall(r'"(\w+)":', shown))
    assert keys == set(re.findall(r'"(\w+)":', json.dumps(answer)))
    answers.append(answer)
  rows, columns, texts, classes = answers
  assert np.shape(rows["predictions"]) == (2, 3)
  assert np.shape(columns["outputs"]) == (1, 3)
  # The padded row of the first is the second's text.
  np.testing.assert_allclose(rows["predictions"][0], columns["outputs"][0],
                             atol=1e-6)
  for text in texts["predictions"]:
    assert sorted(text["labels"]) == sorted(LABELS)
  (label, score), _, _ = classes["results"][0]
  assert label == "toxic"
  assert score == pytest.approx(columns["outputs"][0][0], abs=1e-6)


def test_error(served):
  shown = json.loads(indented('{"error"'))["error"]
  with pytest.raises(tf.errors.InvalidArgumentError) as raised:
    served.run("ids_only", {"input_ids": [[101, 99999]]})
  assert shown in raised.value.message


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers as Serving's REST API does, with `served` of its class."""

  def do_POST(self):  # pylint: disable=invalid-name
    assert self.path == "/v1/models/multilabel:predict"
    body = json.loads(self.rfile.read(
        int(self.headers["Content-Length"])).decode("utf-8"))
    answer = json.dumps(self.served.answer(body)).encode("utf-8")
    self.send_response(200)
    self.send_header("Content-Length", str(len(answer)))
    self.end_headers()
    self.wfile.write(answer)

  def log_message(self, *unused_args):  # pylint: disable=arguments-differ
    pass


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_client_that_pools_windows(pooling, folder, served, monkeypatch,
                                   capsys):
  settings = json.loads((folder / "myoutput" / "model_settings.json")
                        .read_text(encoding="utf-8"))
  settings["window_pooling"] = pooling
  extra = folder / "exports" / "multilabel" / "1" / "assets.extra"
  for place in (folder / "myoutput", extra):
    trained_model.write_settings(str(place), settings)
  server = http.server.HTTPServer(
      ("localhost", 0), type("Served", (Handler,), {"served": served}))
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  monkeypatch.chdir(folder)
  code = python_block("urlopen")
  assert "localhost:8501" in code
  names = {}
  try:
    run_code(code.replace(":8501", ":%d" % server.server_port), names)
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
  text, = re.findall(r'tokenizer, ("[^"]*" \* 30)', code)
  assert len(names["windows"]) > 5
  with predict_session.SessionPredictor(str(folder / "myoutput")) as predictor:
    want = predictor.predict(["Go away, you fool. " * 30])
  assert text == '"Go away, you fool. " * 30'
  np.testing.assert_allclose(names["probabilities"], want[0], atol=1e-5)
  assert capsys.readouterr().out == "%s\n" % names["probabilities"]


def test_grpc_client(folder, served, monkeypatch, capsys):
  grpc = pytest.importorskip("grpc")
  pytest.importorskip("tensorflow_serving")
  from concurrent import futures

  from tensorflow_serving.apis import predict_pb2
  from tensorflow_serving.apis import prediction_service_pb2_grpc

  class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):

    def Predict(self, request, context):
      assert request.model_spec.name == "multilabel"
      signature = served.signatures[request.model_spec.signature_name]
      inputs = {}
      for name, tensor in request.inputs.items():
        # A server refuses another type; numpy would convert it.
        assert tensor.dtype == signature.inputs[name].dtype
        inputs[name] = tf.make_ndarray(tensor)
      outputs = served.run(request.model_spec.signature_name, inputs)
      response = predict_pb2.PredictResponse()
      for name, value in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
      return response

  server = grpc.server(futures.ThreadPoolExecutor(1))
  prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
      Servicer(), server)
  port = server.add_insecure_port("localhost:0")
  server.start()
  monkeypatch.chdir(folder)
  code = python_block("import grpc")
  assert "localhost:8500" in code
  try:
    run_code(code.replace(":8500", ":%d" % port), {})
  finally:
    server.stop(None)
  with predict_session.SessionPredictor(str(folder / "myoutput")) as predictor:
    want = predictor.predict(["Go away, you fool"])
  printed = re.sub(r"[\[\]]", "", capsys.readouterr().out).split()
  np.testing.assert_allclose([float(x) for x in printed], want[0], atol=1e-5)


def test_grpc_client_compiles():
  compile(python_block("import grpc"), "serving.md", "exec")


def test_models_config():
  text_format = pytest.importorskip("google.protobuf.text_format")
  pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
  config = text_format.Parse(indented("# exports/models.config"),
                             pb2.ModelServerConfig())
  model, = config.model_config_list.config
  assert model.base_path == "/models/multilabel"
  versions = list(model.model_version_policy.specific.versions)
  assert sorted(model.version_labels.values()) == sorted(versions)


def test_batching_config():
  config = indented("# exports/batching.config")
  sizes = [int(size) for size in re.findall(
      r"(?m)^allowed_batch_sizes: (\d+)$", config)]
  largest, = re.findall(r"(?m)^max_batch_size { value: (\d+) }$", config)
  assert sizes == sorted(sizes) and sizes[-1] == int(largest)
  assert "pad_variable_length_inputs: true" in config


def test_flags_exist():
  used = set(re.findall(r"`--(\w+)[=`]", readme()))
  with io.open(os.path.join(tiny_bert.ROOT, "export_saved_model.py"),
               encoding="utf-8") as reader:
    defined = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', reader.read()))
  assert {"frozen", "onnx", "raw_text", "keep_versions", "weights_dtype"} <= (
      used & defined)


@pytest.mark.slow
def test_grpc_client_with_the_package_from_the_index(tmp_path):
  """The document's client, with tensorflow-serving-api as pip finds it."""
  version = ".".join(tf.__version__.split(".")[:2])
  subprocess.check_call(
      [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target",
       str(tmp_path), "tensorflow-serving-api==%s.*" % version, "grpcio"])
  done = subprocess.run(
      [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider",
       os.path.abspath(__file__), "-k", "test_grpc_client and not index or "
       "models_config"], cwd=tiny_bert.ROOT, stdout=subprocess.PIPE,
      env=dict(os.environ, PYTHONPATH=str(tmp_path)))
  assert done.returncode == 0, done.stdout.decode("utf-8")
  assert "skipped" not in done.stdout.decode("utf-8")
