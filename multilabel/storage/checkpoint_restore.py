# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are checked against the graph before they are restored."""

import collections
import re

import six
import tensorflow.compat.v1 as tf

import modeling


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
      raise ValueError("%s is one file of a checkpoint; give the prefix that "
                       "its files share: %s" % (path, path[:-len(suffix)]))
  if re.search(r"[*?\[\]\\]", path):
    raise ValueError("the path of checkpoint %s has one of the characters "
                     "* ? [ ] \\, which TensorFlow takes for a pattern; rename "
                     "the folder." % path)
  if not tf.io.gfile.exists(path) and not tf.io.gfile.exists(path + ".index"):
    raise ValueError("there is no checkpoint %s (looked for %s.index)." %
                     (path, path))
  try:
    return dict(tf.train.list_variables(path))
  except (tf.errors.OpError, ValueError, RuntimeError) as error:
    raise ValueError("%s cannot be read as a TensorFlow checkpoint: %s" % (
        path, " ".join(str(error).split())))


def check_checkpoint(checkpoint, variables, hint=""):
  """Compares a checkpoint with the variables that it is to fill, every one.

  Args:
    checkpoint: str, checkpoint prefix.
    variables: list of variables (reference or resource).
    hint: str, what ends the sentence: what has to be the checkpoint's.

  Raises:
    ValueError: the checkpoint cannot be read, lacks a variable, or has one of
      another shape.
  """
  shapes = read_checkpoint_shapes(checkpoint)
  for var in variables:
    # Resource variables would take a tensor of any shape.
    name, shape = modeling._variable_name(var), var.shape.as_list()
    if name not in shapes:
      problem = "it lacks %s, shape %s" % (name, shape)
    elif list(shapes[name]) != shape:
      problem = "%s has shape %s there and %s here" % (
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
    variables: list of variables.
    checkpoint: str, checkpoint prefix.
    hint: see `check_checkpoint`.

  Raises:
    ValueError: as `check_checkpoint`; or its data cannot be read.
  """
  check_checkpoint(checkpoint, variables, hint)
  try:
    with session.graph.as_default():  # Saver asks whether it runs eagerly.
      saver.restore(session, checkpoint)
  except tf.errors.OpError as error:
    # TensorFlow 2 wraps the kernel's sentence into a stack, 1.15 does not.
    reason = re.search(r"(?:^|\n)([^\n]+)(?:\n\t \[\[|$)", error.message)
    raise ValueError("checkpoint %s cannot be restored: %s" % (
        checkpoint, reason.group(1) if reason else type(error).__name__))


def initialize_from_checkpoint(tvars, init_checkpoint, scope="bert",
                               not_needed=()):
  """Lets `tvars` start from a checkpoint, and tells what became of each.

  Args:
    tvars: list of variables (reference or resource) of the current graph.
    init_checkpoint: str, checkpoint prefix.
    scope: str; every variable below it must be in the checkpoint.
    not_needed: names (prefixes) below `scope` that may be missing, since
      nothing reads them.

  Returns:
    `CheckpointReport(restored, initialized, unused)`, three sorted lists of
    names: variables from the checkpoint, variables that stay newly
    initialised, and tensors of the checkpoint that no variable takes.

  Raises:
    ValueError: the checkpoint cannot be read, lacks a variable of `scope`, or
      has one of another shape.
  """
  shapes = read_checkpoint_shapes(init_checkpoint)
  variables = {modeling._variable_name(var): var for var in tvars}
  missing = sorted(
      name for name in variables
      if name not in shapes and name.startswith(scope + "/")
      and not name.startswith(tuple(not_needed)))
  if missing:
    hint = ""
    if all("/pooler/" in name for name in missing):
      hint = "; it has no pooler: choose another --pooling (mean or cls)"
    raise ValueError(
        "init_checkpoint %s lacks %s, shape %s (%d of the model's %d variables "
        "are not in it)%s." % (
            init_checkpoint, missing[0],
            variables[missing[0]].shape.as_list(), len(missing),
            len(variables), hint))
  for name in sorted(set(variables) & set(shapes)):
    shape = variables[name].shape.as_list()
    if list(shapes[name]) != shape:
      raise ValueError(
          "init_checkpoint %s has %s of shape %s, but %s of shape %s is asked "
          "for%s." % (init_checkpoint, name, list(shapes[name]), name, shape,
                      _shape_hint(name)))
  assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
      tvars, init_checkpoint)
  _check_tensors(init_checkpoint, {
      name: variables[name] for name in assignment_map})
  tf.train.init_from_checkpoint(init_checkpoint, assignment_map)
  return CheckpointReport(
      restored=sorted(assignment_map),
      initialized=sorted(set(variables) - set(assignment_map)),
      unused=sorted(set(shapes) - set(assignment_map)))


def _check_tensors(checkpoint, variables):
  """Reads each tensor once: the index alone says nothing of the data files."""
  reader = tf.train.load_checkpoint(checkpoint)
  for name in sorted(variables):
    try:
      dtype = reader.get_tensor(name).dtype
    except (tf.errors.OpError, ValueError, LookupError,
            RuntimeError) as error:
      raise ValueError("init_checkpoint %s: %s cannot be read, are its data "
                       "files here and whole? (%s)" % (
                           checkpoint, name, " ".join(str(error).split())))
    wanted = variables[name].dtype.base_dtype
    if dtype != wanted.as_numpy_dtype:
      raise ValueError("init_checkpoint %s has %s as %s, but %s is asked for." %
                       (checkpoint, name, dtype, wanted.name))


def _shape_hint(name):
  for part, hint in (
      ("word_embeddings", "vocab_size and hidden_size of bert_config_file, "
                          "and vocab_file, must be the checkpoint's"),
      ("position_embeddings", "max_position_embeddings and hidden_size of "
                              "bert_config_file must be the checkpoint's"),
      ("token_type_embeddings", "type_vocab_size and hidden_size of "
                                "bert_config_file must be the checkpoint's"),
      ("output_", "the checkpoint was trained with another number of labels"),
      ("", "bert_config_file must be the checkpoint's")):
    if part in name:
      return " (%s)" % hint
  return ""


def format_checkpoint_report(report, init_checkpoint):
  """Returns the report of `initialize_from_checkpoint` as lines of text."""
  groups = collections.OrderedDict(
      [("optimizer slots", []), ("pre-training heads (cls/*)", []),
       ("other", [])])
  for name in report.unused:
    if name.endswith(("/adam_m", "/adam_v")) or name == "global_step":
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
      "  %4d newly initialised%s" % (
          len(report.initialized),
          ": " + some_names(report.initialized) if report.initialized else ""),
      "  %4d tensors of the checkpoint not used%s" % (
          len(report.unused), ": " + "; ".join(unused) if unused else "")]
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
