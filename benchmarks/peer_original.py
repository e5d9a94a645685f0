# SPDX-License-Identifier: Apache-2.0
"""google-research/bert as a peer: the package bert-tensorflow on TF 1.15.5.

Its tokenizer, `convert_single_example`, `BertModel` and optimizer, with the
label head that its multi-label forks have. Every text is padded to
`max_seq_length`, as its `run_classifier.py` does. Batches go through
`feed_dict`, where that has Estimator and a TFRecord reader: in its favor.
"""

import os
import sys
import time

from absl import flags
import numpy as np
import tensorflow as tf

from benchmarks import work_items
from benchmarks.shared_texts import load_texts
from benchmarks.shared_texts import training_labels


def modules():
  """(modeling, optimization, run_classifier, tokenization) of the package."""
  from bert import modeling
  from bert import optimization
  from bert import run_classifier
  from bert import tokenization
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
    tf.get_logger().setLevel("ERROR")
  return modeling, optimization, run_classifier, tokenization


class Peer(object):
  """See `worker`; settings: "threads", "tight"."""

  def __init__(self, settings):
    self._settings = settings

  def versions(self):
    import pkg_resources
    modules()
    return {"python": sys.version.split()[0], "tensorflow": tf.__version__,
            "bert-tensorflow": pkg_resources.get_distribution(
                "bert-tensorflow").version}

  def load(self, job):
    return {"predict": Prediction, "single": Single, "train": Training,
            "features": Features, "start": Single, "whole": Whole}[
                job["kind"]](job, self._settings)


class Encoder(object):
  """Texts to arrays `[n, max_seq_length]`, by the package's functions."""

  def __init__(self, job, max_seq_length):
    _, _, run_classifier, tokenization = modules()
    self._classifier = run_classifier
    self._tokenizer = tokenization.FullTokenizer(
        os.path.join(job["work_dir"], job["model"], "hf", "vocab.txt"), True)
    self._length = max_seq_length

  def features(self, texts):
    classifier = self._classifier
    # From 5 on, since the first five examples are logged.
    return [classifier.convert_single_example(
        5 + i, classifier.InputExample(str(i), text, None, "0"), ["0"],
        self._length, self._tokenizer) for i, text in enumerate(texts)]

  def arrays(self, texts):
    features = self.features(texts)
    return [np.array([getattr(row, name) for row in features], np.int32)
            for name in ("input_ids", "input_mask", "segment_ids")]


class Graph(object):
  """The package's model with a sigmoid head, weights restored, in a session.
  """

  def __init__(self, job, threads, length, num_steps=0, head=True,
               num_labels=work_items.NUM_LABELS):
    modeling, optimization, _, _ = modules()
    folder = os.path.join(job["work_dir"], job["model"])
    config = modeling.BertConfig.from_json_file(
        os.path.join(folder, "tanh", "bert_config.json"))
    graph = tf.Graph()
    with graph.as_default():
      shape = [None, length]
      self.inputs = [tf.placeholder(tf.int32, shape) for _ in range(3)]
      self.labels = tf.placeholder(tf.float32, [None, num_labels])
      self.logits, loss = self._tower(modeling, config, False, num_labels)
      self.losses = tf.reduce_mean(loss, axis=-1)
      pretrained = [var for var in tf.trainable_variables()
                    if head or var.name.startswith("bert/")]
      saver = tf.train.Saver(pretrained)
      if num_steps:
        with tf.variable_scope("", reuse=True):
          _, loss = self._tower(modeling, config, True, num_labels)
        self.loss = tf.reduce_mean(loss)
        self.train_op = optimization.create_optimizer(
            self.loss, job.get("learning_rate", 1e-5), num_steps,
            job.get("warmup", 0), False)
      self.saver = tf.train.Saver()
      initialize = tf.global_variables_initializer()
    self.session = tf.Session(graph=graph, config=tf.ConfigProto(
        intra_op_parallelism_threads=threads))
    self.session.run(initialize)
    saver.restore(self.session, os.path.join(
        folder, "trained", "model.ckpt-0"))

  def _tower(self, modeling, config, is_training, num_labels):
    """(logits, loss of each label); the head of `run_classifier`, sigmoid."""
    model = modeling.BertModel(config, is_training, *self.inputs,
                               use_one_hot_embeddings=False, scope="bert")
    pooled = model.get_pooled_output()
    weights = tf.get_variable(
        "output_weights", [num_labels, config.hidden_size],
        initializer=tf.truncated_normal_initializer(stddev=0.02))
    bias = tf.get_variable("output_bias", [num_labels],
                           initializer=tf.zeros_initializer())
    if is_training:
      pooled = tf.nn.dropout(pooled, keep_prob=0.9)
    logits = tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)
    return logits, tf.nn.sigmoid_cross_entropy_with_logits(
        labels=self.labels, logits=logits)

  def run(self, fetches, arrays, labels=None):
    feed = dict(zip(self.inputs, arrays))
    if labels is not None:
      feed[self.labels] = labels
    return self.session.run(fetches, feed)


def padded_length(job, settings, rows):
  """The job's max_seq_length, or the least one that cuts nothing off."""
  if settings.get("tight"):
    return max(tokens for _, tokens in rows)
  return job["max_seq_length"]


class Prediction(object):
  """Features of each text, then batch after batch in arrival order."""

  def __init__(self, job, settings):
    if job["pooling"] != "pooler":
      raise ValueError("the original only supports its pooler")
    rows = load_texts(job)
    length = padded_length(job, settings, rows)
    self._texts, self._job = [text for text, _ in rows], job
    self._encoder = Encoder(job, length)
    self._graph = Graph(job, settings["threads"], length)
    self.says = "max_seq_length %d, batches of %d" % (
        length, job["batch_size"])

  def predict(self, texts):
    size, out = self._job["batch_size"], []
    arrays = self._encoder.arrays(texts)
    for start in range(0, len(texts), size):
      out.append(self._graph.run(self._graph.logits, [
          array[start:start + size] for array in arrays]))
    return np.concatenate(out)

  def outputs(self):
    return self.predict(self._texts[:self._job["checked"]])

  def run(self):
    self.predict(self._texts)

  def close(self):
    self._graph.session.close()


class Single(Prediction):
  """A call per text; the seconds of each are kept."""

  def run(self):
    each = []
    for text in self._texts:
      start = time.perf_counter()
      self.predict([text])
      each.append(time.perf_counter() - start)
    return each


class Features(object):
  """`file_based_convert_examples_to_features`, as the package has it."""

  def __init__(self, job, settings):
    del settings
    self._texts, self._job = [text for text, _ in load_texts(job)], job
    self._encoder = Encoder(job, job["max_seq_length"])
    self.says = "one process, written to a record file"

  def outputs(self):
    return [row.input_ids[:sum(row.input_mask)] for row in
            self._encoder.features(self._texts[:self._job["checked"]])]

  def run(self):
    _, _, run_classifier, _ = modules()
    run_classifier.file_based_convert_examples_to_features(
        [run_classifier.InputExample(str(i), text, None, "0")
         for i, text in enumerate(self._texts)], ["0"],
        self._job["max_seq_length"], self._encoder._tokenizer,
        os.path.join(self._job["work_dir"], "original.tf_record"))

  def close(self):
    pass


class Training(object):
  """Steps over features that were made before, in random order."""

  def __init__(self, job, settings):
    if job["pooling"] != "pooler":
      raise ValueError("the original only supports its pooler")
    rows = load_texts(job)
    length = padded_length(job, settings, rows)
    self._job = job
    self._arrays = Encoder(job, length).arrays([text for text, _ in rows])
    self._labels = training_labels(len(rows))
    self._graph = Graph(job, settings["threads"], length, 10 ** 9)
    self._order = np.random.RandomState(1).permutation(len(rows))
    self._step = 0
    self.says = "max_seq_length %d, dropout on, its optimizer" % length

  def outputs(self):
    first = slice(0, self._job["batch_size"])
    return [self._graph.run(self._graph.losses, [
        array[first] for array in self._arrays], self._labels[first])]

  def run(self):
    size = self._job["batch_size"]
    for _ in range(self._job["steps"]):
      start = self._step * size % (len(self._order) - size + 1)
      batch = self._order[start:start + size]
      self._graph.run([self._graph.train_op, self._graph.loss], [
          array[batch] for array in self._arrays], self._labels[batch])
      self._step += 1

  def close(self):
    self._graph.session.close()


class Whole(object):
  """Texts, features, all epochs, a checkpoint, F1 on dev: one `run`."""

  def __init__(self, job, settings):
    self._job, self._threads = job, settings["threads"]
    self.says = "max_seq_length %d" % job["max_seq_length"]

  def run(self):
    job = self._job
    from benchmarks import whole_run
    data = whole_run.read(job["data_dir"])
    encoder = Encoder(job, job["max_seq_length"])
    arrays = {part: encoder.arrays(data[part].texts) for part in data.parts}
    size = job["batch_size"]
    plan = whole_run.batches(len(data["train"].texts), size, job["epochs"])
    graph = Graph(dict(job, learning_rate=3e-4, warmup=len(plan) // 10),
                  self._threads, job["max_seq_length"], len(plan), False,
                  len(data.names))
    for batch in plan:
      graph.run([graph.train_op, graph.loss],
                [array[batch] for array in arrays["train"]],
                data["train"].labels[batch])
    graph.saver.save(graph.session, os.path.join(
        job["output_dir"], "model.ckpt"))
    logits = [graph.run(graph.logits, [array[start:start + 64] for array in
                                       arrays["dev"]])
              for start in range(0, len(data["dev"].texts), 64)]
    return [whole_run.micro_f1(np.concatenate(logits), data["dev"].labels)]

  def close(self):
    pass
