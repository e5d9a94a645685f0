# SPDX-License-Identifier: Apache-2.0
"""This project's own command, run as a user runs it; imports nothing."""

import io
import os
import subprocess
import sys


SCRIPT = "run_multilabel_classifier.py"


class Peer(object):
  """See `worker`."""

  def __init__(self, settings):
    del settings

  def versions(self):
    return {"python": sys.version.split()[0]}

  def load(self, job):
    return Whole(job)


class Whole(object):
  """A training run in a separate process: one `run`."""

  says = "run_multilabel_classifier.py --do_train --do_eval --eval_steps=0"

  def __init__(self, job):
    self._job = job

  def run(self):
    job = self._job
    bert = os.path.join(job["work_dir"], job["model"], "bert")
    subprocess.check_call(
        [sys.executable, SCRIPT, "--task_name=jsonl",
         "--data_dir=" + job["data_dir"],
         "--output_dir=" + job["output_dir"],
         "--bert_config_file=" + os.path.join(bert, "bert_config.json"),
         "--vocab_file=" + os.path.join(bert, "vocab.txt"),
         "--init_checkpoint=" + os.path.join(bert, "bert_model.ckpt"),
         "--pooling=" + job["pooling"], "--learning_rate=3e-4",
         "--train_batch_size=%d" % job["batch_size"],
         "--max_seq_length=%d" % job["max_seq_length"],
         "--num_train_epochs=%d" % job["epochs"], "--eval_batch_size=64",
         "--do_train", "--do_eval", "--eval_steps=0", "--noreport"],
        stdin=subprocess.DEVNULL, stdout=sys.stderr)
    with io.open(os.path.join(job["output_dir"], "eval_results.txt"),
                 encoding="utf-8") as lines:
      results = dict(line.strip().split(" = ") for line in lines)
    return [float(results["micro_f1"])]

  def close(self):
    pass
