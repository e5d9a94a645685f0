# SPDX-License-Identifier: Apache-2.0
"""The text table of a benchmark's results, from their JSON alone."""

from benchmarks import work_items
from benchmarks.measure import middle


def ratios(result, ours):
  """Seconds of a peer by ours of the same round: list of float."""
  return [mine / other for mine, other in zip(result["seconds"],
                                              ours["seconds"])]


def with_range(values, form="%.2f"):
  """Median and, if there are several, minimum and maximum."""
  text = form % middle(values)
  if len(values) > 1:
    text += " (%s-%s)" % (form % min(values), form % max(values))
  return text


def limit_rate(item):
  """FLOP/s of the fastest library at the item's products; None if unknown."""
  rates = [middle(result["rates"]) for result in item["peers"].values()
           if result.get("rates")]
  return max(rates) if rates else None


def share_of_limit(item, result, key="flops"):
  """Seconds that the products alone take, by those that a peer took."""
  rate = limit_rate(item)
  if rate is None or not result.get("seconds") or key not in item:
    return None
  return item[key] / rate / middle(result["seconds"])


def aim(letter, name, pooling):
  """The target of the ratio; with mean pooling nine tenths of it."""
  target = work_items.TARGETS.get(letter, {}).get(name)
  if target is None or name == "limit" or pooling != "mean":
    return target
  return target * 0.9


def seconds_text(seconds):
  """A time in a unit in which it has few digits."""
  if seconds >= 10:
    return "%.0f s" % seconds
  if seconds >= 1:
    return "%.2f s" % seconds
  if seconds >= 1e-3:
    return "%.2f ms" % (seconds * 1e3)
  return "%.1f us" % (seconds * 1e6)


def align(rows):
  """Rows of cells as lines: the first column to the left, others right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return ["  ".join([row[0].ljust(widths[0])] + [
      cell.rjust(width) for cell, width in zip(row[1:], widths[1:])])
          for row in rows]


def item_rows(item, pooling):
  """The table of one item, a header first: (rows, notes)."""
  rows = [["", "a " + item["unit"], "by ours", "aim", "limit", "CPU",
           "peak MB"]]
  notes, ours = [], item["peers"].get("ours", {})
  for name, result in item["peers"].items():
    if result.get("limit"):
      if result.get("rates"):
        rows.append([name, "%.0f GFLOP/s" % (middle(result["rates"]) / 1e9)] +
                    [""] * 5)
      continue
    if result.get("why"):
      notes.append("%s: %s" % (name, result["why"]))
    if not result.get("seconds"):
      continue
    by_ours = ratios(result, ours) if ours.get("seconds") else []
    target = aim(item["letter"], name, pooling)
    share = share_of_limit(item, result)
    rows.append([
        name, seconds_text(middle(result["seconds"])),
        with_range(by_ours) if by_ours and name != "ours" else "",
        "%.2f" % target if target else "",
        "%.2f" % share if share else "",
        seconds_text(middle(result["cpu"])) if result.get("cpu") else "",
        "%.0f" % result["peak_mb"] if result.get("peak_mb") else ""])
    said = result.get("says", "")
    if result.get("difference") is not None:
      said += "; outputs differ by %.1e" % result["difference"]
    if result.get("micro_f1") is not None:
      said += "; micro-F1 on dev %.3f" % result["micro_f1"]
    notes.append("%s: %s" % (name, said))
  return rows, notes


def format_item(key, item, pooling):
  """Lines of one item."""
  lines = ["(%s) %s" % (key, item["title"])]
  if not item.get("peers"):
    return lines + ["  not measured", ""]
  if "flops" in item:
    lines.append("    %.1f tokens, %.2f GFLOP per %s (%.2f of that is used)" % (
        item["tokens"], item["flops"] / 1e9, item["unit"],
        item["flops_read"] / item["flops"]))
  rows, notes = item_rows(item, pooling)
  lines += ["  " + line for line in align(rows)]
  share = share_of_limit(item, item["peers"].get("ours", {}), "flops_read")
  if share:
    target = work_items.TARGETS.get(item["letter"], {}).get("limit")
    lines.append("    ours reaches %.2f of the limit of the work that is "
                 "used%s" % (share, "; of all work, target %.2f" % target
                         if target else ""))
  return lines + ["    " + note for note in notes] + [""]


def format_results(results):
  """The whole text: how it was run, then a table per item."""
  lines = [
      "%s, commit %s%s" % (
          results["date"], results["commit"][:12] or "unknown",
          ", %d files changed since" % results["changed_files"]
          if results["changed_files"] else ""),
      "%s, %d of %d cores, load before the run %s, pooling %s" % (
          results["cpu"], results["threads"], results["cores"],
          "unknown" if results["load_before"] is None
          else "%.1f" % results["load_before"], results["pooling"])]
  for name, versions in sorted(results.get("versions", {}).items()):
    lines.append("  %s: %s" % (name, ", ".join(
        "%s %s" % pair for pair in sorted(versions.items()))))
  for name, why in sorted(results.get("missing", {}).items()):
    lines.append("  without %s: %s" % (name, why))
  if results.get("interrupted"):
    lines.append("  interrupted: the results below are incomplete")
  lines.append("")
  lines.append("by ours: the peer's time divided by ours in the same round, "
               "median (min-max); limit:\n"
               "time of the matrix products alone divided by our time; aim: "
               "minimum target of the ratio.")
  lines.append("")
  for key, item in results["items"].items():
    lines += format_item(key, item, results["pooling"])
  return "\n".join(lines) + "\n"
