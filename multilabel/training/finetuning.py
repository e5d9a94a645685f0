# SPDX-License-Identifier: Apache-2.0
"""One run as an object: what it reads once, and its steps in order.

    run = Finetuning(settings, model_fn_builder)
    with run.claim():
      run.read_examples()
      run.write_features()
      with run.start():
        run.train()
        run.evaluate("dev")
        run.predict()

`run_multilabel_classifier.py` creates the settings from flags;
`multilabel_classifier.py` from keywords, with examples in memory.
"""

import collections
import contextlib
import itertools
import os
import time

from absl import logging

from multilabel import decisions
from multilabel import head
from multilabel.common import command_line
from multilabel.common import waiting
from multilabel.export import model_card
from multilabel.features import input_pipeline
from multilabel.features import preparation
from multilabel.features import record_shards
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_restore
from multilabel.storage import checkpoint_slim
from multilabel.storage import own_results
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import cluster_graph
from multilabel.training import cluster_members
from multilabel.training import cluster_roles
from multilabel.training import dev_evaluation
from multilabel.training import evaluation
from multilabel.training import flag_checks
from multilabel.training import loop
from multilabel.training import mirrored
from multilabel.training import mixed_precision
from multilabel.training import model_graph
from multilabel.training import run_claim
from multilabel.training import run_setup
from multilabel.training import scoring
from multilabel.training import start_log


# Steps in all, steps of warmup, steps of one pass over train.
Plan = collections.namedtuple(
    "Plan", ["num_train_steps", "num_warmup_steps", "steps_per_epoch"])


def count_steps(num_records, settings):
  """(steps in all, steps per epoch); ValueError: there are too many steps.

  The last step of an epoch may have fewer examples.
  """
  per_epoch = -(-num_records // settings.train_batch_size)
  num_train_steps = max(1, int(per_epoch * settings.num_train_epochs))
  if num_train_steps > flag_checks.MOST_STEPS:
    raise ValueError(
        "--num_train_epochs is %s, which makes %d steps; the maximum is 2^31 - "
        "1."
        % (settings.num_train_epochs, num_train_steps))
  return num_train_steps, per_epoch


def plan_training(num_records, settings):
  """The `Plan` of that many records."""
  num_train_steps, per_epoch = count_steps(num_records, settings)
  return Plan(num_train_steps,
              int(num_train_steps * settings.warmup_proportion), per_epoch)


class Finetuning(object):
  """A run that trains, evaluates and predicts in its `output_dir`.

  Attributes:
    settings: `common.settings.Settings`.
    cluster: `cluster_members.Cluster`, or None on one machine.
    trained: `trained_model.TrainedModel`, the content of output_dir; None
      before a new run has written it.
    model: `run_setup.Model`.
    labels: list of str, in the order of the outputs.
    parts: {"train", "dev", "test": `preparation.DataPart`}, those needed.
    records: {part: (path, `record_file.FeatureStats`)}.
    plan: `Plan`, None without training.
    dev: `dev_evaluation.DevEvaluation`, None without.
    decision: `decisions.DecisionRule`, from probabilities to labels.
    calibration: `calibration.Calibration`, from logits to probabilities, or
      None.
    results: {"dev", "test": dict of scores}, of those evaluated.
    run: `loop.Run`, the graph and its session, between `start` and its end.
  """

  def __init__(self, settings, model_fn_builder, processor=None,
               observer=None):
    """Checks the settings, and finds the encoder; reads nothing else yet.

    Args:
      settings: `common.settings.Settings`.
      model_fn_builder: that of `run_multilabel_classifier`.
      processor: `processors.DataProcessor` of examples in memory; None: the
        settings name one of files.
      observer: `progress.Observer`, observes the training; None: that of a
        script.

    Raises:
      ValueError: settings are invalid, or cannot be combined.
    """
    self.cluster, settings = cluster_members.choose_distribution(settings)
    self.settings, self._encoder = settings, None
    flag_checks.check_flags(self.settings, processor is None)
    flag_checks.check_evaluation_flags(self.settings)
    if settings.do_train:
      self.settings, self._encoder = run_setup.resolve_encoder(settings)
    self._model_fn_builder = model_fn_builder
    self._processor = processor
    self._observer = observer
    # A program with its own examples may have threads, which no fork survives.
    self._num_workers = None if processor is None else 1
    self._is_time_over = time_limit(self.settings)
    self.trained = self.model = self.labels = self.plan = None
    self.dev = self.decision = self.run = self._head_plan = None
    self.calibration, self._is_silence_told = None, False
    self.parts, self.records, self.results = {}, {}, {}

  def __repr__(self):
    return "Finetuning(output_dir=%r)" % self.settings.output_dir

  @property
  def is_helper(self):
    """Whether this process works for the chief of a cluster."""
    return self.cluster is not None and self.cluster.job != "chief"

  @contextlib.contextmanager
  def claim(self):
    """Locks output_dir and reads it, once; a context manager.

    Raises:
      ValueError: the directory does not belong to the run, or there is nothing
        to resume from.
    """
    settings = self.settings
    if not settings.do_train and not run_lock.is_trained(settings.output_dir):
      raise ValueError("output_dir %s has no trained model; train first "
                       "(--do_train)." % settings.output_dir)
    run_lock.check_output_dir(settings.output_dir)
    with run_lock.lock(settings.output_dir):
      own_results.check(settings.output_dir,
                        evaluation.written_files(settings))
      self.trained = run_claim.read_directory(settings)
      self.model = run_setup.choose_model(
          run_setup.as_begun(settings, self.trained),
          None if settings.do_train else self.trained)
      flag_checks.check_layer_flags(
          settings, self.model.bert_config.num_hidden_layers)
      yield self

  def read_examples(self):
    """Reads and checks the data, then writes what describes the run.

    Raises:
      ValueError: the data are broken, or output_dir is from another run.
    """
    settings = self.settings
    if self._processor is None:
      self._processor = run_setup.make_processor(settings)
    with waiting.saying("Reading the labels"):
      self.labels = run_setup.choose_labels(self._processor, settings,
                                            self.trained)
    if settings.do_train and settings.init_checkpoint:
      with waiting.saying("Checking %s" % settings.init_checkpoint):
        self._head_plan = run_setup.plan_start(self.model, self.labels,
                                               settings)
    self.parts = preparation.read_parts(
        self._processor, self.labels, self.model, settings)
    if settings.do_train:
      # Or reject; there may be more records than examples, never fewer.
      count_steps(self.parts["train"].scan.num_examples, settings)
    self.trained = run_claim.settle(self.trained, self.model, self.labels,
                                    self.parts, settings, self._encoder)
    if settings.do_train:
      start_log.log_data(self.parts, self.labels, start_log.columns_taken(
          self._processor, settings.data_dir))
    self.decision = run_setup.choose_decision(settings, self.trained)
    self.calibration = run_setup.choose_calibration(settings, self.trained)

  def write_features(self):
    """Writes the record files of the parts, or finds them; plans the run."""
    self.records = preparation.write_features(
        self.parts, self.labels, self.model, self.settings.output_dir,
        self._num_workers)
    if self.settings.do_train:
      self.plan = plan_training(self.records["train"][1].num_records,
                                self.settings)

  @contextlib.contextmanager
  def start(self):
    """Builds the graph and its session: `run`; a context manager."""
    if self.cluster is not None:
      self._lead_cluster()
    with self._make_run() as self.run:
      if self.run.train_spec is not None:
        start_log.log_device(self.run.session)
      yield self.run
    self.run = None

  def train(self):
    """Trains, with evaluations on dev in between; then takes the best weights.

    Raises:
      See `loop.train`.
    """
    if self.run.train_spec is None:
      # Training is over, and the rest has to be done in one go.
      self._is_time_over = None
    self._train(self.run)
    self._tidy()
    self.run.use_best_checkpoint()

  def _tidy(self):
    """Keeps only what a finished run needs of its checkpoints."""
    settings, identity = self.settings, self.trained.identity
    if not settings.keep_checkpoint_max and not settings.slim:
      return
    output_dir = settings.output_dir
    best = checkpoint_choice.best_checkpoint(output_dir, identity)
    checkpoint_slim.keep_of_finished(
        output_dir, best and os.path.join(output_dir, best["checkpoint"]),
        checkpoint_choice.latest_checkpoint(output_dir, identity),
        settings.slim)

  def evaluate(self, name):
    """Evaluates a labelled part and writes its results.

    On dev, the calibration and the thresholds are tuned, if requested.

    Args:
      name: str, "dev" or "test".

    Returns:
      `evaluation.Outputs`.
    """
    settings, part = self.settings, self.parts[name]
    left_out = part.scan.unlabelled
    with self._telling_of_time(), self._open(name) as records:
      scored = (input_pipeline.RecordsWithout(records, left_out)
                if len(left_out) else records)
      is_fitting = (name == "dev" and
                    settings.calibrate != run_setup.NOT_CALIBRATED)
      outputs = evaluation.run_part(
          self.run, scored, settings.eval_batch_size, len(self.labels),
          self.model.long_text.pooling, self._is_time_over,
          is_fitting or self.calibration is not None)
    if is_fitting:
      self.calibration = evaluation.calibrate(outputs, settings.calibrate)
    outputs = evaluation.calibrated(self.run, outputs, self.calibration)
    if name == "dev" and settings.threshold in decisions.TUNED_THRESHOLDS:
      self.decision = evaluation.tune(
          outputs, self.decision, settings.threshold, self.labels,
          settings.min_precision)
    evaluation.warn_if_silent(name, outputs, self.decision)
    result = evaluation.results(outputs, self.decision, self.labels,
                                self.calibration)
    if len(left_out):
      logging.info("%s of %s texts of %s have no labels and are excluded from "
                   "its scores", "{:,}".format(len(left_out)),
                   "{:,}".format(part.scan.num_examples), name)
      result["num_texts_left_out"] = len(left_out)
    self.results[name] = dict(result, global_step=self.run.checkpoint_step)
    evaluation.write_results(name, result, self.run.checkpoint_step,
                             settings.output_dir)
    if name == "test" or not settings.do_test:
      evaluation.log_table(self.results)
    if name == "dev":
      evaluation.write_predictions(
          name, part.examples(), outputs, self.decision, self.labels,
          settings.output_dir, decisions.parse(settings.probabilities),
          settings.shorten_texts)
    return outputs

  def store_decision(self):
    """Stores the decision rule in output_dir, if the settings define it."""
    self.trained = trained_model.update_decision(
        self.trained, run_setup.threshold_kind(self.settings, self.trained),
        self.decision, self.calibration)

  def predict(self):
    """Predicts the test set and writes the files of results."""
    settings = self.settings
    examples = iter(self.parts["test"].examples())
    with self._telling_of_time(), self._open("test") as records, \
        evaluation.PredictionWriter(
            "test", self.decision, self.labels, settings.output_dir, True,
            decisions.parse(settings.probabilities),
            settings.shorten_texts) as writer:
      for window in scoring.predict(
          self.run, records, settings.predict_batch_size, len(self.labels),
          self.model.long_text.pooling, self._is_time_over,
          self.calibration):
        writer.write(examples, window)
    logging.info("***** Predictions on test: %s, %s *****",
                 ", ".join(writer.paths), self.decision.describe())

  def write_card(self):
    """Writes model_card.md."""
    path = model_card.write(self.trained)
    if path is not None:
      logging.info("***** Model card: %s *****", path)

  def join_cluster(self):
    """Runs a worker or a ps."""
    cluster, settings = self.cluster, self.settings
    output_dir, seconds = settings.output_dir, settings.cluster_timeout
    there = cluster_members.wait_for_chief(cluster, output_dir, seconds)
    cluster_members.check_identity(
        cluster_members.identity(settings), there["identity"], cluster)
    if there["state"] == cluster_members.FINISHED:
      logging.info("The run is finished.")
    elif cluster.job == "ps":
      cluster_roles.serve(cluster, output_dir, seconds)
    else:
      self.trained = trained_model.read(output_dir)
      self.model = run_setup.choose_model(settings)
      self.labels = self.trained.labels
      record_file = preparation.record_path(output_dir, "train")
      with contextlib.closing(record_shards.open_records(record_file)) as rows:
        self.plan = plan_training(len(rows), settings)
      cluster_roles.work(self._make_member(record_file), output_dir)

  def _lead_cluster(self):
    """The chief's training; its weights start as those of a single process."""
    settings = self.settings
    if checkpoint_choice.recover(settings.output_dir,
                                 self.trained.identity) is None:
      with self._make_run() as run:
        run.save(0)
    cluster_roles.lead(
        self._make_member(self.records["train"][0]),
        cluster_members.identity(settings), settings.output_dir,
        settings.keep_checkpoint_max, self._train)

  def _make_member(self, record_file):
    """`cluster_graph.Member` of chief or worker."""
    return cluster_graph.make_member(
        self.cluster, self._make_model_fn(), record_file, len(self.labels),
        self.plan.num_train_steps, self.settings)

  def _make_model_fn(self, init_checkpoint=None, output_bias=None):
    """Calls `model_fn_builder` with the settings of the run."""
    settings, plan = self.settings, self.plan or Plan(0, 0, 0)
    return self._model_fn_builder(
        self.model.bert_config, len(self.labels), init_checkpoint,
        settings.learning_rate, plan.num_train_steps, plan.num_warmup_steps,
        use_tpu=False,
        use_one_hot_embeddings=settings.use_one_hot_embeddings,
        settings=model_graph.GraphSettings(
            pooling=self.model.pooling,
            head_learning_rate=settings.head_learning_rate,
            output_bias=output_bias,
            random_seed=settings.random_seed,
            adam_bias_correction=settings.adam_bias_correction,
            loss_fn=run_setup.make_loss(self.model.loss, self.trained),
            skip_nonfinite=settings.skip_nonfinite > 0,
            layer_decay=settings.layer_decay,
            freeze_layers=settings.freeze_layers,
            recompute_layers=settings.recompute_layers,
            ema_decay=settings.ema_decay,
            dropout_samples=settings.multi_sample_dropout,
            r_drop=settings.r_drop,
            fgm_epsilon=(settings.fgm_epsilon if settings.adversarial == "fgm"
                         else None),
            head_plan=self._head_plan if init_checkpoint else None,
            scale_loss=(mixed_precision.choose_precision(settings) ==
                        mixed_precision.FLOAT16)))

  def _make_run(self):
    """Builds the graph and its session: `loop.Run`.

    Without --do_train, and after training, it has no training tower.
    """
    settings, checkpoint = self.settings, None
    train_input_fn, output_bias = None, None
    if settings.do_train:
      checkpoint = checkpoint_choice.recover(settings.output_dir,
                                             self.trained.identity)
      step = checkpoint_files.checkpoint_step(checkpoint)
      scan = self.parts["train"].scan
      if settings.init_bias_from_prior:
        output_bias = head.log_odds(scan.label_counts, scan.num_examples)
      self.dev = self._make_dev_evaluation(step)
      is_over = step >= self.plan.num_train_steps or (
          self.dev is not None and self.dev.is_over) or (
              checkpoint_slim.check_finished(checkpoint, self.trained))
      self._log_start(checkpoint, step, is_over)
      # A kill may have prevented the last evaluation.
      if not is_over or (self.dev is not None and self.dev.is_due(step)):
        train_input_fn = input_pipeline.file_based_input_fn_builder(
            self.records["train"][0], self.model.max_seq_length, True, False,
            num_labels=len(self.labels), seed=settings.random_seed,
            num_steps=self.plan.num_train_steps)
    if checkpoint:
      checkpoint_restore.check_sizes(
          checkpoint, self.model.bert_config, len(self.labels),
          checkpoint_restore.OWN_FILES)
    with waiting.saying("Building the graph"):
      return loop.Run(
          self._make_model_fn(
              None if checkpoint else settings.init_checkpoint, output_bias),
          settings.output_dir, train_input_fn, settings.train_batch_size,
          settings.random_seed, settings.keep_checkpoint_max,
          settings.allow_older_checkpoint and not settings.do_train,
          settings.gradient_accumulation_steps,
          mirrored.count_devices(settings),
          mixed_precision.choose_precision(settings), settings.xla,
          self.trained.identity)

  def _make_dev_evaluation(self, first_step):
    """Evaluation on dev during training: `DevEvaluation`, or None."""
    settings = self.settings
    if not run_setup.evaluates_while_training(settings):
      return None
    return dev_evaluation.DevEvaluation(
        settings.output_dir, self._evaluate_now,
        settings.eval_steps or self.plan.steps_per_epoch,
        self.plan.num_train_steps,
        evaluation.full_metric_name(settings.metric_for_best),
        settings.early_stopping_patience, first_step, self.trained.identity,
        run_setup.evaluation_rule(settings, self.decision))

  def _evaluate_now(self, should_stop):
    """One evaluation: dev, and the first train examples if requested."""
    def run_part(name, most=None):
      with self._open(name, most) as records:
        return evaluation.run_part(
            self.run, records, self.settings.eval_batch_size,
            len(self.labels), self.model.long_text.pooling, should_stop)

    outputs = run_part("dev")
    decision = evaluation.decide(outputs, self.dev.rule, self.labels)
    if not self._is_silence_told:
      self._is_silence_told = evaluation.warn_if_silent("dev", outputs,
                                                        decision)
    scores = evaluation.dev_scores(outputs, self.labels, "", decision)
    if self.settings.eval_train_sample:
      sample = evaluation.dev_scores(
          run_part("train", self.settings.eval_train_sample), self.labels,
          "train_", decision)
      scores.values.update(sample.values)
      scores.summaries.extend(sample.summaries)
    return scores

  def _log_start(self, checkpoint, step, is_over):
    """Logs what training starts from, and its data."""
    scan, num_train_steps = self.parts["train"].scan, self.plan.num_train_steps
    logging.info("***** Training *****")
    logging.info("  %s examples, %d labels, batches of %d, %d steps",
                 "{:,}".format(scan.num_examples), len(self.labels),
                 self.settings.train_batch_size, num_train_steps)
    unseen = [label for label, count in zip(self.labels, scan.label_counts)
              if not count]
    if unseen:
      logging.warning(
          "  no train example has the label%s %s",
          "s" if len(unseen) > 1 else "", checkpoint_restore.some_names(
              unseen, evaluation.MAX_LOGGED_LABELS))
    if checkpoint:
      logging.info("  %s step %d of %d, found in %s",
                   "already finished:" if is_over else "resuming from", step,
                   num_train_steps, checkpoint)
    elif not self.settings.init_checkpoint:
      logging.warning("  no --init_checkpoint: training from scratch, from "
                      "random weights")

  def _train(self, run):
    """Trains with the session of a `loop.Run`."""
    settings = self.settings
    loop.train(
        run, self.plan.num_train_steps, settings.save_checkpoints_steps,
        settings.log_steps, settings.train_batch_size, self.dev,
        settings.skip_nonfinite, self._is_time_over, self._describe_batch,
        settings.profile, self._observer)

  def _describe_batch(self, step, most=10):
    """Names the examples of a step's batch, the first `most` of them."""
    with self._open("train") as records:
      epoch, number = divmod(step, self.plan.steps_per_epoch)
      rows = input_pipeline.epoch_batches(
          records.lengths, self.settings.train_batch_size,
          self.settings.random_seed, epoch)[number]
      texts = sorted(set(int(text) for text in records.texts[rows]))
    named = texts[:most]
    examples = enumerate(itertools.islice(
        self.parts["train"].examples(), named[-1] + 1))
    return "a batch of %d example%s (id %s%s)" % (
        len(texts), "" if len(texts) == 1 else "s",
        ", ".join(str(example.guid) for number, example in examples
                  if number in named), ", ..." if len(texts) > most else "")

  def _open(self, name, most=None):
    """The records of a part, to be closed by `with`."""
    return contextlib.closing(
        record_shards.open_records(self.records[name][0], most))

  @contextlib.contextmanager
  def _telling_of_time(self):
    """Says what to do when --max_runtime expires during an evaluation."""
    try:
      yield
    except dev_evaluation.EvaluationStopped:
      raise command_line.OutOfTime(
          "--max_runtime expired during the evaluation; %s." % (
              "training is done, and the same command does the rest, without a "
              "time limit" if self.settings.do_train else
              "increase it, since the same command starts over"))


def time_limit(settings):
  """A function that tells whether --max_runtime has expired; None: no limit."""
  seconds = flag_checks.parse_runtime(settings.max_runtime)
  if seconds is None:
    return None
  end = time.monotonic() + seconds
  return lambda: time.monotonic() >= end
