"""What making a stage of a run means."""
