"""What a replay is made of: the events of one process, done to a modelled one, and what came of them."""
