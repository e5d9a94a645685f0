# SPDX-License-Identifier: Apache-2.0
"""The steps of the Dockerfile, one by one, in an empty environment.

Docker is not needed: its folders stand in a temporary one, and its Python is a
new virtual environment.
"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import tiny_bert
import tiny_model


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info < (3, 10), reason="for Python 3.10")]


def instructions():
  """[(word, rest)] of the Dockerfile, lines that go on joined."""
  with io.open(os.path.join(tiny_bert.ROOT, "Dockerfile"),
               encoding="utf-8") as reader:
    text = re.sub(r"(?m)^#.*\n", "", reader.read()).replace("\\\n", " ")
  return [tuple(line.split(None, 1)) for line in text.splitlines() if line]


def value(word):
  found, = [rest for name, rest in instructions() if name == word]
  return found


def copy_sources(folder):
  """What git keeps, without what .dockerignore names."""
  names = subprocess.check_output(
      ["git", "ls-files", "-co", "--exclude-standard"],
      cwd=tiny_bert.ROOT).decode("utf-8").splitlines()
  for name in names:
    source = os.path.join(tiny_bert.ROOT, name)
    if os.path.isfile(source):
      target = os.path.join(folder, name)
      os.makedirs(os.path.dirname(target), exist_ok=True)
      with open(source, "rb") as reader, open(target, "wb") as writer:
        writer.write(reader.read())


@pytest.fixture(scope="module", params=[".", "./packaging/predict"])
def image(request, tmp_path_factory):
  """(folder that stands for /, environment) after all steps of the build."""
  root = str(tmp_path_factory.mktemp("image"))
  subprocess.check_call([sys.executable, "-m", "venv", root + "/python"])
  environment = {
      name: content for name, content in os.environ.items()
      if name.startswith("PIP_") or name in ("LANG", "TMPDIR")}
  environment.update(PATH="%s/python/bin:/usr/bin:/bin" % root, HOME=root)
  folder = root
  for word, rest in instructions():
    if word == "ARG":
      name, _, _ = rest.partition("=")
      environment[name] = request.param
    elif word == "COPY":
      assert rest == ". /src"
      copy_sources(root + "/src")
    elif word == "WORKDIR":
      folder = root + rest
    elif word == "RUN":
      subprocess.check_call(
          ["sh", "-c", rest.replace(" /src", " %s/src" % root)], cwd=folder,
          env=environment, stdout=subprocess.DEVNULL)
  return root, dict(environment, HOME="/nonexistent"), request.param


@contextlib.contextmanager
def running(image, model):
  """Runs the entry point: (process, function that runs the health check)."""
  root, environment, _ = image
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
  replaced = {"--model_dir=/model": "--model_dir=" + model,
              "--host=0.0.0.0": "--host=127.0.0.1",
              "--port=8501": "--port=%d" % port}
  entry = json.loads(value("ENTRYPOINT"))
  assert set(replaced) < set(entry)
  process = subprocess.Popen(
      [replaced.get(word, word) for word in entry], cwd=root, env=environment,
      stdout=subprocess.PIPE)
  check = json.loads(value("HEALTHCHECK").partition("CMD")[2])
  check = [word.replace(":8501", ":%d" % port) for word in check]
  try:
    yield process, port, lambda: subprocess.call(
        check, cwd=root, env=environment, stderr=subprocess.DEVNULL)
  finally:
    if process.poll() is None:
      process.kill()
    process.communicate()


def test_it_is_no_root_and_the_port_is_told():
  assert int(value("USER")) > 0
  assert "--port=" + value("EXPOSE") in json.loads(value("ENTRYPOINT"))


def test_the_image_serves(image, tmp_path):
  root, environment, source = image
  assert not os.path.exists(root + "/src")
  folder = str(tmp_path / "model")
  tiny_model.make(folder)
  if source != ".":
    folder = export_onnx(folder, str(tmp_path / "onnx"))
  has_tensorflow = subprocess.call(
      ["python", "-c", "import tensorflow"], env=environment, cwd=root,
      stderr=subprocess.DEVNULL) == 0
  assert has_tensorflow == (source == ".")
  with running(image, folder) as (process, port, check):
    end = time.time() + 60
    while check() != 0:
      assert time.time() < end and process.poll() is None
      time.sleep(0.5)
    request = urllib.request.Request(
        "http://127.0.0.1:%d/v1/label" % port, b'{"text": "the apple"}')
    with urllib.request.urlopen(request) as response:
      assert json.load(response)["results"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert check() != 0


def export_onnx(folder, exports):
  """Exports an ONNX folder in this environment; returns it."""
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  subprocess.check_call(
      [sys.executable, "export_saved_model.py", "--model_dir=" + folder,
       "--export_dir=" + exports, "--format=onnx"], cwd=tiny_bert.ROOT,
      stdout=subprocess.DEVNULL)
  return exports
