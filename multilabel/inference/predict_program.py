# SPDX-License-Identifier: Apache-2.0
"""The command line of predict_session.py and predict_onnx.py.

Texts from the command line, a file or the terminal; labels to the terminal or
a file.
"""

import sys

from absl import flags

from multilabel import decisions
from multilabel.common import command_line
from multilabel.inference import predict_files


def define_flags():
  """Defines the flags; called where the script starts."""
  with command_line.flag_group("Model"):
    flags.DEFINE_string("model_dir", None,
        "--output_dir of a training run, or an ONNX folder "
        "(export_saved_model.py --format=onnx).")
    flags.DEFINE_integer("batch_size", 32, "Texts per batch.")
    flags.DEFINE_bool(
        "allow_older_checkpoint", False,
        "If the best (or newest) checkpoint is broken, use the newest intact "
        "one.")
    flags.DEFINE_bool(
        "verify_checkpoint", True, "Check that the checkpoint belongs to this "
                                   "run, is unchanged, and has finite weights.")
    flags.DEFINE_string(
        "profile", None, "Folder for timelines of a few batches (for a "
                         "browser) and a table of time per kind of operation.")
  with command_line.flag_group("Labels"):
    predict_files.define_decision_flags()
  with command_line.flag_group("Files"):
    predict_files.define_flags()


def check_flags(flag_values, texts):
  """Raises ValueError for invalid flags."""
  if not flag_values.model_dir:
    raise ValueError("--model_dir must be given.")
  predict_files.check_decision_flags(flag_values)
  for number, text in enumerate(texts, 1):
    # How Python marks bytes of an argument that are not UTF-8.
    if any("\ud800" <= char <= "\udfff" for char in text):
      raise ValueError("text %d of the command line is not UTF-8." % number)
  predict_files.check_flags(flag_values, texts)


def show_decision(decision):
  """Shows the decision rule, in a terminal or if it is not 0.5."""
  if sys.stderr.isatty() or decision != decisions.ORIGINAL_RULE:
    sys.stderr.write("decision: %s\n" % decision.describe())


def predict(flag_values, texts, open_predictor):
  """Does what the flags ask.

  Args:
    flag_values: the flags, which have been checked.
    texts: list of str.
    open_predictor: function as `predict_onnx.open_predictor`.
  """
  with open_predictor(
      flag_values.model_dir, batch_size=flag_values.batch_size,
      allow_older_checkpoint=flag_values.allow_older_checkpoint,
      verify_checkpoint=flag_values.verify_checkpoint,
      profile_dir=flag_values.profile) as predictor:
    decision = predictor.decision_for(
        decisions.parse_threshold(flag_values.threshold), flag_values.top_k,
        flag_values.always_one_label)
    if not (flag_values.output_file or "").endswith(".tsv"):
      show_decision(decision)  # A table of probabilities needs no rule.
    if flag_values.input_file:
      predict_files.predict_to_file(predictor, flag_values, decision)
    elif texts:
      for text in texts:
        predict_files.print_labels(predictor, text, decision)
    else:
      predict_files.ask(predictor, decision)
