"""``gps-seg compare``: methods x seeds x data sets from one YAML, each method with its own learning rate."""
