# SPDX-License-Identifier: Apache-2.0
"""Tests of training over several machines.

The whole, with a worker and a ps killed, takes a minute and more of processes:

  python3 -m pytest tests/cluster_test.py --slow
"""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import tiny_bert

from multilabel.features import input_pipeline
from multilabel.features import record_file as record_file_module
from multilabel.storage import checkpoint_choice
from multilabel.training import cluster_graph
from multilabel.training import cluster_members
import run_multilabel_classifier
from scale.launch import local


CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}


def config(cluster=None, **task):
  return json.dumps({"cluster": CLUSTER if cluster is None else cluster,
                     "task": task or {"type": "worker", "index": 1}})


# TF_CONFIG.


def test_a_cluster_is_read():
  cluster = cluster_members.read_tf_config(config())
  assert cluster.members == CLUSTER
  assert (cluster.job, cluster.task) == ("worker", 1)
  assert cluster.replicas == [("chief", 0), ("worker", 0), ("worker", 1)]
  assert cluster.replica == 2
  assert cluster.describe_self() == "worker 1 (c:1)"


def test_master_is_the_old_name_of_chief():
  cluster = cluster_members.read_tf_config(config(
      {"master": ["a:1"], "ps": ["d:1"]}, type="master", index=0))
  assert cluster.members == {"chief": ["a:1"], "worker": [], "ps": ["d:1"]}
  assert cluster.describe_self() == "chief (a:1)"


@pytest.mark.parametrize("text, message", [
    ("{cluster", "TF_CONFIG is not JSON"),
    ("[]", 'must be a JSON object with "cluster" and "task"'),
    (config(dict(CLUSTER, evaluator=["e:1"])), 'names the role "evaluator"'),
    (config(dict(CLUSTER, master=["e:1"])), "both chief and master"),
    (config({"ps": ["d:1"]}), "must have exactly one chief, but has 0"),
    (config({"chief": ["a:1"]}), "has no ps"),
    (config(dict(CLUSTER, ps=["a:1"])), "has the address a:1 twice"),
    (config(dict(CLUSTER, ps="d:1")), "the addresses of ps must be a list"),
    (config(type="worker", index=2), "this is worker 2, but there are only 2"),
    (config(type="helper", index=0), 'names the role "helper"'),
])
def test_a_tf_config_that_cannot_be(text, message):
  with pytest.raises(ValueError) as error:
    cluster_members.read_tf_config(text)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def call(monkeypatch, tf_config, bert, data, output_dir, **flags):
  if tf_config is not None:
    monkeypatch.setenv("TF_CONFIG", tf_config)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(bert, data, output_dir, **flags))
  return status, stderr


@pytest.mark.parametrize("flags, message", [
    (dict(do_train=False, do_eval=True), "a cluster (TF_CONFIG) is only for"),
    (dict(eval_steps=5, do_eval=True),
        "--eval_steps=5 cannot be combined with"),
    (dict(cluster_timeout=0), "--cluster_timeout is 0"),
    (dict(gradient_accumulation_steps=2),
        "cannot be combined with several machines; use it or "
        "--distribution=cluster, not both."),
])
def test_flags_that_cannot_be(monkeypatch, bert, tmp_path, flags, message):
  status, stderr = call(monkeypatch, config(), bert, tmp_path,
                        tmp_path / "o", **flags)
  assert status == 2 and message in stderr and stderr.count("\n") == 1
  assert not (tmp_path / "o").exists()


def test_a_cluster_without_tf_config(monkeypatch, bert, tmp_path):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  status, stderr = call(monkeypatch, None, bert, tmp_path, tmp_path / "o",
                        distribution="cluster")
  assert status == 2 and "needs the environment variable TF_CONFIG" in stderr


# Members that differ, or never come.


def test_a_chief_that_never_comes_is_named(monkeypatch, bert, tmp_path):
  members = local.make_members(2, 1)
  start = time.monotonic()
  status, stderr = call(monkeypatch, config(members), bert, tmp_path,
                        tmp_path / "o", cluster_timeout=0.3)
  assert time.monotonic() - start < 60
  assert status == 1 and stderr.count("\n") == 1
  assert ("worker 1 (%s) waited 0.3 seconds for chief (%s) to write" % (
      members["worker"][1], members["chief"][0])) in stderr


def test_a_ps_that_never_comes_is_named():
  members = dict(local.make_members(1, 2))
  cluster = cluster_members.Cluster(members, "chief", 0)
  with pytest.raises(cluster_members.ClusterError) as error:
    cluster_members.wait_for(cluster, "ps",
                             cluster_members.Wait(0.2, cluster))
  assert "waited 0.2 seconds for ps 0 (%s)" % members["ps"][0] in str(
      error.value)


def test_members_that_differ_are_refused():
  cluster = cluster_members.read_tf_config(config())
  here = {"flags": {"learning_rate": 0.1, "seed": 1}, "code_sha256": "ab",
          "tensorflow": "2.21.0"}
  cluster_members.check_identity(here, dict(here), cluster)
  for other, message in (
      (dict(here, code_sha256="cd"), "different code from the chief"),
      (dict(here, tensorflow="1.15.5"),
          "has TensorFlow 2.21.0, but the chief has 1.15.5"),
      (dict(here, flags={"learning_rate": 0.2, "seed": 1}),
       "worker 1 (c:1) has --learning_rate=0.1, but the chief has 0.2")):
    with pytest.raises(ValueError) as error:
      cluster_members.check_identity(here, other, cluster)
    assert message in str(error.value)


def test_the_end_is_published(tmp_path):
  folder = str(tmp_path)
  assert not cluster_members.is_over(folder)
  cluster_members.publish(folder, {}, cluster_members.RUNNING)
  assert not cluster_members.is_over(folder)
  cluster_members.publish(folder, {}, cluster_members.FINISHED)
  assert cluster_members.is_over(folder)
  cluster_members.publish(folder, {}, cluster_members.FAILED, reason="no disk.")
  with pytest.raises(cluster_members.ClusterError) as error:
    cluster_members.is_over(folder)
  assert str(error.value) == "the chief ended the run: no disk."


# Which rows a member works on.


@pytest.fixture(scope="module")
def record_file(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  import tokenization  # pylint: disable=g-import-not-at-top
  vocab = str(folder / "vocab.txt")
  tiny_bert.write_text(vocab, u"".join(
      token + u"\n" for token in tiny_bert.vocabulary()))
  examples = [run_multilabel_classifier.InputExample(
      row["id"], row["text"], labels=row["labels"])
              for row in tiny_bert.make_rows(37, 5)]
  path = str(folder / "train.tf_record")
  record_file_module.file_based_convert_examples_to_features(
      examples, list(tiny_bert.LABELS), 32,
      tokenization.FullTokenizer(vocab), path)
  return path


@pytest.mark.parametrize("num_replicas", [1, 3, 11])
def test_no_example_is_left_out_or_there_twice(record_file, num_replicas):
  shards = cluster_graph.Shards(record_file, 8, 7, 3, num_replicas)
  records = record_file_module.RecordFile(record_file)
  for epoch in range(2):
    seen = []
    one_process = input_pipeline.epoch_batches(records.lengths, 8, 7, epoch)
    for place, batch in enumerate(one_process):
      step = epoch * 5 + place
      dealt = [shards.rows(step, replica) for replica in range(num_replicas)]
      assert np.array_equal(np.concatenate(dealt), batch)
      sizes = [len(shards.features(step, replica)["input_ids"])
               for replica in range(num_replicas)]
      assert sizes == [len(rows) for rows in dealt]
      assert max(sizes) - min(sizes) <= 1
      seen.extend(batch)
    assert sorted(seen) == list(range(37))


# The launcher.


def test_the_launcher_starts_a_dead_member_again(tmp_path, monkeypatch):
  script = tmp_path / "run_multilabel_classifier.py"
  script.write_text(u"""
import json, os, sys, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
mark = os.path.join(sys.argv[1], task["type"])
if task["type"] == "ps":
  sys.exit(0)
if task["type"] == "worker":
  open(mark, "a").write("x")
  sys.exit(1 if os.path.getsize(mark) < 3 else 0)
while not (os.path.exists(os.path.join(sys.argv[1], "worker")) and
           os.path.getsize(os.path.join(sys.argv[1], "worker")) == 3):
  time.sleep(0.02)
sys.exit(7)
""")
  monkeypatch.setattr(local, "ROOT", str(tmp_path))
  assert local.main(["--workers=1", "--ps=1", "--log_dir", str(
      tmp_path / "logs"), "--", str(tmp_path)]) == 7
  assert (tmp_path / "worker").read_text() == "xxx"
  assert sorted(os.listdir(str(tmp_path / "logs"))) == [
      "chief-0.log", "ps-0.log", "worker-0.log"]


# The whole.


def step_of(output_dir):
  found = input_pipeline and checkpoint_choice.latest_checkpoint(output_dir)
  return int(found.rpartition("-")[2]) if found else -1


@pytest.mark.slow
def test_a_cluster_whose_worker_and_ps_are_killed(tmp_path, monkeypatch):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  bert = tiny_bert.make_bert(tmp_path / "bert", num_hidden_layers=1,
                             hidden_dropout_prob=0.0,
                             attention_probs_dropout_prob=0.0)
  data = tiny_bert.make_data(tmp_path / "data", (101, 30, 20))
  flags = dict(num_train_epochs=8, learning_rate=0.003, log_steps=1,
               save_checkpoints_steps=5, keep_checkpoint_max=0,
               do_eval=True)
  output_dir = str(tmp_path / "cluster")
  cluster = local.LocalCluster(
      local.make_members(2, 1), tiny_bert.arguments(
          bert, data, output_dir, **flags), str(tmp_path / "logs"))
  pids = {who: process.pid for who, process in cluster.processes.items()}
  to_kill = [(5, ("worker", 1)), (40, ("ps", 0))]
  end = time.monotonic() + 900
  while cluster.watch() is None:
    assert time.monotonic() < end
    if to_kill and step_of(output_dir) >= to_kill[0][0]:
      os.kill(cluster.processes[to_kill.pop(0)[1]].pid, signal.SIGKILL)
    time.sleep(0.02)
  cluster.stop()
  logs = tiny_bert.read_text(tmp_path / "logs" / "chief-0.log")
  assert cluster.processes["chief", 0].returncode == 0, logs
  assert not to_kill
  assert cluster.processes["worker", 1].pid != pids["worker", 1]
  assert cluster.processes["ps", 0].pid != pids["ps", 0]
  assert step_of(output_dir) == 8 * 13
  for number in range(1, 8 * 13 + 1):
    assert "step %d/104 " % number in logs
  one = str(tmp_path / "one")
  status, stderr = tiny_bert.train(bert, data, one, eval_steps=0, **flags)
  assert status == 0, stderr

  def loss_of(folder):
    lines = tiny_bert.read_text(os.path.join(folder, "eval_results.txt"))
    return float(dict(line.split(" = ") for line in lines.splitlines())["loss"])

  # The head has dropout, whose masks are a replica's own.
  assert loss_of(output_dir) == pytest.approx(loss_of(one), abs=0.05)
  first = tiny_bert.read_weights(os.path.join(one, "model.ckpt-104"))
  last = tiny_bert.read_weights(os.path.join(output_dir, "model.ckpt-104"))
  assert sorted(first) == sorted(last)


# The examples of scale/launch.


def test_the_slurm_script_is_bash():
  subprocess.check_call(["bash", "-n", os.path.join(
      tiny_bert.ROOT, "scale", "launch", "slurm.sh")])


def test_the_slurm_script_says_who_is_who(tmp_path):
  """Its tasks, with srun and scontrol played by two scripts."""
  for name, lines in (
      ("scontrol", u"printf 'n0\\nn1\\nn2\\nn3\\n'"),
      ("srun", u"shift; for SLURM_PROCID in 0 1 2 3; do export SLURM_PROCID\n"
               u"\"$@\"; done"),
      ("python", u"echo \"$TF_CONFIG\" >> \"$2\"")):
    path = tmp_path / name
    path.write_text(u"#!/bin/bash\n%s\n" % lines)
    path.chmod(0o755)
  subprocess.check_call(
      ["bash", os.path.join(tiny_bert.ROOT, "scale", "launch", "slurm.sh"),
       str(tmp_path / "out")], env=dict(
           os.environ, PATH="%s:%s" % (tmp_path, os.environ["PATH"]),
           SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n[0-3]", PS="1"))
  found = [cluster_members.read_tf_config(line)
           for line in (tmp_path / "out").read_text().splitlines()]
  assert [(one.job, one.task) for one in found] == [
      ("chief", 0), ("worker", 0), ("worker", 1), ("ps", 0)]
  assert all(one.members == {
      "chief": ["n0:20007"], "worker": ["n1:20007", "n2:20007"],
      "ps": ["n3:20007"]} for one in found)


def test_the_kubernetes_manifest_names_its_pods():
  yaml = pytest.importorskip("yaml")
  with open(os.path.join(tiny_bert.ROOT, "scale", "launch",
                         "kubernetes.yaml")) as reader:
    objects = list(yaml.safe_load_all(reader))
  by_kind = {}
  for one in objects:
    assert {"apiVersion", "kind", "metadata"} <= set(one)
    by_kind.setdefault(one["kind"], []).append(one)
  settings, = by_kind["ConfigMap"]
  cluster = json.loads(settings["data"]["CLUSTER"])
  names = {}
  for one in by_kind["StatefulSet"]:
    pod = one["spec"]["template"]
    assert one["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    container, = pod["spec"]["containers"]
    role, = [entry["value"] for entry in container["env"]]
    names[role] = ["%s-%d.%s:2222" % (
        one["metadata"]["name"], index, one["spec"]["serviceName"])
                   for index in range(one["spec"]["replicas"])]
  assert names == cluster
  cluster_members.read_tf_config(config(cluster, type="ps", index=0))
