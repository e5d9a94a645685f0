# SPDX-License-Identifier: Apache-2.0
"""What a person looks at: the report of a run, curves, explanations."""
