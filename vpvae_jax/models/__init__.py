"""Networks that are trained: encoders and decoders around the bottleneck, and their layers."""
