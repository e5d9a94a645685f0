# SPDX-License-Identifier: Apache-2.0
"""Beyond one machine: Beam pipelines and launchers."""
