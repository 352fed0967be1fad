"""Work that takes long: batches and clips."""
