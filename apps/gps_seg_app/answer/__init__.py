"""From probabilities to what is said: quality, regions, pictures, words."""
