# SPDX-License-Identifier: Apache-2.0
"""Sentences on intruders' behavior, labelled with MITRE ATT&CK tactics."""

from processors import jsonl


# The tactics of the enterprise matrix, in the order of the kill chain.
TACTICS = (
    "reconnaissance",
    "resource-development",
    "initial-access",
    "execution",
    "persistence",
    "privilege-escalation",
    "defense-evasion",
    "credential-access",
    "discovery",
    "lateral-movement",
    "collection",
    "command-and-control",
    "exfiltration",
    "impact",
)


class AttackTacticsProcessor(jsonl.JsonlProcessor):
  """JSON lines whose labels are the 14 tactics, unless `labels.txt` differs."""

  def known_labels(self, data_dir):
    """Returns the tactics, whatever the train file contains."""
    known = super(AttackTacticsProcessor, self).known_labels(data_dir)
    return list(TACTICS) if known is None else known
