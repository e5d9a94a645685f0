# SPDX-License-Identifier: Apache-2.0
"""What a run does between its flags and its results."""

import contextlib
import itertools
import time

from absl import logging

from multilabel import decisions
from multilabel import head
from multilabel.features import input_pipeline
from multilabel.features import preparation
from multilabel.features import record_shards
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_restore
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
from multilabel.training import run_setup
from multilabel.training import scoring


def plan_training(num_records, flag_values):
  """Returns (num_train_steps, num_warmup_steps); ValueError: too many."""
  num_train_steps = max(1, int(
      steps_per_epoch(num_records, flag_values) *
      flag_values.num_train_epochs))
  if num_train_steps > flag_checks.MOST_STEPS:
    raise ValueError(
        "--num_train_epochs is %s, which makes %d steps; there may be 2^31 - 1."
        % (flag_values.num_train_epochs, num_train_steps))
  return (num_train_steps,
          int(num_train_steps * flag_values.warmup_proportion))


def steps_per_epoch(num_records, flag_values):
  """The last step of an epoch may have fewer examples."""
  return -(-num_records // flag_values.train_batch_size)


def make_model_fn(model, num_labels, plan, flag_values, init_checkpoint=None,
                  output_bias=None):
  """`model_fn_builder` of a run that flags describe; see `plan_training`."""
  import run_multilabel_classifier  # pylint: disable=g-import-not-at-top
  return run_multilabel_classifier.model_fn_builder(
      bert_config=model.bert_config,
      num_labels=num_labels,
      init_checkpoint=init_checkpoint,
      learning_rate=flag_values.learning_rate,
      num_train_steps=plan[0],
      num_warmup_steps=plan[1],
      use_tpu=False,
      use_one_hot_embeddings=flag_values.use_one_hot_embeddings,
      pooling=model.pooling,
      head_learning_rate=flag_values.head_learning_rate,
      output_bias=output_bias,
      random_seed=flag_values.random_seed,
      adam_bias_correction=flag_values.adam_bias_correction,
      loss_fn=run_setup.make_loss(model.loss, flag_values.output_dir),
      skip_nonfinite=flag_values.skip_nonfinite > 0,
      layer_decay=flag_values.layer_decay,
      freeze_layers=flag_values.freeze_layers,
      recompute_layers=flag_values.recompute_layers,
      scale_loss=(mixed_precision.choose_precision(flag_values) ==
                  mixed_precision.FLOAT16))


def make_run(model, label_list, parts, records, flag_values):
  """Builds the graph and its session: `loop.Run`.

  Without --do_train, and where training is over, it has no training tower.
  """
  train_input_fn, output_bias = None, None
  num_train_steps = num_warmup_steps = 0
  checkpoint = None
  if flag_values.do_train:
    checkpoint = checkpoint_choice.recover(flag_values.output_dir)
    scan, (record_file, stats) = parts["train"].scan, records["train"]
    num_train_steps, num_warmup_steps = plan_training(
        stats.num_records, flag_values)
    if flag_values.init_bias_from_prior:
      output_bias = head.log_odds(
          scan.label_counts, scan.num_examples)
    step = checkpoint_files.checkpoint_step(checkpoint)
    dev = make_dev_evaluation(None, model, label_list, records, flag_values,
                              step)
    is_over = step >= num_train_steps or (dev is not None and dev.is_over)
    log_start(scan, label_list, checkpoint, step, num_train_steps, is_over,
              flag_values)
    # A kill may have come before the last evaluation.
    if not is_over or (dev is not None and dev.is_due(step)):
      train_input_fn = input_pipeline.file_based_input_fn_builder(
          record_file, model.max_seq_length, True, False,
          num_labels=len(label_list), seed=flag_values.random_seed,
          num_steps=num_train_steps)
  model_fn = make_model_fn(
      model, len(label_list), (num_train_steps, num_warmup_steps), flag_values,
      None if checkpoint else flag_values.init_checkpoint, output_bias)
  return loop.Run(
      model_fn, flag_values.output_dir, train_input_fn,
      flag_values.train_batch_size, flag_values.random_seed,
      flag_values.keep_checkpoint_max,
      flag_values.allow_older_checkpoint and not flag_values.do_train,
      flag_values.gradient_accumulation_steps,
      mirrored.count_devices(flag_values),
      mixed_precision.choose_precision(flag_values), flag_values.xla)


def make_member(cluster, model, num_labels, record_file, num_records,
                flag_values):
  """`cluster_graph.Member` of chief or worker."""
  plan = plan_training(num_records, flag_values)
  return cluster_graph.make_member(
      cluster, make_model_fn(model, num_labels, plan, flag_values),
      record_file, num_labels, plan[0], flag_values)


def lead_cluster(cluster, model, label_list, parts, records, flag_values,
                 is_time_over):
  """The chief's training; its weights start as those of a single process."""
  record_file, stats = records["train"]
  if checkpoint_choice.recover(flag_values.output_dir) is None:
    with make_run(model, label_list, parts, records, flag_values) as run:
      run.save(0)
  member = make_member(cluster, model, len(label_list), record_file,
                       stats.num_records, flag_values)
  cluster_roles.lead(
      member, cluster_members.identity(flag_values), flag_values.output_dir,
      flag_values.keep_checkpoint_max,
      lambda run: train(run, model, label_list, parts, records, flag_values,
                        is_time_over))


def join_cluster(cluster, flag_values):
  """What a worker, or a ps, does: all of it."""
  output_dir, seconds = flag_values.output_dir, flag_values.cluster_timeout
  there = cluster_members.wait_for_chief(cluster, output_dir, seconds)
  cluster_members.check_identity(
      cluster_members.identity(flag_values), there["identity"], cluster)
  if there["state"] == cluster_members.FINISHED:
    logging.info("The run is finished.")
  elif cluster.job == "ps":
    cluster_roles.serve(cluster, output_dir, seconds)
  else:
    record_file = preparation.record_path(output_dir, "train")
    with contextlib.closing(record_shards.open_records(record_file)) as rows:
      num_records = len(rows)
    cluster_roles.work(make_member(
        cluster, run_setup.choose_model(flag_values),
        len(trained_model.read(output_dir).labels), record_file, num_records,
        flag_values), output_dir)


def make_dev_evaluation(run, model, label_list, records, flag_values,
                        first_step):
  """Evaluation on dev while training: `DevEvaluation`, or None."""
  if not run_setup.evaluates_while_training(flag_values):
    return None
  num_records = records["train"][1].num_records

  def evaluate_part(name, should_stop, most=None):
    path, _ = records[name]
    with contextlib.closing(record_shards.open_records(path, most)) as rows:
      return evaluation.run_part(
          run, rows, flag_values.eval_batch_size, len(label_list),
          model.long_text.pooling, should_stop)

  def evaluate_now(should_stop):
    """One evaluation: dev, and the first train examples if they are asked."""
    scores = evaluation.dev_scores(evaluate_part("dev", should_stop),
                                   label_list)
    if flag_values.eval_train_sample:
      sample = evaluation.dev_scores(
          evaluate_part("train", should_stop, flag_values.eval_train_sample),
          label_list, "train_")
      scores.values.update(sample.values)
      scores.summaries.extend(sample.summaries)
    return scores

  return dev_evaluation.DevEvaluation(
      flag_values.output_dir, evaluate_now,
      flag_values.eval_steps or steps_per_epoch(num_records, flag_values),
      plan_training(num_records, flag_values)[0],
      evaluation.full_metric_name(flag_values.metric_for_best),
      flag_values.early_stopping_patience, first_step)


def log_start(scan, label_list, checkpoint, step, num_train_steps, is_over,
              flag_values):
  """Says from what, and on what, training starts."""
  logging.info("***** Training *****")
  logging.info("  %s examples, %d labels, batches of %d, %d steps",
               "{:,}".format(scan.num_examples), len(label_list),
               flag_values.train_batch_size, num_train_steps)
  unseen = [label for label, count in zip(label_list, scan.label_counts)
            if not count]
  if unseen:
    logging.warning(
        "  no train example has the label%s %s", "s" if len(unseen) > 1 else "",
        checkpoint_restore.some_names(unseen, evaluation.MAX_LOGGED_LABELS))
  if checkpoint:
    logging.info("  %s step %d of %d, found in %s",
                 "already finished:" if is_over else "going on from", step,
                 num_train_steps, checkpoint)
  elif not flag_values.init_checkpoint:
    logging.warning("  no --init_checkpoint: training from scratch, from "
                    "random weights")


def train(run, model, label_list, parts, records, flag_values, is_time_over):
  """Trains, with evaluations on dev in between."""
  record_file, stats = records["train"]
  loop.train(
      run, plan_training(stats.num_records, flag_values)[0],
      flag_values.save_checkpoints_steps, flag_values.log_steps,
      flag_values.train_batch_size,
      make_dev_evaluation(run, model, label_list, records, flag_values,
                          run.checkpoint_step),
      flag_values.skip_nonfinite, is_time_over,
      lambda step: describe_batch(step, parts["train"], record_file,
                                  flag_values), flag_values.profile)


def describe_batch(step, part, record_file, flag_values, most=10):
  """Names the examples of a step's batch, the first `most` of them."""
  with contextlib.closing(record_shards.open_records(record_file)) as records:
    epoch, number = divmod(step, steps_per_epoch(len(records), flag_values))
    rows = input_pipeline.epoch_batches(
        records.lengths, flag_values.train_batch_size, flag_values.random_seed,
        epoch)[number]
    texts = sorted(set(int(text) for text in records.texts[rows]))
  named = texts[:most]
  ids = [str(example.guid) for number, example in enumerate(itertools.islice(
      part.examples(), named[-1] + 1)) if number in named]
  return "a batch of %d example%s (id %s%s)" % (
      len(texts), "" if len(texts) == 1 else "s", ", ".join(ids),
      ", ..." if len(texts) > most else "")


def evaluate(run, model, part, record_file, label_list, decision,
             flag_values, is_time_over=None):
  """Evaluates a labelled part and writes its results.

  Returns:
    (`evaluation.Outputs`, `DecisionRule`): on dev the thresholds are found
    here, if they are to be.
  """
  left_out = part.scan.unlabelled
  with contextlib.closing(record_shards.open_records(record_file)) as records:
    scored = (input_pipeline.RecordsWithout(records, left_out)
              if len(left_out) else records)
    outputs = evaluation.run_part(run, scored, flag_values.eval_batch_size,
                                  len(label_list), model.long_text.pooling,
                                  is_time_over)
  if part.name == "dev" and (
      flag_values.threshold in run_setup.TUNED_THRESHOLDS):
    decision = evaluation.tune(outputs, decision, flag_values.threshold,
                               label_list, flag_values.min_precision)
  result = evaluation.results(outputs, decision, label_list)
  if len(left_out):
    logging.info("%s of %s texts of %s are not labelled and left out of its "
                 "scores", "{:,}".format(len(left_out)),
                 "{:,}".format(part.scan.num_examples), part.name)
    result["num_texts_left_out"] = len(left_out)
  evaluation.write_results(part.name, result, run.checkpoint_step,
                           flag_values.output_dir)
  return outputs, decision


def predict(run, model, part, record_file, label_list, decision, flag_values,
            is_time_over=None):
  """Predicts the test set and writes the two files of results."""
  examples = iter(part.examples())
  with contextlib.closing(
      record_shards.open_records(record_file)) as records, \
      evaluation.PredictionWriter("test", decision, label_list,
                                  flag_values.output_dir, True,
                                  decisions.parse(
                                      flag_values.probabilities)) as writer:
    for window in scoring.predict(
        run, records, flag_values.predict_batch_size, len(label_list),
        model.long_text.pooling, is_time_over):
      writer.write(examples, window)
  logging.info("***** Predictions on test: %s, %s *****",
               " and ".join(writer.paths), decision.describe())


def time_limit(flag_values):
  """A function that says whether --max_runtime is over; None: no limit."""
  seconds = flag_checks.parse_runtime(flag_values.max_runtime)
  if seconds is None:
    return None
  end = time.monotonic() + seconds
  return lambda: time.monotonic() >= end


def write_outputs(run, model, label_list, parts, records, flag_values,
                  is_time_over):
  """Evaluates and predicts what the flags ask for."""
  decision = run_setup.choose_decision(flag_values)
  which = decisions.parse(flag_values.probabilities)
  if flag_values.do_eval:
    outputs, decision = evaluate(
        run, model, parts["dev"], records["dev"][0], label_list, decision,
        flag_values, is_time_over)
    evaluation.write_predictions(
        "dev", parts["dev"].examples(), outputs, decision, label_list,
        flag_values.output_dir, which)
  run_setup.store_decision(decision, flag_values)
  if flag_values.do_test:
    evaluate(run, model, parts["test"], records["test"][0], label_list,
             decision, flag_values, is_time_over)
  if flag_values.do_predict:
    predict(run, model, parts["test"], records["test"][0], label_list,
            decision, flag_values, is_time_over)
