# SPDX-License-Identifier: Apache-2.0
"""This project as a peer of the benchmark; one job per kind of workload."""

from multilabel.common import command_line


command_line.quiet_tensorflow()  # as the scripts do, before it is imported

# pylint: disable=g-import-not-at-top
import os
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks import work_items
from benchmarks.shared_texts import load_texts
from benchmarks.shared_texts import training_labels


_NEVER = 10 ** 9


def logit(probabilities):
  """Logits of probabilities, in float64, to be compared."""
  values = np.asarray(probabilities, np.float64)
  return np.log(values) - np.log1p(-values)


class Peer(object):
  """See `worker`; settings: "threads", "inter_op_threads"."""

  def __init__(self, settings):
    self._settings = settings

  def versions(self):
    return {"python": sys.version.split()[0], "tensorflow": tf.__version__,
            "numpy": np.__version__}

  def load(self, job):
    return {"predict": Prediction, "single": Single, "train": Training,
            "features": Features, "start": Single}[job["kind"]](
                job, self._settings)


class Prediction(object):
  """All texts in one call of `SessionPredictor.predict`."""

  def __init__(self, job, settings):
    import predict_session
    self._texts = [text for text, _ in load_texts(job)]
    self._checked = job["checked"]
    self._predictor = predict_session.SessionPredictor(
        os.path.join(job["work_dir"], job["model"], job.get("form") or
                     "trained"),
        batch_size=job["batch_size"], intra_op_threads=settings["threads"],
        inter_op_threads=settings.get("inter_op_threads"))
    self.says = "batch_size %d" % job["batch_size"]

  def outputs(self):
    return logit(self._predictor.predict(self._texts[:self._checked]))

  def run(self):
    self._predictor.predict(self._texts)

  def close(self):
    self._predictor.close()


class Single(Prediction):
  """A call per text, one after another; the seconds of each are kept."""

  def run(self):
    each = []
    for text in self._texts:
      start = time.perf_counter()
      self._predictor.predict([text])
      each.append(time.perf_counter() - start)
    return each


class Features(object):
  """`file_based_convert_examples_to_features`, its processes and its file."""

  def __init__(self, job, unused_settings):
    from multilabel.features import record_file
    import tokenization
    self._texts = [text for text, _ in load_texts(job)]
    self._work_dir = job["work_dir"]
    self._checked = job["checked"]
    self._tokenizer = tokenization.FullTokenizer(
        os.path.join(job["work_dir"], job["model"], "hf", "vocab.txt"))
    self._max_seq_length = job["max_seq_length"]
    self._num_workers = record_file.choose_num_workers(len(self._texts))
    self.says = ("%d process(es), word cache cleared before each round, "
                 "written to a record file" % self._num_workers)

  def outputs(self):
    from multilabel.features import encoding
    return [encoding.encode_text(
        self._tokenizer, text, None, self._max_seq_length)[0]
            for text in self._texts[:self._checked]]

  def run(self):
    from multilabel.features import record_file
    import processors
    # A setting that is set makes a tokenizer forget what it remembers: nobody
    # writes the same texts twice.
    self._tokenizer.basic_tokenizer.do_lower_case = True
    self._tokenizer.wordpiece_tokenizer.unk_token = "[UNK]"
    record_file.file_based_convert_examples_to_features(
        (processors.InputExample(str(i), text, None, ())
         for i, text in enumerate(self._texts)),
        ["a"], self._max_seq_length, self._tokenizer,
        os.path.join(self._work_dir, "features.tf_record"),
        num_workers=self._num_workers)

  def close(self):
    pass


class Training(object):
  """`loop.train` over records that were written before."""

  def __init__(self, job, unused_settings):
    import modeling
    from multilabel.features import feature_rows
    from multilabel.features import input_pipeline
    from multilabel.features import record_file
    from multilabel.training import loop
    from multilabel.training import scoring
    import processors
    from benchmarks import training_order
    from multilabel.training import model_graph
    import run_multilabel_classifier
    import tokenization
    tf.disable_v2_behavior()
    command_line.keep_freed_memory()  # as the script does
    self._training, self._scoring, self._job = loop, scoring, job
    folder = os.path.join(job["work_dir"], job["model"])
    work = os.path.join(folder, "training")
    os.makedirs(work, exist_ok=True)
    records = os.path.join(work, "train.tf_record")
    rows = load_texts(job)
    labels = training_labels(len(rows))
    names = ["label %d" % i for i in range(work_items.NUM_LABELS)]
    record_file.file_based_convert_examples_to_features(
        (processors.InputExample(str(i), text, None, [
            names[j] for j in np.flatnonzero(labels[i])])
         for i, (text, _) in enumerate(rows)), names, job["max_seq_length"],
        tokenization.FullTokenizer(os.path.join(folder, "hf", "vocab.txt")),
        records)
    self._batch = feature_rows.make_batch(
        [record_file.RecordFile(records).read(i)
         for i in range(job["batch_size"])], len(names))
    model_fn = run_multilabel_classifier.model_fn_builder(
        bert_config=modeling.BertConfig.from_json_file(os.path.join(
            folder, job.get("form") or "trained", "bert_config.json")),
        num_labels=len(names),
        init_checkpoint=os.path.join(folder, "trained", "model.ckpt-0"),
        learning_rate=1e-5, num_train_steps=_NEVER, num_warmup_steps=0,
        use_tpu=False, use_one_hot_embeddings=False,
        settings=model_graph.GraphSettings(
            pooling=job["pooling"], random_seed=1, adam_bias_correction=True))
    self._run = loop.Run(
        model_fn, work, input_pipeline.file_based_input_fn_builder(
            records, job["max_seq_length"], True, False,
            num_labels=len(names), seed=training_order.SEED),
        job["batch_size"], 1)
    self._run.save = lambda step: None
    self._run.remove_old_checkpoints = lambda best_step=None: None
    self.says = "batches of similar length, dropout on, AdamW, clipping"

  def outputs(self):
    inference = self._run.inference
    return [self._run.session.run(
        inference.per_example_loss,
        self._scoring.feed_dict(inference, self._batch))]

  def run(self):
    first = self._run.checkpoint_step
    last = first + self._job["steps"]
    self._training.train(self._run, last, _NEVER, _NEVER,
                         self._job["batch_size"])
    self._run.checkpoint_step = last

  def close(self):
    self._run.close()
