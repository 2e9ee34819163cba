"""Monitoring of training runs: progress, health, reports, sample sheets and trackers."""
