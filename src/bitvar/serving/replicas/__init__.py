"""Scale-out: the worker's model in replicas of a Ray Serve deployment, on one machine or a cluster.

Only `cluster` and `app` import Ray, and nothing imports them unless replicas are asked for.
"""

import os

# Ray would start a cluster of its own for any call that comes while none is connected, as from its threads at the end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # noqa: TID251  (Ray reads it when imported)
