"""What training and scoring cost, measured."""
