"""Tests of the replicas; those with a real Ray are slow."""
