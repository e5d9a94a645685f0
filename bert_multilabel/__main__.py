# SPDX-License-Identifier: Apache-2.0
"""The command `bert-multilabel`: each program of the repository by one word."""

import os
import runpy
import sys

PROGRAMS = [
    ("train", "run_multilabel_classifier",
     "fine-tune, evaluate on dev, predict a test set"),
    # Takes either kind of folder; TensorFlow is imported for one of them.
    ("predict", "predict_onnx", "label texts with a trained model"),
    ("serve", "serve_http", "serve a model over HTTP"),
    ("export", "export_saved_model", "write a SavedModel or an ONNX folder"),
    ("convert", "convert_checkpoint",
     "convert Hugging Face weights to a checkpoint, and back"),
    ("explain", "explain_labels", "show which words led to a label"),
]


def format_help():
  lines = ["usage: bert-multilabel COMMAND [--flags]", ""]
  lines += ["  %-9s%s" % (command, what) for command, _, what in PROGRAMS]
  lines += ["", "bert-multilabel COMMAND --help lists the flags of a command."]
  return "\n".join(lines)


def main():
  command = sys.argv[1] if len(sys.argv) > 1 else None
  if command in (None, "-h", "--help", "help"):
    print(format_help())
    sys.exit(0 if command else 2)
  names = {word: module for word, module, _ in PROGRAMS}
  if command not in names:
    sys.exit("bert-multilabel: there is no command %s; choose from %s." % (
        command, ", ".join(sorted(names))))
  sys.argv[:2] = ["bert-multilabel " + command]
  folder = os.path.dirname(os.path.abspath(__file__))
  program = os.path.join(folder, names[command] + ".py")
  if os.path.exists(program):
    runpy.run_module("bert_multilabel." + names[command], run_name="__main__")
  else:  # a clone, installed with pip install -e
    root = os.path.dirname(folder)
    sys.path.insert(0, root)
    runpy.run_path(os.path.join(root, names[command] + ".py"),
                   run_name="__main__")


if __name__ == "__main__":
  main()
