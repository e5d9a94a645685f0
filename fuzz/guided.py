# SPDX-License-Identifier: Apache-2.0
"""One target under atheris; `fuzz.run` starts it.

  python -m fuzz.guided TARGET SECONDS SEED FINDINGS
"""

import os
import shutil
import sys
import tempfile

import atheris

# pylint: disable=wrong-import-position
with atheris.instrument_imports(
    include=["processors", "safetensors_reader", "tokenization", "serving",
             "text_features", "predict_files", "multilabel_losses", "modeling",
             "convert_checkpoint", "atomic_files", "run_multilabel_classifier",
             "predict_session", "json"]):
  from fuzz import mutation
  from fuzz import targets


def main():
  name, seconds, seed, findings = sys.argv[1:]
  target = targets.TARGETS[name]
  if not os.path.isdir(findings):
    os.makedirs(findings)
  folder = tempfile.mkdtemp(prefix="corpus-")
  try:
    seeds = os.path.join(folder, "seeds")
    os.mkdir(seeds)
    for number, data in enumerate(target.seeds):
      with open(os.path.join(seeds, str(number)), "wb") as writer:
        writer.write(data)
    words = os.path.join(folder, "words")
    with open(words, "w") as writer:
      for token in target.tokens:
        writer.write('"%s"\n' % "".join("\\x%02x" % byte for byte in token))
    corpus = os.path.join(folder, "corpus")
    os.mkdir(corpus)
    # Imports what the target imports late, where its lines are counted too.
    with atheris.instrument_imports(include=[
        "modeling", "convert_checkpoint", "atomic_files", "multilabel_losses",
        "run_multilabel_classifier", "predict_session", "serving"]):
      for data in target.seeds:
        target.run(data)
    process = os.fork()
    if not process:
      atheris.Setup([sys.argv[0], corpus, seeds,
                     "-max_total_time=" + seconds, "-seed=" + seed,
                     "-max_len=%d" % mutation.MAX_LENGTH, "-dict=" + words,
                     "-timeout=300", "-report_slow_units=300",
                     "-rss_limit_mb=4096",
                     "-artifact_prefix=" + os.path.join(findings, name + "-"),
                     "-print_final_stats=1", "-verbosity=1"], target.run)
      atheris.Fuzz()
      os._exit(0)
    status = os.waitpid(process, 0)[1]
    return 1 if status else 0
  finally:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
  sys.exit(main())
