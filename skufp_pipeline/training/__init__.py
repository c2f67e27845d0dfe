"""What every training shares: batches, augmentation, schedules, checkpoints and the loop."""
