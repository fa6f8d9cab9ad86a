"""What happens to pages: they are touched, made huge, lazily freed, reclaimed, and taken away."""
