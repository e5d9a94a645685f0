# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/cross_validate_thresholds.py.

The oracle tries every cut with counting loops; scores are multiples of 1/64, so
that midpoints are exact.
"""

import json
import os

import numpy as np
import pytest
import tiny_bert

from experiments import cross_validate_thresholds


NAMES = ["0.5", "tune", "per label, unshrunk", "tune_per_label"]


def f1_of(pairs):
  """F1 of (truth, decision) pairs, 0 where there is nothing."""
  hit = sum(1 for truth, decision in pairs if truth and decision)
  some = sum(int(truth) + int(decision) for truth, decision in pairs)
  return 2.0 * hit / some if some else 0.0


def best_cut(cells, default):
  """The highest of the best cuts of (truth, score) cells."""
  if not any(truth for truth, _ in cells):
    return default
  scores = sorted({score for _, score in cells})
  best, cut = -1.0, None
  for below, score in zip([0.0] + scores, scores):
    f1 = f1_of([(truth, other >= score) for truth, other in cells])
    if f1 >= best:
      best, cut = f1, (below + score) / 2
  return cut


def tune(truth, scores, rows, shrinkage):
  """(one threshold, one per label, one per label shrunk)."""
  num_labels = len(truth[0])
  columns = [[(truth[i][j], scores[i][j]) for i in rows]
             for j in range(num_labels)]
  one = best_cut([cell for column in columns for cell in column], 0.5)
  own = [best_cut(column, one) for column in columns]
  shrunk = []
  for column, cut in zip(columns, own):
    n = sum(1 for is_on, _ in column if is_on)
    shrunk.append(
        (n * cut + shrinkage * one) / (n + shrinkage) if n else one)
  return [one] * num_labels, own, shrunk


def oracle(truth, scores, folds, shrinkage):
  """{name: (micro-F1, macro-F1)} of one dealing into folds."""
  num_labels = len(truth[0])
  decisions = {name: {} for name in NAMES}
  for held_out in folds:
    rows = [i for i in range(len(truth)) if i not in set(held_out)]
    found = [[0.5] * num_labels] + list(tune(truth, scores, rows, shrinkage))
    for name, thresholds in zip(NAMES, found):
      for i in held_out:
        decisions[name][i] = [s >= t for s, t in zip(scores[i], thresholds)]
  result = {}
  for name in NAMES:
    columns = [[(truth[i][j], decisions[name][i][j])
                for i in range(len(truth))] for j in range(num_labels)]
    result[name] = (f1_of([cell for column in columns for cell in column]),
                    sum(map(f1_of, columns)) / num_labels)
  return result


def random_data(seed, num_examples=41, num_labels=4):
  """Labels of different frequency; the last is on in one text alone."""
  rng = np.random.RandomState(seed)
  truth = rng.rand(num_examples, num_labels) < [0.5, 0.3, 0.15, 0.0]
  truth[7, -1] = True
  noise = rng.randn(num_examples, num_labels)
  scores = 1 / (1 + np.exp(-(2.5 * truth - 1.5 + noise)))
  return truth, np.round(scores * 64) / 64


@pytest.mark.parametrize("shrinkage", [0.0, 3.0, 10.0])
def test_equals_counting(shrinkage):
  truth, scores = random_data(3)
  found = cross_validate_thresholds.cross_validate(
      truth, scores, folds=5, repeats=3, seed=11, shrinkage=shrinkage)
  assert list(found) == NAMES
  rng = np.random.RandomState(11)
  for repeat in range(3):
    folds = [part.tolist() for part in np.array_split(rng.permutation(41), 5)]
    expected = oracle(truth.tolist(), scores.tolist(), folds, shrinkage)
    for name in NAMES:
      np.testing.assert_allclose(
          [found[name][key][repeat] for key in ("micro_f1", "macro_f1")],
          expected[name], rtol=1e-12, err_msg=name)
  assert all(len(values) == 3 for measures in found.values()
             for values in measures.values())
  assert len(set(found["tune"]["micro_f1"])) > 1
  if not shrinkage:
    assert found["tune_per_label"] == found["per label, unshrunk"]


def test_labels_with_cuts_of_their_own():
  """One label is cut at 0.2, the other at 0.8: no single threshold fits."""
  scores = np.array([[0.1, 0.7], [0.3, 0.9]] * 20)
  truth = np.array([[False, False], [True, True]] * 20)
  found = cross_validate_thresholds.cross_validate(truth, scores, shrinkage=0)
  for key in ("micro_f1", "macro_f1"):
    assert found["tune_per_label"][key] == [1.0] * 5
  # At 0.5 the first label is never found, the second always predicted.
  assert found["0.5"]["micro_f1"] == [2 * 20 / (40 + 40.0)] * 5
  assert found["0.5"]["macro_f1"] == [(0 + 2 / 3.0) / 2] * 5
  # At 0.2: the first is right, the second always predicted.
  assert found["tune"]["micro_f1"] == [2 * 40 / (40 + 60.0)] * 5


def test_every_text_is_decided_by_thresholds_of_the_others():
  """A label on in one text alone never chooses that text's threshold."""
  scores = np.array([[0.25, 0.5]] * 9 + [[0.3, 0.5]])
  truth = np.array([[False, True]] * 9 + [[True, True]])
  found = cross_validate_thresholds.cross_validate(
      truth, scores, folds=10, repeats=1, shrinkage=0)
  # Without it, the label has no positive and takes the global threshold,
  # above 0.25; where it is there, it is cut at 0.275, so nobody has the label.
  assert found["per label, unshrunk"] == {"micro_f1": [2 * 10 / 21.0],
                                          "macro_f1": [0.5]}


def test_folds():
  parts = cross_validate_thresholds.deal_folds(11, 3, 4, 7)
  assert len(parts) == 4
  for repeat in parts:
    assert [len(part) for part in repeat] == [4, 4, 3]
    assert sorted(np.concatenate(repeat)) == list(range(11))
  assert parts[0][0].tolist() != parts[1][0].tolist()
  again = cross_validate_thresholds.deal_folds(11, 3, 4, 7)
  assert [part.tolist() for part in again[3]] == [
      part.tolist() for part in parts[3]]
  other = cross_validate_thresholds.deal_folds(11, 3, 4, 8)
  assert other[0][0].tolist() != parts[0][0].tolist()


SCORES = {
    "0.5": {"micro_f1": [0.5, 0.5], "macro_f1": [0.25, 0.25]},
    "tune": {"micro_f1": [0.5, 0.75], "macro_f1": [0.5, 0.5]},
    "per label, unshrunk": {"micro_f1": [0.25, 0.5], "macro_f1": [0.5, 0.625]},
    "tune_per_label": {"micro_f1": [0.75, 0.75], "macro_f1": [0.5, 0.75]},
}


def test_summary():
  summary = cross_validate_thresholds.summarize(
      {name: SCORES[name] for name in NAMES})
  found = summary["tune_per_label"]
  assert found["micro_f1"] == {
      "mean": 0.75, "deviation": 0.0, "repeats": [0.75, 0.75],
      # Differences 0.25 and 0.
      "minus_tune": {"mean": 0.125, "deviation": pytest.approx(0.17677669529),
                     "won": 1, "lost": 0}}
  assert summary["per label, unshrunk"]["micro_f1"]["minus_tune"] == {
      "mean": -0.25, "deviation": 0.0, "won": 0, "lost": 2}
  assert summary["tune"]["micro_f1"]["minus_tune"] == {
      "mean": 0.0, "deviation": 0.0, "won": 0, "lost": 0}
  assert cross_validate_thresholds.format_table(summary) == (
      "thresholds           micro-F1          macro-F1          "
      "micro-F1 minus tune  macro-F1 minus tune\n"
      "0.5                  0.5000 +- 0.0000  0.2500 +- 0.0000  "
      "-0.1250 +- 0.1768    -0.2500 +- 0.0000\n"
      "tune                 0.6250 +- 0.1768  0.5000 +- 0.0000\n"
      "per label, unshrunk  0.3750 +- 0.1768  0.5625 +- 0.0884  "
      "-0.2500 +- 0.0000    +0.0625 +- 0.0884\n"
      "tune_per_label       0.7500 +- 0.0000  0.6250 +- 0.1768  "
      "+0.1250 +- 0.1768    +0.1250 +- 0.1768\n")


def test_summary_of_one_repeat_has_no_deviation():
  one = {name: {key: values[:1] for key, values in SCORES[name].items()}
         for name in NAMES}
  summary = cross_validate_thresholds.summarize(one)
  assert summary["tune_per_label"]["micro_f1"] == {
      "mean": 0.75, "deviation": None, "repeats": [0.75],
      "minus_tune": {"mean": 0.25, "deviation": None, "won": 1, "lost": 0}}
  assert cross_validate_thresholds.format_table(summary).splitlines()[-1] == (
      "tune_per_label       0.7500    0.5000    +0.2500              +0.0000")


def prediction_lines(truth, scores, names):
  return [json.dumps({
      "id": "t%d" % i, "text": "text %d" % i,
      "labels": [name for name, score in zip(names, row) if score >= 0.5],
      "true_labels": [name for name, is_on in zip(names, on) if is_on],
      "probabilities": dict(zip(names, row.tolist()))})
          for i, (on, row) in enumerate(zip(truth, scores))]


def write(path, lines):
  path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
  return str(path)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
  truth, scores = random_data(3)
  return write(tmp_path_factory.mktemp("predictions") / "dev.jsonl",
               prediction_lines(truth, scores, ["a", "b", "c", "d"]))


def run(*arguments):
  """(exit status, stdout, stderr) of the script."""
  return tiny_bert.call(cross_validate_thresholds, arguments)[:3]


def test_script(predictions, tmp_path):
  output = tmp_path / "new" / "scores.json"
  status, out, err = run("--predictions=" + predictions, "--folds=4",
                         "--repeats=2", "--seed=9", "--shrinkage=2",
                         "--output=%s" % output)
  assert (status, err) == (0, "")
  lines = out.splitlines()
  assert lines[0] == (
      "%s: 41 texts, 4 labels; 4 folds, 2 repeats, seed 9, shrinkage 2" %
      predictions)
  assert len(lines) == 6
  truth, scores = random_data(3)
  expected = cross_validate_thresholds.cross_validate(
      truth, scores, folds=4, repeats=2, seed=9, shrinkage=2.0)
  written = json.loads(output.read_text(encoding="utf-8"))
  assert list(written) == ["predictions", "num_examples", "labels", "settings",
                           "scores"]
  assert written["num_examples"] == 41
  assert written["labels"] == ["a", "b", "c", "d"]
  assert written["settings"] == {"folds": 4, "repeats": 2, "seed": 9,
                                 "shrinkage": 2.0}
  assert list(written["scores"]) == NAMES
  for name, line in zip(NAMES, lines[2:]):
    for key in ("micro_f1", "macro_f1"):
      assert written["scores"][name][key]["repeats"] == expected[name][key]
      assert "%.4f +- %.4f" % (
          np.mean(expected[name][key]),
          np.std(expected[name][key], ddof=1)) in line
    assert line.startswith(name + " ")
  assert os.listdir(str(output.parent)) == ["scores.json"]


def test_script_tells_duplicates_and_labels_without_a_text(tmp_path):
  truth, scores = random_data(3)
  truth[:, 2] = False
  lines = prediction_lines(truth, scores, ["a", "b", u"\u516d", "d"])
  path = write(tmp_path / "p.jsonl", lines + lines[:1])
  status, out, err, warnings = tiny_bert.call(
      cross_validate_thresholds, ["--predictions=" + path])
  assert (status, err) == (0, "")
  assert "42 texts, 4 labels; 10 folds, 5 repeats, seed 0" in out
  assert warnings[0] == (
      "1 ids occur more than once in %s ('t0'); every line counts as a "
      "separate text." % path)
  assert warnings[1].startswith(
      "1 of 4 labels are true for no text and count as F1 0 in macro-F1: ")


@pytest.mark.parametrize("arguments, message", [
    ([], "--predictions must be given."),
    (["--folds=1"], "--folds is 1; for 41 texts it must be from 2 to 41."),
    (["--folds=42"], "--folds is 42; for 41 texts it must be from 2 to 41."),
    (["--repeats=0"], "--repeats is 0; it must be at least 1."),
    (["--seed=-1"], "--seed is -1; it must be from 0 to 4294967295."),
    (["--shrinkage=-1"], "shrinkage is -1.0; it must be 0 or more"),
    (["--folds=x"], "flag --folds=x: invalid literal for int() with base 10: "
                    "'x' (--help lists the flags)"),
    (["more"], "unexpected argument more; flags begin with --."),
    (["--output={dir}"], "--output {dir} is a directory; name a file."),
    (["--output={dir}/file/x"], "--output {dir}/file/x cannot be written: "
                                "{dir}/file is not a writable folder."),
])
def test_mistakes(arguments, message, predictions, tmp_path):
  (tmp_path / "file").write_text(u"", encoding="utf-8")
  arguments = [text.replace("{dir}", str(tmp_path)) for text in arguments]
  given = ["--predictions=" + predictions] if arguments else []
  status, out, err = run(*(given + arguments))
  assert (status, out) == (2, "")
  assert err == "cross_validate_thresholds.py: %s\n" % message.replace(
      "{dir}", str(tmp_path))


@pytest.mark.parametrize("changes, message", [
    ({"true_labels": None}, "{path} has no \"true_labels\", which tuning and "
                            "scoring need."),
    ({"true_labels": []}, "{path} has no text with a true label, so no "
                          "threshold can be tuned."),
    ({"probabilities": {"a": 3}},
     "{path}:1: the probability of 'a' is 3, not in 0..1 (logits are not "
     "probabilities)."),
])
def test_files_that_cannot_be_tuned_on(changes, message, tmp_path):
  record = {"id": "1", "text": "", "labels": [], "true_labels": ["a"],
            "probabilities": {"a": 0.5}}
  path = write(tmp_path / "p.jsonl", [json.dumps(dict(record, **changes))] * 3)
  with pytest.raises(ValueError) as error:
    cross_validate_thresholds.read_predictions(path)
  assert str(error.value) == message.replace("{path}", path)


def test_help():
  status, out, err = run("--help")
  assert (status, err) == (0, "")
  assert "--folds=10\n" in out and "--predictions\n" in out
