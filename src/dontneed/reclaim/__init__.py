"""Giving back: apply what a survey found, witness it by frame, write the receipt."""
