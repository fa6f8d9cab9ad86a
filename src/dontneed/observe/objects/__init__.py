"""Programs and libraries of another process, and the addresses of their symbols."""
