"""Images and masks: reading, pairing, splitting, checking, augmenting, batching. Each module imports only what it needs."""
