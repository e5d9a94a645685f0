# SPDX-License-Identifier: Apache-2.0
"""Ways to start a cluster: on this machine, on Kubernetes, under Slurm."""
