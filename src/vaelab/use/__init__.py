"""What a trained model is used for, written to files."""
