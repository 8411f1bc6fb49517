"""What is looked at during training, by us or in a stranger's loop: a trace of numbers, and rules that read it."""
