"""What a model is trained for: three functions, ``loss``, ``predict`` and ``score``."""
