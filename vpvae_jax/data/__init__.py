"""From files to batches: sources of encoded images and recordings, their decoders, and the one endless stream."""
