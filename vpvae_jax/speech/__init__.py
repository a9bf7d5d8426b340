"""Speech: recordings, how they are read, trained on, scored and shown."""
