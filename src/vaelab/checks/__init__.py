"""What is looked at before training: the data against the likelihood, and one step of the model."""
