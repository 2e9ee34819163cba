"""What a run shows of itself: progress, health, reports, sample sheets and trackers."""
