"""Scale-out: the worker's model in replicas of a Ray Serve deployment, on one machine or a cluster.

Only `cluster` and `app` import Ray, and nothing imports them unless replicas are asked for.
"""
