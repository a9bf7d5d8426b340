"""From files to batches: sources of encoded records, what decodes them, and the one endless stream."""
