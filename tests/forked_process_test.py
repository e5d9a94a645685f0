# SPDX-License-Identifier: Apache-2.0
"""After a fork nothing hangs: one sentence says what to do."""

import os
import subprocess
import sys

import pytest
import tiny_bert


PROGRAM = u"""
import os, sys
sys.path.insert(0, %r)
import predict_session
from multilabel.inference import micro_batching

predictor = predict_session.SessionPredictor(sys.argv[1])
batcher = micro_batching.MicroBatcher(predictor)
predictor.predict(["the apple"])


def sentence(function, *arguments, **keywords):
  try:
    function(*arguments, **keywords)
  except RuntimeError as error:
    return str(error)
  return "it answered"


predictor_rows = predictor.encode(["the apple"])
if os.fork():
  os.wait()
  predictor.predict(["the apple"])
else:
  print(sentence(predictor.predict, ["the apple"]))
  print(sentence(predictor.predict, ["the apple"], timeout=30))
  print(sentence(predictor.reload))
  print(sentence(batcher.submit, predictor_rows))
  print(sentence(predict_session.SessionPredictor, sys.argv[1]))
  predictor.close()
  sys.stdout.flush()
  os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_says_so_at_once(learned):
  done = subprocess.run(
      [sys.executable, "-c", PROGRAM % tiny_bert.ROOT, learned.output_dir],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240, check=False)
  lines = done.stdout.decode("utf-8").splitlines()
  assert done.returncode == 0, done.stderr.decode("utf-8")[-2000:]
  assert len(lines) == 5
  for line in lines[:4]:
    assert line.startswith("this predictor was created before a fork"), line
    assert "create it after the fork" in line
  assert "TensorFlow ran in process" in lines[4]
