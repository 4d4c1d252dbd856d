"""Training: batches, attention, loss, states, the loop on Ray Train and DeepSpeed, the export."""
