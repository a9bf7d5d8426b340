"""Images: the modality, its data, losses, metrics and pictures."""
