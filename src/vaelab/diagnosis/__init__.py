"""What is looked at after training: the latent space, the decoder, the samples; and logs that others wrote."""
