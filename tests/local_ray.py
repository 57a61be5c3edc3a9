"""A real Ray cluster on this machine, whose nodes are processes of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(10**6))
"""Ray ends a process that has joined a cluster this long after the cluster is gone."""


@contextmanager
def local_ray(cpus: int) -> Iterator[Any]:
    """A head node with so many CPUs; it gets three tries, as it has 30 s on a busy machine."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for tries_left in (2, 1, 0):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=cpus, num_gpus=0, include_dashboard=False)
            break
        except Exception:
            cluster.shutdown()
            if not tries_left:
                raise
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
