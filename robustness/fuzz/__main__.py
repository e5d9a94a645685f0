# SPDX-License-Identifier: Apache-2.0
"""Runs one target under atheris.

  python -m robustness.fuzz jsonl -max_total_time=60 -seed=1
  python -m robustness.fuzz jsonl fuzz_work/crash-1a2b3c   # tries one again

The first argument names the target (see `targets.TARGETS`). The others are
libFuzzer's (`-help=1` lists them). The target's good input and its tokens are
added; failing input is kept in `fuzz_work`. Needs the extra `fuzz`.
"""

import importlib
import os
import shutil
import sys
import tempfile


# Code reached by untrusted bytes; coverage is measured by line.
_INSTRUMENTED = [
    "convert_checkpoint", "modeling", "multilabel", "predict_session",
    "processors", "run_multilabel_classifier", "tokenization", "json"]


def _write_seeds(target, folder):
  """Writes the target's seeds and dictionary; returns libFuzzer's arguments."""
  for name in ("corpus", "seeds"):
    os.mkdir(os.path.join(folder, name))
  for number, data in enumerate(target.seeds):
    with open(os.path.join(folder, "seeds", str(number)), "wb") as writer:
      writer.write(data)
  words = os.path.join(folder, "words")
  with open(words, "w") as writer:
    for token in target.tokens:
      writer.write('"%s"\n' % "".join("\\x%02x" % byte for byte in token))
  return ["-dict=" + words, os.path.join(folder, "corpus"),
          os.path.join(folder, "seeds")]


def main(argv):
  import atheris
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  with atheris.instrument_imports(include=_INSTRUMENTED):
    targets = importlib.import_module("robustness.fuzz.targets").TARGETS
    if len(argv) < 2 or argv[1] not in targets:
      sys.stderr.write("Name one of these targets first: %s.\n" %
                       ", ".join(sorted(targets)))
      return 2
    target = targets[argv[1]]
    # Targets import late what they need; those lines count as well.
    for data in target.seeds:
      target.run(data)
  folder = tempfile.mkdtemp(prefix="corpus-")
  # libFuzzer ends the process it runs in, so a parent removes the folder.
  process = os.fork()
  if not process:
    arguments = argv[2:]
    if not any(os.path.exists(argument) for argument in arguments):
      arguments += _write_seeds(target, folder)
    # The process has TensorFlow in it, whose memory is not the target's.
    os.makedirs("fuzz_work", exist_ok=True)
    atheris.Setup([argv[0], "-max_len=4000", "-rss_limit_mb=4096",
                   "-artifact_prefix=fuzz_work/"] + arguments, target.run)
    atheris.Fuzz()
    os._exit(0)
  status = os.waitpid(process, 0)[1]
  shutil.rmtree(folder, ignore_errors=True)
  return 1 if status else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
