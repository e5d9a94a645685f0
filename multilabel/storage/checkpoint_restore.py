# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are checked against the graph before they are restored."""

import collections
import glob
import os
import re

from absl import logging
import numpy as np
import six
import tensorflow.compat.v1 as tf

import modeling
from multilabel import head
from multilabel.storage import checkpoint_names
from multilabel.storage import model_settings


CheckpointReport = collections.namedtuple(
    "CheckpointReport", ["restored", "initialized", "unused"])


def read_checkpoint_shapes(checkpoint):
  """Returns {tensor name: shape list} of a checkpoint.

  Raises:
    ValueError: there is no checkpoint of that prefix, or it cannot be read.
  """
  path = six.ensure_str(checkpoint)
  for suffix in (".index", ".meta", ".data-00000-of-00001"):
    if path.endswith(suffix):
      raise ValueError("%s is one of the files of a checkpoint; give their "
                       "common prefix: %s" % (path, path[:-len(suffix)]))
  if re.search(r"[*?\[\]\\]", path):
    raise ValueError(
        "the path of checkpoint %s has one of the characters * ? [ ] \\, which "
        "TensorFlow treats as a pattern; rename the folder." % path)
  _check_is_checkpoint(path)
  try:
    return dict(tf.train.list_variables(path))
  except (tf.errors.OpError, ValueError, RuntimeError) as error:
    raise ValueError("%s cannot be read as a TensorFlow checkpoint: %s" % (
        path, " ".join(str(error).split())))


def _check_is_checkpoint(path):
  """Raises ValueError, with a suggestion, if this is not a checkpoint."""
  for name in glob.glob(glob.escape(path) + ".*"):
    if re.search(r"\.(index|data-\d+-of-\d+)\Z", name) and not (
        os.path.isfile(name)):
      raise ValueError("%s is not a file, so the checkpoint is invalid." % name)
  has_index = tf.io.gfile.exists(path + ".index")
  if not has_index and not tf.io.gfile.exists(path):
    hint = ""
    if "ckpt" not in path and re.fullmatch(
        r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", path):
      hint = "; for a model of that name on a hub, use --encoder=%s" % path
    raise ValueError("there is no checkpoint %s (looked for %s.index)%s." % (
        path, path, hint))
  if has_index:
    return
  if os.path.isdir(path) and not os.path.isfile(
      os.path.join(path, "checkpoint")):
    raise ValueError("%s is a folder, not a checkpoint prefix; use "
                     "--encoder=%s." % (path, path))
  kind = {".safetensors": "weights in Hugging Face's format",
          ".h5": "weights of Keras", ".bin": "weights of PyTorch",
          ".pt": "weights of PyTorch", ".pth": "weights of PyTorch"}.get(
              os.path.splitext(path)[1])
  if kind:
    raise ValueError(
        "%s has %s, not a TensorFlow checkpoint; give the Hugging Face folder "
        "with model.safetensors: --encoder=FOLDER." % (path, kind))


# What the files beside a trained checkpoint have to be.
OWN_FILES = ("%s and %s in the directory must be the ones it was trained "
             "with" % (model_settings.BERT_CONFIG_FILE,
                       model_settings.LABELS_FILE))


def check_checkpoint(checkpoint, variables, hint=""):
  """Compares a checkpoint with all variables to be restored from it.

  Args:
    checkpoint: str, checkpoint prefix.
    variables: list of variables (reference or resource), or dict of name in
      the checkpoint to variable.
    hint: str, the end of the error: what must match the checkpoint.

  Raises:
    ValueError: the checkpoint cannot be read, lacks a variable, or has one with
      another shape.
  """
  shapes = read_checkpoint_shapes(checkpoint)
  if not isinstance(variables, dict):
    variables = collections.OrderedDict(
        (modeling._variable_name(var), var) for var in variables)
  for name, var in variables.items():
    # Resource variables would accept a tensor of any shape.
    shape = var.shape.as_list()
    if name not in shapes:
      problem = "it lacks %s, shape %s" % (name, shape)
    elif list(shapes[name]) != shape:
      problem = "%s has shape %s in the checkpoint but %s in the model" % (
          name, list(shapes[name]), shape)
    else:
      continue
    raise ValueError("checkpoint %s does not fit this model: %s%s." % (
        checkpoint, problem, hint and "; " + hint))


def restore_checkpoint(session, saver, variables, checkpoint, hint=""):
  """Restores variables, all of which the checkpoint must have.

  Args:
    session: `tf.Session`.
    saver: `tf.train.Saver` of the variables.
    variables: see `check_checkpoint`.
    checkpoint: str, checkpoint prefix.
    hint: see `check_checkpoint`.

  Raises:
    ValueError: as `check_checkpoint`; or its data cannot be read.
  """
  check_checkpoint(checkpoint, variables, hint)
  try:
    with session.graph.as_default():  # Saver checks for eager execution.
      saver.restore(session, checkpoint)
  except tf.errors.OpError as error:
    # TensorFlow 2 wraps the kernel's message in a stack, 1.15 does not.
    reason = re.search(r"(?:^|\n)([^\n]+)(?:\n\t \[\[|$)", error.message)
    raise ValueError("checkpoint %s cannot be restored: %s" % (
        checkpoint, reason.group(1) if reason else type(error).__name__))


def initialize_from_checkpoint(tvars, init_checkpoint, scope="bert",
                               not_needed=(), leave_out=()):
  """Initializes `tvars` from a checkpoint, and reports on each.

  Names in the checkpoint may have a prefix known to `checkpoint_names` instead
  of the scope.

  Args:
    tvars: list of variables (reference or resource) of the current graph.
    init_checkpoint: str, checkpoint prefix.
    scope: str; every variable below it must be in the checkpoint.
    not_needed: names (prefixes) below `scope` that may be missing, since they
      are not used.
    leave_out: names of variables that use their own initializers.

  Returns:
    `CheckpointReport(restored, initialized, unused)`, three sorted lists of
    names: variables from the checkpoint, variables that are newly initialized,
      and unused tensors of the checkpoint.

  Raises:
    ValueError: the checkpoint cannot be read, lacks a variable of `scope`, or
      has one with another shape.
  """
  variables = {modeling._variable_name(var): (
      var.shape.as_list(), var.dtype.base_dtype) for var in tvars}
  names, shapes = match_checkpoint(variables, init_checkpoint, scope,
                                   not_needed, leave_out)
  tf.train.init_from_checkpoint(init_checkpoint, collections.OrderedDict(
      (names[name], name) for name in sorted(names)))
  return CheckpointReport(
      restored=sorted(names),
      initialized=sorted(set(variables) - set(names)),
      unused=sorted(set(shapes) - set(names.values())))


def match_checkpoint(variables, init_checkpoint, scope="bert", not_needed=(),
                     leave_out=()):
  """Finds each variable in a checkpoint, and reads all of them; no graph.

  Args:
    variables: dict from name to (shape list, `tf.DType`).
    init_checkpoint: str, checkpoint prefix.
    scope: see `initialize_from_checkpoint`.
    not_needed: see `initialize_from_checkpoint`.
    leave_out: see `initialize_from_checkpoint`.

  Returns:
    (dict from name of a variable to name in the checkpoint, dict from name in
    the checkpoint to shape).

  Raises:
    ValueError: see `initialize_from_checkpoint`.
  """
  shapes = read_checkpoint_shapes(init_checkpoint)
  needed = [name for name in variables if name.startswith(scope + "/")
            and not name.startswith(tuple(not_needed))]
  prefix = checkpoint_names.find_prefix(shapes, needed, scope)
  names = {}
  for name in variables:
    there = (prefix + name[len(scope) + 1:] if name.startswith(scope + "/") else
             name)
    if there in shapes and name not in leave_out:
      names[name] = there
  _check_complete(init_checkpoint, shapes, variables, needed, names)
  for name, there in sorted(names.items()):
    shape = variables[name][0]
    if list(shapes[there]) != shape:
      raise ValueError(
          "init_checkpoint %s has %s with shape %s, but the model needs %s "
          "with shape "
          "%s%s." % (init_checkpoint, there, list(shapes[there]), name, shape,
                      _shape_hint(name)))
  if prefix != scope + "/":
    logging.info(
        "The variable names of the encoder in %s start with \"%s\" instead of "
        "\"%s/\"; they are treated as equal.", init_checkpoint,
                 prefix, scope)
  _check_tensors(init_checkpoint, {
      there: variables[name][1] for name, there in names.items()})
  return names, shapes


def _check_complete(init_checkpoint, shapes, variables, needed, names):
  """Raises ValueError, and says what is there, if the encoder is incomplete."""
  missing = sorted(name for name in needed if name not in names)
  if not missing:
    return
  if len(missing) == len(needed):
    raise ValueError(
        "init_checkpoint %s has none of the model's variables (%s, ...): %s." %
        (init_checkpoint, missing[0], checkpoint_names.describe(shapes)))
  hint = ""
  if all("/pooler/" in name for name in missing):
    hint = "; it has no pooler: choose another --pooling (mean or cls)"
  raise ValueError(
      "init_checkpoint %s lacks %s, shape %s (%d of the model's %d variables "
      "are not in it)%s." % (
          init_checkpoint, missing[0],
          variables[missing[0]][0], len(missing), len(variables), hint))


def check_sizes(checkpoint, bert_config, num_labels, hint):
  """Compares a trained checkpoint with a configuration, without any graph.

  A graph of a thousand layers takes half a minute to be refused.

  Args:
    checkpoint: str, checkpoint prefix.
    bert_config: `modeling.BertConfig`.
    num_labels: int.
    hint: see `check_checkpoint`.

  Raises:
    ValueError: the checkpoint cannot be read, lacks a layer, or has a tensor
      of another shape.
  """
  shapes = read_checkpoint_shapes(checkpoint)
  for name, shape in head.variable_shapes(bert_config, num_labels).items():
    there = shapes.get(name)
    if there is None and "/encoder/" in name:
      problem = "it lacks %s, shape %s" % (name, shape)
    elif there is not None and list(there) != shape:
      problem = "%s has shape %s in the checkpoint but %s in the model" % (
          name, list(there), shape)
    else:
      continue
    raise ValueError("checkpoint %s does not fit this model: %s; %s." % (
        checkpoint, problem, hint))


def check_layers(init_checkpoint, num_layers):
  """Raises ValueError if a checkpoint has fewer layers than a model.

  Faster than building the graph of a model with very many layers.
  """
  found = checkpoint_names.count_layers(read_checkpoint_shapes(init_checkpoint))
  if 0 < found < num_layers:
    raise ValueError(
        "init_checkpoint %s has %d layer%s, but bert_config_file says "
        "num_hidden_layers is %d; they do not belong to the same model." % (
            init_checkpoint, found, "" if found == 1 else "s", num_layers))


def _check_tensors(checkpoint, dtypes):
  """Reads each tensor once, since the index does not cover the data files."""
  reader = tf.train.load_checkpoint(checkpoint)
  for name in sorted(dtypes):
    try:
      value = reader.get_tensor(name)
      dtype = value.dtype
    except (tf.errors.OpError, ValueError, LookupError,
            RuntimeError) as error:
      raise ValueError("init_checkpoint %s: %s cannot be read; are its data "
                       "files complete? (%s)" % (
                           checkpoint, name, " ".join(str(error).split())))
    wanted = dtypes[name]
    if dtype != wanted.as_numpy_dtype:
      raise ValueError(
          "init_checkpoint %s has %s as %s, but the model needs %s." %
                       (checkpoint, name, dtype, wanted.name))
    if not np.isfinite(value).all():
      raise ValueError("init_checkpoint %s has NaN or infinite weights in %s; "
                       "use another one." % (
                           checkpoint, name))
    if name.endswith("/word_embeddings") and not value.any():
      raise ValueError("init_checkpoint %s has only zeros in %s; use another "
                       "one." % (checkpoint, name))


def _shape_hint(name):
  for part, hint in (
      ("word_embeddings", "vocab_file, and vocab_size and hidden_size of "
                          "bert_config_file, must match the checkpoint"),
      ("position_embeddings", "max_position_embeddings and hidden_size of "
                              "bert_config_file must match the checkpoint"),
      ("token_type_embeddings", "type_vocab_size and hidden_size of "
                                "bert_config_file must match the checkpoint"),
      ("output_", "the checkpoint was trained with a different number of "
                  "labels"),
      ("", "bert_config_file must match the checkpoint")):
    if part in name:
      return " (%s)" % hint
  return ""


def format_checkpoint_report(report, init_checkpoint):
  """Returns the report of `initialize_from_checkpoint` as lines of text."""
  groups = collections.OrderedDict(
      [("optimizer slots", []), ("pre-training heads (cls/*)", []),
       ("other", [])])
  for name in report.unused:
    if name.endswith(
        ("/adam_m", "/adam_v", "/unaveraged")) or name == "global_step":
      groups["optimizer slots"].append(name)
    elif name.startswith("cls/"):
      groups["pre-training heads (cls/*)"].append(name)
    else:
      groups["other"].append(name)
  unused = ["%d %s" % (len(names), what) for what, names in groups.items()
            if names]
  if groups["other"]:
    unused[-1] += ": " + some_names(groups["other"])
  lines = [
      "Variables and the checkpoint %s:" % init_checkpoint,
      "  %4d from the checkpoint" % len(report.restored),
      "  %4d newly initialized%s" % (
          len(report.initialized),
          ": " + some_names(report.initialized) if report.initialized else ""),
      "  %4d tensor%s of the checkpoint not used%s" % (
          len(report.unused), "" if len(report.unused) == 1 else "s",
          ": " + "; ".join(unused) if unused else "")]
  return "\n".join(lines)


def some_names(names, most=6):
  """Returns names in one str: the first `most`, and how many more there are.

  Args:
    names: list of str.
    most: int.
  """
  more = len(names) - most
  return ", ".join(names[:most]) + (
      ", and {:,} more".format(more) if more > 0 else "")
