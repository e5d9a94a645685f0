# SPDX-License-Identifier: Apache-2.0
"""Keeps a predictor busy for long, and opens and closes many.

  python -m robustness.predictor_soak --calls=100000 --opens=200

Texts of random lengths, 1 to 8 per call, are compared with the results of the
first calls. Then predictors are opened, used and closed. Ends with 1 if a
result changed, if the memory of the second half is more than 3% above that of
the first, or if threads or files leak.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import os
import random
import time

from absl import flags
import numpy as np

from robustness.faults import soak

FLAGS = flags.FLAGS

# Different batches are computed in a different order.
TOLERANCE = 1e-5


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Soak"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run.")
    flags.DEFINE_integer("calls", 100000, "Number of calls of one predictor.")
    flags.DEFINE_integer("opens", 200,
        "Number of predictors to open and close.")
    flags.DEFINE_integer("texts", 2000, "Number of different texts.")
    flags.DEFINE_integer("warm_up_calls", 500,
        "Warm-up calls that are not counted, and a hundredth as many opens.")


def make_texts(vocab_file, max_seq_length, count, rng):
  """Texts of words of the vocabulary, some longer than the model reads."""
  with open(vocab_file, encoding="utf-8") as lines:
    words = [word for word in map(str.strip, lines)
             if word and not word.startswith(("##", "["))]
  return [" ".join(rng.choice(words)
                   for _ in range(rng.randint(1, max_seq_length + 5)))
          for _ in range(count)]


def report(what, samples):
  """Prints how a list of `soak.Sample` went on; whether nothing grew."""
  is_good, line = soak.judge(samples, 0)
  print("%s: %s" % (what, line))
  return is_good


def soak_calls(predictor, texts, rng):
  """Many calls of one predictor: whether nothing changed and nothing grew."""
  want = predictor.predict(texts)
  samples, worst, start = [], 0.0, time.time()
  for call in range(FLAGS.warm_up_calls + FLAGS.calls):
    numbers = [rng.randrange(len(texts)) for _ in range(rng.randint(1, 8))]
    found = predictor.predict([texts[i] for i in numbers])
    worst = max(worst, np.abs(found - want[numbers]).max())
    if call >= FLAGS.warm_up_calls and call % 100 == 0:
      samples.append(soak.sample(os.getpid()))
  print("%d calls in %.0f s; probabilities differ by at most %.1e" % (
      FLAGS.calls, time.time() - start, worst))
  return report("calls", samples) and worst <= TOLERANCE


def soak_opens(open_predictor, texts):
  """Many predictors, one after another: whether nothing grew."""
  samples = []
  for number in range(FLAGS.warm_up_calls // 100 + FLAGS.opens):
    with open_predictor() as predictor:
      predictor.predict(texts[:16])
    if number >= FLAGS.warm_up_calls // 100:
      samples.append(soak.sample(os.getpid()))
  return report("opens", samples)


def main(argv):
  del argv
  import predict_session
  rng = random.Random(1)
  is_good = True
  with predict_session.SessionPredictor(FLAGS.model_dir) as predictor:
    texts = make_texts(os.path.join(FLAGS.model_dir, "vocab.txt"),
                       predictor.max_seq_length, FLAGS.texts, rng)
    if FLAGS.calls:
      is_good = soak_calls(predictor, texts, rng)
  if FLAGS.opens:
    is_good = soak_opens(
        lambda: predict_session.SessionPredictor(FLAGS.model_dir),
        texts) and is_good
  if not is_good:
    raise RuntimeError("something changed or grew; see above.")


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
