"""vaelab: train, audit, diagnose, evaluate and use variational autoencoders."""
