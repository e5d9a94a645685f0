# SPDX-License-Identifier: Apache-2.0
"""Chinese from end to end: `python3 -m experiments.chinese`."""
