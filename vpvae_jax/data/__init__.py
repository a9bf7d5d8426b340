"""From files to batches: sources of encoded images, and the one grain pipeline that every source goes through."""
