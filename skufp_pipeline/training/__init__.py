"""Code shared by all trainers: batches, augmentation, schedules, checkpoints and the training loop."""
